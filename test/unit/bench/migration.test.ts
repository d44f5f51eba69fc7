import { describe, expect, it } from '@jest/globals';
import { traceOf } from '../../../bench/migration/ping.js';
import { cells, flavors, guestsOf, loadMiB, unknownIn, type Cell, type Choice } from '../../../bench/migration/plan.js';
import { networkVerdicts, speedVerdicts, type Moved, type Result } from '../../../bench/migration/result.js';

describe('what ping says', () => {
  const answer = (at: number): string => `64 bytes from 172.30.0.10: icmp_seq=${at} ttl=64 time=${at}.5 ms`;
  const summary = (sent: number): string =>
    `\n--- 172.30.0.10 ping statistics ---\n${sent} packets transmitted, 0 received`;
  const cases = [
    { reason: 'the last request may still be under way', said: [answer(1), answer(2), summary(3)], answers: [1.5, 2.5], gapMs: 1 },
    { reason: 'of two gaps the longer counts', said: [answer(2), answer(5), answer(6), summary(7)], answers: [undefined, 2.5, undefined, undefined, 5.5, 6.5], gapMs: 43 },
    { reason: 'an end without answers is a gap, too', said: [answer(1), summary(5)], answers: [1.5, undefined, undefined, undefined], gapMs: 59 },
    { reason: 'answers may overtake each other', said: [answer(2), answer(1), summary(3)], answers: [1.5, 2.5], gapMs: 1 },
    { reason: 'answers that all come late were late', said: [answer(1), ...[2, 3, 4].map((at) => answer(at).replace(/time=.*/, `time=${200 - 20 * at} ms`)), answer(10), summary(11)], answers: [1.5, 160, 140, 120, ...Array<undefined>(5).fill(undefined), 10.5], gapMs: 159 },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ said, answers, gapMs }) => {
    expect(traceOf(said.join('\n'))).toEqual({ answers, gapMs });
  });
  it('is not taken for a trace if it was ended before its summary', () => {
    expect(() => traceOf(answer(1))).toThrow('no summary');
  });
});

describe('which cells are measured', () => {
  const cases: readonly { reason: string; choice: Choice; isWhole: boolean; count: number; guests: number }[] = [
    { reason: 'all flavors on the share, of the rest one flavor', choice: {}, isWhole: false, count: 24, guests: 6 },
    { reason: 'all of all', choice: {}, isWhole: true, count: 48, guests: 12 },
    { reason: 'what is named is measured whole', choice: { storage: ['Local'] }, isWhole: false, count: 16, guests: 4 },
    { reason: 'one of each', choice: { storage: ['Local'], flavor: ['large'], wan: ['shaped'], load: ['idle'] }, isWhole: false, count: 1, guests: 1 },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ choice, isWhole, count, guests }) => {
    const found = cells(choice, isWhole);
    expect([found.length, guestsOf(found).length]).toEqual([count, guests]);
    expect(guestsOf(found).flat()).toEqual(found);
  });
  it('an unknown name is told with its option', () => {
    expect(unknownIn({ flavor: ['tiny', 'huge'], load: ['idle'] })).toEqual(['--flavor huge']);
  });
  it('a load never takes what the kernel needs, nor more than three quarters', () => {
    expect(Object.values(flavors).map(({ memoryMiB }) => memoryMiB)).toEqual([128, 176, 224, 352]);
    expect((['tiny', 'small', 'medium', 'large'] as const).map(loadMiB)).toEqual([48, 96, 144, 264]);
  });
});

describe('what all cells say together', () => {
  const moved = (totalMs: number, more: Partial<Moved> = {}): Moved => ({
    ...{ totalMs, downtimeMs: totalMs / 10, sentMiB: 1, samples: [], writtenMiBPerSecond: undefined },
    ping: { answers: [], gapMs: totalMs / 10 },
    ...more,
  });
  const late = moved(90_000, { failure: 'not within 90 s', downtimeMs: NaN });
  const result = (load: Cell['load'], wan: Cell['wan'], ours: Moved, bare: Moved): Result => ({
    cell: { storage: 'Shared', flavor: 'tiny', load, wan },
    ...{ ours: [ours], bare: [bare] },
  });
  const same = (ours: number, bare: number) => result('writing', 'unshaped', moved(ours), moved(bare));
  const byDefault = (ours: Moved, bare: Moved) => result('writing', 'shaped', ours, bare);
  const cases: readonly { reason: string; results: Result[]; met: boolean[] }[] = [
    { reason: 'a tenth more than bare libvirt is allowed', results: [same(1_100, 1_000)], met: [true, true, true] },
    { reason: 'more than that is not', results: [same(1_200, 1_000)], met: [false, false, false] },
    { reason: 'one slow move does not outweigh the others', results: [same(1_200, 1_000), same(4_000, 4_000)], met: [true, true, true] },
    { reason: 'a pair of which one did not end says nothing of times', results: [same(1_000, 1_000), result('writing', 'unshaped', late, moved(1_000))], met: [true, true, true] },
    { reason: 'on a slow line an idle guest is as fast as the line', results: [result('idle', 'shaped', moved(1_050), moved(1_000))], met: [true, true, true] },
    { reason: 'by default we have to be faster if the guest writes', results: [byDefault(moved(1_050), moved(1_000))], met: [false] },
    { reason: 'or to end more', results: [byDefault(moved(1_200), moved(1_000)), byDefault(moved(60_000), late)], met: [true] },
    { reason: 'that nobody ends is not better', results: [byDefault(late, late)], met: [false] },
    { reason: 'what only bare libvirt ends is a failure of ours', results: [byDefault(moved(900), moved(1_000)), byDefault(late, moved(60_000))], met: [false] },
    { reason: 'nothing measured, nothing said', results: [], met: [] },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ results, met }) => {
    expect(speedVerdicts(results).map(({ isMet }) => isMet)).toEqual(met);
  });

  const gaps = (...gapsMs: readonly number[]): Result[] =>
    gapsMs.map((gapMs) => result('idle', 'unshaped', moved(1_000, { ping: { answers: [], gapMs } }), moved(1_000)));
  it.each([
    { reason: 'as long as the guest stands still, 100 ms, and 50 ms more', results: gaps(100, 150), met: [true] },
    { reason: 'a ping in ten may be later', results: gaps(...Array<number>(9).fill(100), 400), met: [true] },
    { reason: 'two may not', results: gaps(...Array<number>(8).fill(100), 400, 400), met: [false] },
    { reason: 'of moves that did not end nothing is known', results: [byDefault(late, late)], met: [] },
  ])('of the network: $reason', ({ results, met }) => {
    expect(networkVerdicts(results).map(({ isMet }) => isMet)).toEqual(met);
  });
});
