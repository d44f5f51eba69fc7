import { MalformedError } from '../wire/malformed.js';
import { OpenFlowValueError } from './errors.js';

/** Appends big-endian values to one growing buffer. Values out of range throw OpenFlowValueError. */
export class Writer {
  #buffer: Buffer;
  #length = 0;

  constructor(capacity = 256) {
    this.#buffer = Buffer.allocUnsafe(capacity);
  }

  get length(): number {
    return this.#length;
  }

  u8(value: number): void {
    const at = this.#take(1);
    this.#buffer[at] = check(value, 0xff);
  }

  u16(value: number): void {
    const at = this.#take(2);
    this.#buffer.writeUInt16BE(check(value, 0xffff), at);
  }

  u32(value: number): void {
    const at = this.#take(4);
    this.#buffer.writeUInt32BE(check(value, 0xffff_ffff), at);
  }

  u48(value: number): void {
    const at = this.#take(6);
    this.#buffer.writeUIntBE(check(value, 0xffff_ffff_ffff), at, 6);
  }

  u64(value: bigint): void {
    if (value < 0n || value > 0xffff_ffff_ffff_ffffn)
      throw new OpenFlowValueError(`${value.toString()} is not a 64-bit number`);
    const at = this.#take(8);
    this.#buffer.writeBigUInt64BE(value, at);
  }

  bytes(data: Uint8Array): void {
    const at = this.#take(data.length);
    this.#buffer.set(data, at);
  }

  zeros(count: number): void {
    const at = this.#take(count);
    this.#buffer.fill(0, at, at + count);
  }

  /** Zeros up to the next multiple of 8 counted from `start`. */
  align8(start: number): void {
    this.zeros((8 - ((this.#length - start) % 8)) % 8);
  }

  /** Writes the distance from `start` to here into the 16-bit field at `at`. */
  patchLength(at: number, start: number): void {
    const length = this.#length - start;
    if (length > 0xffff)
      throw new OpenFlowValueError(`a message of ${length} bytes does not fit into OpenFlow's 65535`);
    this.#buffer.writeUInt16BE(length, at);
  }

  /** Forgets what was written; the buffer of an earlier `done` is overwritten. */
  clear(): void {
    this.#length = 0;
  }

  /** What was written: a view, not a copy. */
  done(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  #take(count: number): number {
    const at = this.#length;
    const end = at + count;
    if (end > this.#buffer.length) {
      const grown = Buffer.allocUnsafe(Math.max(2 * this.#buffer.length, end));
      this.#buffer.copy(grown, 0, 0, at);
      this.#buffer = grown;
    }
    this.#length = end;
    return at;
  }
}

function check(value: number, max: number): number {
  if (Number.isInteger(value) && value >= 0 && value <= max) return value;
  throw new OpenFlowValueError(`${value} is not a whole number between 0 and ${max}`);
}

/** Reads big-endian values from a bounded part of a buffer. Reading past its end throws MalformedError. */
export class Reader {
  #at: number;

  constructor(
    private readonly buffer: Buffer,
    start = 0,
    private readonly end = buffer.length,
  ) {
    this.#at = start;
  }

  get left(): number {
    return this.end - this.#at;
  }

  u8(): number {
    return this.buffer.readUInt8(this.#take(1));
  }

  u16(): number {
    return this.buffer.readUInt16BE(this.#take(2));
  }

  u32(): number {
    return this.buffer.readUInt32BE(this.#take(4));
  }

  u48(): number {
    return this.buffer.readUIntBE(this.#take(6), 6);
  }

  u64(): bigint {
    return this.buffer.readBigUInt64BE(this.#take(8));
  }

  /** A view of the next bytes, not a copy. */
  bytes(count: number): Buffer {
    const at = this.#take(count);
    return this.buffer.subarray(at, at + count);
  }

  skip(count: number): void {
    this.#take(count);
  }

  /** The 16-bit number `offset` bytes on, not stepped over: the length of what comes next. */
  peekU16(offset: number): number {
    if (offset + 2 > this.left) throw new MalformedError(`a length wanted where ${this.left} bytes are left`);
    return this.buffer.readUInt16BE(this.#at + offset);
  }

  /** A reader of just the next bytes, which this one steps over. */
  part(count: number): Reader {
    const at = this.#take(count);
    return new Reader(this.buffer, at, at + count);
  }

  #take(count: number): number {
    const at = this.#at;
    if (count < 0 || at + count > this.end)
      throw new MalformedError(`${count} bytes wanted where ${this.left} are left`);
    this.#at = at + count;
    return at;
  }
}
