import fc from 'fast-check';

/** Fixed, so that a run can be repeated; FUZZ_SEED=… looks elsewhere, FUZZ_RUNS=… longer. A failure prints its seed. */
const seed = Number(process.env['FUZZ_SEED'] ?? 20_261_122);
const factor = Number(process.env['FUZZ_RUNS'] ?? 1);

/** For fc.assert. */
export const seeded = (numRuns: number) => ({ seed, numRuns: numRuns * factor, endOnFailure: true });

/** As many values as a test takes at once; the same ones at each run. */
export const sample = <T>(arbitrary: fc.Arbitrary<T>, count: number): T[] =>
  fc.sample(arbitrary, { seed, numRuns: count * factor });

export const inCase = (index: number) => `case ${index} of FUZZ_SEED=${seed}`;

const position = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const bytes = (minLength: number) => fc.uint8Array({ minLength, maxLength: 12 }).map((array) => Buffer.from(array));

type Mutation = (stream: Buffer) => Buffer;

/** One thing that goes wrong with a stream of bytes. */
const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.tuple(position, fc.nat(7)).map(([at, bit]): Mutation => (stream) => edit(stream, at, 1, ([byte = 0]) => Buffer.of(byte ^ (1 << bit)))),
  fc.tuple(position, bytes(1)).map(([at, put]): Mutation => (stream) => edit(stream, at, put.length, () => put)),
  fc.tuple(position, bytes(1)).map(([at, more]): Mutation => (stream) => edit(stream, at, 0, () => more)),
  fc.tuple(position, fc.integer({ min: 1, max: 40 })).map(([at, less]): Mutation => (stream) => edit(stream, at, less, () => Buffer.alloc(0))),
  fc.tuple(position, fc.integer({ min: 1, max: 200 })).map(([at, again]): Mutation => (stream) => edit(stream, at, again, (part) => Buffer.concat([part, part]))),
  position.map((at): Mutation => (stream) => stream.subarray(0, Math.floor(at * stream.length))),
); // prettier-ignore

function edit(stream: Buffer, position: number, length: number, replace: (part: Buffer) => Buffer): Buffer {
  const at = Math.floor(position * stream.length);
  return Buffer.concat([
    stream.subarray(0, at),
    replace(stream.subarray(at, at + length)),
    stream.subarray(at + length),
  ]);
}

/** Spoils a stream of bytes: bits flipped, bytes overwritten, put in, left out, sent twice, or the end cut off. */
export const spoiling: fc.Arbitrary<Mutation> = fc
  .array(mutation, { minLength: 1, maxLength: 3 })
  .map((mutations) => (stream) => mutations.reduce((spoilt, mutate) => mutate(spoilt), stream));

/** Cuts a stream into pieces of these sizes, over and over. */
export function cut(stream: Buffer, sizes: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < stream.length;) {
    const size = sizes[pieces.length % sizes.length] ?? 1;
    pieces.push(stream.subarray(at, at + size));
    at += size;
  }
  return pieces;
}

export const sizes = fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 5 });

/** Runs all cases, a hundred at a time: most of their time is waiting. Resolves with what they failed with. */
export async function failuresOf<T>(
  cases: readonly T[],
  run: (one: T, index: number) => Promise<void>,
): Promise<unknown[]> {
  const failures: unknown[] = [];
  for (let at = 0; at < cases.length; at += 100)
    failures.push(...reasonsOf(await Promise.allSettled(cases.slice(at, at + 100).map((one, index) => run(one, at + index))))); // prettier-ignore
  return failures;
}

export function reasonsOf(outcomes: readonly PromiseSettledResult<unknown>[]): unknown[] {
  const reasons: unknown[] = [];
  for (const outcome of outcomes) if (outcome.status === 'rejected') reasons.push(outcome.reason);
  return reasons;
}
