import { keys, type NetworkRecord, type VmRecord } from '../common/records.js';
import { hostKey } from '../host.js';
import { uidAnnotation } from '../common/allocation.js';
import type { Check, Removal, Spot } from './finding.js';
import { isBeingDeleted, isDamaged, objectOf, type Picture } from './picture.js';

/** Consul against itself and against the API server. */
export const consulChecks: readonly Check[] = [
  {
    kind: 'RecordDamaged',
    reason: 'the value is not what belongs there, so nothing can be said of what it stood for',
    remedy: 'restore the key from a backup of Consul',
    find: ({ damaged }) => [...damaged].map(([key, fuid]) => ({ where: 'consul', what: key, fuid })),
  },
  {
    kind: 'HeldTwice',
    reason: 'two objects have the same value on record: their frames meet',
    remedy: 'delete one of the objects and create it again; the key of the value names the one that may keep it',
    find: heldTwice,
  },
  {
    kind: 'ValueNotClaimed',
    reason: 'an object uses a value that another may be given, for no key holds it for this one',
    remedy: 'if no other object uses it, consul kv put the key with the fuid as value; else delete and create the object',
    find: valuesNotClaimed,
  },
  {
    kind: 'ObjectWithoutRecord',
    reason: 'the object was allocated values, but its record is gone',
    remedy: 'restore the key from a backup of Consul; the object gets other values otherwise',
    find: objectsWithoutRecord,
  },
  {
    kind: 'UnknownHost',
    reason: 'the record names a host that no Site has, so nobody can tell whether the machine runs',
    remedy: 'put the host back into its Site',
    find: ({ machines, byHost }) =>
      [...machines]
        .filter(([, { value }]) => !byHost.has(hostKey(value)))
        .map(([fuid, { value }]) => ({ where: 'consul', what: keys.vm(fuid), fuid, detail: hostKey(value) })),
  },
  {
    kind: 'MoveWithoutMigration',
    reason: 'the record says Moving, but the VMMigration is gone: until the move is ended nobody may start the machine',
    remedy: 'the operator ends it as if it were cancelled, and says in the status of the FederatedVM what it waits for',
    find: movesWithoutMigration,
  },
  {
    kind: 'RecordWithoutObject',
    reason: 'no object of this uid exists',
    remedy: 'remove by hand what is left of it at the sites, then --repair removes the record',
    find: (picture) =>
      [...picture.records]
        .filter(([, { fuid }]) => !picture.api.has(fuid))
        .map(([key, { fuid, index }]) => abandoned(picture, key, fuid, index)),
  },
  {
    kind: 'ClaimWithoutObject',
    reason: 'the value is taken for an object that does not exist',
    remedy: 'remove by hand what is left of it at the sites, then --repair removes the key',
    find: (picture) =>
      [...picture.claims.values()]
        .filter(({ fuid }) => !picture.api.has(fuid))
        .map(({ key, fuid, index }) => abandoned(picture, key, fuid, index)),
  },
  {
    kind: 'KeyNotListed',
    reason: 'its owner does not know of it and will not give it back when it is deleted',
    remedy: 'delete the key if the object’s record does not name the value; else restore isthmus/owner/ from a backup of Consul',
    find: keysNotListed,
  },
  {
    kind: 'ListedKeyMissing',
    reason: 'the owner lists a key that is gone: another may be given the value',
    remedy: 'if no other object uses it, consul kv put the key with the fuid as value; else delete and create the object',
    find: (picture) => listedKeys(picture, (key) => !picture.keys.has(key)),
  },
  {
    kind: 'ListedKeyHeldByAnother',
    reason: 'the owner lists a key that another holds',
    remedy: 'delete and create the object that does not hold the key',
    find: (picture) =>
      listedKeys(picture, (key, fuid) => {
        const holder = picture.claims.get(key)?.fuid;
        return holder !== undefined && holder !== fuid;
      }),
  },
]; // prettier-ignore

