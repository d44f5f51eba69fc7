import type { Match } from '../openflow/index.js';
import { unsupported } from './errors.js';
import { digest, isPort, MAX_LONG, readLong, readNumber } from './notation.js';

const ETH_TYPE = { ipv4: 0x0800, arp: 0x0806, ipv6: 0x86dd } as const;
const IP_PROTOCOL = { icmp: 1, tcp: 6, udp: 17 } as const;
const PORT_LOCAL = 0xffff_fffe;
const VLAN_PRESENT = 0x1000;
const ANY_VLAN = '0x1000/0x1000';
const ALL_64 = 2n ** 64n - 1n;

/** Floodlight has no word for them, or was never seen to take it. */
const inexpressible = [
  'tunnelSource',
  'ipFragment',
  'tcpFlags',
  'registers',
  'ctState',
  'ctZone',
  'ctMark',
  'other',
] as const;
type Field = Exclude<keyof Match, (typeof inexpressible)[number]>;

/** How a field is called and written. `write` gives undefined for what is no condition, `read` for what it doesn't understand. */
interface Column<T> {
  readonly name: string;
  readonly write: (value: T) => string | undefined;
  readonly read: (text: string) => T | undefined;
}

type Bytes = readonly number[];

/** How an address is written. */
interface Notation {
  readonly pattern: RegExp;
  readonly parse: (text: string) => Bytes;
  readonly format: (bytes: Bytes) => string;
}

const MAC: Notation = {
  pattern: /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i,
  parse: (text) => text.split(':').map((byte) => Number.parseInt(byte, 16)),
  format: (bytes) => bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':'),
};

const IPV4: Notation = {
  pattern: /^(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}$/,
  parse: (text) => text.split('.').map(Number),
  format: (bytes) => bytes.join('.'),
};

/** Bits outside the mask are cleared, as Open vSwitch wants and reports it. */
function address(name: string, notation: Notation, writeMask: (mask: Bytes) => string): Column<string> {
  const { pattern, parse, format } = notation;
  return {
    name,
    write: (text) => {
      const [value = '', masked] = text.split('/');
      if (masked === undefined) return format(parse(value));
      const mask = parse(masked);
      if (mask.every((byte) => byte === 0)) return undefined;
      const bits = format(parse(value).map((byte, index) => byte & (mask[index] ?? 0)));
      return mask.every((byte) => byte === 0xff) ? bits : `${bits}/${writeMask(mask)}`;
    },
    read: (text) => {
      const parts = text.split('/');
      return parts.length <= 2 && parts.every((part) => pattern.test(part)) ? text.toLowerCase() : undefined;
    },
  };
}

function prefixLength(mask: Bytes): string {
  const bits = mask.map((byte) => byte.toString(2).padStart(8, '0')).join('');
  const [, ones] = /^(1+)0*$/.exec(bits) ?? [];
  if (ones === undefined) throw unsupported(`the mask ${IPV4.format(mask)} is not that of a prefix`);
  return String(ones.length);
}

const noMask = (name: string) => () => {
  throw unsupported(`${name} with a mask`);
};

const mac = (name: string) => address(name, MAC, MAC.format);
const ipv4 = (name: string) => address(name, IPV4, prefixLength);
const exact = (name: string, notation: Notation) => address(name, notation, noMask(name));

function integer(name: string, max: number, write: (value: number) => string = String): Column<number> {
  return { name, write, read: (text) => readNumber(text, max) };
}

function transportPort(name: string): Column<NonNullable<Match['tcpSrc']>> {
  return {
    name,
    write: (port) => (typeof port === 'number' ? String(port) : noMask(name)()),
    read: (text) => readNumber(text, 0xffff),
  };
}

function long(name: string, radix: 10 | 16): Column<bigint | { readonly value: bigint; readonly mask: bigint }> {
  return {
    name,
    write: (wanted) => {
      const { value, mask } = typeof wanted === 'bigint' ? { value: wanted, mask: ALL_64 } : wanted;
      if (mask === 0n) return undefined;
      if (mask !== ALL_64) return noMask(name)();
      if (value > MAX_LONG) throw unsupported(`${name} of more than 63 bits`);
      return `${radix === 16 ? '0x' : ''}${value.toString(radix)}`;
    },
    read: readLong,
  };
}

