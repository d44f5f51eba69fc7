import type { FederatedVM, StorageKind } from '../../crds/index.js';
import { edgeBridge, integrationBridge } from '../common/identity.js';
import { driverOf, keys, type HostRef, type NetworkRecord } from '../common/records.js';
import { hostKey } from '../host.js';
import type { Check, Removal, Spot } from './finding.js';
import { isOff, isRunning, type BridgeKey, type HostLook, type SeenPort } from './look.js';
import { diskPools, isBeingDeleted, isDamaged, type Picture, type PlacedDomain } from './picture.js';

/** The worst there is: both write to one disk. */
export const runsTwice: Check = {
  kind: 'RunsAtTwoHosts',
  reason: 'the machine runs more than once: both write to its disk and answer for its address',
  remedy: 'stop the one that the record (isthmus/vm/) does not name, at once: virsh destroy; then look at its disk',
  find: ({ domains, machines }) => {
    const running = new Map<string, PlacedDomain[]>();
    for (const each of domains)
      if (isRunning(each.domain)) running.set(each.fuid, [...(running.get(each.fuid) ?? []), each]);
    return [...running]
      .filter(([, places]) => places.length > 1)
      .map(([fuid, places]) => {
        const record = machines.get(fuid)?.value;
        return {
          where: places.map(({ host }) => hostKey(host)).sort().join(', '),
          what: `domain ${places[0]?.domain.name ?? ''}`,
          fuid,
          detail: record ? `the record names ${hostKey(record)}` : 'no record names a host',
        };
      });
  },
}; // prettier-ignore

/** libvirt against the records. */
export const libvirtChecks: readonly Check[] = [
  {
    kind: 'DomainWithoutRecord',
    reason: 'no record says that this machine exists',
    remedy: 'restore isthmus/vm/ from a backup of Consul if the machine is wanted; else virsh destroy and undefine it',
    find: domainsWithoutRecord,
  },
  {
    kind: 'DomainAtOtherHost',
    reason: 'the record names another host',
    remedy: 'find out which host is right; virsh destroy and undefine the domain at the other',
    find: domainsAtOtherHost,
  },
  {
    kind: 'DomainOfOtherDriver',
    reason: 'the machine’s type is the other driver’s: QEMU has virtual machines, LXC containers',
    remedy: 'virsh destroy and undefine it (virsh -c qemu:///system or lxc:///system, as the finding says)',
    find: domainsOfOtherDriver,
  },
  {
    kind: 'VolumeWithoutRecord',
    reason: 'no record says that the machine of this disk exists',
    remedy: 'restore isthmus/vm/ from a backup of Consul if the machine is wanted; else virsh vol-delete',
    find: volumesWithoutRecord,
  },
  {
    kind: 'VolumeAtOtherPlace',
    reason: 'the machine’s disk belongs elsewhere',
    remedy: 'compare it with the one in use; virsh vol-delete it if nothing needs it',
    find: volumesAtOtherPlace,
  },
  {
    kind: 'NetworkWithoutRecord',
    reason: 'no record says that this network exists',
    remedy: 'restore isthmus/network/ from a backup of Consul if it is wanted; else virsh net-destroy and net-undefine',
    find: networksWithoutRecord,
  },
  {
    kind: 'NetworkAtOtherSite',
    reason: 'the network does not span this site',
    remedy: 'move its machines away from here, then virsh net-destroy and net-undefine',
    find: networksAtOtherSite,
  },
  {
    kind: 'NetworkDiffers',
    reason: 'the definition is not what the record says',
    remedy: 'a running operator mends it (--resync-seconds); if it does not, look at its log',
    find: networksThatDiffer,
  },
];

/** Open vSwitch against the records and the Sites. */
export const switchChecks: readonly Check[] = [
  {
    kind: 'StalePort',
    reason: 'the port is a machine’s, but the machine does not run here',
    remedy: 'ovs-vsctl del-port, unless the machine is just being started here',
    find: stalePorts,
  },
  {
    kind: 'TunnelToUnknownHost',
    reason: 'no Site has the host that the tunnel leads to',
    remedy: 'a running operator removes it; if it does not, look at its log',
    find: tunnelsToUnknownHosts,
  },
  {
    kind: 'FlowsWithoutNetwork',
    reason: 'no network has this VNI here',
    remedy: 'restore isthmus/network/ from a backup of Consul if the network is wanted',
    find: flowsWithoutNetwork,
  },
];

