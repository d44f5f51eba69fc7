import { randomUUID } from 'node:crypto';
import { refusedWith, isUnanswered } from '../common/libvirt.js';
import { isInterruption } from '../common/errors.js';
import { copyVolumes, type CopyFigures } from '../vm/copy.js';
import type { DiskPlace } from '../vm/disk.js';

export interface CopyRequest {
  readonly fuid: string;
  readonly from: DiskPlace;
  readonly to: DiskPlace;
  readonly bandwidthMiBps: number | undefined;
  /** Called when the reconcile should look: it has ended. */
  readonly onChange: () => void;
}

export type CopyState =
  | { readonly kind: 'running' }
  | { readonly kind: 'complete'; readonly stamp: string }
  | { readonly kind: 'failed'; readonly error: unknown };

/** A copy of a disk that this process makes. It ends with the process: who follows makes it anew, under an id of its own. */
export class Copying {
  readonly id = randomUUID();
  #state: CopyState = { kind: 'running' };
  #figures: CopyFigures = { sentBytes: 0, totalBytes: undefined };
  #begun = false;
  readonly #abort = new AbortController();

  constructor(private readonly request: CopyRequest) {}

  get state(): CopyState {
    return this.#state;
  }

  get figures(): CopyFigures {
    return this.#figures;
  }

  /** Once its id is on record. */
  begin(): void {
    if (this.#begun) return;
    this.#begun = true;
    void this.#run();
  }

  /** Nothing is written any more once its state is not running. */
  close(): void {
    this.#abort.abort();
    if (!this.#begun) this.#state = { kind: 'failed', error: this.#abort.signal.reason };
  }

  async #run(): Promise<void> {
    const { fuid, from, to, bandwidthMiBps, onChange } = this.request;
    const { signal } = this.#abort;
    try {
      const bytesPerSecond = bandwidthMiBps === undefined ? undefined : bandwidthMiBps * 2 ** 20;
      const onProgress = (figures: CopyFigures): void => void (this.#figures = figures);
      this.#state = {
        kind: 'complete',
        stamp: await copyVolumes(fuid, from, to, { bytesPerSecond, signal, onProgress }),
      };
    } catch (error) {
      this.#state = { kind: 'failed', error };
    } finally {
      onChange();
    }
  }
}

/** Whether another try may do better: the connection ended, or a daemon still works on what an earlier try began. */
export const mayDoBetter = (error: unknown): boolean =>
  isUnanswered(error) || isInterruption(error) || refusedWith(error, 'OPERATION_INVALID');
