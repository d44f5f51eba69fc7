import { MalformedError } from '../wire/malformed.js';
import { asRecord, excerpt } from './json.js';
import type { Atom } from './types.js';

/** How a column's values look, from its type in the schema, RFC 7047 §3.2. */
export type Column = {
  /** It may hold more than one element: then "update2" sends what differs, else the new value. */
  readonly many: boolean;
  /** Of an atom, of a set's elements, of a map's keys. */
  readonly key: AtomType;
} & ({ readonly kind: 'atom' | 'set' } | { readonly kind: 'map'; readonly value: AtomType });

export type AtomType = 'integer' | 'real' | 'boolean' | 'string' | 'uuid';

/** Columns by table and name. */
export type Schema = ReadonlyMap<string, ReadonlyMap<string, Column>>;

/** What an atom column holds if the server leaves it out, RFC 7047 §5.2.1. */
export const DEFAULT_ATOMS: Readonly<Record<AtomType, Atom>> = {
  integer: 0,
  real: 0,
  boolean: false,
  string: '',
  uuid: { uuid: '00000000-0000-0000-0000-000000000000' },
};

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
  if (typeof type === 'string') return { kind: 'atom', many: false, key: parseAtomType(type) };
  const { key, value, min = 1, max = 1 } = asRecord(type);
  const many = max !== 1;
  const column = { many, key: parseBaseType(key) };
  if (value !== undefined) return { ...column, kind: 'map', value: parseBaseType(value) };
  return { ...column, kind: min === 1 && !many ? 'atom' : 'set' };
}

const parseBaseType = (type: unknown) => parseAtomType(typeof type === 'string' ? type : asRecord(type)['type']);

const isAtomType = (type: unknown): type is AtomType => typeof type === 'string' && Object.hasOwn(DEFAULT_ATOMS, type);

function parseAtomType(type: unknown): AtomType {
  if (isAtomType(type)) return type;
  throw new MalformedError(`a schema with a column of type ${excerpt(type)}`);
}
