import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { settledLatency } from '../../../reconcilers/underlay/finding.js';
import { Link } from '../../../reconcilers/underlay/link.js';

describe('a latency as it is told', () => {
  it.each([
    { reason: 'two digits are enough', told: undefined, measured: 123.4, tells: 120 },
    { reason: 'whole ms', told: undefined, measured: 4.44, tells: 4 },
    { reason: 'a ms is the least', told: undefined, measured: 0.2, tells: 1 },
    { reason: 'noise is no news', told: 120, measured: 150, tells: 120 },
    { reason: 'nor is half as much again', told: 120, measured: 180, tells: 120 },
    { reason: 'more than that is', told: 120, measured: 184, tells: 180 },
    { reason: 'less by more than half is', told: 120, measured: 50, tells: 50 },
    { reason: 'a ms is noise, however small the figure', told: 1, measured: 1.9, tells: 1 },
    { reason: 'more than a ms is not', told: 1, measured: 2.6, tells: 3 },
  ])('$reason', ({ told, measured, tells }) => {
    expect(settledLatency(told, measured)).toBe(tells);
  });
});

const times = { intervalMs: 40, graceMs: 60, retryMs: 10 };
const up = { isUp: true, diagnostic: 'No Diagnostic' };
const down = { isUp: false, diagnostic: 'Control Detection Time Expired' };

const pass = async (ms: number): Promise<void> => {
  await jest.advanceTimersByTimeAsync(ms);
};

describe('a link', () => {
  let carries: number;
  let promised: number | undefined;
  let tripMs: number;
  let failure: Error | undefined;
  let asked: number[];
  let told: unknown[];
  let link: Link;

  beforeEach(() => {
    jest.useFakeTimers();
    [carries, promised, tripMs, failure, asked, told] = [9000, 1450, 1, undefined, [], []];
    const way = {
      trip: async (mtu: number) => {
        asked.push(mtu);
        await new Promise((resolve) => setTimeout(resolve, 1));
        if (failure) throw failure;
        return mtu <= carries ? tripMs : undefined;
      },
      promised: () => promised,
    };
    link = new Link(way, times, () => told.push(link.finding));
  });
  afterEach(() => {
    link.close();
    expect(jest.getTimerCount()).toBeLessThanOrEqual(1);
    jest.useRealTimers();
  });

  const good = { state: 'Up', mtu: { carried: 1450, promised: 1450 }, latencyMs: 1 };

  it('that comes up is told once it has been measured, and no more while it is as it was', async () => {
    link.hear(up);
    await pass(220);
    expect(told).toEqual([good]);
    // Three and one at first, then one small and one of full size each time.
    expect(asked.slice(0, 4)).toEqual([68, 68, 68, 1450]);
    const later = asked.slice(4);
    expect(later.length).toBeGreaterThanOrEqual(4);
    expect(later).toEqual(later.map((_, index) => (index % 2 === 0 ? 68 : 1450)));
  });

  it('that goes down is told at once, with what it was; and again when it is back', async () => {
    link.hear(up);
    await pass(20);
    told.length = 0;
    link.hear(down);
    expect(told).toEqual([{ ...good, state: 'Down', why: 'the tunnel is down (BFD: Control Detection Time Expired)' }]);
    const before = asked.length;
    await pass(80);
    expect(asked.length).toBe(before);
    link.hear(up);
    expect(told.slice(1)).toEqual([good]);
  });

  it('that has never been up is given time to come up', async () => {
    link.hear({ isUp: false, diagnostic: '' });
    await pass(20);
    expect(link.finding).toBeUndefined();
    await pass(80);
    expect(told).toEqual([{ state: 'Down', why: 'the tunnel is down (BFD: no session yet)' }]);
  });

  it('of which the switch is silent is not known, once that lasts', async () => {
    link.hear(up);
    await pass(20);
    told.length = 0;
    link.hear(undefined);
    link.hear(up);
    await pass(100);
    expect(told).toEqual([]);
    link.hear(undefined);
    await pass(100);
    expect(told).toEqual([{ ...good, state: 'Unknown', why: 'the switch does not tell' }]);
  });

  it('that gets narrower, and wider again, is told each time', async () => {
    link.hear(up);
    await pass(20);
    carries = 1250;
    await pass(150);
    carries = 9000;
    await pass(100);
    expect(told).toEqual([good, { ...good, mtu: { carried: 1250, promised: 1450 } }, good]);
  });

  it('of which more or less is promised is measured at once', async () => {
    link.hear(up);
    await pass(20);
    promised = 1550;
    link.refresh();
    await pass(15);
    expect(link.finding?.mtu).toEqual({ carried: 1550, promised: 1550 });
    const before = asked.length;
    link.refresh();
    await pass(2);
    expect(asked.length).toBe(before);
  });

  it('that brings no probe back is not called up nor down', async () => {
    carries = 0;
    link.hear(up);
    await pass(40);
    expect(link.finding).toBeUndefined();
    await pass(120);
    expect(told).toEqual([{ state: 'Unknown', why: 'the tunnel is up, but no probe comes back' }]);
    carries = 9000;
    await pass(80);
    expect(link.finding).toEqual(good);
  });

  it('is tried again soon when our own end can’t send yet', async () => {
    failure = new Error('not connected');
    link.hear(up);
    await pass(15);
    failure = undefined;
    await pass(30);
    expect(told).toEqual([good]);
  });

  it('is no news when its latency wavers, and is when it has changed for good', async () => {
    link.hear(up);
    await pass(20);
    tripMs = 40;
    await pass(50);
    expect(told).toHaveLength(1);
    await pass(350);
    expect(link.finding?.latencyMs).toBe(40);
  });

  it('that is no longer followed says nothing and asks nothing', async () => {
    link.hear(up);
    link.close();
    await pass(60);
    expect(told).toEqual([]);
    expect(asked.length).toBeLessThanOrEqual(4);
  });
});
