import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { PORT, writeInstructions } from '../../../drivers/openflow/actions.js';
import { Writer } from '../../../drivers/openflow/bytes.js';
import { writeMatch } from '../../../drivers/openflow/match.js';
import {
  Framer,
  type Message,
  readMessage,
  writeBarrierRequest,
  writeEchoReply,
  writeFeaturesRequest,
  writeFlowsRequest,
  writeHello,
  writePacketOut,
} from '../../../drivers/openflow/messages.js';
import type { Action, Flow, Match } from '../../../drivers/openflow/types.js';
import { Waiters } from '../../../drivers/wire/waiters.js';

/** enum ofp_controller_role, OpenFlow 1.3.5 §7.3.9. */
const ROLE = { EQUAL: 1, MASTER: 2, SLAVE: 3 } as const;
export type Role = keyof typeof ROLE;
export const isRole = (word: unknown): word is Role => typeof word === 'string' && Object.hasOwn(ROLE, word);

/** enum ofp_flow_mod_command, §7.3.4.1. */
const COMMAND = { ADD: 0, MODIFY: 1, MODIFY_STRICT: 2, DELETE: 3, DELETE_STRICT: 4 } as const;

/** A flow mod as Floodlight sends it: without a cookie mask, so that a removal meets whatever has the table, priority and match. */
export interface FlowMod {
  readonly command: keyof typeof COMMAND;
  readonly flow: Flow;
  readonly sendFlowRemoved: boolean;
}

const TABLE_MISS: FlowMod = {
  command: 'ADD',
  sendFlowRemoved: false,
  flow: {
    table: 0,
    priority: 0,
    cookie: 0n,
    match: {},
    instructions: { apply: [{ type: 'output', port: 'controller' }] },
  },
};

const ALL_TABLES = 0xff;
const CLEAR: FlowMod = {
  command: 'DELETE',
  sendFlowRemoved: false,
  flow: { table: ALL_TABLES, priority: 0, cookie: 0n, match: {}, instructions: {} },
};

const OFPT = { flowMod: 14, roleRequest: 24 } as const;
const CALL_TIMEOUT_MS = 5000;

type PacketIn = Extract<Message, { type: 'packetIn' }>;
type FlowRemoved = Extract<Message, { type: 'flowRemoved' }>;

export interface ControllerOptions {
  /** Whether a switch's tables are cleared when it connects, and when we become its MASTER again. */
  readonly clearTables: () => boolean;
  /** From a switch's HELLO to its role, and again from there until it is cleared and gets its entries. */
  readonly settleMs: number;
  /** The switch is ready to get its entries. */
  readonly ready: (connection: SwitchConnection) => void;
  readonly flowRemoved: (connection: SwitchConnection, removed: FlowRemoved) => void;
  readonly packetIn: (connection: SwitchConnection, packet: PacketIn) => void;
}

/** The OpenFlow side: listens, and keeps the connections of the switches that come. */
export class Controller {
  /** By datapath id, from when it is known. */
  readonly switches = new Map<bigint, SwitchConnection>();
  readonly #connections = new Set<SwitchConnection>();
  #server: Server | undefined;

  constructor(private readonly options: ControllerOptions) {}

  async listen(host: string, port: number): Promise<number> {
    const server = createServer((socket) => this.#accept(socket));
    this.#server = server;
    server.listen(port, host);
    await once(server, 'listening');
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('a TCP server has a port');
    return address.port;
  }

  async close(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    const closed = once(server, 'close');
    server.close();
    for (const connection of this.#connections) connection.close();
    await closed;
  }

  /** Ends the connection of a switch, which comes again. */
  disconnect(datapathId: bigint): void {
    this.switches.get(datapathId)?.close();
  }

  #accept(socket: Socket): void {
    const connection = new SwitchConnection(socket, this.options, {
      known: () => {
        this.switches.get(connection.datapathId)?.close();
        this.switches.set(connection.datapathId, connection);
      },
      gone: () => {
        this.#connections.delete(connection);
        if (this.switches.get(connection.datapathId) === connection) this.switches.delete(connection.datapathId);
      },
    });
    this.#connections.add(connection);
  }
}

export class SwitchConnection {
  readonly connectedSince = Date.now();
  readonly inetAddress: string;
  datapathId = 0n;
  role: Role | undefined;
  readonly #framer = new Framer();
  readonly #waiters = new Waiters<Message>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #nextXid = 1;

  constructor(
    private readonly socket: Socket,
    private readonly options: ControllerOptions,
    private readonly owner: { known(): void; gone(): void },
  ) {
    this.inetAddress = `/${socket.remoteAddress ?? ''}:${socket.remotePort ?? 0}`;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      for (const frame of this.#framer.push(chunk)) this.#handle(readMessage(frame));
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      for (const timer of this.#timers) clearTimeout(timer);
      this.#waiters.failAll(new Error('the switch is gone'));
      owner.gone();
    });
    this.#send((w) => writeHello(w, this.#nextXid++));
  }

  close(): void {
    this.socket.destroy();
  }

