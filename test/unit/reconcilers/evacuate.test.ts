import { describe, expect, it } from '@jest/globals';
import type { FederatedVM, Site, VMMigration } from '../../../crds/index.js';
import type { NetworkRecord, VmRecord } from '../../../reconcilers/common/records.js';
import { evacuationLabel, isPointless } from '../../../reconcilers/migration/evacuation.js';
import { destinationsOf, evacuated, planEvacuation } from '../../../reconcilers/site/evacuate.js';
import { directoryOf, hostSpec, machineObject, migrationObject, objectsOf, siteObject } from './support/objects.js';

const now = new Date('2026-11-22T12:00:00Z');
const ready = (name: string, memory = '8Gi') => ({ name, ready: true, capacity: { memory } });
const share = { storage: { shared: { type: 'NFS', server: '198.51.100.11', path: '/nfs', pool: 'shared', via: 'valencia/a' } } }; // prettier-ignore
const other = { storage: { shared: { ...share.storage.shared, path: '/other' } } };

/** Two hosts; the first, or all of it, is to be emptied. */
const lisbon = (spec: object = { maintenance: true }, host: object = {}): Site =>
  siteObject(
    'lisbon',
    { hosts: [hostSpec('a', { ...host }), hostSpec('b')], ...share, ...spec },
    {},
    { hosts: [ready('a'), ready('b')] },
  );
const hostOnly = lisbon({}, { maintenance: true });
const valencia = siteObject('valencia', share, {}, { hosts: [ready('a')] });
const saopaulo = siteObject('saopaulo', other, {}, { hosts: [ready('a', '64Gi')] });

const blue: NetworkRecord = {
  ...{ namespace: 'acme', name: 'blue', cidr: '172.16.0.0/16', vlan: 100, vni: 5000, mtu: 1400 },
  ...{ sites: ['lisbon', 'valencia', 'saopaulo'], leaving: [] },
};
const recordOf = (name: string, more: Partial<VmRecord> = {}): VmRecord => ({
  ...{ namespace: 'acme', name, site: 'lisbon', host: 'a', generation: 3, phase: 'Owned', disk: true },
  ...{ storage: 'Local', interfaces: [{ network: 'blue', name: 'blue', id: name, mac: '', address: '' }] },
  ...more,
});
const running = (name: string, spec: object = {}, status: object = { phase: 'Running' }): FederatedVM =>
  machineObject(name, { ...spec }, {}, { ...status });
const evacuation = (name: string, status: object, spec: object = {}): VMMigration =>
  migrationObject(
    name,
    { vmName: 'web', target: { site: 'valencia', host: 'a' }, ...spec },
    { labels: { [evacuationLabel]: 'lisbon' } },
    { ...status },
  );
const failedAt = (completionTime: string, more: object = {}) => ({
  ...{ phase: 'Failed', reason: 'MigrationFailed', message: 'no such luck', completionTime },
  ...more,
});

interface Case {
  readonly reason: string;
  readonly site?: Site;
  readonly machine?: FederatedVM;
  readonly record?: Partial<VmRecord>;
  readonly migrations?: readonly VMMigration[];
  readonly sites?: readonly Site[];
  readonly networks?: Partial<NetworkRecord>;
}

const plan = ({ site = lisbon(), machine = running('web'), record, migrations, sites, networks }: Case) => {
  const directory = directoryOf({ web: recordOf('web', record) }, { blue: { ...blue, ...networks } });
  const known = {
    sites: [site, ...(sites ?? [valencia, saopaulo])],
    machines: [machine],
    migrations: migrations ?? [],
  };
  try {
    return planEvacuation(site, objectsOf(known), directory, now);
  } finally {
    directory.close();
  }
};

