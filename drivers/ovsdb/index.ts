import { map, type Observable, Subject } from 'rxjs';
import { Link } from '../wire/link.js';
import { OvsdbConnectionError } from './errors.js';
import { differences, type Replica, type Tables } from './replica.js';
import { OvsdbSession } from './session.js';
import type { ConnectionState, Monitored, Operation, Ovsdb, OvsdbOptions, Row, RowChange } from './types.js';

export { OvsdbConnectionError, OvsdbError, OvsdbTimeoutError } from './errors.js';
export { map, namedUuid, set, uuidRef } from './values.js';
export { EndpointError } from '../wire/endpoint.js';
export type * from './types.js';

/**
 * Connects to the Open_vSwitch database of an OVSDB server (`tcp:host:port`, `ssl:host:port`, `unix:/path`). Returns at
 * once and connects in the background. Throws EndpointError if the endpoint can't be parsed or `ssl:` lacks its certificates.
 */
export function openOvsdb(endpoint: string, monitored: Monitored, options: OvsdbOptions = {}): Ovsdb {
  return new OvsdbClient(endpoint, monitored, options);
}

class OvsdbClient implements Ovsdb {
  readonly state: Observable<ConnectionState>;
  readonly changes: Observable<RowChange>;
  readonly #changes = new Subject<RowChange>();
  readonly #link: Link<OvsdbSession>;
  readonly #callTimeoutMs: number;
  /** What was last known, also while disconnected: the next connection reports just what differs from it. */
  #tables: Tables = new Map();

  constructor(
    readonly endpoint: string,
    monitored: Monitored,
    { tls, connectTimeoutMs = 5000, callTimeoutMs = 10_000, probeIntervalMs = 5000 }: OvsdbOptions,
  ) {
    this.#callTimeoutMs = callTimeoutMs;
    this.changes = this.#changes.asObservable();
    const failure = (message: string, cause: unknown) => new OvsdbConnectionError(message, { cause });
    const complete = (replica: Replica) => {
      const changes = differences(this.#tables, replica.tables);
      this.#tables = replica.tables;
      return changes;
    };
    const changed = (changes: readonly RowChange[]) => {
      for (const change of changes) this.#changes.next(change);
    };
    this.#link = new Link(
      endpoint,
      { tls, connectTimeoutMs, idleMs: probeIntervalMs, failure },
      (wire) => new OvsdbSession(wire, { endpoint, monitored, callTimeoutMs, complete, changed }),
    );
    this.state = this.#link.state.pipe(map((state) => (state.connected ? { connected: true } : state)));
  }

  ready(timeoutMs = 10_000): Promise<void> {
    return this.#link.ready(timeoutMs);
  }

  /** The live table: read it now, don't keep it. Throws RangeError for a table that is not monitored. */
  rows(table: string): ReadonlyMap<string, Row> {
    this.#link.session();
    const rows = this.#tables.get(table);
    if (rows === undefined) throw new RangeError(`table "${table}" is not monitored`);
    return rows;
  }

  async transact(operations: readonly Operation[], timeoutMs = this.#callTimeoutMs): ReturnType<Ovsdb['transact']> {
    return this.#link.session().transact(operations, timeoutMs);
  }

  async close(): Promise<void> {
    await this.#link.close();
    this.#changes.complete();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
