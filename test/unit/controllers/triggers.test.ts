import { describe, expect, it } from '@jest/globals';
import { NEVER } from 'rxjs';
import type { VMMigration } from '../../../crds/index.js';
import { migrationIndexes, objectsOf } from '../../../controllers/objects.js';
import { MemoryStore } from '../../../controllers/runtime/store.js';
import { wire, type TriggerTargets } from '../../../controllers/triggers.js';
import { directoryOf, migrationObject } from '../reconcilers/support/objects.js';

/** What is woken, as `kind name`, while the migrations change. */
function wokenBy(act: (migrations: MemoryStore<VMMigration>) => void, before: readonly VMMigration[] = []): string[] {
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
      directory: directoryOf({}),
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
