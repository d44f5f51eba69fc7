import { EventEmitter } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import { types } from 'node:util';
import Consul from 'consul';
import { ConsulError, ConsulUnavailableError } from './errors.js';
import type { Entry, TxnOperation, TxnResult } from './types.js';

export interface ConsulTls {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

export interface ConsulOptions {
  readonly token?: string;
  readonly datacenter?: string;
  /** Deadline of a call, from its beginning to the end of its answer. Default 5 s. */
  readonly timeoutMs?: number;
  /** PEM texts, for an https URL. */
  readonly tls?: ConsulTls;
}

/** All entries of a prefix, and the index that the next blocking query waits behind. */
export interface Answer {
  readonly index: number;
  readonly entries: readonly Entry[];
}

export interface Held {
  readonly entry: Entry;
  /** The session that holds the key. */
  readonly session: string | undefined;
}

/** What is used of the package, whose own declarations lack the common options and have another form of transaction. */
interface Package {
  readonly kv: { get(options: object): Promise<unknown>; set(options: object): Promise<unknown> };
  readonly session: {
    create(options: object): Promise<unknown>;
    renew(options: object): Promise<unknown>;
    destroy(options: object): Promise<unknown>;
  };
  readonly transaction: { create(operations: readonly object[], options: object): Promise<unknown> };
}

interface CallOptions {
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  readonly withHeaders?: boolean;
}

/** Consul's default limit is 200 connections a client (http_max_conns_per_client), the views' own ones included. */
const maxSockets = 32;
const defaultTimeoutMs = 5000;

/**
 * The npm package `consul` with parsed answers, typed errors, a deadline on every call and cancellation. It has one pool
 * of kept connections. Consul's HTTP API: https://developer.hashicorp.com/consul/api-docs
 */
export class Client {
  readonly timeoutMs: number;
  readonly #origin: string;
  readonly #agent: http.Agent;
  readonly #consul: Package;
  readonly #common: { readonly token?: string; readonly dc?: string; readonly consistent: true };
  readonly #inFlight = new Set<EventEmitter>();
  #closed = false;

  constructor(url: string, options: ConsulOptions) {
    const { origin, protocol } = new URL(url);
    this.#origin = origin;
    this.timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
    const agentOptions = { keepAlive: true, keepAliveMsecs: 10_000, maxSockets };
    this.#agent = protocol === 'https:' ? new https.Agent(agentOptions) : new http.Agent(agentOptions);
    const consulOptions = { baseUrl: `${origin}/v1`, agent: this.#agent, ...options.tls };
    this.#consul = new Consul(consulOptions);
    this.#common = {
      consistent: true,
      ...(options.token === undefined ? {} : { token: options.token }),
      ...(options.datacenter === undefined ? {} : { dc: options.datacenter }),
    };
  }

  /** Ends every call under way (ConsulUnavailableError) and every connection. */
  close(): void {
    this.#closed = true;
    this.cancelAll();
    this.#agent.destroy();
  }

  cancelAll(): void {
    for (const context of this.#inFlight) context.emit('cancel');
  }

  /**
   * Lets a broken connection end the calls under way at once. Without it a call whose answer breaks off midway ends at its
   * deadline only (the package listens for the end of an answer alone), which is minutes for a blocking query. For a
   * client that makes one call at a time.
   */
  cancelOnDisconnect(): this {
    const connect = this.#agent.createConnection.bind(this.#agent);
    let newest: unknown;
    this.#agent.createConnection = (options, callback) => {
      const socket = connect(options, callback);
      newest = socket;
      // An older connection's end comes late: the call under way no longer uses it.
      return socket?.once('close', () => {
        if (newest === socket) this.cancelAll();
      });
    };
    return this;
  }

  async get(key: string): Promise<Held | undefined> {
    const answer = await this.#call(`get ${key}`, (options) => this.#consul.kv.get({ ...options, key }));
    if (answer === undefined) return undefined;
    const session = field(answer, 'Session');
    return { entry: parseItem(answer), session: typeof session === 'string' ? session : undefined };
  }

  async list(prefix: string): Promise<Entry[]> {
    const answer = await this.#call(`list ${prefix}`, (options) =>
      this.#consul.kv.get({ ...options, key: prefix, recurse: true }),
    );
    return parseItems(answer);
  }

