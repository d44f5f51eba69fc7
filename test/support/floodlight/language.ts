import type { Action, Flow, Instructions, Match, SetField } from '../../../drivers/openflow/types.js';

/**
 * The words of Floodlight's static entries, read and written as it does. On purpose nothing of drivers/floodlight is used
 * here: a misunderstanding would be shared. Groups, queues, IPv6 and PCP are not spoken: such an entry is ignored.
 */

/** A value that makes Floodlight stop reading the row, and take what it has read. */
export class BadRow extends Error {}
/** A match that makes Floodlight ignore the whole entry. */
export class BadMatch extends Error {}
/** A match that Floodlight never ends reading. */
export class EndlessMatch extends Error {}

export type Row = ReadonlyMap<string, string>;

/** What a row says; the priority as it was written. */
export interface ParsedRow {
  readonly priority: number;
  readonly flow: Flow;
}

const DEFAULT_PRIORITY = 2 ** 31 - 1;
const PORTS = { flood: 0xffff_fffb, all: 0xffff_fffc } as const;
const PORT_LOCAL = 0xffff_fffe;
const ALL_64 = 2n ** 64n - 1n;
/** OXM header of an exact VLAN match. */
const VLAN_OXM = '80000c02';

/** The order in which Java's HashMap gives its keys: by bucket, then as they came. */
export function hashOrder(keys: Iterable<string>): string[] {
  const all = [...keys];
  const hash = (key: string) => {
    let value = 0;
    for (let i = 0; i < key.length; i++) value = (Math.imul(31, value) + key.charCodeAt(i)) | 0;
    return value ^ (value >>> 16);
  };
  let buckets = 16;
  while (all.length > buckets * 0.75) buckets *= 2;
  return all
    .map((key) => ({ key, bucket: hash(key) & (buckets - 1) }))
    .sort((a, b) => a.bucket - b.bucket)
    .map(({ key }) => key);
}

export function entryCookie(name: string): bigint {
  const hash = [...Array(name.length).keys()].reduce(
    (sum, at) => (sum * 211n + BigInt(name.charCodeAt(at))) & 0xffff_ffffn,
    2311n,
  );
  return (10n << 52n) | (BigInt.asIntN(32, hash) & (2n ** 52n - 1n));
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** Reads a row until something in it is bad. Throws BadMatch or EndlessMatch. */
export function parseRow(row: Row): ParsedRow {
  let priority = DEFAULT_PRIORITY;
  let table = 0;
  let [idleSeconds, hardSeconds] = [0, 0];
  let instructions: Mutable<Instructions> = {};
  const match: [string, string][] = [];
  const column: Record<string, (value: string) => void> = {
    active: (value) => {
      if (value.toLowerCase() !== 'true') throw new BadRow('not active');
    },
    entry_type: () => undefined,
    priority: (value) => (priority = javaInt(value)),
    cookie: (value) => void javaInt(value),
    idle_timeout: (value) => (idleSeconds = javaInt(value)),
    hard_timeout: (value) => (hardSeconds = javaInt(value)),
    table: (value) => (table = javaInt(value)),
    // Puts its one instruction in the place of all read so far.
    actions: (value) => (instructions = { apply: parseActions(value) }),
    instruction_apply_actions: (value) => (instructions.apply = parseActions(value)),
    instruction_goto_table: (value) => (instructions.goto = javaInt(value)),
    instruction_write_metadata: (value) => {
      const [metadata = '', mask] = value.split('/');
      const long = (text: string) => parseLong(text) ?? failRow(text);
      instructions.writeMetadata = { value: long(metadata), mask: mask === undefined ? ALL_64 : long(mask) };
    },
  };
  try {
    for (const key of hashOrder(row.keys())) {
      const value = row.get(key) ?? '';
      if (key === 'switch' || key === 'name') continue;
      const read = column[key];
      if (read === undefined) match.push([key, value]);
      else read(value);
    }
  } catch (error) {
    if (!(error instanceof BadRow)) throw error;
  }
  const flow: Flow = {
    table,
    priority: priority & 0xffff,
    cookie: entryCookie(row.get('name') ?? ''),
    match: parseMatch(match),
    instructions,
    ...(idleSeconds === 0 && hardSeconds === 0 ? {} : { timeouts: { idleSeconds, hardSeconds } }),
  };
  return { priority, flow };
}

function javaInt(text: string): number {
  const value = Number(text);
  if (!/^[+-]?\d+$/.test(text) || value > 2 ** 31 - 1 || value < -(2 ** 31)) throw new BadRow(text);
  return value;
}

function failRow(text: string): never {
  throw new BadRow(text);
}

const parseLong = (text: string) => (/^(\d+|0x[0-9a-f]+)$/i.test(text) ? BigInt(text) : undefined);

function matchLong(text: string): bigint {
  const value = parseLong(text);
  if (value === undefined) throw new BadMatch(text);
  return value;
}

/** Actions that are not understood are left out. */
function parseActions(text: string): Action[] {
  return text.split(',').flatMap((part) => parseAction(part) ?? []);
}

function parseAction(text: string): Action | undefined {
  const [key = '', value = '', ...more] = text.split('=');
  if (more.length > 0) return undefined;
  switch (key) {
    case 'output':
      return parseOutput(value);
    case 'push_vlan':
      return Number(value) === 0x8100 ? { type: 'pushVlan' } : undefined;
    case 'pop_vlan':
      return { type: 'popVlan' };
    case 'set_field': {
      const [name = '', wanted = ''] = value.split('->');
      const field = parseSetField(name, wanted);
      return field === undefined ? undefined : { type: 'setField', field };
    }
    default:
      return undefined;
  }
}

function parseOutput(port: string): Action | undefined {
  switch (port) {
    case 'in_port':
    case 'controller':
    case 'local':
    case 'normal':
      return { type: 'output', port };
    case 'flood':
    case 'all':
      return { type: 'output', port: PORTS[port] };
    default:
      return /^\d+$/.test(port) ? { type: 'output', port: Number(port) } : undefined;
  }
}

const isMac = (text: string) => /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text);
const isIpv4 = (text: string) =>
  text.split('.').length === 4 && text.split('.').every((part) => /^\d+$/.test(part) && Number(part) < 256);

