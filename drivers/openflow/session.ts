import type { Session, Wire } from '../wire/link.js';
import { MalformedError } from '../wire/malformed.js';
import { toError } from '../wire/to-error.js';
import { Waiters } from '../wire/waiters.js';
import { Writer } from './bytes.js';
import { OpenFlowError, OpenFlowTimeoutError, OpenFlowValueError } from './errors.js';
import {
  type BundleStep,
  Framer,
  type Message,
  type MeterStep,
  type Part,
  readMessage,
  writeBarrierRequest,
  writeBundleAdd,
  writeBundleControl,
  writeEchoReply,
  writeEchoRequest,
  writeFeaturesRequest,
  writeFlowsRequest,
  writeFlushZone,
  writeHello,
  writeMeterMod,
  writeMetersRequest,
  writePacketOut,
  writePortsRequest,
  writeSetConfig,
} from './messages.js';
import type { Action, Flow, FlowChange, FlowFilter, Meter, MeterId, MeterRate, PortDescription } from './types.js';

/** What a switch tells unasked. */
export type Event = Extract<Message, { type: 'packetIn' | 'flowRemoved' }>;

interface SessionOptions {
  readonly endpoint: string;
  readonly callTimeoutMs: number;
  readonly event: (event: Event) => void;
}

/** A switch that never ends its list of flows would fill our memory. Some 400,000 flows are this long. */
const MAX_ANSWER_BYTES = 64 * 2 ** 20;

/** Requests that have no reply of their own, with consecutive xids: the first error to one of them is noted here. */
interface Batch {
  readonly firstXid: number;
  readonly count: number;
  refused?: { readonly position: number; readonly type: number; readonly code: number };
}

/** HELLO comes with an xid of the switch's choice; we never use this one. */
const HELLO_XID = 0;
const OFPET_HELLO_FAILED = 0;

/** One connection to a switch: handshake, calls by xid, events. */
export class OpenFlowSession implements Session {
  readonly #framer = new Framer();
  readonly #waiters = new Waiters<Message>();
  readonly #batches = new Set<Batch>();
  #datapathId = 0n;
  #nextXid = HELLO_XID + 1;
  #nextBundle = 1;

  constructor(
    private readonly wire: Wire,
    private readonly options: SessionOptions,
  ) {}

  /** Known once the session is up. */
  get datapathId(): bigint {
    return this.#datapathId;
  }

  open(): void {
    this.#handshake().catch((error: unknown) => this.wire.drop(toError(error)));
  }

  receive(chunk: Buffer): boolean {
    let ended = false;
    for (const frame of this.#framer.push(chunk)) {
      this.#handle(readMessage(frame));
      ended = true;
    }
    return ended;
  }

  probe(): void {
    this.#send((w) => writeEchoRequest(w, this.#takeXids(1)));
  }

  lost(error: Error): void {
    this.#waiters.failAll(error);
  }