function domainsWithoutRecord(picture: Picture): Spot[] {
  return picture.domains
    .filter(({ fuid }) => !picture.machines.has(fuid) && !isDamaged(picture, keys.vm(fuid)))
    .filter(({ fuid }) => !isBeingDeleted(picture, fuid))
    .map(({ fuid, host, domain }) => ({
      where: hostKey(host),
      what: `domain ${domain.name}`,
      fuid,
      detail: `it is ${domain.state}`,
      ...(isOff(domain) && !picture.api.has(fuid) ? { removal: domainRemoval({ fuid, host, domain }) } : {}),
    }));
}

const domainRemoval = ({ host, domain: { driver, uuid, name } }: PlacedDomain): Removal => ({
  kind: 'domain',
  at: refOf(host),
  driver,
  uuid,
  name,
});

const refOf = ({ site, host }: HostLook) => ({ site, host });

/** One that is switched off where the record does not have it, while it is defined where the record has it, is a move's leftover. */
function domainsAtOtherHost(picture: Picture): Spot[] {
  return picture.domains.flatMap((each): Spot[] => {
    const { fuid, host, domain } = each;
    const record = picture.machines.get(fuid)?.value;
    if (!record || hostKey(record) === hostKey(host) || domain.driver !== driverOf(record)) return [];
    if (isBeingDeleted(picture, fuid) || picture.moveEnds.get(fuid)?.has(hostKey(host))) return [];
    // Which of them is right can't be judged while the other one is not seen.
    const owner = picture.byHost.get(hostKey(record));
    if (!owner?.domains) return [];
    const isLeftover = record.phase === 'Owned' && isOff(domain) && owner.domains.some(({ uuid }) => uuid === domain.uuid);
    return [
      {
        where: hostKey(host),
        what: `domain ${domain.name}`,
        fuid,
        detail: `it is ${domain.state} here, the record names ${hostKey(record)}`,
        ...(isLeftover ? { removal: domainRemoval(each) } : {}),
      },
    ];
  });
} // prettier-ignore

/** Nobody but a person makes one. */
function domainsOfOtherDriver(picture: Picture): Spot[] {
  return picture.domains.flatMap((each): Spot[] => {
    const { fuid, host, domain } = each;
    const record = picture.machines.get(fuid)?.value;
    if (!record || domain.driver === driverOf(record)) return [];
    return [
      {
        where: hostKey(host),
        what: `domain ${domain.name} of ${domain.driver}`,
        fuid,
        detail: `it is ${domain.state}, the machine is of ${driverOf(record)}`,
        ...(isOff(domain) ? { removal: domainRemoval(each) } : {}),
      },
    ];
  });
}

function volumesWithoutRecord(picture: Picture): Spot[] {
  return picture.hosts.flatMap((host) =>
    (host.volumes ?? [])
      .filter(({ fuid }) => !picture.machines.has(fuid) && !isDamaged(picture, keys.vm(fuid)))
      .filter(({ fuid }) => !isBeingDeleted(picture, fuid))
      .map(({ fuid, pool, name, shared }) => {
        const isUnused = !picture.api.has(fuid) && !picture.domains.some((domain) => domain.fuid === fuid);
        const isSeenByAll = shared ? picture.isComplete : host.domains !== undefined;
        const removal: Removal = { kind: 'volume', at: refOf(host), pool, name, shared };
        return {
          where: hostKey(host),
          what: `volume ${name} in pool ${pool}`,
          fuid,
          ...(isUnused && isSeenByAll ? { removal } : {}),
        };
      }),
  );
}

