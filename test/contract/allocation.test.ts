import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectConsul, ConsulUnavailableError, type KeyValueStore } from '../../drivers/consul/index.js';
import { Allocator, federatedUid, uidAnnotation, type Grant } from '../../reconcilers/common/allocation.js';
import { Directory } from '../../reconcilers/common/directory.js';
import { domainUuid, hint, networkUuid } from '../../reconcilers/common/identity.js';
import { pickFree } from '../../reconcilers/common/ip.js';
import { keys, prefixes, serialise, type NetworkRecord, type VmRecord } from '../../reconcilers/common/records.js';
import { startConsul, type ConsulServer } from '../support/consul.js';

let server: ConsulServer;
const stores: KeyValueStore[] = [];
const opened: { close(): void }[] = [];

function connect(): KeyValueStore {
  const store = connectConsul(server.url);
  stores.push(store);
  return store;
}

async function allocatorOf(store: KeyValueStore): Promise<Allocator> {
  const allocator = new Allocator(store);
  opened.push(allocator);
  await allocator.ready();
  return allocator;
}

beforeAll(async () => {
  server = await startConsul();
});
beforeEach(async () => {
  const store = connect();
  const entries = await store.list(prefixes.all);
  for (let i = 0; i < entries.length; i += 100)
    await store.transact(entries.slice(i, i + 100).map(({ key }) => ({ verb: 'delete', key })));
});
afterEach(async () => {
  for (const each of opened.splice(0)) each.close();
  await Promise.all(stores.splice(0).map((store) => store.close()));
});
afterAll(() => server.stop());

const object = (name: string) => ({ kind: 'FederatedNetwork', namespace: 'acme', name });
const range = { first: 100, last: 299 };

/** One VLAN of the range, or the pinned one, and a record that says which. */
const vlanGrant =
  (view: Pick<Allocator, 'isTaken'>, fuid: string, pin?: number) =>
  (lost: ReadonlySet<string>): Grant => {
    const taken = (id: number): boolean => lost.has(keys.vlan(id)) || view.isTaken(keys.vlan(id));
    const vlan = pin ?? pickFree(range, taken, hint(fuid));
    if (vlan === undefined) throw new Error('exhausted');
    return {
      claims: [{ what: `VLAN ${vlan}`, field: 'spec.vlanId', key: keys.vlan(vlan), pinned: pin !== undefined }],
      records: { [keys.network(fuid)]: { vlan } },
    };
  };

const held = async (store: KeyValueStore, prefix: string): Promise<Map<string, string>> =>
  new Map((await store.list(prefix)).map(({ key, value }) => [key, value]));

async function eventually(reason: string, holds: () => unknown): Promise<void> {
  for (let tries = 0; !holds(); tries++) {
    if (tries > 500) throw new Error(`not within 5 s: ${reason}`);
    await sleep(10);
  }
}

