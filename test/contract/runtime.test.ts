import { spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { createInterface } from 'node:readline';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';

import { type KubeObject, type Resource } from '../../controllers/kube/api.js';
import { connectKube, type KubeConnection } from '../../controllers/kube/client.js';
import { Controller, type ReconcileContext } from '../../controllers/runtime/controller.js';
import { EventRecorder, EVENTS } from '../../controllers/runtime/events.js';
import { ensureFinalizer, removeFinalizer } from '../../controllers/runtime/finalizer.js';
import { LEASES, type LeaseOptions } from '../../controllers/runtime/lease.js';
import { createLog } from '../../controllers/runtime/log.js';
import { Manager } from '../../controllers/runtime/manager.js';
import { Metrics } from '../../controllers/runtime/metrics.js';
import { WorkQueue } from '../../controllers/runtime/queue.js';
import { Reflector, type ReflectorOptions } from '../../controllers/runtime/reflector.js';
import { setCondition, StatusWriter, type Condition } from '../../controllers/runtime/status.js';
import { installWidgets, startApiServer, startProxy, WIDGETS, type ApiServer } from '../support/apiserver.js';

const NAMESPACES: Resource = { group: '', version: 'v1', plural: 'namespaces', kind: 'Namespace', namespaced: false };
// The server keeps no watch cache for these, so that etcd's compaction shows.
const CONFIG_MAPS: Resource = { group: '', version: 'v1', plural: 'configmaps', kind: 'ConfigMap', namespaced: true };

let server: ApiServer;
let api: KubeConnection;
let namespace: string;
let tests = 0;
const log = createLog({ level: 'error' });

beforeAll(async () => {
  server = await startApiServer();
  api = connectKube({ kubeconfigPath: server.kubeconfig });
  await installWidgets(api);
});

afterAll(async () => {
  api.close();
  await server.stop();
});

beforeEach(async () => {
  namespace = `test-${(tests += 1)}`;
  await api.create(NAMESPACES, { metadata: { name: namespace } });
});

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

const key = (name: string) => ({ namespace, name });
const create = (name: string, size = 1) => api.create(WIDGETS, { metadata: key(name), spec: { size } });
const grow = (name: string, size: number) => api.patch(WIDGETS, key(name), { spec: { size } });

interface Widget {
  readonly name: string;
  readonly size: number;
  readonly object: KubeObject;
}

function parseWidget(object: KubeObject): Widget {
  const spec = object.spec;
  const size = typeof spec === 'object' && spec !== null && 'size' in spec ? spec.size : undefined;
  if (typeof size !== 'number' || size < 0) throw new TypeError('no size');
  return { name: object.metadata.name, size, object };
}

const noteOf = (name: string, old: number | undefined, now: number | undefined) =>
  `${name} ${old ?? '-'}>${now ?? '-'}`;

/** A running reflector with all it has told, as `name old>new`. */
async function reflect(over: Partial<ReflectorOptions<Widget>> = {}, through = api) {
  const indexes = { size: (widget: Widget) => [String(widget.size)] };
  const reflector = new Reflector(through, WIDGETS, parseWidget, { log, namespace, indexes, ...over });
  const told: string[] = [];
  const happened = new EventEmitter();
  reflector.store.changes.subscribe((change) => {
    const name = change.key.slice(namespace.length + 1);
    told.push(noteOf(name, change.old?.size, change.new?.size));
    // In the store before it is told.
    expect(reflector.store.get(change.key)).toBe(change.new);
    happened.emit('change');
  });
  closing.push(() => reflector.stop());
  reflector.start();
  await reflector.whenSynced();
  const until = async (last: string) => {
    while (told.at(-1) !== last) await once(happened, 'change', { signal: AbortSignal.timeout(5000) });
  };
  return { reflector, told, until };
}

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('Reflector', () => {
  it('lists page by page, then follows', async () => {
    for (const name of ['a', 'b', 'c', 'd', 'e']) await create(name);
    const { reflector, told, until } = await reflect({ pageSize: 2 });
    expect(told.toSorted()).toEqual(['a ->1', 'b ->1', 'c ->1', 'd ->1', 'e ->1']);
    await grow('b', 7);
    await until('b 1>7');
    await api.delete(WIDGETS, key('a'));
    await until('a 1>-');
    expect(reflector.store.size).toBe(4);
    expect(reflector.store.listByIndex('size', '7').map(({ name }) => name)).toEqual(['b']);
    expect(reflector.store.listByIndex('size', '1').map(({ name }) => name)).toEqual(['c', 'd', 'e']);
  });

  it('neither loses nor repeats anything when the connection is cut again and again', async () => {
    const proxy = await startProxy(server);
    const far = connectKube({ kubeconfigPath: proxy.kubeconfig });
    closing.push(
      () => proxy.stop(),
      () => far.close(),
    );
    await create('a', 0);
    const { told, until } = await reflect({}, far);
    for (let size = 1; size <= 20; size += 1) {
      await grow('a', size);
      if (size % 5 === 0) proxy.cut();
    }
    await until('a 19>20');
    expect(told).toEqual(['a ->0', ...Array.from({ length: 20 }, (_, size) => `a ${size}>${size + 1}`)]);
  });

  it('renews a watch that has gone silent', async () => {
    const proxy = await startProxy(server);
    const far = connectKube({ kubeconfigPath: proxy.kubeconfig });
    closing.push(
      () => proxy.stop(),
      () => far.close(),
    );
    const { until, told } = await reflect({ silenceMs: 400 }, far);
    proxy.stall(true);
    await create('a');
    await wait(100);
    // The old connection stays dead: what was swallowed is lost.
    proxy.stall(false);
    await until('a ->1');
    expect(told).toEqual(['a ->1']);
  });

  it('keeps what it can not parse out, or as it last understood it, and says so once a version', async () => {
    await create('good');
    await create('bad', -1);
    const reflector = new Reflector(api, WIDGETS, parseWidget, {
      log: createLog({ stream: new PassThrough().resume() }),
      namespace,
    });
    const invalid: string[] = [];
    reflector.invalid.subscribe((object) => invalid.push(object.key));
    closing.push(() => reflector.stop());
    reflector.start();
    await reflector.whenSynced();
    expect(reflector.store.list().map(({ name }) => name)).toEqual(['good']);
    expect(invalid).toEqual([`${namespace}/bad`]);
    await grow('good', -1);
    await eventually(() => invalid.length === 2);
    expect(reflector.store.list().map(({ name }) => name)).toEqual(['good']);
    await grow('bad', 5);
    await eventually(() => reflector.store.size === 2);
  });

  it('lists anew when the history it needs is gone, and tells only what differs', async () => {
    const put = (name: string, value: string) => api.patch(CONFIG_MAPS, key(name), { data: { value } });
    for (const name of ['gone', 'same', 'changed']) await api.create(CONFIG_MAPS, { metadata: key(name) });
    const proxy = await startProxy(server);
    const far = connectKube({ kubeconfigPath: proxy.kubeconfig, deadlineMs: 500 });
    closing.push(
      () => proxy.stop(),
      () => far.close(),
    );
    const reflector = new Reflector(far, CONFIG_MAPS, (object) => object, { log, namespace });
    closing.push(() => reflector.stop());
    reflector.start();
    await reflector.whenSynced();
    const told: string[] = [];
    reflector.store.changes.subscribe(({ key: name, old, new: now }) => {
      told.push(`${name} ${old ? 'old' : '-'}>${now ? 'new' : '-'}`);
    });
    proxy.stall(true);
    proxy.cut();
    await api.delete(CONFIG_MAPS, key('gone'));
    await put('changed', '1');
    await api.create(CONFIG_MAPS, { metadata: key('added') });
    await server.compact();
    proxy.stall(false);
    proxy.cut();
    await eventually(() => told.length === 3);
    expect(told.toSorted()).toEqual([
      `${namespace}/added ->new`,
      `${namespace}/changed old>new`,
      `${namespace}/gone old>-`,
    ]);
  });
});

describe('Controller', () => {
  it('reconciles 200 objects, each at its last state and never one twice at once', async () => {
    const queue = new WorkQueue();
    const { reflector } = await reflect();
    reflector.store.changes.subscribe(({ key: changed }) => queue.add(changed));
    const active = new Set<string>();
    const seen = new Map<string, number>();
    const collisions: string[] = [];
    let failures = 0;
    const reconcile = async (id: string) => {
      if (active.has(id)) collisions.push(id);
      active.add(id);
      await wait(Math.random() * 5);
      active.delete(id);
      if (id.endsWith('7') && (failures += 1) <= 20) throw new Error('to be retried');
      seen.set(id, reflector.store.get(id)?.size ?? -1);
      return {};
    };
    const quiet = createLog({ stream: new PassThrough().resume() });
    const controller = new Controller({ name: 'test', queue, log: quiet, metrics: new Metrics(), reconcile });
    closing.push(() => controller.stop());
    controller.start(() => undefined);
    const names = Array.from({ length: 200 }, (_, index) => `w${index}`);
    await Promise.all(names.map((name) => create(name).then(() => grow(name, 2))));
    await eventually(() => names.every((name) => seen.get(`${namespace}/${name}`) === 2));
    expect(collisions).toEqual([]);
  });
});

describe('StatusWriter', () => {
  interface WidgetStatus {
    readonly conditions: readonly Condition[];
    readonly extra?: string | undefined;
  }
  const ready = (status: 'True' | 'False', at: string): WidgetStatus => ({
    conditions: setCondition([], { type: 'Ready', status, reason: 'Test', message: '' }, new Date(at)),
    extra: undefined,
  });
  const live = async (name: string) => (await api.get(WIDGETS, key(name)))?.status;

  it('writes a status once, whatever old copy of the object it is given', async () => {
    const writer = new StatusWriter<WidgetStatus>(api, WIDGETS, 'test');
    const { metadata } = await create('once');
    expect(await writer.write({ metadata }, ready('True', '2026-01-01T00:00:00Z'))).toBe(true);
    expect(await writer.write({ metadata }, ready('True', '2026-01-02T00:00:00Z'))).toBe(false);
    expect(await live('once')).toMatchObject({ conditions: [{ lastTransitionTime: '2026-01-01T00:00:00Z' }] });
    expect(await writer.write({ metadata }, ready('False', '2026-01-03T00:00:00Z'))).toBe(true);
    expect(await live('once')).toMatchObject({ conditions: [{ lastTransitionTime: '2026-01-03T00:00:00Z' }] });
  });

  it('believes the object again once it is newer than our write', async () => {
    const writer = new StatusWriter<WidgetStatus>(api, WIDGETS, 'test');
    const { metadata } = await create('foreign');
    const wanted = ready('True', '2026-01-01T00:00:00Z');
    await writer.write({ metadata }, wanted);
    const spoilt = { conditions: [], extra: 'foreign' };
    const other = await api.applyStatus(WIDGETS, key('foreign'), spoilt, { fieldManager: 'other' });
    expect(await writer.write({ metadata: other.metadata, status: spoilt }, wanted)).toBe(true);
    expect(await live('foreign')).toMatchObject({ conditions: [{ type: 'Ready', status: 'True' }] });
  });

  it('refuses to go on with an object that a namesake has replaced', async () => {
    const writer = new StatusWriter<WidgetStatus>(api, WIDGETS, 'test');
    const { metadata } = await create('replaced');
    await api.delete(WIDGETS, key('replaced'));
    await create('replaced');
    const write = writer.write({ metadata }, ready('True', '2026-01-01T00:00:00Z'));
    await expect(write).rejects.toMatchObject({ code: 'KUBE_CONFLICT' });
  });
});

describe('finalizers', () => {
  const FINALIZER = 'isthmus.dev/test';
  const finalizers = async (name: string) => (await api.get(WIDGETS, key(name)))?.metadata.finalizers;

  it('are put on and taken off from an old copy, and leave those of others', async () => {
    const { metadata } = await create('a');
    await api.patch(WIDGETS, key('a'), { metadata: { finalizers: ['example.org/other'] } });
    expect(await ensureFinalizer(api, WIDGETS, metadata, FINALIZER)).toBe(true);
    expect(await finalizers('a')).toEqual(['example.org/other', FINALIZER]);
    expect(await removeFinalizer(api, WIDGETS, { ...metadata, finalizers: [FINALIZER] }, FINALIZER)).toBe(true);
    expect(await finalizers('a')).toEqual(['example.org/other']);
    await api.patch(WIDGETS, key('a'), { metadata: { finalizers: null } });
  });

  it('can not be put on what is being deleted, gone or replaced', async () => {
    const { metadata } = await create('b');
    await api.patch(WIDGETS, key('b'), { metadata: { finalizers: ['example.org/other'] } });
    await api.delete(WIDGETS, key('b'));
    expect(await ensureFinalizer(api, WIDGETS, metadata, FINALIZER)).toBe(false);
    await api.patch(WIDGETS, key('b'), { metadata: { finalizers: null } });
    expect(await ensureFinalizer(api, WIDGETS, metadata, FINALIZER)).toBe(false);
    await create('b');
    expect(await ensureFinalizer(api, WIDGETS, metadata, FINALIZER)).toBe(false);
    expect(await removeFinalizer(api, WIDGETS, { ...metadata, finalizers: [FINALIZER] }, FINALIZER)).toBe(false);
    expect(await finalizers('b')).toBeUndefined();
  });
});

describe('EventRecorder', () => {
  const events = async () => (await api.list(EVENTS, { namespace })).items;

  it('writes an event once and counts its repetitions', async () => {
    const recorder = new EventRecorder({ api, log, flushMs: 100 });
    closing.push(() => recorder.close());
    const widget = await create('a');
    const event = { type: 'Warning', reason: 'Test', action: 'Testing', note: 'ü'.repeat(1000) } as const;
    for (let repetition = 0; repetition < 50; repetition += 1) recorder.record(widget, event);
    await eventually(async () => {
      const [first] = await events();
      return JSON.stringify(first ?? null).includes('"count":50');
    });
    recorder.record(widget, event);
    await recorder.close();
    const written = await events();
    expect(written).toHaveLength(1);
    expect(written[0]).toMatchObject({
      regarding: { kind: 'Widget', name: 'a', uid: widget.metadata.uid },
      reportingController: 'isthmus',
      series: { count: 51 },
      note: 'ü'.repeat(512),
    });
  });

  it('limits the events of one object, not those of others', async () => {
    const recorder = new EventRecorder({ api, log, burst: 3 });
    closing.push(() => recorder.close());
    const [noisy, other] = [await create('noisy'), await create('other')];
    const event = (note: string) => ({ type: 'Normal', reason: 'Test', action: 'Testing', note }) as const;
    for (let index = 0; index < 20; index += 1) recorder.record(noisy, event(`note ${index}`));
    recorder.record(other, event('note'));
    await recorder.close();
    expect(await events()).toHaveLength(4);
  });

  it('of a cluster-scoped object is found in the default namespace', async () => {
    const recorder = new EventRecorder({ api, log });
    const object = await api.get(NAMESPACES, { name: namespace });
    if (!object) throw new Error('no namespace');
    recorder.record(object, { type: 'Normal', reason: 'Test', action: 'Testing', note: '' });
    await recorder.close();
    const { items } = await api.list(EVENTS, { namespace: 'default' });
    expect(items.filter(({ metadata }) => metadata.name.startsWith(`${namespace}.`))).toHaveLength(1);
  });

  it('does not fail whoever records when nothing can be written', async () => {
    const nowhere = connectKube({ kubeconfigPath: server.kubeconfig, deadlineMs: 1 });
    const recorder = new EventRecorder({ api: nowhere, log });
    recorder.record(await create('a'), { type: 'Normal', reason: 'Test', action: 'Testing', note: '' });
    await expect(recorder.close()).resolves.toBeUndefined();
    nowhere.close();
  });
});

describe('Manager', () => {
  const build = (
    identity: string,
    reconcile: (id: string, context: ReconcileContext) => Promise<object>,
    stopTimeoutMs = 2000,
    times: Partial<LeaseOptions> = {},
  ) => {
    const kube = connectKube({ kubeconfigPath: server.kubeconfig });
    const queue = new WorkQueue();
    const metrics = new Metrics();
    const reflector = new Reflector(kube, WIDGETS, parseWidget, { log, namespace });
    reflector.store.changes.subscribe((change) => queue.add(change.key));
    const controller = new Controller({ name: 'widgets', queue, log, metrics, reconcile });
    const manager = new Manager({
      log,
      metrics,
      healthAddress: '127.0.0.1:0',
      lease: { api: kube, log, namespace, name: 'manager', identity, ...times },
      reflectors: [reflector],
      controllers: [controller],
      stopTimeoutMs,
    });
    const outcome = manager.run();
    closing.push(async () => {
      manager.stop();
      await outcome;
      kube.close();
    });
    return { manager, outcome, kube, reflector };
  };
  const holder = async () => JSON.stringify((await api.get(LEASES, { namespace, name: 'manager' }))?.spec ?? null);

  it('hands over to a warm standby when stopped, once what runs has ended', async () => {
    const done: string[] = [];
    const work = (who: string) => async (id: string) => {
      await wait(100);
      done.push(`${who} ${id.slice(namespace.length + 1)}`);
      return {};
    };
    const first = build('first', work('first'));
    await eventually(async () => (await holder()).includes('first'));
    const second = build('second', work('second'));
    await eventually(() => second.reflector.synced);
    await create('a');
    await eventually(() => first.reflector.store.size === 1);
    await wait(20);
    expect(done).toEqual([]);
    first.manager.stop();
    expect(await first.outcome).toBe('Stopped');
    expect(done).toEqual(['first a']);
    await eventually(() => done.includes('second a'));
    second.manager.stop();
    expect(await second.outcome).toBe('Stopped');
    expect(await holder()).toContain('"holderIdentity":""');
  });

  it('stops on SIGTERM and leaves nothing open that would keep the process alive', async () => {
    await create('a');
    const script = fileURLToPath(new URL('../support/managed.ts', import.meta.url));
    const args = ['--import', 'tsx', script, server.kubeconfig, namespace];
    const child = spawn(process.execPath, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: process.env['PATH'] },
    });
    let complaints = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (complaints += text));
    const exited = once(child, 'exit');
    closing.push(async () => {
      child.kill('SIGKILL');
      await exited;
    });
    const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
    expect((await lines.next()).value).toBe('reconciled');
    const told = performance.now();
    child.kill('SIGTERM');
    expect(await exited).toEqual([0, null]);
    expect(performance.now() - told).toBeLessThan(2000);
    const rest: string[] = [];
    for await (const line of { [Symbol.asyncIterator]: () => lines }) rest.push(line);
    expect(rest.at(-1)).toBe('Stopped');
    // Neither errors nor Node's warning of too many listeners.
    expect(complaints).toBe('');
    expect(await holder()).toContain('"holderIdentity":""');
    expect((await api.list(EVENTS, { namespace })).items).toHaveLength(1);
  });

  it('ends without giving back a lease that another has taken', async () => {
    const { outcome } = build('first', () => Promise.resolve({}), 2000, {
      durationMs: 3000,
      renewDeadlineMs: 2000,
      retryMs: 100,
    });
    await eventually(async () => (await holder()).includes('first'));
    await api.patch(LEASES, { namespace, name: 'manager' }, { spec: { holderIdentity: 'other' } });
    expect(await outcome).toBe('LeadershipLost');
    expect(await holder()).toContain('"holderIdentity":"other"');
  });

  it('keeps the lease from others if something still runs at the deadline', async () => {
    const release = new AbortController();
    const { manager, outcome, reflector } = build('first', () => once(release.signal, 'abort').then(() => ({})), 100);
    await create('a');
    await eventually(() => reflector.store.size === 1);
    await eventually(async () => (await holder()).includes('first'));
    await wait(100);
    manager.stop();
    expect(await outcome).toBe('StopTimedOut');
    expect(await holder()).toContain('"holderIdentity":"first"');
    release.abort();
  });
});

async function eventually(holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 8000;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error('did not happen in time');
    await wait(20);
  }
}