function parseSetField(name: string, value: string): SetField | undefined {
  const isNumber = /^\d+$/.test(value);
  switch (name) {
    // The bit that says that there is a tag is added, and a number that has it already is none.
    case 'eth_vlan_vid':
      return isNumber && Number(value) < 4096 ? { vlanId: Number(value) } : undefined;
    case 'tunnel_id':
      return isNumber ? { tunnelId: BigInt(value) } : undefined;
    case 'eth_src':
      return isMac(value) ? { ethSrc: value } : undefined;
    case 'eth_dst':
      return isMac(value) ? { ethDst: value } : undefined;
    case 'ipv4_src':
      return isIpv4(value) ? { ipv4Src: value } : undefined;
    case 'ipv4_dst':
      return isIpv4(value) ? { ipv4Dst: value } : undefined;
    case 'tcp_dst':
      return isNumber ? { tcpDst: Number(value) } : undefined;
    case 'udp_dst':
      return isNumber ? { udpDst: Number(value) } : undefined;
    default:
      return undefined;
  }
}

/** Ports wait at the end of the queue until the protocol is known. If nothing else is in the queue, for ever. */
function parseMatch(fields: readonly [string, string][]): Match {
  const match: Mutable<Match> = {};
  const ports = fields.filter(([key]) => /^(tcp|udp|sctp|tp)_(src|dst)$/.test(key));
  for (const [key, value] of fields) {
    if (value === '' || /[,[\]=]/.test(value)) throw new BadMatch(`${key}=${value}`);
    if (!ports.some(([port]) => port === key)) parseField(match, key, value);
  }
  for (const [key, value] of ports) {
    if (match.ipProtocol === undefined) throw new EndlessMatch(key);
    const [transport = '', end] = key.split('_');
    const isTcp = transport === 'tcp' || (transport === 'tp' && match.ipProtocol === 6);
    match[`${isTcp ? 'tcp' : 'udp'}${end === 'src' ? 'Src' : 'Dst'}`] = matchNumber(value, 0xffff);
  }
  return match;
}

