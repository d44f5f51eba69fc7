import { describe, expect, it } from '@jest/globals';
import { checks, judge } from '../../../reconcilers/audit/audit.js';
import { domainName, networkName } from '../../../reconcilers/common/identity.js';
import { keys } from '../../../reconcilers/common/records.js';
import { machineObject, networkObject } from '../reconcilers/support/objects.js';
import {
  domain,
  fuids,
  grant,
  healthy,
  interfaceOf,
  libvirtNetwork,
  lineOf,
  migration,
  network,
  port,
  take,
  tunnel,
  vm,
  volumes,
  type Draft,
} from './federation.js';

interface Case {
  readonly reason: string;
  readonly change: (draft: Draft) => unknown;
  /** Kind @ where: what -> how a repair takes it away. */
  readonly found: readonly string[];
}

const find = (change: (draft: Draft) => unknown): string[] => {
  const draft = healthy();
  change(draft);
  return judge(take(draft)).map(lineOf);
};

const ip = keys.ip(fuids.blue, '172.16.0.20');
const mac = keys.mac('02:00:00:00:00:22');
const records = (draft: Draft, ...deleted: string[]): void => deleted.forEach((key) => draft.consul.delete(key));
const deleteObject = (draft: Draft, name: string): void => {
  draft.objects.machines = draft.objects.machines.filter(({ metadata }) => metadata.name !== name);
  draft.objects.networks = draft.objects.networks.filter(({ metadata }) => metadata.name !== name);
};
const marking = (draft: Draft, name: string): void => {
  const deletionTimestamp = '2026-11-22T10:00:00Z';
  const mark = <T extends { metadata: { name: string } }>(each: T): T =>
    each.metadata.name === name ? { ...each, metadata: { ...each.metadata, deletionTimestamp } } : each;
  draft.objects.machines = draft.objects.machines.map(mark);
  draft.objects.networks = draft.objects.networks.map(mark);
};
const away = (draft: Draft, name: 'valencia' | 'lisbon'): void => {
  draft.hosts[name] = {
    ...draft.hosts[name],
    domains: undefined,
    networks: undefined,
    volumes: undefined,
    ports: undefined,
    flows: { int: undefined, edge: undefined },
    problems: ['libvirt: connection refused'],
  };
};
const gone = (draft: Draft): void => {
  for (const [key, value] of grant(
    'FederatedVM',
    'gone',
    fuids.gone,
    { [keys.vm(fuids.gone)]: vm('gone', 'lisbon', fuids.gone, '172.16.0.99') },
    [keys.ip(fuids.blue, '172.16.0.99'), keys.mac('02:00:00:00:00:88')],
  ))
    draft.consul.set(key, value);
};
const goneKeys = [
  `RecordWithoutObject @ consul: ${keys.vm(fuids.gone)}`,
  `RecordWithoutObject @ consul: ${keys.object(fuids.gone)}`,
  `RecordWithoutObject @ consul: ${keys.owner(fuids.gone)}`,
  `ClaimWithoutObject @ consul: ${keys.ip(fuids.blue, '172.16.0.99')}`,
  `ClaimWithoutObject @ consul: ${keys.mac('02:00:00:00:00:88')}`,
];

it('every check says why what it finds is wrong and what to do, under a name of its own', () => {
  expect(new Set(checks.map(({ kind }) => kind)).size).toBe(checks.length);
  for (const { reason, remedy } of checks) for (const text of [reason, remedy]) expect(text.length).toBeGreaterThan(10);
});

