import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { differences, Replica, type UpdateFormat } from '../../../drivers/ovsdb/replica.js';
import { parseSchema } from '../../../drivers/ovsdb/schema.js';
import type { Atom, Value } from '../../../drivers/ovsdb/types.js';
import {
  applyDifference,
  decodeValue,
  equalValues,
  map,
  namedUuid,
  set,
  uuidRef,
} from '../../../drivers/ovsdb/values.js';
import { MalformedError } from '../../../drivers/wire/malformed.js';

const STRING_MAP = { key: 'string', value: 'string', min: 0, max: 'unlimited' };

/** Columns as vswitch.ovsschema has them, and one of each kind that it hasn't. */
const SCHEMA = {
  name: 'Open_vSwitch',
  tables: {
    Port: {
      columns: {
        name: { type: 'string', mutable: false },
        tag: { type: { key: { type: 'integer', minInteger: 0, maxInteger: 4095 }, min: 0, max: 1 } },
        trunks: { type: { key: { type: 'integer' }, min: 0, max: 4096 } },
        interfaces: { type: { key: { type: 'uuid', refTable: 'Interface' }, min: 1, max: 'unlimited' } },
        external_ids: { type: STRING_MAP },
        pair: { type: { key: 'string', value: 'integer', min: 0, max: 1 } },
        fake: { type: 'boolean' },
        weight: { type: { key: 'real' } },
        owner: { type: { key: { type: 'uuid' } } },
      },
    },
  },
};
const COLUMNS = Object.keys(SCHEMA.tables.Port.columns);
const ID = '550e8400-e29b-41d4-a716-446655440000';
const OTHER = '550e8400-e29b-41d4-a716-446655440001';
const NOBODY = { uuid: '00000000-0000-0000-0000-000000000000' };
const DEFAULTS = {
  name: '',
  tag: [],
  trunks: [],
  interfaces: [],
  external_ids: new Map(),
  pair: new Map(),
  fake: false,
  weight: 0,
  owner: NOBODY,
};

const schema = parseSchema(SCHEMA);
const replica = (columns = COLUMNS) => new Replica(schema, { Port: columns });

function column(name: string) {
  const found = schema.get('Port')?.get(name);
  if (found === undefined) throw new Error(`no column ${name}`);
  return found;
}

