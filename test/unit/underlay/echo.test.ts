import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Subject, type ObservedValueOf } from 'rxjs';
import type { Action, Switch } from '../../../drivers/openflow/types.js';
import { probeMacs } from '../../../reconcilers/common/identity.js';
import { Echo } from '../../../reconcilers/underlay/echo.js';
import { decodeProbe, encodeProbe } from '../../../reconcilers/underlay/frame.js';

const id = '0123456789abcdef';
const [here, there] = [probeMacs('valencia/a'), probeMacs('lisbon/a')];

describe('the frame of a probe', () => {
  it('has the size of a tenant’s frame with the tag that it has inside', () => {
    const frame = encodeProbe(here.reply, there.request, { id, mtu: 1450 });
    expect(frame.length).toBe(14 + 4 + 1450);
    expect(frame.toString('hex', 0, 18)).toBe(`${there.request}${here.reply}`.replaceAll(':', '') + '81000fff88b5');
    expect(decodeProbe(frame)).toEqual({ id, mtu: 1450 });
  });

  const whole = encodeProbe(here.reply, there.request, { id, mtu: 68 });
  const changed = (at: number, value: number): Buffer => {
    const frame = Buffer.from(whole);
    frame[at] = value;
    return frame;
  };
  it.each([
    { reason: 'is empty', frame: Buffer.alloc(0) },
    { reason: 'ends within its id', frame: whole.subarray(0, 29) },
    { reason: 'has no tag', frame: changed(12, 0x08) },
    { reason: 'has another tag', frame: changed(15, 0x64) },
    { reason: 'is of another type', frame: changed(17, 0x00) },
    { reason: 'says something else', frame: changed(18, 0x00) },
  ])('is not one that $reason', ({ frame }) => {
    expect(decodeProbe(frame)).toBeUndefined();
  });

  it('may have a priority in its tag', () => {
    expect(decodeProbe(changed(14, 0xef))).toEqual({ id, mtu: 68 });
  });
});

type PacketIn = ObservedValueOf<Switch['packetIn']>;

const backMs = 5;

/** A switch of which the other end sends back what it likes. */
class Wire {
  readonly packetIn = new Subject<PacketIn>();
  readonly sent: Buffer[] = [];
  answer: (frame: Buffer, count: number) => Buffer | undefined = () => undefined;
  failure: Error | undefined;
  /** When what it was given is sent. */
  barrier: () => Promise<void> = () => Promise.resolve();

  packetOut(_port: number | 'controller', _actions: readonly Action[], data: Uint8Array): Promise<void> {
    if (this.failure) return Promise.reject(this.failure);
    const frame = Buffer.from(data);
    this.sent.push(frame);
    const back = this.answer(frame, this.sent.length);
    if (back) setTimeout(() => this.arrive(back), backMs);
    return Promise.resolve();
  }

  arrive(data: Buffer): void {
    this.packetIn.next({ inPort: 1, cookie: 0n, table: 0, data, metadata: 0n, tunnelId: 0n });
  }
}

const untilOver = 200;

describe('a trip', () => {
  let wire: Wire;
  let echo: Echo;
  beforeEach(() => {
    jest.useFakeTimers();
    wire = new Wire();
    echo = new Echo(wire, 'valencia/a', () => 1, { deadlineMs: 60, againMs: 20 });
  });
  afterEach(() => {
    echo.close();
    expect(jest.getTimerCount()).toBe(0);
    jest.useRealTimers();
  });

  const trip = async (mtu: number, by = echo): Promise<number | undefined> => {
    const result = by.trip('lisbon/a', mtu);
    result.catch(() => undefined);
    await jest.advanceTimersByTimeAsync(untilOver);
    return await result;
  };

  it('takes one frame, from here to the peer, and some time', async () => {
    wire.answer = (frame) => frame;
    expect(await trip(1450)).toBe(backMs);
    expect(wire.sent.map((frame) => frame.toString('hex', 0, 12))).toEqual([
      `${there.request}${here.reply}`.replaceAll(':', ''),
    ]);
  });

  it.each([
    { reason: 'is lost when nothing comes back', answer: () => undefined },
    { reason: 'is lost when less comes back than was sent', answer: (frame: Buffer) => frame.subarray(0, 60) },
    {
      reason: 'is lost when another’s comes back',
      answer: () => encodeProbe(here.reply, there.request, { id, mtu: 68 }),
    },
    { reason: 'is lost when it is no probe that comes back', answer: () => Buffer.alloc(86) },
  ])('$reason, after three frames', async ({ answer }) => {
    wire.answer = answer;
    expect(await trip(68)).toBeUndefined();
    expect(wire.sent).toHaveLength(3);
  });

  it('is not lost with one frame, and its time is that of the one that came back', async () => {
    wire.answer = (frame, count) => (count === 3 ? frame : undefined);
    expect(await trip(68)).toBe(backMs);
    expect(wire.sent).toHaveLength(3);
  });

  it('fails where it can’t be sent from: that says nothing of the way', async () => {
    wire.failure = new Error('not connected');
    await expect(trip(68)).rejects.toThrow('not connected');
    const unjoined = new Echo(wire, 'valencia/a', () => undefined, { deadlineMs: 60, againMs: 20 });
    await expect(trip(68, unjoined)).rejects.toThrow('not joined');
    unjoined.close();
  });

  it('is not lost that the switch was never told of', async () => {
    wire.barrier = () => Promise.reject(new Error('no answer'));
    await expect(trip(68)).rejects.toThrow('no answer');
  });

  it('is not lost while our own connection to the switch is slow', async () => {
    wire.barrier = () => new Promise((resolve) => setTimeout(resolve, untilOver));
    wire.answer = (frame, count) => {
      if (count === 1) setTimeout(() => wire.arrive(frame), untilOver - 10);
      return undefined;
    };
    const open = echo.trip('lisbon/a', 68);
    await jest.advanceTimersByTimeAsync(2 * untilOver);
    expect(await open).toBe(untilOver - 10);
  });

  it('ends with who makes it', async () => {
    const open = echo.trip('lisbon/a', 68);
    echo.close();
    expect(await open).toBeUndefined();
  });
});
