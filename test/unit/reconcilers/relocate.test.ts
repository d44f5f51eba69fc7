import { describe, expect, it } from '@jest/globals';
import { parseXml } from '../../../reconcilers/common/xml.js';
import { relocated, withVolumes } from '../../../reconcilers/migration/relocate.js';
import { hasCopyOnRead, standsOnBase, withoutBase } from '../../../reconcilers/vm/chain.js';
import type { MachineVolumes } from '../../../reconcilers/vm/disk.js';

const copies: MachineVolumes = {
  disk: { kind: 'file', path: "/pool/o'neill & sons/root.qcow2" },
  seed: { kind: 'file', path: '/pool/$&/seed.iso' },
};
const seed = `<disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='/var/lib/libvirt/images/isth-1-seed.iso' index='1'/>
      <backingStore/>
      <target dev='vdb' bus='virtio'/>
      <readonly/>
    </disk>`;
const other = `<disk type='file' device='cdrom'><source file='/else'/><target dev='sda' bus='sata'/></disk>`;
const domain = (disk: string): string =>
  `<domain type='kvm'><name>isth-web</name><devices>\n    ${disk}\n    ${seed}\n    ${other}\n    <interface type='network'><source network='isth-blue'/><target dev='vnet3'/></interface></devices></domain>`;

const disks = [
  {
    reason: 'a file on an image, as libvirt shows a running one',
    disk: `<disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/var/lib/libvirt/images/isth-1-root.qcow2' index='2'/>
      <backingStore type='file' index='3'>
        <format type='qcow2'/>
        <source file='/images/debian.qcow2'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>`,
  },
  {
    reason: 'one on the share',
    disk: `<disk type='network' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source protocol='nfs' name='/nfs/isth-1-root.qcow2' index='2'>
        <host name='198.51.100.11'/>
        <identity user='0' group='0'/>
      </source>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>`,
  },
];

describe('a definition for the target of a move', () => {
  it.each(disks)('has disk and seed at their new place: $reason', ({ disk }) => {
    const moved = withVolumes(domain(disk), copies, 'Whole');
    const at = parseXml(moved);
    expect(at('domain', 'devices', 'disk', '@type')).toBe('file');
    expect(at('domain', 'devices', 'disk', 'source', '@file')).toContain('neill');
    expect(moved).toContain('file="/pool/$&amp;/seed.iso"');
    expect(moved).not.toContain('backingStore');
    expect(moved).not.toMatch(/isth-1-(root|seed)|debian|nfs/);
  });

  it.each(disks)('leaves all else as it is: $reason', ({ disk }) => {
    const moved = withVolumes(domain(disk), copies, 'Whole');
    expect(moved).toContain(other);
    expect(moved).toContain("<interface type='network'><source network='isth-blue'/><target dev='vnet3'/></interface>");
    expect(moved).toContain("<address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>");
    expect(moved).toContain("<driver name='qemu' type='qcow2' cache='none' discard='unmap'/>");
    expect(moved.match(/<disk\b/g)).toHaveLength(3);
  });

  const cached = disks[0]?.disk
    .replace("discard='unmap'", "discard='unmap' copy_on_read='on'")
    .replace("<source file='/images/debian.qcow2'/>", "<source protocol='nfs' name='/nfs/debian.qcow2' index='3'><host name='198.51.100.11'/></source>")
    .replace("<backingStore type='file'", "<backingStore type='network'") ?? ''; // prettier-ignore

  it('keeps the base of a disk of which only what was written goes along', () => {
    const moved = withVolumes(domain(cached), copies, 'Overlay');
    expect(moved).toContain("discard='unmap' copy_on_read='on'");
    expect(/<backingStore[\s\S]*<\/backingStore>/.exec(moved)?.[0]).toBe(
      /<backingStore[\s\S]*<\/backingStore>/.exec(cached)?.[0],
    );
    expect(parseXml(moved)('domain', 'devices', 'disk', 'source', '@file')).toContain('neill');
    expect(moved).not.toMatch(/isth-1-(root|seed)/);
  });

  it('lets a disk that is made whole at the target read its base, but keep nothing of that by itself', () => {
    const moved = withVolumes(domain(cached), copies, 'Filled');
    expect(moved).toContain("<driver name='qemu' type='qcow2' cache='none' discard='unmap'/>");
    expect(standsOnBase(moved)).toBe(true);
  });

  it('stands on nothing any more once it is whole, and all else is as it was', () => {
    const whole = withoutBase(domain(cached));
    expect([standsOnBase, hasCopyOnRead].map((each) => each(domain(cached)))).toEqual([true, true]);
    expect([standsOnBase, hasCopyOnRead].map((each) => each(whole))).toEqual([false, false]);
    expect(whole).not.toMatch(/backingStore type|copy_on_read|debian/);
    expect(whole).toContain('isth-1-root');
    expect(withoutBase(whole)).toBe(whole);
  });

  it.each([
    { reason: 'libvirt ends each chain so', element: '<backingStore/>' },
    { reason: 'libvirt has not looked yet', element: '' },
  ])('stands on nothing: $reason', ({ element }) => {
    const xml = `<domain><disk type='file'><source file='/images/x'/>${element}<target dev='vda'/></disk><disk type='file'><backingStore type='file'><source file='/y'/></backingStore><target dev='vdb'/></disk></domain>`;
    expect(standsOnBase(xml)).toBe(false);
  });

  it('is refused for a domain without our disks', () => {
    expect(() => withVolumes(`<domain><devices>${other}</devices></domain>`, copies, 'Whole')).toThrow(
      'no disk vda and vdb',
    );
  });
});

describe('a container’s definition for the target of a move', () => {
  const other = `<filesystem type='mount'><source dir='/srv'/><target dir='/srv'/></filesystem>`;
  const xml = (dir: string): string =>
    `<domain type='lxc'><devices>${other}<filesystem type='file' accessmode='passthrough'>
      <driver type='loop' format='raw'/>
      <source file='/var/lib/libvirt/images/isth-1-root.raw'/>
      <target dir='${dir}'/>
    </filesystem><interface type='network'><source network='isth-blue'/></interface></devices></domain>`;
  const root = "/pool/o'neill & $&/root.raw";

  it('has its root at the new place, and all else as it was', () => {
    const moved = relocated(xml('/'), { root }, 'Whole');
    expect(moved).toContain(`<source file="/pool/o&apos;neill &amp; $&amp;/root.raw"/>`);
    expect(moved).not.toContain('isth-1-root');
    for (const kept of [other, "<driver type='loop' format='raw'/>", "<source network='isth-blue'/>"])
      expect(moved).toContain(kept);
  });

  it('is refused for a domain without a root of ours', () => {
    expect(() => relocated(xml('/data'), { root }, 'Whole')).toThrow('no root file system');
  });
});
