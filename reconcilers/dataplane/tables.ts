import type { Flow as UserFlow } from '../../crds/index.js';
import type { Action, Flow, Match } from '../../drivers/openflow/types.js';
import { given } from '../common/given.js';
import { bridgeCookie, networkCookie } from '../common/identity.js';
import type { Policy } from '../common/records.js';
import { firewallFlows } from './firewall.js';
import {
  blockOf,
  deliver,
  edgeTables,
  etherTypes,
  ipProtocols,
  metadataOf,
  registers,
  tables,
  tagged,
  type Uncookied,
} from './layout.js';
import { probeFlows, type ProbePaths } from './probes.js';
import { admissionFlows, type LocalPort } from './security.js';

/**
 * The flow tables of docs/adr/0001 and 0003, compiled. Pure: the flows of one network on one host are a function of what is
 * passed here, and of nothing else.
 */

/** A machine of the network, wherever it is; where its frames go from this host. */
export type Location =
  | { readonly mac: string; readonly at: 'here'; readonly port: number }
  | { readonly mac: string; readonly at: 'elsewhere'; readonly tunnel: number | undefined };

/** One network as one host sees it. Ports are OpenFlow port numbers. */
export interface NetworkOnHost {
  readonly vni: number;
  readonly vlan: number;
  readonly cidr: string;
  /** Each end of the patch pair. */
  readonly patch: { readonly int: number; readonly edge: number };
  /** Every port of the network's machines on this host, the incoming end of a migration too. */
  readonly ports: readonly LocalPort[];
  readonly locations: readonly Location[];
  /** Tunnels to the hosts of the network's other sites and to this site's other hosts. */
  readonly tunnels: readonly number[];
  readonly policy: Policy;
}

export interface BridgeFlows {
  readonly int: readonly Flow[];
  readonly edge: readonly Flow[];
}

/** The group bit: broadcast and multicast. */
const group = '01:00:00:00:00:00/01:00:00:00:00:00';
/**
 * isth-edge: even numbers, so that another controller's flows can stand beside ours while one takes over from the other
 * (docs/adr/0004). Users' priorities, 1 to 1000, come above what every frame of a network meets.
 */
const edgePriorities = { each: 200, group: 180, user: (priority: number) => 2 * (1_000 + priority) } as const;

/**
 * What the bridges have, whichever networks there are. isth-edge has only the ways of probes, where there are any.
 *
 * A first fragment too short for a whole TCP or UDP header is matched as if its ports were 0, and would get round every rule
 * on ports (RFC 1858): nobody sends such a one in good faith.
 */
export function bridgeFlows(paths?: ProbePaths): BridgeFlows {
  const probes = paths ? probeFlows(paths) : { int: [], edge: [] };
  const own = (flow: Uncookied): Flow => ({ ...flow, cookie: bridgeCookie });
  const otherwise = (table: number, instructions: Flow['instructions']): Flow => ({
    table,
    priority: 0,
    cookie: bridgeCookie,
    match: {},
    instructions,
  });
  const tooShort = (ports: Match): Flow => ({
    table: tables.classify,
    priority: 300,
    cookie: bridgeCookie,
    match: { ethType: etherTypes.ipv4, ipFragment: 'first', ...ports },
    instructions: {},
  });
  return {
    int: [
      tooShort({ ipProtocol: ipProtocols.tcp, tcpSrc: 0, tcpDst: 0 }),
      tooShort({ ipProtocol: ipProtocols.udp, udpSrc: 0, udpDst: 0 }),
      otherwise(tables.policy, { goto: tables.egress }),
      otherwise(tables.egress, { goto: tables.forward }),
      otherwise(tables.ingress, { apply: [deliver] }),
      ...probes.int.map(own),
    ],
    edge: probes.edge.map(own),
  };
}

export function networkFlows(network: NetworkOnHost): BridgeFlows {
  const cookie = networkCookie(network.vni);
  const own = (flow: Uncookied): Flow => ({ ...flow, cookie });
  const { firewall, flows } = network.policy;
  const user = (at: UserFlow['at']): readonly UserFlow[] => flows.filter((flow) => flow.at === at);
  return {
    int: [
      ...network.ports.flatMap((port) => admissionFlows(network, port)),
      fromPatch(network),
      ...user('Port').map((flow) => atPort(network, flow)),
      // Nothing leaves or reaches a machine where there is none.
      ...(firewall && network.ports.length > 0 ? firewallFlows(network.vni, firewall) : []),
      ...forward(network),
    ].map(own),
    edge: [...outgoing(network, user('Boundary')), ...incoming(network)].map(own),
  };
}

