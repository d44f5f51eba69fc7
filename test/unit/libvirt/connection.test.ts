import { afterEach, describe, expect, it } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { firstValueFrom, toArray } from 'rxjs';
import type { RpcOptions } from '../../../drivers/libvirt/connection.js';
import { ERR_NO_DOMAIN } from '../../../drivers/libvirt/constants.js';
import { LibvirtConnectionError, LibvirtError, LibvirtTimeoutError } from '../../../drivers/libvirt/errors.js';
import { encodeMessage, MessageStatus, MessageType, type Message } from '../../../drivers/libvirt/message.js';
import {
  events,
  keepalivePing,
  keepalivePong,
  keepaliveProgram,
  procedures,
  remoteProgram,
} from '../../../drivers/libvirt/protocol.js';
import { encode } from '../../../drivers/libvirt/xdr.js';
import { errorOf, pair, type Pair, type Peer } from './peer.js';

let open: Pair | undefined;

async function connected(options?: Partial<RpcOptions>): Promise<Pair> {
  open = await pair(options);
  return open;
}

afterEach(async () => {
  await open?.release();
  open = undefined;
});

const { connectGetType, connectGetHostname, domainDestroyFlags, storageVolDownload, storageVolUpload } = procedures;
const someDomain = { name: 'a', uuid: '00000000-0000-4000-8000-000000000001', id: 1 };
const typeBytes = (type: string): Buffer => encode(connectGetType.result, { type });
const transfer = { vol: { pool: 'p', name: 'v', key: 'v' }, offset: 0n, length: 0n, flags: 0 };
const outcome = (promise: Promise<unknown>): Promise<unknown> => promise.catch((error: unknown) => error);

