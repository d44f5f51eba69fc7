import type { Site } from '../../crds/index.js';
import type { Entry } from '../../drivers/consul/types.js';
import { uidAnnotation } from '../common/allocation.js';
import { domainUuid, interfaceId, networkUuid } from '../common/identity.js';
import {
  networkRecord,
  objectRecord,
  ownerRecord,
  parseRecord,
  policyRecord,
  prefixes,
  vmRecord,
  type HostRef,
  type NetworkRecord,
  type Versioned,
  type VmRecord,
} from '../common/records.js';
import { hostKey } from '../host.js';
import { defaultPool } from '../vm/disk.js';
import type { HostLook, Look, SeenDomain, SeenNetwork } from './look.js';

/** What a claim's key stands for. */
export type Space = 'vlan' | 'vni' | 'ip' | 'mac';

export interface Claim {
  readonly space: Space;
  readonly key: string;
  readonly fuid: string;
  readonly index: number;
}

/** An object of ours, by its kind and name. */
export interface Named {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
}

export interface ApiObject extends Named {
  readonly deleting: boolean;
}

/** A marked domain at a host. */
export interface PlacedDomain {
  readonly fuid: string;
  readonly host: HostLook;
  readonly domain: SeenDomain;
}

/** A marked libvirt network at a host. */
export interface PlacedNetwork {
  readonly fuid: string;
  readonly host: HostLook;
  readonly network: SeenNetwork;
}

/** A look, indexed by what its parts are asked for. */
export interface Picture extends Look {
  readonly claims: ReadonlyMap<string, Claim>;
  readonly networks: ReadonlyMap<string, Versioned<NetworkRecord>>;
  readonly machines: ReadonlyMap<string, Versioned<VmRecord>>;
  readonly owners: ReadonlyMap<string, Versioned<{ readonly keys: readonly string[] }>>;
  readonly registered: ReadonlyMap<string, Versioned<Named>>;
  /** Every record that is about one object, of whichever kind, by key. */
  readonly records: ReadonlyMap<string, { readonly fuid: string; readonly index: number }>;
  /** Keys whose values can't be read, with the fuid that they are about, if the key tells. */
  readonly damaged: ReadonlyMap<string, string | undefined>;
  /** The API's objects by each fuid that may be theirs: the uid, and what the annotation says. A replica's claim is given the benefit of the doubt. */
  readonly api: ReadonlyMap<string, ApiObject>;
  readonly byHost: ReadonlyMap<string, HostLook>;
  /** The hosts, as site/host, where a move that is under way may have something of a machine. */
  readonly moveEnds: ReadonlyMap<string, ReadonlySet<string>>;
  /** Every key below isthmus/. */
  readonly keys: ReadonlySet<string>;
  /** Domains that are ours. */
  readonly domains: readonly PlacedDomain[];
  /** libvirt networks that are ours. */
  readonly libvirtNetworks: readonly PlacedNetwork[];
  /** Whose a machine's iface-id is. */
  readonly interfaces: ReadonlyMap<string, string>;
  /** Every host of every Site was looked at whole, and there is one: nothing of ours can be elsewhere. */
  readonly isComplete: boolean;
}

/** spec.networks holds at most as many. */
const mostInterfaces = 8;

export function pictureOf(look: Look): Picture {
  const records = parseEntries(look.entries);
  const api = apiObjects(look);
  const domains = placedDomains(look, [...records.machines.keys(), ...api.keys()]);
  return {
    ...look,
    ...records,
    api,
    byHost: new Map(look.hosts.map((host) => [hostKey(host), host])),
    moveEnds: moveEndsOf(look, records),
    keys: new Set(look.entries.map(({ key }) => key)),
    domains,
    libvirtNetworks: placedNetworks(look, [...records.networks.keys(), ...api.keys()]),
    interfaces: interfaceOwners(look, records, api, domains),
    isComplete: look.hosts.length > 0 && look.hosts.every(isWhole),
  };
}

