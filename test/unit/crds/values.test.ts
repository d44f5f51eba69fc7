import { describe, expect, it } from '@jest/globals';
import { formatAddress, parseAddress, parseCidr, parseRange, quantity, QuantityError } from '../../../crds/index.js';

describe('quantity', () => {
  it.each([
    { text: '0', bytes: 0n, format: '0', reason: 'nothing' },
    { text: 1024, bytes: 1024n, format: '1Ki', reason: 'plain numbers are bytes' },
    { text: '512Mi', bytes: 536870912n, format: '512Mi', reason: 'binary suffix' },
    { text: '2Gi', bytes: 2147483648n, format: '2Gi', reason: 'binary suffix' },
    { text: '1G', bytes: 1000000000n, format: '1000000000', reason: 'decimal suffix; format stays exact' },
    { text: '1.5Gi', bytes: 1610612736n, format: '1536Mi', reason: 'fraction of a unit' },
    { text: '.5Ki', bytes: 512n, format: '512', reason: 'no leading digit needed' },
    { text: '1e9', bytes: 1000000000n, format: '1000000000', reason: 'exponent' },
    { text: '25E-1', bytes: 3n, format: '3', reason: 'a fraction of a byte counts as one' },
    { text: '1E', bytes: 1000000000000000000n, format: '976562500000000Ki', reason: 'exa, not an exponent' },
    { text: '1500m', bytes: 2n, format: '2', reason: 'thousandths' },
    { text: '8Ei', bytes: 9223372036854775808n, format: '8Ei', reason: 'beyond what a number holds exactly' },
  ])('$text: $reason', ({ text, bytes, format }) => {
    expect(quantity.parse(text)).toBe(bytes);
    expect(quantity.format(bytes)).toBe(format);
    expect(quantity.parse(format)).toBe(bytes);
  });

  it.each(['', '.', '-1Gi', '1KiB', '1 Gi', '1gi', '1e', 'Gi', '0x10'])('refuses "%s"', (text) =>
    expect(() => quantity.parse(text)).toThrow(QuantityError),
  );
});

describe('IPv4', () => {
  it.each([
    { text: '0.0.0.0', value: 0, reason: 'the first' },
    { text: '255.255.255.255', value: 4294967295, reason: 'the last: not negative' },
    { text: '172.16.0.20', value: 2886729748, reason: 'one of many' },
  ])('$text: $reason', ({ text, value }) => {
    expect(parseAddress(text)).toBe(value);
    expect(formatAddress(value)).toBe(text);
  });

  it.each(['', '1.2.3', '1.2.3.4.5', '1.2.3.256', '01.2.3.4', '1.2.3.4 ', '1.2.3.-4', '::1'])('refuses "%s"', (text) =>
    expect(parseAddress(text)).toBeUndefined(),
  );

  it('knows the ends of a block', () => {
    expect(parseCidr('10.0.0.9/29')).toEqual({
      address: parseAddress('10.0.0.9'),
      first: parseAddress('10.0.0.8'),
      last: parseAddress('10.0.0.15'),
      prefix: 29,
    });
    expect(parseCidr('0.0.0.0/0')).toMatchObject({ first: 0, last: 4294967295 });
    expect(['10.0.0.0', '10.0.0.0/33', '10.0.0.0/08', '10.0.0.0/-1', '/8'].map(parseCidr)).toEqual(
      Array(5).fill(undefined),
    );
  });

  it('knows ranges', () => {
    expect(parseRange('10.0.0.1')).toEqual({ first: 167772161, last: 167772161 });
    expect(parseRange('10.0.0.9-10.0.0.10')).toEqual({ first: 167772169, last: 167772170 });
    expect(['', '-', '10.0.0.2-10.0.0.1', '10.0.0.1-', '1.1.1.1-1.1.1.2-1.1.1.3'].map(parseRange)).toEqual(
      Array(5).fill(undefined),
    );
  });
});
