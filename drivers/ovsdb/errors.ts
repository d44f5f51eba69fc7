/** The server refused a request: an operation of a transaction (RFC 7047 §4.1.3, §5.2) or a whole call. */
export class OvsdbError extends Error {
  override readonly name = 'OvsdbError';
  readonly code = 'OVSDB';

  constructor(
    where: string,
    /** The server's name of the error, e.g. "constraint violation", "timed out", "not supported". */
    readonly error: string,
    readonly details: string,
    /** The failed operation. The number of operations if the commit failed after all of them; undefined if it was no transaction. */
    readonly index?: number,
  ) {
    const at = index === undefined ? '' : `, at operation ${index}`;
    super(`${where}: ${error}${at}${details === '' ? '' : `: ${details}`}`);
  }
}

/** There is no connection, or it broke while the call waited: whether the server did it is not known. */
export class OvsdbConnectionError extends Error {
  override readonly name = 'OvsdbConnectionError';
  readonly code = 'OVSDB_CONNECTION';
}

/** The server did not answer in time: whether it did it is not known. */
export class OvsdbTimeoutError extends Error {
  override readonly name = 'OvsdbTimeoutError';
  readonly code = 'OVSDB_TIMEOUT';
}