describe('planEvacuation', () => {
  const asked: readonly (Case & { target: string; name?: string; drops?: string[] })[] = [
    { reason: 'a site is emptied to where there is most room', target: 'saopaulo/a' },
    { reason: 'a host is emptied to another of its site first', site: hostOnly, target: 'lisbon/b' },
    { reason: 'or to another site if there is no room', site: hostOnly, record: { storage: 'Shared' }, machine: running('web', { resources: { vcpus: 1, memory: '9Gi', disk: '1Gi' } }), sites: [siteObject('valencia', share, {}, { hosts: [ready('a', '16Gi')] })], target: 'valencia/a' },
    { reason: 'a disk on a share goes where that share is', record: { storage: 'Shared' }, target: 'valencia/a' },
    { reason: 'a stopped machine moves too', machine: running('web', { runStrategy: 'Stopped' }, { phase: 'Stopped' }), target: 'saopaulo/a' },
    { reason: 'a paused machine moves too', machine: running('web', {}, { phase: 'Paused' }), target: 'saopaulo/a' },
    { reason: 'one that was moved here is not pinned by where it started', machine: running('web', { placement: { site: 'valencia', host: 'a' } }), target: 'saopaulo/a' },
    { reason: 'one pinned to its site may change the host', site: hostOnly, machine: running('web', { placement: { site: 'lisbon' } }), target: 'lisbon/b' },
    { reason: 'an earlier one of another stay does not count', migrations: [evacuation('web-evacuation-2-7', failedAt('2026-11-22T11:59:59Z'))], target: 'saopaulo/a', name: 'web-evacuation-3-1' },
    { reason: 'the same name while nobody has seen it, so that there is one', target: 'saopaulo/a', name: 'web-evacuation-3-1' },
    { reason: 'one that failed is followed by another after a while', migrations: [evacuation('web-evacuation-3-1', failedAt('2026-11-22T11:59:29Z'))], target: 'saopaulo/a', name: 'web-evacuation-3-2', drops: ['web-evacuation-3-1'] },
    { reason: 'counting goes on from the latest, by number', migrations: [evacuation('web-evacuation-3-9', failedAt('2026-11-22T10:00:00Z')), evacuation('web-evacuation-3-10', failedAt('2026-11-22T10:00:00Z'))], target: 'saopaulo/a', name: 'web-evacuation-3-11', drops: ['web-evacuation-3-10'] },
    { reason: 'one that the end of maintenance stopped is followed at once', migrations: [evacuation('web-evacuation-3-1', { phase: 'Cancelled', reason: 'MaintenanceEnded', completionTime: '2026-11-22T11:59:59Z' })], target: 'saopaulo/a', name: 'web-evacuation-3-2', drops: ['web-evacuation-3-1'] },
    { reason: 'a user’s move that is over is no try', migrations: [migrationObject('web-evacuation-3-1', { vmName: 'web' }, {}, failedAt('2026-11-22T11:59:59Z'))], target: 'saopaulo/a' },
  ]; // prettier-ignore
  it.each(asked)('asks for a move to $target: $reason', ({ target, name, drops = [], ...given }) => {
    const found = plan(given);
    expect(found?.asks.map((ask) => `${ask.target.site}/${ask.target.host ?? '*'}`)).toEqual([target]);
    expect(found?.asks[0]).toMatchObject({ labels: { [evacuationLabel]: 'lisbon' }, machine: { metadata: { name: 'web' } } }); // prettier-ignore
    if (name !== undefined) expect(found?.asks[0]?.name).toBe(name);
    expect(found?.drops.map((each) => each.metadata.name)).toEqual(drops);
    expect(found?.staying).toEqual([]);
  });

  const moving: readonly Case[] = [
    { reason: 'it is being moved', record: { phase: 'Moving', target: { site: 'valencia', host: 'a' } } },
    { reason: 'it is being moved here', record: { site: 'valencia', phase: 'Moving', target: { site: 'lisbon', host: 'b' } } },
    { reason: 'it is being deleted', record: { phase: 'Deleting' } },
    { reason: 'its evacuation waits for a place', migrations: [evacuation('web-evacuation-3-1', { phase: 'Pending', reason: 'Queued' })] },
    { reason: 'its evacuation has begun', migrations: [evacuation('web-evacuation-3-1', { phase: 'Preparing', attempt: 'x' })] },
    { reason: 'a user’s move takes it away', migrations: [migrationObject('mine', { vmName: 'web' })] },
  ]; // prettier-ignore
  it.each(moving)('is on its way: $reason', (given) => {
    expect(plan(given)).toMatchObject({ asks: [], moving: 1, staying: [] });
  });

  const staying: readonly (Case & { words: readonly string[] })[] = [
    { reason: 'pinned to the site', machine: running('web', { placement: { site: 'lisbon' } }), words: ['spec.placement', 'lisbon'] },
    { reason: 'pinned to the host', site: hostOnly, machine: running('web', { placement: { site: 'lisbon', host: 'a' } }), words: ['spec.placement', 'lisbon/a'] },
    { reason: 'off, and to be started at any moment', machine: running('web', {}, { phase: 'Stopped' }), words: ['it is Stopped'] },
    { reason: 'not there yet', machine: running('web', {}, { phase: 'Provisioning' }), words: ['Provisioning'] },
    { reason: 'a container that runs', machine: running('web', { type: 'Container' }), words: ['a container', 'runStrategy: Stopped'] },
    { reason: 'its host is taken for off', site: lisbon({}, { maintenance: true, fenced: true }), words: ['fenced'] },
    { reason: 'no room, with what each host lacks', machine: running('web', { resources: { vcpus: 1, memory: '100Gi', disk: '1Gi' } }), words: ['valencia/a: 92Gi', 'saopaulo/a: 36Gi'] },
    { reason: 'its network does not span another site', networks: { sites: ['lisbon'] }, words: ['not all networks'] },
    { reason: 'its share is nowhere else', record: { storage: 'Shared' }, sites: [saopaulo], words: ['another storage.shared than lisbon'] },
    { reason: 'its last evacuation failed just now', migrations: [evacuation('web-evacuation-3-1', failedAt('2026-11-22T11:59:50Z'))], words: ['web-evacuation-3-1', 'no such luck', 'again'] },
    { reason: 'it has just come, and its disk is made whole', migrations: [migrationObject('mine', { vmName: 'web', storage: 'Copy' }, {}, { phase: 'Finalizing', reason: 'MakingWhole', attempt: 'x', totalTimeMs: 1 })], words: ['VMMigration mine', 'whole'] },
    { reason: 'its open move waits for something else', migrations: [migrationObject('mine', { vmName: 'web' }, {}, { phase: 'Pending', reason: 'NoRoom', message: 'no host will do' })], words: ['VMMigration mine', 'no host will do'] },
  ]; // prettier-ignore
  it.each(staying)('stays, and says why: $reason', ({ words, ...given }) => {
    const found = plan(given);
    expect(found).toMatchObject({ asks: [], moving: 0 });
    for (const word of ['acme/web (lisbon/a)', ...words]) expect(found?.staying.join()).toContain(word);
    expect(found?.againMs).toBeGreaterThan(0);
  });

  const elsewhere: readonly (Case & { empty: boolean })[] = [
    { reason: 'nothing is in maintenance', site: lisbon({}), empty: false },
    { reason: 'it is at another site', record: { site: 'valencia' }, empty: true },
    { reason: 'it is at the host that goes on', site: hostOnly, record: { host: 'b' }, empty: true },
  ];
  it.each(elsewhere)('leaves the machine alone: $reason', ({ empty, ...given }) => {
    const found = plan(given);
    expect(found).toEqual(empty ? { asks: [], drops: [], moving: 0, staying: [], againMs: undefined } : undefined);
    if (found) expect(evacuated(found)).toMatchObject({ status: 'True', reason: 'Empty' });
  });

  it('waits twice as long each time, up to a quarter of an hour', () => {
    const waits = [1, 2, 3, 20].map(
      (count) => plan({ reason: '', migrations: [evacuation(`web-evacuation-3-${count}`, failedAt('2026-11-22T12:00:00Z'))] })?.againMs,
    ); // prettier-ignore
    expect(waits).toEqual([30_000, 60_000, 120_000, 900_000]);
  });

  it('counts what it has asked for, and what waits already, so that a host is not given too much', () => {
    const names = ['one', 'two', 'three'];
    const directory = directoryOf(Object.fromEntries(names.map((name) => [name, recordOf(name)])), { blue });
    const machines = [...names, 'asked'].map((name) => running(name, { flavor: 'medium' }));
    const small = siteObject('saopaulo', {}, {}, { hosts: [ready('a', '9Gi')] });
    const migrations = [evacuation('one', { phase: 'Pending' }, { vmName: 'asked', target: { site: 'saopaulo', host: 'a' } })]; // prettier-ignore
    const found = planEvacuation(lisbon(), objectsOf({ sites: [lisbon(), valencia, small], machines, migrations }), directory, now); // prettier-ignore
    directory.close();
    expect(found?.asks.map(({ target }) => target.site).toSorted()).toEqual(['saopaulo', 'valencia', 'valencia']);
  });
});

