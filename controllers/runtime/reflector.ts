import { Subject } from 'rxjs';

import {
  isKubeError,
  keyString,
  type KubeApi,
  type KubeObject,
  type ObjectList,
  type Resource,
  type WatchEvent,
} from '../kube/api.js';
import type { Log } from './log.js';
import { MemoryStore, type Indexes, type Store } from './store.js';
import { backoffMs, sleep } from './time.js';

export interface ReflectorOptions<T> {
  readonly log: Log;
  readonly indexes?: Indexes<T>;
  /** Absent: all namespaces. */
  readonly namespace?: string;
  /** Objects a page of a list. Default 500. */
  readonly pageSize?: number;
  /** A watch that says nothing for this long, not even a bookmark (the server sends one a minute), is renewed. Default 150 s. */
  readonly silenceMs?: number;
}

/** An object that the kind's parser refused; the store has what it last understood of it, if anything. */
export interface InvalidObject {
  readonly key: string;
  readonly object: KubeObject;
  readonly error: unknown;
}

const WATCH_SECONDS = { least: 300, spread: 300 };
/** What the API server takes for no limit. */
const NO_LIMIT = 0;
const RETRY = { baseMs: 100, maxMs: 30_000 };

/**
 * Keeps a store equal to what the API server has of one kind: a paged list, then a watch from there, for ever. Nothing is
 * lost or told twice when a watch breaks, and a new list tells only what differs. A change is in the store before it is told.
 */
export class Reflector<T> {
  readonly #store: MemoryStore<T>;
  readonly #invalid = new Subject<InvalidObject>();
  readonly #log: Log;
  /** The resourceVersion of every object, also of invalid ones: tells a new list what is new. */
  readonly #seen = new Map<string, string>();
  readonly #stop = new AbortController();
  readonly #waiting: (() => void)[] = [];
  #synced = false;
  #running: Promise<void> | undefined;
  /** Where the watch goes on; undefined: list first. */
  #resourceVersion: string | undefined;
  #failures = 0;

  /** Each invalid object, once a resourceVersion. */
  readonly invalid = this.#invalid.asObservable();

  constructor(
    private readonly api: KubeApi,
    readonly resource: Resource,
    /** Throws what makes the object invalid. */
    private readonly parse: (object: KubeObject) => T,
    private readonly options: ReflectorOptions<T>,
  ) {
    this.#store = new MemoryStore(options.indexes);
    this.#log = options.log.child({ resource: resource.plural });
  }

  get store(): Store<T> {
    return this.#store;
  }

  /** Whether a first list is complete. */
  get synced(): boolean {
    return this.#synced;
  }

  /** Resolves once synced; never, if stopped before. */
  async whenSynced(): Promise<void> {
    if (!this.#synced) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  start(): void {
    this.#running ??= this.#run(this.#stop.signal);
  }

  /** Nothing is told after this; a stopped reflector doesn't start again. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        this.#resourceVersion ??= await this.#list(signal);
        await this.#watch(this.#resourceVersion, signal);
      } catch (error) {
        if (isKubeError(error, 'KUBE_ABORTED')) continue;
        if (isKubeError(error, 'KUBE_EXPIRED')) this.#resourceVersion = undefined;
        // A broken connection is daily business, the first retry silent.
        this.#log[this.#failures === 0 ? 'debug' : 'warn']('reflector interrupted', {
          error,
          failures: this.#failures,
        });
      }
      await sleep(backoffMs(this.#failures++, RETRY.baseMs, RETRY.maxMs), signal);
    }
  }

  /** Answers the resourceVersion to watch from. */
  async #list(signal: AbortSignal, limit = this.options.pageSize ?? 500): Promise<string> {
    const gone = new Set(this.#seen.keys());
    const { namespace } = this.options;
    for (let next: string | undefined; ;) {
      let page: ObjectList;
      try {
        page = await this.api.list(this.resource, { namespace, limit, continue: next, signal });
      } catch (error) {
        if (next === undefined || !isKubeError(error, 'KUBE_EXPIRED')) throw error;
        // The token expired on the way through very many objects: take all at once.
        return this.#list(signal, NO_LIMIT);
      }
      if (signal.aborted) return page.resourceVersion;
      for (const object of page.items) {
        gone.delete(keyString(object.metadata));
        this.#put(object);
      }
      next = page.continue;
      if (next !== undefined) continue;
      for (const key of gone) this.#remove(key);
      this.#complete();
      return page.resourceVersion;
    }
  }

  #complete(): void {
    this.#failures = 0;
    if (this.#synced) return;
    this.#synced = true;
    this.#log.debug('cache synced', { objects: this.#store.size });
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  async #watch(resourceVersion: string, signal: AbortSignal): Promise<void> {
    const session = new AbortController();
    const end = () => {
      session.abort();
    };
    signal.addEventListener('abort', end, { once: true });
    const watchdog = setTimeout(end, this.options.silenceMs ?? 150_000);
    const timeoutSeconds = WATCH_SECONDS.least + Math.floor(Math.random() * WATCH_SECONDS.spread);
    const { namespace } = this.options;
    try {
      const events = this.api.watch(this.resource, {
        namespace,
        resourceVersion,
        timeoutSeconds,
        signal: session.signal,
      });
      for await (const event of events) {
        if (session.signal.aborted) return;
        this.#handle(event);
        this.#failures = 0;
        watchdog.refresh();
      }
    } finally {
      clearTimeout(watchdog);
      signal.removeEventListener('abort', end);
    }
  }

  #handle(event: WatchEvent): void {
    switch (event.type) {
      case 'ADDED':
      case 'MODIFIED':
        this.#resourceVersion = event.object.metadata.resourceVersion;
        this.#put(event.object);
        return;
      case 'DELETED':
        this.#resourceVersion = event.object.metadata.resourceVersion;
        this.#remove(keyString(event.object.metadata));
        return;
      case 'BOOKMARK':
        this.#resourceVersion = event.resourceVersion;
        return;
      case 'ERROR':
        throw event.error;
    }
  }

  #put(object: KubeObject): void {
    const key = keyString(object.metadata);
    const { resourceVersion } = object.metadata;
    if (this.#seen.get(key) === resourceVersion) return;
    this.#seen.set(key, resourceVersion);
    let parsed: T;
    try {
      parsed = this.parse(object);
    } catch (error) {
      // What was last understood stays: an object that can't be read is not one that is gone.
      this.#log.warn('invalid object ignored', { object: key, resourceVersion, error });
      this.#invalid.next({ key, object, error });
      return;
    }
    this.#store.set(key, parsed);
  }

  #remove(key: string): void {
    this.#seen.delete(key);
    this.#store.delete(key);
  }
}