function fromPatch({ patch, vlan, vni }: NetworkOnHost): Uncookied {
  return {
    table: tables.classify,
    priority: 100,
    match: { inPort: patch.int, vlanId: vlan },
    instructions: { apply: [{ type: 'popVlan' }], writeMetadata: metadataOf(vni), goto: tables.forward },
  };
}

/** A user's flow sees what a machine of its network sends, and nothing else: metadata says whose it is. */
function atPort({ vni }: NetworkOnHost, flow: UserFlow): Uncookied {
  return {
    table: tables.policy,
    priority: flow.priority,
    match: { ...matchOf(flow), metadata: metadataOf(vni) },
    instructions: consequence(flow, tables.egress),
  };
}

/** At the boundary the network's tag says whose it is. */
function atBoundary({ patch, vlan }: NetworkOnHost, flow: UserFlow): Uncookied {
  return {
    table: edgeTables.classify,
    priority: edgePriorities.user(flow.priority),
    match: { ...matchOf(flow), inPort: patch.edge, vlanId: vlan },
    instructions: consequence(flow, edgeTables.forward),
  };
}

function matchOf({ match: { ethType, ipProtocol, icmpType, icmpCode, ipv4Src, ipv4Dst, ...same } }: UserFlow): Match {
  return given({
    ...same,
    ipv4Src: ipv4Src && blockOf(ipv4Src),
    ipv4Dst: ipv4Dst && blockOf(ipv4Dst),
    ethType: ethType && etherTypes[ethType],
    ipProtocol: ipProtocol && ipProtocols[ipProtocol],
    icmpv4Type: icmpType,
    icmpv4Code: icmpCode,
  });
}

function consequence({ actions }: UserFlow, next: number): Flow['instructions'] {
  if (actions.some(({ drop }) => drop !== undefined)) return {};
  const apply = actions.flatMap(({ setField }) => settings(setField));
  return { ...(apply.length > 0 ? { apply } : {}), goto: next };
}

type SetField = NonNullable<UserFlow['actions'][number]['setField']>;

/** The schema has seen to it that there is exactly one field. */
function settings({ ethSrc, ethDst, ipv4Src, ipv4Dst, tcpDst, udpDst }: SetField = {}): Action[] {
  const fields = [
    ethSrc !== undefined && { ethSrc },
    ethDst !== undefined && { ethDst },
    ipv4Src !== undefined && { ipv4Src },
    ipv4Dst !== undefined && { ipv4Dst },
    tcpDst !== undefined && { tcpDst },
    udpDst !== undefined && { udpDst },
  ];
  return fields.filter((field) => field !== false).map((field) => ({ type: 'setField', field }));
}

function forward(network: NetworkOnHost): Uncookied[] {
  const toPatch = tagged(network.vlan, network.patch.int);
  const metadata = metadataOf(network.vni);
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

/** From the machines here to the other hosts. */
function outgoing(network: NetworkOnHost, user: readonly UserFlow[]): Uncookied[] {
  const match = { inPort: network.patch.edge, vlanId: network.vlan } as const;
  const encapsulate: Action[] = [{ type: 'popVlan' }, { type: 'setField', field: { tunnelId: BigInt(network.vni) } }];
  const to = (tunnels: readonly number[]): Flow['instructions'] => ({
    apply: [...encapsulate, ...tunnels.map((port): Action => ({ type: 'output', port }))],
  });
  const unicast = network.locations.flatMap((location): Uncookied[] =>
    location.at === 'elsewhere' && location.tunnel !== undefined
      ? [
          {
            table: edgeTables.forward,
            priority: edgePriorities.each,
            match: { ...match, ethDst: location.mac },
            instructions: to([location.tunnel]),
          },
        ]
      : [],
  );
  if (network.tunnels.length === 0) return unicast;
  return [
    { table: edgeTables.classify, priority: edgePriorities.each, match, instructions: { goto: edgeTables.forward } },
    ...user.map((flow) => atBoundary(network, flow)),
    ...unicast,
    {
      table: edgeTables.forward,
      priority: edgePriorities.group,
      match: { ...match, ethDst: group },
      instructions: to(network.tunnels),
    },
  ];
}

/** From the other hosts to the machines here: to the patch, never to another tunnel. */
function incoming({ tunnels, vni, vlan, patch }: NetworkOnHost): Uncookied[] {
  return tunnels.map((tunnel) => ({
    table: edgeTables.classify,
    priority: edgePriorities.each,
    match: { inPort: tunnel, tunnelId: BigInt(vni) },
    instructions: { apply: tagged(vlan, patch.edge) },
  }));
}

const toRegister = (port: number): Action => ({ type: 'loadRegister', register: registers.output, value: port });
