import { afterEach, describe, expect, it } from '@jest/globals';
import type { Socket } from 'node:net';
import { filter, firstValueFrom } from 'rxjs';
import {
  EndpointError,
  OpenFlowConnectionError,
  type OpenFlowOptions,
  OpenFlowTimeoutError,
  openSwitch,
  type Switch,
} from '../../../drivers/openflow/index.js';
import { Framer } from '../../../drivers/openflow/messages.js';
import { ScriptedServer } from '../../support/scripted-server.js';

const servers: ScriptedServer[] = [];
const clients: Switch[] = [];

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.close()));
  await Promise.all(servers.splice(0).map((server) => server.stop()));
});

/** A message of OpenFlow 1.3: type, xid, body. */
function message(type: number, xid: number, body: string | Buffer = ''): Buffer {
  const bytes = Buffer.from(typeof body === 'string' ? Buffer.from(body, 'hex') : body);
  const head = Buffer.from([4, type, 0, 0, 0, 0, 0, 0]);
  head.writeUInt16BE(8 + bytes.length, 2);
  head.writeUInt32BE(xid, 4);
  return Buffer.concat([head, bytes]);
}

const HELLO = message(0, 77);
const features = (xid: number) => message(6, xid, '00000000000000ab' + '0'.repeat(32));
const FEATURES_REQUEST = 5;
const MULTIPART_REQUEST = 18;
const BARRIER_REQUEST = 20;

type Script = (type: number, xid: number, socket: Socket, earlier: number) => void;

/** A switch that does the handshake as it should; `script` sees all requests after it. */
async function serve(script: Script, hello = HELLO): Promise<ScriptedServer> {
  const server = await ScriptedServer.start((socket, earlier) => {
    const framer = new Framer();
    let up = false;
    socket.write(hello);
    socket.on('data', (chunk) => {
      for (const frame of framer.push(chunk)) {
        const [type, xid] = [frame.readUInt8(1), frame.readUInt32BE(4)];
        if (up) script(type, xid, socket, earlier);
        else if (type === FEATURES_REQUEST) socket.write(features(xid));
        else if (type === BARRIER_REQUEST) up = socket.write(message(21, xid)) || true;
      }
    });
  });
  servers.push(server);
  return server;
}

function connect(endpoint: string, options: OpenFlowOptions = {}): Switch {
  const client = openSwitch(endpoint, options);
  clients.push(client);
  return client;
}

async function lossOf(client: Switch): Promise<string> {
  const state = await firstValueFrom(
    client.state.pipe(filter((state) => !state.connected && state.error !== undefined)),
  );
  return state.connected ? '' : String(state.error);
}

const failure = (call: Promise<unknown>) => call.catch((error: unknown) => error);

