import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import {
  openOvsdb,
  type Ovsdb,
  OvsdbConnectionError,
  OvsdbError,
  OvsdbTimeoutError,
  type Row,
} from '../../../drivers/ovsdb/index.js';
import { JsonFramer } from '../../../drivers/ovsdb/framing.js';
import { asArray, asRecord, type JsonRecord } from '../../../drivers/ovsdb/json.js';
import { differences, Replica, type UpdateFormat } from '../../../drivers/ovsdb/replica.js';
import { parseSchema } from '../../../drivers/ovsdb/schema.js';
import { MalformedError } from '../../../drivers/wire/malformed.js';
import { ScriptedServer } from '../../support/scripted-server.js';
import { cut, failuresOf, inCase, sample, seeded, sizes, spoiling } from '../wire/support/fuzz.js';

/** What ovsdb-server 3.1 sent to this client: schema (of these tables), monitor, updates, results of transactions. */
const TEXTS = readFileSync(new URL('recorded.txt', import.meta.url), 'utf8')
  .trim()
  .split('\n');
const STREAM = Buffer.from(TEXTS.join(''));
const RECORDED = TEXTS.map((text) => asRecord(JSON.parse(text)));
const resultOf = (index: number) => RECORDED[index]?.['result'];
const updatesOf = (index: number) => asArray(RECORDED[index]?.['params'])[1];
const MONITORED = {
  Bridge: ['name', 'ports', 'datapath_id', 'external_ids'],
  Port: ['name', 'tag', 'interfaces', 'external_ids'],
  Interface: ['name', 'ofport', 'external_ids', 'mtu', 'mac_in_use'],
};
const SCHEMA = parseSchema(resultOf(0));
const UPDATES = [resultOf(1), updatesOf(2), updatesOf(3), updatesOf(4)];

const isMalformed = (error: unknown) => {
  if (error instanceof MalformedError) return;
  throw error;
};

/** Values that are not what the protocol has at that place; some of them are what it has at another. */
const hostile: fc.Arbitrary<unknown> = fc.oneof(
  fc.constantFrom(
    ...[null, true, false, 0, -1, 0.5, 2 ** 53 + 2, -(2 ** 63), 1e308, Infinity, '', '__proto__', 'constructor', 'set'],
    ...[[], {}, ['set'], ['set', 5], ['set', [[]]], ['set', [['uuid', 5]]], ['map'], ['map', [[1]]], ['map', [5]]],
    ...[
      ['uuid'],
      ['uuid', 'x'],
      ['named-uuid', 'x'],
      { initial: 5 },
      { modify: null },
      { modify: {} },
      { delete: null },
    ],
    ...[{ new: {} }, { new: 5 }, { insert: {} }, 'x'.repeat(100_000)],
  ),
  fc.jsonValue(),
);

/** Replaces, removes or adds one thing somewhere in a JSON value; `path` chooses where. */
function spoilJson(json: unknown, path: readonly number[], value: unknown, remove: boolean): unknown {
  const [choice, ...rest] = path;
  if (choice === undefined || typeof json !== 'object' || json === null) return value;
  const entries: [string, unknown][] = Object.entries(json);
  const at = choice % (entries.length + 1);
  const [key, inner] = entries[at] ?? ['more', undefined];
  if (remove && rest.length === 0) entries.splice(at, 1);
  else entries[at] = [key, spoilJson(inner, rest, value, remove)];
  return Array.isArray(json) ? entries.map(([, element]) => element) : Object.fromEntries(entries);
}

const spoilingJson = fc.tuple(fc.array(fc.nat(1000), { maxLength: 8 }), hostile, fc.boolean()).map(
  ([path, value, remove]) =>
    (json: unknown) =>
      spoilJson(json, path, value, remove),
);

const rowsOf = (replica: Replica) =>
  [...replica.tables].map(([table, rows]) => [table, [...rows].map(([uuid, row]) => [uuid, row])]);