function parseField(match: Mutable<Match>, key: string, value: string): void {
  switch (key) {
    case 'in_port':
      match.inPort = value === 'local' ? PORT_LOCAL : matchNumber(value, Number.MAX_SAFE_INTEGER) % 2 ** 32;
      return;
    case 'metadata':
      match.metadata = matchLong(value);
      return;
    case 'tunnel_id':
      match.tunnelId = matchLong(value);
      return;
    case 'eth_dst':
      match.ethDst = maskedMac(value);
      return;
    case 'eth_src':
      match.ethSrc = maskedMac(value);
      return;
    case 'eth_type':
      match.ethType = matchNumber(value, 0xffff);
      return;
    case 'eth_vlan_vid':
      parseVlan(match, value);
      return;
    case 'ip_proto':
      match.ipProtocol = matchNumber(value, 0xff);
      return;
    case 'ipv4_src':
      match.ipv4Src = maskedIpv4(value);
      return;
    case 'ipv4_dst':
      match.ipv4Dst = maskedIpv4(value);
      return;
    case 'icmpv4_type':
      match.icmpv4Type = matchNumber(value, 0xff);
      return;
    case 'icmpv4_code':
      match.icmpv4Code = matchNumber(value, 0xff);
      return;
    case 'arp_opcode':
      match.arpOp = matchNumber(value, 0xffff);
      return;
    case 'arp_spa':
      match.arpSpa = maskedIpv4(value);
      return;
    case 'arp_tpa':
      match.arpTpa = maskedIpv4(value);
      return;
    case 'arp_sha':
      match.arpSha = maskedMac(value);
      return;
    case 'arp_tha':
      match.arpTha = maskedMac(value);
      return;
    default:
      throw new BadMatch(key);
  }
}

function parseVlan(match: Mutable<Match>, text: string): void {
  if (text === '0x1000/0x1000') match.vlanId = 'any';
  else {
    const value = matchNumber(text, 0x1fff);
    if (value === 0) match.vlanId = 'none';
    else if (value >= 0x1000) match.vlanId = value & 0xfff;
    else match.other = VLAN_OXM + value.toString(16).padStart(4, '0');
  }
}

function matchNumber(text: string, max: number): number {
  const value = Number(text);
  if (!/^(\d+|0x[0-9a-f]+)$/i.test(text) || value > max) throw new BadMatch(text);
  return value;
}

function maskedMac(text: string): string {
  if (!text.split('/').every(isMac)) throw new BadMatch(text);
  return text;
}

function maskedIpv4(text: string): string {
  const [address = '', mask] = text.split('/');
  if (!isIpv4(address)) throw new BadMatch(text);
  if (mask === undefined || isIpv4(mask)) return text;
  const bits = Number(mask);
  if (!/^\d+$/.test(mask) || bits > 32) throw new BadMatch(text);
  const value = bits === 0 ? 0 : (-1 << (32 - bits)) >>> 0;
  return `${address}/${[24, 16, 8, 0].map((shift) => (value >>> shift) & 0xff).join('.')}`;
}

const hex = (value: number) => `0x${value.toString(16)}`;
const longHex = (value: NonNullable<Match['metadata']>): string => {
  const text = (each: bigint) => `0x${each.toString(16).padStart(16, '0')}`;
  return typeof value === 'bigint' ? text(value) : `${text(value.value)}/${text(value.mask)}`;
};
const plain = (value: NonNullable<Match['tcpSrc']>) =>
  typeof value === 'number' ? String(value) : `${value.value}/${value.mask}`;

export function printMatch(match: Match): Record<string, string> {
  const printed: Record<string, string> = {};
  const put = <T>(name: string, value: T | undefined, print: (value: T) => string) => {
    if (value !== undefined) printed[name] = print(value);
  };
  put('in_port', match.inPort, (port) => (port === PORT_LOCAL ? 'local' : String(port)));
  put('eth_dst', match.ethDst, String);
  put('eth_src', match.ethSrc, String);
  put('eth_type', match.ethType, hex);
  put('eth_vlan_vid', match.vlanId, printVlan);
  put('ip_proto', match.ipProtocol, hex);
  put('ipv4_src', match.ipv4Src, withoutHostBits);
  put('ipv4_dst', match.ipv4Dst, withoutHostBits);
  put('tcp_src', match.tcpSrc, plain);
  put('tcp_dst', match.tcpDst, plain);
  put('udp_src', match.udpSrc, plain);
  put('udp_dst', match.udpDst, plain);
  put('icmpv4_type', match.icmpv4Type, String);
  put('icmpv4_code', match.icmpv4Code, String);
  put('arp_opcode', match.arpOp, String);
  put('arp_spa', match.arpSpa, String);
  put('arp_tpa', match.arpTpa, String);
  put('arp_sha', match.arpSha, String);
  put('arp_tha', match.arpTha, String);
  put('metadata', match.metadata, longHex);
  put('tunnel_id', match.tunnelId, longHex);
  if (match.other?.startsWith(VLAN_OXM)) printed['eth_vlan_vid'] = hex(Number.parseInt(match.other.slice(8, 12), 16));
  return printed;
}