describe('calls', () => {
  it('get their own answers in whatever order these come', async () => {
    const { rpc, peer } = await connected();
    const answers = Promise.all(['a', 'b', 'c'].map(() => rpc.call(connectGetType, undefined)));
    const calls = [await peer.next(), await peer.next(), await peer.next()];
    for (const [index, call] of [...calls.entries()].reverse()) peer.reply(call, typeBytes(`type ${index}`));
    expect(await answers).toEqual([{ type: 'type 0' }, { type: 'type 1' }, { type: 'type 2' }]);
  });

  it("fail with the daemon's error", async () => {
    const { rpc, peer } = await connected();
    const answer = outcome(rpc.call(connectGetType, undefined));
    peer.refuse(await peer.next(), ERR_NO_DOMAIN, 'no such thing');
    expect(await answer).toBeInstanceOf(LibvirtError);
    expect(await answer).toMatchObject({
      code: ERR_NO_DOMAIN,
      kind: 'NO_DOMAIN',
      domain: 10,
      level: 2,
      message: 'no such thing',
    });
  });

  it('beyond the limit wait here, first come first served', async () => {
    const { rpc, peer } = await connected({ maxCallsInFlight: 2 });
    const answers = ['a', 'b', 'c', 'd'].map(() => rpc.call(connectGetType, undefined));
    const first = await peer.next();
    const second = await peer.next();
    await sleep(20);
    expect(peer.waiting).toBe(0);
    peer.reply(second, typeBytes('second'));
    const third = await peer.next();
    expect(third.header.serial).toBe(second.header.serial + 1);
    peer.reply(first, typeBytes('first'));
    peer.reply(third, typeBytes('third'));
    peer.reply(await peer.next(), typeBytes('fourth'));
    expect((await Promise.all(answers)).map(({ type }) => type)).toEqual(['first', 'second', 'third', 'fourth']);
  });

  it('that change something are not sent once nothing may be changed, nor is what waited for its turn; what only asks is', async () => {
    let isLeading = true;
    const assertMayChange = (): void => {
      if (!isLeading) throw new Error('another may lead by now');
    };
    const { rpc, peer } = await connected({ maxCallsInFlight: 1, assertMayChange });
    const destroy = (): Promise<unknown> => outcome(rpc.call(domainDestroyFlags, { dom: someDomain, flags: 0 }));
    const [sent, waiting] = [destroy(), destroy()];
    const first = await peer.next();
    isLeading = false;
    const asked = rpc.call(connectGetType, undefined);
    peer.reply(first);
    const second = await peer.next();
    expect(second.header.procedure).toBe(connectGetType.number);
    peer.reply(second, typeBytes('QEMU'));
    expect(await sent).toBeUndefined();
    expect(await waiting).toMatchObject({ message: 'another may lead by now' });
    expect(await asked).toEqual({ type: 'QEMU' });
    expect(await destroy()).toMatchObject({ message: 'another may lead by now' });
    expect(peer.waiting).toBe(0);
  });

  it('can be taken back while they wait, not once they were sent', async () => {
    const { rpc, peer } = await connected({ maxCallsInFlight: 2 });
    const both = new AbortController();
    const [sent, waiting, late] = [both.signal, both.signal, AbortSignal.abort(new Error('already'))].map((signal) =>
      outcome(rpc.call(connectGetHostname, undefined, 'none', signal)),
    );
    both.abort(new Error('taken back'));
    expect(await waiting).toMatchObject({ message: 'taken back' });
    expect(await late).toMatchObject({ message: 'already' });
    const call = await peer.next();
    peer.reply(call, encode(connectGetHostname.result, { hostname: 'a' }));
    expect(await sent).toEqual({ hostname: 'a' });
    expect(peer.waiting).toBe(0);
  });

  it('without a deadline leave one place to the others', async () => {
    const { rpc, peer } = await connected({ maxCallsInFlight: 2 });
    const long = [1, 2].map(() => outcome(rpc.call(connectGetHostname, undefined, 'none')));
    const short = rpc.call(connectGetType, undefined);
    expect((await peer.next()).header.procedure).toBe(connectGetHostname.number);
    const second = await peer.next();
    expect(second.header.procedure).toBe(connectGetType.number);
    peer.reply(second, typeBytes('x'));
    await short;
    rpc.fail(undefined);
    expect(await Promise.all(long)).toEqual([expect.any(LibvirtConnectionError), expect.any(LibvirtConnectionError)]);
  });

  it('have a deadline, and a late answer harms nobody', async () => {
    const { rpc, peer } = await connected();
    expect(await outcome(rpc.call(connectGetType, undefined, 20))).toBeInstanceOf(LibvirtTimeoutError);
    peer.reply(await peer.next(), typeBytes('late'));
    const next = rpc.call(connectGetType, undefined);
    peer.reply(await peer.next(), typeBytes('in time'));
    expect(await next).toEqual({ type: 'in time' });
  });

  it('that were never sent are not sent after their deadline', async () => {
    const { rpc, peer } = await connected({ maxCallsInFlight: 1 });
    const first = rpc.call(connectGetType, undefined);
    const error = await outcome(rpc.call(connectGetHostname, undefined, 20));
    expect(error).toMatchObject({ message: expect.stringContaining('was not sent') });
    peer.reply(await peer.next(), typeBytes('x'));
    await first;
    await sleep(20);
    expect(peer.waiting).toBe(0);
  });

  it('end the connection when the daemon holds as many as it may and answers none', async () => {
    const { rpc } = await connected({ maxCallsInFlight: 2 });
    const calls = [10, 20, 5000].map((deadline) => outcome(rpc.call(connectGetType, undefined, deadline)));
    expect(await Promise.all(calls)).toEqual([
      expect.any(LibvirtTimeoutError),
      expect.any(LibvirtTimeoutError),
      expect.objectContaining({ code: 'LIBVIRT_UNRESPONSIVE' }),
    ]);
  });

  it('that can not be written fail alone', async () => {
    const { rpc, peer } = await connected();
    const error = await outcome(rpc.call(procedures.domainLookupByName, { name: 'a\0b' }));
    expect(error).toMatchObject({ code: 'LIBVIRT_MALFORMED' });
    const next = rpc.call(connectGetType, undefined);
    peer.reply(await peer.next(), typeBytes('x'));
    expect(await next).toEqual({ type: 'x' });
  });
});

describe('the end of a connection', () => {
  it('fails calls that wait, sent or not, and streams; events complete', async () => {
    const { rpc, peer } = await connected({ maxCallsInFlight: 2 });
    const lifecycle = firstValueFrom(rpc.on(events.domainLifecycle).pipe(toArray()));
    const opening = rpc.openStream(storageVolDownload, transfer);
    peer.reply(await peer.next());
    const stream = await opening;
    const waiting = [1, 2, 3].map(() => outcome(rpc.call(connectGetType, undefined)));
    const reading = outcome(stream.read());
    peer.socket.destroy();
    const errors = await Promise.all([...waiting, reading]);
    expect(new Set(errors).size).toBe(1);
    expect(errors[0]).toMatchObject({ code: 'LIBVIRT_CLOSED' });
    expect(await rpc.ended).toBe(errors[0]);
    expect(await lifecycle).toEqual([]);
    expect(await outcome(rpc.call(connectGetType, undefined))).toBe(errors[0]);
  });

  it('on close() is no error, even with calls under way that are answered meanwhile', async () => {
    const { rpc, peer } = await connected();
    const waiting = outcome(rpc.call(connectGetType, undefined));
    const call = await peer.next();
    const closing = rpc.close();
    const farewell = await peer.next();
    expect(farewell.header.procedure).toBe(procedures.connectClose.number);
    peer.reply(call, typeBytes('x'));
    peer.reply(farewell);
    await closing;
    expect(await waiting).toMatchObject({ code: 'LIBVIRT_CLOSED' });
    expect(await rpc.ended).toBeUndefined();
  });
});

