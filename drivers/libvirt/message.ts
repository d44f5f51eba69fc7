import { LibvirtProtocolError } from './errors.js';
import type { Program } from './protocol.js';

/**
 * The frame of a message (virnetprotocol.x): a length that counts itself, a header of six words, the payload.
 */

export const MessageType = { call: 0, reply: 1, event: 2, stream: 3 } as const;
export type MessageType = (typeof MessageType)[keyof typeof MessageType];

export const MessageStatus = { ok: 0, error: 1, more: 2 } as const;
export type MessageStatus = (typeof MessageStatus)[keyof typeof MessageStatus];

export interface Header {
  readonly program: Program;
  readonly procedure: number;
  readonly type: MessageType;
  readonly serial: number;
  readonly status: MessageStatus;
}

export interface Message {
  readonly header: Header;
  readonly payload: Buffer;
}

const LENGTH_BYTES = 4;
const HEADER_BYTES = 24;
/** VIR_NET_MESSAGE_MAX, without the length word. */
export const MAX_MESSAGE_BYTES = 33_554_432;

const types: ReadonlySet<number> = new Set(Object.values(MessageType));
const statuses: ReadonlySet<number> = new Set(Object.values(MessageStatus));
const isType = (value: number): value is MessageType => types.has(value);
const isStatus = (value: number): value is MessageStatus => statuses.has(value);

export function encodeMessage({ program, procedure, type, serial, status }: Header, payload: Uint8Array): Buffer {
  const size = HEADER_BYTES + payload.length;
  if (size > MAX_MESSAGE_BYTES) {
    throw new LibvirtProtocolError(`a message of ${size} bytes is over the limit of ${MAX_MESSAGE_BYTES}`);
  }
  const bytes = Buffer.allocUnsafe(LENGTH_BYTES + size);
  let offset = bytes.writeUInt32BE(bytes.length);
  for (const word of [program.id, program.version, procedure, type, serial, status]) {
    offset = bytes.writeUInt32BE(word, offset);
  }
  bytes.set(payload, offset);
  return bytes;
}

function decodeMessage(bytes: Buffer): Message {
  const word = (index: number): number => bytes.readUInt32BE(index * 4);
  const type = word(3);
  const status = word(5);
  if (!isType(type)) throw new LibvirtProtocolError(`unknown message type ${type}`);
  if (!isStatus(status)) throw new LibvirtProtocolError(`unknown message status ${status}`);
  return {
    header: { program: { id: word(0), version: word(1) }, procedure: word(2), type, serial: word(4), status },
    payload: bytes.subarray(HEADER_BYTES),
  };
}

/** Cuts a byte stream into messages. It holds no more than what has arrived, whatever length a message claims. */
export class MessageReader {
  #chunks: Buffer[] = [];
  #buffered = 0;
  #wanted = LENGTH_BYTES;
  #inBody = false;

  /** The messages that are complete with this chunk. Throws LibvirtProtocolError; the stream is useless then. */
  *push(chunk: Buffer): Generator<Message, void, undefined> {
    this.#chunks.push(chunk);
    this.#buffered += chunk.length;
    while (this.#buffered >= this.#wanted) {
      const bytes = this.#take(this.#wanted);
      if (this.#inBody) {
        this.#inBody = false;
        this.#wanted = LENGTH_BYTES;
        yield decodeMessage(bytes);
      } else {
        const size = bytes.readUInt32BE() - LENGTH_BYTES;
        if (size < HEADER_BYTES || size > MAX_MESSAGE_BYTES) {
          throw new LibvirtProtocolError(`a message claims to be ${size} bytes long`);
        }
        this.#inBody = true;
        this.#wanted = size;
      }
    }
  }

  #take(count: number): Buffer {
    const [first] = this.#chunks;
    const all = this.#chunks.length === 1 && first !== undefined ? first : Buffer.concat(this.#chunks);
    this.#buffered = all.length - count;
    this.#chunks = this.#buffered > 0 ? [all.subarray(count)] : [];
    return all.subarray(0, count);
  }
}
