import { describe, expect, it } from '@jest/globals';
import { NEVER } from 'rxjs';
import type { VMMigration } from '../../../crds/index.js';
import { migrationIndexes, objectsOf } from '../../../controllers/objects.js';
import { MemoryStore } from '../../../controllers/runtime/store.js';
import { wire, type TriggerTargets } from '../../../controllers/triggers.js';
import type { Directory } from '../../../reconcilers/common/directory.js';
import type { VmRecord } from '../../../reconcilers/common/records.js';
import { directoryOf, liveDirectory, migrationObject } from '../reconcilers/support/objects.js';

/** What is woken, as `kind name`, while the migrations change. */
function wokenBy(
  act: (migrations: MemoryStore<VMMigration>) => void,
  before: readonly VMMigration[] = [],
  directory: Directory = directoryOf({}),
): string[] {
  const migrations = new MemoryStore<VMMigration>(migrationIndexes);
  for (const each of before) migrations.set(keyOf(each), each);
  const stores = {
    sites: new MemoryStore<never>(),
    networks: new MemoryStore<never>(),
    machines: new MemoryStore<never>(),
    templates: new MemoryStore<never>(),
    migrations,
  };
  const woken: string[] = [];
  const wakes =
    (kind: keyof TriggerTargets) =>
    ({ name }: { name: string }): void => {
      woken.push(`${kind} ${name}`);
    };
  const wiring = wire(
    {
      stores,
      objects: objectsOf(stores),
      hosts: {
        get: () => undefined,
        ofSite: () => [],
        all: () => [],
        inUse: () => undefined,
        problem: () => undefined,
        added: NEVER,
        removed: NEVER,
      },
      directory,
      dataplane: { drift: NEVER, boundaries: NEVER },
      underlay: { changes: NEVER, refresh: () => undefined },
      isEcho: () => false,
    },
    {
      site: wakes('site'),
      network: wakes('network'),
      machine: wakes('machine'),
      migration: wakes('migration'),
      template: wakes('template'),
    },
  );
  act(migrations);
  wiring.unsubscribe();
  return [...new Set(woken)].sort();
}

const keyOf = ({ metadata: { namespace, name } }: VMMigration): string => `${namespace}/${name}`;
const move = (name: string, status: Readonly<Record<string, unknown>> = {}): VMMigration =>
  migrationObject(name, { vmName: 'web-1' }, {}, status);

describe('a VMMigration wakes', () => {
  const copying = move('away', { phase: 'Copying' });
  const waiting = move('next', { phase: 'Pending' });
  const cases = [
    {
      title: 'itself when it is new',
      reason: 'nobody else begins it',
      before: [],
      act: (migrations: MemoryStore<VMMigration>) => migrations.set(keyOf(copying), copying),
      woken: ['migration away'],
    },
    {
      title: 'the next of its machine when it is over',
      reason: 'one at a time',
      before: [copying, waiting],
      act: (migrations: MemoryStore<VMMigration>) => {
        const over = move('away', { phase: 'Succeeded' });
        migrations.set(keyOf(over), over);
      },
      woken: ['migration away', 'migration next'],
    },
    {
      title: 'its machine when it is gone',
      reason: 'with its finalizer taken off, nobody else ends its move: no daemon has anything to tell',
      before: [copying],
      act: (migrations: MemoryStore<VMMigration>) => migrations.delete(keyOf(copying)),
      woken: ['machine web-1', 'migration away'],
    },
    {
      title: 'its machine when it is another of the same name',
      reason: 'one that was deleted and made anew while nobody watched shows as one change',
      before: [copying],
      act: (migrations: MemoryStore<VMMigration>) => {
        const another = migrationObject('away', { vmName: 'web-1' }, { uid: '00000000-0000-4000-8000-00000000000a' });
        migrations.set(keyOf(another), another);
      },
      woken: ['machine web-1', 'migration away'],
    },
  ];
  it.each(cases)('$title: $reason', ({ before, act, woken }) => expect(wokenBy(act, before)).toEqual(woken));
});

describe('a record of a move that is over wakes', () => {
  const owned: VmRecord = {
    ...{ namespace: 'acme', name: 'other', site: 'valencia', host: 'a', generation: 1 },
    ...{ phase: 'Owned', disk: true, interfaces: [] },
  };
  const moving: VmRecord = { ...owned, phase: 'Moving', attempt: 'an-attempt', target: { site: 'lisbon', host: 'a' } };
  const queued = move('queued', { phase: 'Pending', reason: 'Queued' });
  const elsewhere = move('elsewhere', { phase: 'Pending', reason: 'NoRoom' });
  const cases = [
    { title: 'those that wait for a place', reason: 'its migration may have been heard to end before', to: owned, woken: ['machine other', 'migration queued'] },
    { title: 'nobody else while it goes on', reason: 'its place is not free', to: { ...moving, generation: 2 }, woken: ['machine other'] },
  ]; // prettier-ignore
  it.each(cases)('$title: $reason', ({ to, woken }) => {
    const { directory, put } = liveDirectory({ fuid: moving });
    expect(wokenBy(() => put('fuid', to), [queued, elsewhere], directory)).toEqual(woken);
  });
});
