import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { LibvirtProtocolError } from '../../../drivers/libvirt/errors.js';
import { domainRef, errorBody, procedures, typedParameters } from '../../../drivers/libvirt/protocol.js';
import {
  array,
  decode,
  double,
  encode,
  fixedArray,
  fixedOpaque,
  flags,
  hyper,
  int,
  opaque,
  optional,
  string,
  struct,
  uhyper,
  uint,
  type Codec,
} from '../../../drivers/libvirt/xdr.js';

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');

/** A codec with a value and its bytes, the type of the value forgotten. */
interface Vector {
  readonly reason: string;
  readonly bytes: Buffer;
  readonly encoded: () => Buffer;
  readonly decoded: (bytes: Buffer) => unknown;
  readonly value: unknown;
}

const vector = <T>(reason: string, codec: Codec<T>, value: T, bytes: string): Vector => ({
  reason,
  bytes: hex(bytes),
  value,
  encoded: () => encode(codec, value),
  decoded: (given) => decode(codec, given),
});

const uuid = 'c7a5fdbd-edaf-9455-926a-d65c16db1809';
const uuidHex = 'c7a5fdbd edaf 9455 926a d65c16db1809';

const vectors: readonly Vector[] = [
  vector('int is two’s complement', int, -2, 'fffffffe'),
  vector('uint uses all bits', uint, 0xffff_ffff, 'ffffffff'),
  vector('hyper is signed', hyper, -1n, 'ffffffffffffffff'),
  vector('unsigned hyper uses all bits', uhyper, 2n ** 64n - 1n, 'ffffffffffffffff'),
  vector('double is IEEE 754', double, -0.5, 'bfe0000000000000'),
  vector('a string is padded with zeros', string(10), 'vm-1x', '00000005 766d2d31 78000000'),
  vector('a string counts bytes, not characters', string(10), 'é', '00000002 c3a90000'),
  vector('an empty string has no padding', string(10), '', '00000000'),
  vector('opaque keeps its bytes', opaque(8), hex('010203'), '00000003 01020300'),
  vector('fixed opaque has no length', fixedOpaque(5), hex('0102030405'), '01020304 05000000'),
  vector('an array has a count', array(int, 3), [1, 2], '00000002 00000001 00000002'),
  vector('a vector has none', fixedArray(int, 2), [1, 2], '00000001 00000002'),
  vector('nothing is a zero', optional(int), undefined, '00000000'),
  vector('something is a one and itself', optional(int), 7, '00000001 00000007'),
  vector('fields follow one another', struct({ a: int, b: string(4) }), { a: 1, b: 'x' }, '00000001 00000001 78000000'),
  vector(
    'a machine is name, UUID and id',
    domainRef,
    { name: 'vm', uuid, id: -1 },
    `00000002 766d0000 ${uuidHex} ffffffff`,
  ),
  vector(
    'typed parameters carry their type',
    typedParameters(8),
    [
      { name: 'a', value: { type: 'int', value: -1 } },
      { name: 'b', value: { type: 'uint', value: 1 } },
      { name: 'c', value: { type: 'llong', value: -1n } },
      { name: 'd', value: { type: 'ullong', value: 1n } },
      { name: 'e', value: { type: 'double', value: 1 } },
      { name: 'f', value: { type: 'boolean', value: true } },
      { name: 'g', value: { type: 'string', value: 'x' } },
    ],
    `00000007
     00000001 61000000 00000001 ffffffff
     00000001 62000000 00000002 00000001
     00000001 63000000 00000003 ffffffffffffffff
     00000001 64000000 00000004 0000000000000001
     00000001 65000000 00000005 3ff0000000000000
     00000001 66000000 00000006 00000001
     00000001 67000000 00000007 00000001 78000000`.replaceAll('\n', ''),
  ),
  vector(
    'CONNECT_OPEN is an optional name and flags',
    procedures.connectOpen.args,
    { name: 'qemu:///system', flags: 0 },
    '00000001 0000000e 71656d753a2f2f2f73797374656d0000 00000000',
  ),
];

