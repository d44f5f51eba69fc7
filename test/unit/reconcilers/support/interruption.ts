import { isInterruption, type Interruption } from '../../../../reconcilers/common/errors.js';

/** What a call was interrupted by; fails if it was not, or by anything else. */
export function interruptionOf(call: () => unknown): Interruption {
  try {
    call();
  } catch (error) {
    if (isInterruption(error)) return error;
    throw error;
  }
  throw new Error('it was not interrupted');
}
