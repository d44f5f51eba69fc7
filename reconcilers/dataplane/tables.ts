import type { Action, Flow, Match } from '../../drivers/openflow/types.js';
import { bridgeCookie, networkCookie } from '../common/identity.js';

/**
 * The flow tables of docs/adr/0001, compiled. Pure: the flows of one network on one host are a function of what is
 * passed here, and of nothing else.
 */

/** A machine's interface whose port is on this host. */
export interface LocalPort {
  readonly port: number;
  readonly mac: string;
  readonly address: string;
}

/** A machine of the network, wherever it is; where its frames go from this host. */
export type Location =
  | { readonly mac: string; readonly at: 'here'; readonly port: number }
  | { readonly mac: string; readonly at: 'elsewhere'; readonly tunnel: number | undefined };

/** One network as one host sees it. Ports are OpenFlow port numbers. */
export interface NetworkOnHost {
  readonly vni: number;
  readonly vlan: number;
  /** Each end of the patch pair. */
  readonly patch: { readonly int: number; readonly edge: number };
  /** Every port of the network's machines on this host, the incoming end of a migration too. */
  readonly ports: readonly LocalPort[];
  readonly locations: readonly Location[];
  /** Tunnels to the hosts of the network's other sites and to this site's other hosts. */
  readonly tunnels: readonly number[];
}

export interface BridgeFlows {
  readonly int: readonly Flow[];
  readonly edge: readonly Flow[];
}

const tables = { classify: 0, egress: 1, forward: 2, ingress: 3 } as const;
const outputRegister = 0;
const etherTypes = { ipv4: 0x0800, arp: 0x0806, rarp: 0x8035 } as const;
const udp = 17;
const metadataMask = 0xffffffn;
/** The group bit: broadcast and multicast. */
const group = '01:00:00:00:00:00/01:00:00:00:00:00';

/** What every isth-int has, whichever networks there are. isth-edge has nothing of the kind. */
export function bridgeFlows(): BridgeFlows {
  const cookie = bridgeCookie;
  return {
    int: [
      { table: tables.egress, priority: 0, cookie, match: {}, instructions: { goto: tables.forward } },
      {
        table: tables.ingress,
        priority: 0,
        cookie,
        match: {},
        instructions: { apply: [{ type: 'outputRegister', register: outputRegister }] },
      },
    ],
    edge: [],
  };
}

export function networkFlows(network: NetworkOnHost): BridgeFlows {
  const cookie = networkCookie(network.vni);
  const own = (flow: Omit<Flow, 'cookie'>): Flow => ({ ...flow, cookie });
  return {
    int: [...network.ports.flatMap((port) => admit(network, port)), ...fromPatch(network), ...forward(network)].map(
      own,
    ),
    edge: edge(network).map(own),
  };
}

type Uncookied = Omit<Flow, 'cookie'>;

/** Port security: what a machine may say, by whom it is. */
function admit(network: NetworkOnHost, { port, mac, address }: LocalPort): Uncookied[] {
  const from = { inPort: port, vlanId: 'none', ethSrc: mac } as const;
  const allowed: Match[] = [
    { ...from, ethType: etherTypes.arp, arpSha: mac, arpSpa: address },
    { ...from, ethType: etherTypes.arp, arpSha: mac, arpSpa: '0.0.0.0' },
    { ...from, ethType: etherTypes.ipv4, ipv4Src: address },
    {
      ...from,
      ethType: etherTypes.ipv4,
      ipv4Src: '0.0.0.0',
      ipv4Dst: '255.255.255.255',
      ipProtocol: udp,
      udpSrc: 68,
      udpDst: 67,
    },
    { ...from, ethType: etherTypes.rarp },
  ];
  const noDhcpServer: Match = { inPort: port, vlanId: 'none', ethType: etherTypes.ipv4, ipProtocol: udp, udpSrc: 67 };
  return [
    { table: tables.classify, priority: 200, match: noDhcpServer, instructions: {} },
    ...allowed.map((match) => ({
      table: tables.classify,
      priority: 100,
      match,
      instructions: { writeMetadata: metadataOf(network), goto: tables.egress },
    })),
  ];
}

function fromPatch(network: NetworkOnHost): Uncookied[] {
  return [
    {
      table: tables.classify,
      priority: 100,
      match: { inPort: network.patch.int, vlanId: network.vlan },
      instructions: { apply: [{ type: 'popVlan' }], writeMetadata: metadataOf(network), goto: tables.forward },
    },
  ];
}

function forward(network: NetworkOnHost): Uncookied[] {
  const toPatch = tagged(network.vlan, network.patch.int);
  const metadata = { value: BigInt(network.vni), mask: metadataMask };
  const unicast = network.locations.map((location) => ({
    table: tables.forward,
    priority: 100,
    match: { metadata, ethDst: location.mac },
    instructions:
      location.at === 'here' ? { apply: [toRegister(location.port)], goto: tables.ingress } : { apply: toPatch },
  }));
  const flood = network.ports.flatMap(({ port }): Action[] => [
    toRegister(port),
    { type: 'resubmit', table: tables.ingress },
  ]);
  return [
    ...unicast,
    {
      table: tables.forward,
      priority: 90,
      match: { metadata, ethDst: group },
      // The patch comes last: what follows a push would see the tag.
      instructions: { apply: [...flood, ...toPatch] },
    },
  ];
}

function edge(network: NetworkOnHost): Uncookied[] {
  const outgoing = { inPort: network.patch.edge, vlanId: network.vlan } as const;
  const encapsulate: Action[] = [{ type: 'popVlan' }, { type: 'setField', field: { tunnelId: BigInt(network.vni) } }];
  const unicast = network.locations.flatMap((location): Uncookied[] =>
    location.at === 'elsewhere' && location.tunnel !== undefined
      ? [
          {
            table: 0,
            priority: 100,
            match: { ...outgoing, ethDst: location.mac },
            instructions: { apply: [...encapsulate, { type: 'output', port: location.tunnel }] },
          },
        ]
      : [],
  );
  const flood: Uncookied[] =
    network.tunnels.length === 0
      ? []
      : [
          {
            table: 0,
            priority: 90,
            match: { ...outgoing, ethDst: group },
            instructions: {
              apply: [...encapsulate, ...network.tunnels.map((port): Action => ({ type: 'output', port }))],
            },
          },
        ];
  const incoming = network.tunnels.map((tunnel) => ({
    table: 0,
    priority: 100,
    match: { inPort: tunnel, tunnelId: BigInt(network.vni) },
    instructions: { apply: tagged(network.vlan, network.patch.edge) },
  }));
  return [...unicast, ...flood, ...incoming];
}

const metadataOf = (network: NetworkOnHost) => ({ value: BigInt(network.vni), mask: metadataMask });

const toRegister = (port: number): Action => ({ type: 'loadRegister', register: outputRegister, value: port });

const tagged = (vlan: number, port: number): Action[] => [
  { type: 'pushVlan' },
  { type: 'setField', field: { vlanId: vlan } },
  { type: 'output', port },
];
