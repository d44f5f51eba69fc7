/**
 * Nothing is known of the outcome: no leader, connection refused or broken, deadline passed, an answer of the 5xx kind.
 * A write may or may not have happened; read before repeating it.
 */
export class ConsulUnavailableError extends Error {
  readonly code = 'CONSUL_UNAVAILABLE';

  constructor(message: string, cause?: unknown) {
    super(message, { cause });
    this.name = 'ConsulUnavailableError';
  }
}

export type ConsulErrorCode =
  /** Consul answered that it won't do this (4xx): repeating it is of no use. `status` has the answer's HTTP status. */
  | 'CONSUL_REFUSED'
  /** Not sent: more operations than a transaction can have. */
  | 'CONSUL_LIMIT'
  /** Not sent: the store or view was closed. */
  | 'CONSUL_CLOSED';

/** A request that did not happen, and why. */
export class ConsulError extends Error {
  readonly code: ConsulErrorCode;
  readonly status: number | undefined;

  constructor(code: ConsulErrorCode, message: string, options: { status?: number; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.name = 'ConsulError';
    this.code = code;
    this.status = options.status;
  }
}
