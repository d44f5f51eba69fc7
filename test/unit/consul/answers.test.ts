import { once } from 'node:events';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from '@jest/globals';
import { ConsulError, connectConsul } from '../../../drivers/consul/index.js';
import type { KeyValueStore } from '../../../drivers/consul/index.js';

// Answers that a real server gives seldom: written by hand, on a real socket.

let server: Server | undefined;
let store: KeyValueStore | undefined;

async function serve(handle: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  server = createServer(handle).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  return `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
}

afterEach(async () => {
  await store?.close();
  server?.closeAllConnections();
  if (server !== undefined) await once(server.close(), 'close');
});

const item = (key: string, index: number) => ({ Key: key, Value: 'dg==', ModifyIndex: index, Flags: 0 });
const json = { 'content-type': 'application/json' };

describe('an answer that is no success', () => {
  const cases = [
    { reason: 'no leader', status: 500, body: 'No cluster leader', code: 'CONSUL_UNAVAILABLE' },
    { reason: 'a proxy without a server behind it', status: 502, body: '', code: 'CONSUL_UNAVAILABLE' },
    { reason: 'too many requests', status: 429, body: 'rate limit exceeded', code: 'CONSUL_UNAVAILABLE' },
    { reason: 'a token that may not', status: 403, body: 'Permission denied', code: 'CONSUL_REFUSED' },
    { reason: 'a request too large', status: 413, body: 'Request body too large', code: 'CONSUL_REFUSED' },
  ];
  it.each(cases)('$reason: $code, with what Consul says', async ({ status, body, code }) => {
    const url = await serve((_, response) => response.writeHead(status, { 'content-type': 'text/plain' }).end(body));
    store = connectConsul(url);
    const expected = { code, message: expect.stringContaining(body), cause: expect.anything() };
    await expect(store.get('k')).rejects.toThrow(expect.objectContaining(expected));
    await expect(store.transact([{ verb: 'delete', key: 'k' }])).rejects.toThrow(expect.objectContaining(expected));
  });

  it('says the status of what is refused', async () => {
    store = connectConsul(await serve((_, response) => response.writeHead(403).end()));
    const error = await store.list('k').catch((reason: unknown) => reason);
    expect(error instanceof ConsulError && error.status).toBe(403);
  });
});

describe('a success that is not understood leaves the outcome unknown', () => {
  const cases = [
    { reason: 'no JSON', body: '<html>' },
    { reason: 'cut off JSON', body: '{"Results":[' },
    { reason: 'no results', body: '{"Results":null,"Errors":null}' },
    { reason: 'a result missing', body: '{"Results":[],"Errors":null}' },
  ];
  it.each(cases)('$reason', async ({ body }) => {
    store = connectConsul(await serve((_, response) => response.writeHead(200, json).end(body)));
    const call = store.transact([{ verb: 'set', key: 'k', value: 'v' }]);
    await expect(call).rejects.toThrow(expect.objectContaining({ code: 'CONSUL_UNAVAILABLE' }));
  });
});

it('sends the token, the datacenter and the wish for a consistent answer', async () => {
  const seen: (string | string[] | undefined)[] = [];
  const url = await serve((request, response) => {
    seen.push(request.headers['x-consul-token'], request.url);
    response.writeHead(404).end();
  });
  store = connectConsul(url, { token: 'secret', datacenter: 'valencia' });
  await store.get('a/b');
  const [token, path] = seen;
  expect(token).toBe('secret');
  const { pathname, searchParams } = new URL(String(path), url);
  expect(decodeURIComponent(pathname)).toBe('/v1/kv/a/b');
  expect(searchParams.get('dc')).toBe('valencia');
  expect(searchParams.has('consistent')).toBe(true);
});

describe('a view', () => {
  /** Answers the n-th request by the n-th script; later ones stay unanswered. */
  async function scripted(...scripts: readonly ((response: ServerResponse) => void)[]): Promise<(string | null)[]> {
    const waited: (string | null)[] = [];
    const url = await serve((request, response) => {
      const script = scripts[waited.length];
      waited.push(new URL(request.url ?? '', 'http://x').searchParams.get('index'));
      script?.(response);
    });
    store = connectConsul(url);
    return waited;
  }
  const answer =
    (index: number, ...items: readonly object[]) =>
    (response: ServerResponse) =>
      response.writeHead(200, { ...json, 'x-consul-index': String(index) }).end(JSON.stringify(items));

  async function until(holds: () => boolean): Promise<void> {
    for (let i = 0; !holds(); i++) {
      if (i > 500) throw new Error('not within 5 s');
      await sleep(10);
    }
  }

  it('waits behind the last index, and begins anew when the index goes backwards', async () => {
    const waited = await scripted(answer(9, item('p/a', 9)), answer(4, item('p/b', 4)), answer(4, item('p/b', 4)));
    const view = store?.watch('p/');
    await until(() => waited.length === 4);
    expect(waited).toEqual([null, '9', null, '4']);
    expect([...(view?.entries() ?? [])].map(({ key }) => key)).toEqual(['p/b']);
    expect(view?.current).toBe(true);
  });

  it('reads anew at once when an answer breaks off midway, though the package goes on waiting', async () => {
    const broken = (response: ServerResponse) => {
      response.writeHead(200, { ...json, 'x-consul-index': '12', 'content-length': '1000' }).write('[{"Key":');
      setTimeout(() => response.destroy(), 20);
    };
    const waited = await scripted(answer(9, item('p/a', 9)), broken, answer(12, item('p/a', 12)));
    const view = store?.watch('p/');
    await view?.ready();
    await until(() => view?.get('p/a')?.index === 12);
    expect(view?.current).toBe(true);
    expect(waited.slice(0, 3)).toEqual([null, '9', null]);
  });

  it('keeps what it has, and is not current, while answers have no index', async () => {
    const noIndex = (response: ServerResponse) => response.writeHead(200, json).end('[]');
    await scripted(answer(9, item('p/a', 9)), noIndex, noIndex, answer(10));
    const view = store?.watch('p/');
    await view?.ready();
    await until(() => view?.current === false);
    expect(view?.get('p/a')).toBeDefined();
    await until(() => view?.current === true);
    expect(view?.get('p/a')).toBeUndefined();
  });
});
