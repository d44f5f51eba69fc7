import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { ConsulError, ConsulUnavailableError, connectConsul } from '../../drivers/consul/index.js';
import type { ConsulOptions, KeyValueStore, TxnOperation } from '../../drivers/consul/index.js';
import { startConsul, startConsulCluster } from '../support/consul.js';
import type { ConsulCluster, ConsulServer } from '../support/consul.js';

let server: ConsulServer;
/** Keeps its data over a restart. */
let durable: ConsulServer;
let cluster: ConsulCluster;
const open = new Set<KeyValueStore>();

function connect(url = server.url, options: ConsulOptions = {}): KeyValueStore {
  const store = connectConsul(url, options);
  open.add(store);
  return store;
}

async function eventually(reason: string, holds: () => unknown, timeoutMs = 15_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`not within ${timeoutMs} ms: ${reason}`);
    await sleep(10);
  }
}

const create = (key: string, value = 'v'): TxnOperation => ({ verb: 'cas', key, value, index: 0 });

beforeAll(async () => {
  // Together: most of their start is waiting for an election.
  [server, durable, cluster] = await Promise.all([startConsul(), startConsul({ dev: false }), startConsulCluster()]);
});

afterEach(async () => {
  await Promise.all([...open].map((store) => store.close()));
  open.clear();
});

afterAll(async () => {
  await Promise.all([server, durable, cluster].map((each) => each.stop()));
});

