import type { Observable } from 'rxjs';

export interface Entry {
  readonly key: string;
  readonly value: string;
  /** ModifyIndex: what a CAS compares. */
  readonly index: number;
}

/** One operation of a transaction (≤ 128). index 0 in a cas means: the key must not exist. */
export type TxnOperation =
  | { readonly verb: 'cas'; readonly key: string; readonly value: string; readonly index: number }
  | { readonly verb: 'set'; readonly key: string; readonly value: string }
  | { readonly verb: 'delete-cas'; readonly key: string; readonly index: number }
  | { readonly verb: 'delete'; readonly key: string }
  | { readonly verb: 'check-index'; readonly key: string; readonly index: number }
  | { readonly verb: 'check-not-exists'; readonly key: string };

/** Either all operations happened, with each written key's new index, or none, with the operations that failed. */
export type TxnResult =
  | { readonly ok: true; readonly indexes: ReadonlyMap<string, number> }
  | { readonly ok: false; readonly failed: readonly { readonly operation: number; readonly message: string }[] };

/** A prefix kept current by blocking queries. */
export interface View {
  /** False until the first read and while Consul is away: what is seen may then be stale. */
  readonly current: boolean;
  get(key: string): Entry | undefined;
  entries(): IterableIterator<Entry>;
  /** Keys that changed (set or deleted), batched per answer. */
  readonly changes: Observable<readonly string[]>;
  /** Resolves after the first answer. */
  ready(timeoutMs?: number): Promise<void>;
  close(): void;
}

/**
 * The key/value store that all operators share. Methods fail with ConsulUnavailableError (no leader, connection refused,
 * time-out: nothing is known of the outcome) or ConsulError (a request it refuses). Keys and values are UTF-8 text.
 */
export interface KeyValueStore {
  /** Consistent read (goes through the leader). */
  get(key: string): Promise<Entry | undefined>;
  /** Consistent read of all keys below the prefix, in key order. */
  list(prefix: string): Promise<Entry[]>;
  transact(operations: readonly TxnOperation[]): Promise<TxnResult>;
  watch(prefix: string): View;
  /** A session with a TTL health check, renewed until close; keys written with it vanish with it. */
  heartbeat(key: string, value: string, ttlSeconds: number): Promise<{ close(): Promise<void> }>;
  close(): Promise<void>;
}
