interface Waiter<Reply> {
  readonly deliver: (reply: Reply) => void;
  readonly fail: (error: Error) => void;
}

/** A reply of many parts may take this many times its deadline in all, or a peer that never ends it would be waited for for ever. */
const MAX_DEADLINES = 10;

/** The calls of one connection that wait for an answer, by serial number. Each has a deadline; a lost connection fails all. */
export class Waiters<Reply> {
  readonly #waiting = new Map<number, Waiter<Reply>>();
  #lost: Error | undefined;

  /**
   * Waits for the reply to `serial`. `take` runs as the reply is read, before any later message; it returns undefined
   * while more replies to this serial are to come (each pushes the deadline back, to ten times as long at most). What it throws comes out of `deliver`.
   */
  wait<T>(
    serial: number,
    timeoutMs: number,
    timedOut: () => Error,
    take: (reply: Reply) => { readonly result: T } | undefined,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#lost !== undefined) {
        reject(this.#lost);
        return;
      }
      const extendUntil = performance.now() + (MAX_DEADLINES - 1) * timeoutMs;
      const end = () => {
        clearTimeout(timer);
        this.#waiting.delete(serial);
      };
      const fail = (error: Error) => {
        end();
        reject(error);
      };
      const timer = setTimeout(() => fail(timedOut()), timeoutMs);
      const deliver = (reply: Reply) => {
        const taken = take(reply);
        if (taken === undefined) {
          if (performance.now() < extendUntil) timer.refresh();
          return;
        }
        end();
        resolve(taken.result);
      };
      this.#waiting.set(serial, { deliver, fail });
    });
  }

  /** False if nobody waits (any more): the call has timed out, or the serial was never ours. */
  deliver(serial: number, reply: Reply): boolean {
    const waiter = this.#waiting.get(serial);
    waiter?.deliver(reply);
    return waiter !== undefined;
  }

  fail(serial: number, error: Error): boolean {
    const waiter = this.#waiting.get(serial);
    waiter?.fail(error);
    return waiter !== undefined;
  }

  /** Fails all, and every later one. */
  failAll(error: Error): void {
    this.#lost = error;
    for (const waiter of [...this.#waiting.values()]) waiter.fail(error);
  }
}
