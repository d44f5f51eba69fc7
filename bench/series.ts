import { median, type Row } from './row.js';

/** Times of several things, gathered by name over rounds. */
export class Series<N extends string> {
  readonly #values = new Map<N, number[]>();

  add(name: N, value: number): void {
    this.#values.set(name, [...(this.#values.get(name) ?? []), value]);
  }

  /** Runs and times it. */
  async time<T>(name: N, work: () => Promise<T>): Promise<T> {
    const from = performance.now();
    const result = await work();
    this.add(name, performance.now() - from);
    return result;
  }

  values(name: N): readonly number[] {
    return this.#values.get(name) ?? [];
  }

  /** The medians of ours and of the floor, with what they are medians of, for a row. */
  against(name: N, floor: N): Required<Pick<Row, 'ours' | 'floor' | 'samples'>> {
    const samples = { ours: this.values(name), floor: this.values(floor) };
    return { ours: median(samples.ours), floor: median(samples.floor), samples };
  }

  /** Forgets what was gathered so far: the first round is for the caches of all that take part. */
  restart(): void {
    this.#values.clear();
  }
}