describe('the allocator', () => {
  it('gives 200 owners who ask at 4 operators at once one value each, the last one too', async () => {
    const operators = await Promise.all(
      Array.from({ length: 4 }, async () => {
        const store = connect();
        return { store, allocator: await allocatorOf(store) };
      }),
    );
    const owners = Array.from({ length: 200 }, () => randomUUID());
    const retry = async (call: () => Promise<boolean>): Promise<boolean> => {
      for (;;)
        try {
          return await call();
        } catch (error) {
          // Contended: as a reconcile does, once more.
          if (!(error instanceof Error) || !('reason' in error) || error.reason !== 'AllocationContended') throw error;
        }
    };
    const results = await Promise.all(
      owners.map((fuid, index) => {
        const operator = operators[index % operators.length];
        if (!operator) throw new Error('there are four');
        const { allocator } = operator;
        return retry(() => allocator.grant(fuid, object(`n${index}`), vlanGrant(allocator, fuid)));
      }),
    );
    expect(new Set(results)).toEqual(new Set([true]));
    const store = connect();
    const vlans = await held(store, prefixes.vlan);
    // 200 values for 200 owners: each one is given, to one owner, who knows of it.
    expect(vlans.size).toBe(200);
    expect(new Set(vlans.values())).toEqual(new Set(owners));
    for (const [key, fuid] of vlans) {
      const record = await store.get(keys.network(fuid));
      expect(keys.vlan(Number(/\d+/.exec(record?.value ?? '')?.[0]))).toBe(key);
    }
    expect((await held(store, prefixes.owner)).size).toBe(200);
  });

  it('releases exactly what an owner holds, and nothing that has gone to another since', async () => {
    const store = connect();
    const allocator = await allocatorOf(store);
    const [mine, theirs] = [randomUUID(), randomUUID()];
    await allocator.grant(theirs, object('theirs'), vlanGrant(allocator, theirs, 150));
    const before = await held(store, prefixes.all);
    await allocator.grant(mine, object('mine'), vlanGrant(allocator, mine, 151));
    // Somebody repaired the store by hand and gave the value away.
    await store.transact([{ verb: 'set', key: keys.vlan(151), value: theirs }]);
    await allocator.release(mine);
    expect(await held(store, prefixes.all)).toEqual(new Map([...before, [keys.vlan(151), theirs]]));
  });

  it('leaves nothing behind when an owner releases, and may be told so twice', async () => {
    const store = connect();
    const allocator = await allocatorOf(store);
    const fuid = randomUUID();
    await allocator.grant(fuid, object('blue'), vlanGrant(allocator, fuid, 150));
    await allocator.release(fuid);
    await allocator.release(fuid);
    expect(await held(store, prefixes.all)).toEqual(new Map());
    expect(allocator.isTaken(keys.vlan(150))).toBe(false);
  });

  it('gives a value away again once it is released, at any operator', async () => {
    const [here, there] = [await allocatorOf(connect()), await allocatorOf(connect())];
    const [first, second] = [randomUUID(), randomUUID()];
    await here.grant(first, object('first'), vlanGrant(here, first, 150));
    await here.release(first);
    expect(await there.grant(second, object('second'), vlanGrant(there, second, 150))).toBe(true);
    expect(await held(connect(), prefixes.vlan)).toEqual(new Map([[keys.vlan(150), second]]));
  });

  it('names who holds a pinned value, looks again later, and takes nothing meanwhile', async () => {
    const store = connect();
    const allocator = await allocatorOf(store);
    const [holder, late] = [randomUUID(), randomUUID()];
    await allocator.grant(holder, object('blue'), vlanGrant(allocator, holder, 150));
    const before = await held(store, prefixes.all);
    await expect(allocator.grant(late, object('green'), vlanGrant(allocator, late, 150))).rejects.toMatchObject({
      code: 'ISTHMUS_WAITING',
      reason: 'AlreadyTaken',
      message: expect.stringMatching(/^spec\.vlanId: VLAN 150 is held by FederatedNetwork acme\/blue;/),
    });
    expect(await held(store, prefixes.all)).toEqual(before);
  });

  it('names a holder that nobody registered by its uid', async () => {
    const store = connect();
    const allocator = await allocatorOf(store);
    const holder = randomUUID();
    await store.transact([{ verb: 'set', key: keys.vlan(150), value: holder }]);
    const late = randomUUID();
    await expect(allocator.grant(late, object('green'), vlanGrant(allocator, late, 150))).rejects.toThrow(holder);
  });

  it('goes on to another value where it lost one that its view showed as free', async () => {
    const store = connect();
    const allocator = await allocatorOf(store);
    const [won, fuid] = [randomUUID(), randomUUID()];
    const first = keys.vlan(pickFree(range, () => false, hint(fuid)) ?? 0);
    await store.transact([{ verb: 'set', key: first, value: won }]);
    // A view that is so far behind that it never shows it.
    const blind = vlanGrant({ isTaken: () => false }, fuid);
    expect(await allocator.grant(fuid, object('blue'), blind)).toBe(true);
    const vlans = await held(store, prefixes.vlan);
    expect(vlans.get(first)).toBe(won);
    expect([...vlans.values()].sort()).toEqual([won, fuid].sort());
  });

  it('gives nothing twice when the answer was lost and the owner asks again', async () => {
    const store = connect();
    let lose = true;
    const lossy: KeyValueStore = {
      ...delegate(store),
      transact: async (operations) => {
        const result = await store.transact(operations);
        if (!lose) return result;
        lose = false;
        throw new ConsulUnavailableError('the connection broke');
      },
    };
    const allocator = await allocatorOf(lossy);
    const fuid = randomUUID();
    const grant = () => allocator.grant(fuid, object('blue'), vlanGrant(allocator, fuid));
    await expect(grant()).rejects.toMatchObject({ code: 'ISTHMUS_TRANSIENT', reason: 'ConsulUnavailable' });
    expect(await grant()).toBe(false);
    expect([...(await held(store, prefixes.vlan)).values()]).toEqual([fuid]);
    await allocator.release(fuid);
    expect(await held(store, prefixes.all)).toEqual(new Map());
  });

  it('gives a pinned value to its owner again when the answer was lost, rather than refuse it to itself', async () => {
    const store = connect();
    const allocator = await allocatorOf(store);
    const fuid = randomUUID();
    const grant = () => allocator.grant(fuid, object('blue'), vlanGrant(allocator, fuid, 150));
    expect([await grant(), await grant()]).toEqual([true, false]);
  });

  it('grants nothing while Consul is away', async () => {
    const own = await startConsul();
    const store = connectConsul(own.url, { timeoutMs: 300 });
    stores.push(store);
    const allocator = await allocatorOf(store);
    const fuid = randomUUID();
    await own.kill();
    await expect(allocator.grant(fuid, object('blue'), vlanGrant(allocator, fuid))).rejects.toMatchObject({
      code: 'ISTHMUS_TRANSIENT',
      reason: 'ConsulUnavailable',
    });
    await own.stop();
  });
});