describe('XDR', () => {
  it.each(vectors)('writes and reads: $reason', ({ bytes, value, encoded, decoded }) => {
    expect(encoded().toString('hex')).toBe(bytes.toString('hex'));
    expect(decoded(bytes)).toEqual(value);
  });

  it.each(vectors)('misses every byte that is cut off: $reason', ({ bytes, decoded }) => {
    for (let length = 0; length < bytes.length; length++) {
      expect(() => decoded(bytes.subarray(0, length))).toThrow(LibvirtProtocolError);
    }
  });

  it.each(vectors)('wants no byte more: $reason', ({ bytes, decoded }) => {
    expect(() => decoded(Buffer.concat([bytes, hex('00000000')]))).toThrow(/too many/);
  });

  it('takes flags with bit 31 as JavaScript makes them', () => {
    expect(encode(flags, 0x8000_0000 | 1).toString('hex')).toBe('80000001');
    expect(encode(flags, 0x8000_0001).toString('hex')).toBe('80000001');
  });

  const malformed: readonly { reason: string; codec: Codec<unknown>; bytes: string; says: RegExp }[] = [
    { reason: 'padding that is not zero', codec: string(9), bytes: '00000001 78000001', says: /padding/ },
    { reason: 'a string over its limit', codec: string(4), bytes: '00000005 7878787878000000', says: /limit/ },
    { reason: 'a huge string', codec: string(0xffff_ffff), bytes: 'ffffffff 78000000', says: /truncated/ },
    { reason: 'a huge count within its limit', codec: array(domainRef, 16_384), bytes: '00004000', says: /truncated/ },
    {
      reason: 'a count over its limit',
      codec: array(int, 2),
      bytes: '00000003 000000000000000000000000',
      says: /limit/,
    },
    { reason: 'a bool of 2', codec: optional(int), bytes: '00000002 00000000', says: /discriminant/ },
    {
      reason: 'a typed parameter of type 8',
      codec: typedParameters(4),
      bytes: '00000001 00000001 61000000 00000008 00000000',
      says: /discriminant 8/,
    },
  ];

  it.each(malformed)('refuses to read: $reason', ({ codec, bytes, says }) => {
    expect(() => decode(codec, hex(bytes))).toThrow(LibvirtProtocolError);
    expect(() => decode(codec, hex(bytes))).toThrow(says);
  });

  const unfit: readonly { reason: string; write: () => Buffer }[] = [
    { reason: 'an int over 31 bits', write: () => encode(int, 2 ** 31) },
    { reason: 'a fraction', write: () => encode(int, 0.5) },
    { reason: 'not a number', write: () => encode(uint, Number.NaN) },
    { reason: 'a negative uint', write: () => encode(uint, -1) },
    { reason: 'a hyper over 63 bits', write: () => encode(hyper, 2n ** 63n) },
    { reason: 'a negative unsigned hyper', write: () => encode(uhyper, -1n) },
    { reason: 'a string with NUL, of which the daemon would see half', write: () => encode(string(9), 'a\0b') },
    { reason: 'a string over its limit', write: () => encode(string(1), 'é') },
    { reason: 'an array over its limit', write: () => encode(array(int, 1), [1, 2]) },
    { reason: 'a vector too short', write: () => encode(fixedArray(int, 2), [1]) },
    { reason: 'opaque bytes too few', write: () => encode(fixedOpaque(2), hex('01')) },
    { reason: 'a UUID that is none', write: () => encode(domainRef, { name: 'a', uuid: 'nonsense', id: 1 }) },
  ];

  it.each(unfit)('refuses to write: $reason', ({ write }) => {
    expect(write).toThrow(LibvirtProtocolError);
  });

  it('reads back what it wrote, whatever the text', () => {
    const codec = array(domainRef, 100);
    const refs = fc.array(
      fc.record({
        name: fc.string({ unit: 'grapheme' }).filter((name) => !name.includes('\0')),
        uuid: fc.uuid(),
        id: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
      }),
      { maxLength: 20 },
    );
    fc.assert(
      fc.property(refs, (value) => {
        expect(decode(codec, encode(codec, value))).toEqual(value);
      }),
      { seed: 1, numRuns: 100 },
    );
  });

  const results: readonly Codec<unknown>[] = [errorBody, ...Object.values(procedures).map(({ result }) => result)];

  it('meets garbage with its own error, never another, for every reply', () => {
    fc.assert(
      fc.property(fc.constantFrom(...results), fc.uint8Array({ maxLength: 200 }), (codec, bytes) => {
        try {
          decode(codec, Buffer.from(bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(LibvirtProtocolError);
        }
      }),
      { seed: 42, numRuns: 5000 },
    );
  });
});
