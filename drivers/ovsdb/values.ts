import { MalformedError } from '../wire/malformed.js';
import { asArray, asString, excerpt } from './json.js';
import { type AtomType, type Column, DEFAULT_ATOMS } from './schema.js';
import type { Atom, Value } from './types.js';

/** RFC 7047 §5.1 values for operations. A row's UUID: */
export const uuidRef = (uuid: string) => ['uuid', uuid] as const;
/** The row that an insert of the same transaction makes, by its "uuid-name". */
export const namedUuid = (name: string) => ['named-uuid', name] as const;
export const set = (elements: readonly unknown[]) => ['set', elements] as const;
export const map = (entries: Readonly<Record<string, unknown>>) => ['map', Object.entries(entries)] as const;

/** A value as the server writes it, decoded by its column's type. Throws MalformedError. */
export function decodeValue(json: unknown, column: Column): Value {
  switch (column.kind) {
    case 'atom':
      return decodeAtom(json, column.key);
    case 'set': {
      const elements = tagged(json, 'set');
      return (elements ?? [json]).map((element) => decodeAtom(element, column.key));
    }
    case 'map': {
      const { key, value } = column;
      const entries = tagged(json, 'map');
      if (entries === undefined) throw new MalformedError(`${excerpt(json)} where a map was expected`);
      return new Map(entries.map((entry) => decodeEntry(entry, key, value)));
    }
  }
}

export function defaultValue(column: Column): Value {
  switch (column.kind) {
    case 'atom':
      return DEFAULT_ATOMS[column.key];
    case 'set':
      return [];
    case 'map':
      return new Map();
  }
}

function tagged(json: unknown, tag: 'set' | 'map'): readonly unknown[] | undefined {
  return Array.isArray(json) && json[0] === tag ? asArray(json[1]) : undefined;
}

function decodeEntry(json: unknown, key: AtomType, value: AtomType): [Atom, Atom] {
  const [first, second] = asArray(json);
  return [decodeAtom(first, key), decodeAtom(second, value)];
}

/** An integer beyond 2^53 comes rounded, as JSON.parse makes it. */
function decodeAtom(json: unknown, type: AtomType): Atom {
  switch (type) {
    case 'string':
      if (typeof json === 'string') return json;
      break;
    case 'boolean':
      if (typeof json === 'boolean') return json;
      break;
    case 'integer':
      if (typeof json === 'number' && Number.isInteger(json)) return json;
      break;
    case 'real':
      if (typeof json === 'number' && Number.isFinite(json)) return json;
      break;
    case 'uuid':
      if (Array.isArray(json) && json[0] === 'uuid') return { uuid: asString(json[1]) };
  }
  throw new MalformedError(`${excerpt(json)} where a value of type ${type} was expected`);
}

/** Equal atoms have equal keys: a Uuid is an object, and no two objects are the same to a Map. */
const keyOf = (atom: Atom) => (typeof atom === 'object' ? `uuid ${atom.uuid}` : `${typeof atom} ${atom}`);

const isMap = (value: Value): value is ReadonlyMap<Atom, Atom> => value instanceof Map;
const isSet = (value: Value): value is readonly Atom[] => Array.isArray(value);

/** Applies what "update2" says of a changed column (ovsdb-server(7) §4.1.14). */
export function applyDifference(old: Value, difference: Value, { many }: Column): Value {
  if (many && isSet(old) && isSet(difference)) return toggle(old, difference);
  if (many && isMap(old) && isMap(difference)) return merge(old, difference);
  return difference;
}

/** Elements on one side only. */
function toggle(old: readonly Atom[], difference: readonly Atom[]): readonly Atom[] {
  const elements = new Map(old.map((atom) => [keyOf(atom), atom]));
  for (const atom of difference) if (!elements.delete(keyOf(atom))) elements.set(keyOf(atom), atom);
  return [...elements.values()];
}

/** An entry that is there already goes away; another value for a key replaces its value. */
function merge(old: ReadonlyMap<Atom, Atom>, difference: ReadonlyMap<Atom, Atom>): ReadonlyMap<Atom, Atom> {
  const entries = new Map([...old].map((entry) => [keyOf(entry[0]), entry]));
  for (const [key, value] of difference) {
    const present = entries.get(keyOf(key));
    if (present !== undefined && keyOf(present[1]) === keyOf(value)) entries.delete(keyOf(key));
    else entries.set(keyOf(key), [key, value]);
  }
  return new Map(entries.values());
}

/** Sets and maps have no order. */
export function equalValues(a: Value, b: Value): boolean {
  if (isMap(a)) return isMap(b) && equalSets([...a].map(entryKey), [...b].map(entryKey));
  if (isSet(a)) return isSet(b) && equalSets(a.map(keyOf), b.map(keyOf));
  return !isMap(b) && !isSet(b) && keyOf(a) === keyOf(b);
}

const entryKey = ([key, value]: [Atom, Atom]) => `${keyOf(key)}\0${keyOf(value)}`;

function equalSets(a: readonly string[], b: readonly string[]): boolean {
  const keys = new Set(a);
  return keys.size === new Set(b).size && b.every((key) => keys.has(key));
}
