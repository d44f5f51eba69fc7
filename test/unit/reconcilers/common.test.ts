import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { attempt, isInterruption, Stalled, Transient, Waiting } from '../../../reconcilers/common/errors.js';
import * as identity from '../../../reconcilers/common/identity.js';
import { interrupted } from '../../../reconcilers/common/outcome.js';
import { networkRecord, parseRecord, serialise, vmRecord, type VmRecord } from '../../../reconcilers/common/records.js';
import { within } from '../../../reconcilers/common/deadline.js';

const fuid = '5f0c1a4e-8c3b-4a51-9d5e-0123456789ab';
const fuids = fc.uuid();

describe('identity', () => {
  const fixed = [
    { reason: 'UUID of a domain', found: identity.domainUuid(fuid), expected: 'a2477a20-b368-5c74-9ba1-3c602200f95f' },
    {
      reason: 'UUID of a network',
      found: identity.networkUuid(fuid),
      expected: '687ad21c-a3b6-5a98-aecb-d84533418ff3',
    },
    { reason: 'iface-id', found: identity.interfaceId(fuid, 0), expected: '268e0989-401f-5d32-b372-0b68dd4e99c8' },
    { reason: 'MAC', found: identity.macAddress(fuid, 0), expected: 'f2:93:71:3d:62:4a' },
    { reason: 'port of a tunnel', found: identity.tunnelPortName('valencia', 'a'), expected: 'isth-01e303b197' },
    { reason: 'name of a disk', found: identity.diskVolumeName(fuid), expected: `isth-${fuid}-root.qcow2` },
    {
      reason: 'name of a root file system',
      found: identity.rootVolumeName(fuid),
      expected: 'isth-5f0c1a4e8c3b4a519d5e0123456789ab',
    },
    { reason: 'name of a domain', found: identity.domainName('web-1', fuid), expected: 'isth-web-1-5f0c1a4e' },
  ];
  it.each(fixed)('$reason never changes: what runs today is found by it tomorrow', ({ found, expected }) => {
    expect(found).toBe(expected);
  });

  it('is read back from the name of a volume, which is all that marks it as ours', () => {
    fc.assert(
      fc.property(fuids, (of) => {
        const names = [
          identity.diskVolumeName,
          identity.seedVolumeName,
          identity.rootVolumeName,
          identity.transferVolumeName,
        ];
        for (const name of names) expect(identity.fuidOfVolume(name(of))).toBe(of);
      }),
    );
    for (const other of ['isth-x', `isth-${fuid}`, `${identity.rootVolumeName(fuid)}0`, 'debian-12.qcow2'])
      expect(identity.fuidOfVolume(other)).toBeUndefined();
  });

  it('differs by what it is of, and is the same for the same', () => {
    const all = (of: string): string[] => [
      identity.domainUuid(of),
      identity.networkUuid(of),
      identity.interfaceId(of, 0),
      identity.interfaceId(of, 1),
      identity.macAddress(of, 0),
      identity.macAddress(of, 1),
      identity.macAddress(of, 0, 1),
    ];
    fc.assert(
      fc.property(fuids, fuids, (a, b) => {
        expect(all(a)).toEqual(all(a));
        const both = new Set([...all(a), ...all(b)]);
        expect(both.size).toBe(a === b ? 7 : 14);
      }),
    );
  });

  it('gives MACs that are locally administered, unicast, and written as libvirt writes them', () => {
    fc.assert(
      fc.property(fuids, fc.nat(8), fc.nat(3), (of, index, tries) => {
        const mac = identity.macAddress(of, index, tries);
        expect(mac).toMatch(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/);
        expect(parseInt(mac.slice(0, 2), 16) & 0b11).toBe(0b10);
        // QEMU's and libvirt's own range would clash with machines that are not ours.
        expect(mac.startsWith('52:54:00')).toBe(false);
      }),
    );
  });

  it('gives names that fit: ports of tunnels 15 characters, names of domains far below libvirt’s limit', () => {
    const label = fc.stringMatching(/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/);
    fc.assert(
      fc.property(label, label, fuids, (site, name, of) => {
        expect(identity.tunnelPortName(site, name)).toMatch(/^isth-[0-9a-f]{10}$/);
        const readable = identity.domainName(name, of);
        expect(readable.length).toBeLessThanOrEqual(54);
        expect(readable).toContain(of.slice(0, 8));
        expect(identity.isOurs(readable)).toBe(true);
      }),
    );
  });

  it('does not mistake site and host of one tunnel for another’s', () => {
    expect(identity.tunnelPortName('a', 'b-c')).not.toBe(identity.tunnelPortName('a-b', 'c'));
  });

  const foreign = [
    { reason: 'libvirt’s own network', name: 'default' },
    { reason: 'a name that merely begins like ours', name: 'isth-backup' },
    { reason: 'a name with eight other letters', name: 'isth-web-backup01' },
    { reason: 'a name that goes on after ours', name: 'isth-web-1-5f0c1a4e-clone' },
  ];
  it.each(foreign)('does not take for ours $reason', ({ name }) => {
    expect(identity.isOurs(name)).toBe(false);
  });

  it('reads from a cookie which network’s it is, and from no other’s', () => {
    fc.assert(
      fc.property(fc.integer({ min: 4096, max: 0xffffff }), (vni) => {
        const cookie = identity.networkCookie(vni);
        expect(identity.vniOfCookie(cookie)).toBe(vni);
        expect(cookie & identity.cookieMagicMask).toBe(identity.cookieMagic);
        expect(cookie).not.toBe(identity.bridgeCookie);
      }),
    );
    const others = [0n, 1n, identity.bridgeCookie, identity.cookieMagic | (2n << 40n) | 5000n, (1n << 40n) | 5000n];
    expect(others.map(identity.vniOfCookie)).toEqual(others.map(() => undefined));
  });

  it('spreads who asks over 48 bits', () => {
    const hints = Array.from({ length: 100 }, (_, index) => identity.hint(`seed ${index}`));
    expect(new Set(hints).size).toBe(100);
    for (const each of hints) expect(Number.isSafeInteger(each) && each >= 0 && each < 2 ** 48).toBe(true);
    expect(Math.max(...hints)).toBeGreaterThan(2 ** 47);
  });
});

