import { ALL_32, ALL_48, formatIpv4, formatMac, type Masked, parseIpv4, parseMac, parseMasked } from './addresses.js';
import type { Reader } from './bytes.js';
import { Writer } from './bytes.js';
import { OpenFlowValueError } from './errors.js';
import { FIELD, ONF, readOxmHeader, registerOf, REGISTERS, writeOnfHeader, writeOxmHeader } from './oxm.js';
import type { Match } from './types.js';

const OFPMT_OXM = 1;
/** OFPVID_PRESENT: the frame has a tag. */
const VLAN_PRESENT = 0x1000;
/** The field has 12 bits. */
const ALL_TCP_FLAGS = 0xfff;
const ALL_64 = 2n ** 64n - 1n;

const FRAGMENT = {
  no: { value: 0, mask: 3 },
  any: { value: 1, mask: 1 },
  first: { value: 1, mask: 3 },
  later: { value: 3, mask: 3 },
} as const;

/** struct ofp_match with its padding, OpenFlow 1.3.5 §7.2.3. The same match always gives the same bytes. */
export function writeMatch(w: Writer, match: Match): void {
  const start = w.length;
  w.u16(OFPMT_OXM);
  w.u16(0);
  writeFields(w, match);
  w.patchLength(start + 2, start);
  w.align8(start);
}

/**
 * The fields in an order that puts each one's prerequisites first. Bits outside a mask are cleared, a full mask is left
 * out, and so is a field whose mask is empty: that is how Open vSwitch reports them too.
 */
function writeFields(w: Writer, m: Match): void {
  number(w, FIELD.inPort, 4, m.inPort);
  big(w, FIELD.metadata, m.metadata);
  big(w, FIELD.tunnelId, m.tunnelId);
  ipv4(w, FIELD.tunnelSource, m.tunnelSource);
  mac(w, FIELD.ethDst, m.ethDst);
  mac(w, FIELD.ethSrc, m.ethSrc);
  number(w, FIELD.ethType, 2, m.ethType);
  vlan(w, m.vlanId);
  number(w, FIELD.ipProtocol, 1, m.ipProtocol);
  ipv4(w, FIELD.ipv4Src, m.ipv4Src);
  ipv4(w, FIELD.ipv4Dst, m.ipv4Dst);
  fragment(w, m.ipFragment);
  number(w, FIELD.tcpSrc, 2, m.tcpSrc);
  number(w, FIELD.tcpDst, 2, m.tcpDst);
  tcpFlags(w, m.tcpFlags);
  number(w, FIELD.udpSrc, 2, m.udpSrc);
  number(w, FIELD.udpDst, 2, m.udpDst);
  number(w, FIELD.icmpv4Type, 1, m.icmpv4Type);
  number(w, FIELD.icmpv4Code, 1, m.icmpv4Code);
  number(w, FIELD.arpOp, 2, m.arpOp);
  ipv4(w, FIELD.arpSpa, m.arpSpa);
  ipv4(w, FIELD.arpTpa, m.arpTpa);
  mac(w, FIELD.arpSha, m.arpSha);
  mac(w, FIELD.arpTha, m.arpTha);
  registers(w, m.registers);
  number(w, FIELD.ctState, 4, m.ctState);
  number(w, FIELD.ctZone, 2, m.ctZone);
  number(w, FIELD.ctMark, 4, m.ctMark);
  if (m.other !== undefined) w.bytes(Buffer.from(m.other, 'hex'));
}

type Bytes = 1 | 2 | 4;
const ALL: Readonly<Record<Bytes, number>> = { 1: 0xff, 2: 0xffff, 4: ALL_32 };

function writeUint(w: Writer, bytes: Bytes, value: number): void {
  if (bytes === 1) w.u8(value);
  else if (bytes === 2) w.u16(value);
  else w.u32(value);
}

function number(w: Writer, field: number, bytes: Bytes, wanted: number | Masked | undefined): void {
  if (wanted === undefined) return;
  const { value, mask } = typeof wanted === 'number' ? { value: wanted, mask: ALL[bytes] } : wanted;
  if (mask === 0) return;
  const masked = mask !== ALL[bytes];
  writeOxmHeader(w, field, bytes, masked);
  writeUint(w, bytes, masked ? (value & mask) >>> 0 : value);
  if (masked) writeUint(w, bytes, mask);
}

function big(w: Writer, field: number, wanted: Match['metadata']): void {
  if (wanted === undefined) return;
  const { value, mask } = typeof wanted === 'bigint' ? { value: wanted, mask: ALL_64 } : wanted;
  if (mask === 0n) return;
  const masked = mask !== ALL_64;
  writeOxmHeader(w, field, 8, masked);
  w.u64(value & mask);
  if (masked) w.u64(mask);
}

