import { createHash, randomUUID } from 'node:crypto';
import { hostname } from 'node:os';

import { isKubeError, type KubeApi, type KubeObject, type Resource } from '../kube/api.js';
import type { Log } from './log.js';
import { microTime } from './time.js';

export const EVENTS: Resource = {
  group: 'events.k8s.io',
  version: 'v1',
  plural: 'events',
  kind: 'Event',
  namespaced: true,
};

export interface EventOptions {
  readonly type: 'Normal' | 'Warning';
  /** CamelCase, ≤ 128 characters: why. */
  readonly reason: string;
  /** CamelCase, ≤ 128 characters: what we did or tried. */
  readonly action: string;
  /** For people; cut at 1 kB. */
  readonly note: string;
}

export interface EventRecorderOptions {
  readonly api: KubeApi;
  readonly log: Log;
  /** Between two writes of a repeated event's count. Default 10 s. */
  readonly flushMs?: number;
  /** New events that one object may have at once. Default 25; one more every refillMs. */
  readonly burst?: number;
  /** Default 5 min. */
  readonly refillMs?: number;
}

const CONTROLLER = 'isthmus';
/** A repetition after this time is a new event. */
const SERIES_MS = 360_000;
const NOTE_BYTES = 1024;
const MAX_PENDING = 1000;

interface Series {
  readonly id: string;
  readonly key: { readonly namespace: string; readonly name: string };
  readonly event: EventOptions;
  readonly regarding: KubeObject;
  readonly firstAt: Date;
  lastAt: Date;
  count: number;
  /** What the server knows of count; 0 before it is created. */
  written: number;
}

interface Bucket {
  tokens: number;
  refilledAt: number;
}

/**
 * Writes events.k8s.io/v1 Events, best effort: record returns at once, what can't be written is dropped, and repetitions only
 * raise the count of the first.
 */
export class EventRecorder {
  readonly #series = new Map<string, Series>();
  readonly #buckets = new Map<string, Bucket>();
  readonly #pending = new Set<Series>();
  readonly #instance = `${CONTROLLER}-${hostname()}`.slice(0, 128);
  readonly #burst: number;
  readonly #refillMs: number;
  #writing: Promise<void> | undefined;
  #flush: NodeJS.Timeout | undefined;
  readonly #stop = new AbortController();
  #closed = false;

  constructor(private readonly options: EventRecorderOptions) {
    this.#burst = options.burst ?? 25;
    this.#refillMs = options.refillMs ?? 300_000;
  }

  record(regarding: KubeObject, event: EventOptions): void {
    if (this.#closed) return;
    const now = new Date();
    const id = JSON.stringify([regarding.metadata.uid, event.type, event.reason, event.action, event.note]);
    const known = this.#series.get(id);
    if (known && now.getTime() - known.lastAt.getTime() < SERIES_MS) {
      known.count += 1;
      known.lastAt = now;
    } else if (this.#admit(regarding.metadata.uid)) {
      const series = newSeries(id, regarding, event, now);
      this.#series.set(id, series);
      this.#enqueue(series);
    }
    this.#flush ??= setInterval(() => {
      this.#flushCounts();
    }, this.options.flushMs ?? 10_000).unref();
  }

  /** Writes what waits, for two seconds at most. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#flushCounts();
    this.#closed = true;
    clearInterval(this.#flush);
    const late = setTimeout(() => {
      this.#pending.clear();
      this.#stop.abort();
    }, 2000);
    await this.#writing;
    clearTimeout(late);
  }

  /** A token bucket an object: one that flaps must not fill etcd. */
  #admit(uid: string): boolean {
    const now = performance.now();
    const bucket = this.#buckets.get(uid) ?? { tokens: this.#burst, refilledAt: now };
    this.#buckets.set(uid, bucket);
    const refill = Math.floor((now - bucket.refilledAt) / this.#refillMs);
    bucket.tokens = Math.min(this.#burst, bucket.tokens + refill);
    bucket.refilledAt += refill * this.#refillMs;
    if (bucket.tokens === 0) return false;
    bucket.tokens -= 1;
    return true;
  }

  #enqueue(series: Series): void {
    if (this.#pending.size >= MAX_PENDING) return;
    this.#pending.add(series);
    this.#writing ??= this.#writeAll();
  }

  #flushCounts(): void {
    const now = Date.now();
    for (const series of this.#series.values()) {
      if (series.count > Math.max(1, series.written)) this.#enqueue(series);
      else if (now - series.lastAt.getTime() >= SERIES_MS) this.#series.delete(series.id);
    }
    const full = performance.now() - this.#burst * this.#refillMs;
    for (const [uid, bucket] of this.#buckets) if (bucket.refilledAt < full) this.#buckets.delete(uid);
  }

  async #writeAll(): Promise<void> {
    for (const series of this.#pending) {
      this.#pending.delete(series);
      try {
        await this.#write(series);
      } catch (error) {
        this.options.log.debug('event not written', { reason: series.event.reason, error });
        // Its event has expired on the server: the next repetition is a new one.
        if (isKubeError(error, 'KUBE_NOT_FOUND')) this.#series.delete(series.id);
      }
    }
    this.#writing = undefined;
  }

  async #write(series: Series): Promise<void> {
    const { count, lastAt } = series;
    const repeated = { series: { count, lastObservedTime: microTime(lastAt) } };
    const { signal } = this.#stop;
    if (series.written > 0) await this.options.api.patch(EVENTS, series.key, repeated, { signal });
    else
      await this.options.api.create(EVENTS, { ...this.#eventOf(series), ...(count > 1 ? repeated : {}) }, { signal });
    series.written = count;
  }

  #eventOf({ key, event, regarding, firstAt }: Series) {
    const { apiVersion, kind, metadata } = regarding;
    const { namespace, name, uid, resourceVersion } = metadata;
    return {
      metadata: key,
      eventTime: microTime(firstAt),
      reportingController: CONTROLLER,
      reportingInstance: this.#instance,
      regarding: { apiVersion, kind, namespace, name, uid, resourceVersion },
      ...event,
      note: cut(event.note),
    };
  }
}

function newSeries(id: string, regarding: KubeObject, event: EventOptions, now: Date): Series {
  const suffix = createHash('sha256').update(randomUUID()).digest('hex').slice(0, 16);
  // Events of cluster-scoped objects live in the default namespace.
  const { name, namespace = 'default' } = regarding.metadata;
  const key = { namespace, name: `${name.slice(0, 200)}.${suffix}` };
  return { id, key, event, regarding, firstAt: now, lastAt: now, count: 1, written: 0 };
}

/** At a character's border. */
function cut(note: string): string {
  const bytes = Buffer.from(note);
  if (bytes.length <= NOTE_BYTES) return note;
  return new TextDecoder().decode(bytes.subarray(0, NOTE_BYTES), { stream: true });
}
