import { MalformedError } from '../wire/malformed.js';

/** Some 30,000 interfaces in one answer. Parsed JSON may take ten times as much memory as its text. */
const MAX_BYTES = 16 * 2 ** 20;
const MAX_DEPTH = 128;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

const isSpace = (byte: number) => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;

/**
 * Cuts a stream of bytes into JSON objects, which RFC 7047 puts one after the other with nothing between. Each byte is
 * looked at once, wherever the pieces are cut; the text is parsed when its last brace has come.
 */
export class JsonFramer {
  readonly #decoder = new TextDecoder('utf-8', { fatal: true });
  /** The beginning of an object whose end has not come, in a buffer that grows: pieces kept apart may cost much more than their bytes. */
  #buffer = Buffer.alloc(0);
  #held = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;

  constructor(
    private readonly maxBytes = MAX_BYTES,
    private readonly maxDepth = MAX_DEPTH,
  ) {}

  /** The objects that are complete with this chunk. Throws MalformedError. */
  *push(chunk: Buffer): Generator {
    let start = 0;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at] ?? 0;
      if (this.#depth === 0 && byte !== OPEN_BRACE) {
        if (!isSpace(byte)) throw new MalformedError('what comes is not JSON objects');
        start = at + 1;
        continue;
      }
      if (!this.#step(byte)) continue;
      const end = chunk.subarray(start, at + 1);
      start = at + 1;
      yield this.#parse(this.#take(end));
    }
    if (start < chunk.length) this.#hold(chunk.subarray(start));
  }

  /** True if the byte ends the object. */
  #step(byte: number): boolean {
    if (this.#inString) {
      if (this.#escaped) this.#escaped = false;
      else if (byte === BACKSLASH) this.#escaped = true;
      else if (byte === QUOTE) this.#inString = false;
      return false;
    }
    if (byte === QUOTE) this.#inString = true;
    else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
      if (++this.#depth > this.maxDepth) throw new MalformedError(`JSON nested deeper than ${this.maxDepth}`);
    } else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) return --this.#depth === 0;
    return false;
  }

  #hold(piece: Buffer): void {
    const held = this.#grow(piece.length);
    if (held > this.#buffer.length) {
      const grown = Buffer.allocUnsafe(Math.max(2 * this.#buffer.length, held));
      this.#buffer.copy(grown, 0, 0, this.#held);
      this.#buffer = grown;
    }
    piece.copy(this.#buffer, this.#held);
    this.#held = held;
  }

  /** The whole object, of which this is the end. */
  #take(end: Buffer): Buffer {
    const length = this.#grow(end.length);
    const whole = this.#held === 0 ? end : Buffer.concat([this.#buffer.subarray(0, this.#held), end], length);
    this.#buffer = Buffer.alloc(0);
    this.#held = 0;
    return whole;
  }

  #grow(by: number): number {
    const length = this.#held + by;
    if (length > this.maxBytes) throw new MalformedError(`a JSON object of more than ${this.maxBytes} bytes`);
    return length;
  }

  #parse(text: Buffer): unknown {
    try {
      return JSON.parse(this.#decoder.decode(text));
    } catch (cause) {
      throw new MalformedError('what comes is not valid JSON', { cause });
    }
  }
}