function mac(w: Writer, field: number, text: string | undefined): void {
  if (text === undefined) return;
  const { value, mask } = parseMasked(text, parseMac, ALL_48);
  if (mask === 0) return;
  const masked = mask !== ALL_48;
  writeOxmHeader(w, field, 6, masked);
  w.u48(masked ? and48(value, mask) : value);
  if (masked) w.u48(mask);
}

const and48 = (a: number, b: number) => ((a / 2 ** 32) & (b / 2 ** 32)) * 2 ** 32 + ((a & b) >>> 0);

function ipv4(w: Writer, field: number, text: string | undefined): void {
  if (text !== undefined) number(w, field, 4, parseMasked(text, parseIpv4, ALL_32));
}

function vlan(w: Writer, wanted: Match['vlanId']): void {
  if (wanted === undefined) return;
  if (wanted === 'none') number(w, FIELD.vlanId, 2, 0);
  else if (wanted === 'any') number(w, FIELD.vlanId, 2, { value: VLAN_PRESENT, mask: VLAN_PRESENT });
  else number(w, FIELD.vlanId, 2, presentVlan(wanted));
}

/** A VLAN id as OpenFlow 1.3 writes it, with the bit that says that there is a tag. */
export function presentVlan(id: number): number {
  if (Number.isInteger(id) && id >= 0 && id <= 0xfff) return id | VLAN_PRESENT;
  throw new OpenFlowValueError(`${id} is not a VLAN id`);
}

function fragment(w: Writer, wanted: Match['ipFragment']): void {
  if (wanted === undefined) return;
  const { value, mask } = FRAGMENT[wanted];
  // The field has two bits in a byte: Open vSwitch takes a full one for an exact match.
  number(w, FIELD.ipFragment, 1, mask === 3 ? value : { value, mask });
}

function tcpFlags(w: Writer, wanted: Match['tcpFlags']): void {
  if (wanted === undefined) return;
  const { value, mask } = typeof wanted === 'number' ? { value: wanted, mask: ALL_TCP_FLAGS } : wanted;
  if (value > ALL_TCP_FLAGS || mask > ALL_TCP_FLAGS) throw new OpenFlowValueError('TCP has 12 bits of flags');
  if (mask === 0) return;
  const masked = mask !== ALL_TCP_FLAGS;
  writeOnfHeader(w, FIELD.tcpFlags, 2, masked);
  w.u16(masked ? value & mask : value);
  if (masked) w.u16(mask);
}

function registers(w: Writer, wanted: Match['registers']): void {
  if (wanted === undefined) return;
  for (const key of Object.keys(wanted)) checkRegister(Number(key));
  for (let register = 0; register < REGISTERS; register++) number(w, FIELD.register0 + register, 4, wanted[register]);
}