const cases: Readonly<Record<string, readonly Case[]>> = {
  nothing: [
    { reason: 'where all agree, nothing is found; what does not carry our mark is nobody’s business', change: () => undefined, found: [] },
    { reason: 'keys of another kind below isthmus/ are not judged', change: ({ consul }) => consul.set('isthmus/site/lisbon', 'x').set('isthmus/new/thing', '?'), found: [] },
    { reason: 'a fenced host that does not answer keeps nobody from finding nothing', change: (draft) => { away(draft, 'lisbon'); draft.hosts.lisbon.fenced = true; }, found: [] },
    { reason: 'a machine that is being deleted may be half gone', change: (draft) => { marking(draft, 'web-1'); records(draft, keys.vm(fuids.web), ip); draft.hosts.valencia.ports = []; }, found: [] },
    { reason: 'a network that is being deleted may be half gone', change: (draft) => { marking(draft, 'blue'); draft.consul.set(keys.network(fuids.blue), { ...network, sites: [], leaving: ['lisbon', 'valencia'] }); draft.hosts.lisbon.networks = []; }, found: [] },
    { reason: 'a site that a network is leaving may still hold it', change: ({ consul }) => consul.set(keys.network(fuids.blue), { ...network, sites: ['valencia'], leaving: ['lisbon'] }), found: [] },
    { reason: 'while a machine moves both ends may have its domain and its port', change: (draft) => { draft.consul.set(keys.vm(fuids.db), { ...vm('db-1', 'lisbon', fuids.db, '172.16.0.21'), phase: 'Moving', attempt: 'moves', target: { site: 'valencia', host: 'a' } }); draft.objects.migrations.push(migration('moves', { attempt: 'moves' })); draft.hosts.valencia.domains?.push(domain('db-1', fuids.db, 'paused')); draft.hosts.valencia.ports?.push(port('vnet1', fuids.db)); }, found: [] },
    { reason: 'a move is not over before its source is clear', change: (draft) => { draft.objects.migrations.push(migration('moves', { attempt: 'moves', phase: 'Finalizing', source: { site: 'valencia', host: 'a' }, target: { site: 'lisbon', host: 'a' } })); draft.hosts.valencia.domains?.push(domain('db-1', fuids.db, 'shutoff')); }, found: [] },
    { reason: 'a template may have said where the disk is, and may have changed since', change: (draft) => { draft.objects.machines = draft.objects.machines.map((each) => ({ ...each, spec: { ...each.spec, storage: undefined, template: 'dns' } })); }, found: [] },
    { reason: 'a machine that is switched off has neither port nor running domain', change: (draft) => { draft.hosts.valencia.domains = [domain('web-1', fuids.web, 'shutoff')]; draft.hosts.valencia.ports = []; }, found: [] },
    { reason: 'a replica’s things are its object’s, by annotation', change: (draft) => { const of = machineObject('gone', { networks: [{ name: 'blue' }] }, { annotations: { 'isthmus.dev/uid': fuids.gone } }); draft.objects.machines.push(of); gone(draft); }, found: [] },
  ],
  RunsAtTwoHosts: [
    { reason: 'the worst is said first', change: ({ hosts }) => hosts.lisbon.domains?.push(domain('web-1', fuids.web, 'running')), found: [`RunsAtTwoHosts @ lisbon/a, valencia/a: domain ${domainName('web-1', fuids.web)} -> by hand`, `DomainAtOtherHost @ lisbon/a: domain ${domainName('web-1', fuids.web)} -> by hand`] },
    { reason: 'even while it is deleted or moved', change: (draft) => { marking(draft, 'web-1'); draft.hosts.lisbon.domains?.push(domain('web-1', fuids.web, 'running')); }, found: [`RunsAtTwoHosts @ lisbon/a, valencia/a: domain ${domainName('web-1', fuids.web)} -> by hand`] },
    { reason: 'even if nothing but the domain’s own mark knows of it', change: ({ hosts }) => { for (const each of Object.values(hosts)) each.domains?.push(domain('gone', fuids.gone, 'running', true)); }, found: [`RunsAtTwoHosts @ lisbon/a, valencia/a: domain ${domainName('gone', fuids.gone)} -> by hand`, `DomainWithoutRecord @ valencia/a: domain ${domainName('gone', fuids.gone)} -> by hand`, `DomainWithoutRecord @ lisbon/a: domain ${domainName('gone', fuids.gone)} -> by hand`] },
  ],
  DomainOfOtherDriver: [
    { reason: 'a container of a machine that is none, by hand', change: ({ hosts }) => hosts.valencia.domains?.push({ ...domain('web-1', fuids.web, 'shutoff'), driver: 'lxc' }), found: [`DomainOfOtherDriver @ valencia/a: domain ${domainName('web-1', fuids.web)} of lxc -> domain`] },
    { reason: 'wherever it is; while it runs a person has to end it', change: ({ hosts }) => hosts.lisbon.domains?.push({ ...domain('web-1', fuids.web, 'paused'), driver: 'lxc' }), found: [`DomainOfOtherDriver @ lisbon/a: domain ${domainName('web-1', fuids.web)} of lxc -> by hand`] },
    { reason: 'a virtual machine of a container; both run', change: ({ consul }) => consul.set(keys.vm(fuids.web), { ...vm('web-1', 'valencia', fuids.web, '172.16.0.20'), driver: 'lxc' }), found: [`DomainOfOtherDriver @ valencia/a: domain ${domainName('web-1', fuids.web)} of qemu -> by hand`] },
  ],
  RecordDamaged: [
    { reason: 'a record that can’t be read is named, and what it stood for is not taken for an orphan', change: ({ consul }) => consul.set(keys.vm(fuids.web), '{'), found: [`RecordDamaged @ consul: ${keys.vm(fuids.web)} -> by hand`] },
    { reason: 'nor are the flows of a network whose record can’t be read', change: ({ consul }) => consul.set(keys.network(fuids.blue), { vlan: 'x' }), found: [`RecordDamaged @ consul: ${keys.network(fuids.blue)} -> by hand`] },
    { reason: 'nor what a network’s policy says', change: ({ consul }) => consul.set(keys.policy(fuids.blue), {}), found: [`RecordDamaged @ consul: ${keys.policy(fuids.blue)} -> by hand`] },
    { reason: 'a claim holds a uid and nothing else', change: ({ consul }) => consul.set(keys.vlan(777), 'me'), found: [`RecordDamaged @ consul: ${keys.vlan(777)} -> by hand`] },
    { reason: 'an owner record that can’t be read is no proof that it lists nothing', change: ({ consul }) => consul.set(keys.owner(fuids.web), '[]'), found: [`RecordDamaged @ consul: ${keys.owner(fuids.web)} -> by hand`] },
    { reason: 'while a record can’t be read nothing is removed that it may name', change: (draft) => { gone(draft); draft.consul.set(keys.owner(fuids.web), '[]'); }, found: [`RecordDamaged @ consul: ${keys.owner(fuids.web)} -> by hand`, ...goneKeys.map((line) => `${line} -> by hand`)] },
  ],
  HeldTwice: [
    { reason: 'two machines with one address and one MAC', change: ({ consul }) => consul.set(keys.vm(fuids.db), { ...vm('db-1', 'lisbon', fuids.db, '172.16.0.21'), interfaces: [{ ...interfaceOf(fuids.db, '172.16.0.20'), mac: '02:00:00:00:00:22' }] }), found: [`HeldTwice @ consul: address 172.16.0.20 in network ${fuids.blue} -> by hand`, 'HeldTwice @ consul: MAC 02:00:00:00:00:22 -> by hand', `ValueNotClaimed @ consul: ${ip} -> by hand`, `ValueNotClaimed @ consul: ${mac} -> by hand`] },
    { reason: 'two networks with one VLAN and one VNI', change: ({ consul, objects }) => { objects.networks.push(networkObject('green', { cidr: '10.0.0.0/24' }, { uid: fuids.gone })); for (const [key, value] of grant('FederatedNetwork', 'green', fuids.gone, { [keys.network(fuids.gone)]: { ...network, name: 'green' } }, [])) consul.set(key, value); }, found: ['HeldTwice @ consul: VLAN 120 -> by hand', 'HeldTwice @ consul: VNI 70120 -> by hand', `ValueNotClaimed @ consul: ${keys.vlan(120)} -> by hand`, `ValueNotClaimed @ consul: ${keys.vni(70120)} -> by hand`] },
  ],
  ValueNotClaimed: [
    { reason: 'a record’s address that neither a key nor the owner record holds', change: ({ consul }) => { consul.delete(ip); consul.set(keys.owner(fuids.web), { keys: [mac, keys.vm(fuids.web), keys.object(fuids.web)] }); }, found: [`ValueNotClaimed @ consul: ${ip} -> by hand`] },
  ],
  ObjectWithoutRecord: [
    { reason: 'a network’s status tells of values, no record does; its flows may be wanted', change: (draft) => records(draft, keys.network(fuids.blue)), found: [`ObjectWithoutRecord @ consul: ${keys.network(fuids.blue)} -> by hand`, `ListedKeyMissing @ consul: ${keys.network(fuids.blue)} -> by hand`, ...['valencia/a', 'lisbon/a'].map((at) => `NetworkWithoutRecord @ ${at}: libvirt network ${networkName('blue', fuids.blue)} -> by hand`), ...['valencia/a', 'lisbon/a'].flatMap((at) => ['int', 'edge'].map((bridge) => `FlowsWithoutNetwork @ ${at}: flows of VNI 70120 on isth-${bridge} -> by hand`))] },
    { reason: 'a machine has a place, but no record; its domain and its disk stay', change: (draft) => records(draft, keys.vm(fuids.web)), found: [`ObjectWithoutRecord @ consul: ${keys.vm(fuids.web)} -> by hand`, `ListedKeyMissing @ consul: ${keys.vm(fuids.web)} -> by hand`, `DomainWithoutRecord @ valencia/a: domain ${domainName('web-1', fuids.web)} -> by hand`, ...volumes(fuids.web, 'default').map(({ name }) => `VolumeWithoutRecord @ valencia/a: volume ${name} in pool default -> by hand`)] },
  ],
  UnknownHost: [
    { reason: 'a record at a host that no Site has', change: ({ consul, hosts }) => { consul.set(keys.vm(fuids.web), vm('web-1', 'porto', fuids.web, '172.16.0.20')); hosts.valencia.domains = []; hosts.valencia.ports = []; hosts.valencia.volumes = []; }, found: [`UnknownHost @ consul: ${keys.vm(fuids.web)} -> by hand`] },
  ],
  MoveWithoutMigration: [
    { reason: 'a move whose VMMigration is gone has to be ended', change: ({ consul }) => consul.set(keys.vm(fuids.db), { ...vm('db-1', 'lisbon', fuids.db, '172.16.0.21'), phase: 'Moving', attempt: 'lost', target: { site: 'valencia', host: 'a' } }), found: [`MoveWithoutMigration @ consul: ${keys.vm(fuids.db)} -> by hand`] },
  ],
  RecordWithoutObject: [
    { reason: 'all that an object left that is gone, once nothing of it is anywhere', change: gone, found: goneKeys.map((line) => `${line} -> key`) },
    { reason: 'of whichever kind the record is', change: ({ consul }) => consul.set(keys.policy(fuids.gone), { flows: [] }), found: [`RecordWithoutObject @ consul: ${keys.policy(fuids.gone)} -> key`] },
    { reason: 'not while a site is away, where something of it may be', change: (draft) => { gone(draft); away(draft, 'valencia'); }, found: goneKeys.map((line) => `${line} -> by hand`) },
    { reason: 'not while a fenced host can’t be looked at', change: (draft) => { gone(draft); away(draft, 'valencia'); draft.hosts.valencia.fenced = true; }, found: goneKeys.map((line) => `${line} -> by hand`) },
    { reason: 'not while its domain runs', change: (draft) => { gone(draft); draft.hosts.lisbon.domains?.push(domain('gone', fuids.gone, 'running')); }, found: goneKeys.map((line) => `${line} -> by hand`) },
    { reason: 'not while its disk is there, which the record claims', change: (draft) => { gone(draft); draft.hosts.valencia.volumes?.push(...volumes(fuids.gone, 'shared')); }, found: goneKeys.map((line) => `${line} -> by hand`) },
    { reason: 'not if it was at a host that no Site has: nobody can tell whether it runs', change: (draft) => { gone(draft); draft.consul.set(keys.vm(fuids.gone), vm('gone', 'porto', fuids.gone, '172.16.0.99')); }, found: [`UnknownHost @ consul: ${keys.vm(fuids.gone)} -> by hand`, ...goneKeys.map((line) => `${line} -> by hand`)] },
    { reason: 'not a network’s while a machine is on it', change: (draft) => { deleteObject(draft, 'blue'); for (const each of Object.values(draft.hosts)) each.networks = []; }, found: [`RecordWithoutObject @ consul: ${keys.network(fuids.blue)} -> by hand`, `RecordWithoutObject @ consul: ${keys.object(fuids.blue)} -> by hand`, `RecordWithoutObject @ consul: ${keys.owner(fuids.blue)} -> by hand`, `ClaimWithoutObject @ consul: ${keys.vlan(120)} -> by hand`, `ClaimWithoutObject @ consul: ${keys.vni(70120)} -> by hand`] },
  ],
  ClaimWithoutObject: [
    { reason: 'values of each kind that nobody has', change: ({ consul }) => { for (const key of [keys.vlan(3999), keys.vni(9999), keys.ip(fuids.blue, '172.16.9.9'), keys.mac('02:00:00:00:00:99')]) consul.set(key, fuids.gone); }, found: [keys.vlan(3999), keys.vni(9999), keys.ip(fuids.blue, '172.16.9.9'), keys.mac('02:00:00:00:00:99')].map((key) => `ClaimWithoutObject @ consul: ${key} -> key`) },
  ],
  KeyNotListed: [
    { reason: 'a value that its owner will not give back; it has an owner, so no repair takes it', change: ({ consul }) => consul.set(keys.vlan(3999), fuids.blue), found: [`KeyNotListed @ consul: ${keys.vlan(3999)} -> by hand`] },
    { reason: 'an owner record that is gone lists nothing', change: (draft) => records(draft, keys.owner(fuids.web)), found: [ip, mac, keys.vm(fuids.web)].map((key) => `KeyNotListed @ consul: ${key} -> by hand`) },
  ],
  ListedKeyMissing: [
    { reason: 'an address that another may be given', change: (draft) => records(draft, ip), found: [`ListedKeyMissing @ consul: ${ip} -> by hand`] },
  ],
  ListedKeyHeldByAnother: [
    { reason: 'an address that was given to another', change: ({ consul }) => consul.set(ip, fuids.db), found: [`KeyNotListed @ consul: ${ip} -> by hand`, `ListedKeyHeldByAnother @ consul: ${ip} -> by hand`] },
  ],
  DomainWithoutRecord: [
    { reason: 'one that is switched off goes', change: ({ hosts }) => hosts.lisbon.domains?.push(domain('gone', fuids.gone, 'shutoff', true)), found: [`DomainWithoutRecord @ lisbon/a: domain ${domainName('gone', fuids.gone)} -> domain`] },
    { reason: 'one that runs is left', change: ({ hosts }) => hosts.lisbon.domains?.push(domain('gone', fuids.gone, 'paused', true)), found: [`DomainWithoutRecord @ lisbon/a: domain ${domainName('gone', fuids.gone)} -> by hand`] },
  ],
  DomainAtOtherHost: [
    { reason: 'a leftover of a move, switched off, goes', change: ({ hosts }) => hosts.valencia.domains?.push(domain('db-1', fuids.db, 'shutoff')), found: [`DomainAtOtherHost @ valencia/a: domain ${domainName('db-1', fuids.db)} -> domain`] },
    { reason: 'it stays if the record’s host has none: it may be the only one', change: ({ hosts }) => { hosts.valencia.domains?.push(domain('db-1', fuids.db, 'shutoff')); hosts.lisbon.domains = []; hosts.lisbon.ports = []; }, found: [`DomainAtOtherHost @ valencia/a: domain ${domainName('db-1', fuids.db)} -> by hand`] },
    { reason: 'while the record’s host is away, nobody can tell which is right', change: (draft) => { draft.hosts.valencia.domains?.push(domain('db-1', fuids.db, 'shutoff')); away(draft, 'lisbon'); }, found: [] },
    { reason: 'a third host has no part in a move', change: (draft) => { draft.objects.migrations.push(migration('moves', { attempt: 'moves', source: { site: 'lisbon', host: 'a' }, target: { site: 'porto', host: 'a' } })); draft.hosts.valencia.domains?.push(domain('db-1', fuids.db, 'running')); draft.hosts.lisbon.domains = []; }, found: [`DomainAtOtherHost @ valencia/a: domain ${domainName('db-1', fuids.db)} -> by hand`] },
  ],
  VolumeWithoutRecord: [
    { reason: 'disk and seed of a machine that is gone go, on the share once all hosts were looked at', change: ({ hosts }) => hosts.valencia.volumes?.push(...volumes(fuids.gone, 'shared')), found: volumes(fuids.gone, 'shared').map(({ name }) => `VolumeWithoutRecord @ valencia/a: volume ${name} in pool shared -> volume`) },
    { reason: 'a host that is away may use what is on the share', change: (draft) => { draft.hosts.valencia.volumes?.push(...volumes(fuids.gone, 'shared')); away(draft, 'lisbon'); }, found: volumes(fuids.gone, 'shared').map(({ name }) => `VolumeWithoutRecord @ valencia/a: volume ${name} in pool shared -> by hand`) },
    { reason: 'what is in a host’s own pool hangs on that host alone', change: (draft) => { draft.hosts.valencia.volumes?.push(...volumes(fuids.gone, 'default')); away(draft, 'lisbon'); }, found: volumes(fuids.gone, 'default').map(({ name }) => `VolumeWithoutRecord @ valencia/a: volume ${name} in pool default -> volume`) },
    { reason: 'not while there is a domain that may use it', change: (draft) => { draft.hosts.valencia.volumes?.push(...volumes(fuids.gone, 'default')); draft.hosts.lisbon.domains?.push(domain('gone', fuids.gone, 'running', true)); }, found: [`DomainWithoutRecord @ lisbon/a: domain ${domainName('gone', fuids.gone)} -> by hand`, ...volumes(fuids.gone, 'default').map(({ name }) => `VolumeWithoutRecord @ valencia/a: volume ${name} in pool default -> by hand`)] },
  ],
  VolumeAtOtherPlace: [
    { reason: 'a local disk at another host; a disk of a machine that exists is never removed', change: ({ hosts }) => hosts.lisbon.volumes?.push(...volumes(fuids.web, 'default')), found: volumes(fuids.web, 'default').map(({ name }) => `VolumeAtOtherPlace @ lisbon/a: volume ${name} in pool default -> by hand`) },
    { reason: 'a disk of the share in a host’s own pool', change: ({ hosts }) => hosts.lisbon.volumes?.push(...volumes(fuids.db, 'default')), found: volumes(fuids.db, 'default').map(({ name }) => `VolumeAtOtherPlace @ lisbon/a: volume ${name} in pool default -> by hand`) },
    { reason: 'while the machine’s host is away, nobody can tell', change: (draft) => { draft.hosts.lisbon.volumes?.push(...volumes(fuids.web, 'default')); away(draft, 'valencia'); }, found: [] },
  ],
  NetworkWithoutRecord: [
    { reason: 'a network that is gone', change: ({ hosts }) => hosts.lisbon.networks?.push(libvirtNetwork(fuids.gone, true)), found: [`NetworkWithoutRecord @ lisbon/a: libvirt network ${networkName('blue', fuids.gone)} -> network`] },
    { reason: 'not while a record of a machine names it', change: (draft) => { deleteObject(draft, 'blue'); records(draft, keys.network(fuids.blue), keys.owner(fuids.blue), keys.object(fuids.blue), keys.vlan(120), keys.vni(70120)); draft.hosts.lisbon.networks = []; draft.hosts.valencia.networks = [libvirtNetwork(fuids.blue, true)]; draft.hosts.valencia.flows = draft.hosts.lisbon.flows = { int: [], edge: [] }; }, found: [`NetworkWithoutRecord @ valencia/a: libvirt network ${networkName('blue', fuids.blue)} -> by hand`] },
  ],
  NetworkAtOtherSite: [
    { reason: 'it goes where no machine of it is; so do its flows', change: ({ consul, hosts }) => { consul.set(keys.network(fuids.blue), { ...network, sites: ['valencia'] }); consul.set(keys.vm(fuids.db), vm('db-1', 'valencia', fuids.db, '172.16.0.21')); hosts.valencia.domains?.push(domain('db-1', fuids.db, 'running')); hosts.lisbon.domains = []; hosts.lisbon.ports = []; }, found: [`NetworkAtOtherSite @ lisbon/a: libvirt network ${networkName('blue', fuids.blue)} -> network`, 'FlowsWithoutNetwork @ lisbon/a: flows of VNI 70120 on isth-int -> flows', 'FlowsWithoutNetwork @ lisbon/a: flows of VNI 70120 on isth-edge -> flows'] },
    { reason: 'it stays where a machine of it is', change: ({ consul, hosts }) => { consul.set(keys.network(fuids.blue), { ...network, sites: ['valencia'] }); hosts.lisbon.flows = { int: [], edge: [] }; }, found: [`NetworkAtOtherSite @ lisbon/a: libvirt network ${networkName('blue', fuids.blue)} -> by hand`] },
  ],
  NetworkDiffers: [
    { reason: 'another VLAN, another bridge, as somebody may have edited it', change: ({ hosts }) => { hosts.lisbon.networks = [{ ...libvirtNetwork(fuids.blue), vlan: 7 }]; hosts.valencia.networks = [{ ...libvirtNetwork(fuids.blue), bridge: 'br0' }]; }, found: ['valencia/a', 'lisbon/a'].map((at) => `NetworkDiffers @ ${at}: libvirt network ${networkName('blue', fuids.blue)} -> by hand`) },
  ],
  StalePort: [
    { reason: 'a machine’s port at a host where it does not run', change: ({ hosts }) => hosts.lisbon.ports?.push(port('vnet9', fuids.web)), found: ['StalePort @ lisbon/a: port vnet9 on isth-int -> port'] },
    { reason: 'at its own host it may be about to be used', change: ({ hosts }) => { hosts.valencia.domains = [domain('web-1', fuids.web, 'shutoff')]; }, found: ['StalePort @ valencia/a: port vnet0 on isth-int -> by hand'] },
    { reason: 'a second row that a crashed guest left', change: ({ hosts }) => hosts.valencia.ports?.push(port('vnet7', fuids.web, { works: false })), found: ['StalePort @ valencia/a: port vnet7 on isth-int -> by hand'] },
    { reason: 'a port of a machine of which no record is left, known by what its domain says', change: ({ hosts }) => { hosts.valencia.ports?.push(port('vnet8', fuids.gone)); hosts.valencia.domains?.push(domain('gone', fuids.gone, 'shutoff', true)); }, found: [`DomainWithoutRecord @ valencia/a: domain ${domainName('gone', fuids.gone)} -> domain`, 'StalePort @ valencia/a: port vnet8 on isth-int -> port'] },
    { reason: 'not while libvirt there does not answer', change: (draft) => { draft.hosts.lisbon.ports?.push(port('vnet9', fuids.web)); draft.hosts.lisbon.domains = undefined; }, found: [] },
  ],
  TunnelToUnknownHost: [
    { reason: 'the host’s Site is gone', change: ({ hosts }) => hosts.lisbon.ports?.push(tunnel('isth-9', 'porto/a')), found: ['TunnelToUnknownHost @ lisbon/a: port isth-9 on isth-edge -> port'] },
  ],
  FlowsWithoutNetwork: [
    { reason: 'on either bridge', change: ({ hosts }) => { hosts.lisbon.flows = { int: [70120, 4242], edge: [70120, 4243] }; }, found: ['FlowsWithoutNetwork @ lisbon/a: flows of VNI 4242 on isth-int -> flows', 'FlowsWithoutNetwork @ lisbon/a: flows of VNI 4243 on isth-edge -> flows'] },
  ],
}; // prettier-ignore

