import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { filter, firstValueFrom } from 'rxjs';
import {
  map,
  namedUuid,
  openOvsdb,
  type Operation,
  type Ovsdb,
  OvsdbConnectionError,
  OvsdbError,
  type OvsdbOptions,
  OvsdbTimeoutError,
  type RowChange,
  set,
  uuidRef,
} from '../../drivers/ovsdb/index.js';
import { freePort, loadIdentity, makePki, OpenVSwitch, type Pki } from '../support/openvswitch.js';

const MONITORED = {
  Bridge: ['name', 'ports', 'fail_mode', 'datapath_type', 'external_ids'],
  Port: ['name', 'interfaces', 'tag', 'trunks', 'external_ids'],
  Interface: ['name', 'type', 'ofport', 'external_ids'],
};

const clients: Ovsdb[] = [];

function connect(endpoint: string, options?: OvsdbOptions): Ovsdb {
  const ovsdb = openOvsdb(endpoint, MONITORED, options);
  clients.push(ovsdb);
  return ovsdb;
}

async function connected(endpoint: string, options?: OvsdbOptions): Promise<Ovsdb> {
  const ovsdb = connect(endpoint, options);
  await ovsdb.ready();
  return ovsdb;
}

afterEach(async () => {
  await Promise.all(clients.splice(0).map((ovsdb) => ovsdb.close()));
});

const byName = (ovsdb: Ovsdb, table: string, name: string) => {
  const entry = [...ovsdb.rows(table)].find(([, row]) => row['name'] === name);
  if (entry === undefined) throw new Error(`no ${table} named ${name}`);
  return { uuid: entry[0], row: entry[1] };
};

const setIds = (port: string, ids: Record<string, string>): Operation => ({
  op: 'update',
  table: 'Port',
  where: [['name', '==', port]],
  row: { external_ids: map(ids) },
});

const addPort = (bridge: string, name: string): Operation[] => [
  { op: 'insert', table: 'Interface', 'uuid-name': 'i', row: { name, type: 'dummy' } },
  { op: 'insert', table: 'Port', 'uuid-name': 'p', row: { name, interfaces: set([namedUuid('i')]), tag: 100 } },
  { op: 'mutate', table: 'Bridge', where: [['name', '==', bridge]], mutations: [['ports', 'insert', namedUuid('p')]] },
];

