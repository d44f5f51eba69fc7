import { NICIRA, PORT, readInstructions, writeActions, writeInstructions } from './actions.js';
import { formatMac } from './addresses.js';
import type { Writer } from './bytes.js';
import { Reader } from './bytes.js';
import { OpenFlowValueError } from './errors.js';
import { readMatch, writeMatch } from './match.js';
import { ONF } from './oxm.js';
import { MalformedError } from '../wire/malformed.js';
import type {
  Action,
  Flow,
  FlowChange,
  FlowFilter,
  Match,
  Meter,
  MeterId,
  MeterRate,
  PortDescription,
} from './types.js';

/** OpenFlow 1.3. */
const VERSION = 0x04;
const HEADER_BYTES = 8;

/** enum ofp_type, §7.1. */
const OFPT = {
  hello: 0,
  error: 1,
  echoRequest: 2,
  echoReply: 3,
  experimenter: 4,
  featuresRequest: 5,
  featuresReply: 6,
  setConfig: 9,
  packetIn: 10,
  flowRemoved: 11,
  packetOut: 13,
  flowMod: 14,
  multipartRequest: 18,
  multipartReply: 19,
  barrierRequest: 20,
  barrierReply: 21,
  meterMod: 29,
} as const;

const OFPMP = { flow: 1, meterConfig: 10, portDescription: 13 } as const;
const MORE = 1;

const NO_BUFFER = 0xffff_ffff;
const NO_GROUP = 0xffff_ffff;
const ALL_TABLES = 0xff;
const ALL_COOKIE_BITS = 2n ** 64n - 1n;
const OFPFC = { add: 0, delete: 3, deleteStrict: 4 } as const;
const SEND_FLOW_REMOVED = 1;
const REMOVED_BY_DELETE = 2;

/** OFPC_FRAG_NX_MATCH, Open vSwitch's: else all fragments have port 0, and a first one evades a rule on its port. */
const MATCH_FRAGMENTS = 3;

/** §7.3.4.5. */
const OFPMC = { add: 0, modify: 1, delete: 2 } as const;
export type MeterStep = keyof typeof OFPMC;
const OFPM = { controller: 0xffff_fffe, all: 0xffff_ffff } as const;
const PACKETS_AND_BURST = 0b0110;
const OFPMBT_DROP = 1;
const BAND_BYTES = 16;

/** NXT_CT_FLUSH_ZONE */
const NXT_FLUSH_ZONE = 29;

/** The ONF's extensions to 1.3; EXT-230 is the bundle, whose layouts and numbers OpenFlow 1.4 took over. */
const ONFT = { bundleControl: 2300, bundleAdd: 2301 } as const;
const BUNDLE_FLAGS = 0b11; // atomic and ordered
/** enum ofp_bundle_ctrl_type: requests are even, each one's reply is one more. */
const BUNDLE = { open: 0, close: 2, commit: 4, discard: 6 } as const;
export type BundleStep = keyof typeof BUNDLE;

/** A part of an answer: whether it is not the last, and how long the message was. */
export interface Part {
  readonly more: boolean;
  readonly bytes: number;
}

/** What a switch sends, decoded; `other` is what we have no use for. */
export type Message = { readonly xid: number } & (
  | { readonly type: 'hello'; readonly understood: boolean }
  | { readonly type: 'error'; readonly errorType: number; readonly errorCode: number }
  | { readonly type: 'echoRequest'; readonly payload: Buffer }
  | { readonly type: 'featuresReply'; readonly datapathId: bigint }
  | {
      readonly type: 'packetIn';
      readonly table: number;
      readonly cookie: bigint;
      readonly match: Match;
      readonly data: Buffer;
    }
  | {
      readonly type: 'flowRemoved';
      readonly byDelete: boolean;
      readonly table: number;
      readonly priority: number;
      readonly cookie: bigint;
      readonly match: Match;
    }
  | ({ readonly type: 'flows'; readonly flows: readonly Flow[] } & Part)
  | ({ readonly type: 'ports'; readonly ports: readonly PortDescription[] } & Part)
  | ({ readonly type: 'meters'; readonly meters: readonly Meter[] } & Part)
  | { readonly type: 'barrierReply' }
  | { readonly type: 'bundleReply' }
  | { readonly type: 'other' }
);

function message(w: Writer, type: number, xid: number, body: () => void): void {
  const start = w.length;
  w.u8(VERSION);
  w.u8(type);
  w.u16(0);
  w.u32(xid);
  body();
  w.patchLength(start + 2, start);
}