describe('transact', () => {
  interface Case {
    readonly reason: string;
    /** What `k` holds before; its index stands for 'current' in the operations. */
    readonly before?: string;
    readonly operations: (current: number) => readonly TxnOperation[];
    readonly failed?: readonly number[];
    readonly after: Readonly<Record<string, string>>;
  }
  const key = (name: string) => `case/${name}`;
  const k = key('k');
  const other = create(key('other'));

  const cases: readonly Case[] = [
    {
      reason: 'a cas with index 0 creates',
      operations: () => [create(k, 'mine')],
      after: { [k]: 'mine' },
    },
    {
      reason: 'a cas with index 0 loses to an existing key',
      before: 'theirs',
      operations: () => [create(k, 'mine')],
      failed: [0],
      after: { [k]: 'theirs' },
    },
    {
      reason: 'a cas with the current index replaces',
      before: 'old',
      operations: (index) => [{ verb: 'cas', key: k, value: 'new', index }],
      after: { [k]: 'new' },
    },
    {
      reason: 'a cas with another index loses',
      before: 'old',
      operations: (index) => [{ verb: 'cas', key: k, value: 'new', index: index - 1 }],
      failed: [0],
      after: { [k]: 'old' },
    },
    {
      reason: 'a set replaces whatever is there',
      before: 'old',
      operations: () => [{ verb: 'set', key: k, value: 'new' }],
      after: { [k]: 'new' },
    },
    {
      reason: 'delete-cas with the current index deletes',
      before: 'old',
      operations: (index) => [{ verb: 'delete-cas', key: k, index }],
      after: {},
    },
    {
      reason: 'delete-cas with another index loses, so that nobody frees what was given away again',
      before: 'old',
      operations: (index) => [{ verb: 'delete-cas', key: k, index: index + 1 }],
      failed: [0],
      after: { [k]: 'old' },
    },
    {
      reason: 'deleting what is absent succeeds',
      operations: () => [{ verb: 'delete', key: k }],
      after: {},
    },
    {
      reason: 'check-index lets the others pass while the key is as it was',
      before: 'old',
      operations: (index) => [{ verb: 'check-index', key: k, index }, other],
      after: { [k]: 'old', [key('other')]: 'v' },
    },
    {
      reason: 'check-index stops the others when the key has changed',
      before: 'old',
      operations: (index) => [other, { verb: 'check-index', key: k, index: index + 1 }],
      failed: [1],
      after: { [k]: 'old' },
    },
    {
      reason: 'check-not-exists lets the others pass while the key is absent',
      operations: () => [{ verb: 'check-not-exists', key: k }, other],
      after: { [key('other')]: 'v' },
    },
    {
      reason: 'check-not-exists stops the others when the key is there',
      before: 'old',
      operations: () => [other, { verb: 'check-not-exists', key: k }],
      failed: [1],
      after: { [k]: 'old' },
    },
    {
      reason: 'every failed operation is named, and none of the rest happens',
      before: 'old',
      operations: (index) => [
        other,
        create(k),
        { verb: 'delete-cas', key: k, index: index + 1 },
        { verb: 'set', key: key('third'), value: 'x' },
      ],
      failed: [1, 2],
      after: { [k]: 'old' },
    },
    {
      reason: 'values are text of any kind',
      operations: () => [create(k, '{"ü":"日本 😀\\n\u0000"}'), create(key('empty'), '')],
      after: { [k]: '{"ü":"日本 😀\\n\u0000"}', [key('empty')]: '' },
    },
    { reason: 'no operations are no work', operations: () => [], after: {} },
  ];

  it.each(cases)('$reason', async ({ before, operations, failed, after }) => {
    const store = connect();
    await clear(store, 'case/');
    if (before !== undefined) await store.transact([create(k, before)]);
    const current = (await store.get(k))?.index ?? 0;

    const result = await store.transact(operations(current));

    const entries = await store.list('case/');
    expect(Object.fromEntries(entries.map((entry) => [entry.key, entry.value]))).toEqual(after);
    if (result.ok) {
      expect(failed).toBeUndefined();
      const all = new Map(entries.map((entry) => [entry.key, entry.index]));
      for (const [written, index] of result.indexes) expect(all.get(written)).toBe(index);
      const writes = operations(current).filter(({ verb }) => verb === 'cas' || verb === 'set');
      expect([...result.indexes.keys()].sort()).toEqual(writes.map((operation) => operation.key).sort());
    } else {
      expect(result.failed.map(({ operation }) => operation)).toEqual(failed);
      for (const { message } of result.failed) expect(message).not.toBe('');
    }
  });

  it('takes 128 operations, and names the limit for 129', async () => {
    const store = connect();
    const operations = Array.from({ length: 129 }, (_, i) => create(`limit/${String(i).padStart(3, '0')}`, String(i)));
    await expect(store.transact(operations)).rejects.toThrow(
      expect.objectContaining({ code: 'CONSUL_LIMIT', message: expect.stringContaining('128') }),
    );
    expect(await store.list('limit/')).toEqual([]);
    expect((await store.transact(operations.slice(0, 128))).ok).toBe(true);
    expect((await store.list('limit/')).map(({ value }) => Number(value))).toEqual([...Array(128).keys()]);
  });

  it('has exactly one winner for each of 100 keys that 200 claim at once', async () => {
    const stores = [connect(), connect()];
    const claims = await Promise.all(
      Array.from({ length: 200 }, async (_, i) => {
        const store = stores[i % 2] ?? connect();
        const name = `claim/${Math.floor(i / 2)}`;
        const claimed = await store.transact([create(name, `claimant ${i}`), create(`claimed-by/${i}`, name)]);
        return claimed.ok ? [[name, `claimant ${i}`] as const] : [];
      }),
    );
    const winners = claims.flat();
    expect(winners).toHaveLength(100);
    const kept = await connect().list('claim/');
    expect(Object.fromEntries(kept.map(({ key: name, value }) => [name, value]))).toEqual(Object.fromEntries(winners));
    expect(await connect().list('claimed-by/')).toHaveLength(100);
  });
});

describe('get and list', () => {
  it('finds keys of any text, in key order, and only those below the prefix', async () => {
    const store = connect();
    const keys = ['read/a b?c=d&e#f%2F', 'read/ä/日本', 'read/z'];
    await store.transact([...keys, 'readx', 'rea'].map((key) => create(key, key)));
    expect((await store.list('read/')).map(({ key }) => key)).toEqual([keys[0], keys[2], keys[1]]);
    for (const key of keys) expect(await store.get(key)).toMatchObject({ key, value: key });
    expect(await store.get('read/none')).toBeUndefined();
    expect(await store.list('none/')).toEqual([]);
  });

  it('says that the store is closed, and sends nothing', async () => {
    const store = connect();
    await store.close();
    await expect(store.transact([create('closed')])).rejects.toThrow(
      expect.objectContaining({ code: 'CONSUL_CLOSED' }),
    );
    expect(() => store.watch('closed')).toThrow(ConsulError);
    expect(await connect().get('closed')).toBeUndefined();
  });
});

