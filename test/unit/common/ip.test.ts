import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { formatAddress, parseAddress, parseCidr, parseRange } from '../../../crds/ipv4.js';
import type { AddressRange } from '../../../crds/ipv4.js';
import { overlap, pickFree, subtract, usable } from '../../../reconcilers/common/ip.js';

function range(text: string): AddressRange {
  const parsed = parseRange(text);
  if (parsed === undefined) throw new Error(`not a range: ${text}`);
  return parsed;
}

function shown({ first, last }: AddressRange): string {
  return `${formatAddress(first)}-${formatAddress(last)}`;
}

describe('usable', () => {
  const cases = [
    {
      reason: 'the network and broadcast addresses are left out',
      cidr: '172.16.0.0/16',
      range: '172.16.0.1-172.16.255.254',
    },
    { reason: 'host bits don’t matter', cidr: '172.16.0.77/29', range: '172.16.0.73-172.16.0.78' },
    { reason: 'a /30 has two', cidr: '10.0.0.4/30', range: '10.0.0.5-10.0.0.6' },
    { reason: 'a /31 has no broadcast address', cidr: '10.0.0.4/31', range: '10.0.0.4-10.0.0.5' },
    { reason: 'a /32 is its one address', cidr: '10.0.0.4/32', range: '10.0.0.4-10.0.0.4' },
    {
      reason: 'addresses above 127 are not negative',
      cidr: '255.255.255.0/24',
      range: '255.255.255.1-255.255.255.254',
    },
  ];
  it.each(cases)('$reason', ({ cidr, range: expected }) => {
    const parsed = parseCidr(cidr);
    expect(parsed && shown(usable(parsed))).toBe(expected);
  });
});

describe('overlap', () => {
  const cases = [
    { reason: 'one within the other', a: '10.0.0.0-10.0.0.9', b: '10.0.0.3-10.0.0.4', expected: true },
    { reason: 'one address in common', a: '10.0.0.0-10.0.0.9', b: '10.0.0.9-10.0.0.20', expected: true },
    { reason: 'neighbours have none', a: '10.0.0.0-10.0.0.9', b: '10.0.0.10-10.0.0.20', expected: false },
    { reason: 'far apart', a: '10.0.0.0-10.0.0.9', b: '200.0.0.0-200.0.0.1', expected: false },
  ];
  it.each(cases)('$reason', ({ a, b, expected }) => {
    expect(overlap(range(a), range(b))).toBe(expected);
    expect(overlap(range(b), range(a))).toBe(expected);
  });
});

describe('subtract', () => {
  const whole = '10.0.0.1-10.0.0.14';
  const cases = [
    { reason: 'nothing excluded leaves all', excluded: [], left: [whole] },
    {
      reason: 'one in the middle makes two',
      excluded: ['10.0.0.5-10.0.0.6'],
      left: ['10.0.0.1-10.0.0.4', '10.0.0.7-10.0.0.14'],
    },
    { reason: 'the ends are included', excluded: ['10.0.0.1', '10.0.0.14'], left: ['10.0.0.2-10.0.0.13'] },
    {
      reason: 'order and overlaps don’t matter',
      excluded: ['10.0.0.8-10.0.0.14', '10.0.0.2-10.0.0.9', '10.0.0.3'],
      left: ['10.0.0.1-10.0.0.1'],
    },
    { reason: 'what lies outside is ignored', excluded: ['9.0.0.0-9.9.9.9', '10.0.0.15-11.0.0.0'], left: [whole] },
    { reason: 'all excluded leaves nothing', excluded: ['10.0.0.0-10.0.0.7', '10.0.0.8-10.0.0.20'], left: [] },
  ];
  it.each(cases)('$reason', ({ excluded, left }) => {
    expect(subtract(range(whole), excluded.map(range)).map(shown)).toEqual(left);
  });
});

describe('pickFree', () => {
  const none = () => false;
  const cases = [
    {
      reason: 'hint 0 begins at the first value',
      space: '10.0.0.1-10.0.0.6',
      exclude: [],
      taken: [],
      hint: 0,
      expected: '10.0.0.1',
    },
    {
      reason: 'small hints go up from the hint-th value',
      space: '10.0.0.1-10.0.0.6',
      exclude: [],
      taken: ['10.0.0.3'],
      hint: 2,
      expected: '10.0.0.4',
    },
    {
      reason: 'after the last comes the first',
      space: '10.0.0.1-10.0.0.6',
      exclude: [],
      taken: ['10.0.0.6'],
      hint: 5,
      expected: '10.0.0.1',
    },
    {
      reason: 'excluded values are never given',
      space: '10.0.0.1-10.0.0.6',
      exclude: ['10.0.0.1-10.0.0.5'],
      taken: [],
      hint: 12345,
      expected: '10.0.0.6',
    },
    {
      reason: 'the one free value is found',
      space: '10.0.0.1-10.0.0.3',
      exclude: [],
      taken: ['10.0.0.1', '10.0.0.3'],
      hint: 999_999_999,
      expected: '10.0.0.2',
    },
    {
      reason: 'all taken is none',
      space: '10.0.0.1-10.0.0.2',
      exclude: [],
      taken: ['10.0.0.1', '10.0.0.2'],
      hint: 7,
      expected: undefined,
    },
    {
      reason: 'all excluded is none',
      space: '10.0.0.1-10.0.0.2',
      exclude: ['10.0.0.0-10.0.0.9'],
      taken: [],
      hint: 7,
      expected: undefined,
    },
  ];
  it.each(cases)('$reason', ({ space, exclude, taken, hint, expected }) => {
    const isTaken = new Set(taken.map(parseAddress));
    const picked = pickFree({ ...range(space), exclude: exclude.map(range) }, (value) => isTaken.has(value), hint);
    expect(picked === undefined ? undefined : formatAddress(picked)).toBe(expected);
  });

  it('finds every value in some turn, whatever the hint, and then none', () => {
    const number = fc.nat(60);
    const some = fc.tuple(number, number).map(([a, b]) => ({ first: Math.min(a, b), last: Math.max(a, b) }));
    fc.assert(
      fc.property(some, fc.array(some, { maxLength: 3 }), fc.array(fc.maxSafeNat()), (space, exclude, hints) => {
        const given = new Set<number>();
        for (let turn = 0; ; turn++) {
          const value = pickFree({ ...space, exclude }, (each) => given.has(each), hints[turn % hints.length] ?? turn);
          if (value === undefined) break;
          expect(given.has(value)).toBe(false);
          given.add(value);
        }
        const all = Array.from({ length: space.last - space.first + 1 }, (_, i) => space.first + i);
        const free = all.filter((value) => !exclude.some(({ first, last }) => first <= value && value <= last));
        expect([...given].sort((a, b) => a - b)).toEqual(free);
      }),
    );
  });

  it('looks at few values while a tenth of a /16 is still free', () => {
    const space = range('172.16.0.1-172.16.255.254');
    const taken = new Set<number>();
    let looked = 0;
    // A fixed generator of 48-bit hints (Knuth's MMIX constants), so that the count is the same in every run.
    let state = 1n;
    const hint = () => {
      state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n);
      return Number(state >> 16n);
    };
    const pick = () => pickFree(space, (value) => (looked++, taken.has(value)), hint());
    while (taken.size < 0.9 * 65_534) taken.add(pick() ?? 0);
    looked = 0;
    for (let i = 0; i < 100; i++) pick();
    expect(looked / 100).toBeLessThan(20);
    expect(pickFree(range('0.0.0.0-255.255.255.255'), none, 2 ** 48 - 1)).toBeGreaterThanOrEqual(0);
  });
});