const nothing = () => undefined;

/** HELLO with a bitmap of the one version we speak, §7.5.1. */
export function writeHello(w: Writer, xid: number): void {
  message(w, OFPT.hello, xid, () => {
    w.u16(1);
    w.u16(8);
    w.u32(1 << VERSION);
  });
}

export function writeEchoRequest(w: Writer, xid: number): void {
  message(w, OFPT.echoRequest, xid, nothing);
}

export function writeEchoReply(w: Writer, xid: number, payload: Uint8Array): void {
  message(w, OFPT.echoReply, xid, () => w.bytes(payload));
}

export function writeFeaturesRequest(w: Writer, xid: number): void {
  message(w, OFPT.featuresRequest, xid, nothing);
}

/** Whole packets to us, fragments matched as what they are. A passive listener sends nothing unasked before it has got this. */
export function writeSetConfig(w: Writer, xid: number): void {
  message(w, OFPT.setConfig, xid, () => {
    w.u16(MATCH_FRAGMENTS);
    w.u16(0xffff);
  });
}

export function writeBarrierRequest(w: Writer, xid: number): void {
  message(w, OFPT.barrierRequest, xid, nothing);
}

export function writeFlowsRequest(w: Writer, xid: number, { table, cookie, cookieMask }: FlowFilter): void {
  multipart(w, OFPMP.flow, xid, () => {
    w.u8(table ?? ALL_TABLES);
    w.zeros(3);
    w.u32(PORT.any);
    w.u32(NO_GROUP);
    w.zeros(4);
    w.u64(cookie ?? 0n);
    w.u64(cookie === undefined ? 0n : (cookieMask ?? ALL_COOKIE_BITS));
    writeMatch(w, {});
  });
}

export function writePortsRequest(w: Writer, xid: number): void {
  multipart(w, OFPMP.portDescription, xid, nothing);
}

export function writeMetersRequest(w: Writer, xid: number): void {
  multipart(w, OFPMP.meterConfig, xid, () => {
    w.u32(OFPM.all);
    w.zeros(4);
  });
}

/** One band that drops what exceeds the rate; none where a meter goes away. */
export function writeMeterMod(w: Writer, xid: number, step: MeterStep, id: MeterId, rate?: MeterRate): void {
  message(w, OFPT.meterMod, xid, () => {
    w.u16(OFPMC[step]);
    w.u16(PACKETS_AND_BURST);
    w.u32(id === 'controller' ? OFPM.controller : id);
    if (rate === undefined) return;
    if (rate.packetsPerSecond < 1 || rate.burst < 1)
      throw new OpenFlowValueError('a meter lets through at least one packet');
    w.u16(OFPMBT_DROP);
    w.u16(BAND_BYTES);
    w.u32(rate.packetsPerSecond);
    w.u32(rate.burst);
    w.zeros(4);
  });
}

export function writeFlushZone(w: Writer, xid: number, zone: number): void {
  experimenter(w, NICIRA, NXT_FLUSH_ZONE, xid, () => {
    w.zeros(6);
    w.u16(zone);
  });
}

function multipart(w: Writer, type: number, xid: number, body: () => void): void {
  message(w, OFPT.multipartRequest, xid, () => {
    w.u16(type);
    w.zeros(6);
    body();
  });
}

export function writePacketOut(
  w: Writer,
  xid: number,
  inPort: number,
  actions: readonly Action[],
  data: Uint8Array,
): void {
  message(w, OFPT.packetOut, xid, () => {
    w.u32(NO_BUFFER);
    w.u32(inPort);
    const lengthAt = w.length;
    w.zeros(8);
    const start = w.length;
    writeActions(w, actions);
    w.patchLength(lengthAt, start);
    w.bytes(data);
  });
}

export function writeBundleControl(w: Writer, xid: number, bundle: number, step: BundleStep): void {
  experimenter(w, ONF, ONFT.bundleControl, xid, () => {
    w.u32(bundle);
    w.u16(BUNDLE[step]);
    w.u16(BUNDLE_FLAGS);
  });
}

/** The message inside carries the same xid as the one around it, as EXT-230 wants. */
export function writeBundleAdd(w: Writer, xid: number, bundle: number, change: FlowChange): void {
  experimenter(w, ONF, ONFT.bundleAdd, xid, () => {
    w.u32(bundle);
    w.zeros(2);
    w.u16(BUNDLE_FLAGS);
    writeFlowMod(w, xid, change);
  });
}

