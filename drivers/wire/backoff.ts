/** Delays that double from `minMs` to `maxMs`, each spread over its upper half so that clients don't return in step. */
export class Backoff {
  #ceilingMs: number;

  constructor(
    private readonly minMs = 200,
    private readonly maxMs = 5000,
    private readonly random: () => number = Math.random,
  ) {
    this.#ceilingMs = 2 * minMs;
  }

  next(): number {
    const ceilingMs = this.#ceilingMs;
    this.#ceilingMs = Math.min(2 * ceilingMs, this.maxMs);
    return (ceilingMs / 2) * (1 + this.random());
  }

  reset(): void {
    this.#ceilingMs = 2 * this.minMs;
  }
}
