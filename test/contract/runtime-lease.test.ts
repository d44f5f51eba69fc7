import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';

import { connectKube, type KubeConnection } from '../../controllers/kube/client.js';
import { acquireLease, LEASES, type LeaseOptions } from '../../controllers/runtime/lease.js';
import { createLog } from '../../controllers/runtime/log.js';
import { startApiServer, startProxy, type ApiServer } from '../support/apiserver.js';

const TIMES = { durationMs: 1000, renewDeadlineMs: 600, retryMs: 150 };

let server: ApiServer;
let api: KubeConnection;
const never = new AbortController().signal;
const log = createLog({ level: 'error' });

beforeAll(async () => {
  server = await startApiServer();
  api = connectKube({ kubeconfigPath: server.kubeconfig });
});

afterAll(async () => {
  api.close();
  await server.stop();
});

const options = (name: string, identity: string): LeaseOptions => ({
  api,
  log,
  namespace: 'default',
  name,
  identity,
  ...TIMES,
});

async function lead(name: string, identity: string, over: Partial<LeaseOptions> = {}) {
  const leadership = await acquireLease({ ...options(name, identity), ...over }, never);
  if (!leadership) throw new Error('not leading');
  return leadership;
}

async function lease(name: string) {
  return (await api.get(LEASES, { namespace: 'default', name }))?.spec;
}

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('a lease', () => {
  it('is written with six fractional digits, renewed, and given back', async () => {
    const first = await lead('written', 'a');
    const taken = await lease('written');
    expect(taken).toMatchObject({ holderIdentity: 'a', leaseDurationSeconds: 1, leaseTransitions: 0 });
    await wait(3 * TIMES.durationMs);
    expect(() => first.assertLeading()).not.toThrow();
    expect(await lease('written')).not.toEqual(taken);
    await first.release();
    expect(await lease('written')).toMatchObject({ holderIdentity: '' });
    expect(() => first.assertLeading()).toThrow();
  });

  it('given back is taken at once by who waits', async () => {
    const long = { durationMs: 15_000, renewDeadlineMs: 10_000, retryMs: 2000 };
    const first = await lead('handed', 'a', long);
    const second = lead('handed', 'b', long);
    await wait(300);
    expect(await lease('handed')).toMatchObject({ holderIdentity: 'a' });
    const released = performance.now();
    await first.release();
    const successor = await second;
    expect(performance.now() - released).toBeLessThan(1000);
    expect(await lease('handed')).toMatchObject({ holderIdentity: 'b', leaseTransitions: 1 });
    await successor.release();
  });

  it('of a holder that vanished is taken when its duration is over, not before', async () => {
    const first = await lead('vanished', 'a');
    await first.abandon();
    const started = performance.now();
    const second = await lead('vanished', 'b');
    const took = performance.now() - started;
    expect(took).toBeGreaterThan(TIMES.durationMs - 200);
    expect(took).toBeLessThan(TIMES.durationMs + 500);
    await second.release();
  });

  it('is held by one of many candidates at a time', async () => {
    let leading = 0;
    let most = 0;
    const terms: string[] = [];
    const term = async (identity: string) => {
      const leadership = await lead('contended', identity);
      terms.push(identity);
      most = Math.max(most, (leading += 1));
      await wait(20);
      leading -= 1;
      await leadership.release();
    };
    await Promise.all(['a', 'b', 'c', 'd', 'e'].map(term));
    expect(terms.toSorted()).toEqual(['a', 'b', 'c', 'd', 'e']);
    expect(most).toBe(1);
  });

  it('is lost, before it is over, by a holder that can no longer reach the server', async () => {
    const proxy = await startProxy(server);
    const far = connectKube({ kubeconfigPath: proxy.kubeconfig });
    try {
      const leadership = await lead('unreachable', 'a', { api: far });
      proxy.stall(true);
      const started = performance.now();
      await once(leadership.lost, 'abort');
      expect(performance.now() - started).toBeLessThan(TIMES.durationMs);
      expect(() => leadership.assertLeading()).toThrow(expect.objectContaining({ code: 'LEADERSHIP_LOST' }));
      expect(await lease('unreachable')).toMatchObject({ holderIdentity: 'a' });
      await leadership.release();
    } finally {
      far.close();
      await proxy.stop();
    }
  });

  it('taken by force ends the holder at its next renewal', async () => {
    const leadership = await lead('forced', 'a');
    await api.patch(LEASES, { namespace: 'default', name: 'forced' }, { spec: { holderIdentity: 'x' } });
    await once(leadership.lost, 'abort');
    expect(await lease('forced')).toMatchObject({ holderIdentity: 'x' });
  });

  it('is not waited for any longer once told to stop', async () => {
    const first = await lead('stopped', 'a');
    const stop = new AbortController();
    const second = acquireLease(options('stopped', 'b'), stop.signal);
    await wait(100);
    stop.abort();
    expect(await second).toBeUndefined();
    await first.release();
  });
});

describe('a process that was paused beyond its lease', () => {
  it('does not act on what reached it meanwhile', async () => {
    const script = fileURLToPath(new URL('../support/leaseholder.ts', import.meta.url));
    const times = [TIMES.durationMs, TIMES.renewDeadlineMs, TIMES.retryMs].map(String);
    const args = ['--import', 'tsx', script, server.kubeconfig, 'paused', ...times];
    const child = spawn(process.execPath, args, {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { PATH: process.env['PATH'] },
    });
    try {
      const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
      const next = async () => (await lines.next()).value as unknown;
      expect(await next()).toBe('leading');
      child.stdin.write('first\n');
      expect(await next()).toBe('did first');
      child.kill('SIGSTOP');
      const second = await lead('paused', 'b');
      child.stdin.write('second\n');
      child.kill('SIGCONT');
      expect(await next()).toBe('refused second');
      await second.release();
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });
});