export function checkRegister(register: number): number {
  if (registerOf(FIELD.register0 + register) !== undefined && Number.isInteger(register)) return register;
  throw new OpenFlowValueError(`there is no register ${register}: 0 to ${REGISTERS - 1}`);
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** Reads a struct ofp_match. Fields that Match can't express are kept in `other`. Throws MalformedError. */
export function readMatch(r: Reader): Match {
  r.skip(2);
  const length = r.u16();
  const fields = r.part(length - 4);
  r.skip((8 - (length % 8)) % 8);
  const match: Mutable<Match> = {};
  const other = new Writer(0);
  while (fields.left > 0) {
    const { field, masked, length } = readOxmHeader(fields);
    const body = fields.bytes(length);
    if (readField(match, field, masked, body)) continue;
    writeOxmHeader(other, field, masked ? length / 2 : length, masked);
    other.bytes(body);
  }
  if (other.length > 0) match.other = other.done().toString('hex');
  return match;
}

/** Sets the field in the match; false if it is one, or has a length or a mask, that Match can't express. */
function readField(match: Mutable<Match>, field: number, masked: boolean, body: Buffer): boolean {
  const put = <K extends keyof Match>(key: K, value: Mutable<Match>[K]) => {
    if (value === undefined) return false;
    match[key] = value;
    return true;
  };
  const maskable = (bytes: Bytes) => readMasked(body, bytes, masked);
  const exact = (bytes: Bytes) => (masked ? undefined : readMasked(body, bytes, false)?.value);
  switch (field) {
    case FIELD.inPort:
      return put('inPort', exact(4));
    case FIELD.metadata:
      return put('metadata', readBig(body, masked));
    case FIELD.tunnelId:
      return put('tunnelId', readBig(body, masked));
    case FIELD.tunnelSource:
      return put('tunnelSource', readIpv4(maskable(4)));
    case FIELD.ethDst:
      return put('ethDst', readMac(body, masked));
    case FIELD.ethSrc:
      return put('ethSrc', readMac(body, masked));
    case FIELD.ethType:
      return put('ethType', exact(2));
    case FIELD.vlanId:
      return put('vlanId', readVlan(maskable(2)));
    case FIELD.ipProtocol:
      return put('ipProtocol', exact(1));
    case FIELD.ipv4Src:
      return put('ipv4Src', readIpv4(maskable(4)));
    case FIELD.ipv4Dst:
      return put('ipv4Dst', readIpv4(maskable(4)));
    case FIELD.ipFragment:
      return put('ipFragment', readFragment(maskable(1)));
    case FIELD.tcpSrc:
      return put('tcpSrc', plain(maskable(2), 2));
    case FIELD.tcpDst:
      return put('tcpDst', plain(maskable(2), 2));
    case FIELD.tcpFlags:
      return put('tcpFlags', readTcpFlags(body, masked));
    case FIELD.udpSrc:
      return put('udpSrc', plain(maskable(2), 2));
    case FIELD.udpDst:
      return put('udpDst', plain(maskable(2), 2));
    case FIELD.icmpv4Type:
      return put('icmpv4Type', exact(1));
    case FIELD.icmpv4Code:
      return put('icmpv4Code', exact(1));
    case FIELD.arpOp:
      return put('arpOp', exact(2));
    case FIELD.arpSpa:
      return put('arpSpa', readIpv4(maskable(4)));
    case FIELD.arpTpa:
      return put('arpTpa', readIpv4(maskable(4)));
    case FIELD.arpSha:
      return put('arpSha', readMac(body, masked));
    case FIELD.arpTha:
      return put('arpTha', readMac(body, masked));
    case FIELD.ctState:
      return put('ctState', maskable(4));
    case FIELD.ctZone:
      return put('ctZone', exact(2));
    case FIELD.ctMark:
      return put('ctMark', plain(maskable(4), 4));
    default: {
      const register = registerOf(field);
      const value = register === undefined ? undefined : plain(maskable(4), 4);
      if (register === undefined || value === undefined) return false;
      return put('registers', { ...match.registers, [register]: value });
    }
  }
}

/** Undefined if the length is not that of the field. */
function readMasked(body: Buffer, bytes: Bytes, masked: boolean): Masked | undefined {
  if (body.length !== (masked ? 2 * bytes : bytes)) return undefined;
  return { value: body.readUIntBE(0, bytes), mask: masked ? body.readUIntBE(bytes, bytes) : ALL[bytes] };
}

const plain = (masked: Masked | undefined, bytes: Bytes) => (masked?.mask === ALL[bytes] ? masked.value : masked);

function readBig(body: Buffer, masked: boolean): Match['metadata'] {
  if (body.length !== (masked ? 16 : 8)) return undefined;
  const value = body.readBigUInt64BE(0);
  const mask = masked ? body.readBigUInt64BE(8) : ALL_64;
  return mask === ALL_64 ? value : { value, mask };
}

function readMac(body: Buffer, masked: boolean): string | undefined {
  if (body.length !== (masked ? 12 : 6)) return undefined;
  const value = formatMac(body.readUIntBE(0, 6));
  const mask = masked ? body.readUIntBE(6, 6) : ALL_48;
  return mask === ALL_48 ? value : `${value}/${formatMac(mask)}`;
}

function readIpv4(masked: Masked | undefined): string | undefined {
  if (masked === undefined) return undefined;
  const { value, mask } = masked;
  return mask === ALL_32 ? formatIpv4(value) : `${formatIpv4(value)}/${formatIpv4(mask)}`;
}

function readVlan(masked: Masked | undefined): Match['vlanId'] {
  if (masked === undefined) return undefined;
  const { value, mask } = masked;
  if (mask === VLAN_PRESENT && value === VLAN_PRESENT) return 'any';
  // The field has 13 bits.
  if ((mask & 0x1fff) !== 0x1fff) return undefined;
  if (value === 0) return 'none';
  return value < VLAN_PRESENT || value > 0x1fff ? undefined : value & 0xfff;
}

function readTcpFlags(body: Buffer, masked: boolean): Match['tcpFlags'] {
  if (body.length < 4 || body.readUInt32BE(0) !== ONF) return undefined;
  const read = readMasked(body.subarray(4), 2, masked);
  if (read === undefined) return undefined;
  const { value, mask } = read;
  if (value > ALL_TCP_FLAGS) return undefined;
  return (mask & ALL_TCP_FLAGS) === ALL_TCP_FLAGS ? value : { value, mask: mask & ALL_TCP_FLAGS };
}

function readFragment(masked: Masked | undefined): Match['ipFragment'] {
  if (masked === undefined) return undefined;
  const mask = masked.mask & 3;
  if (mask === 1 && masked.value === 1) return 'any';
  if (mask !== 3) return undefined;
  switch (masked.value) {
    case 0:
      return 'no';
    case 1:
      return 'first';
    case 3:
      return 'later';
    default:
      return undefined;
  }
}
