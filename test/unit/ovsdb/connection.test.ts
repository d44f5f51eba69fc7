import { afterEach, describe, expect, it } from '@jest/globals';
import type { Socket } from 'node:net';
import { filter, firstValueFrom } from 'rxjs';
import {
  EndpointError,
  openOvsdb,
  type Ovsdb,
  OvsdbConnectionError,
  OvsdbError,
  type OvsdbOptions,
  OvsdbTimeoutError,
  type RowChange,
} from '../../../drivers/ovsdb/index.js';
import { JsonFramer } from '../../../drivers/ovsdb/framing.js';
import { ScriptedServer } from '../../support/scripted-server.js';

interface Request {
  readonly method?: string;
  readonly id?: unknown;
  readonly params?: unknown;
  readonly result?: unknown;
}

const SCHEMA = {
  tables: { Port: { columns: { name: { type: 'string' }, tag: { type: { key: 'integer', min: 0, max: 1 } } } } },
};
const row = (name: string) => ({ Port: { [name]: { initial: { name } } } });
const text = (message: unknown) => JSON.stringify(message);
const answer = (id: unknown, result: unknown) => text({ id, result, error: null });
const update2 = (updates: unknown) => text({ method: 'update2', id: null, params: ['isthmus', updates] });

const servers: ScriptedServer[] = [];
const clients: Ovsdb[] = [];

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.close()));
  await Promise.all(servers.splice(0).map((server) => server.stop()));
});

type Script = (request: Request, send: (text: string) => void, socket: Socket, earlier: number) => void;

/** A server that answers schema and monitor as told; `script` sees what it does not answer itself. */
async function serve(
  script: Script,
  monitor: (id: unknown) => string = (id) => answer(id, row('p1')),
): Promise<ScriptedServer> {
  const server = await ScriptedServer.start((socket, earlier) => {
    const framer = new JsonFramer();
    socket.on('data', (chunk) => {
      for (const message of framer.push(chunk)) {
        const request = message as Request;
        if (request.method === 'get_schema') socket.write(answer(request.id, SCHEMA));
        else if (request.method === 'monitor_cond') socket.write(monitor(request.id));
        else script(request, (answer) => socket.write(answer), socket, earlier);
      }
    });
  });
  servers.push(server);
  return server;
}

function connect(endpoint: string, options: OvsdbOptions = {}, monitored = { Port: ['name', 'tag'] }): Ovsdb {
  const client = openOvsdb(endpoint, monitored, options);
  clients.push(client);
  return client;
}

const downOf = (client: Ovsdb) =>
  firstValueFrom(client.state.pipe(filter((state) => !state.connected && state.error !== undefined)));
const errorOf = async (client: Ovsdb) => {
  const state = await downOf(client);
  return state.connected ? undefined : state.error;
};
const names = (client: Ovsdb) => [...client.rows('Port').values()].map(({ name }) => name);

