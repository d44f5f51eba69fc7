import type { Atom, Row, Value } from '../../drivers/ovsdb/types.js';

/** Reading OVSDB rows: a column is an atom, a set or a map; an optional one may be any of atom, empty or one-element set. */

const atoms = (value: Value | undefined): readonly Atom[] => {
  if (value === undefined || value instanceof Map) return [];
  return Array.isArray(value) ? (value as readonly Atom[]) : [value as Atom];
};

export const text = (row: Row | undefined, column: string): string | undefined => {
  const [first] = atoms(row?.[column]);
  return typeof first === 'string' && first !== '' ? first : undefined;
};

export const texts = (row: Row | undefined, column: string): string[] =>
  atoms(row?.[column]).filter((atom) => typeof atom === 'string');

export const uuids = (row: Row | undefined, column: string): string[] =>
  atoms(row?.[column]).flatMap((atom) => (typeof atom === 'object' ? [atom.uuid] : []));

/** A map column's text entries. */
export const entries = (row: Row | undefined, column: string): ReadonlyMap<string, string> => {
  const value = row?.[column];
  const result = new Map<string, string>();
  if (value instanceof Map)
    for (const [key, each] of value as ReadonlyMap<Atom, Atom>)
      if (typeof key === 'string' && typeof each === 'string') result.set(key, each);
  return result;
};
