/** What a peer sent can't be what the protocol allows. The connection is of no more use: the position in the stream is lost. */
export class MalformedError extends Error {
  override readonly name = 'MalformedError';
  readonly code = 'MALFORMED';
}