describe('a connection to an OVSDB server', () => {
  it('takes in updates that come in one piece with the answer to the monitor', async () => {
    const server = await serve(
      () => undefined,
      (id) => answer(id, row('p1')) + update2({ Port: { p2: { insert: { name: 'p2' } } } }),
    );
    const client = connect(server.endpoint);
    const changes: RowChange[] = [];
    client.changes.subscribe((change) => changes.push(change));
    const known: unknown[] = [];
    client.state.pipe(filter(({ connected }) => connected)).subscribe(() => known.push(names(client)));
    await client.ready();
    expect(names(client)).toEqual(['p1', 'p2']);
    expect(changes.map(({ uuid }) => uuid)).toEqual(['p1', 'p2']);
    expect(known).toEqual([['p1']]);
  });

  it('uses the monitor of RFC 7047 where the server has no other', async () => {
    const server = await serve(
      ({ method, id }, send) => {
        if (method !== 'monitor') return;
        send(answer(id, { Port: { p1: { new: { name: 'p1', tag: 5 } } } }));
        send(
          text({
            method: 'update',
            id: null,
            params: ['isthmus', { Port: { p1: { old: { tag: 5 }, new: { name: 'p1', tag: 6 } } } }],
          }),
        );
      },
      (id) => text({ id, result: null, error: 'unknown method' }),
    );
    const client = connect(server.endpoint);
    const changed = firstValueFrom(client.changes.pipe(filter(({ old }) => old !== undefined)));
    expect(await changed).toEqual({
      table: 'Port',
      uuid: 'p1',
      old: { name: 'p1', tag: [5] },
      new: { name: 'p1', tag: [6] },
    });
  });

  it('answers the probe of a server, and probes a server that is silent', async () => {
    const seen: Request[] = [];
    const server = await serve((request, send) => {
      seen.push(request);
      if (request.method === 'echo')
        send(answer(request.id, []) + text({ method: 'echo', id: 'alive?', params: ['a', 1] }));
    });
    const client = connect(server.endpoint, { probeIntervalMs: 50 });
    const states: boolean[] = [];
    client.state.subscribe(({ connected }) => states.push(connected));
    await client.ready();
    await new Promise((resolve) => setTimeout(resolve, 400));
    expect(states).toEqual([false, true]);
    expect(seen).toContainEqual({ id: 'alive?', result: ['a', 1], error: null });
    expect(seen.filter(({ method }) => method === 'echo').length).toBeGreaterThan(2);
  });

  it('ends when the server does not answer a probe', async () => {
    const server = await serve(() => undefined);
    const client = connect(server.endpoint, { probeIntervalMs: 50 });
    await client.ready();
    expect(String(await errorOf(client))).toContain('has not answered for 100 ms');
  });

  const garbage = [
    { reason: 'bytes that are no JSON', bytes: 'HTTP/1.1 200 OK\r\n' },
    { reason: 'JSON of no use', bytes: '{"id":"x","result":1}' },
    { reason: 'an update of a table that is not monitored', bytes: update2({ Bridge: {} }) },
    { reason: 'an update of another monitor', bytes: '{"method":"update2","id":null,"params":["other",{}]}' },
    {
      reason: 'an update of a kind that was not asked for',
      bytes: '{"method":"update3","id":null,"params":["isthmus","0",{}]}',
    },
    { reason: 'an update of the older kind', bytes: '{"method":"update","id":null,"params":["isthmus",{}]}' },
    { reason: 'a text where the column has numbers', bytes: update2({ Port: { p1: { modify: { tag: 'x' } } } }) },
    { reason: 'results that are no objects', bytes: '{"id":3,"result":[5],"error":null}' },
    { reason: 'results that are no list', bytes: '{"id":3,"result":{},"error":null}' },
    { reason: 'an error without a name', bytes: '{"id":3,"result":null,"error":{"details":5}}' },
    { reason: 'a request that we do not serve', bytes: '{"method":"transact","id":9,"params":[]}' },
    { reason: 'an update without parameters', bytes: '{"method":"update2","id":null}' },
    {
      reason: 'the end of the monitor, as when the schema is converted',
      bytes: '{"method":"monitor_canceled","id":null,"params":["isthmus"]}',
    },
  ];
  it.each(garbage)('is made anew after $reason; who waits is told', async ({ bytes }) => {
    const server = await serve((_, send, _socket, earlier) => earlier === 0 && send(bytes));
    const client = connect(server.endpoint);
    await client.ready();
    const error: unknown = await client.transact([{ op: 'comment', comment: '' }]).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(OvsdbConnectionError);
    expect(String(error)).toContain(server.endpoint);
    await client.ready();
    expect(server.connectedAt).toHaveLength(2);
    expect(names(client)).toEqual(['p1']);
  });

  it('does not take an update that comes before the answer to the monitor', async () => {
    let monitors = 0;
    const update = update2({ Port: { p2: { insert: { name: 'p2' } } } });
    const server = await serve(
      () => undefined,
      (id) => (monitors++ === 0 ? update : '') + answer(id, row('p1')),
    );
    const client = connect(server.endpoint);
    expect(String(await errorOf(client))).toContain('an unexpected call of "update2"');
    await client.ready();
    expect(names(client)).toEqual(['p1']);
  });

  it('takes no notice of answers that nobody waits for', async () => {
    const server = await serve(
      ({ id }, send) =>
        send(answer(99, 1) + answer(1, 5) + text({ id: 2, error: 'late' }) + answer(id, [{}]).repeat(2)),
      (id) => answer(id, row('p1')).repeat(2),
    );
    const client = connect(server.endpoint);
    await client.ready();
    expect(await client.transact([{ op: 'comment', comment: '' }])).toEqual([{}]);
    expect(await client.transact([{ op: 'comment', comment: '' }])).toEqual([{}]);
    expect(server.connectedAt).toHaveLength(1);
  });

  it('reports after a reconnect what an update said before it turned out to be malformed', async () => {
    const broken = update2({ Port: { p2: { insert: { name: 'p2' } }, p3: { insert: { name: 5 } } } });
    let monitors = 0;
    const server = await serve(
      (_, send) => send(broken),
      (id) => answer(id, { Port: { ...row('p1').Port, ...(monitors++ === 0 ? {} : row('p2').Port) } }),
    );
    const client = connect(server.endpoint);
    const told: string[] = [];
    client.changes.subscribe(({ uuid }) => told.push(uuid));
    await client.ready();
    await expect(client.transact([])).rejects.toBeInstanceOf(OvsdbConnectionError);
    await client.ready();
    expect(names(client)).toEqual(['p1', 'p2']);
    expect(told).toEqual(['p1', 'p2']);
  });

  it('is given up when a string never ends and swallows all that follows, answers to probes too', async () => {
    const server = await serve(({ method, id }, send, _socket, earlier) => {
      if (method === 'echo' || earlier > 0) send(answer(id, []));
      else send('{"id":3,"result":"');
    });
    const client = connect(server.endpoint, { probeIntervalMs: 40 });
    await client.ready();
    const error: unknown = await client.transact([]).catch((error: unknown) => error);
    expect(String(error)).toContain('has not ended a message for 480 ms');
    await client.ready();
    expect(await client.transact([])).toEqual([]);
  });

  it('fails all who wait when the server goes, and who calls meanwhile', async () => {
    const server = await serve((_, _send, socket, earlier) => earlier === 0 && socket.destroy());
    const client = connect(server.endpoint);
    await client.ready();
    const call = () => client.transact([{ op: 'comment', comment: '' }]).catch((error: unknown) => error);
    const outcomes = await Promise.all([call(), call(), call()]);
    for (const outcome of [...outcomes, await call()]) expect(outcome).toBeInstanceOf(OvsdbConnectionError);
  });

  it('gives up a call that is not answered, and stays', async () => {
    const server = await serve(() => undefined);
    const client = connect(server.endpoint, { callTimeoutMs: 50 });
    await client.ready();
    await expect(client.transact([])).rejects.toBeInstanceOf(OvsdbTimeoutError);
    expect(names(client)).toEqual(['p1']);
  });

  it('reports the refusal of a whole call', async () => {
    const server = await serve(({ id }, send) =>
      send(text({ id, result: null, error: { error: 'unknown database', details: 'no' } })),
    );
    const client = connect(server.endpoint);
    await client.ready();
    const error: unknown = await client.transact([]).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(OvsdbError);
    expect(error).toMatchObject({ error: 'unknown database', details: 'no', index: undefined });
  });

  it('says which column the server lacks, and does not call it without pause', async () => {
    const server = await serve(() => undefined);
    const client = connect(server.endpoint, {}, { Port: ['name', 'colour'] });
    await expect(client.ready(900)).rejects.toThrow('has no column "colour" in table "Port"');
    const pauses = server.connectedAt.slice(1).map((at, index) => at - (server.connectedAt[index] ?? 0));
    expect(pauses.length).toBeGreaterThan(0);
    expect(Math.min(...pauses)).toBeGreaterThan(190);
  });

  it('can be closed at any time, which ends the waiting', async () => {
    const server = await serve(() => undefined);
    const client = connect(server.endpoint);
    await client.ready();
    const waiting = client.transact([]).catch((error: unknown) => String(error));
    await client.close();
    await client.close();
    expect(await waiting).toContain(`${server.endpoint}: closed`);
    await expect(client.ready(50)).rejects.toThrow('closed');

    const early = connect(server.endpoint);
    await early.close();
    expect(() => early.rows('Port')).toThrow(OvsdbConnectionError);
  });

  it('does not begin with an endpoint that makes no sense', () => {
    expect(() => openOvsdb('6640', {})).toThrow('"6640" is not an endpoint');
    expect(() => openOvsdb('6640', {})).toThrow(EndpointError);
    expect(() => openOvsdb('ssl:a:1', {})).toThrow('needs a client certificate');
  });
});