function volumesAtOtherPlace(picture: Picture): Spot[] {
  const storages = new Map(
    picture.objects.machines.map((machine) => [
      `${machine.metadata.namespace}/${machine.metadata.name}`,
      storageOf(machine),
    ]),
  );
  return picture.hosts.flatMap((host) =>
    (host.volumes ?? []).flatMap(({ fuid, pool, name }): Spot[] => {
      const record = picture.machines.get(fuid)?.value;
      const storage = record && (record.storage ?? storages.get(`${record.namespace}/${record.name}`));
      if (!storage || isBeingDeleted(picture, fuid) || picture.moveEnds.has(fuid)) return [];
      const left = record.last?.left;
      const [places, before] = [diskPlaces(picture, record, storage), left && diskPlaces(picture, left, left.storage)];
      // What a move is still to delete stays its own.
      const expected = places && [...places, ...(before ?? [])];
      if (!expected || expected.includes(`${hostKey(host)} ${pool}`)) return [];
      const detail = `in pool ${expected.map((place) => place.split(' ').reverse().join(' of ')).join(' or ')}`;
      return [{ where: hostKey(host), what: `volume ${name} in pool ${pool}`, fuid, detail }];
    }),
  );
}

/** Where a machine's volumes may be, as `site/host pool`; undefined while that can't be told. */
function diskPlaces({ objects, byHost }: Picture, record: HostRef, storage: Storage): string[] | undefined {
  const site = objects.sites.find(({ metadata }) => metadata.name === record.site);
  if (!site || !byHost.get(hostKey(record))?.volumes) return undefined;
  const { local, shared } = diskPools(site, record.host);
  switch (storage) {
    case 'Local':
    case 'Cached':
      return [local];
    case 'Shared':
      return shared === undefined ? undefined : [shared];
    case 'either':
      return shared === undefined ? [local] : [local, shared];
  }
}

type Storage = StorageKind | 'either';

/** A template may have changed since. */
const storageOf = ({ spec }: FederatedVM): Storage =>
  spec.storage ?? (spec.template === undefined ? 'Local' : 'either');

function networksWithoutRecord(picture: Picture): Spot[] {
  return picture.libvirtNetworks
    .filter(({ fuid }) => !picture.networks.has(fuid) && !isDamaged(picture, keys.network(fuid)))
    .filter(({ fuid }) => !isBeingDeleted(picture, fuid))
    .map(({ fuid, host, network }) => {
      const isUnused = !picture.api.has(fuid) && !isInUse(picture, fuid, () => true);
      return {
        where: hostKey(host),
        what: `libvirt network ${network.name}`,
        fuid,
        ...(isUnused ? { removal: networkRemoval(host, fuid, network.name) } : {}),
      };
    });
}

const networkRemoval = (host: HostLook, fuid: string, name: string): Removal => ({
  kind: 'network',
  at: refOf(host),
  fuid,
  name,
});

/** Whether a machine of the network is, or may soon be, at one of these sites. */
function isInUse({ machines, damaged }: Picture, network: string, at: (site: string) => boolean): boolean {
  if (damaged.size > 0) return true;
  return [...machines.values()].some(
    ({ value: { site, target, interfaces } }) =>
      interfaces.some((each) => each.network === network) && (at(site) || (target !== undefined && at(target.site))),
  );
}

const spans = ({ sites, leaving }: NetworkRecord, site: string): boolean =>
  sites.includes(site) || leaving.includes(site);

function networksAtOtherSite(picture: Picture): Spot[] {
  return picture.libvirtNetworks.flatMap(({ fuid, host, network }): Spot[] => {
    const record = picture.networks.get(fuid)?.value;
    if (!record || spans(record, host.site) || isBeingDeleted(picture, fuid)) return [];
    const isUnused = !isInUse(picture, fuid, (site) => site === host.site);
    return [
      {
        where: hostKey(host),
        what: `libvirt network ${network.name}`,
        fuid,
        detail: `it spans ${record.sites.join(', ')}`,
        ...(isUnused ? { removal: networkRemoval(host, fuid, network.name) } : {}),
      },
    ];
  });
}

