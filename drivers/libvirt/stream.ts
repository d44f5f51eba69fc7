import { Duplex } from 'node:stream';
import { LibvirtConnectionError, LibvirtProtocolError, LibvirtTimeoutError } from './errors.js';
import { MessageStatus } from './message.js';
import type { ConsoleStream } from './types.js';

/** The daemon has no flow control a stream: a reader that is further behind than this loses its stream, not the connection. */
const MAX_UNREAD_BYTES = 32 * 1024 * 1024;

/** VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX: what libvirt's own client puts into one message. */
const MAX_CHUNK_BYTES = 262_120;

const EMPTY = Buffer.alloc(0);

interface Settle<T> {
  resolve(value: T): void;
  reject(error: Error): void;
}

/** What a stream needs of its connection. */
export interface StreamHost {
  /** Resolves when the bytes have left for the kernel; rejects when the connection ends. */
  send(status: MessageStatus, payload: Uint8Array): Promise<void>;
  /** The stream is over on both sides. */
  release(): void;
  /** The longest that the daemon may take to read on, to send more or to confirm. Milliseconds. */
  readonly stallTimeoutMs: number;
}

/**
 * One data stream of a call. Bytes go both ways in messages of status `more`, an empty one being the end of reading; `ok` asks to
 * finish and is confirmed by `ok`; `error` aborts.
 */
export class RpcStream {
  readonly #host: StreamHost;
  #unread: Buffer[] = [];
  #unreadBytes = 0;
  #readerEnded = false;
  #over = false;
  #failure: Error | undefined;
  #reader: Settle<Buffer | undefined> | undefined;
  #finisher: Settle<undefined> | undefined;

  constructor(host: StreamHost) {
    this.#host = host;
  }

  /** The next bytes, or undefined at the end. One read at a time. */
  async read(timeoutMs?: number): Promise<Buffer | undefined> {
    const ready = this.#unread.shift();
    if (ready !== undefined) {
      this.#unreadBytes -= ready.length;
      return ready;
    }
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#readerEnded || this.#over) return undefined;
    return this.#wait<Buffer | undefined>((settle) => (this.#reader = settle), timeoutMs, 'sent nothing');
  }

  /** Resolves when the connection takes more. */
  async write(bytes: Uint8Array): Promise<void> {
    for (let offset = 0; offset < bytes.length; offset += MAX_CHUNK_BYTES) {
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#over) throw new LibvirtProtocolError('write to a stream that is over');
      await this.#stalls(this.#host.send(MessageStatus.more, bytes.subarray(offset, offset + MAX_CHUNK_BYTES)));
    }
  }

  /** Resolves when the daemon has everything. */
  async finish(): Promise<void> {
    await this.#conclude(MessageStatus.ok);
  }

  /** Ends the stream at once. Never rejects: what could go wrong has already. */
  async abort(): Promise<void> {
    this.#unread = [];
    await this.#conclude(MessageStatus.error).catch(() => undefined);
  }

  /** A stream message of the daemon. */
  accept(status: MessageStatus, payload: Buffer, decodeError: (payload: Buffer) => Error): void {
    switch (status) {
      case MessageStatus.error: {
        this.fail(decodeError(payload));
        return;
      }
      case MessageStatus.ok:
        this.#end();
        {
          this.#host.release();
          return;
        }
      case MessageStatus.more:
        if (payload.length === 0) {
          this.#endReading();
          return;
        }
        {
          this.#push(payload);
          return;
        }
    }
  }

  fail(error: Error): void {
    this.#failure ??= error;
    this.#end();
    this.#host.release();
  }

  #push(payload: Buffer): void {
    if (this.#readerEnded || this.#finisher !== undefined) return;
    if (this.#reader !== undefined) {
      this.#reader.resolve(payload);
      return;
    }
    this.#unread.push(payload);
    this.#unreadBytes += payload.length;
    if (this.#unreadBytes > MAX_UNREAD_BYTES) {
      this.#failure = new LibvirtConnectionError('LIBVIRT_CLOSED', `stream aborted: ${this.#unreadBytes} bytes unread`);
      void this.abort();
    }
  }

  #endReading(): void {
    this.#readerEnded = true;
    this.#reader?.resolve(undefined);
  }

  #end(): void {
    this.#over = true;
    this.#readerEnded = true;
    if (this.#failure === undefined) {
      this.#reader?.resolve(undefined);
      this.#finisher?.resolve(undefined);
    } else {
      this.#reader?.reject(this.#failure);
      this.#finisher?.reject(this.#failure);
    }
  }

  async #conclude(status: MessageStatus): Promise<void> {
    if (this.#over) {
      if (this.#failure !== undefined) throw this.#failure;
      return;
    }
    const confirmed = this.#wait<undefined>(
      (settle) => (this.#finisher = settle),
      this.#host.stallTimeoutMs,
      'did not confirm the end',
    );
    // A send that fails ends the connection, and that rejects `confirmed`.
    this.#host.send(status, EMPTY).catch(() => undefined);
    await confirmed;
  }

  #wait<T>(register: (settle: Settle<T> | undefined) => void, timeoutMs: number | undefined, what: string): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const timer =
        timeoutMs === undefined
          ? undefined
          : setTimeout(() => {
              register(undefined);
              reject(new LibvirtTimeoutError(`the daemon ${what} on a stream for ${timeoutMs} ms`));
            }, timeoutMs);
      const settled = (): void => {
        clearTimeout(timer);
        register(undefined);
      };
      register({
        resolve: (value) => {
          settled();
          resolve(value);
        },
        reject: (error) => {
          settled();
          reject(error);
        },
      });
    });
  }

  async #stalls(sent: Promise<void>): Promise<void> {
    const { stallTimeoutMs } = this.#host;
    let timer: NodeJS.Timeout | undefined;
    const stalled = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new LibvirtTimeoutError(`the daemon took nothing of a stream for ${stallTimeoutMs} ms`)),
        stallTimeoutMs,
      );
    });
    try {
      await Promise.race([sent, stalled]);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** A console as a Node stream. Its end finishes the RPC stream, destroy() aborts it. */
export function consoleOf(stream: RpcStream): ConsoleStream {
  const settle = (work: Promise<void>, callback: (error?: Error | null) => void): void => {
    work.then(() => callback(), callback);
  };
  return new Duplex({
    allowHalfOpen: false,
    read() {
      stream.read().then(
        (bytes) => this.push(bytes ?? null),
        (error: unknown) => this.destroy(error instanceof Error ? error : new Error(String(error))),
      );
    },
    write: (chunk: Buffer, _encoding, callback) => settle(stream.write(chunk), callback),
    final: (callback) => settle(stream.finish(), callback),
    destroy: (error, callback) => settle(stream.abort(), (failure) => callback(error ?? failure ?? null)),
  });
}