describe('watch', () => {
  it('sees what is there, what comes, what changes and what goes', async () => {
    const theirs = connect();
    await theirs.transact([create('seen/a', '1'), create('seen/b', '1'), create('unseen/a', '1')]);
    const view = connect().watch('seen/');
    const changes: string[] = [];
    view.changes.subscribe((keys) => changes.push(...keys));
    expect(view.current).toBe(false);
    await view.ready();
    expect(view.current).toBe(true);
    expect([...view.entries()].map(({ key, value }) => `${key}=${value}`).sort()).toEqual(['seen/a=1', 'seen/b=1']);
    expect(changes.splice(0).sort()).toEqual(['seen/a', 'seen/b']);

    const steps: readonly { reason: string; operation: TxnOperation; value: string | undefined }[] = [
      { reason: 'a new key', operation: create('seen/c', '1'), value: '1' },
      { reason: 'a changed key', operation: { verb: 'set', key: 'seen/a', value: '2' }, value: '2' },
      { reason: 'a deleted key', operation: { verb: 'delete', key: 'seen/b' }, value: undefined },
    ];
    for (const { reason, operation, value } of steps) {
      await theirs.transact([operation]);
      await eventually(reason, () => view.get(operation.key)?.value === value);
      expect(changes.splice(0)).toEqual([operation.key]);
      expect(view.get(operation.key)).toEqual(await theirs.get(operation.key));
    }
    await theirs.transact([create('unseen/b')]);
    expect(view.get('unseen/b')).toBeUndefined();
  });

  it("shows the store's own transactions before the call returns, and each change once", async () => {
    const store = connect();
    const view = store.watch('own/');
    const other = store.watch('elsewhere/');
    await Promise.all([view.ready(), other.ready()]);
    const changes: string[] = [];
    view.changes.subscribe((keys) => changes.push(...keys));
    for (let i = 0; i < 50; i++) {
      const key = `own/${i}`;
      const created = await store.transact([create(key, 'first'), create(`elsewhere/${i}`)]);
      const index = created.ok ? (created.indexes.get(key) ?? 0) : 0;
      expect(view.get(key)).toEqual({ key, value: 'first', index });
      expect(other.get(`elsewhere/${i}`)?.index).toBe(index);
      await store.transact([{ verb: 'cas', key, value: 'second', index }]);
      expect(view.get(key)?.value).toBe('second');
      if (i % 2 === 0) {
        await store.transact([{ verb: 'delete-cas', key, index: view.get(key)?.index ?? 0 }]);
        expect(view.get(key)).toBeUndefined();
      }
    }
    await eventually('settled', async () => (await store.list('own/')).length === [...view.entries()].length);
    await sleep(100);
    expect([...view.entries()].sort((a, b) => (a.key < b.key ? -1 : 1))).toEqual(await store.list('own/'));
    expect(changes).toHaveLength(50 + 50 + 25);
  });

  it('follows a plain delete of its own that someone else undoes', async () => {
    const [ours, theirs] = [connect(), connect()];
    const view = ours.watch('undone/');
    await view.ready();
    for (let i = 0; i < 20; i++) {
      await ours.transact([create('undone/k', String(i))]);
      await Promise.all([ours.transact([{ verb: 'delete', key: 'undone/k' }]), retryCreate(theirs, 'undone/k')]);
      const kept = await theirs.get('undone/k');
      await eventually('the other one’s key shows', () => view.get('undone/k')?.index === kept?.index, 2000);
      await theirs.transact([{ verb: 'delete', key: 'undone/k' }]);
      await eventually('the key goes', () => view.get('undone/k') === undefined, 2000);
    }
  });

  const restarts = [
    { reason: 'the same data after a restart', durably: true, expected: ['kept/a', 'kept/b'] },
    { reason: 'an emptied server, whose index begins anew', durably: false, expected: ['kept/b'] },
  ];
  it.each(restarts)('comes back with $reason', async ({ durably, expected }) => {
    const own = durably ? durable : await startConsul();
    try {
      const store = connect(own.url);
      const view = store.watch('kept/');
      await view.ready();
      for (let i = 0; i < 20; i++) await store.transact([{ verb: 'set', key: 'kept/a', value: String(i) }]);
      await own.kill();
      await eventually('away', () => !view.current);
      expect(view.get('kept/a')?.value).toBe('19');
      await own.start();
      await eventually('back', () => view.current);
      await connect(own.url).transact([create('kept/b')]);
      await eventually('new writes show', () => view.get('kept/b') !== undefined);
      expect([...view.entries()].map(({ key }) => key).sort()).toEqual(expected);
    } finally {
      await own.stop();
    }
  });

  it('notices by its store’s other calls that a connection leads nowhere', async () => {
    const own = await startConsul();
    try {
      const store = connect(own.url, { timeoutMs: 200 });
      const view = store.watch('frozen/');
      await view.ready();
      await own.pause();
      await expect(store.get('frozen/a')).rejects.toThrow(ConsulUnavailableError);
      expect(view.current).toBe(false);
      own.resume();
      await eventually('back', () => view.current);
    } finally {
      await own.stop();
    }
  });

  it('says when it could not be read in time, and when it was closed', async () => {
    const view = connect(`http://127.0.0.1:${await closedPort()}`).watch('x/');
    await expect(view.ready(100)).rejects.toThrow(ConsulUnavailableError);
    const waiting = view.ready();
    view.close();
    await expect(waiting).rejects.toThrow(ConsulError);
    await expect(view.ready()).rejects.toThrow(ConsulError);
  });
});

