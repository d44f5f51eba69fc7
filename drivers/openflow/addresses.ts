import { OpenFlowValueError } from './errors.js';

/** Packed addresses as numbers: 48 bits for Ethernet, 32 for IPv4. Both are exact in a double. */
export interface Masked {
  readonly value: number;
  readonly mask: number;
}

export const ALL_48 = 2 ** 48 - 1;
export const ALL_32 = 2 ** 32 - 1;

const MAC = /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/i;

export function parseMac(text: string): number {
  if (!MAC.test(text)) throw new OpenFlowValueError(`"${text}" is not an Ethernet address`);
  return Number.parseInt(text.replaceAll(':', ''), 16);
}

export function formatMac(value: number): string {
  return value
    .toString(16)
    .padStart(12, '0')
    .replace(/..(?!$)/g, '$&:');
}

export function parseIpv4(text: string): number {
  const parts = text.split('.');
  let value = 0;
  for (const part of parts) {
    if (!/^\d{1,3}$/.test(part) || Number(part) > 255) throw notIpv4(text);
    value = value * 256 + Number(part);
  }
  if (parts.length !== 4) throw notIpv4(text);
  return value;
}

const notIpv4 = (text: string) => new OpenFlowValueError(`"${text}" is not an IPv4 address`);

export function formatIpv4(value: number): string {
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 0xff).join('.');
}

/** `address` or `address/mask`. */
export function parseMasked(text: string, parse: (text: string) => number, all: number): Masked {
  const slash = text.indexOf('/');
  if (slash < 0) return { value: parse(text), mask: all };
  return { value: parse(text.slice(0, slash)), mask: parse(text.slice(slash + 1)) };
}
