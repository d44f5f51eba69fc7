import { isIPv6 } from 'node:net';

/** Where a daemon listens, in the notation of ovsdb(7) "Connection Methods". */
export type Endpoint =
  | { readonly kind: 'tcp' | 'ssl'; readonly host: string; readonly port: number; readonly text: string }
  | { readonly kind: 'unix'; readonly path: string; readonly text: string };

export class EndpointError extends Error {
  override readonly name = 'EndpointError';
  readonly code = 'ENDPOINT';
}

const NETWORK = /^(tcp|ssl):(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/;

/** Parses `tcp:host:port`, `ssl:host:port` (IPv6 in brackets) or `unix:/path`. Throws EndpointError. */
export function parseEndpoint(text: string): Endpoint {
  if (text.startsWith('unix:/')) return { kind: 'unix', path: text.slice('unix:'.length), text };
  const [, kind, bracketed, name, digits] = NETWORK.exec(text) ?? [];
  const host = bracketed ?? name;
  const port = Number(digits);
  if (host === undefined || port < 1 || port > 65535 || (bracketed !== undefined && !isIPv6(bracketed))) {
    throw new EndpointError(`"${text}" is not an endpoint: write tcp:host:port, ssl:host:port or unix:/path`);
  }
  return { kind: kind === 'ssl' ? 'ssl' : 'tcp', host, port, text };
}
