import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { JsonFramer } from '../../../drivers/ovsdb/framing.js';
import { MalformedError } from '../../../drivers/wire/malformed.js';

/** Cuts bytes at the given places. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const ends = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  return [...ends, bytes.length].map((end, index) => bytes.subarray(ends[index - 1] ?? 0, end));
}

const read = (framer: JsonFramer, chunks: readonly Buffer[]) => chunks.flatMap((chunk) => [...framer.push(chunk)]);
const jsonObject = fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue({ stringUnit: 'binary' }));
const seeded = { seed: 7047, numRuns: 300 };

describe('the JSON framer', () => {
  it('finds the same objects wherever the stream is cut', () => {
    fc.assert(
      fc.property(
        fc.array(jsonObject),
        fc.array(fc.nat(5000)),
        fc.constantFrom('', ' ', '\n\t'),
        (objects, places, gap) => {
          const texts = objects.map((object) => JSON.stringify(object));
          const chunks = cut(Buffer.from(texts.join(gap)), places);
          expect(read(new JsonFramer(), chunks)).toEqual(texts.map((text): unknown => JSON.parse(text)));
        },
      ),
      seeded,
    );
  });

  it('ends every stream of bytes in objects or a MalformedError', () => {
    const fragment = fc.constantFrom('{', '}', '[', ']', '"', '\\', ':', ',', '{"a":1}', ' ', '\u0000', 'é', 'null');
    fc.assert(
      fc.property(fc.array(fc.oneof(fragment.map((text) => Buffer.from(text)), fc.uint8Array().map((bytes) => Buffer.from(bytes)))), (chunks) => {
        try {
          read(new JsonFramer(), chunks);
        } catch (error) {
          expect(error).toBeInstanceOf(MalformedError);
        }
      }),
      { ...seeded, numRuns: 2000 },
    ); // prettier-ignore
  });

  const kept = [
    { reason: 'braces and brackets in strings count for nothing', text: '{"a":"}]{["}' },
    { reason: 'an escaped quote does not end a string', text: '{"a":"\\"}"}' },
    { reason: 'an escaped backslash does not escape the quote after it', text: '{"a":"\\\\"}' },
    { reason: 'characters of many bytes may be cut', text: '{"é€😀":"😀"}' },
    { reason: 'nesting up to the limit', text: `{"a":${'['.repeat(9)}${']'.repeat(9)}}` },
  ];
  it.each(kept)('$reason', ({ text }) => {
    const bytes = Buffer.from(text);
    const framer = new JsonFramer(100, 10);
    expect(read(framer, [...bytes].map((byte) => Buffer.of(byte)))).toEqual([JSON.parse(text)]); // prettier-ignore
  });

  const refused = [
    { reason: 'something else than an object', text: '[1]' },
    { reason: 'another protocol', text: 'HTTP/1.1 400 Bad Request' },
    { reason: 'TLS where none is expected', text: '\u0016\u0003\u0001' },
    { reason: 'what only looks like JSON', text: '{a:1}' },
    { reason: 'brackets that do not pair', text: '{"a":[}]' },
    { reason: 'deeper nesting than the limit', text: `{"a":${'['.repeat(10)}` },
    { reason: 'an object larger than the limit, before it has come whole', text: `{"a":"${'x'.repeat(100)}` },
  ];
  it.each(refused)('refuses $reason', ({ text }) => {
    expect(() => read(new JsonFramer(100, 10), [Buffer.from(text)])).toThrow(MalformedError);
  });

  it('refuses bytes that are not UTF-8', () => {
    expect(() => read(new JsonFramer(), [Buffer.from('7b2261223a22ff227d', 'hex')])).toThrow(MalformedError);
  });

  it('looks at each byte once: a large object in small pieces is no work', () => {
    const text = Buffer.from(JSON.stringify({ a: 'x'.repeat(4_000_000) }));
    const pieces = Array.from({ length: Math.ceil(text.length / 100) }, (_, n) =>
      text.subarray(100 * n, 100 * n + 100),
    );
    const startedAt = performance.now();
    expect(read(new JsonFramer(), pieces)).toHaveLength(1);
    expect(performance.now() - startedAt).toBeLessThan(3000);
  });
});
