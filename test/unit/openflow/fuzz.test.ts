import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import {
  flowBody,
  flowKey,
  OpenFlowConnectionError,
  OpenFlowError,
  OpenFlowTimeoutError,
  openSwitch,
  type Switch,
} from '../../../drivers/openflow/index.js';
import { Framer, readMessage } from '../../../drivers/openflow/messages.js';
import { MalformedError } from '../../../drivers/wire/malformed.js';
import { ScriptedServer } from '../../support/scripted-server.js';
import { cut, failuresOf, inCase, reasonsOf, sample, seeded, sizes, spoiling } from '../wire/support/fuzz.js';

/** One message of each kind that Open vSwitch 3.1 sent to this client, in hexadecimal. */
const RECORDED = readFileSync(new URL('recorded.txt', import.meta.url), 'utf8')
  .trim()
  .split('\n')
  .map((line) => Buffer.from(line, 'hex'));
const STREAM = Buffer.concat(RECORDED);

const MULTIPART = 19;
const typeOf = (message: Buffer) => message.readUInt8(1);

function recorded(type: number, part?: number): Buffer {
  const is = (message: Buffer) => typeOf(message) === type && (part === undefined || message.readUInt16BE(8) === part);
  const message = RECORDED.find(is);
  if (message === undefined) throw new Error('no such message was recorded');
  return message;
}

const HELLO = recorded(0);
const UNASKED = [recorded(1), recorded(10), recorded(11)];

/** What a switch answers, but for the xid. */
function answerTo(request: Buffer): Buffer | undefined {
  switch (typeOf(request)) {
    case 2:
      return recorded(3);
    case 4:
      return request.readUInt32BE(12) === 2300 ? recorded(4) : undefined;
    case 5:
      return recorded(6);
    case 18:
      return recorded(MULTIPART, request.readUInt16BE(8));
    case 20:
      return recorded(21);
    default:
      return undefined;
  }
}

function flowsIn(message: Buffer): string[] {
  const read = readMessage(message);
  return read.type === 'flows' ? read.flows.map((flow) => flowKey(flow) + flowBody(flow)) : [];
}

/** Reads it, or finds it malformed; whoever compares what was read must not stumble over it either. */
function read(message: Buffer): void {
  try {
    flowsIn(message);
  } catch (error) {
    if (!(error instanceof MalformedError)) throw error;
  }
}

describe('the OpenFlow codec, fuzzed', () => {
  it('has a good stream to begin with', () => {
    expect([...new Framer().push(STREAM)]).toEqual(RECORDED);
    expect(new Set(RECORDED.map((message) => readMessage(message).type)).size).toBe(11);
    expect(flowsIn(recorded(MULTIPART, 1))).toHaveLength(8);
  });

  it('takes any 16 bits of any message for a length that lies', () => {
    for (const message of RECORDED) {
      for (let at = 8; at + 2 <= message.length; at++) {
        const true16 = message.readUInt16BE(at);
        for (const lie of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, true16 - 1, true16 + 1, true16 + 8, 0x7fff, 0xfff8, 0xffff]) {
          const spoilt = Buffer.from(message);
          spoilt.writeUInt16BE(lie & 0xffff, at);
          read(spoilt);
        }
      }
    }
  });

  it('takes any byte of any message for another one, so the lengths of fields too', () => {
    for (const message of RECORDED) {
      for (let at = 0; at < message.length; at++) {
        for (const lie of [0, 1, 2, 3, 0x40, 0x7f, 0x80, 0xfe, 0xff]) {
          const spoilt = Buffer.from(message);
          spoilt.writeUInt8(lie, at);
          read(spoilt);
        }
      }
    }
  });

  it('takes any message that ends early', () => {
    for (const message of RECORDED) for (let end = 8; end < message.length; end++) read(message.subarray(0, end));
  });

  it('takes spoilt streams, cut wherever', () => {
    fc.assert(
      fc.property(spoiling, sizes, (spoil, sizes) => {
        const framer = new Framer();
        try {
          for (const piece of cut(spoil(STREAM), sizes)) for (const message of framer.push(piece)) read(message);
        } catch (error) {
          if (!(error instanceof MalformedError)) throw error;
        }
      }),
      seeded(3000),
    );
  });

  it('finds the same messages at each place where the stream may be cut in two', () => {
    for (let at = 1; at < STREAM.length; at++) {
      const framer = new Framer();
      const messages = [STREAM.subarray(0, at), STREAM.subarray(at)].flatMap((piece) => [...framer.push(piece)]);
      if (!Buffer.concat(messages).equals(STREAM) || messages.length !== RECORDED.length) throw new Error(`cut at ${at}`);
    }
  }); // prettier-ignore

  it('takes a length less than the header for an end of the stream, at each message', () => {
    for (const [index] of RECORDED.entries()) {
      for (let length = 0; length < 8; length++) {
        const messages = RECORDED.map((message) => Buffer.from(message));
        messages[index]?.writeUInt16BE(length, 2);
        expect(() => [...new Framer().push(Buffer.concat(messages))]).toThrow(MalformedError);
      }
    }
  });
});

