import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { XMLValidator } from 'fast-xml-parser';
import { domainUuid, isOurs, networkName, networkUuid } from '../../../reconcilers/common/identity.js';
import { buildXml, parseXml } from '../../../reconcilers/common/xml.js';
import { networkXml } from '../../../reconcilers/network/libvirt.js';
import { domainXml, type DomainRequest } from '../../../reconcilers/vm/domain.js';

const fuid = '5f0c1a4e-8c3b-4a51-9d5e-0123456789ab';
const network = '7a0c1a4e-8c3b-4a51-9d5e-0123456789ab';
const request: DomainRequest = {
  fuid,
  namespace: 'acme',
  name: 'web-1',
  size: { vcpus: 2, memoryBytes: 1n << 32n, diskBytes: 1n << 34n, label: 'medium' },
  datapath: 'system',
  virtualisation: 'kvm',
  disk: { kind: 'file', path: '/var/lib/libvirt/images/root.qcow2' },
  seed: { kind: 'nfs', server: '198.51.100.11', path: '/nfs/seed.iso' },
  interfaces: [
    { network, name: 'blue', id: 'interface-0', mac: '02:00:00:00:00:01', address: '172.16.0.20', mtu: 1450 },
  ],
};
/** Text that would end an attribute, an element or the document, were it not escaped. */
const hostile = `"/><evil a='1'>&amp;]]><!--`;

/** Well-formed by another's word, and read back. */
function read(xml: string): ReturnType<typeof parseXml> {
  // eslint-disable-next-line @typescript-eslint/no-deprecated -- its successor is a package more
  expect(XMLValidator.validate(xml)).toBe(true);
  return parseXml(xml);
}

describe('the XML of a domain', () => {
  const at = read(domainXml(request));
  const cases: readonly { reason: string; path: string; value: string }[] = [
    { reason: 'named so that a leftover of a deleted namesake is another', path: 'domain/name', value: 'isth-web-1-5f0c1a4e' },
    { reason: 'known by the same UUID at every site', path: 'domain/uuid', value: domainUuid(fuid) },
    { reason: 'titled as people know it', path: 'domain/title', value: 'acme/web-1' },
    { reason: 'of the kind that the host can', path: 'domain/@type', value: 'kvm' },
    { reason: 'marked as ours', path: 'domain/metadata/isthmus:machine/@fuid', value: fuid },
    { reason: 'sized in bytes', path: 'domain/memory', value: '4294967296' },
    { reason: 'with the unit that the number has', path: 'domain/memory/@unit', value: 'b' },
    { reason: 'with its CPUs', path: 'domain/vcpu', value: '2' },
    { reason: 'not started again by libvirt when it powers off: who runs it is the record’s to say', path: 'domain/on_poweroff', value: 'destroy' },
    { reason: 'nor when it crashes', path: 'domain/on_crash', value: 'destroy' },
    { reason: 'on a disk without host cache, or it could not be moved', path: 'domain/devices/disk/driver/@cache', value: 'none' },
    { reason: 'on its own disk', path: 'domain/devices/disk/source/@file', value: '/var/lib/libvirt/images/root.qcow2' },
    { reason: 'in a network that is called the same at all sites', path: 'domain/devices/interface/source/@network', value: networkName('blue', network) },
    { reason: 'at the port that its flows are for', path: 'domain/devices/interface/virtualport/parameters/@interfaceid', value: 'interface-0' },
    { reason: 'with the MAC that port security allows', path: 'domain/devices/interface/mac/@address', value: '02:00:00:00:00:01' },
    { reason: 'with the network’s MTU', path: 'domain/devices/interface/mtu/@size', value: '1450' },
  ]; // prettier-ignore
  it.each(cases)('is $reason ($path)', ({ path, value }) => {
    expect(at(...path.split('/'))).toBe(value);
  });

  it('leaves no checksum to a switch that would pass it on unfinished, and is the same definition for that', () => {
    const there = read(domainXml({ ...request, datapath: 'netdev' }));
    const driver = ['domain', 'devices', 'interface', 'driver'];
    expect([there(...driver, 'host', '@csum'), there(...driver, 'guest', '@csum')]).toEqual(['off', 'off']);
    expect(at(...driver, 'host', '@csum')).toBeUndefined();
    const mark = ['domain', 'metadata', 'isthmus:machine', '@definition'];
    expect(there(...mark)).toBe(at(...mark));
  });

  it('never says where the machine is, nor which VLAN it is in: that differs from site to site', () => {
    expect(domainXml(request)).not.toMatch(/<vlan|valencia|isth-int/);
  });

  it('reads a disk of the share by its server and its path', () => {
    const seed = domainXml(request).split('<disk')[2] ?? '';
    expect(seed).toContain('type="network"');
    expect(seed).toMatch(/<source protocol="nfs" name="\/nfs\/seed.iso"><host name="198.51.100.11"\/?>/);
  });

  it('reads a disk that stands on an image of the share through it, once, and is the same definition for that', () => {
    const source = { kind: 'nfs', server: '198.51.100.11', path: '/nfs/debian.qcow2' } as const;
    const there = read(domainXml({ ...request, base: { source, format: 'qcow2' } }));
    const disk = ['domain', 'devices', 'disk'];
    expect(there(...disk, 'driver', '@copy_on_read')).toBe('on');
    expect(there(...disk, 'source', '@file')).toBe('/var/lib/libvirt/images/root.qcow2');
    expect(there(...disk, 'backingStore', 'source', '@name')).toBe('/nfs/debian.qcow2');
    expect(there(...disk, 'backingStore', 'format', '@type')).toBe('qcow2');
    expect(there(...disk, 'backingStore', 'backingStore')).toBe('');
    expect(at(...disk, 'driver', '@copy_on_read')).toBeUndefined();
    const mark = ['domain', 'metadata', 'isthmus:machine', '@definition'];
    expect(there(...mark)).toBe(at(...mark));
  });

  it('shows the guest a CPU model that can be moved where there is KVM', () => {
    expect(at('domain', 'cpu', '@mode')).toBe('host-model');
    const emulated = read(domainXml({ ...request, virtualisation: 'qemu' }));
    expect(emulated('domain', '@type')).toBe('qemu');
    expect(emulated('domain', 'cpu', '@mode')).toBeUndefined();
  });

  const definition = (of: DomainRequest): string | undefined =>
    read(domainXml(of))('domain', 'metadata', 'isthmus:machine', '@definition');
  const [nic] = request.interfaces;
  const changes: readonly { reason: string; change: Partial<DomainRequest> }[] = [
    { reason: 'its size', change: { size: { ...request.size, vcpus: 3 } } },
    { reason: 'its memory', change: { size: { ...request.size, memoryBytes: 1n } } },
    { reason: 'an interface more', change: { interfaces: [...request.interfaces, ...(nic ? [{ ...nic, id: 'b' }] : [])] } },
    { reason: 'an MTU', change: { interfaces: nic ? [{ ...nic, mtu: 1400 }] : [] } },
  ]; // prettier-ignore
  it.each(changes)('is told from another by $reason, and equal for equal input', ({ change }) => {
    expect(domainXml({ ...request })).toBe(domainXml(request));
    expect(definition({ ...request, ...change })).not.toBe(definition(request));
    expect(definition(request)).toMatch(/^[0-9a-f]{16}$/);
  });

  const places: readonly { reason: string; change: Partial<DomainRequest> }[] = [
    { reason: 'where its disk lies', change: { disk: { kind: 'file', path: '/other' } } },
    { reason: 'where its seed lies', change: { seed: { kind: 'nfs', server: 'other', path: '/other' } } },
    { reason: 'the switch of its host', change: { datapath: 'netdev' } },
  ];
  it.each(places)('is the same whatever a move changes: $reason', ({ change }) => {
    expect(domainXml({ ...request, ...change })).not.toBe(domainXml(request));
    expect(definition({ ...request, ...change })).toBe(definition(request));
  });

  it('holds names of any text as text', () => {
    const given: DomainRequest = {
      ...request,
      namespace: hostile,
      name: hostile,
      disk: { kind: 'file', path: `/x${hostile}` },
      seed: { kind: 'nfs', server: hostile, path: hostile },
      interfaces: request.interfaces.map((each) => ({ ...each, name: hostile, id: hostile })),
    };
    const evil = read(domainXml(given));
    expect(evil('domain', 'title')).toBe(`${hostile}/${hostile}`);
    expect(evil('domain', 'metadata', 'isthmus:machine', '@name')).toBe(hostile);
    expect(evil('domain', 'devices', 'disk', 'source', '@file')).toBe(`/x${hostile}`);
    expect(evil('domain', 'devices', 'interface', 'virtualport', 'parameters', '@interfaceid')).toBe(hostile);
    expect(domainXml(given)).not.toContain('<evil');
  });
});

