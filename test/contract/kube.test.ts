import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';

import { isKubeError, KubeApiError, type KubeErrorCode, type Resource } from '../../controllers/kube/api.js';
import { connectKube, type KubeConnection } from '../../controllers/kube/client.js';
import { installWidgets, startApiServer, startProxy, WIDGETS, type ApiServer } from '../support/apiserver.js';

const SECRETS: Resource = { group: '', version: 'v1', plural: 'secrets', kind: 'Secret', namespaced: true };
const NODES: Resource = { group: '', version: 'v1', plural: 'nodes', kind: 'Node', namespaced: false };
const UNKNOWN_UID = '00000000-0000-4000-8000-000000000000';

let server: ApiServer;
let api: KubeConnection;
const key = (name: string) => ({ namespace: 'default', name });
const create = (name: string) => api.create(WIDGETS, { metadata: key(name), spec: { size: 1 } });

beforeAll(async () => {
  server = await startApiServer();
  api = connectKube({ kubeconfigPath: server.kubeconfig });
  await installWidgets(api);
});

afterAll(async () => {
  api.close();
  await server.stop();
});

async function errorOf(call: Promise<unknown>): Promise<KubeApiError> {
  const error = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof KubeApiError)) throw new Error('no KubeApiError', { cause: error });
  return error;
}

describe('objects', () => {
  it('are created, read and deleted, and carry what the server keeps of them', async () => {
    const created = await create('plain');
    expect(created).toMatchObject({ apiVersion: 'test.isthmus.dev/v1', kind: 'Widget', spec: { size: 1 } });
    expect(created.metadata).toMatchObject({ ...key('plain'), generation: 1 });
    expect(await api.get(WIDGETS, key('plain'))).toEqual(created);
    await api.delete(WIDGETS, key('plain'));
    expect(await api.get(WIDGETS, key('plain'))).toBeUndefined();
  });

  it('of cluster scope have no namespace and generation 0 if the server counts none', async () => {
    const node = await api.create(NODES, { metadata: { name: 'n1' } });
    expect(node.metadata).toMatchObject({ name: 'n1', generation: 0 });
    expect(node.metadata.namespace).toBeUndefined();
  });

  it('are listed in pages of one snapshot', async () => {
    for (const name of ['page-1', 'page-2', 'page-3']) await create(name);
    const first = await api.list(WIDGETS, { namespace: 'default', limit: 2 });
    const second = await api.list(WIDGETS, { namespace: 'default', limit: 2, continue: first.continue });
    expect(first.items.map((item) => item.metadata.name)).toEqual(['page-1', 'page-2']);
    expect(second.items.map((item) => [item.kind, item.metadata.name])).toEqual([['Widget', 'page-3']]);
    expect(second.continue).toBeUndefined();
    expect(second.resourceVersion).toBe(first.resourceVersion);
  });
});

describe('status', () => {
  it('is applied whole: what we no longer say goes away, spec stays', async () => {
    await create('status');
    const options = { fieldManager: 'test' };
    await api.applyStatus(WIDGETS, key('status'), { a: 1, b: 2 }, options);
    const after = await api.applyStatus(WIDGETS, key('status'), { b: 3 }, options);
    expect(after).toMatchObject({ spec: { size: 1 } });
    expect(after.status).toEqual({ b: 3 });
  });

  it('applied again unchanged is no change of the object', async () => {
    const object = await create('status-same');
    const options = { fieldManager: 'test', uid: object.metadata.uid };
    const first = await api.applyStatus(WIDGETS, key('status-same'), { a: 1 }, options);
    const second = await api.applyStatus(WIDGETS, key('status-same'), { a: 1 }, options);
    expect(second.metadata.resourceVersion).toBe(first.metadata.resourceVersion);
  });
});

describe('finalizers', () => {
  it('hold an object back until they are removed', async () => {
    const made = await create('held');
    const held = await api.setFinalizers(WIDGETS, key('held'), ['isthmus.dev/test'], made.metadata.resourceVersion);
    await api.delete(WIDGETS, key('held'));
    const deleting = await api.get(WIDGETS, key('held'));
    expect(deleting?.metadata.deletionTimestamp).toBeDefined();
    await api.setFinalizers(WIDGETS, key('held'), [], deleting?.metadata.resourceVersion ?? '');
    expect(await api.get(WIDGETS, key('held'))).toBeUndefined();
    expect(held.metadata.finalizers).toEqual(['isthmus.dev/test']);
  });
});

describe('delete', () => {
  it('of what is absent succeeds', async () => {
    await expect(api.delete(WIDGETS, key('never'))).resolves.toBeUndefined();
  });

  it('of an older uid succeeds and spares the namesake', async () => {
    const namesake = await create('namesake');
    await api.delete(WIDGETS, key('namesake'), { uid: UNKNOWN_UID });
    expect(await api.get(WIDGETS, key('namesake'))).toEqual(namesake);
    await api.delete(WIDGETS, key('namesake'), { uid: namesake.metadata.uid, propagation: 'Background' });
    expect(await api.get(WIDGETS, key('namesake'))).toBeUndefined();
  });
});

describe('secrets', () => {
  it('are read decoded, absent ones are undefined', async () => {
    const data = { key: Buffer.from([0, 255, 10]).toString('base64') };
    await api.create(SECRETS, { metadata: key('binary'), data });
    await api.create(SECRETS, { metadata: key('empty') });
    expect(await api.secret('default', 'binary')).toEqual({ key: Buffer.from([0, 255, 10]) });
    expect(await api.secret('default', 'empty')).toEqual({});
    expect(await api.secret('default', 'none')).toBeUndefined();
  });
});