function experimenter(w: Writer, whose: number, type: number, xid: number, body: () => void): void {
  message(w, OFPT.experimenter, xid, () => {
    w.u32(whose);
    w.u32(type);
    body();
  });
}

export function writeFlowMod(w: Writer, xid: number, change: FlowChange): void {
  switch (change.kind) {
    case 'add': {
      const { table, priority, cookie, match, instructions } = change.flow;
      const head = { command: OFPFC.add, table, priority, cookie, cookieMask: 0n, match };
      flowMod(w, xid, head, () => writeInstructions(w, instructions));
      return;
    }
    case 'remove': {
      const { table, priority, cookie, match } = change.flow;
      const head = { command: OFPFC.deleteStrict, table, priority, cookie, cookieMask: ALL_COOKIE_BITS, match };
      flowMod(w, xid, head, nothing);
      return;
    }
    case 'removeAll': {
      const { table = ALL_TABLES, cookie, cookieMask = ALL_COOKIE_BITS } = change.filter;
      const mask = cookie === undefined ? 0n : cookieMask;
      const head = { command: OFPFC.delete, table, priority: 0, cookie: cookie ?? 0n, cookieMask: mask, match: {} };
      flowMod(w, xid, head, nothing);
      return;
    }
  }
}

interface FlowModHead {
  readonly command: number;
  readonly table: number;
  readonly priority: number;
  readonly cookie: bigint;
  readonly cookieMask: bigint;
  readonly match: Match;
}

/** struct ofp_flow_mod, §7.3.4.1: no time-outs, and word to us when the flow goes. */
function flowMod(w: Writer, xid: number, head: FlowModHead, instructions: () => void): void {
  message(w, OFPT.flowMod, xid, () => {
    w.u64(head.cookie);
    w.u64(head.cookieMask);
    w.u8(head.table);
    w.u8(head.command);
    w.zeros(4);
    w.u16(head.priority);
    w.u32(NO_BUFFER);
    w.u32(PORT.any);
    w.u32(NO_GROUP);
    w.u16(head.command === OFPFC.add ? SEND_FLOW_REMOVED : 0);
    w.zeros(2);
    writeMatch(w, head.match);
    instructions();
  });
}

/** Decodes one whole message. Throws MalformedError. */
export function readMessage(frame: Buffer): Message {
  const r = new Reader(frame);
  const version = r.u8();
  const type = r.u8();
  r.skip(2);
  const xid = r.u32();
  if (type === OFPT.hello) return { xid, type: 'hello', understood: readHello(version, r) };
  // Before versions are agreed on, errors and echoes may come in the switch's own version.
  if (type === OFPT.error) return { xid, type: 'error', ...readError(r) };
  if (version !== VERSION)
    throw new MalformedError(`a message of OpenFlow version ${version} where ${VERSION} was agreed on`);
  switch (type) {
    case OFPT.echoRequest:
      return { xid, type: 'echoRequest', payload: r.bytes(r.left) };
    case OFPT.featuresReply:
      return { xid, type: 'featuresReply', datapathId: r.u64() };
    case OFPT.packetIn:
      return { xid, type: 'packetIn', ...readPacketIn(r) };
    case OFPT.flowRemoved:
      return { xid, type: 'flowRemoved', ...readFlowRemoved(r) };
    case OFPT.multipartReply:
      return readMultipart(xid, r);
    case OFPT.barrierReply:
      return { xid, type: 'barrierReply' };
    case OFPT.experimenter:
      return r.u32() === ONF && r.u32() === ONFT.bundleControl ? { xid, type: 'bundleReply' } : { xid, type: 'other' };
    default:
      return { xid, type: 'other' };
  }
}

/** §7.5.1: the bitmap decides where there is one, else the lower of the two highest versions. */
function readHello(version: number, r: Reader): boolean {
  while (r.left >= 4) {
    const length = r.peekU16(2);
    if (length < 4) throw new MalformedError(`a HELLO element of ${length} bytes`);
    const element = r.part(length);
    const isBitmap = element.u16() === 1;
    element.skip(2);
    if (isBitmap && element.left >= 4) return (element.u32() & (1 << VERSION)) !== 0;
    r.skip(Math.min(r.left, (8 - (length % 8)) % 8));
  }
  return version >= VERSION;
}

function readError(r: Reader): { errorType: number; errorCode: number } {
  const errorType = r.u16();
  return { errorType, errorCode: r.u16() };
}