function networksThatDiffer(picture: Picture): Spot[] {
  return picture.libvirtNetworks.flatMap(({ fuid, host, network: { name, vlan, bridge } }): Spot[] => {
    const record = picture.networks.get(fuid)?.value;
    if (!record || isBeingDeleted(picture, fuid)) return [];
    const details = [
      ...(vlan === record.vlan ? [] : [`VLAN ${String(vlan ?? 'none')} instead of ${String(record.vlan)}`]),
      ...(bridge === integrationBridge ? [] : [`bridge ${bridge ?? 'none'} instead of ${integrationBridge}`]),
    ];
    return details.length === 0
      ? []
      : [{ where: hostKey(host), what: `libvirt network ${name}`, fuid, detail: details.join(', ') }];
  });
}

/** A machine has a port exactly where its domain is alive, at both ends while it moves. */
function stalePorts(picture: Picture): Spot[] {
  return picture.hosts.flatMap((host) => {
    if (!host.domains) return [];
    const alive = new Set(
      picture.domains.filter((each) => each.host === host && !isOff(each.domain)).map(({ fuid }) => fuid),
    );
    return (host.ports ?? []).flatMap((port): Spot[] => {
      const fuid = port.interfaceId === undefined ? undefined : picture.interfaces.get(port.interfaceId);
      if (fuid === undefined || isBeingDeleted(picture, fuid)) return [];
      if (picture.moveEnds.get(fuid)?.has(hostKey(host)) || isDamaged(picture, keys.vm(fuid))) return [];
      if (!alive.has(fuid)) return [{ ...stalePort(picture, host, port, undefined), fuid }];
      if (port.works) return [];
      const rival = host.ports?.find((other) => other.interfaceId === port.interfaceId && other.works);
      return rival ? [{ ...stalePort(picture, host, port, rival), fuid }] : [];
    });
  });
}

function stalePort({ machines, api, interfaces }: Picture, host: HostLook, port: SeenPort, rival: SeenPort | undefined): Spot {
  const fuid = interfaces.get(port.interfaceId ?? '') ?? '';
  const record = machines.get(fuid)?.value;
  // Its own host may be about to start it, with this very port.
  const isClaimed = record ? hostKey(record) === hostKey(host) : api.has(fuid);
  return {
    where: hostKey(host),
    what: `port ${port.name} on ${port.bridge}`,
    detail: rival ? `its port is ${rival.name}` : record ? `the record names ${hostKey(record)}` : 'there is no record of it',
    ...(isClaimed ? {} : { removal: portRemoval(host, port) }),
  };
} // prettier-ignore

const portRemoval = (host: HostLook, { bridge, bridgeUuid, uuid, name }: SeenPort): Removal => ({
  kind: 'port',
  at: refOf(host),
  bridge,
  bridgeUuid,
  uuid,
  name,
});

function tunnelsToUnknownHosts({ hosts, byHost }: Picture): Spot[] {
  return hosts.flatMap((host) =>
    (host.ports ?? [])
      .filter(({ peer }) => peer !== undefined && (!byHost.has(peer) || peer === hostKey(host)))
      .map((port) => ({
        where: hostKey(host),
        what: `port ${port.name} on ${port.bridge}`,
        detail: port.peer,
        removal: portRemoval(host, port),
      })),
  );
}

function flowsWithoutNetwork(picture: Picture): Spot[] {
  const { hosts, networks, objects, damaged } = picture;
  // A record that can't be read may be the one of this VNI.
  if (damaged.size > 0) return [];
  const records = [...networks.values()].map(({ value }) => value);
  const objectHas = (vni: number): boolean =>
    objects.networks.some(({ spec, status }) => (status?.vni ?? spec.vni) === vni);
  return hosts.flatMap((host) => {
    const here = new Set(records.filter((record) => spans(record, host.site)).map(({ vni }) => vni));
    return (['int', 'edge'] as const).flatMap((bridge) =>
      (host.flows[bridge] ?? [])
        .filter((vni) => !here.has(vni))
        .map((vni) => {
          const isElsewhere = records.some((record) => record.vni === vni);
          const removal: Removal = { kind: 'flows', at: refOf(host), bridge, vni };
          return {
            where: hostKey(host),
            what: `flows of VNI ${String(vni)} on ${bridgeNames[bridge]}`,
            ...(isElsewhere || !objectHas(vni) ? { removal } : {}),
          };
        }),
    );
  });
}

const bridgeNames: Readonly<Record<BridgeKey, string>> = { int: integrationBridge, edge: edgeBridge };
