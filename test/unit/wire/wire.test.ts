import { describe, expect, it, jest } from '@jest/globals';
import { Backoff } from '../../../drivers/wire/backoff.js';
import { checkIdentity } from '../../../drivers/wire/dial.js';
import { EndpointError, parseEndpoint } from '../../../drivers/wire/endpoint.js';
import { IdleWatch } from '../../../drivers/wire/idle.js';
import { Waiters } from '../../../drivers/wire/waiters.js';

describe('an endpoint', () => {
  const accepted = [
    {
      reason: 'a host by address',
      text: 'tcp:198.51.100.11:6640',
      parsed: { kind: 'tcp', host: '198.51.100.11', port: 6640 },
    },
    {
      reason: 'a host by name, over TLS',
      text: 'ssl:a.example.org:6654',
      parsed: { kind: 'ssl', host: 'a.example.org', port: 6654 },
    },
    {
      reason: 'IPv6 in brackets, since it has colons',
      text: 'tcp:[fd00::1]:6640',
      parsed: { kind: 'tcp', host: 'fd00::1', port: 6640 },
    },
    {
      reason: 'a socket in the file system',
      text: 'unix:/run/db.sock',
      parsed: { kind: 'unix', path: '/run/db.sock' },
    },
  ];
  it.each(accepted)('may be $reason', ({ text, parsed }) => {
    expect(parseEndpoint(text)).toEqual({ ...parsed, text });
  });

  const refused = [
    { reason: 'nothing', text: '' },
    { reason: 'no scheme', text: '198.51.100.11:6640' },
    { reason: 'a listener, which is for the other side to have', text: 'ptcp:6640' },
    { reason: 'no port', text: 'tcp:198.51.100.11' },
    { reason: 'port 0', text: 'tcp:a:0' },
    { reason: 'a port beyond 16 bits', text: 'tcp:a:65536' },
    { reason: 'no host', text: 'tcp::6640' },
    { reason: 'IPv6 without brackets', text: 'tcp:fd00::1:6640' },
    { reason: 'brackets around no address', text: 'tcp:[a]:6640' },
    { reason: 'a relative path', text: 'unix:db.sock' },
    { reason: 'words after it', text: 'tcp:a:1 b' },
  ];
  it.each(refused)('is not $reason', ({ text }) => {
    expect(() => parseEndpoint(text)).toThrow(EndpointError);
  });

  it('over TLS needs an identity', () => {
    expect(() => checkIdentity(parseEndpoint('ssl:a:1'), undefined)).toThrow(
      'ssl:a:1 needs a client certificate, a key and a CA',
    );
    checkIdentity(parseEndpoint('tcp:a:1'), undefined);
  });
});

describe('back-off', () => {
  it('doubles from 0.2 s to 5 s, spreads each delay over its upper half, and begins again', () => {
    for (const [random, expected] of [
      [0, [200, 400, 800, 1600, 2500, 2500]],
      [1, [400, 800, 1600, 3200, 5000, 5000]],
    ] as const) {
      const backoff = new Backoff(200, 5000, () => random);
      expect(expected.map(() => backoff.next())).toEqual(expected);
      backoff.reset();
      expect(backoff.next()).toBe(expected[0]);
    }
  });
});

describe('the idle watch', () => {
  it('probes after the interval, gives up after as long again, and starts over at a sign of life', () => {
    jest.useFakeTimers();
    try {
      const events: string[] = [];
      const watch = new IdleWatch(100, () => events.push('probe'), () => events.push('dead')); // prettier-ignore
      jest.advanceTimersByTime(60);
      watch.heard();
      jest.advanceTimersByTime(90);
      expect(events).toEqual([]);
      jest.advanceTimersByTime(20);
      expect(events).toEqual(['probe']);
      watch.heard();
      jest.advanceTimersByTime(101);
      expect(events).toEqual(['probe', 'probe']);
      jest.advanceTimersByTime(101);
      expect(events).toEqual(['probe', 'probe', 'dead']);
      watch.stop();
      expect(jest.getTimerCount()).toBe(0);
    } finally {
      jest.useRealTimers();
    }
  });
});

describe('waiters', () => {
  const late = () => new Error('late');

  it('resolve with what is taken from the reply, once', async () => {
    const waiters = new Waiters<number>();
    const waiting = waiters.wait(1, 1000, late, (reply) => ({ result: reply * 2 }));
    expect(waiters.deliver(2, 0)).toBe(false);
    expect(waiters.deliver(1, 21)).toBe(true);
    expect(waiters.deliver(1, 22)).toBe(false);
    expect(await waiting).toBe(42);
  });

  it('wait on while more is to come', async () => {
    const waiters = new Waiters<number>();
    const seen: number[] = [];
    const waiting = waiters.wait(1, 1000, late, (reply) => (seen.push(reply) < 3 ? undefined : { result: seen }));
    for (const reply of [5, 6, 7]) waiters.deliver(1, reply);
    expect(await waiting).toEqual([5, 6, 7]);
  });

  it('wait on for ten deadlines at most, however often more is to come', async () => {
    jest.useFakeTimers();
    try {
      const waiters = new Waiters<number>();
      let outcome = 'none yet';
      waiters.wait(1, 100, late, () => undefined).catch((error: unknown) => (outcome = String(error)));
      for (let ms = 0; ms < 900; ms += 50) {
        waiters.deliver(1, 0);
        await jest.advanceTimersByTimeAsync(50);
        expect(outcome).toBe('none yet');
      }
      await jest.advanceTimersByTimeAsync(100);
      expect(outcome).toBe('Error: late');
      expect(jest.getTimerCount()).toBe(0);
    } finally {
      jest.useRealTimers();
    }
  });

  it('fail at the deadline, by a refusal, and all when the connection is lost, also those that come later', async () => {
    const waiters = new Waiters<number>();
    const wait = (serial: number, timeoutMs: number) => waiters.wait(serial, timeoutMs, late, (result) => ({ result }));
    const calls = [wait(1, 5), wait(2, 1000), wait(3, 1000)];
    const outcomes = Promise.allSettled(calls);
    expect(waiters.fail(2, new Error('refused'))).toBe(true);
    await expect(calls[0]).rejects.toThrow('late');
    waiters.failAll(new Error('lost'));
    const reasons = (await outcomes).map((outcome) => outcome.status === 'rejected' && String(outcome.reason));
    expect(reasons).toEqual(['Error: late', 'Error: refused', 'Error: lost']);
    await expect(wait(4, 1000)).rejects.toThrow('lost');
  });
});