describe.each(Object.entries(cases))('%s', (kind, each) => {
  it.each(each)('$reason', ({ change, found }) => {
    const lines = find(change);
    expect(lines).toEqual(found);
    if (kind !== 'nothing' && each[0]?.found === found) expect(lines.some((line) => line.startsWith(`${kind} `))).toBe(true);
  }); // prettier-ignore
});

it('has cases of every check', () => {
  expect(Object.keys(cases).sort()).toEqual(['nothing', ...checks.map(({ kind }) => kind)].sort());
});

describe('what one store has lost, the others still claim', () => {
  const losses: { reason: string; change: (draft: Draft) => void }[] = [
    { reason: 'Consul is empty: the objects claim what is at the sites', change: ({ consul }) => consul.clear() },
    { reason: 'the objects are gone: what is at the sites keeps the records', change: ({ objects }) => { objects.networks = []; objects.machines = []; objects.migrations = []; } },
    { reason: 'another API server answers: none of its Sites are those of the records', change: ({ objects }) => { objects.networks = []; objects.machines = []; objects.sites = []; } },
  ]; // prettier-ignore
  it.each(losses)('$reason; nothing is removed', ({ change }) => {
    const lines = find(change);
    expect(lines).not.toEqual([]);
    expect(lines.filter((line) => !line.endsWith('-> by hand'))).toEqual([]);
  });
});
