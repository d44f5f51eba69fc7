import { isDeepStrictEqual } from 'node:util';

import type { ApplyOptions, CallOptions, KubeApi, KubeObject, Resource } from '../kube/api.js';

/** metav1.Condition. */
export interface Condition {
  readonly type: string;
  readonly status: 'True' | 'False' | 'Unknown';
  /** CamelCase, never empty. */
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration?: number | undefined;
  /** RFC 3339, whole seconds: when status changed last. */
  readonly lastTransitionTime: string;
}

/** The conditions with this one in its place; its lastTransitionTime stays while its status does. */
export function setCondition(
  conditions: readonly Condition[],
  condition: Omit<Condition, 'lastTransitionTime'>,
  now: Date,
): Condition[] {
  const old = conditions.find(({ type }) => type === condition.type);
  const lastTransitionTime = old?.status === condition.status ? old.lastTransitionTime : seconds(now);
  const changed = { ...condition, lastTransitionTime };
  return old ? conditions.map((each) => (each === old ? changed : each)) : [...conditions, changed];
}

function seconds(date: Date): string {
  return date.toISOString().replace(/\.\d+Z$/, 'Z');
}

/** A status that may hold conditions; parsed no further. */
export type Status = object & { readonly conditions?: readonly Condition[] | undefined };

export interface StatusObject<S extends Status> {
  readonly metadata: KubeObject['metadata'];
  readonly status?: S | undefined;
}

interface Written<S> {
  /** Of the last answer, and the status then; empty until there is one. */
  readonly resourceVersion: string;
  readonly status: S | undefined;
  /** What was sent last: the watch may show it before the answer is here. */
  readonly asked: S;
}

const MAX_REMEMBERED = 10_000;

/**
 * Writes the status of one kind, and only what differs from the last one seen or written: the cache shows our own write only
 * after a while, and must not cause it again.
 */
export class StatusWriter<S extends Status> {
  /** Our last writes, one of each object, by uid, oldest first. */
  readonly #written = new Map<string, Written<S>>();

  constructor(
    private readonly api: Pick<KubeApi, 'applyStatus'>,
    private readonly resource: Resource,
    private readonly fieldManager: string,
  ) {}

  /** What to start from: the object's status, or our newer one that the cache doesn't show yet. */
  current(object: StatusObject<S>): S | undefined {
    const { uid, resourceVersion } = object.metadata;
    const written = this.#written.get(uid);
    return written && !isNewer(resourceVersion, written.resourceVersion) ? written.status : object.status;
  }

  /**
   * Applies the whole status if it differs; answers whether it did. The lastTransitionTime of a condition whose status is
   * as it was is kept. Fails with KUBE_CONFLICT if a namesake has taken the object's place.
   */
  async write(object: StatusObject<S>, wanted: S, options: CallOptions = {}): Promise<boolean> {
    const current = this.current(object);
    const status = keepTransitionTimes(wanted, current);
    if (isDeepStrictEqual(asJson(status), asJson(current))) return false;
    const { uid, name, namespace } = object.metadata;
    const apply: ApplyOptions = { fieldManager: this.fieldManager, uid, signal: options.signal };
    this.#remember(uid, { resourceVersion: '', status: undefined, ...this.#written.get(uid), asked: status });
    const answer = await this.api.applyStatus(this.resource, { name, namespace }, status, apply);
    this.#remember(uid, { resourceVersion: answer.metadata.resourceVersion, status, asked: status });
    return true;
  }

  /** Whether a change of an object shows nothing but the status that we have sent. */
  isEcho(before: StatusObject<S>, after: StatusObject<S>): boolean {
    const asked = this.#written.get(after.metadata.uid)?.asked;
    if (!asked || !isDeepStrictEqual(asJson(after.status), asJson(asked))) return false;
    return isDeepStrictEqual(withoutVersion(before.metadata), withoutVersion(after.metadata));
  }

  #remember(uid: string, written: Written<S>): void {
    this.#written.delete(uid);
    this.#written.set(uid, written);
    const [oldest] = this.#written.keys();
    if (this.#written.size > MAX_REMEMBERED && oldest !== undefined) this.#written.delete(oldest);
  }
}

/** resourceVersions of one kind compare as integers of any length (Kubernetes API concepts, 'Resource versions'). */
function isNewer(a: string, b: string): boolean {
  return a.length === b.length ? a > b : a.length > b.length;
}

function keepTransitionTimes<S extends Status>(wanted: S, current: S | undefined): S {
  if (!wanted.conditions) return wanted;
  const conditions = wanted.conditions.map((condition) => {
    const old = current?.conditions?.find(({ type }) => type === condition.type);
    return old?.status === condition.status ? { ...condition, lastTransitionTime: old.lastTransitionTime } : condition;
  });
  return { ...wanted, conditions };
}

const withoutVersion = (metadata: KubeObject['metadata']): object =>
  asJson({ ...metadata, resourceVersion: undefined }) as object;

/** As it would come back: without undefined fields. */
function asJson(value: unknown): unknown {
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value));
}
