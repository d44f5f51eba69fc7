import { describe, expect, it } from '@jest/globals';
import type { FederatedVM, Site } from '../../../crds/index.js';
import type { VmRecord } from '../../../reconcilers/common/records.js';
import { schedule, type PlacementRequest } from '../../../reconcilers/vm/schedule.js';
import { machineSize } from '../../../reconcilers/vm/size.js';
import { interruptionOf } from './support/interruption.js';
import { directoryOf, hostSpec, machineObject, objectsOf, siteObject } from './support/objects.js';

const ready = (name: string, memory: string) => ({ name, ready: true, capacity: { memory } });

/** Two hosts at valencia, one at saopaulo, one at tokyo. */
const valencia = siteObject('valencia', { hosts: [hostSpec('a'), hostSpec('b')] }, {}, {
  hosts: [ready('a', '8Gi'), ready('b', '16Gi')],
}); // prettier-ignore
const saopaulo = siteObject('saopaulo', {}, {}, { hosts: [ready('a', '64Gi')] });
const tokyo = siteObject('tokyo', {}, {}, { hosts: [ready('a', '128Gi')] });

const recordAt = (name: string, site: string, host: string, target?: { site: string; host: string }): VmRecord => ({
  namespace: 'acme',
  name,
  site,
  host,
  generation: 1,
  phase: target ? 'Moving' : 'Owned',
  disk: true,
  interfaces: [],
  ...(target ? { target } : {}),
});

interface Case {
  readonly reason: string;
  readonly sites?: readonly Site[];
  readonly machines?: readonly FederatedVM[];
  readonly records?: Readonly<Record<string, VmRecord>>;
  readonly request?: Partial<PlacementRequest>;
}
const place = ({ sites = [valencia, saopaulo, tokyo], machines = [], records = {}, request = {} }: Case) => {
  const directory = directoryOf(records);
  try {
    const size = machineSize(machineObject('m', { flavor: 'medium' }).spec, undefined);
    return schedule(
      {
        size,
        driver: 'qemu',
        sites: ['valencia', 'saopaulo'],
        site: undefined,
        host: undefined,
        needsShare: false,
        field: 'spec.placement',
        ...request,
      },
      objectsOf({ sites, machines }),
      directory,
    );
  } finally {
    directory.close();
  }
};
/** 8 GiB each. */
const large = (name: string) => machineObject(name, { flavor: 'large' });
const one = (spec: object, host: object = {}, status: object | null = ready('a', '64Gi'), meta: object = {}): Site =>
  siteObject(
    'valencia',
    { hosts: [hostSpec('a', { ...host })], ...spec },
    { ...meta },
    status ? { hosts: [status] } : undefined,
  );

describe('schedule', () => {
  const cases: readonly (Case & { place: string })[] = [
    { reason: 'the host with the most memory, among the sites of the machine’s networks', place: 'saopaulo/a' },
    { reason: 'the best host of the site that was asked for', request: { site: 'valencia' }, place: 'valencia/b' },
    { reason: 'the host that was asked for, be there better ones', request: { site: 'valencia', host: 'a' }, place: 'valencia/a' },
    { reason: 'memory promised counts from the moment of the promise', machines: [large('x')], records: { x: recordAt('x', 'valencia', 'b') }, request: { site: 'valencia', size: { vcpus: 1, memoryBytes: 1n, diskBytes: 1n, label: '' } }, place: 'valencia/a' },
    { reason: 'a machine on its way takes room at both ends', machines: [large('x')], records: { x: recordAt('x', 'tokyo', 'a', { site: 'valencia', host: 'b' }) }, request: { site: 'valencia', size: { vcpus: 1, memoryBytes: 1n, diskBytes: 1n, label: '' } }, place: 'valencia/a' },
    { reason: 'the last byte may be used', sites: [one({}, {}, ready('a', '4Gi'))], place: 'valencia/a' },
    { reason: 'a site with a share will do for a disk on it', sites: [one({ storage: { shared: { type: 'NFS', server: '198.51.100.11', path: '/nfs', pool: 'shared', via: 'valencia/a' } } })], request: { needsShare: true }, place: 'valencia/a' },
  ]; // prettier-ignore
  it.each(cases)('chooses $place: $reason', ({ place: expected, ...given }) => {
    const { site, host } = place(given);
    expect(`${site}/${host}`).toBe(expected);
  });

  const refused: readonly (Case & { why: string; names: readonly string[] })[] = [
    { reason: 'a site that is not there may come', request: { site: 'oslo' }, why: 'UnknownSite', names: ['spec.placement.site', 'oslo', 'valencia, saopaulo, tokyo'] },
    { reason: 'a host that is not there may come', request: { site: 'valencia', host: 'z' }, why: 'UnknownHost', names: ['spec.placement.host', 'valencia', 'z'] },
    { reason: 'a machine is where its networks are', request: { site: 'tokyo' }, why: 'NoRoom', names: ['tokyo/a: not all networks'] },
    { reason: 'a site that is going takes no machines', sites: [one({}, {}, ready('a', '64Gi'), { deletionTimestamp: '2026-11-22T11:00:00Z' })], why: 'NoRoom', names: ['being deleted'] },
    { reason: 'a site in maintenance takes none', sites: [one({ maintenance: true })], why: 'NoRoom', names: ['maintenance'] },
    { reason: 'a host in maintenance takes none', sites: [one({}, { maintenance: true })], why: 'NoRoom', names: ['maintenance'] },
    { reason: 'a fenced host is off', sites: [one({}, { fenced: true })], why: 'NoRoom', names: ['fenced'] },
    { reason: 'a host for containers only', sites: [one({}, { libvirt: { lxc: 'lxc+tcp://198.51.100.11/system' } })], why: 'NoRoom', names: ['libvirt.qemu'] },
    { reason: 'a host for virtual machines only', sites: [one({})], request: { driver: 'lxc' }, why: 'NoRoom', names: ['libvirt.lxc'] },
    { reason: 'a site without a share', sites: [one({})], request: { needsShare: true }, why: 'NoRoom', names: ['storage.shared'] },
    { reason: 'a host that nobody has looked at yet', sites: [one({}, {}, null)], why: 'NoRoom', names: ['not looked at yet'] },
    { reason: 'a host that is not ready says why', sites: [one({}, {}, { name: 'a', ready: false, reason: 'LibvirtUnreachable' })], why: 'NoRoom', names: ['LibvirtUnreachable'] },
    { reason: 'a host too small says by how much', sites: [one({}, {}, ready('a', '3Gi'))], why: 'NoRoom', names: ['valencia/a: 1Gi of memory short'] },
    { reason: 'a full host says by how much', sites: [one({}, {}, ready('a', '8Gi'))], machines: [large('x')], records: { x: recordAt('x', 'valencia', 'a') }, why: 'NoRoom', names: ['4Gi of memory short'] },
    { reason: 'each candidate says why', request: { size: machineSize(machineObject('m', { resources: { vcpus: 1, memory: '100Gi', disk: '1Gi' } }).spec, undefined) }, why: 'NoRoom', names: ['valencia/a: 92Gi', 'valencia/b: 84Gi', 'saopaulo/a: 36Gi', 'tokyo/a: not all'] },
  ]; // prettier-ignore
  it.each(refused)('waits, and says why: $reason', ({ why, names, ...given }) => {
    const interruption = interruptionOf(() => place(given));
    expect(interruption).toMatchObject({ code: 'ISTHMUS_WAITING', reason: why });
    for (const name of names) expect(interruption.message).toContain(name);
  });
});
