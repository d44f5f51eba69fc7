import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { firstValueFrom, NEVER } from 'rxjs';
import type { Site } from '../../crds/index.js';
import { connectConsul } from '../../drivers/consul/index.js';
import type { KeyValueStore, View } from '../../drivers/consul/types.js';
import { isInterruption } from '../../reconcilers/common/errors.js';
import { keys, siteRecord } from '../../reconcilers/common/records.js';
import type { Members } from '../../reconcilers/site/members.js';
import { Roster } from '../../reconcilers/site/roster.js';
import { startConsul, type ConsulServer } from '../support/consul.js';
import { hostSpec, objectsOf, siteObject } from '../unit/reconcilers/support/objects.js';

let server: ConsulServer;
const stores: KeyValueStore[] = [];
const rosters: Roster[] = [];

beforeAll(async () => {
  server = await startConsul();
}, 40_000);

afterEach(async () => {
  for (const roster of rosters.splice(0)) roster.close();
  const store = connect();
  await store.transact([{ verb: 'delete', key: keys.site('lisbon') }]);
  for (const each of stores.splice(0)) await each.close();
});

afterAll(async () => await server.stop());

function connect(): KeyValueStore {
  const store = connectConsul(server.url);
  stores.push(store);
  return store;
}

/** An operator's roster, as one that starts now would have it. */
async function rosterFor(...sites: Site[]): Promise<Roster> {
  const roster = new Roster(connect(), objectsOf({ sites }));
  rosters.push(roster);
  await roster.ready();
  return roster;
}

const host = (name: string, last: number) => hostSpec(name, { underlayAddress: `198.51.100.${String(last)}` });
const both = siteObject('lisbon', { hosts: [host('a', 13), host('b', 14)] });
const alone = siteObject('lisbon', { hosts: [host('a', 13)] });
const fenced = siteObject('lisbon', { hosts: [host('a', 13), { ...host('b', 14), fenced: true }] });

async function recorded(): Promise<string[] | undefined> {
  const entry = await connect().get(keys.site('lisbon'));
  return entry && siteRecord.parse(JSON.parse(entry.value)).hosts.map(({ name }) => name);
}

const names = ({ staying, leaving }: Members) => ({
  staying: staying.map(({ name }) => name),
  leaving: leaving.map(({ name }) => name),
});

async function refusal(act: () => unknown): Promise<string> {
  try {
    await act();
  } catch (error) {
    if (isInterruption(error)) return error.reason;
    throw error;
  }
  throw new Error('it was not refused');
}

describe('the record of a site’s hosts', () => {
  it('has a host before anybody is told to use it, and a successor reads the same', async () => {
    const first = await rosterFor(both);
    expect(first.recorded(both)).toBeUndefined();
    expect(names(await first.take(both))).toEqual({ staying: ['a', 'b'], leaving: [] });
    expect(await recorded()).toEqual(['a', 'b']);
    expect((await rosterFor(both)).recorded(both)).toEqual(both.spec.hosts);
  });

  it('keeps a host that left until it is struck off, also for one who only starts then', async () => {
    await (await rosterFor(both)).take(both);
    const roster = await rosterFor(alone);
    expect(names(await roster.take(alone))).toEqual({ staying: ['a'], leaving: ['b'] });
    expect(roster.peers().map(({ host: name }) => name)).toEqual(['a', 'b']);
    await roster.forget(alone, ['b']);
    expect(await recorded()).toEqual(['a']);
    // Its own writes are seen at once.
    expect(names(roster.of(alone))).toEqual({ staying: ['a'], leaving: [] });
    expect(roster.peers().map(({ host: name }) => name)).toEqual(['a']);
  });

  it('a host that is fenced is neither used nor on record, so it leaves at once', async () => {
    await (await rosterFor(both)).take(both);
    const roster = await rosterFor(fenced);
    expect(names(await roster.take(fenced))).toEqual({ staying: ['a'], leaving: [] });
    expect(await recorded()).toEqual(['a']);
    expect(names((await rosterFor(alone)).of(alone))).toEqual({ staying: ['a'], leaving: [] });
  });

  it('is not written again while nothing differs', async () => {
    const roster = await rosterFor(both);
    await roster.take(both);
    const before = await connect().get(keys.site('lisbon'));
    await roster.take(both);
    await (await rosterFor(both)).take(both);
    expect(await connect().get(keys.site('lisbon'))).toEqual(before);
  });

  it('is not written for a site that is being deleted, and goes with it', async () => {
    await (await rosterFor(both)).take(both);
    const deleting = siteObject('lisbon', alone.spec, { deletionTimestamp: '2026-11-22T11:00:00Z' });
    const roster = await rosterFor(deleting);
    expect(names(await roster.take(deleting))).toEqual({ staying: ['a'], leaving: ['b'] });
    expect(await recorded()).toEqual(['a', 'b']);
    await roster.drop('lisbon');
    expect(await recorded()).toBeUndefined();
    await roster.drop('lisbon');
    await roster.take(deleting);
    expect(await recorded()).toBeUndefined();
  });

  it('that another operator has changed meanwhile is not overwritten', async () => {
    await (await rosterFor(alone)).take(alone);
    const blind: View = {
      current: true,
      get: () => undefined,
      entries: () => [].values(),
      changes: NEVER,
      ready: () => Promise.resolve(),
      close: () => undefined,
    };
    const store = connect();
    const behind = { transact: store.transact.bind(store), watch: () => blind };
    const roster = new Roster(behind, objectsOf({ sites: [both] }));
    rosters.push(roster);
    expect(await refusal(() => roster.take(both))).toBe('RecordChanged');
    expect(await recorded()).toEqual(['a']);
  });

  it('that is damaged stops its own site, and no other', async () => {
    await connect().transact([{ verb: 'set', key: keys.site('lisbon'), value: '{"hosts": 1}' }]);
    const other = siteObject('valencia', { hosts: [host('a', 11)] });
    const roster = await rosterFor(both, other);
    expect(await refusal(() => roster.take(both))).toBe('RecordDamaged');
    expect(await refusal(() => roster.recorded(both))).toBe('RecordDamaged');
    expect(await connect().get(keys.site('lisbon'))).toMatchObject({ value: '{"hosts": 1}' });
    expect(names(roster.of(other))).toEqual({ staying: ['a'], leaving: [] });
    expect(roster.peers().map((peer) => `${peer.site}/${peer.host}`)).toEqual(['lisbon/a', 'lisbon/b', 'valencia/a']);
  });

  it('that gets damaged leaves the others the hosts that it had, one on its way out too', async () => {
    await (await rosterFor(both)).take(both);
    const roster = await rosterFor(alone);
    const damaged = firstValueFrom(roster.changes);
    await connect().transact([{ verb: 'set', key: keys.site('lisbon'), value: '' }]);
    await damaged;
    expect(await refusal(() => roster.of(alone))).toBe('RecordDamaged');
    expect(roster.peers().map(({ host: name }) => name)).toEqual(['a', 'b']);
  });
});