describe('the OVSDB codec, fuzzed', () => {
  it('has a good stream to begin with', () => {
    expect([...new JsonFramer().push(STREAM)]).toEqual(RECORDED);
    const replica = new Replica(SCHEMA, MONITORED);
    for (const updates of UPDATES) expect(replica.apply(updates, 'update2').length).toBeGreaterThan(0);
    expect(replica.tables.get('Port')?.size).toBe(2);
  });

  it('finds the same objects at each byte where the stream may be cut, those of a character too', () => {
    for (let at = 1; at < STREAM.length; at++) {
      const framer = new JsonFramer();
      const objects = [STREAM.subarray(0, at), STREAM.subarray(at)].flatMap((piece) => [...framer.push(piece)]);
      if (JSON.stringify(objects) !== JSON.stringify(RECORDED)) throw new Error(`cut at ${at}`);
    }
  });

  it('takes spoilt streams, cut wherever', () => {
    fc.assert(
      fc.property(spoiling, sizes, (spoil, sizes) => {
        const framer = new JsonFramer();
        const replica = new Replica(SCHEMA, MONITORED);
        try {
          for (const piece of cut(spoil(STREAM), sizes)) {
            for (const message of framer.push(piece)) {
              const { method, params, id, result } = asRecord(message);
              if (id === 1) parseSchema(result);
              else if (id === 2) replica.apply(result, 'update2');
              else if (method === 'update2') replica.apply(asArray(params)[1], 'update2');
            }
          }
        } catch (error) {
          isMalformed(error);
        }
      }),
      seeded(1500),
    );
  });

  it('takes schemas of whatever shape', () => {
    fc.assert(
      fc.property(spoilingJson, (spoil) => {
        try {
          const schema = parseSchema(spoil(resultOf(0)));
          new Replica(schema, MONITORED).apply(resultOf(1), 'update2');
        } catch (error) {
          isMalformed(error);
        }
      }),
      seeded(2000),
    );
  });

  it('takes in all of an update, or finds it malformed and takes in nothing; rows have the types of their columns', () => {
    const formats = fc.constantFrom<UpdateFormat>('update', 'update2');
    const types = new Map(Object.entries(MONITORED).map(([table, columns]) => [table, columns.map((name) => SCHEMA.get(table)?.get(name))])); // prettier-ignore
    let refused = 0;
    fc.assert(
      fc.property(fc.nat(3), spoilingJson, formats, (index, spoil, format) => {
        const replica = new Replica(SCHEMA, MONITORED);
        for (const updates of UPDATES.slice(0, index)) replica.apply(updates, 'update2');
        const before = rowsOf(replica);
        const copy = new Map([...replica.tables].map(([table, rows]) => [table, new Map(rows)]));
        try {
          const changes = replica.apply(spoil(UPDATES[index]), format);
          expect(new Set(changes)).toEqual(new Set(differences(copy, replica.tables)));
          for (const [table, rows] of replica.tables)
            for (const row of rows.values()) expect(Object.values(row).map(kindOf)).toEqual(types.get(table)?.map((column) => column?.kind)); // prettier-ignore
        } catch (error) {
          isMalformed(error);
          refused++;
          expect(rowsOf(replica)).toEqual(before);
        }
      }),
      seeded(2000),
    );
    expect(refused).toBeGreaterThan(100);
  });

  const kindOf = (value: Row[string]) => (value instanceof Map ? 'map' : Array.isArray(value) ? 'set' : 'atom');

  const costly = [
    { reason: 'nesting 100,000 deep', text: `{"a":${'['.repeat(100_000)}` },
    { reason: 'objects nested 100,000 deep', text: '{"a":'.repeat(100_000) },
    { reason: 'a string of 17 MiB', text: `{"a":"${'x'.repeat(17 * 2 ** 20)}"}` },
    { reason: 'an array of 6 million arrays', text: `{"a":[${'[],'.repeat(6_000_000)}[]]}` },
    { reason: 'a number of 17 million digits', text: `{"a":${'9'.repeat(17_000_000)}}` },
  ];
  it.each(costly)('refuses $reason without much ado', ({ text }) => {
    const framer = new JsonFramer();
    const bytes = Buffer.from(text);
    const startedAt = performance.now();
    expect(() => cut(bytes, [65_536]).forEach((piece) => [...framer.push(piece)])).toThrow(MalformedError);
    expect(performance.now() - startedAt).toBeLessThan(2000);
  });
});