  async readFlows(filter: FlowFilter, each: (flow: Flow) => void): Promise<void> {
    const write = (w: Writer, xid: number) => writeFlowsRequest(w, xid, filter);
    await this.#list('a flow request', write, (reply) => {
      if (reply.type !== 'flows') throw unexpected(reply);
      reply.flows.forEach(each);
      return { ...reply, items: [] };
    });
  }

  ports(): Promise<PortDescription[]> {
    return this.#list('a port request', writePortsRequest, (reply) => {
      if (reply.type === 'ports') return { ...reply, items: reply.ports };
      throw unexpected(reply);
    });
  }

  meters(): Promise<Meter[]> {
    return this.#list('a meter request', writeMetersRequest, (reply) => {
      if (reply.type === 'meters') return { ...reply, items: reply.meters };
      throw unexpected(reply);
    });
  }

  barrier(): Promise<void> {
    return this.#call('a barrier', writeBarrierRequest, (reply) => acknowledged(reply, 'barrierReply'));
  }

  packetOut(inPort: number, actions: readonly Action[], data: Uint8Array): Promise<void> {
    return this.#command('a packet-out', (w, xid) => writePacketOut(w, xid, inPort, actions, data));
  }

  async setMeter(id: MeterId, rate: MeterRate): Promise<void> {
    const step = (step: MeterStep) => this.#command('a meter', (w, xid) => writeMeterMod(w, xid, step, id, rate));
    try {
      await step('add');
    } catch (error) {
      if (!(error instanceof OpenFlowError && error.errorName === 'OFPMMFC_METER_EXISTS')) throw error;
      await step('modify');
    }
  }

  removeMeter(id: MeterId): Promise<void> {
    return this.#command('the removal of a meter', (w, xid) => writeMeterMod(w, xid, 'delete', id));
  }

  flushConnections(zone: number): Promise<void> {
    return this.#command('the flush of a zone', (w, xid) => writeFlushZone(w, xid, zone));
  }

  /**
   * All changes go out in one write. Open vSwitch keeps a bundle whose message it refused, and would commit the rest:
   * so the commit waits for the answer to the close, which comes after all refusals.
   */
  async bundle(changes: readonly FlowChange[]): Promise<void> {
    const bundle = this.#nextBundle++;
    const batch = this.#startBatch(1 + changes.length);
    const control = (step: BundleStep) => (w: Writer, xid: number) => writeBundleControl(w, xid, bundle, step);
    const acknowledge = (reply: Message) => acknowledged(reply, 'bundleReply');
    try {
      const closed = this.#call(
        'a bundle',
        (w, xid) => {
          control('open')(w, batch.firstXid);
          changes.forEach((change, index) => writeChange(w, batch.firstXid + 1 + index, bundle, change, index));
          control('close')(w, xid);
        },
        acknowledge,
      );
      await this.#refusedFirst(batch, [closed]);
      const committed = this.#call('a bundle commit', control('commit'), acknowledge);
      await this.#refusedFirst(batch, [committed, this.barrier()]);
    } catch (error) {
      if (error instanceof OpenFlowError) this.#send((w) => control('discard')(w, this.#takeXids(1)));
      throw error;
    } finally {
      this.#batches.delete(batch);
    }
  }

  /** The refusal of one change says more than what becomes of the bundle by it. */
  async #refusedFirst(batch: Batch, calls: readonly Promise<void>[]): Promise<void> {
    const results = await Promise.allSettled(calls);
    if (batch.refused !== undefined) throw this.#refusal('a bundle', batch.refused);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  #refusal(what: string, { position, type, code }: NonNullable<Batch['refused']>): OpenFlowError {
    const where = `${this.options.endpoint}: ${what}`;
    // The bundle's open comes first, then the changes.
    return position === 0 ? new OpenFlowError(where, type, code) : new OpenFlowError(where, type, code, position - 1);
  }

  async #handshake(): Promise<void> {
    const hello = this.#waiters.wait(HELLO_XID, this.options.callTimeoutMs, this.#timedOut('HELLO'), (reply) => {
      if (reply.type === 'hello' && reply.understood) return DONE;
      throw new MalformedError('the switch does not speak OpenFlow 1.3');
    });
    this.#send((w) => writeHello(w, this.#takeXids(1)));
    await hello;
    const features = this.#call('a features request', writeFeaturesRequest, (reply) => {
      if (reply.type === 'featuresReply') return { result: reply.datapathId };
      throw unexpected(reply);
    });
    const configured = this.#command('its configuration', writeSetConfig);
    [this.#datapathId] = await Promise.all([features, configured]);
    this.wire.up();
  }

  #handle(message: Message): void {
    switch (message.type) {
      case 'hello':
        this.#waiters.deliver(HELLO_XID, message);
        return;
      case 'echoRequest': {
        this.#send((w) => writeEchoReply(w, message.xid, message.payload));
        return;
      }
      case 'error': {
        this.#handleError(message.xid, message.errorType, message.errorCode);
        return;
      }
      case 'packetIn':
      case 'flowRemoved': {
        this.options.event(message);
        return;
      }
      case 'featuresReply':
      case 'flows':
      case 'ports':
      case 'meters':
      case 'barrierReply':
      case 'bundleReply':
      case 'other':
        this.#waiters.deliver(message.xid, message);
        return;
    }
  }

  #handleError(xid: number, type: number, code: number): void {
    if (type === OFPET_HELLO_FAILED) throw new OpenFlowError(this.options.endpoint, type, code);
    for (const batch of this.#batches) {
      const position = xid - batch.firstXid;
      if (position >= 0 && position < batch.count) batch.refused ??= { position, type, code };
    }
    this.#waiters.fail(xid, new OpenFlowError(this.options.endpoint, type, code));
  }

  /** A request whose answer comes in parts. */
  #list<T>(
    what: string,
    write: (w: Writer, xid: number) => void,
    read: (reply: Message) => Part & { readonly items: readonly T[] },
  ): Promise<T[]> {
    const all: T[] = [];
    let size = 0;
    return this.#call(what, write, (reply) => {
      const { items, more, bytes } = read(reply);
      size += bytes;
      if (size > MAX_ANSWER_BYTES) throw new MalformedError(`an answer of more than ${MAX_ANSWER_BYTES} bytes`);
      for (const item of items) all.push(item);
      return more ? undefined : { result: all };
    });
  }

  #call<T>(
    what: string,
    write: (w: Writer, xid: number) => void,
    take: (reply: Message) => { readonly result: T } | undefined,
  ): Promise<T> {
    const xid = this.#takeXids(1);
    const w = new Writer();
    write(w, xid);
    const reply = this.#waiters.wait(xid, this.options.callTimeoutMs, this.#timedOut(what), take);
    this.wire.send(w.done());
    return reply;
  }

  /** A request that is answered only if it is refused: when the barrier after it is answered, it is done. */
  async #command(what: string, write: (w: Writer, xid: number) => void): Promise<void> {
    const batch = this.#startBatch(1);
    try {
      this.#send((w) => write(w, batch.firstXid));
      await this.barrier();
      if (batch.refused !== undefined) throw this.#refusal(what, batch.refused);
    } finally {
      this.#batches.delete(batch);
    }
  }

  #send(write: (w: Writer) => void): void {
    const w = new Writer();
    write(w);
    this.wire.send(w.done());
  }

  #startBatch(count: number): Batch {
    const batch: Batch = { firstXid: this.#takeXids(count), count };
    this.#batches.add(batch);
    return batch;
  }

  /** The first of `count` consecutive xids. They wrap around at 32 bits, never inside a batch. */
  #takeXids(count: number): number {
    if (this.#nextXid + count > 0xffff_ffff) this.#nextXid = HELLO_XID + 1;
    const first = this.#nextXid;
    this.#nextXid += count;
    return first;
  }

  #timedOut(what: string): () => Error {
    const { endpoint, callTimeoutMs } = this.options;
    return () => new OpenFlowTimeoutError(`${endpoint}: no answer to ${what} within ${callTimeoutMs} ms`);
  }
}

const DONE = { result: undefined };

function acknowledged(reply: Message, type: Message['type']): typeof DONE {
  if (reply.type === type) return DONE;
  throw unexpected(reply);
}

const unexpected = (reply: Message) => new MalformedError(`an answer of type ${reply.type} to another question`);

function writeChange(w: Writer, xid: number, bundle: number, change: FlowChange, index: number): void {
  try {
    writeBundleAdd(w, xid, bundle, change);
  } catch (error) {
    if (error instanceof OpenFlowValueError)
      throw new OpenFlowValueError(`change ${index}: ${error.message}`, { cause: error });
    throw error;
  }
}
