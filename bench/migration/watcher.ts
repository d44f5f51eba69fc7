import { setTimeout as sleep } from 'node:timers/promises';
import { constants, type Connection } from '../../drivers/libvirt/index.js';

/** What a daemon says of a copy, some milliseconds after the move was asked for. */
export interface Sample {
  readonly atMs: number;
  readonly remainingMiB: number;
}

const everyMs = 250;
const MiB = 2 ** 20;

/** Asks the source's daemon a few times a second, for ours and for the bare move alike. */
export class CopyWatch implements AsyncDisposable {
  readonly samples: Sample[] = [];
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  constructor(source: Connection, uuid: string) {
    this.#running = this.#run(source, uuid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #run(source: Connection, uuid: string): Promise<void> {
    const { signal } = this.#stop;
    const from = performance.now();
    while (!signal.aborted) {
      // Once it has left, nobody knows it there.
      const job = await source.jobStats(uuid).catch(() => undefined);
      const remaining = job?.params.get(constants.DOMAIN_JOB_DATA_REMAINING);
      if ((job?.type === 'bounded' || job?.type === 'unbounded') && remaining !== undefined)
        this.samples.push({ atMs: Math.round(performance.now() - from), remainingMiB: Number(remaining) / MiB });
      await sleep(everyMs, undefined, { signal }).catch(() => undefined);
    }
  }
}