const isWhole = ({ domains, networks, volumes, ports, flows }: HostLook): boolean =>
  [domains, networks, volumes, ports, flows.int, flows.edge].every((part) => part !== undefined);

type Records = Pick<Picture, 'claims' | 'networks' | 'machines' | 'owners' | 'registered' | 'records' | 'damaged'>;

/** Kinds of records whose keys end in the fuid of an object. What lies below other prefixes (isthmus/site/) is not ours to judge. */
const recordKinds = ['vm', 'network', 'policy', 'object', 'owner'];
const recordPattern = new RegExp(`^${prefixes.all}(?:${recordKinds.join('|')})/([0-9a-f-]{36})$`);

const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

function parseEntries(all: readonly Entry[]): Records {
  const damaged = new Map<string, string | undefined>();
  const under = <T>(prefix: string, take: (entry: Entry) => T): Map<string, T> => {
    const found = new Map<string, T>();
    for (const entry of all) {
      if (!entry.key.startsWith(prefix)) continue;
      const rest = entry.key.slice(prefix.length);
      try {
        found.set(rest, take(entry));
      } catch {
        damaged.set(entry.key, uuidPattern.test(rest) ? rest : undefined);
      }
    }
    return found;
  };
  const claims = new Map<string, Claim>();
  for (const space of ['vlan', 'vni', 'ip', 'mac'] as const)
    for (const claim of under(prefixes[space], (entry) => claimOf(space, entry)).values()) claims.set(claim.key, claim);
  const parsed = {
    claims,
    networks: under(prefixes.network, (entry) => parseRecord(networkRecord, entry)),
    machines: under(prefixes.vm, (entry) => parseRecord(vmRecord, entry)),
    owners: under(prefixes.owner, (entry) => parseRecord(ownerRecord, entry)),
    registered: under(prefixes.object, (entry) => parseRecord(objectRecord, entry)),
  };
  // Only whether it can be read: nothing else depends on what it says.
  under(prefixes.policy, (entry) => parseRecord(policyRecord, entry));
  const records = all.flatMap(({ key, index }) => {
    const fuid = recordPattern.exec(key)?.[1];
    return fuid === undefined || damaged.has(key) ? [] : [[key, { fuid, index }] as const];
  });
  return { ...parsed, records: new Map(records), damaged };
}

function claimOf(space: Space, { key, value, index }: Entry): Claim {
  if (!uuidPattern.test(value)) throw new RangeError(`${key} does not hold a uid`);
  return { space, key, fuid: value, index };
}

function apiObjects({ objects }: Look): Map<string, ApiObject> {
  const { sites, networks, machines, templates, migrations } = objects;
  const found = new Map<string, ApiObject>();
  for (const { kind, metadata } of [...sites, ...networks, ...machines, ...templates, ...migrations]) {
    const { namespace = '', name, uid, annotations, deletionTimestamp } = metadata;
    const object = { kind, namespace, name, deleting: deletionTimestamp !== undefined };
    const replicaOf = annotations?.[uidAnnotation];
    if (replicaOf !== undefined && !found.has(replicaOf)) found.set(replicaOf, object);
    found.set(uid, object);
  }
  return found;
}

function moveEndsOf({ objects }: Look, { machines }: Records): Map<string, Set<string>> {
  const ends = new Map<string, Set<string>>();
  const byName = new Map<string, string>();
  const add = (fuid: string, ...refs: readonly HostRef[]): void => {
    ends.set(fuid, new Set([...(ends.get(fuid) ?? []), ...refs.map(hostKey)]));
  };
  for (const [fuid, { value }] of machines) {
    byName.set(`${value.namespace}/${value.name}`, fuid);
    if (value.phase === 'Moving') add(fuid, value, ...(value.target ? [value.target] : []));
  }
  for (const { metadata, spec, status } of objects.migrations) {
    const fuid = byName.get(`${metadata.namespace}/${spec.vmName}`);
    if (fuid === undefined || status?.attempt === undefined || status.completionTime !== undefined) continue;
    for (const end of [status.source, status.target])
      if (end?.host !== undefined) add(fuid, { site: end.site, host: end.host });
  }
  return ends;
}

