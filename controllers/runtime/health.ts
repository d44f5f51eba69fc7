import { once } from 'node:events';
import { createServer, type Server } from 'node:http';

import type { Metrics } from './metrics.js';

export interface HealthOptions {
  /** `host:port` (IPv6 in brackets). Port 0 takes a free one. */
  readonly address: string;
  readonly metrics: Metrics;
  /** What is not ready yet, in words; empty: ready. */
  readonly notReady: () => readonly string[];
}

export class HealthAddressError extends Error {
  override readonly name = 'HealthAddressError';
  readonly code = 'HEALTH_ADDRESS';
}

/** Serves /healthz (the event loop turns), /readyz and /metrics over plain HTTP. */
export class HealthServer {
  readonly #server: Server;

  constructor(private readonly options: HealthOptions) {
    this.#server = createServer((request, response) => {
      const { status, body, type = 'text/plain' } = this.#answer(request.url ?? '/');
      response.writeHead(status, { 'content-type': `${type}; charset=utf-8`, connection: 'close' }).end(body);
    });
  }

  /** Answers the port. */
  async start(): Promise<number> {
    const parsed = /^(?:\[([^\]]+)\]|([^:]*)):(\d+)$/.exec(this.options.address);
    if (!parsed) throw new HealthAddressError(`not host:port: ${this.options.address}`);
    const [, ipv6, host, port] = parsed;
    this.#server.listen(Number(port), ipv6 ?? (host === '' ? undefined : host));
    try {
      await once(this.#server, 'listening');
    } catch (cause) {
      throw new HealthAddressError(`can't listen at ${this.options.address}`, { cause });
    }
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : Number(port);
  }

  async stop(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  #answer(url: string): { status: number; body: string; type?: string } {
    switch (url.split('?')[0]) {
      case '/healthz':
        return { status: 200, body: 'ok\n' };
      case '/readyz': {
        const missing = this.options.notReady();
        return missing.length === 0 ? { status: 200, body: 'ok\n' } : { status: 503, body: `${missing.join('\n')}\n` };
      }
      case '/metrics':
        return { status: 200, body: this.options.metrics.render(), type: 'text/plain; version=0.0.4' };
      default:
        return { status: 404, body: 'not found\n' };
    }
  }
}
