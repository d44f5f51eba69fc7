import { afterEach, describe, expect, it } from '@jest/globals';
import type { Socket } from 'node:net';
import {
  type Floodlight,
  FloodlightError,
  type FloodlightOptions,
  openFloodlight,
} from '../../../drivers/floodlight/index.js';
import { ScriptedServer } from '../../support/scripted-server.js';

const opened: AsyncDisposable[] = [];

afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]();
});

/** Answers each request on each connection with what `reply` writes. */
async function against(
  reply: (socket: Socket, request: string, earlier: number) => void,
  options?: FloodlightOptions,
): Promise<{ floodlight: Floodlight; server: ScriptedServer }> {
  const server = await ScriptedServer.start((socket, earlier) => {
    socket.on('data', (chunk: Buffer) => reply(socket, chunk.toString('utf8'), earlier));
  });
  opened.push(server);
  const floodlight = openFloodlight(server.endpoint.replace('tcp:', 'http://'), { callTimeoutMs: 500, ...options });
  opened.push(floodlight);
  return { floodlight, server };
}

const http = (body: string, status = '200 OK') =>
  `HTTP/1.1 ${status}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;

async function codeOf(call: Promise<unknown>): Promise<string | undefined> {
  const error: unknown = await call.then(
    () => undefined,
    (error: unknown) => error,
  );
  return error instanceof FloodlightError ? error.code : String(error);
}

const list = (floodlight: Floodlight) => floodlight.entries(1n);
const chunked = 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n';

describe('an answer that is none', () => {
  const cases: { reason: string; answer: string; code: string; call?: (floodlight: Floodlight) => Promise<unknown> }[] =
    [
      { reason: 'not HTTP', answer: 'SSH-2.0-OpenSSH_9.2\r\n', code: 'FLOODLIGHT_PROTOCOL' },
      { reason: 'chunks that are none', answer: `${chunked}zz\r\n{}\r\n`, code: 'FLOODLIGHT_PROTOCOL' },
      { reason: 'broken off', answer: `${chunked}5\r\n{`, code: 'FLOODLIGHT_TIMEOUT' },
      { reason: 'half an object', answer: http('{"a":['), code: 'FLOODLIGHT_PROTOCOL' },
      { reason: 'XML', answer: http('<HashSet></HashSet>'), code: 'FLOODLIGHT_PROTOCOL' },
      { reason: 'JSON of another shape', answer: http('{"a":1}'), code: 'FLOODLIGHT_PROTOCOL' },
      { reason: 'larger than allowed', answer: http(`{"a":[${' '.repeat(2000)}]}`), code: 'FLOODLIGHT_PROTOCOL' },
      {
        reason: 'an HTTP error with a stack trace',
        answer: http(
          `{"code":500,"description":"unexpected","throwable":"${'x'.repeat(500)}"}`,
          '500 Internal Server Error',
        ),
        code: 'FLOODLIGHT_REFUSED',
      },
      { reason: 'not found', answer: http('{}', '404 Not Found'), code: 'FLOODLIGHT_REFUSED' },
      {
        reason: 'a success for another name',
        answer: http('{"status" : "Entry b deleted"}'),
        code: 'FLOODLIGHT_REFUSED',
        call: (floodlight) => floodlight.remove('a'),
      },
      {
        reason: 'flows without a priority',
        answer: http('{"flows":[{"match":{}}]}'),
        code: 'FLOODLIGHT_PROTOCOL',
        call: (floodlight) => floodlight.flows(1n),
      },
      {
        reason: 'a switch without a datapath id',
        answer: http('[{"switchDPID":"x","connectedSince":1}]'),
        code: 'FLOODLIGHT_PROTOCOL',
        call: (floodlight) => floodlight.switches(),
      },
    ];
  it.each(cases)('$reason', async ({ answer, code, call = list }) => {
    const { floodlight } = await against((socket) => socket.write(answer), { maxAnswerBytes: 1000 });
    expect(await codeOf(call(floodlight))).toBe(code);
  });
});

it('an HTTP error is told by its description, not by its stack trace', async () => {
  const body = `{"description":"unexpected","throwable":"${'x'.repeat(50_000)}"}`;
  const { floodlight } = await against((socket) => socket.write(http(body, '500 Internal Server Error')));
  const error: unknown = await list(floodlight).catch((error: unknown) => error);
  expect(error instanceof FloodlightError && error.message).toMatch(/HTTP 500, unexpected$/);
});

it('keeps its connection, and makes another when the kept one turns out to be closed', async () => {
  let requests = 0;
  const { floodlight, server } = await against((socket) => {
    // The third request finds a server that is just closing.
    if (++requests === 3) socket.destroy();
    else socket.write(http('{}'));
  });
  for (let i = 0; i < 3; i++) await list(floodlight);
  expect(requests).toBe(4);
  expect(server.connectedAt).toHaveLength(2);
});

it('a call that fails on a new connection is not repeated', async () => {
  let requests = 0;
  const { floodlight } = await against((socket) => {
    requests++;
    socket.destroy();
  });
  expect(await codeOf(list(floodlight))).toBe('FLOODLIGHT_UNREACHABLE');
  expect(requests).toBe(1);
});

it('has no more calls under way than allowed, and gets through all', async () => {
  let [now, most] = [0, 0];
  const { floodlight } = await against(
    (socket) => {
      most = Math.max(most, ++now);
      setTimeout(() => {
        now--;
        socket.write(http('{}'));
      }, 5);
    },
    { maxConcurrency: 3 },
  );
  await Promise.all(Array.from({ length: 20 }, () => list(floodlight)));
  expect(most).toBe(3);
});

it('sends nothing of an entry that can not be', async () => {
  let requests = 0;
  const { floodlight } = await against(() => requests++);
  const wedging = { table: 0, priority: 1, cookie: 0n, match: { ethType: 0x0800, tcpDst: 80 }, instructions: {} };
  expect(await codeOf(floodlight.push(1n, 'a', wedging))).toBe('FLOODLIGHT_UNSUPPORTED');
  expect(await codeOf(floodlight.remove('a"b'))).toBe('FLOODLIGHT_UNSUPPORTED');
  expect(requests).toBe(0);
});

it('asks for JSON, below the path of its URL', async () => {
  let asked = '';
  const server = await ScriptedServer.start((socket) => {
    socket.on('data', (chunk: Buffer) => {
      asked = chunk.toString('utf8');
      socket.write(http('{}'));
    });
  });
  opened.push(server);
  await using floodlight = openFloodlight(`${server.endpoint.replace('tcp:', 'http://')}/sdn/`);
  await list(floodlight);
  expect(asked).toMatch(/^GET \/sdn\/wm\/staticentrypusher\/list\/00:00:00:00:00:00:00:01\/json HTTP/);
  expect(asked.toLowerCase()).toContain('accept: application/json');
});

it.each(['ftp://h', 'tcp:127.0.0.1:8080', 'http://'])('%s is no URL of a Floodlight', (url) => {
  expect(() => openFloodlight(url)).toThrow(FloodlightError);
});
