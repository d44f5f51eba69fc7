import { describe, expect, it } from '@jest/globals';
import type { VMMigration } from '../../../crds/index.js';
import type { VmRecord } from '../../../reconcilers/common/records.js';
import {
  Places,
  queuedMessage,
  standing,
  turnOf,
  type Travel,
  type Turn,
  type Waiter,
} from '../../../reconcilers/migration/queue.js';
import { interruptionOf } from './support/interruption.js';
import { directoryOf, machineObject, migrationObject, objectsOf, siteObject } from './support/objects.js';

const travel = (machine: string, from: string, to: string): Travel => ({ machine, from, to });

const waiter = (name: string, from: string, to: string, more: Partial<Waiter> = {}): Waiter => ({
  ...travel(`acme/${name}`, from, to),
  uid: name,
  name: `acme/${name}`,
  priority: 0,
  created: '2026-11-22T10:00:00Z',
  ...more,
});

/** Two at a time at each site, four in all. */
const limits = { all: 4, ofSite: () => 2 };
const go: Turn = { kind: 'go' };
const full = (site: string | undefined, ahead: number): Turn => ({
  ...{ kind: 'full', site, ahead },
  limit: site === undefined ? 4 : 2,
});

const twoAtLisbon = [travel('acme/x', 'lisbon', 'oslo'), travel('acme/y', 'paris', 'lisbon')];
const fourApart = ['ab', 'cd', 'ef', 'gh'].map(([from = '', to = '']) => travel(`acme/${from}`, from, to));

describe('turnOf', () => {
  const self = waiter('self', 'valencia', 'lisbon');
  const cases: readonly {
    reason: string;
    self?: Waiter;
    others?: readonly Waiter[];
    running?: readonly Travel[];
    turn: Turn;
  }[] = [
    { reason: 'nothing runs, nobody waits', turn: go },
    { reason: 'the last place at a site is one', running: twoAtLisbon.slice(1), turn: go },
    { reason: 'moves in and out of a site count alike', running: twoAtLisbon, turn: full('lisbon', 0) },
    { reason: 'the source’s limit counts as the target’s', self: waiter('self', 'lisbon', 'valencia'), running: twoAtLisbon, turn: full('lisbon', 0) },
    { reason: 'a move within a site takes one place of it', self: waiter('self', 'lisbon', 'lisbon'), running: [travel('acme/x', 'lisbon', 'lisbon')], turn: go },
    { reason: 'the limit of all sites counts where each site has room', running: fourApart, turn: full(undefined, 0) },
    { reason: 'who waits for all sites has all before it that wait', others: [waiter('first', 'u', 'v', { priority: 1 })], running: fourApart, turn: full(undefined, 1) },
    { reason: 'who waits for a site has those before it that wait for it too', others: [waiter('a', 'lisbon', 'oslo', { priority: 1 }), waiter('b', 'paris', 'rome', { priority: 1 })], running: twoAtLisbon, turn: full('lisbon', 1) },
    { reason: 'the higher priority goes first', others: [waiter('later', 'oslo', 'lisbon', { priority: -1 })], running: twoAtLisbon.slice(1), turn: go },
    { reason: 'a lower priority waits for it', others: [waiter('first', 'oslo', 'lisbon', { priority: 1 })], running: twoAtLisbon.slice(1), turn: full('lisbon', 1) },
    { reason: 'of one priority the older goes first', others: [waiter('older', 'oslo', 'lisbon', { created: '2026-11-22T09:59:59Z' })], running: twoAtLisbon.slice(1), turn: full('lisbon', 1) },
    { reason: 'the younger does not', others: [waiter('a', 'oslo', 'lisbon', { created: '2026-11-22T10:00:01Z' })], running: twoAtLisbon.slice(1), turn: go },
    { reason: 'of one second the name decides', others: [waiter('a', 'oslo', 'lisbon')], running: twoAtLisbon.slice(1), turn: full('lisbon', 1) },
    { reason: 'who waits only for its own site does not hold up others', self: waiter('self', 'valencia', 'rome'), others: [waiter('stuck', 'lisbon', 'bonn', { priority: 1 })], running: twoAtLisbon, turn: go },
    { reason: 'nor does it take a place of all sites meanwhile', self: waiter('self', 'valencia', 'rome'), others: [waiter('stuck', 'lisbon', 'bonn', { priority: 1 }), waiter('stuck-2', 'lisbon', 'bonn', { priority: 1 })], running: twoAtLisbon, turn: go },
    { reason: 'but the place that it needs at the other end is kept for it', self: waiter('self', 'valencia', 'rome'), others: [waiter('stuck', 'lisbon', 'rome', { priority: 1 })], running: [...twoAtLisbon.slice(0, 1), travel('acme/y', 'rome', 'lisbon')], turn: full('rome', 1) },
    { reason: 'one that has arrived, and only fills its disk, holds no place', running: twoAtLisbon.map((each) => ({ ...each, isThere: true })), turn: go },
    { reason: 'but it moves on only after that', running: [{ ...travel('acme/self', 'oslo', 'rome'), isThere: true }], turn: { kind: 'another' } },
    { reason: 'a machine moves once at a time', running: [travel('acme/self', 'oslo', 'rome')], turn: { kind: 'another' } },
    { reason: 'its first move comes first', others: [waiter('first', 'valencia', 'rome', { priority: 1, machine: 'acme/self' })], turn: { kind: 'another' } },
    { reason: 'a move that follows another of its machine is not before anybody', others: [waiter('second', 'lisbon', 'rome', { priority: 1, machine: 'acme/x' })], running: twoAtLisbon, turn: full('lisbon', 0) },
  ]; // prettier-ignore
  it.each(cases)('$turn.kind: $reason', ({ self: each = self, others = [], running = [], turn }) => {
    expect(turnOf(each, others, running, limits)).toEqual(turn);
  });
});

