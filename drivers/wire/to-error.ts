import { isNativeError } from 'node:util/types';

/** What was thrown, as an Error. (`instanceof` fails for errors that Node makes when the code runs in a VM context.) */
export const toError = (thrown: unknown): Error => (isNativeError(thrown) ? thrown : new Error(String(thrown)));
