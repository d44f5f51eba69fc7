import { LibvirtProtocolError } from './errors.js';

/**
 * XDR (RFC 4506): big-endian, everything a multiple of four bytes, padding is zero. A decoder trusts nothing: lengths are
 * checked against the limit of the type and against the bytes at hand before anything is allocated.
 */
export interface Codec<T> {
  encode(writer: XdrWriter, value: T): void;
  decode(reader: XdrReader): T;
}

const padding = (length: number): number => (4 - (length % 4)) % 4;

export class XdrWriter {
  #buffer = Buffer.allocUnsafe(256);
  #length = 0;

  /** Room for `length` bytes at the end, to be filled by the caller. */
  reserve(length: number): Buffer {
    const end = this.#length + length;
    if (end > this.#buffer.length) {
      const grown = Buffer.allocUnsafe(Math.max(end, this.#buffer.length * 2));
      this.#buffer.copy(grown, 0, 0, this.#length);
      this.#buffer = grown;
    }
    const room = this.#buffer.subarray(this.#length, end);
    this.#length = end;
    return room;
  }

  opaque(bytes: Uint8Array): void {
    const room = this.reserve(bytes.length + padding(bytes.length));
    room.set(bytes);
    room.fill(0, bytes.length);
  }

  finish(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }
}

export class XdrReader {
  #offset = 0;

  constructor(private readonly buffer: Buffer) {}

  get remaining(): number {
    return this.buffer.length - this.#offset;
  }

  take(length: number): Buffer {
    if (length > this.remaining) {
      throw new LibvirtProtocolError(`message is truncated: ${length} bytes wanted, ${this.remaining} left`);
    }
    const bytes = this.buffer.subarray(this.#offset, this.#offset + length);
    this.#offset += length;
    return bytes;
  }

  opaque(length: number): Buffer {
    const bytes = this.take(length);
    if (this.take(padding(length)).some((byte) => byte !== 0)) throw new LibvirtProtocolError('padding is not zero');
    return bytes;
  }

  end(): void {
    if (this.remaining > 0) throw new LibvirtProtocolError(`${this.remaining} bytes too many at the end of a message`);
  }
}

export function encode<T>(codec: Codec<T>, value: T): Buffer {
  const writer = new XdrWriter();
  codec.encode(writer, value);
  return writer.finish();
}

/** Decodes a whole message: left-over bytes are an error. */
export function decode<T>(codec: Codec<T>, bytes: Buffer): T {
  const reader = new XdrReader(bytes);
  const value = codec.decode(reader);
  reader.end();
  return value;
}

function integer(value: number, min: number, max: number): number {
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new LibvirtProtocolError(`${value} is not an integer between ${min} and ${max}`);
  }
  return value;
}

function wide(value: bigint, fits: bigint): bigint {
  if (value !== fits) throw new LibvirtProtocolError(`${String(value)} does not fit 64 bits`);
  return value;
}

export const int: Codec<number> = {
  encode: (writer, value) => void writer.reserve(4).writeInt32BE(integer(value, -0x8000_0000, 0x7fff_ffff)),
  decode: (reader) => reader.take(4).readInt32BE(),
};

export const uint: Codec<number> = {
  encode: (writer, value) => void writer.reserve(4).writeUInt32BE(integer(value, 0, 0xffff_ffff)),
  decode: (reader) => reader.take(4).readUInt32BE(),
};

/** A bit set: JavaScript's `|` yields a negative number once bit 31 is set. */
export const flags: Codec<number> = {
  encode: (writer, value) => uint.encode(writer, value < 0 ? value >>> 0 : value),
  decode: (reader) => uint.decode(reader),
};

export const hyper: Codec<bigint> = {
  encode: (writer, value) => void writer.reserve(8).writeBigInt64BE(wide(value, BigInt.asIntN(64, value))),
  decode: (reader) => reader.take(8).readBigInt64BE(),
};

export const uhyper: Codec<bigint> = {
  encode: (writer, value) => void writer.reserve(8).writeBigUInt64BE(wide(value, BigInt.asUintN(64, value))),
  decode: (reader) => reader.take(8).readBigUInt64BE(),
};

export const double: Codec<number> = {
  encode: (writer, value) => void writer.reserve(8).writeDoubleBE(value),
  decode: (reader) => reader.take(8).readDoubleBE(),
};

/** An int in libvirt's protocol that means a truth value: anything but zero is true. */
export const truth: Codec<boolean> = {
  encode: (writer, value) => int.encode(writer, value ? 1 : 0),
  decode: (reader) => int.decode(reader) !== 0,
};

/** XDR's bool: nothing but 0 and 1. */
const bool: Codec<boolean> = {
  encode: (writer, value) => truth.encode(writer, value),
  decode: (reader) => {
    const value = uint.decode(reader);
    if (value > 1) throw new LibvirtProtocolError(`unknown discriminant ${value} of a bool`);
    return value === 1;
  },
};

export const nothing: Codec<void> = { encode: () => undefined, decode: () => undefined };

function length(reader: XdrReader, max: number): number {
  const count = uint.decode(reader);
  if (count > max) throw new LibvirtProtocolError(`length ${count} is over the limit of ${max}`);
  return count;
}

function checkedLength(count: number, max: number): number {
  if (count > max) throw new LibvirtProtocolError(`length ${count} is over the limit of ${max}`);
  return count;
}

export const opaque = (max: number): Codec<Uint8Array> => ({
  encode: (writer, value) => {
    uint.encode(writer, checkedLength(value.length, max));
    writer.opaque(value);
  },
  decode: (reader) => reader.opaque(length(reader, max)),
});

export const fixedOpaque = (size: number): Codec<Uint8Array> => ({
  encode: (writer, value) => {
    if (value.length !== size) throw new LibvirtProtocolError(`${value.length} bytes where ${size} are due`);
    writer.opaque(value);
  },
  decode: (reader) => reader.opaque(size),
});

export const string = (max: number): Codec<string> => {
  const bytes = opaque(max);
  return {
    encode: (writer, value) => {
      // The daemon's strings end at a NUL: it would act on less than it was told.
      if (value.includes('\0')) throw new LibvirtProtocolError('a string must not contain NUL');
      bytes.encode(writer, Buffer.from(value, 'utf8'));
    },
    decode: (reader) => reader.opaque(length(reader, max)).toString('utf8'),
  };
};

export const array = <T>(element: Codec<T>, max: number): Codec<readonly T[]> => ({
  encode: (writer, values) => {
    uint.encode(writer, checkedLength(values.length, max));
    for (const value of values) element.encode(writer, value);
  },
  decode: (reader) => {
    const values: T[] = [];
    for (let left = length(reader, max); left > 0; left--) values.push(element.decode(reader));
    return values;
  },
});

export const fixedArray = <T>(element: Codec<T>, size: number): Codec<readonly T[]> => ({
  encode: (writer, values) => {
    if (values.length !== size) throw new LibvirtProtocolError(`${values.length} elements where ${size} are due`);
    for (const value of values) element.encode(writer, value);
  },
  decode: (reader) => Array.from({ length: size }, () => element.decode(reader)),
});

export const optional = <T>(value: Codec<T>): Codec<T | undefined> => ({
  encode: (writer, given) => {
    bool.encode(writer, given !== undefined);
    if (given !== undefined) value.encode(writer, given);
  },
  decode: (reader) => (bool.decode(reader) ? value.decode(reader) : undefined),
});

/** Fields in the order in which they are written down. */
export const struct = <T extends object>(fields: { readonly [K in keyof T]: Codec<T[K]> }): Codec<T> => {
  const names = Object.keys(fields) as (keyof T)[];
  return {
    encode: (writer, value) => {
      for (const name of names) fields[name].encode(writer, value[name]);
    },
    decode: (reader) => {
      const value: Partial<T> = {};
      for (const name of names) value[name] = fields[name].decode(reader);
      return value as T;
    },
  };
};

/** The same bytes seen as another type. */
export const mapped = <W, T>(wire: Codec<W>, toWire: (value: T) => W, fromWire: (value: W) => T): Codec<T> => ({
  encode: (writer, value) => wire.encode(writer, toWire(value)),
  decode: (reader) => fromWire(wire.decode(reader)),
});
