import { backoffMs } from './time.js';

const RETRY = { baseMs: 50, maxMs: 60_000 };

/**
 * Keys waiting for work. A key is in it once however often it is added, is never handed out while it is being worked on,
 * and is handed out again afterwards if it was added meanwhile.
 */
export class WorkQueue {
  /** In order of arrival. */
  readonly #ready = new Set<string>();
  readonly #working = new Set<string>();
  /** Added while being worked on. */
  readonly #again = new Set<string>();
  readonly #delayed = new Map<string, { timer: NodeJS.Timeout; dueMs: number }>();
  readonly #failures = new Map<string, number>();
  readonly #takers: ((key: string | undefined) => void)[] = [];
  #stopped = false;

  /** Keys that wait for a taker. */
  get length(): number {
    return this.#ready.size + this.#again.size;
  }

  add(key: string): void {
    if (this.#stopped) return;
    if (this.#working.has(key)) {
      this.#again.add(key);
      return;
    }
    const taker = this.#takers.shift();
    if (!taker) {
      this.#ready.add(key);
      return;
    }
    this.#working.add(key);
    taker(key);
  }

  /** Of several delays of a key the one that ends first counts. */
  addAfter(key: string, ms: number): void {
    if (this.#stopped) return;
    const dueMs = performance.now() + ms;
    const delayed = this.#delayed.get(key);
    if (delayed && delayed.dueMs <= dueMs) return;
    clearTimeout(delayed?.timer);
    const timer = setTimeout(() => {
      this.#delayed.delete(key);
      this.add(key);
    }, ms);
    this.#delayed.set(key, { timer, dueMs });
  }

  /** Adds after a delay that grows with every call until forget. */
  addRateLimited(key: string): void {
    const failures = this.#failures.get(key) ?? 0;
    this.#failures.set(key, failures + 1);
    this.addAfter(key, backoffMs(failures, RETRY.baseMs, RETRY.maxMs));
  }

  forget(key: string): void {
    this.#failures.delete(key);
  }

  /** The next key, to be given back with done; undefined once stopped. */
  async take(): Promise<string | undefined> {
    if (this.#stopped) return undefined;
    const [key] = this.#ready;
    if (key === undefined) return new Promise((resolve) => this.#takers.push(resolve));
    this.#ready.delete(key);
    this.#working.add(key);
    return key;
  }

  done(key: string): void {
    this.#working.delete(key);
    if (this.#again.delete(key)) this.add(key);
  }

  /** Hands out nothing any more. */
  stop(): void {
    this.#stopped = true;
    for (const { timer } of this.#delayed.values()) clearTimeout(timer);
    this.#delayed.clear();
    for (const taker of this.#takers.splice(0)) taker(undefined);
  }
}
