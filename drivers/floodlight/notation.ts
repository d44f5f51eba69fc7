import { createHash } from 'node:crypto';

/** Floodlight reads 64-bit numbers as signed ones. */
export const MAX_LONG = 2n ** 63n - 1n;
/** Open vSwitch's highest port; what is above stands for something. */
const MAX_PORT = 0xfeff;

export const isWithin = (value: number, max: number) => Number.isInteger(value) && value >= 0 && value <= max;

export const isPort = (port: number) => port > 0 && isWithin(port, MAX_PORT);

/** Decimal or 0x…; undefined if it is neither, or more than max. */
export function readNumber(text: unknown, max: number): number | undefined {
  if (typeof text !== 'string' || !/^(\d{1,10}|0x[0-9a-f]{1,8})$/i.test(text)) return undefined;
  const value = Number(text);
  return value <= max ? value : undefined;
}

/** Decimal (negative: a Java long) or 0x…, as unsigned 64 bits; undefined if it is neither. */
export function readLong(text: unknown): bigint | undefined {
  if (typeof text !== 'string' || !/^(-?\d{1,20}|0x[0-9a-f]{1,16})$/i.test(text)) return undefined;
  return BigInt.asUintN(64, BigInt(text));
}

/** What our types can't express, for `other`: short whatever it is, and never a part of what is wanted. In hexadecimal. */
export const digest = (what: unknown): string => createHash('sha256').update(JSON.stringify(what)).digest('hex');

/** 00:00:00:00:00:00:0a:01. */
export function formatDatapathId(datapathId: bigint): string {
  return datapathId
    .toString(16)
    .padStart(16, '0')
    .replace(/..(?!$)/g, '$&:');
}

/** Undefined if it is none. */
export function parseDatapathId(text: string): bigint | undefined {
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){7}$/i.test(text) ? BigInt(`0x${text.replaceAll(':', '')}`) : undefined;
}