describe('a replica', () => {
  const steps: { reason: string; format: UpdateFormat; before: unknown; update: unknown; row: unknown }[] = [
    {
      reason: 'an initial row lacks the columns at their default',
      format: 'update2',
      before: {},
      update: { initial: { name: 'p1' } },
      row: { ...DEFAULTS, name: 'p1' },
    },
    {
      reason: 'a set of one is written without its set, and is one',
      format: 'update2',
      before: {},
      update: { insert: { name: 'p1', tag: 5, trunks: 7, interfaces: ['uuid', OTHER] } },
      row: { ...DEFAULTS, name: 'p1', tag: [5], trunks: [7], interfaces: [{ uuid: OTHER }] },
    },
    {
      reason: 'what may hold one element changes to the new value',
      format: 'update2',
      before: { initial: { name: 'p1', tag: 5, pair: ['map', [['a', 1]]] } },
      update: { modify: { name: 'p2', tag: 6, pair: ['map', [['a', 2]]] } },
      row: { ...DEFAULTS, name: 'p2', tag: [6], pair: new Map([['a', 2]]) },
    },
    {
      reason: 'an optional value goes away',
      format: 'update2',
      before: { initial: { tag: 5 } },
      update: { modify: { tag: ['set', []] } },
      row: DEFAULTS,
    },
    {
      reason: 'of a larger set come the elements that join or leave',
      format: 'update2',
      before: { initial: { trunks: ['set', [1, 2, 3]] } },
      update: { modify: { trunks: ['set', [2, 4]] } },
      row: { ...DEFAULTS, trunks: [1, 3, 4] },
    },
    {
      reason: 'so it is with references, which are objects',
      format: 'update2',
      before: { initial: { interfaces: ['set', [['uuid', ID], ['uuid', OTHER]]] } }, // prettier-ignore
      update: { modify: { interfaces: ['uuid', ID] } },
      row: { ...DEFAULTS, interfaces: [{ uuid: OTHER }] },
    },
    {
      reason: 'of a map come the entries that join, leave or change',
      format: 'update2',
      before: { initial: { external_ids: ['map', [['same', '1'], ['leaves', '2'], ['changes', '3']]] } }, // prettier-ignore
      update: { modify: { external_ids: ['map', [['leaves', '2'], ['changes', '4'], ['joins', '5']]] } }, // prettier-ignore
      row: { ...DEFAULTS, external_ids: new Map([['same', '1'], ['changes', '4'], ['joins', '5']]) }, // prettier-ignore
    },
    {
      reason: 'a deletion ends the row',
      format: 'update2',
      before: { initial: { name: 'p1' } },
      update: { delete: null },
      row: undefined,
    },
    {
      reason: 'the older monitor sends whole rows',
      format: 'update',
      before: { new: { name: 'p1', trunks: ['set', [3, 4]], external_ids: ['map', [['a', 'b']]] } }, // prettier-ignore
      update: {
        old: { name: 'p1' },
        new: { name: 'p2', trunks: ['set', [1, 2]], fake: true, weight: 1.5, owner: ['uuid', ID] },
      },
      row: { ...DEFAULTS, name: 'p2', trunks: [1, 2], fake: true, weight: 1.5, owner: { uuid: ID } },
    },
    {
      reason: 'the older monitor sends no new row for one that is gone',
      format: 'update',
      before: { new: { name: 'p1' } },
      update: { old: { name: 'p1' } },
      row: undefined,
    },
  ];

  it.each(steps)('$reason', ({ format, before, update, row }) => {
    const tables = replica();
    if (JSON.stringify(before) !== '{}') tables.apply({ Port: { [ID]: before } }, format);
    tables.apply({ Port: { [ID]: update } }, format);
    expect(tables.tables.get('Port')?.get(ID)).toEqual(row);
  });

  it('tells each change with what was and what is', () => {
    const tables = replica(['name', 'tag']);
    const apply = (update: unknown) => tables.apply({ Port: { [ID]: update } }, 'update2');
    const first = { name: 'p1', tag: [5] };
    const second = { name: 'p1', tag: [] };
    expect(apply({ insert: { name: 'p1', tag: 5 } })).toEqual([{ table: 'Port', uuid: ID, new: first }]);
    expect(apply({ modify: { tag: ['set', []] } })).toEqual([{ table: 'Port', uuid: ID, old: first, new: second }]);
    expect(apply({ modify: {} })).toEqual([]);
    expect(apply({ delete: null })).toEqual([{ table: 'Port', uuid: ID, old: second }]);
    expect(apply({ delete: null })).toEqual([]);
  });

  const refused = [
    { reason: 'a table that is not monitored', updates: { Bridge: {} } },
    { reason: 'a change of a row that is not there', updates: { Port: { [ID]: { modify: { name: 'x' } } } } },
    { reason: 'a list for tables', updates: [] },
    { reason: 'a row that is none', updates: { Port: { [ID]: { insert: 5 } } } },
    { reason: 'an update that says nothing', updates: { Port: { [ID]: {} } } },
    { reason: 'a number for a text', updates: { Port: { [ID]: { insert: { name: 5 } } } } },
    { reason: 'a text for a number', updates: { Port: { [ID]: { insert: { trunks: ['set', [1, '2']] } } } } },
    { reason: 'a fraction for an integer', updates: { Port: { [ID]: { insert: { tag: 0.5 } } } } },
    { reason: 'a number beyond all', updates: { Port: { [ID]: { insert: { weight: Infinity } } } } },
    { reason: 'a number for a truth', updates: { Port: { [ID]: { insert: { fake: 1 } } } } },
    { reason: 'a text for a reference', updates: { Port: { [ID]: { insert: { owner: ID } } } } },
    { reason: 'a number for a key', updates: { Port: { [ID]: { insert: { external_ids: ['map', [[1, 'a']]] } } } } },
    { reason: "a text for a map's number", updates: { Port: { [ID]: { insert: { pair: ['map', [['a', 'b']]] } } } } },
    { reason: 'nothing for a row', updates: { Port: { [ID]: null } } },
    { reason: 'an object for a value', updates: { Port: { [ID]: { insert: { name: {} } } } } },
    { reason: 'a set that is none', updates: { Port: { [ID]: { insert: { trunks: ['set', 5] } } } } },
    { reason: 'a set for a map', updates: { Port: { [ID]: { insert: { external_ids: ['set', []] } } } } },
    { reason: 'a map with half an entry', updates: { Port: { [ID]: { insert: { external_ids: ['map', [['a']]] } } } } },
    { reason: 'a reference that is none', updates: { Port: { [ID]: { insert: { owner: ['uuid'] } } } } },
  ];
  it.each(refused)('refuses $reason', ({ updates }) => {
    expect(() => replica().apply(updates, 'update2')).toThrow(MalformedError);
  });

  it('takes in nothing of an update that is malformed at its end: its beginning would never be reported', () => {
    const tables = replica(['name']);
    tables.apply({ Port: { [ID]: { insert: { name: 'p1' } } } }, 'update2');
    const update = { Port: { [ID]: { modify: { name: 'p2' } }, [OTHER]: { insert: { name: 5 } } } };
    expect(() => tables.apply(update, 'update2')).toThrow(MalformedError);
    expect(tables.tables.get('Port')).toEqual(new Map([[ID, { name: 'p1' }]]));
  });

  it('takes an integer beyond 2^53 rounded', () => {
    const tables = replica(['tag']);
    tables.apply(JSON.parse(`{"Port":{"${ID}":{"insert":{"tag":9007199254740993}}}}`), 'update2');
    expect(tables.tables.get('Port')?.get(ID)).toEqual({ tag: [9_007_199_254_740_992] });
  });

  it('takes any update or refuses it as malformed', () => {
    const value = fc.oneof(
      fc.jsonValue({ maxDepth: 1 }),
      fc.constantFrom(['set', []], ['map', []], ['uuid', ID], 5, 'x'),
    );
    const some = <T>(names: readonly string[], one: fc.Arbitrary<T>) =>
      fc.record(Object.fromEntries(names.map((name) => [name, one])), { requiredKeys: [] });
    const row = fc.oneof({ weight: 5, arbitrary: some([...COLUMNS, 'x'], value) }, { weight: 1, arbitrary: value });
    const update = some(['initial', 'insert', 'modify', 'delete', 'old', 'new'], row);
    const updates = some(['Port', 'X'], some([ID, OTHER], update));
    fc.assert(
      fc.property(
        fc.array(updates, { maxLength: 3 }),
        fc.constantFrom<UpdateFormat>('update', 'update2'),
        (all, format) => {
          const tables = replica();
          try {
            for (const one of all) tables.apply(one, format);
          } catch (error) {
            expect(error).toBeInstanceOf(MalformedError);
          }
        },
      ),
      { seed: 7047, numRuns: 1000 },
    );
  });

  it('names what the schema lacks', () => {
    expect(() => new Replica(schema, { Bridge: [] })).toThrow('the server\'s schema has no table "Bridge"');
    expect(() => new Replica(schema, { Port: ['qos'] })).toThrow(
      'the server\'s schema has no column "qos" in table "Port"',
    );
  });
});

