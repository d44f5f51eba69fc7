import { z } from 'zod';

import { isKubeError, type CallOptions, type KubeApi, type KubeObject, type Resource } from '../kube/api.js';
import type { Log } from './log.js';
import { microTime, sharedAbortController, sleep } from './time.js';

export const LEASES: Resource = {
  group: 'coordination.k8s.io',
  version: 'v1',
  plural: 'leases',
  kind: 'Lease',
  namespaced: true,
};

export interface LeaseOptions {
  readonly api: KubeApi;
  readonly log: Log;
  readonly namespace: string;
  readonly name: string;
  /** Of this process alone: two holders with one identity would not see each other. */
  readonly identity: string;
  /** Others wait this long after the last renewal that they saw. Whole seconds. Default 15 s. */
  readonly durationMs?: number;
  /** Without a renewal for this long we no longer lead; what remains of the duration is for what is under way to end. Default 10 s. */
  readonly renewDeadlineMs?: number;
  /** Between renewals, and between attempts while the API server is away. Default 2 s. */
  readonly retryMs?: number;
}

export class LeadershipLostError extends Error {
  override readonly name = 'LeadershipLostError';
  readonly code = 'LEADERSHIP_LOST';

  constructor() {
    super('another process may lead by now');
  }
}

const leaseSpec = z
  .object({
    holderIdentity: z.string().nullish(),
    leaseDurationSeconds: z.number().nullish(),
    renewTime: z.string().nullish(),
    leaseTransitions: z.number().nullish(),
  })
  .default({});

interface Held {
  readonly resourceVersion: string;
  /** On our clock, when the renewal was sent: others saw it later. */
  readonly renewedAt: number;
}

/** Waits until this process holds the lease (coordination.k8s.io/v1); undefined if the signal was aborted before. */
export async function acquireLease(options: LeaseOptions, signal: AbortSignal): Promise<Leadership | undefined> {
  const held = await new Candidate(options, signal).acquire();
  return held && new Leadership(options, held);
}

function settingsOf(options: LeaseOptions) {
  const { durationMs = 15_000, renewDeadlineMs = 10_000, retryMs = 2_000 } = options;
  if (!(retryMs < renewDeadlineMs && renewDeadlineMs < durationMs && durationMs >= 1000)) {
    throw new RangeError('a lease needs retry < renew deadline < duration, and a duration of a second or more');
  }
  return { durationMs, renewDeadlineMs, retryMs };
}

/**
 * Judges another's lease by our own monotonic clock: the holder's times are only compared for being different, so that
 * clocks need not agree.
 */
class Candidate {
  readonly #settings;
  readonly #key;
  /** The holder's last sign of life and when, on our clock, it has lasted its duration. */
  #observed: { readonly sign: string; readonly expiresAt: number } | undefined;

  constructor(
    private readonly options: LeaseOptions,
    private readonly signal: AbortSignal,
  ) {
    this.#settings = settingsOf(options);
    this.#key = { namespace: options.namespace, name: options.name };
  }