  /** Reads the prefix: at once if index is 0, else when something at or below it has changed or waitSeconds have passed. */
  async follow(prefix: string, index: number, waitSeconds: number, signal: AbortSignal): Promise<Answer> {
    const blocking = index === 0 ? {} : { index: String(index), wait: `${waitSeconds}s` };
    // Consul adds up to a sixteenth to the time it waits. A first read of many keys may take longer than a call.
    const timeoutMs = index === 0 ? 4 * this.timeoutMs : (waitSeconds * 17 * 1000) / 16 + this.timeoutMs;
    const answer = await this.#call(
      `follow ${prefix}`,
      (options) => this.#consul.kv.get({ ...options, ...blocking, key: prefix, recurse: true }),
      { timeoutMs, signal, withHeaders: true },
    );
    if (!Array.isArray(answer)) throw malformed('an answer without headers', answer);
    const parts: readonly unknown[] = answer;
    const [response, items] = parts;
    return { index: parseIndex(response), entries: parseItems(items) };
  }

  async transact(operations: readonly TxnOperation[]): Promise<TxnResult> {
    const body = operations.map((operation) => ({ KV: encodeOperation(operation) }));
    try {
      const answer = await this.#call('transact', (options) => this.#consul.transaction.create(body, options));
      return { ok: true, indexes: parseIndexes(answer, operations) };
    } catch (error) {
      if (error instanceof ConsulError && error.status === 409)
        return { ok: false, failed: parseFailures(error.cause) };
      throw error;
    }
  }

  /** A session that only its TTL can end: a flapping node check doesn't. Keys held by it are deleted with it. */
  async createSession(name: string, ttlSeconds: number): Promise<string> {
    const answer = await this.#call('create session', (options) =>
      this.#consul.session.create({
        ...options,
        name,
        ttl: `${ttlSeconds}s`,
        behavior: 'delete',
        lockdelay: '0s',
        checks: [],
      }),
    );
    const id = field(answer, 'ID');
    if (typeof id !== 'string') throw malformed('a session', answer);
    return id;
  }

  /** False if there is no such session any more. */
  async renewSession(id: string): Promise<boolean> {
    try {
      await this.#call('renew session', (options) => this.#consul.session.renew({ ...options, id }));
      return true;
    } catch (error) {
      if (error instanceof ConsulError && error.status === 404) return false;
      throw error;
    }
  }

  async destroySession(id: string): Promise<void> {
    await this.#call('destroy session', (options) => this.#consul.session.destroy({ ...options, id }));
  }

  /** False if another session holds the key. */
  async acquire(key: string, value: string, session: string): Promise<boolean> {
    const answer = await this.#call(`acquire ${key}`, (options) =>
      this.#consul.kv.set({ ...options, key, value, acquire: session }),
    );
    return answer === true;
  }

  async #call(what: string, send: (options: object) => Promise<unknown>, call: CallOptions = {}): Promise<unknown> {
    if (this.#closed) throw new ConsulError('CONSUL_CLOSED', `${what}: the store is closed`);
    call.signal?.throwIfAborted();
    const context = Object.assign(new EventEmitter(), { includeResponse: call.withHeaders === true });
    const cancel = () => context.emit('cancel');
    call.signal?.addEventListener('abort', cancel, { once: true });
    this.#inFlight.add(context);
    try {
      const answer = await send({ ...this.#common, ctx: context, timeout: call.timeoutMs ?? this.timeoutMs });
      // The package takes a socket's error for an answer where Error is not Node's own (in a vm context, as Jest's tests are).
      if (types.isNativeError(answer)) throw answer;
      return answer;
    } catch (error) {
      throw typedError(error, `Consul at ${this.#origin}: ${what}`);
    } finally {
      this.#inFlight.delete(context);
      call.signal?.removeEventListener('abort', cancel);
    }
  }
}

function typedError(error: unknown, what: string): Error {
  if (error instanceof ConsulUnavailableError || error instanceof ConsulError) return error;
  const status = field(error, 'statusCode');
  const body = field(field(error, 'response'), 'body');
  const reason =
    typeof body === 'string' ? body.trim().slice(0, 200) : error instanceof Error ? error.message : String(error);
  const message = `${what}: ${reason}`;
  // 429: too many requests at the moment.
  if (typeof status === 'number' && status < 500 && status !== 429) {
    return new ConsulError('CONSUL_REFUSED', message, { status, cause: error });
  }
  return new ConsulUnavailableError(message, error);
}

function encodeOperation(operation: TxnOperation): { verb: string; key: string; value?: string; index?: number } {
  switch (operation.verb) {
    case 'cas':
    case 'set':
      return { ...operation, value: Buffer.from(operation.value).toString('base64') };
    case 'delete-cas':
    case 'delete':
    case 'check-index':
    case 'check-not-exists':
      return operation;
  }
}

/** Each written key's index, from the results, which have no place for deletions. */
function parseIndexes(answer: unknown, operations: readonly TxnOperation[]): ReadonlyMap<string, number> {
  const written = new Set<string>();
  for (const { verb, key } of operations) {
    if (verb === 'cas' || verb === 'set') written.add(key);
    else if (verb === 'delete' || verb === 'delete-cas') written.delete(key);
  }
  const indexes = new Map<string, number>();
  const results = field(answer, 'Results');
  if (!Array.isArray(results)) throw malformed('results of a transaction', answer);
  for (const result of results) {
    const { key, index } = parseItem(field(result, 'KV'));
    if (written.has(key)) indexes.set(key, index);
  }
  if (indexes.size !== written.size) throw malformed('a result for each written key', answer);
  return indexes;
}

function parseFailures(error: unknown): { operation: number; message: string }[] {
  const errors = field(field(field(error, 'response'), 'body'), 'Errors');
  if (!Array.isArray(errors)) throw malformed('errors of a transaction', error);
  return errors.map((each) => {
    const operation = field(each, 'OpIndex');
    const message = field(each, 'What');
    if (typeof operation !== 'number' || typeof message !== 'string')
      throw malformed('an error of a transaction', error);
    return { operation, message };
  });
}

function parseItems(answer: unknown): Entry[] {
  if (answer === undefined) return [];
  if (!Array.isArray(answer)) throw malformed('a list of keys', answer);
  return answer.map(parseItem);
}

function parseItem(item: unknown): Entry {
  if (typeof item === 'object' && item !== null && 'Key' in item && 'Value' in item && 'ModifyIndex' in item) {
    const { Key: key, Value: value, ModifyIndex: index } = item;
    // The package has decoded the base64 already. An empty value comes as null.
    if (typeof key === 'string' && typeof index === 'number' && (typeof value === 'string' || value === null)) {
      return { key, value: value ?? '', index };
    }
  }
  throw malformed('a key', item);
}

function parseIndex(response: unknown): number {
  const index = Number(field(field(response, 'headers'), 'x-consul-index'));
  if (!Number.isSafeInteger(index) || index < 1) throw malformed('X-Consul-Index', index);
  return index;
}

function malformed(what: string, cause: unknown): ConsulUnavailableError {
  return new ConsulUnavailableError(`Consul's answer is not understood: expected ${what}`, cause);
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}