  write({ command, flow, sendFlowRemoved }: FlowMod): void {
    this.#message(OFPT.flowMod, (w) => {
      w.u64(flow.cookie);
      w.u64(0n);
      w.u8(flow.table);
      w.u8(COMMAND[command]);
      w.u16(flow.timeouts?.idleSeconds ?? 0);
      w.u16(flow.timeouts?.hardSeconds ?? 0);
      w.u16(flow.priority);
      w.u32(0xffff_ffff); // no buffer
      w.u32(PORT.any);
      w.u32(0xffff_ffff); // any group
      w.u16(sendFlowRemoved ? 1 : 0);
      w.zeros(2);
      writeMatch(w, flow.match);
      writeInstructions(w, flow.instructions);
    });
  }

  async flows(): Promise<Flow[]> {
    const flows: Flow[] = [];
    await this.#call(
      (w, xid) => writeFlowsRequest(w, xid, {}),
      (reply) => {
        if (reply.type === 'flows') flows.push(...reply.flows);
        return reply.type !== 'flows' || !reply.more;
      },
    );
    return flows;
  }

  packetOut(inPort: number, actions: readonly Action[], data: Uint8Array): void {
    this.#send((w) => writePacketOut(w, this.#nextXid++, inPort, actions, data));
  }

  /** The switch itself refuses the flow mods of a SLAVE. */
  async become(role: Role): Promise<void> {
    this.#message(OFPT.roleRequest, (w) => {
      w.u32(ROLE[role]);
      w.zeros(4);
      w.u64(BigInt(this.connectedSince));
    });
    await this.#barrier();
    this.role = role;
  }

  /** Clears the tables if so configured, and sends what misses to us. */
  async prepare(): Promise<void> {
    if (this.options.clearTables()) this.write(CLEAR);
    this.write(TABLE_MISS);
    // FLOW_REMOVED of what was cleared comes before the answer.
    await this.#barrier();
  }

  #handle(message: Message): void {
    switch (message.type) {
      case 'hello':
        this.#call(writeFeaturesRequest, (reply) => {
          if (reply.type === 'featuresReply') this.datapathId = reply.datapathId;
          return true;
        })
          .then(() => this.#settle())
          .catch(() => this.close());
        return;
      case 'echoRequest':
        this.#send((w) => writeEchoReply(w, message.xid, message.payload));
        return;
      case 'packetIn':
        this.options.packetIn(this, message);
        return;
      case 'flowRemoved':
        this.options.flowRemoved(this, message);
        return;
      case 'error':
      case 'featuresReply':
      case 'flows':
      case 'ports':
      case 'meters':
      case 'barrierReply':
      case 'bundleReply':
      case 'other':
        // What the switch refuses, Floodlight only logs.
        this.#waiters.deliver(message.xid, message);
        return;
    }
  }

  async #settle(): Promise<void> {
    this.owner.known();
    await this.#pause();
    await this.become('MASTER');
    await this.#pause();
    await this.prepare();
    this.options.ready(this);
  }

  /** Never ends if the connection does first. */
  #pause(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        resolve();
      }, this.options.settleMs);
      this.#timers.add(timer);
    });
  }

  #barrier(): Promise<void> {
    return this.#call(writeBarrierRequest, () => true);
  }

  #call(write: (w: Writer, xid: number) => void, isLast: (reply: Message) => boolean): Promise<void> {
    const xid = this.#nextXid++;
    const answer = this.#waiters.wait(
      xid,
      CALL_TIMEOUT_MS,
      () => new Error('the switch does not answer'),
      (reply) => (isLast(reply) ? { result: undefined } : undefined),
    );
    this.#send((w) => write(w, xid));
    return answer;
  }

  #message(type: number, body: (w: Writer) => void): void {
    this.#send((w) => {
      w.u8(4); // OpenFlow 1.3
      w.u8(type);
      w.u16(0);
      w.u32(this.#nextXid++);
      body(w);
      w.patchLength(2, 0);
    });
  }

  #send(write: (w: Writer) => void): void {
    const w = new Writer();
    write(w);
    this.socket.write(w.done());
  }
}

/** Forwarding, roughly: floods what it doesn't know, and makes flows at priority 1 for what it does. */
export class Forwarding {
  readonly #portOf = new Map<string, number>();
  #count = 0n;

  packetIn(connection: SwitchConnection, { match, data }: PacketIn): void {
    const { inPort } = match;
    if (inPort === undefined || data.length < 14) return;
    const mac = (at: number) => data.toString('hex', at, at + 6).replace(/..(?!$)/g, '$&:');
    const [ethDst, ethSrc, ethType] = [mac(0), mac(6), data.readUInt16BE(12)];
    const key = (address: string) => `${connection.datapathId.toString(16)}/${address}`;
    this.#portOf.set(key(ethSrc), inPort);
    const port = this.#portOf.get(key(ethDst)) ?? PORT_FLOOD;
    if (port !== PORT_FLOOD) {
      const reactive: Match = { inPort, ethDst, ethSrc, ethType };
      connection.write({
        command: 'ADD',
        sendFlowRemoved: false,
        flow: {
          table: 0,
          priority: 1,
          cookie: (2n << 52n) | (this.#count++ << 24n),
          match: reactive,
          instructions: { apply: [{ type: 'output', port }] },
          timeouts: { idleSeconds: 5, hardSeconds: 0 },
        },
      });
    }
    connection.packetOut(inPort, [{ type: 'output', port }], data);
  }
}

export const PORT_FLOOD = 0xffff_fffb;