const printVlan = (vlan: NonNullable<Match['vlanId']>) => {
  if (vlan === 'any') return '0x1000/0x1000';
  return vlan === 'none' ? '0x0' : hex(0x1000 | vlan);
};

function withoutHostBits(text: string): string {
  const [address = '', mask] = text.split('/');
  if (mask === undefined) return address;
  const bytes = mask.split('.').map(Number);
  return `${address
    .split('.')
    .map((byte, at) => Number(byte) & (bytes[at] ?? 0))
    .join('.')}/${mask}`;
}

/** How the list tells them: a drop that was written as no key is told apart from one that was written as no actions. */
export function printInstructions({ apply, writeMetadata, goto }: Instructions): Record<string, object | string> {
  const printed: Record<string, object | string> = {};
  if (apply !== undefined)
    printed['instruction_apply_actions'] =
      apply.length === 0 ? { none: 'drop' } : { actions: apply.map(printAction).join(',') };
  if (writeMetadata !== undefined)
    printed['instruction_write_metadata'] = {
      instruction_write_metadata: BigInt.asIntN(64, writeMetadata.value).toString(),
      instruction_write_metadata_mask: BigInt.asIntN(64, writeMetadata.mask).toString(),
    };
  if (goto !== undefined) printed['instruction_goto_table'] = { instruction_goto_table: String(goto) };
  return Object.keys(printed).length === 0 ? { none: 'drop' } : printed;
}

function printAction(action: Action): string {
  switch (action.type) {
    case 'output': {
      const word = Object.entries(PORTS).find(([, port]) => port === action.port)?.[0];
      return `output=${word ?? action.port}`;
    }
    case 'pushVlan':
      return 'push_vlan=33024';
    case 'popVlan':
      return 'pop_vlan';
    case 'setField':
      return `set_field=${printSetField(action.field)}`;
    case 'loadRegister':
    case 'outputRegister':
    case 'resubmit':
    case 'ct':
    case 'ctClear':
    case 'other':
      return 'experimenter';
  }
}

function printSetField(field: SetField): string {
  if ('vlanId' in field) return `eth_vlan_vid->${field.vlanId}`;
  if ('tunnelId' in field) return `tunnel_id->${field.tunnelId.toString()}`;
  if ('ethSrc' in field) return `eth_src->${field.ethSrc}`;
  if ('ethDst' in field) return `eth_dst->${field.ethDst}`;
  if ('ipv4Src' in field) return `ipv4_src->${field.ipv4Src}`;
  if ('ipv4Dst' in field) return `ipv4_dst->${field.ipv4Dst}`;
  if ('tcpDst' in field) return `tcp_dst->${field.tcpDst}`;
  return `udp_dst->${field.udpDst}`;
}

/** A flow as `/wm/core/switch/<dpid>/flow/json` tells it. */
export function printFlow({ table, priority, cookie, match, instructions, timeouts }: Flow): object {
  return {
    version: 'OF_13',
    cookie: cookie.toString(),
    table_id: hex(table),
    packet_count: '0',
    byte_count: '0',
    duration_sec: '0',
    duration_nsec: '0',
    priority: String(priority),
    idle_timeout_s: String(timeouts?.idleSeconds ?? 0),
    hard_timeout_s: String(timeouts?.hardSeconds ?? 0),
    flags: cookie >> 52n === 10n ? ['SEND_FLOW_REM'] : [],
    match: printMatch(match),
    instructions: printInstructions(instructions),
  };
}

/** An entry as the list tells it: no table. */
export function printEntry(command: string, { priority, flow }: ParsedRow): object {
  return {
    version: 'OF_13',
    command,
    cookie: flow.cookie.toString(),
    priority: String(priority),
    idleTimeoutSec: String(flow.timeouts?.idleSeconds ?? 0),
    hardTimeoutSec: String(flow.timeouts?.hardSeconds ?? 0),
    outPort: 'any',
    flags: '1',
    cookieMask: '0',
    outGroup: 'any',
    match: printMatch(flow.match),
    instructions: printInstructions(flow.instructions),
  };
}