const columns: { readonly [F in Field]: Column<NonNullable<Match[F]>> } = {
  inPort: {
    name: 'in_port',
    write: (port) => {
      if (port === PORT_LOCAL) return 'local';
      if (isPort(port)) return String(port);
      throw unsupported(`no frame comes from port ${port}`);
    },
    read: (text) => (text === 'local' ? PORT_LOCAL : readNumber(text, 0xffff_ffff)),
  },
  metadata: long('metadata', 16),
  tunnelId: long('tunnel_id', 10),
  ethDst: mac('eth_dst'),
  ethSrc: mac('eth_src'),
  ethType: integer('eth_type', 0xffff, (type) => `0x${type.toString(16).padStart(4, '0')}`),
  vlanId: {
    name: 'eth_vlan_vid',
    // The bit that says that there is a tag is part of the number here, and not in set_field.
    write: (id) => {
      if (id === 'none') return '0';
      return id === 'any' ? ANY_VLAN : `0x${(id | VLAN_PRESENT).toString(16)}`;
    },
    read: (text) => {
      if (text === ANY_VLAN) return 'any';
      const value = readNumber(text, VLAN_PRESENT | 0xfff);
      if (value === 0) return 'none';
      return value === undefined || value < VLAN_PRESENT ? undefined : value & 0xfff;
    },
  },
  ipProtocol: integer('ip_proto', 0xff),
  ipv4Src: ipv4('ipv4_src'),
  ipv4Dst: ipv4('ipv4_dst'),
  tcpSrc: transportPort('tcp_src'),
  tcpDst: transportPort('tcp_dst'),
  udpSrc: transportPort('udp_src'),
  udpDst: transportPort('udp_dst'),
  icmpv4Type: integer('icmpv4_type', 0xff),
  icmpv4Code: integer('icmpv4_code', 0xff),
  arpOp: integer('arp_opcode', 0xffff),
  arpSpa: exact('arp_spa', IPV4),
  arpTpa: exact('arp_tpa', IPV4),
  arpSha: exact('arp_sha', MAC),
  arpTha: exact('arp_tha', MAC),
};

const isField = (key: string): key is Field => Object.hasOwn(columns, key);
const fields = Object.keys(columns).filter(isField);
const fieldOf = new Map<string, Field>(fields.map((field) => [columns[field].name, field]));

/** The values must have been found writable as OpenFlow. Throws FLOODLIGHT_UNSUPPORTED. */
export function writeMatch(match: Match): Record<string, string> {
  const strange = inexpressible.find((field) => match[field] !== undefined);
  if (strange !== undefined) throw unsupported(`a match of ${strange}`);
  checkPrerequisites(match);
  const entry: Record<string, string> = {};
  for (const field of fields) {
    const text = writeField(match, field);
    if (text !== undefined) entry[columns[field].name] = text;
  }
  return entry;
}

function writeField<F extends Field>(match: Pick<Match, F>, field: F): string | undefined {
  const value: Match[F] = match[field];
  return value === undefined ? undefined : columns[field].write(value);
}

/** Without its protocol a port wedges Floodlight for good; the other fields the switch refuses, and Floodlight doesn't say so. */
function checkPrerequisites({ ethType, ipProtocol, ...match }: Match): void {
  const isIpv4 = ethType === ETH_TYPE.ipv4;
  const isIp = isIpv4 || ethType === ETH_TYPE.ipv6;
  const has = (...wanted: (keyof typeof match)[]) => wanted.some((field) => match[field] !== undefined);
  const need = (condition: boolean, what: string) => {
    if (!condition) throw unsupported(`${what} in a match that does not say so`);
  };
  need(ipProtocol === undefined || isIp, 'a protocol of IP');
  need(!has('ipv4Src', 'ipv4Dst') || isIpv4, 'an address of IPv4');
  need(!has('tcpSrc', 'tcpDst') || ipProtocol === IP_PROTOCOL.tcp, 'a port of TCP');
  need(!has('udpSrc', 'udpDst') || ipProtocol === IP_PROTOCOL.udp, 'a port of UDP');
  need(!has('icmpv4Type', 'icmpv4Code') || (isIpv4 && ipProtocol === IP_PROTOCOL.icmp), 'a type or code of ICMP');
  need(!has('arpOp', 'arpSpa', 'arpTpa', 'arpSha', 'arpTha') || ethType === ETH_TYPE.arp, 'a field of ARP');
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** What isn't understood goes to `other`. */
export function readMatch(answer: Readonly<Record<string, unknown>>): Match {
  const match: Mutable<Match> = {};
  const other: [string, unknown][] = [];
  for (const [name, value] of Object.entries(answer)) {
    const field = fieldOf.get(name);
    if (field === undefined || typeof value !== 'string' || !readField(match, field, value)) other.push([name, value]);
  }
  if (other.length > 0) match.other = digest(other);
  return match;
}

function readField<F extends Field>(match: Mutable<Pick<Match, F>>, field: F, text: string): boolean {
  const value = columns[field].read(text);
  if (value === undefined) return false;
  match[field] = value;
  return true;
}

/** Whether all that the match meets has a VLAN tag. */
export const isTagged = ({ vlanId }: Match) => vlanId !== undefined && vlanId !== 'none';
export const isIpv4 = ({ ethType }: Match) => ethType === ETH_TYPE.ipv4;
export const isTcp = ({ ipProtocol }: Match) => ipProtocol === IP_PROTOCOL.tcp;
export const isUdp = ({ ipProtocol }: Match) => ipProtocol === IP_PROTOCOL.udp;
