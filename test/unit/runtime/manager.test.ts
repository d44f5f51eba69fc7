import { once } from 'node:events';
import http from 'node:http';
import { createServer } from 'node:net';
import { PassThrough } from 'node:stream';

import { describe, expect, it } from '@jest/globals';

import { Controller } from '../../../controllers/runtime/controller.js';
import { HealthServer } from '../../../controllers/runtime/health.js';
import { createLog } from '../../../controllers/runtime/log.js';
import { Manager, type ManagerOptions, type Outcome, type Task } from '../../../controllers/runtime/manager.js';
import { Metrics } from '../../../controllers/runtime/metrics.js';
import { WorkQueue } from '../../../controllers/runtime/queue.js';

const log = createLog({ stream: new PassThrough().resume() });

function managerOf(over: Partial<ManagerOptions>): Manager {
  const base = { log, metrics: new Metrics(), healthAddress: '127.0.0.1:0', reflectors: [], controllers: [] };
  return new Manager({ ...base, stopTimeoutMs: 100, ...over });
}

async function get(port: number, path: string): Promise<{ status: number | undefined; body: string }> {
  const request = http.get({ port, path, host: '127.0.0.1', agent: false });
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  let body = '';
  for await (const chunk of response.setEncoding('utf8')) body += String(chunk);
  return { status: response.statusCode, body };
}

interface Case {
  readonly reason: string;
  readonly run: Task['run'];
  readonly outcome: Outcome;
}

const until = (signal: AbortSignal) =>
  new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));

const TASKS: readonly Case[] = [
  { reason: 'that ends when told to is no failure', run: until, outcome: 'Stopped' },
  {
    reason: 'that fails stops the process, which would otherwise lack it silently',
    run: () => Promise.reject(new Error()),
    outcome: 'TaskFailed',
  },
  { reason: 'that ends by itself too', run: () => Promise.resolve(), outcome: 'TaskFailed' },
  {
    reason: 'that does not end is waited for until the deadline',
    run: () => new Promise(() => undefined),
    outcome: 'StopTimedOut',
  },
];

describe('Manager', () => {
  it.each(TASKS)('a task $reason', async ({ run, outcome }) => {
    const manager = managerOf({ tasks: [{ name: 'task', run }] });
    const ran = manager.run();
    setTimeout(() => {
      manager.stop();
    }, 50);
    expect(await ran).toBe(outcome);
  });

  it('tells who can not listen, before anything else starts', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    const address = taken.address();
    const port = typeof address === 'object' ? address?.port : 0;
    const task = { name: 'task', run: () => Promise.reject(new Error('started')) };
    const manager = managerOf({ healthAddress: `127.0.0.1:${port}`, tasks: [task] });
    await expect(manager.run()).rejects.toMatchObject({ code: 'HEALTH_ADDRESS' });
    taken.close();
  });

  it('says what a slow start waits for', async () => {
    const stream = new PassThrough();
    const never = {
      resource: { plural: 'sites' },
      synced: false,
      start: () => undefined,
      stop: () => Promise.resolve(),
      whenSynced: () => new Promise<void>(() => undefined),
    };
    const manager = managerOf({ log: createLog({ stream }), reflectors: [never], slowStartMs: 10 });
    const ran = manager.run();
    const [line] = (await once(stream, 'data')) as [Buffer];
    expect(String(line)).toContain('sites: cache not synced');
    stream.resume();
    manager.stop();
    expect(await ran).toBe('Stopped');
  });

  it('asks a running reconcile to end, begins no other and retries none', async () => {
    const queue = new WorkQueue();
    const ran: string[] = [];
    const reconcile = async (key: string, { signal }: { signal: AbortSignal }) => {
      ran.push(key);
      await until(signal);
      throw new Error('cut short');
    };
    const controller = new Controller({ name: 'c', queue, log, metrics: new Metrics(), concurrency: 1, reconcile });
    const manager = managerOf({ controllers: [controller] });
    const outcome = manager.run();
    queue.add('a');
    queue.add('b');
    setTimeout(() => {
      manager.stop();
    }, 50);
    expect(await outcome).toBe('Stopped');
    expect(ran).toEqual(['a']);
    expect(controller.active).toEqual([]);
  });
});

describe('HealthServer', () => {
  it('says whether it is ready and what is missing, and shows the metrics', async () => {
    const metrics = new Metrics();
    metrics.counter('isthmus_test_total', 'Tests.').add({ site: 'a"b\\c\nd' }, 2);
    metrics.gauge('isthmus_now', 'Now.', () => [[{}, 1.5]]);
    metrics.gauge('isthmus_now', 'Now.', () => [[{ other: 'x' }, 2]]);
    const missing = ['widgets: cache not synced'];
    const server = new HealthServer({ address: '127.0.0.1:0', metrics, notReady: () => missing });
    const port = await server.start();
    try {
      expect(await get(port, '/healthz')).toEqual({ status: 200, body: 'ok\n' });
      expect(await get(port, '/readyz')).toEqual({ status: 503, body: 'widgets: cache not synced\n' });
      missing.length = 0;
      expect(await get(port, '/readyz?verbose')).toEqual({ status: 200, body: 'ok\n' });
      expect((await get(port, '/metrics')).body).toBe(
        '# HELP isthmus_test_total Tests.\n# TYPE isthmus_test_total counter\nisthmus_test_total{site="a\\"b\\\\c\\nd"} 2\n' +
          '# HELP isthmus_now Now.\n# TYPE isthmus_now gauge\nisthmus_now 1.5\nisthmus_now{other="x"} 2\n',
      );
      expect((await get(port, '/')).status).toBe(404);
    } finally {
      await server.stop();
    }
  });

  it.each(['', '8081', 'localhost', '::1:x'])('refuses the address %j', async (address) => {
    const server = new HealthServer({ address, metrics: new Metrics(), notReady: () => [] });
    await expect(server.start()).rejects.toMatchObject({ code: 'HEALTH_ADDRESS' });
  });
});