function readPacketIn(r: Reader): { table: number; cookie: bigint; match: Match; data: Buffer } {
  r.skip(7); // buffer id, total length, reason
  const table = r.u8();
  const cookie = r.u64();
  const match = readMatch(r);
  r.skip(2);
  // A copy: the frame is part of a larger buffer that would live as long as the packet.
  return { table, cookie, match, data: Buffer.from(r.bytes(r.left)) };
}

function readFlowRemoved(r: Reader): {
  byDelete: boolean;
  table: number;
  priority: number;
  cookie: bigint;
  match: Match;
} {
  const cookie = r.u64();
  const priority = r.u16();
  const byDelete = r.u8() === REMOVED_BY_DELETE;
  const table = r.u8();
  r.skip(28); // duration, time-outs, counters
  return { byDelete, table, priority, cookie, match: readMatch(r) };
}

function readMultipart(xid: number, r: Reader): Message {
  const bytes = HEADER_BYTES + r.left;
  const type = r.u16();
  const more = (r.u16() & MORE) !== 0;
  r.skip(4);
  const part = { xid, more, bytes };
  if (type === OFPMP.flow) return { ...part, type: 'flows', flows: readAll(r, readFlow) };
  if (type === OFPMP.portDescription) return { ...part, type: 'ports', ports: readAll(r, readPort) };
  if (type === OFPMP.meterConfig) return { ...part, type: 'meters', meters: readAll(r, readMeter) };
  return { xid, type: 'other' };
}

function readAll<T>(r: Reader, read: (r: Reader) => T): T[] {
  const all: T[] = [];
  while (r.left > 0) all.push(read(r));
  return all;
}

/** struct ofp_flow_stats, §7.3.5.2. */
function readFlow(whole: Reader): Flow {
  const length = whole.peekU16(0);
  const r = whole.part(length);
  r.skip(2);
  const table = r.u8();
  r.skip(9); // duration
  const priority = r.u16();
  const idleSeconds = r.u16();
  const hardSeconds = r.u16();
  r.skip(6); // flags
  const cookie = r.u64();
  r.skip(16); // counters
  const match = readMatch(r);
  const flow: Flow = { table, priority, cookie, match, instructions: readInstructions(r) };
  return idleSeconds === 0 && hardSeconds === 0 ? flow : { ...flow, timeouts: { idleSeconds, hardSeconds } };
}

/** struct ofp_port, §7.2.1. */
function readPort(r: Reader): PortDescription {
  const port = r.u32();
  r.skip(4);
  const mac = formatMac(r.u48());
  r.skip(2);
  const name = r.bytes(16).toString('utf8').replace(/\0.*$/s, '');
  r.skip(32);
  return { port, name, mac };
}

/** struct ofp_meter_config, §7.3.5.14. */
function readMeter(whole: Reader): Meter {
  const r = whole.part(whole.peekU16(0));
  r.skip(2);
  const flags = r.u16();
  const number = r.u32();
  const id = number === OFPM.controller ? 'controller' : number;
  if (flags !== PACKETS_AND_BURST || r.left !== BAND_BYTES) return { id };
  const type = r.u16();
  r.skip(2);
  const rate = { packetsPerSecond: r.u32(), burst: r.u32() };
  return type === OFPMBT_DROP ? { id, rate } : { id };
}

/** Cuts a stream of bytes into OpenFlow messages. At most one incomplete message (64 KiB) is held back. */
export class Framer {
  #chunks: Buffer[] = [];
  #held = 0;
  #wanted = HEADER_BYTES;

  /** The messages that are complete with this chunk, as views into it. Throws MalformedError. */
  *push(chunk: Buffer): Generator<Buffer> {
    this.#chunks.push(chunk);
    this.#held += chunk.length;
    if (this.#held < this.#wanted) return;
    const data = this.#chunks.length === 1 ? chunk : Buffer.concat(this.#chunks, this.#held);
    let at = 0;
    for (;;) {
      const left = data.length - at;
      this.#wanted = left < HEADER_BYTES ? HEADER_BYTES : data.readUInt16BE(at + 2);
      if (this.#wanted < HEADER_BYTES) throw new MalformedError(`a message of ${this.#wanted} bytes`);
      if (left < this.#wanted) break;
      yield data.subarray(at, at + this.#wanted);
      at += this.#wanted;
    }
    this.#chunks = [data.subarray(at)];
    this.#held = data.length - at;
  }
}