describe('what a queued migration says', () => {
  const cases = [
    { reason: 'the site and its field', turn: { site: 'lisbon', limit: 2, ahead: 0 }, words: ['site lisbon', 'spec.maxMigrations 2', 'the next'] },
    { reason: 'the option', turn: { site: undefined, limit: 5, ahead: 3 }, words: ['all sites', '--max-migrations 5', '3 before it'] },
    { reason: 'beyond ten nobody is told of every step', turn: { site: undefined, limit: 5, ahead: 200 }, words: ['10 or more before it'] },
  ] as const; // prettier-ignore
  it.each(cases)('$reason', ({ turn, words }) => {
    for (const word of words) expect(queuedMessage({ kind: 'full', ...turn })).toContain(word);
  });
});

describe('standing', () => {
  const cases: readonly { reason: string; migration: VMMigration | undefined; expected: string }[] = [
    { reason: 'gone', migration: undefined, expected: 'none' },
    { reason: 'not looked at yet', migration: migrationObject('m'), expected: 'waiting' },
    { reason: 'it waits', migration: migrationObject('m', {}, {}, { phase: 'Pending', reason: 'Queued' }), expected: 'waiting' },
    { reason: 'it waits for something else', migration: migrationObject('m', {}, {}, { phase: 'Pending', reason: 'NoRoom' }), expected: 'none' },
    { reason: 'its intent stands', migration: migrationObject('m', {}, {}, { phase: 'Preparing', reason: 'SiteUnreachable', attempt: 'm' }), expected: 'running' },
    { reason: 'one that is cancelled runs until it has ended', migration: migrationObject('m', { cancel: true }, {}, { phase: 'Copying', attempt: 'm' }), expected: 'running' },
    { reason: 'it is over', migration: migrationObject('m', {}, {}, { phase: 'Failed', attempt: 'm' }), expected: 'none' },
    { reason: 'nobody wants it any more', migration: migrationObject('m', { cancel: true }), expected: 'none' },
  ]; // prettier-ignore
  it.each(cases)('$expected: $reason', ({ migration, expected }) => {
    expect(standing(migration)).toBe(expected);
  });
});

describe('Places', () => {
  const sites = [siteObject('valencia', { maxMigrations: 1 }), siteObject('saopaulo'), siteObject('lisbon')];
  const machines = ['one', 'two', 'three'].map((name) => machineObject(name, {}, {}, { site: 'valencia' }));
  const [one, two, three] = [migrationObject('one'), migrationObject('two'), migrationObject('three')] as const;
  const open = (migrations: VMMigration[], records: Readonly<Record<string, VmRecord>> = {}, maxMigrations = 5) => {
    const woken = { times: 0 };
    const directory = directoryOf(records);
    const objects = objectsOf({ sites, machines, migrations });
    const places = new Places(objects, directory, maxMigrations, () => woken.times++);
    return { places, woken, migrations, [Symbol.dispose]: () => directory.close() };
  };
  const refusal = (act: () => void): string => interruptionOf(act).reason;

  it('no two take one place before either’s intent is seen', () => {
    using world = open([one, two]);
    world.places.take(one, 'valencia');
    expect(refusal(() => world.places.take(two, 'valencia'))).toBe('Queued');
    world.places.take(one, 'valencia');
  });

  it('a place that is given back is free, and those that wait are told once', () => {
    using world = open([one, two]);
    world.places.take(one, 'valencia');
    world.places.release(one);
    world.places.release(one);
    expect(world.woken.times).toBe(1);
    // The older of one second is `one`, by its name, unless it waits for something else.
    expect(refusal(() => world.places.take(two, 'valencia'))).toBe('Queued');
    world.migrations[0] = migrationObject('one', {}, {}, { phase: 'Pending', reason: 'NetworkNotReady' });
    world.places.take(two, 'valencia');
  });

  it('a place is free when its move is over', () => {
    using world = open([one, two]);
    world.places.take(one, 'valencia');
    world.migrations[0] = migrationObject(
      'one',
      {},
      {},
      { phase: 'Copying', attempt: one.metadata.uid, source: { site: 'valencia' } },
    );
    expect(refusal(() => world.places.take(two, 'valencia'))).toBe('Queued');
    world.migrations.shift();
    world.places.take(two, 'valencia');
  });

  it('a record that says Moving counts though no migration is seen, once with its migration', () => {
    const record: VmRecord = {
      ...{ namespace: 'acme', name: 'one', site: 'valencia', host: 'a', generation: 1, phase: 'Moving', disk: true },
      ...{ attempt: one.metadata.uid, target: { site: 'saopaulo', host: 'a' }, interfaces: [] },
    };
    using alone = open([three], { one: record });
    expect(refusal(() => alone.places.take(three, 'valencia'))).toBe('Queued');
    expect(refusal(() => alone.places.take(migrationObject('one-again', { vmName: 'one' }), 'lisbon'))).toBe(
      'AnotherMigration',
    );
    const intent = migrationObject('one', {}, {}, { phase: 'Copying', attempt: one.metadata.uid });
    using both = open([intent, three], { one: record }, 2);
    both.places.take(three, 'lisbon');
  });

  it('a record that says Moving, of a machine and a migration that are both gone, is nobody’s and holds no place', () => {
    const record: VmRecord = {
      ...{ namespace: 'acme', name: 'gone', site: 'valencia', host: 'a', generation: 1, phase: 'Moving', disk: true },
      ...{ attempt: '00000000-0000-4000-8000-00000000000a', target: { site: 'saopaulo', host: 'a' }, interfaces: [] },
    };
    using world = open([three], { gone: record });
    world.places.take(three, 'valencia');
  });
});
