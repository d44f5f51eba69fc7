import http from 'node:http';
import https from 'node:https';
import { explain } from '../wire/dial.js';
import { FloodlightError, type FloodlightErrorCode, unsupported } from './errors.js';
import type { FloodlightOptions } from './types.js';

type Method = 'GET' | 'POST' | 'DELETE';

interface Request {
  readonly method: Method;
  readonly path: string;
  readonly body: string;
}

interface Answer {
  readonly status: number;
  readonly body: string;
}

interface Attempt {
  /** false: on a connection of its own. */
  readonly agent: http.Agent | false;
  /** It went out on a connection that an earlier call had used. */
  reused: boolean;
}

interface Waiting {
  readonly start: () => void;
  readonly fail: (error: FloodlightError) => void;
}

/** JSON over HTTP on kept connections: a deadline on every call, a few at a time, all ended by close. */
export class Rest {
  readonly #base: URL;
  readonly #agent: http.Agent;
  readonly #timeoutMs: number;
  readonly #maxBytes: number;
  readonly #closing = new AbortController();
  readonly #waiting: Waiting[] = [];
  readonly #running = new Set<Promise<unknown>>();
  #free: number;

  constructor(url: string, options: FloodlightOptions) {
    const { callTimeoutMs = 5000, maxConcurrency = 4, maxAnswerBytes = 64 * 2 ** 20 } = options;
    if (!/^https?:/.test(url) || !URL.canParse(url)) throw unsupported(`${url} is not an http or https URL`);
    this.#base = new URL(url);
    const agent = { keepAlive: true, maxSockets: maxConcurrency };
    this.#agent = this.#base.protocol === 'https:' ? new https.Agent(agent) : new http.Agent(agent);
    this.#timeoutMs = callTimeoutMs;
    this.#maxBytes = maxAnswerBytes;
    this.#free = maxConcurrency;
  }

  /** The answer's JSON; an HTTP status other than 200 is FLOODLIGHT_REFUSED. */
  async call(method: Method, path: string, body?: object): Promise<unknown> {
    const request = { method, path, body: body === undefined ? '' : JSON.stringify(body) };
    await this.#turn();
    const exchange = this.#exchange(request);
    this.#running.add(exchange);
    try {
      return this.#read(request, await exchange);
    } catch (error) {
      // Those behind would each find out for themselves, one deadline after the other.
      if (error instanceof FloodlightError && isSilence(error.code)) this.#failWaiting(error);
      throw error;
    } finally {
      this.#running.delete(exchange);
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next.start();
    }
  }

  async close(): Promise<void> {
    const error = this.#error('FLOODLIGHT_CLOSED', 'the client is closed');
    this.#closing.abort(error);
    this.#failWaiting(error);
    await Promise.allSettled(this.#running);
    this.#agent.destroy();
  }

  async #turn(): Promise<void> {
    this.#closing.signal.throwIfAborted();
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve, reject) => this.#waiting.push({ start: resolve, fail: reject }));
  }

  #failWaiting(error: FloodlightError): void {
    for (const { fail } of this.#waiting.splice(0)) fail(error);
  }

  #read({ method, path }: Request, { status, body }: Answer): unknown {
    if (status !== 200) throw this.#error('FLOODLIGHT_REFUSED', `${method} ${path}: HTTP ${status}, ${reason(body)}`);
    try {
      return JSON.parse(body);
    } catch (error) {
      throw this.#error(
        'FLOODLIGHT_PROTOCOL',
        `${method} ${path}: the answer is not JSON: ${body.slice(0, 200)}`,
        error,
      );
    }
  }

  async #exchange(request: Request): Promise<Answer> {
    const first: Attempt = { agent: this.#agent, reused: false };
    try {
      return await this.#attempt(request, first);
    } catch (error) {
      // The server had closed the kept connection, and maybe the others too. All our requests may be repeated.
      if (first.reused && error instanceof FloodlightError && error.code === 'FLOODLIGHT_UNREACHABLE')
        return this.#attempt(request, { agent: false, reused: false });
      throw error;
    }
  }

  #attempt({ method, path, body }: Request, attempt: Attempt): Promise<Answer> {
    const { signal } = this.#closing;
    const { protocol, pathname } = this.#base;
    const what = `${method} ${path}`;
    // With another Accept the answers come as XML.
    const headers = { accept: 'application/json', 'content-length': Buffer.byteLength(body) };
    const url = new URL(pathname.replace(/\/$/, '') + path, this.#base);
    const outgoing = (protocol === 'https:' ? https : http).request(url, { agent: attempt.agent, method, headers });
    return new Promise<Answer>((resolve, reject) => {
      const settle = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', closed);
      };
      const fail = (error: FloodlightError) => {
        settle();
        reject(error);
        outgoing.destroy();
      };
      const broken = (error: Error) => {
        attempt.reused = outgoing.reusedSocket;
        const code = isNotHttp(error) ? 'FLOODLIGHT_PROTOCOL' : 'FLOODLIGHT_UNREACHABLE';
        fail(this.#error(code, `${what}: ${explain(error)}`, error));
      };
      const closed = () => fail(this.#error('FLOODLIGHT_CLOSED', 'the client was closed'));
      const late = () => fail(this.#error('FLOODLIGHT_TIMEOUT', `${what}: no answer within ${this.#timeoutMs} ms`));
      const large = () => fail(this.#error('FLOODLIGHT_PROTOCOL', `${what}: more than ${this.#maxBytes} bytes`));
      const timer = setTimeout(late, this.#timeoutMs);
      signal.addEventListener('abort', closed);
      outgoing.on('error', broken);
      outgoing.on('response', (incoming) => {
        const chunks: Buffer[] = [];
        let bytes = 0;
        incoming.on('error', broken);
        incoming.on('data', (chunk: Buffer) => {
          bytes += chunk.length;
          if (bytes > this.#maxBytes) large();
          else chunks.push(chunk);
        });
        incoming.on('end', () => {
          settle();
          resolve({ status: incoming.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') });
        });
      });
      outgoing.end(body);
    });
  }

  #error(code: FloodlightErrorCode, message: string, cause?: unknown): FloodlightError {
    return new FloodlightError(code, `${this.#base.origin}: ${message}`, cause);
  }
}

const isSilence = (code: FloodlightErrorCode) => code === 'FLOODLIGHT_TIMEOUT' || code === 'FLOODLIGHT_UNREACHABLE';

/** The parser's own codes begin so: chunks that are none, a status line that is none. */
const isNotHttp = (error: Error) => 'code' in error && String(error.code).startsWith('HPE_');

/** What an HTTP error says for itself; the rest of it is a stack trace of tens of kilobytes. */
function reason(body: string): string {
  const [, description] = /"description" *: *"([^"]*)"/.exec(body) ?? [];
  return (description ?? body).slice(0, 200);
}