describe('the OpenFlow client, fuzzed over a socket', () => {
  /** What goes wrong once: `spoil` with the answer of that number, and pieces of those sizes. */
  const trouble = fc.record({
    answer: fc.nat(9),
    unasked: fc.boolean(),
    spoil: spoiling,
    sizes,
  });
  type Trouble = typeof trouble extends fc.Arbitrary<infer T> ? T : never;

  async function serve({ answer, unasked, spoil, sizes }: Trouble): Promise<ScriptedServer> {
    let sent = 0;
    const send = (socket: Socket, message: Buffer) => {
      const bad = sent++ === answer;
      const bytes = bad ? spoil(Buffer.concat(unasked ? [...UNASKED, message] : [message])) : message;
      for (const piece of cut(bytes, sizes)) socket.write(piece);
    };
    return ScriptedServer.start((socket) => {
      const framer = new Framer();
      send(socket, HELLO);
      socket.on('data', (chunk: Buffer) => {
        for (const request of framer.push(chunk)) {
          const answer = answerTo(request);
          if (answer !== undefined) send(socket, Buffer.concat([answer.subarray(0, 4), request.subarray(4, 8), answer.subarray(8)])); // prettier-ignore
        }
      });
    });
  }

  const isTyped = (error: unknown) =>
    [OpenFlowError, OpenFlowConnectionError, OpenFlowTimeoutError].some((type) => error instanceof type);

  async function callAll(client: Switch): Promise<unknown[]> {
    const calls = [
      client.dumpFlows(),
      client.ports(),
      client.meters(),
      client.bundle([{ kind: 'removeAll', filter: {} }]),
      client.setMeter(1, { packetsPerSecond: 1, burst: 1 }),
      client.flushConnections(1),
      client.packetOut(1, [], Buffer.alloc(20)),
      client.barrier(),
    ];
    const results = await Promise.allSettled(calls);
    return reasonsOf(results);
  }

  const good = flowsIn(recorded(MULTIPART, 1));

  /** Resolves when all calls work again; with what failed before. */
  async function recover(client: Switch): Promise<unknown[]> {
    const failures: unknown[] = [];
    for (;;) {
      try {
        await client.ready(8000);
      } catch (error) {
        return [...failures, new Error('it does not come back', { cause: error })];
      }
      const failed = await callAll(client);
      failures.push(...failed);
      const flows = await client.dumpFlows().catch(() => []);
      const same = flows.map((flow) => flowKey(flow) + flowBody(flow)).join() === good.join();
      if (failed.length === 0 && same) return failures;
    }
  }

  it('fails calls with its own errors, and comes back, whatever went wrong on the way', async () => {
    const cases = sample(trouble, 100);
    const failures = await failuresOf(cases, async (trouble, index) => {
      const server = await serve(trouble);
      const client = openSwitch(server.endpoint, { callTimeoutMs: 200, echoIntervalMs: 100, connectTimeoutMs: 1000 });
      try {
        const untyped = (await recover(client)).filter((error) => !isTyped(error));
        if (untyped.length > 0) throw new Error(inCase(index), { cause: untyped[0] });
        // The trouble comes once; more than this would be a storm.
        if (server.connectedAt.length > 6)
          throw new Error(`${inCase(index)}: ${server.connectedAt.length} connections`);
      } finally {
        await client.close();
        await server.stop();
      }
    });
    expect(failures).toEqual([]);
  });
});
