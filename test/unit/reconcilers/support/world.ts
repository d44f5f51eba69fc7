import {
  bridgeFlows,
  networkFlows,
  type BridgeFlows,
  type Location,
} from '../../../../reconcilers/dataplane/tables.js';
import type { Policy, Role } from '../../../../reconcilers/common/records.js';
import { hostKey } from '../../../../reconcilers/host.js';
import { receive, type Connections, type Frame } from './tables.js';

export interface WorldHost {
  readonly site: string;
  readonly name: string;
}

export interface WorldNetwork {
  readonly name: string;
  readonly vlan: number;
  readonly vni: number;
  readonly sites: readonly string[];
  /** Default: 172.16.0.0/16. */
  readonly cidr?: string;
  /** Default: none. */
  readonly policy?: Policy;
}

export interface WorldMachine {
  readonly name: string;
  readonly network: string;
  readonly mac: string;
  readonly address: string;
  /** The owner by the record, as a host's name. */
  readonly host: string;
  /** Where it has a port: at both ends during a migration. Default: at its owner. */
  readonly portsAt?: readonly string[];
  readonly role?: Role;
  readonly allowed?: readonly string[];
}

/** A frame that left the tables by a machine's port, or came to us. */
export interface Delivery {
  /** 'controller': us. */
  readonly machine: string;
  readonly at: string;
  readonly frame: Frame;
}

const patch = { int: 1, edge: 2 } as const;
/** Port numbers of machines and of tunnels overlap, as they may on two bridges. */
const firstPort = 10;
const maxHops = 500;

/** Hosts joined by tunnels, each with the flows that the data plane would give it, and frames that travel between them. */
export class World {
  readonly #bridges: ReadonlyMap<string, BridgeFlows>;
  readonly #connections = new Map<string, Connections>();
  /** Hops of the last send: `a: int 10 → 1`. */
  readonly hops: string[] = [];

  constructor(
    readonly hosts: readonly WorldHost[],
    readonly networks: readonly WorldNetwork[],
    readonly machines: readonly WorldMachine[],
  ) {
    this.#bridges = new Map(hosts.map((host) => [host.name, this.#compile(host)]));
  }

  /** Where a frame comes out that the machine sends, from the port it has at its owner or at the host named. */
  send(machine: string, frame: Frame, at?: string): Delivery[] {
    const sender = this.machines.find(({ name }) => name === machine);
    if (!sender) throw new Error(`no machine ${machine}`);
    const host = at ?? sender.host;
    return this.#travel({ host, bridge: 'int', port: this.#portOf(sender), frame, tunnelId: 0n });
  }

  /** Where a frame comes out that arrives at a host by the tunnel from a peer. */
  arrive(host: string, from: string, vni: number, frame: Frame): Delivery[] {
    const port = this.#tunnel(host, from);
    return this.#travel({ host, bridge: 'edge', port, frame, tunnelId: BigInt(vni) });
  }

  /** Where a frame comes out that we put into a host's patch, as a prober does. */
  inject(host: string, frame: Frame): Delivery[] {
    return this.#travel({ host, bridge: 'edge', port: patch.edge, frame, tunnelId: 0n });
  }

  #travel(first: { host: string; bridge: 'int' | 'edge'; port: number; frame: Frame; tunnelId: bigint }): Delivery[] {
    this.hops.length = 0;
    const deliveries: Delivery[] = [];
    const queue = [first];
    for (let hop = queue.shift(); hop; hop = queue.shift()) {
      const { host, bridge } = hop;
      const flows = this.#bridges.get(host)?.[bridge] ?? [];
      for (const { port, frame, tunnelId } of receive(
        ...([flows, hop.port, hop.frame, hop.tunnelId] as const),
        this.#connectionsOf(host),
      )) {
        this.hops.push(`${host}: ${bridge} ${hop.port} → ${port}`);
        if (this.hops.length > maxHops) throw new Error('the frame goes round in circles');
        if (port === patch[bridge]) {
          const other = bridge === 'int' ? 'edge' : 'int';
          queue.push({ host, bridge: other, port: patch[other], frame, tunnelId: 0n });
        } else if (bridge === 'edge' && port !== 'controller') {
          if (hop.port !== patch.edge) throw new Error(`${host}: a tunnel’s frame went out of port ${port}`);
          const peer = this.#peerOf(host, port);
          queue.push({ host: peer, bridge, port: this.#tunnel(peer, host), frame, tunnelId });
        } else if (port === 'controller') deliveries.push({ machine: port, at: host, frame });
        else {
          const machine = this.machines[port - firstPort];
          if (!machine || !portsAt(machine).includes(host)) throw new Error(`${host}: isth-int has no port ${port}`);
          deliveries.push({ machine: machine.name, at: host, frame });
        }
      }
    }
    return deliveries;
  }

  /** What the hosts know of connections is lost or, if given, taken over from an earlier world. */
  remember(connections: ReadonlyMap<string, Connections> = new Map()): this {
    this.#connections.clear();
    for (const [host, each] of connections) this.#connections.set(host, each);
    return this;
  }

  get connections(): ReadonlyMap<string, Connections> {
    return this.#connections;
  }

  #connectionsOf(host: string): Connections {
    const connections = this.#connections.get(host) ?? new Map<string, number>();
    this.#connections.set(host, connections);
    return connections;
  }

  #portOf(machine: WorldMachine): number {
    return firstPort + this.machines.indexOf(machine);
  }

  #tunnel(host: string, peer: string): number {
    const index = this.hosts.findIndex(({ name }) => name === peer);
    if (index < 0 || host === peer) throw new Error(`${host} has no tunnel to ${peer}`);
    return firstPort + index;
  }

  #peerOf(host: string, port: number): string {
    const peer = this.hosts[port - firstPort];
    if (!peer || peer.name === host) throw new Error(`${host}: isth-edge has no tunnel ${port}`);
    return peer.name;
  }

  #compile({ site, name: host }: WorldHost): BridgeFlows {
    const parts = this.networks
      .filter(({ sites }) => sites.includes(site))
      .map(({ name, vlan, vni, sites, cidr = '172.16.0.0/16', policy = { flows: [] } }) => {
        const machines = this.machines.filter(({ network }) => network === name);
        const here = machines.filter((machine) => portsAt(machine).includes(host));
        return networkFlows({
          vni,
          vlan,
          cidr,
          policy,
          patch,
          ports: here.map((machine) => ({ ...machine, port: this.#portOf(machine) })),
          locations: machines.flatMap((machine): Location[] => {
            if (machine.host !== host)
              return [{ mac: machine.mac, at: 'elsewhere', tunnel: this.#tunnel(host, machine.host) }];
            return here.includes(machine) ? [{ mac: machine.mac, at: 'here', port: this.#portOf(machine) }] : [];
          }),
          tunnels: this.hosts
            .filter((peer) => peer.name !== host && sites.includes(peer.site))
            .map((peer) => this.#tunnel(host, peer.name)),
        });
      });
    const tunnels = this.hosts
      .filter((peer) => peer.name !== host)
      .map((peer) => [hostKey({ site: peer.site, host: peer.name }), this.#tunnel(host, peer.name)] as const);
    const paths = { self: hostKey({ site, host }), patch, tunnels: new Map(tunnels) };
    const all = [bridgeFlows(paths), ...parts];
    return { int: all.flatMap(({ int }) => int), edge: all.flatMap(({ edge }) => edge) };
  }
}

const portsAt = ({ host, portsAt: ports = [host] }: WorldMachine): readonly string[] => ports;
