import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { progressOf, resultOf } from '../../../reconcilers/migration/progress.js';

const params = (figures: Record<string, number | bigint>) => new Map(Object.entries(figures));

describe('the figures of a running copy', () => {
  type Before = Parameters<typeof progressOf>[1];
  const cases: readonly { reason: string; params: Record<string, number | bigint>; before?: Before; figures: object }[] = [
    { reason: 'a share of what there is to copy', params: { data_total: 1000n, data_remaining: 250n, data_processed: 750n }, figures: { progressPercent: 75, remainingBytes: 250, transferredBytes: 750 } },
    { reason: 'rounded down, for what is not there yet is not there', params: { data_total: 1000, data_remaining: 1 }, figures: { progressPercent: 99, remainingBytes: 1 } },
    { reason: 'nothing left is not the end: the guest has yet to change over', params: { data_total: 1000, data_remaining: 0 }, figures: { progressPercent: 99, remainingBytes: 0 } },
    { reason: 'a guest that writes faster than we copy does not turn it back', params: { data_total: 1000, data_remaining: 900 }, before: { progressPercent: 60 }, figures: { progressPercent: 60, remainingBytes: 900 } },
    { reason: 'more remaining than there was is not less than nothing', params: { data_total: 1000, data_remaining: 1500 }, figures: { progressPercent: 0, remainingBytes: 1500 } },
    { reason: 'a daemon that says nothing leaves what was known', params: {}, before: { progressPercent: 30, transferredBytes: 5, remainingBytes: 7, iteration: 2, dirtyRateBytesPerSecond: 3 }, figures: { progressPercent: 30, transferredBytes: 5, remainingBytes: 7, iteration: 2, dirtyRateBytesPerSecond: 3 } },
    { reason: 'at the beginning nothing is known', params: { data_total: 0n, data_remaining: 0n }, figures: { progressPercent: 0, remainingBytes: 0 } },
    { reason: 'the dirty rate comes in pages', params: { memory_dirty_rate: 10n, memory_page_size: 8192n, memory_iteration: 3n }, figures: { progressPercent: 0, dirtyRateBytesPerSecond: 81920, iteration: 3 } },
    { reason: 'of 4 KiB where nobody says', params: { memory_dirty_rate: 10n }, figures: { progressPercent: 0, dirtyRateBytesPerSecond: 40960 } },
    { reason: 'what remains, less what is written meanwhile, at the rate of memory and disk', params: { data_total: 1000, data_remaining: 900, memory_bps: 200n, disk_bps: 100n, memory_dirty_rate: 1, memory_page_size: 100 }, figures: { progressPercent: 10, remainingBytes: 900, dirtyRateBytesPerSecond: 100, estimatedSecondsRemaining: 5 } },
    { reason: 'a guest that writes as fast as we copy has no end', params: { data_total: 1000, data_remaining: 900, memory_bps: 100n, memory_dirty_rate: 1, memory_page_size: 100 }, figures: { progressPercent: 10, remainingBytes: 900, dirtyRateBytesPerSecond: 100 } },
    { reason: 'no undefined fields: they would look like a change of the status', params: {}, figures: { progressPercent: 0 } },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ params: given, before = {}, figures }) => {
    expect(Object.entries(progressOf(params(given), before)).sort()).toEqual(Object.entries(figures).sort());
  });

  it('never run backwards and never say 100, whatever the daemon says', () => {
    const size = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }), fc.bigInt({ min: 0n, max: 100n }));
    fc.assert(
      fc.property(fc.array(fc.tuple(size, size)), (samples) => {
        let figures = {};
        let percent = 0;
        for (const [data_total, data_remaining] of samples) {
          const next = progressOf(params({ data_total, data_remaining }), figures);
          expect(next.progressPercent).toBeGreaterThanOrEqual(percent);
          expect(next.progressPercent).toBeLessThanOrEqual(99);
          percent = next.progressPercent ?? 0;
          figures = next;
        }
      }),
    );
  });
});

describe('the figures of a copy that has completed', () => {
  it('are the whole, and what it took', () => {
    const done = { data_total: 1000n, data_processed: 1400n, data_remaining: 0n, time_elapsed: 3700n, downtime: 180n };
    expect(resultOf(params(done), { progressPercent: 80, transferredBytes: 900 })).toEqual({
      progressPercent: 100,
      remainingBytes: 0,
      estimatedSecondsRemaining: 0,
      transferredBytes: 1400,
      totalTimeMs: 3700,
      downtimeMs: 180,
    });
  });

  it('keep what was last known where the daemon has no record of it', () => {
    expect(resultOf(params({}), { transferredBytes: 900, iteration: 4 })).toEqual({
      progressPercent: 100,
      remainingBytes: 0,
      estimatedSecondsRemaining: 0,
      transferredBytes: 900,
      iteration: 4,
    });
  });
});