describe('the XML of a network', () => {
  const wanted = { fuid: network, name: networkName('blue', network), vlan: 120 };
  const at = read(networkXml(wanted));
  const cases = [
    { reason: 'known by the same UUID at every site', path: 'network/uuid', value: networkUuid(network) },
    { reason: 'called the same at every site', path: 'network/name', value: 'isth-blue-7a0c1a4e' },
    { reason: 'on the bridge where machines plug in', path: 'network/bridge/@name', value: 'isth-int' },
    { reason: 'of Open vSwitch', path: 'network/virtualport/@type', value: 'openvswitch' },
    { reason: 'of its VLAN', path: 'network/vlan/tag/@id', value: '120' },
    { reason: 'marked as ours', path: 'network/metadata/isthmus:network/@fuid', value: network },
  ];
  it.each(cases)('is $reason ($path)', ({ path, value }) => {
    expect(at(...path.split('/'))).toBe(value);
  });

  it('bears a name that tells it from networks that are not ours', () => {
    expect(isOurs(at('network', 'name') ?? '')).toBe(true);
  });
});

describe('XML', () => {
  // XML 1.0 §2.2: no control characters but tab and line ends, no lone surrogates.
  const text = fc
    .string({ unit: 'grapheme', minLength: 1 })
    // eslint-disable-next-line no-control-regex
    .filter((each) => !/[\u0000-\u001f\ufffe\uffff]/.test(each) && each.trim() === each);

  it('gives back every text that was put in', () => {
    fc.assert(
      fc.property(text, text, (attribute, content) => {
        const at = read(buildXml({ root: { '@a': attribute, child: [{ '#text': content }, { '#text': 'second' }] } }));
        expect(at('root', '@a')).toBe(attribute);
        expect(at('root', 'child')).toBe(content);
      }),
    );
  });

  const at = parseXml('<a x="1"><b/><b y="2">two</b><c>  03 </c></a>');
  const cases: readonly { reason: string; path: string[]; value: string | undefined }[] = [
    { reason: 'an attribute', path: ['a', '@x'], value: '1' },
    { reason: 'a repeated element counts as its first', path: ['a', 'b', '@y'], value: undefined },
    { reason: 'numbers stay as they are written', path: ['a', 'c'], value: '03' },
    { reason: 'an element that is not there', path: ['a', 'd', 'e'], value: undefined },
    { reason: 'an attribute of text', path: ['a', 'c', '@x'], value: undefined },
    { reason: 'an element that has no text', path: ['a'], value: undefined },
  ];
  it.each(cases)('is read by path: $reason', ({ path, value }) => {
    expect(at(...path)).toBe(value);
  });
});
