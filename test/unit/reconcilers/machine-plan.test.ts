import { describe, expect, it } from '@jest/globals';
import { formatAddress, type FederatedVM, type VMTemplate } from '../../../crds/index.js';
import { pickFree } from '../../../reconcilers/common/ip.js';
import type { NetworkRecord } from '../../../reconcilers/common/records.js';
import { planMachine, type MachinePlan, type References } from '../../../reconcilers/vm/plan.js';
import { machineSize } from '../../../reconcilers/vm/size.js';
import { interruptionOf } from './support/interruption.js';
import { machineObject, networkObject, templateObject } from './support/objects.js';

const record = (name: string, sites: string[]): NetworkRecord => ({
  namespace: 'acme',
  name,
  cidr: '172.16.0.0/29',
  vlan: 100,
  vni: 5000,
  mtu: 1450,
  leaving: [],
  sites,
});
const blue = networkObject('blue', {
  cidr: '172.16.0.0/29',
  gateway: '172.16.0.1',
  reservedRanges: ['172.16.0.2-172.16.0.3'],
});
const green = networkObject('green', { cidr: '10.0.0.0/24' });
const networks: References['networks'] = new Map([
  ['blue', { object: blue, fuid: 'f-blue', record: record('blue', ['valencia', 'saopaulo']) }],
  ['green', { object: green, fuid: 'f-green', record: record('green', ['saopaulo', 'tokyo']) }],
  ['new', { object: networkObject('new'), fuid: 'f-new', record: undefined }],
  ['old', { object: networkObject('old', {}, { deletionTimestamp: '2026-11-22T11:00:00Z' }), fuid: 'f-old', record: record('old', ['valencia']) }],
]); // prettier-ignore
const dns = templateObject('dns', {
  flavor: 'tiny',
  image: { name: 'dns-image' },
  storage: 'Shared',
  cloudInit: { user: 'dns', packages: ['dnsmasq'] },
});

interface Case {
  readonly reason: string;
  readonly machine: FederatedVM;
  readonly template?: VMTemplate;
  readonly placed?: boolean;
}
const plan = ({ machine, template, placed = false }: Case): MachinePlan =>
  planMachine(machine, { placed, template, networks });

