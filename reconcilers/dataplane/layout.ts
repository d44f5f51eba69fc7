import { formatAddress, parseCidr } from '../../crds/index.js';
import type { Action, Flow } from '../../drivers/openflow/types.js';

/** Tables, registers and numbers of docs/adr/0001, 0003 and 0005. */

/** A flow of which whose it is has not been said yet. */
export type Uncookied = Omit<Flow, 'cookie'>;

/** isth-int. */
export const tables = {
  classify: 0,
  policy: 1,
  egress: 2,
  egressTracked: 3,
  egressPickUp: 4,
  forward: 5,
  ingress: 6,
  ingressTracked: 7,
  ingressPickUp: 8,
} as const;
/** isth-edge. */
export const edgeTables = { classify: 0, forward: 1 } as const;
/** NXM registers of isth-int, each with the number of a port, which is also that port's conntrack zone. */
export const registers = { output: 0, input: 1 } as const;
export const etherTypes = { ipv4: 0x0800, arp: 0x0806, rarp: 0x8035 } as const;
export const ipProtocols = { icmp: 1, tcp: 6, udp: 17 } as const;
/**
 * What probes of the underlay travel by: a VLAN and a VNI that no network can have, IEEE 802's first local experimental
 * EtherType (802-2014 §9.2.4), and the meter that bounds what reaches us of what somebody may have forged.
 */
export const probes = {
  vlan: 4095,
  vni: 4095,
  etherType: 0x88b5,
  meter: { id: 1, rate: { packetsPerSecond: 500, burst: 500 } },
} as const;
const metadataMask = 0xffffffn;

export const metadataOf = (vni: number) => ({ value: BigInt(vni), mask: metadataMask });

export const deliver: Action = { type: 'outputRegister', register: registers.output };

/** Out of the patch, with the tag that says whose it is. */
export const tagged = (vlan: number, port: number): Action[] => [
  { type: 'pushVlan' },
  { type: 'setField', field: { vlanId: vlan } },
  { type: 'output', port },
];

/** An address or a block a.b.c.d/prefix as matches write it; undefined: everything, which a match says by leaving the field out. */
export function blockOf(text: string): string | undefined {
  const cidr = parseCidr(text);
  if (!cidr || cidr.prefix === 32) return text.split('/')[0];
  if (cidr.prefix === 0) return undefined;
  return `${formatAddress(cidr.first)}/${formatAddress(2 ** 32 - 2 ** (32 - cidr.prefix))}`;
}