describe('Consul away', () => {
  const calls: readonly { reason: string; call: (store: KeyValueStore) => Promise<unknown> }[] = [
    { reason: 'get', call: (store) => store.get('a') },
    { reason: 'list', call: (store) => store.list('a') },
    { reason: 'transact', call: (store) => store.transact([create('a')]) },
    { reason: 'heartbeat', call: (store) => store.heartbeat('a', 'b', 10) },
  ];

  it.each(calls)('$reason fails as unavailable when the connection is refused', async ({ call }) => {
    const store = connect(`http://127.0.0.1:${await closedPort()}`);
    await expect(call(store)).rejects.toThrow(expect.objectContaining({ code: 'CONSUL_UNAVAILABLE' }));
  });

  it('every call fails as unavailable within its deadline when no answer comes', async () => {
    const own = await startConsul();
    try {
      const store = connect(own.url, { timeoutMs: 300 });
      await store.get('a');
      await own.pause();
      const start = performance.now();
      // More than there are connections: waiting for one counts too.
      const outcomes = await Promise.allSettled(
        Array.from({ length: 25 }, () => calls.map(({ call }) => call(store))).flat(),
      );
      for (const outcome of outcomes) {
        expect(outcome.status === 'rejected' && outcome.reason).toBeInstanceOf(ConsulUnavailableError);
      }
      expect(performance.now() - start).toBeLessThan(1000);
      own.resume();
      await expect(store.get('b')).resolves.toBeUndefined();
    } finally {
      await own.stop();
    }
  });

  it('closing ends what is under way', async () => {
    const own = await startConsul();
    try {
      const store = connect(own.url);
      await store.get('a');
      await own.pause();
      const call = store.get('a');
      const refused = expect(call).rejects.toThrow(ConsulUnavailableError);
      await sleep(20);
      await store.close();
      await refused;
    } finally {
      await own.stop();
    }
  });
});

