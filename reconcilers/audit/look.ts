import type { FederatedNetwork, FederatedVM, Site, VMMigration, VMTemplate } from '../../crds/index.js';
import type { Entry } from '../../drivers/consul/types.js';
import type { DomainState } from '../../drivers/libvirt/types.js';
import type { HostRef } from '../common/records.js';

/** The API objects, as read in one go. */
export interface ApiObjects {
  readonly sites: readonly Site[];
  readonly networks: readonly FederatedNetwork[];
  readonly machines: readonly FederatedVM[];
  readonly templates: readonly VMTemplate[];
  readonly migrations: readonly VMMigration[];
}

/** Everything that one look at Consul, the API server and the hosts has seen. Plain values: what follows is a function of it. */
export interface Look {
  readonly objects: ApiObjects;
  /** All below isthmus/. */
  readonly entries: readonly Entry[];
  /** Each host of each Site, by site and name. */
  readonly hosts: readonly HostLook[];
}

/** What one host holds. A part that is undefined could not be looked at: its absence proves nothing. */
export interface HostLook extends HostRef {
  /** False: the caller asked for other sites only. */
  readonly asked: boolean;
  /** The user vouches that it is off: that it does not answer is as it should be. */
  readonly fenced: boolean;
  readonly domains: readonly SeenDomain[] | undefined;
  readonly networks: readonly SeenNetwork[] | undefined;
  readonly volumes: readonly SeenVolume[] | undefined;
  readonly ports: readonly SeenPort[] | undefined;
  /** VNIs of which a bridge has flows with our cookie. */
  readonly flows: Readonly<Record<BridgeKey, readonly number[] | undefined>>;
  /** Why parts could not be looked at. */
  readonly problems: readonly string[];
}

export type BridgeKey = 'int' | 'edge';

export interface SeenDomain {
  readonly driver: 'qemu' | 'lxc';
  readonly uuid: string;
  readonly name: string;
  readonly state: DomainState;
  /** What its metadata says; read only of a domain that nothing else tells the owner of. */
  readonly mark: { readonly fuid: string; readonly namespace: string; readonly name: string } | undefined;
}

/** A libvirt network whose name may be ours. */
export interface SeenNetwork {
  readonly uuid: string;
  readonly name: string;
  /** The fuid in its metadata; undefined: it is not ours. */
  readonly fuid: string | undefined;
  readonly vlan: number | undefined;
  readonly bridge: string | undefined;
}

/** A volume whose name carries our mark. */
export interface SeenVolume {
  readonly pool: string;
  readonly name: string;
  readonly fuid: string;
  /** The pool is one of a share: machines of other hosts may use it. */
  readonly shared: boolean;
}

/** A port of an Open vSwitch bridge that carries an iface-id or is a tunnel of ours. */
export interface SeenPort {
  readonly uuid: string;
  readonly name: string;
  readonly bridge: string;
  readonly bridgeUuid: string;
  /** The switch has given it a number. */
  readonly works: boolean;
  readonly interfaceId: string | undefined;
  /** Of a tunnel of ours: the host that it leads to, as site/host. */
  readonly peer: string | undefined;
}

/** libvirt's words for a guest that runs. */
export const isRunning = ({ state }: SeenDomain): boolean =>
  state === 'running' || state === 'blocked' || state === 'nostate';

/** libvirt's words for one of which nothing is left but its definition. */
export const isOff = ({ state }: Pick<SeenDomain, 'state'>): boolean => state === 'shutoff' || state === 'crashed';