describe('a peer that breaks the protocol', () => {
  const reply = (call: Message, change: object, payload: Uint8Array): Buffer =>
    encodeMessage({ ...call.header, type: MessageType.reply, ...change }, payload);

  const cases: readonly { reason: string; answer: (call: Message) => Buffer }[] = [
    { reason: 'an answer that nobody asked for', answer: (call) => reply(call, { serial: 999 }, typeBytes('x')) },
    { reason: 'the answer of another procedure', answer: (call) => reply(call, { procedure: 4 }, typeBytes('x')) },
    {
      reason: 'the answer of another program',
      answer: (call) => reply(call, { program: { id: 0x2000_8087, version: 1 } }, typeBytes('x')),
    },
    {
      reason: 'the answer of another version',
      answer: (call) => reply(call, { program: { id: remoteProgram.id, version: 2 } }, typeBytes('x')),
    },
    { reason: 'an empty answer', answer: (call) => reply(call, {}, Buffer.alloc(0)) },
    { reason: 'too long an answer', answer: (call) => reply(call, {}, Buffer.alloc(64)) },
    {
      reason: 'an error that is none',
      answer: (call) => reply(call, { status: MessageStatus.error }, Buffer.alloc(3)),
    },
    { reason: 'a call', answer: (call) => encodeMessage(call.header, Buffer.alloc(0)) },
    { reason: 'a length that lies', answer: () => Buffer.from('ffffffff00', 'hex') },
    { reason: 'a message cut short by the next', answer: (call) => reply(call, {}, typeBytes('x')).subarray(0, 30) },
    {
      reason: 'an event that can not be read',
      answer: () => {
        const header = { program: remoteProgram, procedure: events.domainLifecycle.number, type: MessageType.event };
        return encodeMessage({ ...header, serial: 0, status: MessageStatus.ok }, Buffer.alloc(4));
      },
    },
  ];

  it.each(cases)('is left, every waiter told: $reason', async ({ answer }) => {
    const { rpc, peer } = await connected();
    rpc.on(events.domainLifecycle);
    const answers = [1, 2].map(() => outcome(rpc.call(connectGetType, undefined)));
    const bytes = answer(await peer.next());
    peer.socket.write(Buffer.concat([bytes, bytes]));
    const [error, other] = await Promise.all(answers);
    expect(error).toMatchObject({ code: 'LIBVIRT_PROTOCOL', cause: { code: 'LIBVIRT_MALFORMED' } });
    expect(other).toBe(error);
    expect(await rpc.ended).toBe(error);
  });

  it('is left whatever garbage it sends, without a crash or a hang', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 32, maxLength: 400 }), async (garbage) => {
        const { rpc, peer, release } = await pair();
        const answer = outcome(rpc.call(connectGetType, undefined));
        await peer.next();
        peer.socket.end(garbage);
        expect(await answer).toBeInstanceOf(LibvirtConnectionError);
        await release();
      }),
      { seed: 7, numRuns: 50 },
    );
  });
});

describe('keepalive', () => {
  const ping = {
    program: keepaliveProgram,
    procedure: keepalivePing,
    type: MessageType.event,
    serial: 0,
    status: MessageStatus.ok,
  };

  it('answers a ping', async () => {
    const { peer } = await connected();
    peer.send(ping);
    expect((await peer.next()).header).toEqual({ ...ping, procedure: keepalivePong });
  });

  it('pings a silent peer and gives it up after count', async () => {
    const { rpc, peer } = await connected({ keepalive: { intervalMs: 20, count: 3 } });
    const headers = [await peer.next(), await peer.next(), await peer.next()].map(({ header }) => header);
    expect(headers).toEqual([ping, ping, ping]);
    expect(await rpc.ended).toMatchObject({ code: 'LIBVIRT_UNRESPONSIVE' });
    expect(peer.waiting).toBe(0);
  });

  it('does not blame the peer for a pause of ours', async () => {
    const { rpc, peer } = await connected({ keepalive: { intervalMs: 40, count: 1 } });
    await peer.next();
    peer.send({ ...ping, procedure: keepalivePong });
    const end = performance.now() + 200;
    while (performance.now() < end);
    await sleep(5);
    expect(rpc.isOpen).toBe(true);
  });

  it('keeps a peer that sends a large answer slowly', async () => {
    const { rpc, peer } = await connected({ keepalive: { intervalMs: 100, count: 1 } });
    const answer = rpc.call(connectGetType, undefined);
    const { header } = await peer.next();
    const bytes = encodeMessage({ ...header, type: MessageType.reply }, typeBytes('slow'));
    for (const byte of bytes.subarray(0, 12)) {
      peer.socket.write(Uint8Array.of(byte));
      await sleep(30);
    }
    peer.socket.write(bytes.subarray(12));
    expect(await answer).toEqual({ type: 'slow' });
  });
});

