/** Unsigned 32-bit value of a dotted quad without leading zeros (RFC 6943 §3.1.1, strict form); undefined if it is none. */
export function parseAddress(text: string): number | undefined {
  const octets = text.split('.');
  if (octets.length !== 4 || !octets.every((octet) => /^(0|[1-9][0-9]{0,2})$/.test(octet) && Number(octet) <= 255)) {
    return undefined;
  }
  return octets.reduce((value, octet) => value * 256 + Number(octet), 0);
}

export function formatAddress(value: number): string {
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.');
}

export interface Cidr {
  /** The address as written, host bits and all. */
  readonly address: number;
  /** First and last address of the block: the network's own and the broadcast address. */
  readonly first: number;
  readonly last: number;
  readonly prefix: number;
}

/** `a.b.c.d/prefix`; undefined if it is none. */
export function parseCidr(text: string): Cidr | undefined {
  const match = /^([^/]+)\/(0|[1-9][0-9]?)$/.exec(text);
  const address = parseAddress(match?.[1] ?? '');
  const prefix = Number(match?.[2]);
  if (address === undefined || !(prefix <= 32)) return undefined;
  const size = 2 ** (32 - prefix);
  const first = address - (address % size);
  return { address, first, last: first + size - 1, prefix };
}

export interface AddressRange {
  readonly first: number;
  readonly last: number;
}

/** `a` or `a-b`, both ends included, a ≤ b; undefined if it is none. */
export function parseRange(text: string): AddressRange | undefined {
  const [from = '', to = from, ...rest] = text.split('-');
  const [first, last] = [parseAddress(from), parseAddress(to)];
  return rest.length === 0 && first !== undefined && last !== undefined && first <= last ? { first, last } : undefined;
}

export function contains(block: AddressRange, address: number): boolean {
  return block.first <= address && address <= block.last;
}
