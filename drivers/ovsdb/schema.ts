import { MalformedError } from '../wire/malformed.js';
import { asRecord } from './json.js';
import type { Atom } from './types.js';

/** How a column's values look, from its type in the schema, RFC 7047 §3.2. */
export interface Column {
  readonly kind: 'atom' | 'set' | 'map';
  /** It may hold more than one element: then "update2" sends what differs, else the new value. */
  readonly many: boolean;
  /** What an atom column holds if the server leaves it out. */
  readonly defaultAtom: Atom;
}

/** Columns by table and name. */
export type Schema = ReadonlyMap<string, ReadonlyMap<string, Column>>;

const DEFAULTS: ReadonlyMap<unknown, Atom> = new Map<unknown, Atom>([
  ['integer', 0],
  ['real', 0],
  ['boolean', false],
  ['string', ''],
  ['uuid', { uuid: '00000000-0000-0000-0000-000000000000' }],
]);

/** Parses the result of "get_schema". Throws MalformedError. */
export function parseSchema(schema: unknown): Schema {
  const tables = new Map<string, Map<string, Column>>();
  for (const [name, table] of Object.entries(asRecord(asRecord(schema)['tables']))) {
    const columns = new Map<string, Column>();
    for (const [column, definition] of Object.entries(asRecord(asRecord(table)['columns']))) {
      columns.set(column, parseType(asRecord(definition)['type']));
    }
    tables.set(name, columns);
  }
  return tables;
}

function parseType(type: unknown): Column {
  if (typeof type === 'string') return { kind: 'atom', many: false, defaultAtom: defaultOf(type) };
  const { key, value, min = 1, max = 1 } = asRecord(type);
  const defaultAtom = defaultOf(typeof key === 'string' ? key : asRecord(key)['type']);
  const many = max !== 1;
  if (value !== undefined) return { kind: 'map', many, defaultAtom };
  return { kind: min === 1 && !many ? 'atom' : 'set', many, defaultAtom };
}

function defaultOf(type: unknown): Atom {
  const value = DEFAULTS.get(type);
  if (value === undefined) throw new MalformedError(`a schema with a column of type ${JSON.stringify(type)}`);
  return value;
}
