import type { Match } from '../../drivers/openflow/types.js';
import { given } from '../common/given.js';
import type { Role } from '../common/records.js';
import { blockOf, etherTypes, ipProtocols, metadataOf, registers, tables, type Uncookied } from './layout.js';

/** A machine's interface whose port is on this host. */
export interface LocalPort {
  readonly port: number;
  readonly mac: string;
  readonly address: string;
  /** What its template lets it do beyond others. */
  readonly role?: Role | undefined;
  /** Addresses and blocks that it may speak for beside its own. */
  readonly allowed?: readonly string[] | undefined;
}

const priorities = { neverServes: 200, neverAnswers: 190, own: 120, nobody: 115, others: 110, foreign: 100 } as const;
/** No host sends from these (RFC 1812 §5.3.7). */
const noSource = ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/4', '255.255.255.255'];
const nobody = '0.0.0.0';
const rarpRequest = 3;

/** Port security: what a machine may say, by whom it is. What is not listed here ends here. */
export function admissionFlows(
  { vni, cidr }: { readonly vni: number; readonly cidr: string },
  { port, mac, address, role, allowed = [] }: LocalPort,
): Uncookied[] {
  const untagged = { inPort: port, vlanId: 'none' } as const;
  const from = { ...untagged, ethSrc: mac } as const;
  const admit = (priority: number, match: Match): Uncookied => ({
    table: tables.classify,
    priority,
    match,
    instructions: {
      apply: [{ type: 'loadRegister', register: registers.input, value: port }],
      writeMetadata: metadataOf(vni),
      goto: tables.policy,
    },
  });
  const drop = (priority: number, match: Match): Uncookied => ({
    table: tables.classify,
    priority,
    match,
    instructions: {},
  });
  const ipv4 = { ethType: etherTypes.ipv4 } as const;
  const arp = { ...from, ethType: etherTypes.arp, arpSha: mac } as const;
  const speaksFor = [address, ...allowed.map(blockOf)];
  return [
    ...speaksFor.map((spa) => admit(priorities.own, { ...arp, ...given({ arpSpa: spa }) })),
    // An address is probed for before it is used (RFC 5227).
    admit(priorities.own, { ...arp, arpSpa: nobody }),
    ...speaksFor.map((source) => admit(priorities.own, { ...from, ...ipv4, ...given({ ipv4Src: source }) })),
    admit(priorities.own, {
      ...from,
      ...ipv4,
      ipv4Src: nobody,
      ipv4Dst: '255.255.255.255',
      ipProtocol: ipProtocols.udp,
      udpSrc: 68,
      udpDst: 67,
    }),
    // As QEMU asks for it when a machine has moved: so that all learn where it is. Nobody answers.
    admit(priorities.own, {
      ...{ ...from, ethType: etherTypes.rarp, arpOp: rarpRequest },
      ...{ arpSha: mac, arpSpa: nobody, arpTha: mac, arpTpa: nobody },
    }),
    // A client does not look at the port that an answer comes from.
    ...(role === 'DHCP'
      ? []
      : [
          drop(priorities.neverServes, { ...untagged, ...ipv4, ipProtocol: ipProtocols.udp, udpSrc: 67 }),
          drop(priorities.neverAnswers, { ...untagged, ...ipv4, ipProtocol: ipProtocols.udp, udpDst: 68 }),
        ]),
    // A router passes on what others have sent, from anywhere but the network that it passes it to.
    ...(role === 'Router'
      ? [
          ...noSource.map((block) =>
            drop(priorities.nobody, { ...from, ...ipv4, ...given({ ipv4Src: blockOf(block) }) }),
          ),
          drop(priorities.others, { ...from, ...ipv4, ...given({ ipv4Src: blockOf(cidr) }) }),
          admit(priorities.foreign, { ...from, ...ipv4 }),
        ]
      : []),
  ];
}
