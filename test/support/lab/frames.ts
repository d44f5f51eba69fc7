/**
 * Ethernet frames in bytes, right or wrong in every field. Addresses as text: aa:bb:cc:dd:ee:ff, dotted quads.
 */

const hexOf = (mac: string): Buffer => Buffer.from(mac.replaceAll(':', ''), 'hex');
const quad = (address: string): Buffer => Buffer.from(address.split('.').map(Number));
const word = (value: number): Buffer => Buffer.from([value >> 8, value & 0xff]);
export const bytes = (hex: string): Buffer => Buffer.from(hex.replaceAll(/\s/g, ''), 'hex');

export const etherTypes = {
  ipv4: 0x0800,
  arp: 0x0806,
  rarp: 0x8035,
  vlan: 0x8100,
  serviceVlan: 0x88a8,
  oldServiceVlan: 0x9100,
  ipv6: 0x86dd,
  lldp: 0x88cc,
  bddp: 0x8942,
} as const;

export const broadcast = 'ff:ff:ff:ff:ff:ff';

export interface Tag {
  /** Default 0x8100. */
  readonly type?: number;
  readonly id: number;
}

export function ethernet(
  destination: string,
  source: string,
  type: number,
  payload: Buffer,
  tags: readonly Tag[] = [],
): Buffer {
  const inserted = tags.flatMap(({ type: tagType = etherTypes.vlan, id }) => [word(tagType), word(id)]);
  return Buffer.concat([hexOf(destination), hexOf(source), ...inserted, word(type), payload]);
}

export interface Arp {
  readonly op: number;
  readonly sha: string;
  readonly spa: string;
  readonly tha?: string;
  readonly tpa: string;
  /** Hardware type, protocol, and their lengths: 0001 0800 06 04 of Ethernet and IPv4. */
  readonly header?: string;
}

/** RFC 826; RARP (RFC 903) has the same form. */
export const arp = ({ op, sha, spa, tha = '00:00:00:00:00:00', tpa, header = '0001080006 04' }: Arp): Buffer =>
  Buffer.concat([bytes(header), word(op), hexOf(sha), quad(spa), hexOf(tha), quad(tpa)]);

export const protocols = { icmp: 1, ipip: 4, tcp: 6, udp: 17, gre: 47, esp: 50 } as const;

export interface Ipv4 {
  readonly source: string;
  readonly destination: string;
  readonly protocol: number;
  readonly payload: Buffer;
  /** A multiple of 4 bytes. */
  readonly options?: Buffer;
  /** Fragments of one packet have one; default 0x1574. */
  readonly identification?: number;
  /** In units of 8 bytes. */
  readonly fragmentOffset?: number;
  readonly moreFragments?: boolean;
  /** What the header says instead of what is true. */
  readonly version?: number;
  readonly headerWords?: number;
  readonly totalLength?: number;
}

/** RFC 791. */
export function ipv4(packet: Ipv4): Buffer {
  const { source, destination, protocol, payload, options = Buffer.alloc(0) } = packet;
  const header = Buffer.concat([Buffer.alloc(12), quad(source), quad(destination), options]);
  const { version = 4, headerWords = header.length / 4, totalLength = header.length + payload.length } = packet;
  header.writeUInt8((version << 4) | headerWords, 0);
  header.writeUInt16BE(totalLength, 2);
  header.writeUInt16BE(packet.identification ?? 0x1574, 4);
  header.writeUInt16BE((packet.moreFragments === true ? 0x2000 : 0) | (packet.fragmentOffset ?? 0), 6);
  header.writeUInt8(64, 8);
  header.writeUInt8(protocol, 9);
  header.writeUInt16BE(checksum(header), 10);
  return Buffer.concat([header, payload]);
}

/** RFC 1071. */
function checksum(data: Buffer): number {
  let sum = 0;
  for (let at = 0; at + 1 < data.length; at += 2) sum += data.readUInt16BE(at);
  if (data.length % 2 === 1) sum += data.readUInt8(data.length - 1) << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** Without a checksum, as IPv4 allows. */
export const udp = (source: number, destination: number, payload: Buffer = Buffer.alloc(8)): Buffer =>
  Buffer.concat([word(source), word(destination), word(8 + payload.length), word(0), payload]);

/** A header that opens a connection. */
export const syn = (source: number, destination: number): Buffer =>
  Buffer.concat([word(source), word(destination), Buffer.alloc(8), bytes('5002 ffff 0000 0000')]);

export function echo(sequence = 1): Buffer {
  const message = Buffer.concat([bytes('0800 0000 1574'), word(sequence), Buffer.alloc(8)]);
  message.writeUInt16BE(checksum(message), 2);
  return message;
}

/** A DHCP server's offer (RFC 2131) to whoever asked with a MAC, naming itself as router. */
export function dhcpOffer(server: string, offered: string, client: string): Buffer {
  const fixed = Buffer.alloc(236);
  bytes('02 01 06 00').copy(fixed);
  quad(offered).copy(fixed, 16);
  quad(server).copy(fixed, 20);
  hexOf(client).copy(fixed, 28);
  const options = [bytes('63825363 350102 3604'), quad(server), bytes('0304'), quad(server), bytes('ff')];
  return Buffer.concat([fixed, ...options]);
}

/** RFC 8200, from a link-local address to all nodes, with the ICMPv6 message or UDP datagram given. */
export const ipv6 = (nextHeader: number, payload: Buffer): Buffer =>
  Buffer.concat([
    bytes('60000000'),
    word(payload.length),
    Buffer.from([nextHeader, 255]),
    bytes('fe80 0000 0000 0000 0000 0000 0000 0bad ff02 0000 0000 0000 0000 0000 0000 0001'),
    payload,
  ]);

/** Who a frame says that it is from. */
export interface Claim {
  readonly mac: string;
  readonly type: number;
  /** IPv4's source or ARP's sender. */
  readonly address?: string;
  /** ARP's sender. */
  readonly sha?: string;
}

/** Read as a receiver would, who knows nothing of tags, LLC or SNAP. */
export function claimOf(frame: Buffer): Claim {
  const text = (from: number): string =>
    (
      frame
        .subarray(from, from + 6)
        .toString('hex')
        .match(/../g) ?? []
    ).join(':');
  const address = (from: number): string => [...frame.subarray(from, from + 4)].join('.');
  const type = frame.readUInt16BE(12);
  const mac = text(6);
  if (type === etherTypes.ipv4) return { mac, type, address: address(26) };
  if (type === etherTypes.arp || type === etherTypes.rarp) return { mac, type, sha: text(22), address: address(28) };
  return { mac, type };
}