describe('what a reconcile was interrupted by', () => {
  const text = { reason: 'Because', message: 'spec.x: do this' };
  const cases = [
    {
      reason: 'only the user can help: no use in trying again',
      error: new Stalled(text.reason, text.message),
      outcome: { stalled: text },
    },
    {
      reason: 'something has to happen first: looked at again after its time',
      error: new Waiting(text.reason, text.message, 1234),
      outcome: { reconciling: text, requeueAfterMs: 1234 },
    },
    {
      reason: 'it may pass: tried again with back-off',
      error: new Transient(text.reason, text.message),
      outcome: { reconciling: text, retry: true },
    },
  ];
  it.each(cases)('is not ready; $reason', ({ error, outcome }) => {
    const status = { vlanId: 7 };
    expect(interrupted(status, error)).toEqual({ status, ready: { value: false, ...text }, ...outcome });
  });

  it('keeps its cause, and passes through as it is', async () => {
    const cause = new Error('connection refused');
    const refused = attempt('ConsulUnavailable', 'Consul, reading', () => Promise.reject(cause));
    await expect(refused).rejects.toMatchObject({
      code: 'ISTHMUS_TRANSIENT',
      reason: 'ConsulUnavailable',
      message: 'Consul, reading: connection refused',
      cause,
    });
    const stalled = new Stalled('X', 'x');
    await expect(attempt('Y', 'y', () => Promise.reject(stalled))).rejects.toBe(stalled);
    expect(await attempt('Y', 'y', () => Promise.resolve(3))).toBe(3);
    expect([stalled, cause, undefined].map(isInterruption)).toEqual([true, false, false]);
  });

  it('may be a deadline, which keeps nobody waiting, nor a timer alive', async () => {
    await expect(within(20, 'site valencia', new Promise(() => undefined))).rejects.toMatchObject({
      code: 'ISTHMUS_TRANSIENT',
      reason: 'TimedOut',
      message: 'site valencia did not answer within 0.02 s',
    });
    expect(await within(60_000, 'x', Promise.resolve('in time'))).toBe('in time');
    await expect(within(60_000, 'x', Promise.reject(new Error('its own')))).rejects.toThrow('its own');
  });
});

describe('a record', () => {
  const record: VmRecord = {
    namespace: 'acme',
    name: 'web-1',
    site: 'valencia',
    host: 'a',
    generation: 2,
    phase: 'Moving',
    disk: true,
    attempt: 'b3b3',
    target: { site: 'saopaulo', host: 'b' },
    interfaces: [{ network: fuid, name: 'blue', id: 'i', mac: '02:00:00:00:00:01', address: '172.16.0.20' }],
  };
  const parse = (value: string) => parseRecord(vmRecord, { key: 'isthmus/vm/x', value, index: 5 });

  it('is read as it was written, with the index that a CAS compares', () => {
    expect(parse(serialise(record))).toEqual({ value: record, index: 5 });
  });

  const damaged = [
    { reason: 'no JSON', value: 'hello' },
    { reason: 'empty', value: '' },
    { reason: 'a bare value', value: '7' },
    { reason: 'a field is missing', value: serialise({ ...record, host: undefined }) },
    { reason: 'a phase that nobody knows', value: serialise({ ...record, phase: 'Flying' }) },
    { reason: 'half a target', value: serialise({ ...record, target: { site: 'saopaulo' } }) },
    { reason: 'a fraction of a generation', value: serialise({ ...record, generation: 1.5 }) },
  ];
  it.each(damaged)('that is damaged stops everything that depends on it, and is named: $reason', ({ value }) => {
    expect(() => parse(value)).toThrow(
      expect.objectContaining({
        code: 'ISTHMUS_STALLED',
        reason: 'RecordDamaged',
        message: expect.stringContaining('isthmus/vm/x'),
      }),
    );
  });

  it('of a later version keeps what this one needs', () => {
    const network = { namespace: 'acme', name: 'blue', cidr: '10.0.0.0/8', vlan: 1, vni: 5000, mtu: 1450, sites: [] };
    const later = { key: 'isthmus/network/x', value: serialise({ ...network, colour: 'blue' }), index: 1 };
    expect(parseRecord(networkRecord, later).value).toEqual({ ...network, leaving: [] });
  });
});