describe('a client of ovsdb-server', () => {
  let ovs: OpenVSwitch;

  beforeAll(async () => {
    ovs = await OpenVSwitch.start();
    await ovs.addBridge('br0');
    await ovs.addPort('br0', 'p1', 1);
  });

  afterAll(() => ovs.stop());

  it('has the whole replica when it is ready', async () => {
    const ovsdb = await connected(ovs.ovsdbTcp);
    const { row } = byName(ovsdb, 'Bridge', 'br0');
    expect(row).toEqual({
      name: 'br0',
      ports: ['br0', 'p1']
        .map((name) => ({ uuid: byName(ovsdb, 'Port', name).uuid }))
        .sort((a, b) => (a.uuid < b.uuid ? -1 : 1)),
      fail_mode: ['secure'],
      datapath_type: 'dummy',
      external_ids: new Map(),
    });
    expect(byName(ovsdb, 'Interface', 'p1').row['ofport']).toEqual([1]);
    expect(() => ovsdb.rows('Controller')).toThrow(RangeError);
  });

  it('has seen the updates of a transaction when the transaction resolves', async () => {
    const ovsdb = await connected(ovs.ovsdbUnix);
    const seen = firstValueFrom(ovsdb.changes.pipe(filter(({ table }) => table === 'Port')));
    const results = await ovsdb.transact(addPort('br0', 'p2'));
    const { uuid, row } = byName(ovsdb, 'Port', 'p2');
    expect(results).toEqual([{ uuid: ['uuid', expect.any(String)] }, { uuid: ['uuid', uuid] }, { count: 1 }]);
    expect(row['tag']).toEqual([100]);
    expect(await seen).toEqual({ table: 'Port', uuid, new: row });

    await ovsdb.transact([setIds('p2', { a: '1', b: '2' })]);
    // vswitchd still writes what it makes of the new port's interface.
    const changed = firstValueFrom(ovsdb.changes.pipe(filter((change) => change.uuid === uuid)));
    await ovsdb.transact([
      {
        op: 'mutate',
        table: 'Port',
        where: [['_uuid', '==', uuidRef(uuid)]],
        mutations: [['external_ids', 'delete', set(['a'])]],
      },
      { op: 'update', table: 'Port', where: [['_uuid', '==', uuidRef(uuid)]], row: { trunks: set([5, 7]) } },
      {
        op: 'mutate',
        table: 'Port',
        where: [['_uuid', '==', uuidRef(uuid)]],
        mutations: [['external_ids', 'insert', map({ c: '3' })]],
      },
    ]);
    const after = byName(ovsdb, 'Port', 'p2').row;
    expect(after['external_ids']).toEqual(new Map([['b', '2'], ['c', '3']])); // prettier-ignore
    expect(after['trunks']).toEqual([5, 7]);
    expect((await changed).old?.['external_ids']).toEqual(new Map([['a', '1'], ['b', '2']])); // prettier-ignore

    await ovsdb.transact([
      { op: 'update', table: 'Port', where: [['name', '==', 'p2']], row: { trunks: set([7, 9]), tag: set([]) } },
    ]);
    expect([...(byName(ovsdb, 'Port', 'p2').row['trunks'] as number[])].sort()).toEqual([7, 9]);
    expect(byName(ovsdb, 'Port', 'p2').row['tag']).toEqual([]);

    const gone = firstValueFrom(ovsdb.changes.pipe(filter(({ table }) => table === 'Port')));
    await ovsdb.transact([
      {
        op: 'mutate',
        table: 'Bridge',
        where: [['name', '==', 'br0']],
        mutations: [['ports', 'delete', uuidRef(uuid)]],
      },
    ]);
    expect(ovsdb.rows('Port').has(uuid)).toBe(false);
    expect(await gone).toMatchObject({ table: 'Port', uuid, old: { name: 'p2' } });
  });

  it("sees what others write, down to the switch's own columns", async () => {
    const ovsdb = await connected(ovs.ovsdbTcp);
    const numbered = firstValueFrom(
      ovsdb.changes.pipe(
        filter(
          (change) =>
            change.new?.['name'] === 'p3' &&
            change.table === 'Interface' &&
            JSON.stringify(change.new['ofport']) === '[33]',
        ),
      ),
    );
    await ovs.addPort('br0', 'p3', 33);
    expect((await numbered).new?.['type']).toBe('dummy');
  });

  const refused: { reason: string; operations: Operation[]; error: string; index: number }[] = [
    {
      reason: 'an operation that the schema forbids is named by its index',
      operations: [setIds('p1', { x: '1' }), { op: 'insert', table: 'Bridge', row: { nonsense: 1 } }, setIds('p1', {})],
      error: 'unknown column',
      index: 1,
    },
    {
      reason: 'a constraint is checked at the commit, after the last operation',
      operations: [
        setIds('p1', { x: '1' }),
        {
          op: 'mutate',
          table: 'Bridge',
          where: [['name', '==', 'br0']],
          mutations: [['ports', 'insert', uuidRef('00000000-0000-0000-0000-00000000dead')]],
        },
      ],
      error: 'referential integrity violation',
      index: 2,
    },
    {
      reason: 'a wait whose condition does not hold ends the transaction',
      operations: [
        {
          op: 'wait',
          table: 'Port',
          where: [['name', '==', 'p1']],
          columns: ['tag'],
          until: '==',
          rows: [{ tag: 4000 }],
          timeout: 0,
        },
        setIds('p1', { x: '1' }),
      ],
      error: 'timed out',
      index: 0,
    },
    {
      reason: 'an abort is an error like any other',
      operations: [setIds('p1', { x: '1' }), { op: 'abort' }],
      error: 'aborted',
      index: 1,
    },
  ];

  it.each(refused)('$reason, and nothing is changed', async ({ operations, error, index }) => {
    const ovsdb = await connected(ovs.ovsdbTcp);
    const failure: unknown = await ovsdb.transact(operations).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(OvsdbError);
    expect(failure).toMatchObject({ error, index });
    expect(byName(ovsdb, 'Port', 'p1').row['external_ids']).toEqual(new Map());
  });

  it('goes on after a wait whose condition holds', async () => {
    const ovsdb = await connected(ovs.ovsdbTcp);
    const wait = {
      op: 'wait',
      table: 'Port',
      where: [['name', '==', 'p1']],
      columns: ['name'],
      until: '==',
      rows: [{ name: 'p1' }],
      timeout: 0,
    };
    await ovsdb.transact([wait, setIds('p1', { x: '1' })]);
    expect(byName(ovsdb, 'Port', 'p1').row['external_ids']).toEqual(new Map([['x', '1']]));
    await ovsdb.transact([setIds('p1', {})]);
  });

  it('cancels a transaction that nobody waits for any more', async () => {
    const ovsdb = await connected(ovs.ovsdbTcp);
    const wait = {
      op: 'wait',
      table: 'Port',
      where: [['name', '==', 'p1']],
      columns: ['external_ids'],
      until: '==',
      rows: [{ external_ids: map({ go: '1' }) }],
    };
    await expect(ovsdb.transact([wait, setIds('p1', { went: '1' })], 100)).rejects.toBeInstanceOf(OvsdbTimeoutError);
    await ovsdb.transact([setIds('p1', { go: '1' })]);
    await ovsdb.transact([{ op: 'comment', comment: 'a round trip later' }]);
    expect(byName(ovsdb, 'Port', 'p1').row['external_ids']).toEqual(new Map([['go', '1']]));
    await ovsdb.transact([setIds('p1', {})]);
  });

  it('runs 100 transactions at once, each with its own result', async () => {
    const ovsdb = await connected(ovs.ovsdbTcp);
    const insert = (n: number): Operation => ({
      op: 'mutate',
      table: 'Port',
      where: [['name', '==', 'p1']],
      mutations: [['external_ids', 'insert', map({ [`k${n}`]: `${n}` })]],
    });
    const select: Operation = { op: 'select', table: 'Port', where: [['name', '==', 'p1']], columns: ['external_ids'] };
    const results = await Promise.all(Array.from({ length: 100 }, (_, n) => ovsdb.transact([insert(n), select])));
    results.forEach(([, selected], n) => expect(JSON.stringify(selected)).toContain(`["k${n}","${n}"]`));
    expect(byName(ovsdb, 'Port', 'p1').row['external_ids']).toEqual(
      new Map(Array.from({ length: 100 }, (_, n) => [`k${n}`, `${n}`])),
    );
    await ovsdb.transact([setIds('p1', {})]);
  });

  it('reads the replica anew after a restart of the server, and reports just what differs', async () => {
    const ovsdb = await connected(ovs.ovsdbTcp);
    const changes: RowChange[] = [];
    ovsdb.changes.subscribe((change) => changes.push(change));
    const states: boolean[] = [];
    ovsdb.state.subscribe(({ connected }) => states.push(connected));
    await ovs.stopVswitchd();
    await ovs.stopOvsdbServer();
    await firstValueFrom(ovsdb.state.pipe(filter((state) => !state.connected)));
    expect(() => ovsdb.rows('Port')).toThrow(OvsdbConnectionError);
    await expect(ovsdb.transact([setIds('p1', {})])).rejects.toBeInstanceOf(OvsdbConnectionError);
    changes.length = 0;

    await ovs.startOvsdbServer();
    await ovs.vsctl('--no-wait', 'set', 'Port', 'p1', 'external_ids:while=away');
    await ovsdb.ready();
    await ovsdb.transact([setIds('p3', { after: 'it' })]);
    await ovs.startVswitchd();
    expect([states.at(0), states.at(1), states.at(-1)]).toEqual([true, false, true]);
    const ports = changes.filter(({ table }) => table === 'Port').map((change) => change.new?.['external_ids']);
    expect(ports).toEqual([new Map([['while', 'away']]), new Map([['after', 'it']])]);
    expect(changes.every((change) => change.old !== undefined && change.new !== undefined)).toBe(true);
    await ovsdb.transact([setIds('p1', {})]);
  });

  it('says who refused when nothing listens', async () => {
    const endpoint = `tcp:127.0.0.1:${await freePort()}`;
    const error: unknown = await connect(endpoint)
      .ready(300)
      .catch((error: unknown) => error);
    expect(error).toBeInstanceOf(OvsdbConnectionError);
    expect(String(error)).toContain(`${endpoint}: connection refused`);
  });
});