/** The store, by methods that can be replaced one by one. */
const delegate = (store: KeyValueStore): KeyValueStore => ({
  get: (key) => store.get(key),
  list: (prefix) => store.list(prefix),
  transact: (operations) => store.transact(operations),
  watch: (prefix) => store.watch(prefix),
  heartbeat: (key, value, ttlSeconds) => store.heartbeat(key, value, ttlSeconds),
  close: () => store.close(),
});

describe('the fuid of an object', () => {
  const uid = randomUUID();
  const origin = randomUUID();
  const replica = (annotations?: Record<string, string>) => ({
    kind: 'FederatedVM',
    metadata: { uid, namespace: 'acme', name: 'web-1', annotations },
  });
  const registered = { kind: 'FederatedVM', namespace: 'acme', name: 'web-1' };
  const cases: readonly { reason: string; annotations?: Record<string, string>; record?: object; fuid: string | undefined }[] = [
    { reason: 'an object first created here is known by its own uid', fuid: uid },
    { reason: 'an annotation that says the same says nothing', annotations: { [uidAnnotation]: uid }, fuid: uid },
    { reason: 'a replica keeps the uid of where it was first created', annotations: { [uidAnnotation]: origin }, record: registered, fuid: origin },
    { reason: 'an annotation that nobody registered is not believed', annotations: { [uidAnnotation]: origin }, fuid: undefined },
    { reason: 'another tenant’s thing can’t be adopted', annotations: { [uidAnnotation]: origin }, record: { ...registered, namespace: 'other' }, fuid: undefined },
    { reason: 'nor another’s of the same tenant', annotations: { [uidAnnotation]: origin }, record: { ...registered, name: 'db-1' }, fuid: undefined },
    { reason: 'nor one of another kind', annotations: { [uidAnnotation]: origin }, record: { ...registered, kind: 'FederatedNetwork' }, fuid: undefined },
    { reason: 'other annotations don’t matter', annotations: { 'isthmus.dev/other': origin }, fuid: uid },
  ]; // prettier-ignore
  it.each(cases)('$reason', async ({ annotations, record, fuid }) => {
    const store = connect();
    if (record) await store.transact([{ verb: 'set', key: keys.object(origin), value: serialise(record) }]);
    const found = federatedUid(store, replica(annotations));
    if (fuid !== undefined) expect(await found).toBe(fuid);
    else await expect(found).rejects.toMatchObject({ code: 'ISTHMUS_STALLED', reason: 'IdentityMismatch' });
  });
});

