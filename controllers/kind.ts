import type { Condition } from '../crds/index.js';
import { isInterruption } from '../reconcilers/common/errors.js';
import { interrupted, type Outcome } from '../reconcilers/common/outcome.js';
import { keyString, type KubeApi, type KubeObject, type Resource } from './kube/api.js';
import { Controller, type ReconcileContext, type Result } from './runtime/controller.js';
import type { EventRecorder } from './runtime/events.js';
import { ensureFinalizer, removeFinalizer } from './runtime/finalizer.js';
import type { Log } from './runtime/log.js';
import type { Metrics } from './runtime/metrics.js';
import { WorkQueue } from './runtime/queue.js';
import { setCondition, StatusWriter, type Status } from './runtime/status.js';
import type { Change, Store } from './runtime/store.js';

const finalizer = 'isthmus.dev/cleanup';
const fieldManager = 'isthmus';

interface CustomObject<S> extends Omit<KubeObject, 'status'> {
  readonly status?: S | undefined;
}

interface ConditionedStatus extends Status {
  readonly conditions?: Condition[] | undefined;
  readonly observedGeneration?: number | undefined;
}

export interface KindOptions<S extends ConditionedStatus, T extends CustomObject<S>> {
  readonly resource: Resource;
  readonly store: Store<T>;
  readonly api: KubeApi;
  readonly recorder: EventRecorder;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Objects reconciled at once. */
  readonly concurrency: number;
  /** False for a kind that has nothing outside to clean up. */
  readonly holdsEffects: boolean;
  readonly reconcile: (
    object: T,
    context: ReconcileContext,
  ) => Promise<Outcome<Omit<S, 'conditions' | 'observedGeneration'>>>;
}

/**
 * What all kinds share: finalizer before the first effect, one reconcile, one status patch, one event a change, the next
 * try, the finalizer taken off when nothing is left.
 */
export class KindController<S extends ConditionedStatus, T extends CustomObject<S>> {
  readonly queue = new WorkQueue();
  readonly controller: Controller;
  readonly #writer: StatusWriter<S>;

  constructor(private readonly options: KindOptions<S, T>) {
    const { api, resource, log, metrics, concurrency } = options;
    this.#writer = new StatusWriter(api, resource, fieldManager);
    this.controller = new Controller({
      name: resource.plural,
      queue: this.queue,
      log,
      metrics,
      concurrency,
      reconcile: (key, context) => this.#reconcile(key, context),
    });
  }

  enqueue({ namespace, name }: { namespace?: string | undefined; name: string }): void {
    this.queue.add(keyString({ namespace, name }));
  }

  /** Whether a change shows nothing but what this has written itself. */
  isEcho({ old, new: now }: Change<T>): boolean {
    return old !== undefined && now !== undefined && this.#writer.isEcho(old, now);
  }

  enqueueAll(): void {
    for (const object of this.options.store.list()) this.enqueue(object.metadata);
  }

  async #reconcile(key: string, context: ReconcileContext): Promise<Result> {
    const { api, resource, store, holdsEffects } = this.options;
    const cached = store.get(key);
    if (!cached) return {};
    const { metadata } = cached;
    const deleting = metadata.deletionTimestamp !== undefined;
    const held = metadata.finalizers?.includes(finalizer) ?? false;
    if (deleting && !held) return {};
    if (
      holdsEffects &&
      !held &&
      !(await ensureFinalizer(api, resource, metadata, finalizer, { signal: context.signal }))
    )
      return {};
    const object: T = { ...cached, status: this.#writer.current(cached) };
    const outcome = await this.#outcome(object, context);
    if (deleting && outcome.finished) {
      // The cache may still show an object that is gone.
      if (await removeFinalizer(api, resource, metadata, finalizer, { signal: context.signal }))
        context.log.info('deleted', {});
      return {};
    }
    await this.#report(object, outcome, context);
    return { requeueAfterMs: outcome.requeueAfterMs, retry: outcome.retry };
  }

  /** What stops a reconcile before it can tell its own status still becomes conditions. */
  async #outcome(object: T, context: ReconcileContext): Promise<Outcome<Omit<S, 'conditions' | 'observedGeneration'>>> {
    try {
      return await this.options.reconcile(object, context);
    } catch (error) {
      if (!isInterruption(error)) throw error;
      const { conditions, observedGeneration, ...status } = object.status ?? ({} as S);
      const outcome = interrupted(status, error);
      if (object.metadata.deletionTimestamp === undefined) return outcome;
      const { reason, message } = error;
      return { ...outcome, conditions: [{ type: 'DeletionBlocked', status: 'True', reason, message }] };
    }
  }

  /** The only place where a status is written. */
  async #report(
    object: T,
    outcome: Outcome<Omit<S, 'conditions' | 'observedGeneration'>>,
    context: ReconcileContext,
  ): Promise<void> {
    const { generation } = object.metadata;
    const conditions = conditionsOf(outcome, object.status?.conditions ?? [], generation);
    const status = { ...outcome.status, observedGeneration: generation, conditions } as unknown as S;
    const before = object.status?.conditions?.find(({ type }) => type === 'Ready');
    const wrote = await this.#writer.write(object, status, { signal: context.signal });
    if (!wrote) return;
    const { value, reason, message } = outcome.ready;
    if (before?.reason === reason && before.message === message) return;
    context.log.info('status', { ready: value, reason, note: message });
    this.options.recorder.record(object, {
      type: outcome.stalled || outcome.retry ? 'Warning' : 'Normal',
      reason,
      action: 'Reconcile',
      note: message === '' ? reason : message,
    });
  }
}

function conditionsOf(outcome: Outcome<object>, before: readonly Condition[], observedGeneration: number): Condition[] {
  const { ready, reconciling, stalled, conditions = [] } = outcome;
  const wanted = [
    {
      type: 'Ready',
      status: ready.value ? ('True' as const) : ('False' as const),
      reason: ready.reason,
      message: ready.message,
    },
    ...(reconciling ? [{ type: 'Reconciling', status: 'True' as const, ...reconciling }] : []),
    ...(stalled ? [{ type: 'Stalled', status: 'True' as const, ...stalled }] : []),
    ...conditions,
  ];
  const now = new Date();
  return wanted.map((each) => {
    const old = before.filter(({ type }) => type === each.type);
    const [condition] = setCondition(old, { ...each, observedGeneration }, now);
    if (!condition) throw new Error('unreachable: setCondition keeps what it sets');
    return condition;
  });
}
