import { ALL_32, ALL_48, parseIpv4, parseMac, parseMasked } from '../../../../drivers/openflow/addresses.js';
import type { Action, Flow, Match, SetField } from '../../../../drivers/openflow/types.js';

/** An Ethernet frame, as far as the flow tables look at it. */
export interface Frame {
  /** 802.1Q ids, the outermost first. */
  readonly vlans: readonly number[];
  readonly ethSrc: string;
  readonly ethDst: string;
  /** Of what is inside the tags. */
  readonly ethType: number;
  /** RARP's too. */
  readonly arp?: {
    readonly op: number;
    readonly sha: string;
    readonly spa: string;
    /** Default: 00:00:00:00:00:00. */
    readonly tha?: string;
    readonly tpa: string;
  };
  readonly ip?: { readonly protocol: number; readonly src: string; readonly dst: string };
  /** Not visible in a later fragment; 0 in a first one too short for them. */
  readonly udp?: { readonly src: number; readonly dst: number };
  readonly tcp?: { readonly src: number; readonly dst: number; readonly flags: number };
  readonly icmp?: { readonly type: number; readonly code: number };
  readonly fragment?: 'first' | 'later';
}

export interface Output {
  readonly port: number | 'controller';
  readonly frame: Frame;
  readonly tunnelId: bigint;
}

/** The marks of the connections that a bridge's conntrack holds, by zone and both ends. */
export type Connections = Map<string, number>;

/** A frame on its way through one bridge's tables. */
interface Packet {
  readonly connections: Connections;
  /** Undefined: it has not been through conntrack. */
  ctMark: number | undefined;
  frame: Frame;
  readonly inPort: number;
  tunnelId: bigint;
  metadata: bigint;
  readonly registers: Map<number, number>;
  readonly outputs: Output[];
}

const maxDepth = 16;

/**
 * What a bridge with these flows makes of a frame, by OpenFlow 1.3.5 §5 and ovs-actions(7): the highest priority that
 * matches wins, no match is a drop, nothing leaves by the port it came in. Throws where the outcome would be undefined (two
 * matching flows of one priority) and for anything that the tables are not known to use: nothing is passed over.
 */
export function receive(
  flows: readonly Flow[],
  inPort: number,
  frame: Frame,
  tunnelId = 0n,
  connections: Connections = new Map(),
): Output[] {
  const packet: Packet = {
    ...{ frame, inPort, tunnelId, metadata: 0n, connections, ctMark: undefined },
    registers: new Map(),
    outputs: [],
  };
  run(flows, 0, packet, 0);
  return packet.outputs;
}

function run(flows: readonly Flow[], table: number, packet: Packet, depth: number): void {
  if (depth > maxDepth) throw new Error(`the tables go round in circles at table ${table}`);
  const matching = flows.filter((flow) => flow.table === table && matches(flow.match, packet));
  const highest = Math.max(...matching.map(({ priority }) => priority));
  const [flow, rival] = matching.filter(({ priority }) => priority === highest);
  if (!flow) return;
  if (rival)
    throw new Error(`two flows of table ${table} and priority ${highest} match: ${JSON.stringify(packet.frame)}`);
  const { apply = [], writeMetadata, goto, other } = flow.instructions;
  if (other !== undefined) throw new Error('an instruction that is not known');
  for (const action of apply) act(flows, action, packet, depth);
  if (writeMetadata)
    packet.metadata = (packet.metadata & ~writeMetadata.mask) | (writeMetadata.value & writeMetadata.mask);
  if (goto === undefined) return;
  if (goto <= table) throw new Error(`goto ${goto} from table ${table}: OpenFlow only goes forward`);
  run(flows, goto, packet, depth + 1);
}

function act(flows: readonly Flow[], action: Action, packet: Packet, depth: number): void {
  switch (action.type) {
    case 'output':
      if (action.port === 'normal' || action.port === 'local')
        throw new Error(`output to ${action.port} is not for these tables`);
      // The one way back by the port that it came from.
      if (action.port === 'in_port')
        packet.outputs.push({ port: packet.inPort, frame: packet.frame, tunnelId: packet.tunnelId });
      else output(packet, action.port);
      return;
    case 'outputRegister':
      output(packet, packet.registers.get(action.register) ?? 0);
      return;
    case 'loadRegister':
      packet.registers.set(action.register, action.value);
      return;
    case 'resubmit':
      run(flows, action.table, packet, depth + 1);
      return;
    case 'pushVlan':
      packet.frame = { ...packet.frame, vlans: [0, ...packet.frame.vlans] };
      return;
    case 'popVlan':
      packet.frame = { ...packet.frame, vlans: packet.frame.vlans.slice(1) };
      return;
    case 'setField':
      set(action.field, packet);
      return;
    case 'ct':
      track(flows, action, packet, depth);
      return;
    case 'ctClear':
    case 'other':
      throw new Error(`action ${action.type} is not for these tables`);
  }
}

/** A copy of the packet goes on at the table, knowing its connection; the packet itself goes on not knowing it. */
function track(flows: readonly Flow[], action: Action & { type: 'ct' }, packet: Packet, depth: number): void {
  const { ip, tcp, udp } = packet.frame;
  if (!ip) throw new Error('only IP has connections');
  const zone = typeof action.zone === 'number' ? action.zone : packet.registers.get(action.zone.register);
  const { src = 0, dst = 0 } = tcp ?? udp ?? {};
  const ends = [`${ip.src}:${src}`, `${ip.dst}:${dst}`].sort();
  const connection = [zone, ip.protocol, ...ends].join(' ');
  if (action.commit) packet.connections.set(connection, action.mark ?? 0);
  if (action.table === undefined) return;
  const ctMark = packet.connections.get(connection) ?? 0;
  run(flows, action.table, { ...packet, ctMark, registers: new Map(packet.registers) }, depth + 1);
}

