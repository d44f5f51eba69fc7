import { describe, expect, it } from '@jest/globals';
import { XMLValidator } from 'fast-xml-parser';
import { domainUuid, networkName } from '../../../reconcilers/common/identity.js';
import { parseXml } from '../../../reconcilers/common/xml.js';
import { containerXml, type ContainerRequest } from '../../../reconcilers/vm/container.js';

const fuid = '5f0c1a4e-8c3b-4a51-9d5e-0123456789ab';
const network = '7a0c1a4e-8c3b-4a51-9d5e-0123456789ab';
const nic: ContainerRequest['interfaces'][number] = {
  ...{ network, name: 'blue', id: 'interface-0', mac: '02:00:00:00:00:01', address: '172.16.0.20' },
  ...{ mtu: 1450, prefixLength: 16, gateway: '172.16.0.1' },
};
const request: ContainerRequest = {
  ...{ fuid, namespace: 'acme', name: 'web-1', root: '/var/lib/libvirt/images/root.raw' },
  size: { vcpus: 2, memoryBytes: 1n << 30n, diskBytes: 1n << 34n, label: '2/1Gi' },
  interfaces: [nic],
};

function read(xml: string): ReturnType<typeof parseXml> {
  // eslint-disable-next-line @typescript-eslint/no-deprecated -- its successor is a package more
  expect(XMLValidator.validate(xml)).toBe(true);
  return parseXml(xml);
}
const mark = (of: ContainerRequest): string | undefined =>
  read(containerXml(of))('domain', 'metadata', 'isthmus:machine', '@definition');

describe('the XML of a container', () => {
  const at = read(containerXml(request));
  const cases: readonly { reason: string; path: string; value: string | undefined }[] = [
    { reason: 'of LXC', path: 'domain/@type', value: 'lxc' },
    { reason: 'known by the same UUID at every site', path: 'domain/uuid', value: domainUuid(fuid) },
    { reason: 'marked as ours', path: 'domain/metadata/isthmus:machine/@fuid', value: fuid },
    { reason: 'sized in bytes', path: 'domain/memory', value: '1073741824' },
    { reason: 'kept to its CPUs', path: 'domain/cputune/quota', value: '200000' },
    { reason: 'never in the host’s own network', path: 'domain/features/privnet', value: '' },
    { reason: 'not started again by libvirt when it ends', path: 'domain/on_poweroff', value: 'destroy' },
    { reason: 'on a file system in a file', path: 'domain/devices/filesystem/source/@file', value: '/var/lib/libvirt/images/root.raw' },
    { reason: 'that LXC mounts by a loop device', path: 'domain/devices/filesystem/driver/@type', value: 'loop' },
    { reason: 'as its root', path: 'domain/devices/filesystem/target/@dir', value: '/' },
    { reason: 'in a network that is called the same at all sites', path: 'domain/devices/interface/source/@network', value: networkName('blue', network) },
    { reason: 'at the port that its flows are for', path: 'domain/devices/interface/virtualport/parameters/@interfaceid', value: 'interface-0' },
    { reason: 'with the MAC that port security allows', path: 'domain/devices/interface/mac/@address', value: '02:00:00:00:00:01' },
    { reason: 'with its address, which libvirt sets', path: 'domain/devices/interface/ip/@address', value: '172.16.0.20' },
    { reason: 'and the network’s prefix', path: 'domain/devices/interface/ip/@prefix', value: '16' },
    { reason: 'with the way out', path: 'domain/devices/interface/route/@gateway', value: '172.16.0.1' },
  ]; // prettier-ignore
  it.each(cases)('is $reason ($path)', ({ path, value }) => {
    expect(at(...path.split('/'))).toBe(value);
  });

  it('sets every interface’s MTU, which LXC does not, before the image’s init runs', () => {
    const both = containerXml({ ...request, interfaces: [nic, { ...nic, mtu: 1400 }] });
    expect(both).toMatch(/eth0 mtu 1450.*eth1 mtu 1400.*; exec \/sbin\/init</);
    expect(both).toMatch(/<guest dev="eth0"\/?>.*<guest dev="eth1"\/?>/);
  });

  it('has one way out a metric: two of one metric would keep it from starting', () => {
    const both = containerXml({ ...request, interfaces: [nic, nic] });
    expect([...both.matchAll(/metric="(\d)"/g)].map(([, metric]) => metric)).toEqual(['1', '2']);
    expect(containerXml({ ...request, interfaces: [{ ...nic, gateway: undefined }] })).not.toContain('<route');
  });

  const changes: readonly { reason: string; change: Partial<ContainerRequest> }[] = [
    { reason: 'its size', change: { size: { ...request.size, vcpus: 3 } } },
    { reason: 'the way out', change: { interfaces: [{ ...nic, gateway: '172.16.0.2' }] } },
    { reason: 'an MTU', change: { interfaces: [{ ...nic, mtu: 1400 }] } },
  ];
  it.each(changes)('is told from another by $reason', ({ change }) => {
    expect(mark({ ...request, ...change })).not.toBe(mark(request));
  });

  it('is the same wherever its root lies', () => {
    const elsewhere = { ...request, root: '/other' };
    expect(containerXml(elsewhere)).not.toBe(containerXml(request));
    expect(mark(elsewhere)).toBe(mark(request));
  });
});