/** Ours is a domain whose UUID derives from the fuid of a record or an object, or from the one in its own metadata. */
function placedDomains({ hosts }: Look, fuids: readonly string[]): PlacedDomain[] {
  const byUuid = new Map(fuids.map((fuid) => [domainUuid(fuid), fuid]));
  return hosts.flatMap((host) =>
    (host.domains ?? []).flatMap((domain): PlacedDomain[] => {
      const fuid = byUuid.get(domain.uuid) ?? domain.mark?.fuid;
      return fuid === undefined ? [] : [{ fuid, host, domain }];
    }),
  );
}

function placedNetworks({ hosts }: Look, fuids: readonly string[]): PlacedNetwork[] {
  const byUuid = new Map(fuids.map((fuid) => [networkUuid(fuid), fuid]));
  return hosts.flatMap((host) =>
    (host.networks ?? []).flatMap((network): PlacedNetwork[] => {
      const fuid = byUuid.get(network.uuid) ?? network.fuid;
      return fuid === undefined ? [] : [{ fuid, host, network }];
    }),
  );
}

function interfaceOwners(
  { hosts, objects }: Look,
  { machines, owners, registered, claims }: Records,
  api: ReadonlyMap<string, ApiObject>,
  domains: readonly PlacedDomain[],
): Map<string, string> {
  const owned = new Map<string, string>();
  for (const [fuid, { value }] of machines) for (const { id } of value.interfaces) owned.set(id, fuid);
  // Whoever else may have had a machine: most have a record and are done.
  const others = new Set([
    ...owners.keys(),
    ...registered.keys(),
    ...[...claims.values()].map(({ fuid }) => fuid),
    ...objects.machines.map(({ metadata }) => metadata.uid),
    ...domains.map(({ fuid }) => fuid),
    ...hosts.flatMap(({ volumes = [] }) => volumes.map(({ fuid }) => fuid)),
  ]);
  for (const fuid of others) {
    const kind = api.get(fuid)?.kind ?? registered.get(fuid)?.value.kind ?? 'FederatedVM';
    if (machines.has(fuid) || kind !== 'FederatedVM') continue;
    for (let index = 0; index < mostInterfaces; index++) owned.set(interfaceId(fuid, index), fuid);
  }
  return owned;
}

/** The object that a fuid is of, as the API, the registry, a record or a domain's metadata tells, in this order. */
export function objectOf(picture: Picture, fuid: string): Named | undefined {
  const known = picture.api.get(fuid) ?? picture.registered.get(fuid)?.value;
  if (known) return { kind: known.kind, namespace: known.namespace, name: known.name };
  const network = picture.networks.get(fuid)?.value;
  if (network) return { kind: 'FederatedNetwork', namespace: network.namespace, name: network.name };
  const mark = picture.domains.find((each) => each.fuid === fuid)?.domain.mark;
  const machine = picture.machines.get(fuid)?.value ?? mark;
  return machine && { kind: 'FederatedVM', namespace: machine.namespace, name: machine.name };
}

/** What is being deleted goes by itself, or its object says why not. */
export const isBeingDeleted = (picture: Picture, fuid: string): boolean => picture.api.get(fuid)?.deleting ?? false;

/** A record that can't be read stands for something that exists. */
export const isDamaged = (picture: Picture, key: string): boolean => picture.damaged.has(key);

/** Where a Site keeps a machine's volumes, as `site/host pool`: its own pool, and its share's. */
export function diskPools(
  { metadata, spec: { storage } }: Site,
  host: string,
): { local: string; shared: string | undefined } {
  return {
    local: `${metadata.name}/${host} ${storage?.pool ?? defaultPool}`,
    shared: storage?.shared && `${storage.shared.via} ${storage.shared.pool}`,
  };
}
