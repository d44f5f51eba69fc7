import type { Duplex } from 'node:stream';
import { Subject, type Observable } from 'rxjs';
import { LibvirtConnectionError, LibvirtError, LibvirtProtocolError, LibvirtTimeoutError } from './errors.js';
import { encodeMessage, MessageReader, MessageStatus, MessageType, type Header, type Message } from './message.js';
import {
  errorBody,
  keepalivePing,
  keepalivePong,
  keepaliveProgram,
  procedures,
  type EventMessage,
  type Procedure,
  type Program,
} from './protocol.js';
import { RpcStream } from './stream.js';
import { decode, encode } from './xdr.js';

export interface RpcOptions {
  /** Names the peer in errors. */
  readonly peer: string;
  readonly callTimeoutMs: number;
  readonly maxCallsInFlight: number;
  readonly keepalive: { readonly intervalMs: number; readonly count: number };
  readonly assertMayChange?: () => void;
}

/** A deadline in milliseconds; 'none' lasts as long as the connection does. */
export type Deadline = number | 'none';

const MAX_SERIAL = 0xffff_ffff;
const CLOSE_GRACE_MS = 1000;
/** setTimeout takes a longer delay for none at all. */
const MAX_TIMER_MS = 0x7fff_ffff;
const EMPTY = Buffer.alloc(0);

interface CallHooks {
  sent?(serial: number): void;
  /** The daemon carried the call out after its caller had given up. */
  late?(): void;
  readonly signal?: AbortSignal;
}

/** A call on its way: in the queue while it has no serial. */
interface Call {
  readonly name: string;
  readonly procedure: number;
  readonly program: Program;
  readonly payload: Buffer;
  readonly unbounded: boolean;
  readonly asks: boolean;
  /** Whoever waited gave up; the daemon may still be at it, so the call keeps its place. */
  abandoned: boolean;
  sent(serial: number): void;
  reply(message: Message): void;
  fail(error: Error): void;
}

const decodeError = (payload: Buffer): LibvirtError => {
  const { code, domain, level, message } = decode(errorBody, payload);
  return new LibvirtError(message ?? `libvirt error ${code}`, code, domain, level);
};

const eventKey = (program: number, procedure: number): string => `${program}:${procedure}`;

/**
 * The RPC layer over an open transport: pipelined calls told apart by their serial, streams, events, keepalive.
 *
 * The daemon reads no further once a client has `max_client_requests` (default 5) messages in work, the one being read
 * included, and would then not see our pings: hence the limit of calls in flight, the rest waits here, first come first
 * served. Calls without a deadline (a migration) leave one place to the others.
 *
 * Ends once, for good: on close(), when the transport does, on a protocol violation, or when the peer is found dead. Every
 * waiting call and stream fails with the cause, events complete.
 */
export class RpcConnection {
  /** Resolves with the cause, or undefined after close(). */
  readonly ended: Promise<Error | undefined>;

  readonly #transport: Duplex;
  readonly #options: RpcOptions;
  readonly #inFlight = new Map<number, Call>();
  readonly #streams = new Map<number, RpcStream>();
  readonly #events = new Map<string, { subject: Subject<unknown>; emit(payload: Buffer): void }>();
  readonly #drained = new Set<() => void>();
  readonly #reader = new MessageReader();
  readonly #resolveEnded: (cause: Error | undefined) => void;
  #queue: Call[] = [];
  #serial = 0;
  #unbounded = 0;
  #failure: Error | undefined;
  #closing = false;
  #keepalive: NodeJS.Timeout | undefined;
  #verdict: NodeJS.Immediate | undefined;
  #heard = performance.now();
  #unansweredPings = 0;

