import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { BehaviorSubject, filter, firstValueFrom, type Observable, timeout } from 'rxjs';
import { Backoff } from './backoff.js';
import { checkIdentity, dial, explain, type TlsIdentity } from './dial.js';
import { type Endpoint, parseEndpoint } from './endpoint.js';
import { IdleWatch } from './idle.js';
import { toError } from './to-error.js';

/** What a session may do with its connection. */
export interface Wire {
  send(data: Uint8Array | string): void;
  /** The handshake is done: the link reports the session as connected before this returns. */
  up(): void;
  /** Ends the connection; the link makes a new one. */
  drop(error: Error): void;
}

/** One protocol's view of one connection. A new one is made for each connection, so nothing old survives into the next. */
export interface Session {
  /** The transport stands: begin the handshake. */
  open(): void;
  /** Whatever bytes came. True if a message ended with them. By throwing the session drops the connection. */
  receive(chunk: Buffer): boolean;
  /** Nothing was heard for a while: ask for a sign of life. */
  probe(): void;
  /** The connection is gone: fail whoever waits. */
  lost(error: Error): void;
}

export type LinkState<S> =
  { readonly connected: true; readonly session: S } | { readonly connected: false; readonly error?: Error };

export interface LinkOptions {
  readonly tls?: TlsIdentity | undefined;
  readonly connectTimeoutMs: number;
  /** After this long a silent server is probed. */
  readonly idleMs: number;
  /** Makes the protocol's own connection error. */
  readonly failure: (message: string, cause: unknown) => Error;
}

/** A connection has to stand this long to count as a success, or a server that drops us at once would be called without pause. */
const STABLE_MS = 1000;

/** A server that does not read what we send must not fill our memory. More than the largest message that we send. */
const MAX_UNSENT_BYTES = 16 * 2 ** 20;

/**
 * Bytes without the end of a message for this many times `idleMs`: after a wrong length all that comes, answers to our
 * probes too, is taken for the rest of one message that never ends.
 */
const MAX_INTERVALS_A_MESSAGE = 12;

/** Keeps one connection to an endpoint, with one session on it; makes a new one with back-off until closed. */
export class Link<S extends Session> {
  readonly #endpoint: Endpoint;
  readonly #state = new BehaviorSubject<LinkState<S>>({ connected: false });
  readonly #closing = new AbortController();
  readonly #running: Promise<void>;

  /** Throws EndpointError. */
  constructor(
    endpoint: string,
    private readonly options: LinkOptions,
    private readonly createSession: (wire: Wire) => S,
  ) {
    this.#endpoint = parseEndpoint(endpoint);
    checkIdentity(this.#endpoint, options.tls);
    this.#running = this.#run();
  }

  get state(): Observable<LinkState<S>> {
    return this.#state;
  }

  /** The session of a connection that is up. Throws the protocol's connection error. */
  session(): S {
    const state = this.#state.value;
    if (state.connected) return state.session;
    const { error } = state;
    throw error === undefined
      ? this.#failure('not connected yet', undefined)
      : this.options.failure(error.message, error);
  }

  /** Resolves when connected; rejects at the deadline, or when closed, with the last error. */
  async ready(timeoutMs: number): Promise<void> {
    const connected = this.#state.pipe(
      filter((state) => state.connected),
      timeout({ first: timeoutMs }),
    );
    try {
      await firstValueFrom(connected);
    } catch {
      const { value } = this.#state;
      throw (!value.connected && value.error) || this.#failure(`no connection within ${timeoutMs} ms`, undefined);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort(this.#failure('closed', undefined));
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    const backoff = new Backoff();
    while (!signal.aborted) {
      const upMs = await this.#serve();
      if (upMs > STABLE_MS) backoff.reset();
      await sleep(backoff.next(), undefined, { signal }).catch(() => undefined);
    }
    this.#state.complete();
  }

  /** One connection from dialing to its end. Resolves with how long it was up. */
  async #serve(): Promise<number> {
    let socket: Socket;
    try {
      socket = await this.#dial();
    } catch (error) {
      this.#state.next({ connected: false, error: this.#wrap(error) });
      return 0;
    }
    let reason: Error | undefined;
    let upAt = Infinity;
    const drop = (error: unknown) => {
      reason ??= this.#wrap(error);
      socket.destroy();
    };
    const session = this.createSession({
      send: (data) => {
        if (socket.writableLength > MAX_UNSENT_BYTES) drop(new Error('the server does not read what it is sent'));
        else socket.write(data);
      },
      up: () => {
        if (reason !== undefined) return;
        upAt = performance.now();
        this.#state.next({ connected: true, session });
      },
      drop,
    });
    const silence = () => drop(new Error(`the server has not answered for ${2 * this.options.idleMs} ms`));
    const idle = new IdleWatch(this.options.idleMs, () => session.probe(), silence);
    const release = this.#whenClosing(drop);
    const maxMessageMs = MAX_INTERVALS_A_MESSAGE * this.options.idleMs;
    let messageAt = performance.now();
    await new Promise<void>((resolve) => {
      socket.on('error', drop);
      socket.on('close', resolve);
      socket.on('data', (chunk: Buffer) => {
        if (reason !== undefined) return;
        idle.heard();
        try {
          const now = performance.now();
          if (session.receive(chunk)) messageAt = now;
          else if (now - messageAt > maxMessageMs)
            throw new Error(`the server has not ended a message for ${maxMessageMs} ms`);
        } catch (error) {
          drop(error);
        }
      });
      if (reason === undefined) session.open();
    });
    idle.stop();
    release();
    reason ??= this.#failure('the server closed the connection', undefined);
    // The state first: who is told of the loss and calls again must not find the old session.
    this.#state.next({ connected: false, error: reason });
    session.lost(reason);
    return performance.now() - upAt;
  }

  async #dial(): Promise<Socket> {
    const { connectTimeoutMs } = this.options;
    const attempt = new AbortController();
    const giveUp = () => attempt.abort(new Error(`no connection within ${connectTimeoutMs} ms`));
    const timer = setTimeout(giveUp, connectTimeoutMs);
    const release = this.#whenClosing((reason) => attempt.abort(reason));
    try {
      return await dial(this.#endpoint, this.options.tls, attempt.signal);
    } finally {
      clearTimeout(timer);
      release();
    }
  }

  /** Calls `act` once `close` is called, unless released before. */
  #whenClosing(act: (reason: unknown) => void): () => void {
    const { signal } = this.#closing;
    const closing = () => act(signal.reason);
    if (signal.aborted) closing();
    else signal.addEventListener('abort', closing);
    return () => signal.removeEventListener('abort', closing);
  }

  #failure(message: string, cause: unknown): Error {
    return this.options.failure(`${this.#endpoint.text}: ${message}`, cause);
  }

  #wrap(thrown: unknown): Error {
    const error = toError(thrown);
    return error === this.#closing.signal.reason ? error : this.#failure(explain(error), error);
  }
}
