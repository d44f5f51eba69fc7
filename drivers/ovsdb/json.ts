import { MalformedError } from '../wire/malformed.js';

export type JsonRecord = Readonly<Record<string, unknown>>;

const isRecord = (value: unknown): value is JsonRecord =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export function asRecord(value: unknown): JsonRecord {
  if (isRecord(value)) return value;
  throw new MalformedError(`${excerpt(value)} where an object was expected`);
}

export function asArray(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw new MalformedError(`${excerpt(value)} where an array was expected`);
}

export function asString(value: unknown): string {
  if (typeof value === 'string') return value;
  throw new MalformedError(`${excerpt(value)} where a string was expected`);
}

/** The beginning of a JSON value, for a message. */
export const excerpt = (value: unknown) => (value === undefined ? 'nothing' : JSON.stringify(value).slice(0, 60));