describe('streams', () => {
  async function download(peer: Peer, rpc: Pair['rpc']) {
    const opening = rpc.openStream(storageVolDownload, transfer);
    const call = await peer.next();
    peer.reply(call);
    return { stream: await opening, call };
  }

  it('keep data that come before the answer', async () => {
    const { rpc, peer } = await connected();
    const opening = rpc.openStream(storageVolDownload, transfer);
    const call = await peer.next();
    peer.stream(call, MessageStatus.more, Buffer.from('early'));
    peer.reply(call);
    peer.stream(call, MessageStatus.more, Buffer.from('later'));
    peer.stream(call, MessageStatus.more);
    const stream = await opening;
    expect((await stream.read())?.toString()).toBe('early');
    expect((await stream.read())?.toString()).toBe('later');
    expect(await stream.read()).toBeUndefined();
  });

  it('finish when the daemon confirms', async () => {
    const { rpc, peer } = await connected();
    const opening = rpc.openStream(storageVolUpload, transfer);
    const call = await peer.next();
    peer.reply(call);
    const stream = await opening;
    await stream.write(Buffer.alloc(300_000, 1));
    const [first, second] = [await peer.next(), await peer.next()];
    expect([first.payload.length, second.payload.length]).toEqual([262_120, 37_880]);
    expect(first.header).toMatchObject({
      type: MessageType.stream,
      status: MessageStatus.more,
      serial: call.header.serial,
    });
    const finished = stream.finish();
    expect((await peer.next()).header.status).toBe(MessageStatus.ok);
    peer.stream(call, MessageStatus.ok);
    await finished;
  });

  it("fail with the daemon's error, reading, writing and finishing", async () => {
    const { rpc, peer } = await connected();
    const { stream, call } = await download(peer, rpc);
    const reading = outcome(stream.read());
    peer.stream(call, MessageStatus.error, errorOf(38, 'disk full'));
    expect(await reading).toMatchObject({ name: 'LibvirtError', message: 'disk full' });
    expect(await outcome(stream.write(Buffer.alloc(1)))).toBe(await reading);
    expect(await outcome(stream.finish())).toBe(await reading);
    await stream.abort();
  });

  it('are not written to faster than the peer reads', async () => {
    const { rpc, peer } = await connected({ callTimeoutMs: 100 });
    const { stream } = await download(peer, rpc);
    peer.socket.pause();
    let written = 0;
    const flood = (async () => {
      for (;;) {
        await stream.write(Buffer.alloc(262_120));
        written += 262_120;
      }
    })();
    expect(await outcome(flood)).toBeInstanceOf(LibvirtTimeoutError);
    expect(written).toBeLessThan(16 * 1024 * 1024);
    peer.socket.resume();
  });

  it('are aborted when nobody reads them, the connection lives on', async () => {
    const { rpc, peer } = await connected();
    const { stream, call } = await download(peer, rpc);
    for (let sent = 0; sent <= 32 * 1024 * 1024; sent += 1024 * 1024) {
      peer.stream(call, MessageStatus.more, Buffer.alloc(1024 * 1024));
    }
    expect((await peer.next()).header.status).toBe(MessageStatus.error);
    peer.stream(call, MessageStatus.ok);
    expect(await outcome(stream.read())).toMatchObject({ message: expect.stringContaining('unread') });
    const next = rpc.call(connectGetType, undefined);
    peer.reply(await peer.next(), typeBytes('x'));
    expect(await next).toEqual({ type: 'x' });
  });

  it('that open too late are aborted', async () => {
    const { rpc, peer } = await connected({ callTimeoutMs: 20 });
    expect(await outcome(rpc.openStream(storageVolDownload, transfer))).toBeInstanceOf(LibvirtTimeoutError);
    const call = await peer.next();
    peer.reply(call);
    expect((await peer.next()).header).toMatchObject({
      type: MessageType.stream,
      status: MessageStatus.error,
      serial: call.header.serial,
    });
    peer.stream(call, MessageStatus.ok);
  });

  it('do not hang when the end is not confirmed', async () => {
    const { rpc, peer } = await connected({ callTimeoutMs: 50 });
    const { stream } = await download(peer, rpc);
    expect(await outcome(stream.finish())).toBeInstanceOf(LibvirtTimeoutError);
  });
});
