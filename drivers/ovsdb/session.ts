import type { Session, Wire } from '../wire/link.js';
import { MalformedError } from '../wire/malformed.js';
import { toError } from '../wire/to-error.js';
import { Waiters } from '../wire/waiters.js';
import { OvsdbError, OvsdbTimeoutError } from './errors.js';
import { JsonFramer } from './framing.js';
import { asArray, asRecord, asString, excerpt, type JsonRecord } from './json.js';
import { Replica, type UpdateFormat } from './replica.js';
import { parseSchema } from './schema.js';
import type { Monitored, Operation, RowChange } from './types.js';

const DATABASE = 'Open_vSwitch';
const MONITOR_ID = 'isthmus';

interface SessionOptions {
  readonly endpoint: string;
  readonly monitored: Monitored;
  readonly callTimeoutMs: number;
  /** The replica is complete. Returns what is to be reported as changed once the session is up. */
  readonly complete: (replica: Replica) => readonly RowChange[];
  readonly changed: (changes: readonly RowChange[]) => void;
}

type Result = Readonly<Record<string, unknown>>;

/** One connection to a server, JSON-RPC 1.0 as RFC 7047 §4 has it: schema, monitor, transactions. */
export class OvsdbSession implements Session {
  readonly #framer = new JsonFramer();
  readonly #waiters = new Waiters<unknown>();
  #replica: Replica | undefined;
  #format: UpdateFormat = 'update2';
  #lastId = 0;

  constructor(
    private readonly wire: Wire,
    private readonly options: SessionOptions,
  ) {}

  open(): void {
    this.#handshake().catch((error: unknown) => this.wire.drop(toError(error)));
  }

  receive(chunk: Buffer): boolean {
    let ended = false;
    for (const message of this.#framer.push(chunk)) {
      this.#handle(asRecord(message));
      ended = true;
    }
    return ended;
  }

  probe(): void {
    this.#send({ id: 'echo', method: 'echo', params: [] });
  }

  lost(error: Error): void {
    this.#waiters.failAll(error);
  }

  async transact(operations: readonly Operation[], timeoutMs: number): Promise<readonly Result[]> {
    const where = `${this.options.endpoint}: transaction`;
    const results = await this.#call('transact', [DATABASE, ...operations], timeoutMs, readResults);
    results.forEach(({ error, details }, index) => {
      if (typeof error === 'string')
        throw new OvsdbError(where, error, typeof details === 'string' ? details : '', index);
    });
    return operations.map((_, index) => results[index] ?? {});
  }

  async #handshake(): Promise<void> {
    const { callTimeoutMs, monitored } = this.options;
    const schema = await this.#call('get_schema', [DATABASE], callTimeoutMs, parseSchema);
    const replica = new Replica(schema, monitored);
    // The updates that follow the reply may lie in the same chunk, so the replica is filled as the reply is read.
    const fill = (updates: unknown) => {
      replica.apply(updates, this.#format);
      this.#replica = replica;
      const changes = this.options.complete(replica);
      this.wire.up();
      this.options.changed(changes);
    };
    const requests = Object.fromEntries(Object.entries(monitored).map(([table, columns]) => [table, { columns }]));
    const conditional = Object.fromEntries(Object.entries(requests).map(([table, request]) => [table, [request]]));
    try {
      await this.#call('monitor_cond', [DATABASE, MONITOR_ID, conditional], callTimeoutMs, fill);
    } catch (error) {
      if (!(error instanceof OvsdbError && error.error === 'unknown method')) throw error;
      this.#format = 'update';
      await this.#call('monitor', [DATABASE, MONITOR_ID, requests], callTimeoutMs, fill);
    }
  }

  #handle(message: JsonRecord): void {
    const { method, id } = message;
    if (typeof method === 'string') {
      this.#handleRequest(method, id, message['params']);
      return;
    }
    const { result, error } = message;
    if (typeof id === 'number') {
      if (error === null || error === undefined) this.#waiters.deliver(id, result);
      else this.#waiters.fail(id, refusal(this.options.endpoint, error));
    } else if (id !== 'echo')
      throw new MalformedError(`a message that is neither call nor answer: ${excerpt(message)}`);
  }

  #handleRequest(method: string, id: unknown, params: unknown): void {
    if (method === 'echo') {
      this.#send({ id, result: params, error: null });
      return;
    }
    if (method === this.#format && this.#replica !== undefined) {
      const [monitor, updates] = asArray(params);
      if (monitor !== MONITOR_ID) throw new MalformedError(`an update for the monitor ${excerpt(monitor)}`);
      this.options.changed(this.#replica.apply(updates, this.#format));
      return;
    }
    // "monitor_canceled": the database was converted to another schema or removed.
    throw new MalformedError(`an unexpected call of ${excerpt(method)}`);
  }

  #call<T>(method: string, params: readonly unknown[], timeoutMs: number, take: (result: unknown) => T): Promise<T> {
    const id = ++this.#lastId;
    const { endpoint } = this.options;
    const timedOut = () => {
      // A transaction that still waits for its condition must not run later, when nobody counts on it.
      this.#send({ id: null, method: 'cancel', params: [id] });
      return new OvsdbTimeoutError(`${endpoint}: no answer to ${method} within ${timeoutMs} ms`);
    };
    const reply = this.#waiters.wait(id, timeoutMs, timedOut, (result) => ({ result: take(result) }));
    this.#send({ id, method, params });
    return reply;
  }

  #send(message: JsonRecord): void {
    this.wire.send(JSON.stringify(message));
  }
}

/** RFC 7047 §4.1.3: an object for each operation; null for those after one that failed. */
const readResults = (results: unknown) => asArray(results).map((result): Result => asRecord(result ?? {}));

/** The error of a JSON-RPC reply: an object as RFC 7047 §3.1 has it, or Open vSwitch's bare "unknown method". */
function refusal(where: string, error: unknown): OvsdbError {
  if (typeof error === 'string') return new OvsdbError(where, error, '');
  const { error: name, details } = asRecord(error);
  return new OvsdbError(where, asString(name), typeof details === 'string' ? details : '');
}
