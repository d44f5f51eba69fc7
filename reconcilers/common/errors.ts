/** Why a reconcile stopped short. One switch (outcome.ts) maps these to conditions and to the next try. */
export type Interruption = Stalled | Waiting | Transient;

/** The user must act: nothing will change until the spec or the surroundings do. */
export class Stalled extends Error {
  readonly code = 'ISTHMUS_STALLED';
  constructor(
    readonly reason: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** Something else has to happen first; it is looked at again after afterMs, or when an event says so. */
export class Waiting extends Error {
  readonly code = 'ISTHMUS_WAITING';
  constructor(
    readonly reason: string,
    message: string,
    readonly afterMs = 10_000,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** A call failed in a way that may pass; tried again with back-off. */
export class Transient extends Error {
  readonly code = 'ISTHMUS_TRANSIENT';
  constructor(
    readonly reason: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

export function isInterruption(error: unknown): error is Interruption {
  return error instanceof Stalled || error instanceof Waiting || error instanceof Transient;
}

export function messageOf(error: unknown): string {
  // A daemon may hand on lines of a log.
  return (error instanceof Error ? error.message : String(error)).trim().replace(/\s*\n\s*/g, '; ');
}

/** Runs an external call; what it throws comes out as Transient that says where and what was tried. */
export async function attempt<T>(reason: string, what: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (isInterruption(error)) throw error;
    throw new Transient(reason, `${what}: ${messageOf(error)}`, { cause: error });
  }
}
