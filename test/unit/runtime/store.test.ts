import { describe, expect, it } from '@jest/globals';

import { MemoryStore } from '../../../controllers/runtime/store.js';

interface Machine {
  readonly id: string;
  readonly networks: readonly string[];
}

const machine = (id: string, ...networks: string[]): Machine => ({ id, networks });

describe('MemoryStore', () => {
  it('finds an object under each value of an index, and under no former one', () => {
    const store = new MemoryStore<Machine>({ network: ({ networks }) => networks });
    const under = (network: string) => store.listByIndex('network', network).map(({ id }) => id);
    store.set('a', machine('a', 'blue', 'red'));
    store.set('b', machine('b', 'blue'));
    expect([under('blue'), under('red'), under('green')]).toEqual([['a', 'b'], ['a'], []]);
    store.set('a', machine('a', 'green'));
    expect([under('blue'), under('red'), under('green')]).toEqual([['b'], [], ['a']]);
    store.delete('b');
    expect([under('blue'), store.size]).toEqual([[], 1]);
  });

  it('refuses an index that it does not have, instead of finding nothing', () => {
    expect(() => new MemoryStore<Machine>().listByIndex('network', 'blue')).toThrow(TypeError);
  });

  it('tells what was and what is, and nothing of a deletion of what it never had', () => {
    const store = new MemoryStore<Machine>();
    const told: unknown[] = [];
    store.changes.subscribe((change) => told.push(change));
    const [first, second] = [machine('a'), machine('a', 'blue')];
    store.set('a', first);
    store.set('a', second);
    store.delete('a');
    store.delete('a');
    expect(told).toEqual([
      { key: 'a', new: first },
      { key: 'a', old: first, new: second },
      { key: 'a', old: second },
    ]);
  });
});