describe('the OVSDB client, fuzzed over a socket', () => {
  /** What goes wrong once, with the message of that number, as bytes or as JSON. */
  const trouble = fc.record({ message: fc.nat(6), asBytes: fc.boolean(), spoil: spoiling, spoilJson: spoilingJson, sizes }); // prettier-ignore
  type Trouble = typeof trouble extends fc.Arbitrary<infer T> ? T : never;

  async function serve({ message, asBytes, spoil, spoilJson, sizes }: Trouble): Promise<ScriptedServer> {
    let sent = 0;
    const send = (socket: Socket, json: JsonRecord) => {
      const bad = sent++ === message;
      const text = Buffer.from(JSON.stringify(bad && !asBytes ? spoilJson(json) : json));
      for (const piece of cut(bad && asBytes ? spoil(text) : text, sizes)) socket.write(piece);
    };
    return ScriptedServer.start((socket) => {
      const framer = new JsonFramer();
      socket.on('data', (chunk: Buffer) => {
        for (const request of framer.push(chunk)) {
          const { method, id } = asRecord(request);
          if (method === 'get_schema') send(socket, { ...RECORDED[0], id });
          else if (method === 'monitor_cond') {
            send(socket, { ...RECORDED[1], id });
            for (const update of RECORDED.slice(2, 5)) send(socket, update);
          } else if (method === 'transact') send(socket, { ...RECORDED[5], id });
          else if (method === 'echo') send(socket, { id, result: [], error: null });
        }
      });
    });
  }

  const good = new Replica(SCHEMA, MONITORED);
  for (const updates of UPDATES) good.apply(updates, 'update2');

  const tablesOf = (client: Ovsdb) =>
    new Map(Object.keys(MONITORED).map((table) => [table, new Map(client.rows(table))]));

  /** Resolves when a transaction works and the replica is right; with what failed before. */
  async function recover(client: Ovsdb): Promise<unknown[]> {
    const failures: unknown[] = [];
    for (;;) {
      try {
        await client.ready(8000);
      } catch (error) {
        return [...failures, new Error('it does not come back', { cause: error })];
      }
      try {
        await client.transact([{ op: 'select', table: 'Bridge', where: [], columns: ['name'] }]);
        if (differences(tablesOf(client), good.tables).length === 0) return failures;
        // A wrong value that has the right type is nothing that a client could see: the server has to correct it.
        return [...failures, 'wrong'];
      } catch (error) {
        failures.push(error);
      }
    }
  }

  const isTyped = (error: unknown) =>
    error === 'wrong' || [OvsdbError, OvsdbConnectionError, OvsdbTimeoutError].some((type) => error instanceof type);

  it('fails calls with its own errors, comes back, and has reported every change', async () => {
    let wrong = 0;
    const cases = sample(trouble, 100);
    const failures = await failuresOf(cases, async (trouble, index) => {
      const server = await serve(trouble);
      const client = openOvsdb(server.endpoint, MONITORED, { callTimeoutMs: 200, probeIntervalMs: 100, connectTimeoutMs: 1000 }); // prettier-ignore
      const told = new Map(Object.keys(MONITORED).map((table) => [table, new Map<string, Row>()]));
      client.changes.subscribe((change) => {
        if (change.new === undefined) told.get(change.table)?.delete(change.uuid);
        else told.get(change.table)?.set(change.uuid, change.new);
      });
      try {
        const failures = await recover(client);
        const untyped = failures.filter((error) => !isTyped(error));
        if (untyped.length > 0) throw new Error(inCase(index), { cause: untyped[0] });
        if (failures.includes('wrong')) wrong++;
        if (differences(told, tablesOf(client)).length > 0) throw new Error(`${inCase(index)}: not all was reported`);
        if (server.connectedAt.length > 6)
          throw new Error(`${inCase(index)}: ${server.connectedAt.length} connections`);
      } finally {
        await client.close();
        await server.stop();
      }
    });
    expect(failures).toEqual([]);
    expect(wrong).toBeLessThan(cases.length / 2);
  });
});