function output(packet: Packet, port: number | 'controller'): void {
  if (port === packet.inPort) return;
  packet.outputs.push({ port, frame: packet.frame, tunnelId: packet.tunnelId });
}

function set(field: SetField, packet: Packet): void {
  if ('tunnelId' in field) packet.tunnelId = field.tunnelId;
  else if ('vlanId' in field) {
    if (packet.frame.vlans.length === 0) throw new Error('a VLAN id is set where there is no tag');
    packet.frame = { ...packet.frame, vlans: [field.vlanId, ...packet.frame.vlans.slice(1)] };
  } else if ('ethSrc' in field) packet.frame = { ...packet.frame, ethSrc: field.ethSrc };
  else if ('ethDst' in field) packet.frame = { ...packet.frame, ethDst: field.ethDst };
  else if ('ipv4Dst' in field && packet.frame.ip)
    packet.frame = { ...packet.frame, ip: { ...packet.frame.ip, dst: field.ipv4Dst } };
  else throw new Error(`set_field of ${Object.keys(field).join()} is not for these tables`);
}

type Fields = Required<Match>;
type Predicates = { readonly [K in keyof Fields]: (wanted: Fields[K], packet: Packet) => boolean };

const unknown = (): never => {
  throw new Error('a match field that this interpreter does not know');
};
const mac = (wanted: string, value: string | undefined): boolean => {
  if (value === undefined) return false;
  const masked = parseMasked(wanted, parseMac, ALL_48);
  const both = (number: number): bigint => BigInt(number) & BigInt(masked.mask);
  return both(masked.value) === both(parseMac(value));
};
const ipv4 = (wanted: string, value: string | undefined): boolean => {
  if (value === undefined) return false;
  const masked = parseMasked(wanted, parseIpv4, ALL_32);
  const both = (number: number): bigint => BigInt(number) & BigInt(masked.mask);
  return both(masked.value) === both(parseIpv4(value));
};
const port = (
  wanted: number | { readonly value: number; readonly mask: number },
  value: number | undefined,
): boolean => {
  if (value === undefined) return false;
  return typeof wanted === 'number' ? wanted === value : (wanted.value & wanted.mask) === (value & wanted.mask);
};

const predicates: Predicates = {
  inPort: (wanted, { inPort }) => inPort === wanted,
  metadata: (wanted, { metadata }) => {
    const { value, mask } = typeof wanted === 'bigint' ? { value: wanted, mask: 2n ** 64n - 1n } : wanted;
    return (metadata & mask) === (value & mask);
  },
  tunnelId: (wanted, { tunnelId }) => tunnelId === wanted,
  tunnelSource: unknown,
  ethDst: (wanted, { frame }) => mac(wanted, frame.ethDst),
  ethSrc: (wanted, { frame }) => mac(wanted, frame.ethSrc),
  ethType: (wanted, { frame }) => frame.ethType === wanted,
  vlanId: (wanted, { frame: { vlans } }) => {
    if (wanted === 'none') return vlans.length === 0;
    return wanted === 'any' ? vlans.length > 0 : vlans[0] === wanted;
  },
  ipProtocol: (wanted, { frame }) => frame.ip?.protocol === wanted,
  ipv4Src: (wanted, { frame }) => ipv4(wanted, frame.ip?.src),
  ipv4Dst: (wanted, { frame }) => ipv4(wanted, frame.ip?.dst),
  ipFragment: (wanted, { frame: { fragment } }) => {
    if (wanted === 'no') return fragment === undefined;
    return wanted === 'any' ? fragment !== undefined : fragment === wanted;
  },
  udpSrc: (wanted, { frame }) => port(wanted, frame.udp?.src),
  udpDst: (wanted, { frame }) => port(wanted, frame.udp?.dst),
  arpOp: (wanted, { frame }) => frame.arp?.op === wanted,
  arpSpa: (wanted, { frame }) => ipv4(wanted, frame.arp?.spa),
  arpTpa: (wanted, { frame }) => ipv4(wanted, frame.arp?.tpa),
  arpSha: (wanted, { frame }) => mac(wanted, frame.arp?.sha),
  arpTha: (wanted, { frame: { arp } }) => arp !== undefined && mac(wanted, arp.tha ?? '00:00:00:00:00:00'),
  tcpSrc: (wanted, { frame }) => port(wanted, frame.tcp?.src),
  tcpDst: (wanted, { frame }) => port(wanted, frame.tcp?.dst),
  tcpFlags: (wanted, { frame }) => port(wanted, frame.tcp?.flags),
  icmpv4Type: (wanted, { frame }) => frame.icmp?.type === wanted,
  icmpv4Code: (wanted, { frame }) => frame.icmp?.code === wanted,
  registers: unknown,
  ctState: unknown,
  ctZone: unknown,
  ctMark: (wanted, { ctMark }) => port(wanted, ctMark),
  other: unknown,
};

function meets<K extends keyof Fields>(key: K, fields: Pick<Fields, K>, packet: Packet): boolean {
  return predicates[key](fields[key], packet);
}

const isField = (key: string): key is keyof Match => key in predicates;

function has<K extends keyof Fields>(match: Match, key: K): match is Match & Pick<Fields, K> {
  return match[key] !== undefined;
}

function matches(match: Match, packet: Packet): boolean {
  return Object.keys(match).every((key) => {
    if (!isField(key)) return unknown();
    return !has(match, key) || meets(key, match, packet);
  });
}