describe('a client of ovsdb-server over TLS', () => {
  let dir: string;
  let pki: Pki;
  let ovs: OpenVSwitch;
  let misnamed: OpenVSwitch;

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'pki-'));
    pki = await makePki(dir);
    ovs = await OpenVSwitch.start({ identity: pki.server });
    misnamed = await OpenVSwitch.start({ identity: pki.misnamedServer });
  });

  afterAll(async () => {
    await Promise.all([ovs.stop(), misnamed.stop()]);
    await rm(dir, { recursive: true });
  });

  it('works with the right certificates', async () => {
    const ovsdb = await connected(ovs.ovsdbSsl, { tls: await loadIdentity(pki.client) });
    expect(
      await ovsdb.transact([{ op: 'select', table: 'Open_vSwitch', where: [], columns: ['next_cfg'] }]),
    ).toHaveLength(1);
  });

  const refused: {
    reason: string;
    server: () => OpenVSwitch;
    identity: () => Parameters<typeof loadIdentity>[0];
    message: RegExp;
  }[] = [
    {
      reason: 'a server of an unknown CA is not talked to',
      server: () => ovs,
      identity: () => ({ ...pki.client, ca: pki.strangerClient.cert }),
      message: /unknown CA/,
    },
    {
      reason: "a server with another host's certificate is not talked to",
      server: () => misnamed,
      identity: () => pki.client,
      message: /names another host/,
    },
    {
      reason: 'a server that does not know our CA says so',
      server: () => ovs,
      identity: () => pki.strangerClient,
      message: /the server refused our certificate/,
    },
  ];

  it.each(refused)('$reason', async ({ server, identity, message }) => {
    const endpoint = server().ovsdbSsl;
    const error: unknown = await connect(endpoint, { tls: await loadIdentity(identity()) })
      .ready(500)
      .catch((error: unknown) => error);
    expect(error).toBeInstanceOf(OvsdbConnectionError);
    expect(String(error)).toContain(endpoint);
    expect(String(error)).toMatch(message);
  });
});