describe('a connection to a switch', () => {
  it('is up after the handshake, and knows the datapath', async () => {
    const server = await serve(() => undefined);
    const client = connect(server.endpoint);
    await client.ready();
    expect(await firstValueFrom(client.state)).toEqual({ connected: true, datapathId: 0xabn });
  });

  const strangers = [
    {
      reason: 'speaks just OpenFlow 1.0',
      hello: Buffer.from('0100000800000001', 'hex'),
      text: 'does not speak OpenFlow 1.3',
    },
    { reason: 'finds no version that it shares', hello: message(1, 5, '00000000'), text: 'OFPHFC_INCOMPATIBLE' },
    {
      reason: 'speaks another protocol',
      hello: Buffer.from('HTTP/1.1 400 Bad Request\r\n'.repeat(2000)),
      text: 'OpenFlow version 72',
    },
    {
      reason: 'sends a length less than the header',
      hello: Buffer.from('0400000400000000', 'hex'),
      text: 'a message of 4 bytes',
    },
    { reason: 'says nothing', hello: Buffer.alloc(0), text: 'no answer to HELLO within 100 ms' },
  ];
  it.each(strangers)('is given up when the other side $reason', async ({ hello, text }) => {
    const server = await serve(() => undefined, hello);
    const loss = await lossOf(connect(server.endpoint, { callTimeoutMs: 100 }));
    expect(loss).toContain(server.endpoint);
    expect(loss).toContain(text);
  });

  const garbage: { reason: string; bytes: (xid: number) => Buffer }[] = [
    { reason: 'an answer to another question', bytes: (xid) => message(21, xid) },
    { reason: 'a flow longer than its message', bytes: (xid) => message(19, xid, '0001000000000000' + 'ffff') },
    { reason: 'a message of another version', bytes: () => Buffer.from('0513000800000001', 'hex') },
    { reason: 'a length less than the header', bytes: () => Buffer.from('0400000000000000', 'hex') },
    { reason: 'a packet cut short', bytes: () => message(10, 0, '00') },
  ];
  it.each(garbage)('is made anew after $reason; who waits is told', async ({ bytes }) => {
    const server = await serve((type, xid, socket, earlier) => {
      if (type === MULTIPART_REQUEST) socket.write(earlier === 0 ? bytes(xid) : message(19, xid, '0001000000000000'));
    });
    const client = connect(server.endpoint);
    await client.ready();
    const calls = await Promise.all([failure(client.dumpFlows()), failure(client.barrier())]);
    for (const error of calls) expect(error).toBeInstanceOf(OpenFlowConnectionError);
    await client.ready();
    expect(await client.dumpFlows()).toEqual([]);
    expect(server.connectedAt).toHaveLength(2);
  });

  it('collects an answer of many parts, however it is cut', async () => {
    const flow =
      '0038000000000000000000000001000000000000000000000000000000000005' + '0'.repeat(32) + '0001000400000000';
    const server = await serve((_, xid, socket) => {
      const parts = [0, 1, 2].map((part) => message(19, xid, `0001000${part < 2 ? 1 : 0}00000000${flow}${flow}`));
      for (const byte of Buffer.concat(parts)) socket.write(Buffer.of(byte));
    });
    const client = connect(server.endpoint);
    await client.ready();
    const flows = await client.dumpFlows();
    expect(flows).toHaveLength(6);
    expect(flows[5]).toEqual({ table: 0, priority: 1, cookie: 5n, match: {}, instructions: {} });
  });

  it('does not wait for ever for an answer whose parts never end', async () => {
    const timers: NodeJS.Timeout[] = [];
    const server = await serve((type, xid, socket) => {
      if (type === MULTIPART_REQUEST)
        timers.push(setInterval(() => socket.write(message(19, xid, '0001000100000000')), 20));
    });
    const client = connect(server.endpoint, { callTimeoutMs: 50 });
    await client.ready();
    const startedAt = performance.now();
    expect(await failure(client.dumpFlows())).toBeInstanceOf(OpenFlowTimeoutError);
    expect(performance.now() - startedAt).toBeGreaterThan(400);
    expect(performance.now() - startedAt).toBeLessThan(2000);
    expect((await firstValueFrom(client.state)).connected).toBe(true);
    for (const timer of timers) clearInterval(timer);
  });

  it('does not take in an answer without end', async () => {
    // Each part says that one meter takes up all of it: long to send, nothing to keep.
    const meter = Buffer.alloc(65_512);
    meter.writeUInt16BE(meter.length, 0);
    const body = Buffer.concat([Buffer.from('000a000100000000', 'hex'), meter]);
    const server = await serve((type, xid, socket, earlier) => {
      if (type !== MULTIPART_REQUEST || earlier > 0) return;
      const part = message(19, xid, body);
      const send = () => {
        while (!socket.destroyed && socket.write(part));
      };
      socket.on('drain', send);
      send();
    });
    const client = connect(server.endpoint);
    await client.ready();
    expect(String(await failure(client.meters()))).toContain('an answer of more than 67108864 bytes');
    await client.ready();
  });

  it('is given up when the switch sends, but does not read what it is sent', async () => {
    const server = await serve((_, _xid, socket, earlier) => {
      if (earlier > 0) return;
      socket.pause();
      const echo = message(2, 1, Buffer.alloc(65_000));
      const send = () => {
        while (!socket.destroyed && socket.write(echo));
      };
      socket.on('drain', send);
      send();
    });
    const client = connect(server.endpoint);
    await client.ready();
    expect(String(await failure(client.barrier()))).toContain('the server does not read what it is sent');
    await client.ready();
  });

  it('is given up when a wrong length swallows all that follows, answers to probes too', async () => {
    const server = await serve((type, xid, socket, earlier) => {
      if (type === 2) socket.write(message(3, xid));
      else if (earlier > 0) socket.write(message(21, xid));
      else socket.write(Buffer.from('0415fff800000000', 'hex'));
    });
    const client = connect(server.endpoint, { echoIntervalMs: 40, callTimeoutMs: 5000 });
    await client.ready();
    expect(String(await failure(client.barrier()))).toContain('has not ended a message for 480 ms');
    await client.ready();
    await client.barrier();
  });

  it('is not given up while a long message takes its time', async () => {
    const server = await serve((type, xid, socket) => {
      if (type !== BARRIER_REQUEST) return;
      const pieces = [...Buffer.concat([message(2, 1, Buffer.alloc(20)), message(21, xid)])].map((byte) =>
        Buffer.of(byte),
      );
      const timer = setInterval(() => {
        const piece = pieces.shift();
        if (piece === undefined) clearInterval(timer);
        else socket.write(piece);
      }, 20);
    });
    const client = connect(server.endpoint, { echoIntervalMs: 100, callTimeoutMs: 5000 });
    await client.ready();
    await client.barrier();
    expect(server.connectedAt).toHaveLength(1);
  });

  it('ends when the switch refuses to be configured', async () => {
    const server = await ScriptedServer.start((socket) => {
      const framer = new Framer();
      socket.write(HELLO);
      socket.on('data', (chunk) => {
        for (const frame of framer.push(chunk)) {
          const [type, xid] = [frame.readUInt8(1), frame.readUInt32BE(4)];
          if (type === FEATURES_REQUEST) socket.write(features(xid));
          else if (type === 9) socket.write(message(1, xid, '000a0000'));
          else if (type === BARRIER_REQUEST) socket.write(message(21, xid));
        }
      });
    });
    servers.push(server);
    expect(await lossOf(connect(server.endpoint))).toContain('OFPSCFC_BAD_FLAGS');
  });

  it('fails who waits when the switch goes', async () => {
    const server = await serve((_, _xid, socket, earlier) => earlier === 0 && socket.destroy());
    const client = connect(server.endpoint);
    await client.ready();
    const calls = [
      client.barrier(),
      client.dumpFlows(),
      client.ports(),
      client.bundle([{ kind: 'removeAll', filter: {} }]),
      client.packetOut(1, [], Buffer.alloc(0)),
    ];
    for (const error of await Promise.all(calls.map(failure))) expect(error).toBeInstanceOf(OpenFlowConnectionError);
    expect(await failure(client.barrier())).toBeInstanceOf(OpenFlowConnectionError);
  });

  it('gives up a call that is not answered, and stays', async () => {
    const server = await serve(() => undefined);
    const client = connect(server.endpoint, { callTimeoutMs: 50 });
    await client.ready();
    expect(await failure(client.bundle([]))).toBeInstanceOf(OpenFlowTimeoutError);
    expect((await firstValueFrom(client.state)).connected).toBe(true);
    expect(server.connectedAt).toHaveLength(1);
  });

  it('can be closed at any time, which ends the waiting', async () => {
    const server = await serve(() => undefined);
    const client = connect(server.endpoint);
    await client.ready();
    const waiting = failure(client.barrier());
    await client.close();
    expect(String(await waiting)).toContain(`${server.endpoint}: closed`);
    const early = connect(server.endpoint);
    await early.close();
    expect(await failure(early.barrier())).toBeInstanceOf(OpenFlowConnectionError);
  });

  it('does not begin with an endpoint that makes no sense', () => {
    expect(() => openSwitch('6654')).toThrow(EndpointError);
    expect(() => openSwitch('ssl:a:1')).toThrow('needs a client certificate');
  });
});
