import { Client } from './client.js';
import type { ConsulOptions } from './client.js';
import { ConsulError, ConsulUnavailableError } from './errors.js';
import { Heartbeat } from './heartbeat.js';
import type { OwnWrite } from './replica.js';
import type { Entry, KeyValueStore, TxnOperation, TxnResult, View } from './types.js';
import { PrefixView } from './view.js';

export type { ConsulOptions } from './client.js';
export { ConsulError, ConsulUnavailableError } from './errors.js';
export type { KeyValueStore, TxnOperation } from './types.js';

/** What Consul takes in one transaction: https://developer.hashicorp.com/consul/api-docs/txn */
export const maxTxnOperations = 128;

/**
 * A store over Consul's HTTP API at `url` (http://host:8500 or https://…). Connects when first used, and keeps its
 * connections. A view shows a successful `transact` of the same store at once, before the call resolves.
 */
export function connectConsul(url: string, options: ConsulOptions = {}): KeyValueStore {
  return new ConsulStore(url, options);
}

class ConsulStore implements KeyValueStore {
  readonly #url: string;
  readonly #options: ConsulOptions;
  readonly #client: Client;
  readonly #views = new Set<PrefixView>();
  readonly #heartbeats = new Set<Heartbeat>();
  #closed = false;

  constructor(url: string, options: ConsulOptions) {
    this.#url = url;
    this.#options = options;
    this.#client = new Client(url, options);
  }

  async get(key: string): Promise<Entry | undefined> {
    return (await this.#noticing(this.#client.get(key)))?.entry;
  }

  list(prefix: string): Promise<Entry[]> {
    return this.#noticing(this.#client.list(prefix));
  }

  async transact(operations: readonly TxnOperation[]): Promise<TxnResult> {
    if (operations.length === 0) return { ok: true, indexes: new Map() };
    if (operations.length > maxTxnOperations) {
      const message = `${operations.length} operations in a transaction: Consul takes at most ${maxTxnOperations}`;
      throw new ConsulError('CONSUL_LIMIT', message);
    }
    const result = await this.#noticing(this.#client.transact(operations));
    if (result.ok && this.#views.size > 0) {
      const writes = ownWrites(operations, result.indexes);
      for (const view of this.#views) view.wrote(writes);
    }
    return result;
  }

  watch(prefix: string): View {
    if (this.#closed) throw new ConsulError('CONSUL_CLOSED', `watch ${prefix}: the store is closed`);
    const view = new PrefixView(new Client(this.#url, this.#options), prefix, (closed) => this.#views.delete(closed));
    this.#views.add(view);
    return view;
  }

  async heartbeat(key: string, value: string, ttlSeconds: number): Promise<{ close(): Promise<void> }> {
    const heartbeat = new Heartbeat(this.#client, key, value, ttlSeconds, (error) => {
      this.#notice(error);
    });
    this.#heartbeats.add(heartbeat);
    const close = async () => {
      this.#heartbeats.delete(heartbeat);
      await heartbeat.close();
    };
    try {
      await heartbeat.start();
    } catch (error) {
      this.#heartbeats.delete(heartbeat);
      throw error;
    }
    return { close };
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const view of this.#views) view.close();
    this.#client.cancelAll();
    const heartbeats = [...this.#heartbeats];
    this.#heartbeats.clear();
    try {
      await Promise.all(heartbeats.map((heartbeat) => heartbeat.close()));
    } finally {
      this.#client.close();
    }
  }

  async #noticing<T>(call: Promise<T>): Promise<T> {
    try {
      return await call;
    } catch (error) {
      this.#notice(error);
      throw error;
    }
  }

  #notice(error: unknown): void {
    if (error instanceof ConsulUnavailableError) for (const view of this.#views) view.doubt();
  }
}

/** The last write to each key. */
function ownWrites(operations: readonly TxnOperation[], indexes: ReadonlyMap<string, number>): readonly OwnWrite[] {
  const writes = new Map<string, OwnWrite>();
  for (const operation of operations) {
    const { key } = operation;
    switch (operation.verb) {
      case 'cas':
      case 'set': {
        const index = indexes.get(key);
        if (index !== undefined) writes.set(key, { entry: { key, value: operation.value, index } });
        break;
      }
      case 'delete-cas':
        writes.set(key, { key, deletedIndex: operation.index });
        break;
      case 'delete':
        writes.set(key, { key, deletedIndex: Infinity });
        break;
      case 'check-index':
      case 'check-not-exists':
        break;
    }
  }
  return [...writes.values()];
}