describe('heartbeat', () => {
  it('keeps its key beyond the TTL, and takes it away when closed', async () => {
    const store = connect();
    const heartbeat = await store.heartbeat('beat/a', 'alive', 1);
    expect(await store.get('beat/a')).toMatchObject({ value: 'alive' });
    await sleep(2500);
    expect(await store.get('beat/a')).toMatchObject({ value: 'alive' });
    await heartbeat.close();
    expect(await store.get('beat/a')).toBeUndefined();
    expect(await sessions()).toEqual([]);
  });

  it('closes with its store', async () => {
    const store = connect();
    await store.heartbeat('beat/b', 'alive', 10);
    await store.close();
    expect(await connect().get('beat/b')).toBeUndefined();
  });

  it('returns after its session was invalidated, or its key deleted', async () => {
    const store = connect();
    await store.heartbeat('beat/c', 'alive', 1);
    const first = await store.get('beat/c');
    for (const id of await sessions()) await fetch(`${server.url}/v1/session/destroy/${id}`, { method: 'PUT' });
    await eventually('back with another session', async () => {
      const entry = await store.get('beat/c');
      return entry !== undefined && entry.index !== first?.index;
    });
    await store.transact([{ verb: 'delete', key: 'beat/c' }]);
    await eventually('back', async () => (await store.get('beat/c')) !== undefined);
  });

  it('vanishes when its process is killed, and a successor waits for that', async () => {
    const driver = join(import.meta.dirname, '../../drivers/consul/index.ts');
    const program = `
      import { connectConsul } from ${JSON.stringify(driver)};
      await connectConsul(${JSON.stringify(server.url)}).heartbeat('beat/d', 'first', 1);
      setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', program], {
      stdio: 'inherit',
    });
    const exited = once(child, 'exit');
    const store = connect();
    try {
      await eventually('the first beats', async () => (await store.get('beat/d'))?.value === 'first');
    } finally {
      child.kill('SIGKILL');
      await exited;
    }
    await store.heartbeat('beat/d', 'second', 1);
    expect(await store.get('beat/d')).toMatchObject({ value: 'first' });
    await eventually('the second beats', async () => (await store.get('beat/d'))?.value === 'second');
  });

  async function sessions(): Promise<string[]> {
    const list: unknown = await (await fetch(`${server.url}/v1/session/list`)).json();
    return Array.isArray(list) ? list.map((session: { ID: string }) => session.ID) : [];
  }
});

describe('a cluster whose leader is killed under load', () => {
  it('doubles nothing and loses nothing that was acknowledged', async () => {
    const leader = await cluster.leader();
    const survivors = cluster.servers.filter((each) => each !== leader);
    const acknowledged = new Map<string, string[]>();
    const stores = cluster.servers.map((each) => connect(each.url, { timeoutMs: 2000 }));
    const view = connect(survivors[0]?.url).watch('lost/');
    await view.ready();
    let unavailable = 0;
    let next = 0;
    let stopped = false;

    // Every key is claimed by two at once; an unknown outcome is never counted as a win.
    const work = async (worker: number) => {
      while (!stopped) {
        const key = `lost/${Math.floor(next++ / 2)}`;
        const store = stores[next % stores.length];
        try {
          const result = await store?.transact([create(key, `worker ${worker}`)]);
          if (result?.ok === true) acknowledged.set(key, [...(acknowledged.get(key) ?? []), `worker ${worker}`]);
        } catch (error) {
          expect(error).toBeInstanceOf(ConsulUnavailableError);
          unavailable++;
          await sleep(20);
        }
      }
    };
    const working = Promise.all(Array.from({ length: 8 }, (_, worker) => work(worker)));
    await sleep(300);
    const before = acknowledged.size;
    await leader.kill();
    const successor = await cluster.leader();
    const during = acknowledged.size;
    await eventually('work goes on', () => acknowledged.size > during + 200);
    stopped = true;
    await working;

    expect(successor).not.toBe(leader);
    expect(before).toBeGreaterThan(0);
    expect(unavailable).toBeGreaterThan(0);
    const reader = connect(successor.url);
    // A write whose outcome is unknown may still happen after its call has failed.
    await eventually('the view has all', async () => {
      const shown = [...view.entries()].sort((a, b) => (a.key < b.key ? -1 : 1));
      return view.current && isDeepStrictEqual(shown, await reader.list('lost/'));
    });
    const kept = new Map((await reader.list('lost/')).map(({ key, value }) => [key, value]));
    for (const [key, workers] of acknowledged) expect([key, [kept.get(key)]]).toEqual([key, workers]);
  });
});

async function clear(store: KeyValueStore, prefix: string): Promise<void> {
  const entries = await store.list(prefix);
  await store.transact(entries.map(({ key }) => ({ verb: 'delete', key })));
}

async function retryCreate(store: KeyValueStore, key: string): Promise<void> {
  while (!(await store.transact([create(key, 'theirs')])).ok);
}

/** A port that nothing listens on. */
async function closedPort(): Promise<number> {
  const holder = createServer().listen(0, '127.0.0.1');
  await once(holder, 'listening');
  const address = holder.address();
  await once(holder.close(), 'close');
  return typeof address === 'object' && address !== null ? address.port : 0;
}