/** The same VLAN, VNI, MAC or address in the records of two. */
function heldTwice(picture: Picture): Spot[] {
  const holders = new Map<string, { key: string; fuids: string[] }>();
  const hold = (what: string, key: string, fuid: string): void => {
    const held = holders.get(what) ?? { key, fuids: [] };
    held.fuids.push(fuid);
    holders.set(what, held);
  };
  for (const [fuid, { value }] of picture.networks)
    for (const each of valuesOfNetwork(value)) hold(each.what, each.key, fuid);
  for (const [fuid, { value }] of picture.machines)
    for (const each of valuesOfMachine(value)) hold(each.what, each.key, fuid);
  const named = (fuid: string): string => {
    const object = objectOf(picture, fuid);
    return object ? `${object.kind} ${object.namespace}/${object.name}` : fuid;
  };
  return [...holders]
    .filter(([, { fuids }]) => fuids.length > 1)
    .map(([what, { key, fuids }]) => ({
      where: 'consul',
      what,
      detail: `${fuids.map(named).sort().join(' and ')}; ${key} is held by ${heldBy(picture, key, named)}`,
    }));
}

const heldBy = ({ claims }: Picture, key: string, named: (fuid: string) => string): string => {
  const fuid = claims.get(key)?.fuid;
  return fuid === undefined ? 'nobody' : named(fuid);
};

interface Value {
  readonly what: string;
  readonly key: string;
}

const valuesOfNetwork = ({ vlan, vni }: NetworkRecord): Value[] => [
  { what: `VLAN ${String(vlan)}`, key: keys.vlan(vlan) },
  { what: `VNI ${String(vni)}`, key: keys.vni(vni) },
];

const valuesOfMachine = ({ interfaces }: VmRecord): Value[] =>
  interfaces.flatMap(({ network, mac, address }) => [
    { what: `address ${address} in network ${network}`, key: keys.ip(network, address) },
    { what: `MAC ${mac}`, key: keys.mac(mac) },
  ]);

/** An owner that lists the key is found by what it lists. */
function valuesNotClaimed(picture: Picture): Spot[] {
  const { networks, machines, claims, owners } = picture;
  const values = [
    ...[...networks].map(([fuid, { value }]) => ({ fuid, values: valuesOfNetwork(value) })),
    ...[...machines].map(([fuid, { value }]) => ({ fuid, values: valuesOfMachine(value) })),
  ];
  return values
    .filter(({ fuid }) => isSettled(picture, fuid))
    .flatMap(({ fuid, values: used }) =>
      used
        .filter(({ key }) => claims.get(key)?.fuid !== fuid && !isDamaged(picture, key))
        .filter(({ key }) => !owners.get(fuid)?.value.keys.includes(key))
        .map(({ key, what }) => ({ where: 'consul', what: key, fuid, detail: what })),
    );
}

/** It exists, and is not on its way out. */
const isSettled = (picture: Picture, fuid: string): boolean => picture.api.has(fuid) && !isBeingDeleted(picture, fuid);

function objectsWithoutRecord(picture: Picture): Spot[] {
  const { objects, networks, machines } = picture;
  const lacking = <T extends { metadata: { uid: string; annotations?: Record<string, string> | undefined } }>(
    all: readonly T[],
    hasValues: (object: T) => boolean,
    records: ReadonlyMap<string, unknown>,
    keyOf: (fuid: string) => string,
  ): Spot[] =>
    all.filter(hasValues).flatMap(({ metadata: { uid, annotations } }): Spot[] => {
      const fuids = [uid, annotations?.[uidAnnotation] ?? uid];
      const isKnown = fuids.some((fuid) => records.has(fuid) || isDamaged(picture, keyOf(fuid)));
      return isKnown || isBeingDeleted(picture, uid) ? [] : [{ where: 'consul', what: keyOf(uid), fuid: uid }];
    });
  return [
    ...lacking(objects.networks, ({ status }) => status?.vlanId !== undefined, networks, keys.network),
    ...lacking(objects.machines, ({ status }) => status?.host !== undefined, machines, keys.vm),
  ];
}

