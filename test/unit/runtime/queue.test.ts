import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';

import { WorkQueue } from '../../../controllers/runtime/queue.js';

let queue: WorkQueue;

beforeEach(() => {
  jest.useFakeTimers();
  queue = new WorkQueue();
});

afterEach(() => {
  queue.stop();
  jest.useRealTimers();
});

/** The keys that can be taken now, each given back. */
async function drain(): Promise<string[]> {
  const keys: string[] = [];
  while (queue.length > 0) {
    const key = await queue.take();
    if (key === undefined) break;
    keys.push(key);
    queue.done(key);
  }
  return keys;
}

interface Case {
  readonly reason: string;
  readonly act: () => Promise<void> | void;
  readonly left: readonly string[];
}

const CASES: readonly Case[] = [
  {
    reason: 'a key added twice is worked on once, in the order of the first time',
    act: () => {
      for (const key of ['a', 'b', 'a']) queue.add(key);
    },
    left: ['a', 'b'],
  },
  {
    reason: 'a key added while it is worked on waits until it is given back, or two workers would meet',
    act: async () => {
      queue.add('a');
      await queue.take();
      queue.add('a');
      queue.add('b');
      expect(await queue.take()).toBe('b');
      queue.done('a');
    },
    left: ['a'],
  },
  {
    reason: 'a key that nobody added meanwhile is not handed out again',
    act: async () => {
      queue.add('a');
      await queue.take();
      queue.done('a');
    },
    left: [],
  },
  {
    reason: 'a key added with a delay comes after it',
    act: async () => {
      queue.addAfter('a', 1000);
      await jest.advanceTimersByTimeAsync(999);
      expect(queue.length).toBe(0);
      await jest.advanceTimersByTimeAsync(1);
    },
    left: ['a'],
  },
  {
    reason: 'of two delays the sooner counts and the later is forgotten, or timers would pile up',
    act: async () => {
      queue.addAfter('a', 1000);
      queue.addAfter('a', 100);
      queue.addAfter('a', 5000);
      await jest.advanceTimersByTimeAsync(100);
      expect(await drain()).toEqual(['a']);
      await jest.advanceTimersByTimeAsync(10_000);
    },
    left: [],
  },
  {
    reason: 'a waiting taker gets a key at once',
    act: async () => {
      const taken = queue.take();
      queue.add('a');
      expect(await taken).toBe('a');
    },
    left: [],
  },
  {
    reason: 'a stopped queue hands out nothing, neither what waits nor what is added or due later',
    act: async () => {
      const idle = new WorkQueue();
      const waiting = idle.take();
      idle.addAfter('a', 10);
      idle.stop();
      idle.add('b');
      await jest.advanceTimersByTimeAsync(20);
      expect([await waiting, await idle.take(), idle.length]).toEqual([undefined, undefined, 0]);
      expect(jest.getTimerCount()).toBe(0);
    },
    left: [],
  },
];

describe('WorkQueue', () => {
  it.each(CASES)('$reason', async ({ act, left }) => {
    await act();
    expect(await drain()).toEqual(left);
  });

  it('retries a key ever later, up to a minute, until it is forgotten', async () => {
    const delays: number[] = [];
    const retry = async () => {
      const start = performance.now();
      queue.addRateLimited('a');
      while (queue.length === 0) await jest.advanceTimersToNextTimerAsync();
      await drain();
      return performance.now() - start;
    };
    for (let failure = 0; failure < 14; failure += 1) delays.push(await retry());
    for (const [failure, delay] of delays.entries()) {
      const full = Math.min(60_000, 50 * 2 ** failure);
      expect(delay).toBeGreaterThanOrEqual(Math.floor(full / 2));
      expect(delay).toBeLessThanOrEqual(full + 1);
    }
    queue.forget('a');
    expect(await retry()).toBeLessThanOrEqual(51);
  });
});