describe('planMachine', () => {
  const cases: readonly (Case & { plan: object })[] = [
    { reason: 'without a word, the disk is local', machine: machineObject('m'), plan: { storage: 'Local', image: 'debian-12', size: { label: 'small' } } },
    { reason: 'a virtual machine is QEMU’s', machine: machineObject('m'), plan: { driver: 'qemu' } },
    { reason: 'a container is LXC’s, and its disk is local', machine: machineObject('m', { type: 'Container' }), plan: { driver: 'lxc', storage: 'Local' } },
    { reason: 'a container that has its place keeps it, whatever its template says later', placed: true, machine: machineObject('m', { type: 'Container', template: 'dns', image: { name: 'own' } }), template: dns, plan: { driver: 'lxc' } },
    { reason: 'a template gives what is left out', machine: machineObject('m', { template: 'dns', image: undefined }), template: dns, plan: { storage: 'Shared', image: 'dns-image', size: { label: 'tiny' } } },
    { reason: 'the machine’s own fields win over its template’s', machine: machineObject('m', { template: 'dns', image: { name: 'own' }, storage: 'Local', flavor: 'large' }), template: dns, plan: { storage: 'Local', image: 'own', size: { label: 'large' } } },
    { reason: 'of cloudInit each field by itself', machine: machineObject('m', { template: 'dns', cloudInit: { user: 'me' } }), template: dns, plan: { cloudInit: { user: 'me', packages: ['dnsmasq'] } } },
    { reason: 'a machine of two networks can only be where both are', machine: machineObject('m', { networks: [{ name: 'blue' }, { name: 'green' }] }), plan: { sites: ['saopaulo'] } },
    { reason: 'networks keep the order of the spec: interfaces are numbered by it', machine: machineObject('m', { networks: [{ name: 'green' }, { name: 'blue' }] }), plan: { networks: [{ name: 'green', fuid: 'f-green', prefixLength: 24 }, { name: 'blue', fuid: 'f-blue', prefixLength: 29, gateway: '172.16.0.1' }] } },
    { reason: 'a machine that has its place stays on a network that is going: the network waits for it', placed: true, machine: machineObject('m', { networks: [{ name: 'old' }] }), plan: { sites: ['valencia'] } },
    { reason: 'a pinned address may be reserved: that is what reserving is for', machine: machineObject('m', { networks: [{ name: 'blue', address: '172.16.0.2' }] }), plan: { networks: [{ address: '172.16.0.2' }] } },
  ]; // prettier-ignore
  it.each(cases)('$reason', (given) => {
    expect(plan(given)).toMatchObject(given.plan);
  });

  it('gives away every address of a network but its ends, its gateway and what is reserved', () => {
    const [planned] = plan({ reason: '', machine: machineObject('m') }).networks;
    const given = new Set<number>();
    for (;;) {
      const value = planned && pickFree(planned.space, (each) => given.has(each), 0);
      if (value === undefined) break;
      given.add(value);
    }
    expect([...given].map(formatAddress)).toEqual(['172.16.0.4', '172.16.0.5', '172.16.0.6']);
  });

  const on = (network: object): FederatedVM => machineObject('m', { networks: [network] });
  const refused: readonly (Case & { code: 'STALLED' | 'WAITING'; why: string; names: string[] })[] = [
    { reason: 'a template that is not there may come', machine: machineObject('m', { template: 'web' }), code: 'WAITING', why: 'UnknownTemplate', names: ['spec.template', 'web'] },
    { reason: 'a container on the share', machine: machineObject('m', { type: 'Container', storage: 'Shared' }), code: 'STALLED', why: 'StorageNotSupported', names: ['spec.storage: Shared', 'storage: Local'] },
    { reason: 'a container on an image of the share', machine: machineObject('m', { type: 'Container', storage: 'Cached' }), code: 'STALLED', why: 'StorageNotSupported', names: ['spec.storage: Cached'] },
    { reason: 'a container whose template says so', machine: machineObject('m', { type: 'Container', template: 'dns' }), template: dns, code: 'STALLED', why: 'StorageNotSupported', names: ['spec.template', 'dns', 'Shared'] },
    { reason: 'a container has no cloud-init', machine: machineObject('m', { type: 'Container', cloudInit: { user: 'me' } }), code: 'STALLED', why: 'CloudInitNotSupported', names: ['spec.cloudInit', 'leave it out'] },
    { reason: 'nor from its template', machine: machineObject('m', { type: 'Container', template: 'dns', storage: 'Local' }), template: dns, code: 'STALLED', why: 'CloudInitNotSupported', names: ['spec.template', 'dns'] },
    { reason: 'images by URL', machine: machineObject('m', { image: { url: 'https://images.example.org/x', sha256: 'a'.repeat(64) } }), code: 'STALLED', why: 'ImageNotSupported', names: ['spec.image'] },
    { reason: 'a network that is not there may come', machine: on({ name: 'red' }), code: 'WAITING', why: 'UnknownNetwork', names: ['spec.networks[0].name', 'red', 'namespace acme'] },
    { reason: 'a network that is going takes no new machines', machine: on({ name: 'old' }), code: 'WAITING', why: 'UnknownNetwork', names: ['spec.networks[0].name', 'being deleted'] },
    { reason: 'a network without its VLAN yet', machine: on({ name: 'new' }), code: 'WAITING', why: 'NetworkNotReady', names: ['spec.networks[0]', 'new'] },
    { reason: 'an address of elsewhere', machine: on({ name: 'blue', address: '172.16.0.8' }), code: 'STALLED', why: 'AddressOutsideNetwork', names: ['spec.networks[0].address', '172.16.0.8', '172.16.0.0/29'] },
    { reason: 'the network’s own address', machine: on({ name: 'blue', address: '172.16.0.0' }), code: 'STALLED', why: 'AddressNotUsable', names: ['172.16.0.0'] },
    { reason: 'the broadcast address', machine: on({ name: 'blue', address: '172.16.0.7' }), code: 'STALLED', why: 'AddressNotUsable', names: ['172.16.0.7'] },
    { reason: 'the gateway’s address', machine: on({ name: 'blue', address: '172.16.0.1' }), code: 'STALLED', why: 'AddressNotUsable', names: ['gateway'] },
    { reason: 'the interface that is wrong is named by its number', machine: machineObject('m', { networks: [{ name: 'blue' }, { name: 'red' }] }), code: 'WAITING', why: 'UnknownNetwork', names: ['spec.networks[1].name'] },
  ]; // prettier-ignore
  it.each(refused)('stops at, and names the field: $reason', ({ code, why, names, ...given }) => {
    const interruption = interruptionOf(() => plan(given));
    expect(interruption).toMatchObject({ code: `ISTHMUS_${code}`, reason: why });
    for (const name of names) expect(interruption.message).toContain(name);
  });
});

describe('machineSize', () => {
  const resources = { vcpus: 3, memory: '1.5Gi', disk: '10G' };
  const size = (spec: Readonly<Record<string, unknown>>, template?: VMTemplate) =>
    machineSize(machineObject('m', spec).spec, template?.spec);
  const small = { vcpus: 1, memoryBytes: 2n << 30n, diskBytes: 20n << 30n, label: 'small' };
  const own = { vcpus: 3, memoryBytes: 3n << 29n, diskBytes: 10_000_000_000n, label: '3/1536Mi' };
  const cases = [
    { reason: 'small when nobody says', size: size({}), expected: small },
    { reason: 'a template without a size says nothing', size: size({}, templateObject('t', {})), expected: small },
    { reason: 'the flavor’s', size: size({ flavor: 'large' }), expected: { vcpus: 4, memoryBytes: 8n << 30n, diskBytes: 80n << 30n, label: 'large' } },
    { reason: 'resources to the byte', size: size({ resources }), expected: own },
    { reason: 'the template’s flavor', size: size({}, dns), expected: { vcpus: 1, memoryBytes: 512n << 20n, diskBytes: 2n << 30n, label: 'tiny' } },
    { reason: 'the template’s resources', size: size({}, templateObject('t', { resources })), expected: own },
    { reason: 'a flavor of its own replaces the template’s resources', size: size({ flavor: 'small' }, templateObject('t', { resources })), expected: small },
    { reason: 'resources of its own replace the template’s flavor', size: size({ resources }, dns), expected: own },
  ]; // prettier-ignore
  it.each(cases)('is $reason', ({ size: found, expected }) => {
    expect(found).toEqual(expected);
  });
});
