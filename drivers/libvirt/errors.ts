import * as constants from './constants.js';

const kinds = new Map<number, string>(
  Object.entries(constants).flatMap(([name, value]) =>
    name.startsWith('ERR_') && typeof value === 'number' ? [[value, name.slice('ERR_'.length)]] : [],
  ),
);

/** An error that the daemon reported (https://libvirt.org/html/libvirt-virterror.html). */
export class LibvirtError extends Error {
  override readonly name = 'LibvirtError';
  /** The code's name without VIR_ERR_, e.g. NO_DOMAIN; UNKNOWN for one that this client does not name. */
  readonly kind: string;

  constructor(
    message: string,
    /** VIR_ERR_*. */
    readonly code: number,
    /** VIR_FROM_*: the part of libvirt that reports. */
    readonly domain: number,
    /** VIR_ERR_WARNING or VIR_ERR_ERROR. */
    readonly level: number,
  ) {
    super(message);
    this.kind = kinds.get(code) ?? 'UNKNOWN';
  }
}

/** A deadline passed. Whether the daemon carried the call out is unknown. */
export class LibvirtTimeoutError extends Error {
  override readonly name = 'LibvirtTimeoutError';
  readonly code = 'LIBVIRT_TIMEOUT';
}

export type LibvirtConnectionErrorCode =
  /** The URI is not one that this client can dial. */
  | 'LIBVIRT_URI'
  /** No connection came about: refused, no route, no such socket, ssh failed. */
  | 'LIBVIRT_UNREACHABLE'
  /** The daemon's certificate is not trusted, or is for another name. */
  | 'LIBVIRT_TLS_SERVER'
  /** The daemon refused our certificate, or the lack of one. */
  | 'LIBVIRT_TLS_CLIENT'
  /** The daemon wants an authentication that this client does not speak. */
  | 'LIBVIRT_AUTH'
  /** The connection ended: by the peer, by an I/O error or by close(). */
  | 'LIBVIRT_CLOSED'
  /** The caller's AbortSignal fired. */
  | 'LIBVIRT_ABORTED'
  /** The peer left pings unanswered, or holds every call that it may hold. */
  | 'LIBVIRT_UNRESPONSIVE'
  /** The peer sent what the protocol does not allow; `cause` is a LibvirtProtocolError. */
  | 'LIBVIRT_PROTOCOL';

/** There is no connection, or no longer. Every waiting call and stream gets the same instance. */
export class LibvirtConnectionError extends Error {
  override readonly name = 'LibvirtConnectionError';

  constructor(
    readonly code: LibvirtConnectionErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** Bytes that are not what the protocol says, or a value that the protocol can't carry. */
export class LibvirtProtocolError extends Error {
  override readonly name = 'LibvirtProtocolError';
  readonly code = 'LIBVIRT_MALFORMED';
}
