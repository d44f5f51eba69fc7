import { probes } from '../dataplane/layout.js';

/** Payload: magic, then 8 bytes that tell which probe it is, then zeros. */
const magic = Buffer.from('ISTH');
const idBytes = 8;
const taggedHeader = 18;
const vlanTag = 0x8100;

export interface Probe {
  /** 16 hexadecimal digits. */
  readonly id: string;
  /** Bytes after the Ethernet header, as an IP packet of a tenant would have them. */
  readonly mtu: number;
}

/** An Ethernet frame with the probes' tag. mtu ≥ 12. */
export function encodeProbe(source: string, target: string, { id, mtu }: Probe): Buffer {
  const frame = Buffer.alloc(taggedHeader + mtu);
  frame.write(target.replaceAll(':', ''), 0, 'hex');
  frame.write(source.replaceAll(':', ''), 6, 'hex');
  frame.writeUInt16BE(vlanTag, 12);
  frame.writeUInt16BE(probes.vlan, 14);
  frame.writeUInt16BE(probes.etherType, 16);
  magic.copy(frame, taggedHeader);
  frame.write(id, taggedHeader + magic.length, 'hex');
  return frame;
}

/** The probe that a frame is, or undefined. */
export function decodeProbe(frame: Buffer): Probe | undefined {
  const idAt = taggedHeader + magic.length;
  if (frame.length < idAt + idBytes || !frame.subarray(taggedHeader, idAt).equals(magic)) return undefined;
  const types = [frame.readUInt16BE(12), frame.readUInt16BE(14) & 0xfff, frame.readUInt16BE(16)];
  if (types.join() !== [vlanTag, probes.vlan, probes.etherType].join()) return undefined;
  return { id: frame.toString('hex', idAt, idAt + idBytes), mtu: frame.length - taggedHeader };
}
