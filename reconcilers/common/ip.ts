import type { AddressRange, Cidr } from '../../crds/ipv4.js';

/** The addresses of a block that hosts may have: all of a /31 (RFC 3021) and a /32, else all but the first and the last. */
export function usable(cidr: Cidr): AddressRange {
  return cidr.prefix >= 31 ? { first: cidr.first, last: cidr.last } : { first: cidr.first + 1, last: cidr.last - 1 };
}

export function overlap(a: AddressRange, b: AddressRange): boolean {
  return a.first <= b.last && b.first <= a.last;
}

/** What is left of a range without the others, in order. */
export function subtract(range: AddressRange, excluded: readonly AddressRange[]): AddressRange[] {
  const left: AddressRange[] = [];
  let next = range.first;
  for (const { first, last } of [...excluded].sort((a, b) => a.first - b.first)) {
    if (first > range.last) break;
    if (first > next) left.push({ first: next, last: first - 1 });
    next = Math.max(next, last + 1);
  }
  if (next <= range.last) left.push({ first: next, last: range.last });
  return left;
}

/** What values are given out of: addresses, VLANs, VNIs. */
export interface Space extends AddressRange {
  readonly exclude?: readonly AddressRange[];
}

/**
 * A value that is not taken, or undefined if there is none at all. The hint (a whole number ≥ 0, best 48 bits of a hash of the
 * asker) chooses where to look first and in which steps to go on, so that those who ask at the same time look at different
 * values, the same asker at the same, and few values are looked at unless nearly all are taken: 1 / (share of free ones)
 * in the mean. Small hints look in rising order, beginning with the hint-th value.
 */
export function pickFree(space: Space, taken: (value: number) => boolean, hint: number): number | undefined {
  const ranges = subtract(space, space.exclude ?? []);
  const size = ranges.reduce((sum, { first, last }) => sum + last - first + 1, 0);
  if (size === 0) return undefined;
  let at = hint % size;
  let step = 1 + (Math.floor(hint / size) % size);
  // Only a step without a common divisor comes past every value.
  while (greatestCommonDivisor(step, size) !== 1) step++;
  for (let looked = 0; looked < size; looked++) {
    const value = nth(ranges, at);
    if (value !== undefined && !taken(value)) return value;
    at = (at + step) % size;
  }
  return undefined;
}

function nth(ranges: readonly AddressRange[], index: number): number | undefined {
  for (const { first, last } of ranges) {
    const size = last - first + 1;
    if (index < size) return first + index;
    index -= size;
  }
  return undefined;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