describe('the differences of two replicas', () => {
  it('are what turns the one into the other, and none where sets differ just in order', () => {
    const [before, after] = [replica(['name', 'trunks']), replica(['name', 'trunks'])];
    const row = (name: string, ...trunks: number[]) => ({ initial: { name, trunks: ['set', trunks] } });
    before.apply({ Port: { a: row('gone'), b: row('same', 1, 2), c: row('old') } }, 'update2');
    after.apply({ Port: { b: row('same', 2, 1), c: row('new'), d: row('fresh') } }, 'update2');
    expect(differences(before.tables, after.tables)).toEqual([
      { table: 'Port', uuid: 'a', old: { name: 'gone', trunks: [] } },
      { table: 'Port', uuid: 'c', old: { name: 'old', trunks: [] }, new: { name: 'new', trunks: [] } },
      { table: 'Port', uuid: 'd', new: { name: 'fresh', trunks: [] } },
    ]);
    expect(differences(after.tables, after.tables)).toEqual([]);
  });
});

describe('values', () => {
  it('come out of a difference as they went in', () => {
    const atom: fc.Arbitrary<Atom> = fc.oneof(fc.integer(), fc.uuid().map((uuid) => ({ uuid }))); // prettier-ignore
    const elements = fc.uniqueArray(atom, { selector: (one) => JSON.stringify(one) });
    fc.assert(
      fc.property(elements, elements, (from, to) => {
        const has = (all: readonly Atom[], one: Atom) => all.some((other) => equalValues(one, other));
        const difference = [...from.filter((one) => !has(to, one)), ...to.filter((one) => !has(from, one))];
        expect(equalValues(applyDifference(from, difference, column('trunks')), to)).toBe(true);
      }),
      { seed: 7047 },
    );
  });

  it('of maps too', () => {
    const entries = fc
      .dictionary(fc.constantFrom('a', 'b', 'c', 'd'), fc.constantFrom('1', '2'))
      .map((one) => new Map(Object.entries(one)));
    fc.assert(
      fc.property(entries, entries, (from, to) => {
        const left = [...from].filter(([key]) => !to.has(key));
        const joined = [...to].filter(([key, value]) => from.get(key) !== value);
        expect(equalValues(applyDifference(from, new Map([...left, ...joined]), column('external_ids')), to)).toBe(
          true,
        );
      }),
      { seed: 7047 },
    );
  });

  const unequal: { reason: string; a: Value; b: Value }[] = [
    { reason: 'a number is not its text', a: 1, b: '1' },
    { reason: 'a set is not its element', a: [1], b: 1 },
    { reason: 'a set is not a map', a: [], b: new Map() },
    { reason: 'an element more', a: [1], b: [1, 2] },
    { reason: 'a reference to another row', a: { uuid: ID }, b: { uuid: OTHER } },
    { reason: 'another value for a key', a: new Map([['a', '1']]), b: new Map([['a', '2']]) },
  ];
  it.each(unequal)('differ: $reason', ({ a, b }) => {
    expect(equalValues(a, b)).toBe(false);
    expect(equalValues(b, a)).toBe(false);
    expect(equalValues(a, a)).toBe(true);
  });

  it('are written for operations as RFC 7047 §5.1 has them', () => {
    expect(JSON.stringify([uuidRef(ID), namedUuid('p'), set([1, namedUuid('i')]), map({ a: 'b' })])).toBe(
      `[["uuid","${ID}"],["named-uuid","p"],["set",[1,["named-uuid","i"]]],["map",[["a","b"]]]]`,
    );
    expect(decodeValue(map({ a: 'b' }), column('external_ids'))).toEqual(new Map([['a', 'b']]));
  });
});

describe('a schema', () => {
  const refused = [
    { reason: 'no object', schema: 5 },
    { reason: 'without tables', schema: {} },
    {
      reason: 'with a type that RFC 7047 does not know',
      schema: { tables: { T: { columns: { c: { type: 'date' } } } } },
    },
    { reason: 'with a column without a type', schema: { tables: { T: { columns: { c: {} } } } } },
  ];
  it.each(refused)('is malformed: $reason', ({ schema }) => {
    expect(() => parseSchema(schema)).toThrow(MalformedError);
  });
});
