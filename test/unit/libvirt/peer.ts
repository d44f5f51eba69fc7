import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RpcConnection, type RpcOptions } from '../../../drivers/libvirt/connection.js';
import {
  encodeMessage,
  MessageReader,
  MessageStatus,
  MessageType,
  type Header,
  type Message,
} from '../../../drivers/libvirt/message.js';
import { errorBody } from '../../../drivers/libvirt/protocol.js';
import { encode } from '../../../drivers/libvirt/xdr.js';

const EMPTY = Buffer.alloc(0);

/** The daemon's end of a real socket, driven by the test message by message. */
export class Peer {
  readonly #reader = new MessageReader();
  readonly #messages: Message[] = [];
  #wake: () => void = () => undefined;

  constructor(readonly socket: Socket) {
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      this.#messages.push(...this.#reader.push(chunk));
      this.#wake();
    });
  }

  /** How many messages have come and were not taken. */
  get waiting(): number {
    return this.#messages.length;
  }

  async next(): Promise<Message> {
    for (;;) {
      const message = this.#messages.shift();
      if (message !== undefined) return message;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  send(header: Header, payload: Uint8Array = EMPTY): void {
    this.socket.write(encodeMessage(header, payload));
  }

  reply({ header }: Message, payload: Uint8Array = EMPTY): void {
    this.send({ ...header, type: MessageType.reply }, payload);
  }

  refuse({ header }: Message, code: number, message: string): void {
    this.send({ ...header, type: MessageType.reply, status: MessageStatus.error }, errorOf(code, message));
  }

  stream({ header }: Message, status: MessageStatus, payload: Uint8Array = EMPTY): void {
    this.send({ ...header, type: MessageType.stream, status }, payload);
  }
}

export const errorOf = (code: number, message: string): Buffer =>
  encode(errorBody, {
    code,
    domain: 10,
    message,
    level: 2,
    dom: undefined,
    str1: undefined,
    str2: undefined,
    str3: undefined,
    int1: 0,
    int2: 0,
    net: undefined,
  });

export interface Pair {
  readonly rpc: RpcConnection;
  readonly peer: Peer;
  readonly release: () => Promise<void>;
}

const defaults: RpcOptions = {
  peer: 'peer',
  callTimeoutMs: 5000,
  maxCallsInFlight: 4,
  keepalive: { intervalMs: 60_000, count: 1 },
};

/** A connection and its peer over a real socket. */
export async function pair(options: Partial<RpcOptions> = {}): Promise<Pair> {
  const directory = await mkdtemp(join(tmpdir(), 'rpc-'));
  const path = join(directory, 'sock');
  const server = createServer();
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  server.listen(path);
  await once(server, 'listening');
  const socket = connect({ path });
  await once(socket, 'connect');
  const rpc = new RpcConnection(socket, { ...defaults, ...options });
  const peer = new Peer(await accepted);
  return {
    rpc,
    peer,
    async release() {
      rpc.fail(undefined);
      peer.socket.destroy();
      server.close();
      await once(server, 'close');
      await rm(directory, { recursive: true });
    },
  };
}
