export type FloodlightErrorCode =
  /** No connection, or it broke while the call waited: whether it was done is not known. */
  | 'FLOODLIGHT_UNREACHABLE'
  /** No whole answer within the deadline: whether it was done is not known. A wedged controller does this for ever. */
  | 'FLOODLIGHT_TIMEOUT'
  /** Floodlight says that it did not do it: an HTTP error, or 200 with "Warning!" or "Error!". */
  | 'FLOODLIGHT_REFUSED'
  /** The switch is not connected to Floodlight. */
  | 'FLOODLIGHT_NO_SWITCH'
  /** The answer can't be understood, or is too large: whether it was done is not known. */
  | 'FLOODLIGHT_PROTOCOL'
  /** Not sent: a static entry can't say this, or it would do harm. */
  | 'FLOODLIGHT_UNSUPPORTED'
  /** Not sent, or ended: the client was closed. */
  | 'FLOODLIGHT_CLOSED';

export class FloodlightError extends Error {
  override readonly name = 'FloodlightError';

  constructor(
    readonly code: FloodlightErrorCode,
    message: string,
    cause?: unknown,
  ) {
    super(message, { cause });
  }
}

export const unsupported = (message: string, cause?: unknown) =>
  new FloodlightError('FLOODLIGHT_UNSUPPORTED', message, cause);
