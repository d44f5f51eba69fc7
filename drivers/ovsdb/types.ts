import type { Observable } from 'rxjs';

/** RFC 7047 §5.1 values, decoded: a set of one is the value itself on the wire, here a set is always an array. */
export type Atom = string | number | boolean | Uuid;
export interface Uuid {
  readonly uuid: string;
}
export type Value = Atom | readonly Atom[] | ReadonlyMap<Atom, Atom>;

/** A row as monitored: the columns asked for, sets as arrays, maps as Map. */
export type Row = Readonly<Record<string, Value>>;

/** One operation of a transaction, RFC 7047 §5.2, as JSON. */
export type Operation = Readonly<Record<string, unknown>> & { readonly op: string };

export interface OvsdbTls {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

export interface OvsdbOptions {
  readonly tls?: OvsdbTls;
  readonly connectTimeoutMs?: number;
  readonly callTimeoutMs?: number;
  /** An idle server is probed with "echo" after this long. Default 5 s. */
  readonly probeIntervalMs?: number;
}

export type ConnectionState = { readonly connected: true } | { readonly connected: false; readonly error?: Error };

/** A change seen by the monitor. An initial row and an insert have no old; a delete has no new. */
export interface RowChange {
  readonly table: string;
  readonly uuid: string;
  readonly old?: Row;
  readonly new?: Row;
}

/**
 * A client of one OVSDB server that keeps a replica of the monitored tables and reconnects by itself (back-off with
 * jitter, 0.2 to 5 s). After a reconnect the replica is read anew, and `changes` emits just what differs.
 */
export interface Ovsdb extends AsyncDisposable {
  readonly endpoint: string;
  /** Replays the current state. */
  readonly state: Observable<ConnectionState>;
  readonly changes: Observable<RowChange>;
  /** Resolves when the replica is complete (first connection); rejects at the deadline with the last error. */
  ready(timeoutMs?: number): Promise<void>;
  /** The replica, by row UUID. Throws OvsdbConnectionError while disconnected: what is not known is not guessed. */
  rows(table: string): ReadonlyMap<string, Row>;
  /**
   * Runs the operations as one transaction. Resolves with each operation's result once the replica has seen the
   * transaction's own updates. Throws OvsdbError (the failed operation's index, error, details) or a connection or time-out error.
   */
  transact(operations: readonly Operation[], timeoutMs?: number): Promise<readonly Readonly<Record<string, unknown>>[]>;
  close(): Promise<void>;
}

/** Which tables and columns are monitored. */
export type Monitored = Readonly<Record<string, readonly string[]>>;