  constructor(transport: Duplex, options: RpcOptions) {
    this.#transport = transport;
    this.#options = options;
    let resolveEnded: (cause: Error | undefined) => void = () => undefined;
    this.ended = new Promise((resolve) => (resolveEnded = resolve));
    this.#resolveEnded = resolveEnded;
    transport.on('data', (chunk: Buffer) => this.#receive(chunk));
    transport.on('drain', () => this.#releaseDrained());
    transport.on('error', (cause: Error) => this.#lost(cause));
    transport.on('end', () => this.#lost());
    transport.on('close', () => this.#lost());
    transport.resume();
    this.#scheduleKeepalive(options.keepalive.intervalMs);
  }

  get callTimeoutMs(): number {
    return this.#options.callTimeoutMs;
  }

  get isOpen(): boolean {
    return this.#failure === undefined && !this.#closing;
  }

  /** signal: takes the call back while it was not sent. */
  async call<A, R>(procedure: Procedure<A, R>, args: A, deadline?: Deadline, signal?: AbortSignal): Promise<R> {
    return this.#start(procedure, args, deadline, signal && { signal });
  }

  /** Makes a call whose data travel in a stream of the same serial. Resolves when the daemon has accepted it. */
  openStream<A>(procedure: Procedure<A, void>, args: A): Promise<RpcStream> {
    return new Promise((resolve, reject) => {
      let stream: RpcStream | undefined;
      let release = (): void => undefined;
      const hooks: CallHooks = {
        // Data may come before the reply does, so the stream must be known by then.
        sent: (serial) => {
          stream = this.#addStream(procedure, serial);
          release = () => void this.#streams.delete(serial);
        },
        // Nobody wants it any more: a console, for one, would stay taken.
        late: () => void stream?.abort(),
      };
      this.#start(procedure, args, undefined, hooks).then(
        () => {
          if (stream !== undefined) resolve(stream);
        },
        (error: unknown) => {
          if (!(error instanceof LibvirtTimeoutError)) release();
          // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- passed on as it came
          reject(error);
        },
      );
    });
  }

  /** The messages of that kind, once they have been registered for. Completes with the connection. */
  on<T>(event: EventMessage<T>): Observable<T> {
    const subject = new Subject<T>();
    this.#events.set(eventKey(event.program.id, event.number), {
      subject: subject as Subject<unknown>,
      emit: (payload) => subject.next(decode(event.body, payload)),
    });
    return subject.asObservable();
  }

  /** Takes leave of the daemon, within a second. */
  async close(): Promise<void> {
    if (this.isOpen) {
      this.#closing = true;
      this.#failWaiting(new LibvirtConnectionError('LIBVIRT_CLOSED', `connection to ${this.#options.peer} closed`));
      await this.#sendCall(procedures.connectClose, undefined, CLOSE_GRACE_MS).catch(() => undefined);
    }
    this.fail(undefined);
    if (this.#transport.closed) return;
    await new Promise<void>((resolve) => this.#transport.once('close', () => resolve()));
  }

  /** Ends the connection with that cause, undefined standing for a close that was asked for. */
  fail(cause: Error | undefined): void {
    if (this.#failure !== undefined) return;
    clearTimeout(this.#keepalive);
    clearImmediate(this.#verdict);
    this.#failure = cause ?? new LibvirtConnectionError('LIBVIRT_CLOSED', `connection to ${this.#options.peer} closed`);
    this.#transport.destroy();
    this.#failWaiting(this.#failure);
    this.#releaseDrained();
    for (const { subject } of this.#events.values()) subject.complete();
    this.#resolveEnded(cause);
  }

  #failWaiting(error: Error): void {
    const calls = [...this.#inFlight.values(), ...this.#queue];
    this.#inFlight.clear();
    this.#queue = [];
    for (const call of calls) call.fail(error);
    for (const stream of [...this.#streams.values()]) stream.fail(error);
  }

  #lost(cause?: Error): void {
    if (this.#closing) {
      this.fail(undefined);
      return;
    }
    const why = cause === undefined ? 'the peer closed it' : cause.message;
    this.fail(
      cause instanceof LibvirtConnectionError
        ? cause
        : new LibvirtConnectionError('LIBVIRT_CLOSED', `connection to ${this.#options.peer} lost: ${why}`, { cause }),
    );
  }

  #start<A, R>(procedure: Procedure<A, R>, args: A, deadline?: Deadline, hooks?: CallHooks): Promise<R> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#closing) {
      return Promise.reject(
        new LibvirtConnectionError('LIBVIRT_CLOSED', `connection to ${this.#options.peer} is closing`),
      );
    }
    return this.#sendCall(procedure, args, deadline, hooks);
  }

  #sendCall<A, R>(
    procedure: Procedure<A, R>,
    args: A,
    deadline: Deadline = this.#options.callTimeoutMs,
    hooks?: CallHooks,
  ): Promise<R> {
    return new Promise<R>((resolve, reject) => {
      let serial: number | undefined;
      const call: Call = {
        name: procedure.name,
        procedure: procedure.number,
        program: procedure.program,
        payload: encode(procedure.args, args),
        unbounded: deadline === 'none',
        asks: procedure.asks,
        abandoned: false,
        sent: (given) => {
          serial = given;
          hooks?.sent?.(given);
        },
        reply: ({ header, payload }) => {
          clearTimeout(timer);
          if (header.status === MessageStatus.error) reject(decodeError(payload));
          else if (call.abandoned) hooks?.late?.();
          else resolve(decode(procedure.result, payload));
        },
        fail: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
      const expire = (timeoutMs: number): void => {
        const state = serial === undefined ? 'was not sent, others were before it,' : 'was not answered';
        reject(new LibvirtTimeoutError(`${procedure.name} ${state} within ${timeoutMs} ms (${this.#options.peer})`));
        if (serial === undefined) withdraw();
        else this.#abandon(call);
      };
      const withdraw = (): void => void (this.#queue = this.#queue.filter((queued) => queued !== call));
      const timer = deadline === 'none' ? undefined : setTimeout(expire, Math.min(deadline, MAX_TIMER_MS), deadline);
      const { signal } = hooks ?? {};
      const takeBack = (): void => {
        if (serial !== undefined) return;
        withdraw();
        call.fail(signal?.reason as Error);
      };
      if (signal?.aborted === true) {
        takeBack();
        return;
      }
      signal?.addEventListener('abort', takeBack, { once: true });
      this.#queue.push(call);
      this.#pump();
    });
  }

  /** Sends what may be sent. */
  #pump(): void {
    const { maxCallsInFlight } = this.#options;
    const maxUnbounded = Math.max(1, maxCallsInFlight - 1);
    while (this.#inFlight.size < maxCallsInFlight) {
      const index = this.#queue.findIndex((call) => !call.unbounded || this.#unbounded < maxUnbounded);
      const [call] = index < 0 ? [] : this.#queue.splice(index, 1);
      if (call === undefined) return;
      const serial = this.#nextSerial();
      try {
        if (!call.asks) this.#options.assertMayChange?.();
        const { program, procedure } = call;
        const header = { program, procedure, type: MessageType.call, serial, status: MessageStatus.ok };
        const bytes = encodeMessage(header, call.payload);
        this.#inFlight.set(serial, call);
        if (call.unbounded) this.#unbounded++;
        call.sent(serial);
        this.#transport.write(bytes);
      } catch (error) {
        call.fail(error instanceof Error ? error : new Error(String(error)));
      }
    }
  }

  #nextSerial(): number {
    do this.#serial = this.#serial === MAX_SERIAL ? 1 : this.#serial + 1;
    while (this.#inFlight.has(this.#serial) || this.#streams.has(this.#serial));
    return this.#serial;
  }

  #abandon(call: Call): void {
    call.abandoned = true;
    const stuck = [...this.#inFlight.values()].filter(({ abandoned }) => abandoned);
    if (stuck.length < this.#options.maxCallsInFlight) return;
    const names = stuck.map(({ name }) => name).join(', ');
    this.fail(
      new LibvirtConnectionError(
        'LIBVIRT_UNRESPONSIVE',
        `${this.#options.peer} answers none of the calls it holds: ${names}`,
      ),
    );
  }

  #receive(chunk: Buffer): void {
    this.#heard = performance.now();
    this.#unansweredPings = 0;
    try {
      for (const message of this.#reader.push(chunk)) {
        if (this.#failure !== undefined) return;
        this.#dispatch(message);
      }
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      this.fail(
        new LibvirtConnectionError('LIBVIRT_PROTOCOL', `${this.#options.peer} breaks the protocol: ${why}`, { cause }),
      );
    }
  }

  #dispatch(message: Message): void {
    const { header, payload } = message;
    if (header.program.id === keepaliveProgram.id) {
      this.#keepaliveMessage(header);
      return;
    }
    switch (header.type) {
      case MessageType.reply: {
        this.#reply(message);
        return;
      }
      case MessageType.stream:
        // A stream that was aborted may still be spoken to for a while.
        return this.#streams.get(header.serial)?.accept(header.status, payload, decodeError);
      case MessageType.event:
        return this.#events.get(eventKey(header.program.id, header.procedure))?.emit(payload);
      case MessageType.call:
        throw new LibvirtProtocolError('the daemon calls us');
    }
  }

  #reply(message: Message): void {
    const { program, procedure, serial } = message.header;
    const call = this.#inFlight.get(serial);
    // What was under way when we took leave has lost its waiter.
    if (call === undefined && this.#closing) return;
    if (call === undefined) throw new LibvirtProtocolError(`reply to a call that was never made (serial ${serial})`);
    if (call.program.id !== program.id || call.program.version !== program.version || call.procedure !== procedure) {
      throw new LibvirtProtocolError(`reply of procedure ${procedure} to ${call.name}`);
    }
    this.#inFlight.delete(serial);
    if (call.unbounded) this.#unbounded--;
    try {
      call.reply(message);
    } catch (error) {
      // Not to be decoded: the connection is over, and so is this call.
      this.#inFlight.set(serial, call);
      throw error;
    }
    this.#pump();
  }

  #addStream(procedure: { readonly program: Program; readonly number: number }, serial: number): RpcStream {
    const { program, number } = procedure;
    const stream = new RpcStream({
      stallTimeoutMs: this.#options.callTimeoutMs,
      release: () => void this.#streams.delete(serial),
      send: (status, payload) =>
        this.#write(encodeMessage({ program, procedure: number, type: MessageType.stream, serial, status }, payload)),
    });
    this.#streams.set(serial, stream);
    return stream;
  }

  /** Resolves when the transport wants more. */
  async #write(bytes: Buffer): Promise<void> {
    if (this.#failure === undefined && !this.#transport.write(bytes)) {
      await new Promise<void>((resolve) => this.#drained.add(resolve));
    }
    // Failed by now, perhaps while it waited.
    const failure: Error | undefined = this.#failure;
    if (failure !== undefined) throw failure;
  }

  #releaseDrained(): void {
    const waiting = [...this.#drained];
    this.#drained.clear();
    for (const resume of waiting) resume();
  }

  #keepaliveMessage({ procedure }: Header): void {
    if (procedure === keepalivePing) this.#transport.write(this.#keepaliveBytes(keepalivePong));
  }

  #keepaliveBytes(procedure: number): Buffer {
    return encodeMessage(
      { program: keepaliveProgram, procedure, type: MessageType.event, serial: 0, status: MessageStatus.ok },
      EMPTY,
    );
  }

  #scheduleKeepalive(delayMs: number): void {
    this.#keepalive = setTimeout(() => this.#keepaliveTick(), delayMs);
  }

  #keepaliveTick(): void {
    const { intervalMs, count } = this.#options.keepalive;
    const silentMs = performance.now() - this.#heard;
    if (this.#unansweredPings === 0 && silentMs < intervalMs) {
      this.#scheduleKeepalive(intervalMs - silentMs);
      return;
    }
    // If it was us who were held up, the answer is waiting to be read: look before judging.
    if (this.#unansweredPings >= count) {
      this.#verdict = setImmediate(() => this.#keepaliveVerdict(silentMs));
      return;
    }
    this.#unansweredPings++;
    this.#transport.write(this.#keepaliveBytes(keepalivePing));
    this.#scheduleKeepalive(intervalMs);
  }

  #keepaliveVerdict(silentMs: number): void {
    const { intervalMs, count } = this.#options.keepalive;
    if (this.#unansweredPings < count) {
      this.#scheduleKeepalive(intervalMs);
      return;
    }
    this.fail(
      new LibvirtConnectionError(
        'LIBVIRT_UNRESPONSIVE',
        `${this.#options.peer} left ${count} pings unanswered, silent for ${Math.round(silentMs)} ms`,
      ),
    );
  }
}
