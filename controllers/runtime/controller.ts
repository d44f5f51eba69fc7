import { randomUUID } from 'node:crypto';

import { isKubeError } from '../kube/api.js';
import type { Log } from './log.js';
import type { Metrics } from './metrics.js';
import type { WorkQueue } from './queue.js';
import { sharedAbortController } from './time.js';

export interface Result {
  /** Look again after this time even if nothing changes. */
  readonly requeueAfterMs?: number | undefined;
  /** Look again after a delay that grows each time, as after an error that has been told already. */
  readonly retry?: boolean | undefined;
}

export interface ReconcileContext {
  /** One a run, on every line of its log. */
  readonly reconcileId: string;
  readonly log: Log;
  /** Aborted when the process stops or no longer leads: finish the step at hand, begin no other. */
  readonly signal: AbortSignal;
  /** Throws LeadershipLostError when another process may lead by now: to be called before each effect. */
  readonly assertLeading: () => void;
}

export interface ControllerOptions {
  readonly name: string;
  /** Whoever sees a change adds the key here. */
  readonly queue: WorkQueue;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Keys worked on at once; one key never is twice. Default 8. */
  readonly concurrency?: number;
  /** Makes the world match what the object of this key wants; whatever it throws is retried with a growing delay. */
  readonly reconcile: (key: string, context: ReconcileContext) => Promise<Result>;
}

/** Takes keys from a queue and reconciles them. */
export class Controller {
  readonly name: string;
  readonly #log: Log;
  readonly #runs;
  readonly #seconds;
  readonly #stop = sharedAbortController();
  readonly #active = new Set<string>();
  #workers: Promise<unknown> | undefined;

  constructor(private readonly options: ControllerOptions) {
    const { name, queue, metrics } = options;
    this.name = name;
    this.#log = options.log.child({ controller: name });
    this.#runs = metrics.counter('isthmus_reconcile_total', 'Finished reconciles by result.');
    this.#seconds = metrics.counter('isthmus_reconcile_seconds_total', 'Time spent in reconciles.');
    metrics.gauge('isthmus_queue_length', 'Keys that wait.', () => [[{ controller: name }, queue.length]]);
    metrics.gauge('isthmus_reconcile_active', 'Reconciles that run.', () => [
      [{ controller: name }, this.#active.size],
    ]);
  }

  /** Keys being reconciled. */
  get active(): readonly string[] {
    return [...this.#active];
  }

  start(assertLeading: () => void): void {
    this.#workers ??= Promise.all(
      Array.from({ length: this.options.concurrency ?? 8 }, () => this.#work(assertLeading)),
    );
  }

  /** Begins nothing new and asks what runs to end; resolves when it has. */
  async stop(): Promise<void> {
    this.options.queue.stop();
    this.#stop.abort();
    await this.#workers;
  }

  async #work(assertLeading: () => void): Promise<void> {
    const { queue } = this.options;
    for (let key = await queue.take(); key !== undefined; key = await queue.take()) {
      this.#active.add(key);
      const started = performance.now();
      const result = await this.#reconcile(key, assertLeading);
      this.#seconds.add({ controller: this.name }, (performance.now() - started) / 1000);
      this.#runs.add({ controller: this.name, result });
      this.#active.delete(key);
      queue.done(key);
    }
  }

  async #reconcile(key: string, assertLeading: () => void): Promise<'success' | 'requeue' | 'error' | 'aborted'> {
    const { queue, reconcile } = this.options;
    const { signal } = this.#stop;
    const reconcileId = randomUUID();
    const log = this.#log.child({ object: key, reconcileId });
    try {
      assertLeading();
      const { requeueAfterMs, retry } = await reconcile(key, { reconcileId, log, signal, assertLeading });
      if (retry) {
        queue.addRateLimited(key);
        return 'requeue';
      }
      queue.forget(key);
      if (requeueAfterMs === undefined) return 'success';
      queue.addAfter(key, requeueAfterMs);
      return 'requeue';
    } catch (error) {
      if (signal.aborted) return 'aborted';
      // A lost race is no news: the change that won it is on its way here.
      log[isKubeError(error, 'KUBE_CONFLICT') ? 'debug' : 'warn']('reconcile failed', { error });
      queue.addRateLimited(key);
      return 'error';
    }
  }
}