describe('destinationsOf', () => {
  const at = { site: 'lisbon', host: 'a' };
  const cases = [
    { reason: 'a host’s machines stay at their site if they can', placement: undefined, place: 'Host', sites: ['lisbon', undefined] },
    { reason: 'a site’s go anywhere', placement: undefined, place: 'Site', sites: [undefined] },
    { reason: 'pinned to the site: another host of it', placement: { site: 'lisbon' }, place: 'Host', sites: ['lisbon'] },
    { reason: 'pinned to the site that is emptied', placement: { site: 'lisbon' }, place: 'Site', sites: [] },
    { reason: 'pinned to the host that is emptied', placement: { site: 'lisbon', host: 'a' }, place: 'Host', sites: [] },
    { reason: 'pinned to another host, which it has left', placement: { site: 'lisbon', host: 'b' }, place: 'Host', sites: ['lisbon', undefined] },
  ] as const; // prettier-ignore
  it.each(cases)('$reason', ({ placement, place, sites }) => {
    expect(destinationsOf(placement, at, place).map(({ site }) => site)).toEqual(sites);
  });
});

describe('what a Site says', () => {
  const none = { asks: [], drops: [], moving: 0, staying: [], againMs: undefined };
  const cases = [
    { reason: 'some move, some can’t', found: { ...none, moving: 2, staying: ['acme/db (lisbon/a): no'] }, says: { status: 'False', reason: 'Evacuating' }, words: ['2 on their way', '1 can', 'acme/db'] },
    { reason: 'none moves any more', found: { ...none, staying: ['acme/db (lisbon/a): no'] }, says: { status: 'False', reason: 'MachinesStay' }, words: ['acme/db (lisbon/a): no'] },
    { reason: 'many are counted', found: { ...none, staying: Array.from({ length: 12 }, (_, n) => `m${String(n)}`) }, says: { status: 'False', reason: 'MachinesStay' }, words: ['m9', 'and 2 more'] },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ found, says, words }) => {
    const condition = evacuated(found);
    expect(condition).toMatchObject({ type: 'Evacuated', ...says });
    for (const word of words) expect(condition.message).toContain(word);
  });
});

describe('isPointless', () => {
  const migration = evacuation('web-evacuation-3-1', {});
  const cases = [
    { reason: 'maintenance goes on', migration, site: lisbon(), host: 'a', expected: false },
    { reason: 'maintenance has ended', migration, site: lisbon({}), host: 'a', expected: true },
    { reason: 'only another host is emptied', migration, site: hostOnly, host: 'b', expected: true },
    { reason: 'a user’s move has a reason of its own', migration: migrationObject('web'), site: lisbon({}), host: 'a', expected: false },
  ]; // prettier-ignore
  it.each(cases)('$expected: $reason', ({ migration: each, site, host, expected }) => {
    expect(isPointless(each, { site: 'lisbon', host }, site)).toBe(expected);
  });
});