  async acquire(): Promise<Held | undefined> {
    while (!this.signal.aborted) {
      try {
        const lease = await this.options.api.get(LEASES, this.#key, { signal: this.signal });
        if (!lease) return await this.#create();
        if (this.#isFree(lease)) return await this.#take(lease);
        await this.#waitForChange(lease);
      } catch (error) {
        // Lost the race for it, to see who won; or told to end.
        if (isKubeError(error, 'KUBE_CONFLICT', 'KUBE_ALREADY_EXISTS', 'KUBE_ABORTED')) continue;
        this.options.log.warn('lease not readable', { error });
        await sleep(this.#settings.retryMs * (0.5 + Math.random() / 2), this.signal);
      }
    }
    return undefined;
  }

  async #create(): Promise<Held> {
    const renewedAt = performance.now();
    const lease = await this.options.api.create(
      LEASES,
      { metadata: this.#key, spec: this.#spec(0) },
      { signal: this.signal },
    );
    return { resourceVersion: lease.metadata.resourceVersion, renewedAt };
  }

  async #take(lease: KubeObject): Promise<Held> {
    const renewedAt = performance.now();
    const { resourceVersion } = lease.metadata;
    const spec = this.#spec((leaseSpec.parse(lease.spec).leaseTransitions ?? 0) + 1);
    const taken = await this.options.api.patch(
      LEASES,
      this.#key,
      { metadata: { resourceVersion }, spec },
      { signal: this.signal },
    );
    return { resourceVersion: taken.metadata.resourceVersion, renewedAt };
  }

  #spec(leaseTransitions: number) {
    const now = microTime(new Date());
    const leaseDurationSeconds = Math.ceil(this.#settings.durationMs / 1000);
    return {
      holderIdentity: this.options.identity,
      leaseDurationSeconds,
      acquireTime: now,
      renewTime: now,
      leaseTransitions,
    };
  }

  #isFree(lease: KubeObject): boolean {
    const spec = leaseSpec.parse(lease.spec);
    if (!spec.holderIdentity) return true;
    const sign = `${spec.holderIdentity} ${spec.renewTime ?? ''}`;
    if (this.#observed?.sign !== sign) {
      const lastsMs = (spec.leaseDurationSeconds ?? 0) * 1000;
      this.#observed = { sign, expiresAt: performance.now() + lastsMs };
    }
    return performance.now() >= this.#observed.expiresAt;
  }

  /** Until the lease is given back, deleted, or has lasted unrenewed: a watch, so that a successor starts at once. */
  async #waitForChange(lease: KubeObject): Promise<void> {
    const session = new AbortController();
    const end = () => {
      session.abort();
    };
    const untilExpiry = () => Math.max(0, (this.#observed?.expiresAt ?? 0) - performance.now()) + 1;
    this.signal.addEventListener('abort', end, { once: true });
    let timer = setTimeout(end, untilExpiry());
    const { namespace, name } = this.#key;
    const { resourceVersion } = lease.metadata;
    const selection = { namespace, fieldSelector: `metadata.name=${name}`, resourceVersion, signal: session.signal };
    try {
      for await (const event of this.options.api.watch(LEASES, selection)) {
        if (event.type === 'BOOKMARK') continue;
        if (event.type === 'ERROR' || event.type === 'DELETED' || this.#isFree(event.object)) return;
        clearTimeout(timer);
        timer = setTimeout(end, untilExpiry());
      }
    } finally {
      clearTimeout(timer);
      this.signal.removeEventListener('abort', end);
    }
  }
}

/** Held from the moment it exists until lost or released, and renewed meanwhile. */
export class Leadership {
  readonly #settings;
  readonly #lost = sharedAbortController();
  readonly #end = new AbortController();
  readonly #renewing: Promise<void>;
  #held: Held;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly options: LeaseOptions,
    held: Held,
  ) {
    this.#settings = settingsOf(options);
    this.#held = held;
    this.options.log.info('leading', { lease: options.name, identity: options.identity });
    this.#arm();
    this.#renewing = this.#renewForEver();
  }

  /** Aborted when another process may lead: no effect may begin any more, and the process has to end. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** Looks at the clock itself: after a pause of the process, what was waiting may run before the timer that tells of the loss. */
  assertLeading(): void {
    if (performance.now() - this.#held.renewedAt >= this.#settings.renewDeadlineMs) this.#lose('not renewed in time');
    if (this.#lost.signal.aborted || this.#end.signal.aborted) throw new LeadershipLostError();
  }

  /** Ends leading at once and gives the lease back. Only to be called when no effect is under way any more. */
  async release(): Promise<void> {
    const ours = !this.#end.signal.aborted;
    await this.abandon();
    if (!ours || this.#lost.signal.aborted) return;
    try {
      await this.#write({ holderIdentity: '', leaseDurationSeconds: 1 });
      this.options.log.info('lease released');
    } catch (error) {
      // It then lasts its time.
      this.options.log.warn('lease not released', { error });
    }
  }

  /** Ends leading at once and lets the lease expire, because effects may still be under way. */
  async abandon(): Promise<void> {
    this.#end.abort();
    clearTimeout(this.#timer);
    await this.#renewing;
  }

  async #renewForEver(): Promise<void> {
    for (;;) {
      await sleep(this.#settings.retryMs, this.#end.signal);
      if (this.#end.signal.aborted) return;
      try {
        await this.#write({});
        this.#arm();
      } catch (error) {
        await this.#explain(error);
      }
    }
  }

  /** The lock on resourceVersion makes a write of ours fail if another has taken the lease. */
  async #write(change: Readonly<Record<string, unknown>>): Promise<void> {
    const { api, namespace, name } = this.options;
    const renewedAt = performance.now();
    const spec = { renewTime: microTime(new Date()), ...change };
    const metadata = { resourceVersion: this.#held.resourceVersion };
    const lease = await api.patch(LEASES, { namespace, name }, { metadata, spec }, this.#limit());
    this.#held = { resourceVersion: lease.metadata.resourceVersion, renewedAt };
  }

  /** After a failed renewal: still ours (an earlier renewal arrived though its answer did not), another's, or unknown. */
  async #explain(error: unknown): Promise<void> {
    const { api, namespace, name, identity, log } = this.options;
    log.warn('lease not renewed', { error });
    if (!isKubeError(error, 'KUBE_CONFLICT', 'KUBE_NOT_FOUND')) return;
    try {
      const lease = await api.get(LEASES, { namespace, name }, this.#limit());
      if (lease && leaseSpec.parse(lease.spec).holderIdentity === identity) {
        this.#held = { ...this.#held, resourceVersion: lease.metadata.resourceVersion };
      } else {
        this.#lose('taken by another');
      }
    } catch (unreadable) {
      log.warn('lease not readable', { error: unreadable });
    }
  }

  /** A request that hangs must leave time for another. */
  #limit(): CallOptions {
    return { signal: AbortSignal.timeout(Math.ceil(this.#settings.renewDeadlineMs / 3)) };
  }

  #arm(): void {
    clearTimeout(this.#timer);
    if (this.#end.signal.aborted) return;
    const leftMs = this.#held.renewedAt + this.#settings.renewDeadlineMs - performance.now();
    this.#timer = setTimeout(() => {
      this.#lose('not renewed in time');
    }, leftMs);
  }

  #lose(reason: string): void {
    if (this.#lost.signal.aborted) return;
    clearTimeout(this.#timer);
    this.#end.abort();
    this.options.log.error('leadership lost', { reason });
    this.#lost.abort();
  }
}
