import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { type Endpoint, EndpointError } from './endpoint.js';
import { toError } from './to-error.js';

/** Our certificate and key, and the CA that the server's certificate must come from; all PEM. */
export interface TlsIdentity {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/**
 * Opens a socket to the endpoint. For `ssl:` the server's certificate must come from the CA and carry the endpoint's
 * name or address. Rejects with the socket's own error (see `explain`), or the signal's reason.
 */
export function dial(endpoint: Endpoint, tls: TlsIdentity | undefined, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const socket = open(endpoint, tls);
    const connected = endpoint.kind === 'ssl' ? 'secureConnect' : 'connect';
    const settle = () => {
      signal.removeEventListener('abort', aborted);
      socket.off('error', fail).off('close', closed).off(connected, succeed);
    };
    const succeed = () => {
      settle();
      resolve(socket.setNoDelay(true));
    };
    const fail = (error: Error) => {
      settle();
      socket.on('error', () => undefined).destroy();
      reject(error);
    };
    const closed = () => fail(new Error('the server closed the connection'));
    const aborted = () => fail(toError(signal.reason));
    signal.addEventListener('abort', aborted);
    socket.on('error', fail).on('close', closed).on(connected, succeed);
  });
}

/** An `ssl:` endpoint without an identity is a mistake of the caller, found before the first attempt. */
export function checkIdentity(endpoint: Endpoint, tls: TlsIdentity | undefined): void {
  if (endpoint.kind === 'ssl' && tls === undefined) {
    throw new EndpointError(`${endpoint.text} needs a client certificate, a key and a CA`);
  }
}

function open(endpoint: Endpoint, tls: TlsIdentity | undefined): Socket {
  if (endpoint.kind === 'unix') return connectTcp({ path: endpoint.path });
  const { host, port } = endpoint;
  if (endpoint.kind === 'tcp') return connectTcp({ host, port });
  return connectTls({ host, port, ca: tls?.ca, cert: tls?.cert, key: tls?.key, minVersion: 'TLSv1.2' });
}

const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused: nothing listens there',
  ENOENT: 'no such socket',
  EACCES: 'permission denied',
  ECONNRESET: 'connection reset by the server',
  EPIPE: 'connection reset by the server',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'network unreachable',
  ETIMEDOUT: 'the host does not answer',
  ENOTFOUND: 'the host name does not resolve',
  EAI_AGAIN: 'the host name does not resolve (the name server does not answer)',
  SELF_SIGNED_CERT_IN_CHAIN: "TLS: the server's certificate comes from an unknown CA",
  DEPTH_ZERO_SELF_SIGNED_CERT: "TLS: the server's certificate comes from an unknown CA",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "TLS: the server's certificate comes from an unknown CA",
  UNABLE_TO_GET_ISSUER_CERT: "TLS: the server's certificate comes from an unknown CA",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "TLS: the server's certificate comes from an unknown CA",
  CERT_SIGNATURE_FAILURE: "TLS: the server's certificate comes from an unknown CA",
  CERT_HAS_EXPIRED: "TLS: the server's certificate has expired",
  CERT_NOT_YET_VALID: "TLS: the server's certificate is not valid yet",
  ERR_TLS_CERT_ALTNAME_INVALID: "TLS: the server's certificate names another host",
  ERR_SSL_WRONG_VERSION_NUMBER: 'TLS: the server does not speak TLS there',
};

/** What a socket's error means, in words for a person. */
export function explain(error: Error): string {
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  const known = REASONS[code];
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return `${known ?? code} (${error.message})`;
  if (known !== undefined) return known;
  // OpenSSL's names of the alerts that a peer sends: ERR_SSL_TLSV1_ALERT_UNKNOWN_CA, ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE, …
  if (/^ERR_SSL_.*ALERT/.test(code)) return `TLS: the server refused our certificate (${code})`;
  return error.message;
}
