import { describe, expect, it } from '@jest/globals';
import { leastMtu, measureMtu, promisedMtu } from '../../../reconcilers/underlay/mtu.js';

describe('what an underlay promises', () => {
  it.each([
    { reason: 'the smaller end decides', ends: [{ underlayMTU: 1600 }, { underlayMTU: 1400 }], promised: 1350 },
    { reason: 'an end without a word promises 1500', ends: [{}, { underlayMTU: 9000 }], promised: 1450 },
  ])('$reason', ({ ends, promised }) => {
    expect(promisedMtu(...ends)).toBe(promised);
  });
});

/** An underlay that carries up to a size, and which sizes were asked of it. */
function underlay(carries: () => number) {
  const asked: number[] = [];
  return {
    asked,
    passes: (mtu: number) => {
      asked.push(mtu);
      return Promise.resolve(mtu <= carries());
    },
  };
}

describe('measuring the MTU', () => {
  const cases: readonly { reason: string; carries: number; last?: number; carried: number | undefined; questions: number }[] = [
    { reason: 'what carries the promise takes one question', carries: 1450, carried: 1450, questions: 1 },
    { reason: 'what would carry more is not asked for', carries: 9000, last: 1450, carried: 1450, questions: 1 },
    { reason: 'what carries less is found to the byte', carries: 1249, carried: 1249, questions: 15 },
    { reason: 'one byte less is less', carries: 1449, carried: 1449, questions: 15 },
    { reason: 'the least there is', carries: leastMtu, carried: leastMtu, questions: 15 },
    { reason: 'what is as it was takes few', carries: 1250, last: 1250, carried: 1250, questions: 6 },
    { reason: 'what got better is found', carries: 1300, last: 1250, carried: 1300, questions: 15 },
    { reason: 'what got worse is found', carries: 1200, last: 1250, carried: 1200, questions: 15 },
    { reason: 'what was measured against a smaller promise is a guess like any', carries: 1300, last: 1450, carried: 1300, questions: 15 },
    { reason: 'where nothing passes, nothing can be said', carries: 0, carried: undefined, questions: 2 },
  ]; // prettier-ignore
  it.each(cases)('$reason', async ({ carries, last, carried, questions }) => {
    const { asked, passes } = underlay(() => carries);
    expect(await measureMtu(passes, 1450, last)).toBe(carried);
    expect(asked.length).toBeLessThanOrEqual(questions);
  });

  it('says nothing of a wire that was cut meanwhile', async () => {
    let left = 4;
    const { passes } = underlay(() => (left-- > 0 ? 1250 : 0));
    expect(await measureMtu(passes, 1450)).toBeUndefined();
  });

  it('does not take a crowded moment for a narrow wire', async () => {
    let lost = 1;
    const { passes } = underlay(() => (lost-- > 0 ? 0 : 1450));
    expect(await measureMtu(passes, 1450)).toBe(1450);
  });
});