describe('the directory', () => {
  const network = randomUUID();
  const vm = randomUUID();
  const networkRecord: NetworkRecord = {
    namespace: 'acme',
    name: 'blue',
    cidr: '172.16.0.0/16',
    vlan: 120,
    vni: 70120,
    mtu: 1450,
    leaving: [],
    sites: ['valencia'],
  };
  const vmRecord: VmRecord = {
    namespace: 'acme',
    name: 'web-1',
    site: 'valencia',
    host: 'a',
    generation: 1,
    phase: 'Owned',
    disk: true,
    interfaces: [{ network, name: 'blue', id: 'interface-1', mac: '02:00:00:00:00:01', address: '172.16.0.20' }],
  };

  async function follow() {
    const store = connect();
    const damaged: string[] = [];
    const directory = new Directory(connect(), (key) => damaged.push(key));
    opened.push(directory);
    await directory.ready();
    const seen = { networks: new Set<string>(), vnis: new Set<number>(), machines: new Set<string>() };
    directory.changes.subscribe(({ networks, vnis, machines }) => {
      for (const each of networks) seen.networks.add(each);
      for (const each of vnis) seen.vnis.add(each);
      for (const each of machines) seen.machines.add(each);
    });
    const put = (key: string, record: object) => store.transact([{ verb: 'set', key, value: serialise(record) }]);
    const remove = (key: string) => store.transact([{ verb: 'delete', key }]);
    const forget = (): void => {
      for (const each of Object.values(seen)) each.clear();
    };
    return { store, directory, damaged, seen, put, remove, forget };
  }

  it('finds networks and machines by all that they are asked for by', async () => {
    const { directory, put } = await follow();
    await put(keys.network(network), networkRecord);
    await put(keys.vm(vm), vmRecord);
    await eventually('both are seen', () => directory.machine(vm) && directory.network(network));
    expect(directory.network(network)?.value).toEqual(networkRecord);
    expect(directory.networkOfVni(70120)).toBe(network);
    expect(directory.networkOfUuid(networkUuid(network))).toBe(network);
    expect(directory.machine(vm)?.value).toEqual(vmRecord);
    expect(directory.machineOfDomain(domainUuid(vm))).toBe(vm);
    expect(directory.interface('interface-1')).toEqual(vmRecord.interfaces[0]);
    expect([...directory.machinesOf(network)]).toEqual([[vm, vmRecord]]);
    expect(directory.current).toBe(true);
  });

  it('tells of a machine that moves which networks have to follow', async () => {
    const { directory, seen, put, forget } = await follow();
    await put(keys.network(network), networkRecord);
    await put(keys.vm(vm), vmRecord);
    await eventually('both are seen', () => seen.machines.has(vm) && seen.vnis.has(70120));
    forget();
    await put(keys.vm(vm), { ...vmRecord, host: 'b' });
    await eventually('the move is seen', () => seen.machines.has(vm));
    expect(seen.vnis).toEqual(new Set([70120]));
    expect(seen.networks).toEqual(new Set([network]));
    expect(directory.machine(vm)?.value.host).toBe('b');
  });

  it('forgets what is deleted, in every index, and tells of the networks that it was on', async () => {
    const { directory, seen, put, remove, forget } = await follow();
    await put(keys.network(network), networkRecord);
    await put(keys.vm(vm), vmRecord);
    await eventually('both are seen', () => directory.machine(vm) && directory.network(network));
    forget();
    await remove(keys.vm(vm));
    await eventually('its end is seen', () => seen.machines.has(vm));
    expect(seen.vnis).toEqual(new Set([70120]));
    expect(directory.machine(vm)).toBeUndefined();
    expect(directory.interface('interface-1')).toBeUndefined();
    expect(directory.machineOfDomain(domainUuid(vm))).toBeUndefined();
    expect([...directory.machinesOf(network)]).toEqual([]);
    forget();
    await remove(keys.network(network));
    await eventually('its end is seen', () => seen.networks.has(network));
    expect(seen.vnis).toEqual(new Set([70120]));
    expect(directory.networkOfVni(70120)).toBeUndefined();
    expect(directory.networkOfUuid(networkUuid(network))).toBeUndefined();
    expect([...directory.networks()]).toEqual([]);
  });

  it('a machine that leaves a network is no longer of it', async () => {
    const { directory, put } = await follow();
    await put(keys.network(network), networkRecord);
    await put(keys.vm(vm), vmRecord);
    await eventually('it is there', () => directory.interface('interface-1'));
    await put(keys.vm(vm), { ...vmRecord, interfaces: [] });
    await eventually('it has left', () => directory.interface('interface-1') === undefined);
    expect([...directory.machinesOf(network)]).toEqual([]);
  });

  it('says which record is damaged, and keeps what it knew', async () => {
    const { directory, damaged, put } = await follow();
    await put(keys.network(network), networkRecord);
    await eventually('it is there', () => directory.network(network));
    await put(keys.network(network), { ...networkRecord, vlan: 'one hundred' });
    await eventually('the damage is seen', () => damaged.length > 0);
    expect(damaged).toEqual([keys.network(network)]);
    expect(directory.network(network)?.value).toEqual(networkRecord);
  });

  it('does not pass off as current what it saw before Consul went away', async () => {
    const own = await startConsul();
    const store = connectConsul(own.url, { timeoutMs: 300 });
    stores.push(store);
    const directory = new Directory(store, () => undefined);
    opened.push(directory);
    await directory.ready();
    directory.assertCurrent();
    await own.kill();
    await eventually('it notices', () => !directory.current);
    expect(() => directory.assertCurrent()).toThrow(expect.objectContaining({ reason: 'ConsulUnavailable' }));
    await own.stop();
  });
});