describe('watch', () => {
  it('tells changes after a version and ends without an error when told to', async () => {
    const { resourceVersion } = await api.list(WIDGETS);
    const stop = new AbortController();
    const seen: string[] = [];
    await create('watched');
    await api.patch(WIDGETS, key('watched'), { spec: { size: 2 } });
    await api.delete(WIDGETS, key('watched'));
    for await (const event of api.watch(WIDGETS, { resourceVersion, signal: stop.signal })) {
      seen.push(event.type);
      if (event.type === 'DELETED') stop.abort();
    }
    expect(seen).toEqual(['ADDED', 'MODIFIED', 'DELETED']);
  });

  it('ends when the server ends it', async () => {
    const { resourceVersion } = await api.list(WIDGETS);
    const { signal } = new AbortController();
    const seen: string[] = [];
    const options = { resourceVersion, timeoutSeconds: 1, signal };
    for await (const event of api.watch(WIDGETS, options)) seen.push(event.type);
    expect(seen.filter((type) => type !== 'BOOKMARK')).toEqual([]);
  });
});

interface Failure {
  readonly reason: string;
  readonly call: () => Promise<unknown>;
  readonly code: KubeErrorCode;
  readonly status: number;
}

const SECRET_TEXT = 'hunter2';

const FAILURES: readonly Failure[] = [
  {
    reason: 'creating what exists',
    call: async () => {
      await create('twice');
      await create('twice');
    },
    code: 'KUBE_ALREADY_EXISTS',
    status: 409,
  },
  {
    reason: 'a finalizer written on an outdated version: another writer came first',
    call: async () => {
      const { metadata } = await create('raced');
      await api.patch(WIDGETS, key('raced'), { spec: { size: 2 } });
      await api.setFinalizers(WIDGETS, key('raced'), ['isthmus.dev/test'], metadata.resourceVersion);
    },
    code: 'KUBE_CONFLICT',
    status: 409,
  },
  {
    reason: 'a status for an object that a namesake has replaced',
    call: async () => {
      await create('replaced');
      await api.applyStatus(WIDGETS, key('replaced'), { a: 1 }, { fieldManager: 'test', uid: UNKNOWN_UID });
    },
    code: 'KUBE_CONFLICT',
    status: 409,
  },
  {
    reason: 'a status for an object that is gone must not create it',
    call: () => api.applyStatus(WIDGETS, key('gone'), { a: 1 }, { fieldManager: 'test' }),
    code: 'KUBE_NOT_FOUND',
    status: 404,
  },
  {
    reason: 'a value of the wrong type, which the server quotes in its message',
    call: () => api.create(WIDGETS, { metadata: key('bad'), spec: { size: SECRET_TEXT } }),
    code: 'KUBE_INVALID',
    status: 422,
  },
  {
    reason: 'a continue token that is none',
    call: () => api.list(WIDGETS, { limit: 1, continue: 'x' }),
    code: 'KUBE_INVALID',
    status: 400,
  },
  {
    reason: 'a call whose caller gave up',
    call: () => api.list(WIDGETS, { signal: AbortSignal.abort() }),
    code: 'KUBE_ABORTED',
    status: 0,
  },
];

describe('failures', () => {
  it.each(FAILURES)('$reason', async ({ call, code, status }) => {
    const error = await errorOf(call());
    expect({ code: error.code, status: error.status }).toEqual({ code, status });
    expect(`${error.message} ${JSON.stringify(error)}`).not.toContain(SECRET_TEXT);
  });

  it('name the fields that were refused', async () => {
    const error = await errorOf(api.create(WIDGETS, { metadata: key('bad'), spec: { size: SECRET_TEXT } }));
    expect(error.fields).toEqual(['spec.size']);
  });

  it('of a caller without rights are told apart', async () => {
    const anonymous = await startProxy({ ...server, token: 'wrong' });
    const stranger = connectKube({ kubeconfigPath: anonymous.kubeconfig });
    try {
      const error = await errorOf(stranger.list(WIDGETS));
      expect({ code: error.code, status: error.status }).toEqual({ code: 'KUBE_FORBIDDEN', status: 401 });
    } finally {
      stranger.close();
      await anonymous.stop();
    }
  });
});

describe('a bad connection', () => {
  it('that swallows everything ends at the deadline, a reset one is replaced', async () => {
    const proxy = await startProxy(server);
    const far = connectKube({ kubeconfigPath: proxy.kubeconfig, deadlineMs: 300 });
    try {
      await far.list(WIDGETS);
      proxy.stall(true);
      const error = await errorOf(far.list(WIDGETS));
      expect({ code: error.code, reason: error.reason }).toEqual({
        code: 'KUBE_UNAVAILABLE',
        reason: 'DeadlineExceeded',
      });
      proxy.stall(false);
      await far.list(WIDGETS);
      proxy.cut();
      await expect(far.list(WIDGETS)).resolves.toBeDefined();
      await proxy.stop();
      expect(isKubeError(await errorOf(far.list(WIDGETS)), 'KUBE_UNAVAILABLE')).toBe(true);
    } finally {
      far.close();
      await proxy.stop();
    }
  });
});
