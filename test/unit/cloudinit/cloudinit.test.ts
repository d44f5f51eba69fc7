import { describe, expect, it } from '@jest/globals';
import { parse } from 'yaml';
import { metaData, networkConfigV2, seedImage, userData } from '../../../drivers/cloudinit/index.js';
import type { SeedInterface, SeedUserData } from '../../../drivers/cloudinit/index.js';
import { isoImage } from '../../../drivers/cloudinit/iso9660.js';

const plain: SeedInterface = { mac: '02:00:00:AB:00:01', address: '172.16.0.20', prefixLength: 16, mtu: 1400 };
const plainSeen = {
  match: { macaddress: '02:00:00:ab:00:01' },
  'set-name': 'eth0',
  dhcp4: false,
  dhcp6: false,
  mtu: 1400,
  addresses: ['172.16.0.20/16'],
};

describe('networkConfigV2', () => {
  const cases: readonly { reason: string; interfaces: readonly SeedInterface[]; ethernets: object }[] = [
    { reason: 'no interface is a valid document too', interfaces: [], ethernets: {} },
    {
      reason:
        'an interface is found by its MAC address, in lower case, and has neither routes nor name servers unasked',
      interfaces: [plain],
      ethernets: { eth0: plainSeen },
    },
    {
      reason: 'the gateway is a default route that every renderer of cloud-init knows, before the other routes',
      interfaces: [{ ...plain, gateway: '172.16.0.1', routes: [{ to: '10.0.0.0/8', via: '172.16.0.9' }] }],
      ethernets: {
        eth0: {
          ...plainSeen,
          routes: [
            { to: '0.0.0.0/0', via: '172.16.0.1' },
            { to: '10.0.0.0/8', via: '172.16.0.9' },
          ],
        },
      },
    },
    {
      reason: 'name servers are a list',
      interfaces: [{ ...plain, nameservers: ['172.16.0.2', '172.16.0.3'] }],
      ethernets: { eth0: { ...plainSeen, nameservers: { addresses: ['172.16.0.2', '172.16.0.3'] } } },
    },
    {
      reason: 'names follow the order given',
      interfaces: [plain, { ...plain, mac: '02:00:00:00:00:00', address: '10.0.0.2', prefixLength: 24 }],
      ethernets: {
        eth0: plainSeen,
        eth1: {
          ...plainSeen,
          match: { macaddress: '02:00:00:00:00:00' },
          'set-name': 'eth1',
          addresses: ['10.0.0.2/24'],
        },
      },
    },
  ];
  it.each(cases)('$reason', ({ interfaces, ethernets }) => {
    expect(parse(networkConfigV2(interfaces), { version: '1.1' })).toEqual({ version: 2, ethernets });
  });

  it('refuses two interfaces with one MAC address', () => {
    expect(() => networkConfigV2([plain, { ...plain, mac: plain.mac.toLowerCase() }])).toThrow(RangeError);
  });
});

describe('userData', () => {
  const base = { hostname: 'web-1', preserve_hostname: false };
  const user = { name: 'ops', shell: '/bin/bash', sudo: 'ALL=(ALL) NOPASSWD:ALL' };
  const cases: readonly { reason: string; data: SeedUserData; document: object }[] = [
    { reason: 'a host name alone leaves the rest to the image', data: { hostname: 'web-1' }, document: base },
    {
      reason: 'keys without a user are for the image’s default user',
      data: { hostname: 'web-1', sshAuthorizedKeys: ['ssh-ed25519 A'] },
      document: { ...base, ssh_authorized_keys: ['ssh-ed25519 A'] },
    },
    {
      reason: 'a user without a password can’t log in by password',
      data: { hostname: 'web-1', user: 'ops', sshAuthorizedKeys: ['ssh-ed25519 A'] },
      document: { ...base, users: [{ ...user, lock_passwd: true, ssh_authorized_keys: ['ssh-ed25519 A'] }] },
    },
    {
      reason: 'a password hash unlocks the password',
      data: { hostname: 'web-1', user: 'ops', passwordHash: '$6$salt$hash' },
      document: { ...base, users: [{ ...user, lock_passwd: false, hashed_passwd: '$6$salt$hash' }] },
    },
    {
      reason: 'packages need the index of packages first',
      data: { hostname: 'web-1', packages: ['nginx'] },
      document: { ...base, packages: ['nginx'], package_update: true },
    },
    {
      reason: 'empty lists are as good as none',
      data: { hostname: 'web-1', packages: [], files: [], commands: [], sshAuthorizedKeys: [] },
      document: base,
    },
    {
      reason: 'files have a mode, and commands are argument arrays that no shell splits',
      data: {
        hostname: 'web-1',
        files: [
          { path: '/etc/a', content: 'a\n' },
          { path: '/etc/b', content: '', permissions: '0600' },
        ],
        commands: [['echo', 'a b; reboot']],
      },
      document: {
        ...base,
        write_files: [
          { path: '/etc/a', content: 'a\n', permissions: '0644' },
          { path: '/etc/b', content: '', permissions: '0600' },
        ],
        runcmd: [['echo', 'a b; reboot']],
      },
    },
  ];
  it.each(cases)('$reason', ({ data, document }) => {
    const text = userData(data);
    expect(text.split('\n')[0]).toBe('#cloud-config');
    expect(parse(text, { version: '1.1' })).toEqual(document);
  });
});

describe('metaData', () => {
  it('has the instance and the host name as text, whatever they look like', () => {
    expect(parse(metaData({ instanceId: '1e10', hostname: 'no' }), { version: '1.1' })).toEqual({
      'instance-id': '1e10',
      'local-hostname': 'no',
    });
  });
});

describe('seedImage', () => {
  const seed = { metaData: 'm', userData: 'u'.repeat(2049), networkConfig: '' };

  it('gives the same bytes for the same seed, and others for another', () => {
    expect(Buffer.compare(seedImage(seed), seedImage({ ...seed }))).toBe(0);
    expect(Buffer.compare(seedImage(seed), seedImage({ ...seed, metaData: 'n' }))).not.toBe(0);
  });

  it('is whole sectors, and little more than the documents', () => {
    expect(seedImage(seed).length).toBe((25 + 1 + 2 + 0) * 2048);
  });

  it('refuses more files than its directory can hold', () => {
    const files = Array.from({ length: 40 }, (_, i) => ({
      name: `f${i}`,
      shortName: `F${i}`,
      content: new Uint8Array(),
    }));
    expect(() => isoImage('cidata', files)).toThrow(RangeError);
  });
});