function movesWithoutMigration({ machines, objects }: Picture): Spot[] {
  const known = new Set(objects.migrations.map(({ metadata }) => metadata.uid));
  return [...machines]
    .filter(([, { value }]) => value.phase === 'Moving' && !known.has(value.attempt ?? ''))
    .map(([fuid, { value }]) => ({
      where: 'consul',
      what: keys.vm(fuid),
      fuid,
      detail: `from ${hostKey(value)}${value.target ? ` to ${hostKey(value.target)}` : ''}`,
    }));
}

function abandoned(picture: Picture, key: string, fuid: string, index: number): Spot {
  const removal: Removal = { kind: 'key', key, index };
  const holder = claimant(picture, fuid);
  return { where: 'consul', what: key, fuid, ...(holder === undefined ? { removal } : { detail: holder }) };
}

/** Why the keys of an object that does not exist can't go yet, if so. */
function claimant(picture: Picture, fuid: string): string | undefined {
  const { isComplete, damaged, domains, libvirtNetworks, hosts, interfaces, machines, networks, byHost, objects } = picture;
  if (!isComplete) return 'not all hosts were looked at, so something of it may be left';
  if (damaged.size > 0) return 'other records are damaged and may name it';
  const domain = domains.find((each) => each.fuid === fuid);
  if (domain) return `its domain ${domain.domain.name} is at ${hostKey(domain.host)}`;
  const network = libvirtNetworks.find((each) => each.fuid === fuid);
  if (network) return `its libvirt network ${network.network.name} is at ${hostKey(network.host)}`;
  for (const host of hosts) {
    const volume = host.volumes?.find((each) => each.fuid === fuid);
    if (volume) return `its volume ${volume.name} is at ${hostKey(host)}`;
    const port = host.ports?.find(({ interfaceId }) => interfaceId !== undefined && interfaces.get(interfaceId) === fuid);
    if (port) return `its port ${port.name} is at ${hostKey(host)}`;
  }
  const machine = machines.get(fuid)?.value;
  if (machine?.phase === 'Moving') return 'it is being moved';
  if (machine && !byHost.has(hostKey(machine))) return `no Site has the host ${hostKey(machine)}, where it was`;
  const user = [...machines].find(([, { value }]) => value.interfaces.some((each) => each.network === fuid));
  if (user) return `machine ${user[1].value.namespace}/${user[1].value.name} is on it`;
  const record = networks.get(fuid)?.value;
  const gone = [...(record?.sites ?? []), ...(record?.leaving ?? [])].find(
    (site) => !objects.sites.some(({ metadata }) => metadata.name === site),
  );
  return gone === undefined ? undefined : `there is no Site ${gone}, where it was`;
} // prettier-ignore

function keysNotListed(picture: Picture): Spot[] {
  const { claims, networks, machines, owners } = picture;
  const all = [
    ...[...claims.values()].map(({ key, fuid }) => ({ key, fuid })),
    ...[...networks.keys()].map((fuid) => ({ key: keys.network(fuid), fuid })),
    ...[...machines.keys()].map((fuid) => ({ key: keys.vm(fuid), fuid })),
  ];
  return all
    .filter(({ fuid }) => isSettled(picture, fuid) && !isDamaged(picture, keys.owner(fuid)))
    .filter(({ key, fuid }) => !owners.get(fuid)?.value.keys.includes(key))
    .map(({ key, fuid }) => ({ where: 'consul', what: key, fuid }));
}

function listedKeys(picture: Picture, isWrong: (key: string, fuid: string) => boolean): Spot[] {
  return [...picture.owners]
    .filter(([fuid]) => isSettled(picture, fuid))
    .flatMap(([fuid, { value }]) =>
      value.keys.filter((key) => isWrong(key, fuid)).map((key) => ({ where: 'consul', what: key, fuid })),
    );
}
