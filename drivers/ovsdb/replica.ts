import { MalformedError } from '../wire/malformed.js';
import { asRecord, excerpt, type JsonRecord } from './json.js';
import type { Column, Schema } from './schema.js';
import type { Monitored, Row, RowChange } from './types.js';
import { applyDifference, decodeValue, defaultValue, equalValues } from './values.js';

type Columns = ReadonlyMap<string, Column>;
export type Tables = ReadonlyMap<string, ReadonlyMap<string, Row>>;

/** Which of the two monitors the server has: RFC 7047 §4.1.5 or ovsdb-server(7)'s "monitor_cond". */
export type UpdateFormat = 'update' | 'update2';

/** The monitored part of a database, kept up by the server's update notifications. */
export class Replica {
  readonly #columns = new Map<string, Columns>();
  readonly #tables = new Map<string, Map<string, Row>>();

  /** Throws MalformedError if the server's schema lacks a table or column that is to be monitored. */
  constructor(schema: Schema, monitored: Monitored) {
    for (const [table, names] of Object.entries(monitored)) {
      const known = schema.get(table);
      if (known === undefined) throw new MalformedError(`the server's schema has no table "${table}"`);
      this.#columns.set(table, new Map(names.map((name) => [name, columnOf(known, table, name)])));
      this.#tables.set(table, new Map());
    }
  }

  get tables(): Tables {
    return this.#tables;
  }

  /**
   * Takes in a set of updates, in the order in which the changes are returned. Throws MalformedError, and then has taken
   * in none of them: else what was taken in and never reported would be no news to the next connection either.
   */
  apply(updates: unknown, format: UpdateFormat): RowChange[] {
    const rows = this.#read(asRecord(updates), format);
    const changes: RowChange[] = [];
    for (const { table, replicated, uuid, row } of rows) {
      const change = changeOf(table, uuid, replicated.get(uuid), row);
      if (row === undefined) replicated.delete(uuid);
      else replicated.set(uuid, row);
      if (change !== undefined) changes.push(change);
    }
    return changes;
  }

  #read(updates: JsonRecord, format: UpdateFormat): readonly Update[] {
    const read: Update[] = [];
    for (const [table, rows] of Object.entries(updates)) {
      const columns = this.#columns.get(table);
      const replicated = this.#tables.get(table);
      if (columns === undefined || replicated === undefined)
        throw new MalformedError(`an update of ${excerpt(table)}, not monitored`);
      for (const [uuid, json] of Object.entries(asRecord(rows))) {
        const update = asRecord(json);
        const row =
          format === 'update' ? readUpdate(update, columns) : readUpdate2(update, columns, replicated.get(uuid));
        read.push({ table, replicated, uuid, row });
      }
    }
    return read;
  }
}

/** What becomes of a row of a table; undefined = it goes. */
interface Update {
  readonly table: string;
  readonly replicated: Map<string, Row>;
  readonly uuid: string;
  readonly row: Row | undefined;
}

function columnOf(known: Columns, table: string, name: string): Column {
  const column = known.get(name);
  if (column === undefined) throw new MalformedError(`the server's schema has no column "${name}" in table "${table}"`);
  return column;
}

/** RFC 7047 §4.1.6: "new" holds the whole row. */
function readUpdate({ new: row }: JsonRecord, columns: Columns): Row | undefined {
  return row === undefined || row === null ? undefined : readRow(asRecord(row), columns);
}

/** ovsdb-server(7) "update2": whole rows without the columns at their default, or what differs. */
function readUpdate2(update: JsonRecord, columns: Columns, old: Row | undefined): Row | undefined {
  const whole = update['initial'] ?? update['insert'];
  if (whole !== undefined) return readRow(asRecord(whole), columns);
  if ('delete' in update) return undefined;
  if (old === undefined) throw new MalformedError('a change of a row that was never inserted');
  return { ...old, ...readDifferences(asRecord(update['modify']), columns, old) };
}

function readRow(json: JsonRecord, columns: Columns): Row {
  const row: Record<string, Row[string]> = {};
  for (const [name, column] of columns) {
    const value = json[name];
    row[name] = value === undefined ? defaultValue(column) : decodeValue(value, column);
  }
  return row;
}

function readDifferences(json: JsonRecord, columns: Columns, old: Row): Row {
  const row: Record<string, Row[string]> = {};
  for (const [name, difference] of Object.entries(json)) {
    const column = columns.get(name);
    if (column === undefined) continue;
    row[name] = applyDifference(old[name] ?? defaultValue(column), decodeValue(difference, column), column);
  }
  return row;
}

/** What turns one replica into the other. */
export function differences(before: Tables, after: Tables): RowChange[] {
  const changes: (RowChange | undefined)[] = [];
  for (const [table, rows] of before) {
    for (const [uuid, old] of rows) {
      if (after.get(table)?.has(uuid) !== true) changes.push(changeOf(table, uuid, old, undefined));
    }
  }
  for (const [table, rows] of after) {
    for (const [uuid, row] of rows) changes.push(changeOf(table, uuid, before.get(table)?.get(uuid), row));
  }
  return changes.filter((change) => change !== undefined);
}

/** Undefined if nothing changed. */
function changeOf(table: string, uuid: string, old: Row | undefined, row: Row | undefined): RowChange | undefined {
  if (old !== undefined && row !== undefined) return equalRows(old, row) ? undefined : { table, uuid, old, new: row };
  if (old !== undefined) return { table, uuid, old };
  return row === undefined ? undefined : { table, uuid, new: row };
}

function equalRows(a: Row, b: Row): boolean {
  return Object.entries(a).every(([name, value]) => {
    const other = b[name];
    return other !== undefined && equalValues(value, other);
  });
}
