import { setTimeout as sleep } from 'node:timers/promises';
import { backoffMs } from './backoff.js';
import type { Client } from './client.js';
import { ConsulUnavailableError } from './errors.js';

/** Keeps a key in place as long as this process lives and reaches Consul. */
export class Heartbeat {
  readonly #client: Client;
  readonly #key: string;
  readonly #value: string;
  readonly #ttlSeconds: number;
  readonly #onFailure: (error: unknown) => void;
  readonly #stop = new AbortController();
  #session: string | undefined;
  #loop: Promise<void> = Promise.resolve();

  constructor(client: Client, key: string, value: string, ttlSeconds: number, onFailure: (error: unknown) => void) {
    this.#client = client;
    this.#key = key;
    this.#value = value;
    this.#ttlSeconds = ttlSeconds;
    this.#onFailure = onFailure;
  }

  /** The first beat; its failure is the caller's. */
  async start(): Promise<void> {
    try {
      await this.#beat();
    } catch (error) {
      await this.close();
      throw error;
    }
    this.#loop = this.#run();
  }

  /** Deletes the key with its session. If Consul is away, the session's TTL does it. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
    const session = this.#session;
    this.#session = undefined;
    if (session === undefined) return;
    try {
      await this.#client.destroySession(session);
    } catch (error) {
      if (!(error instanceof ConsulUnavailableError)) throw error;
    }
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    const intervalMs = (this.#ttlSeconds * 1000) / 3;
    let failures = 0;
    for (;;) {
      const waitMs = failures === 0 ? intervalMs : Math.min(intervalMs, backoffMs(failures));
      await sleep(waitMs, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return;
      try {
        await this.#beat();
        failures = 0;
      } catch (error) {
        failures++;
        this.#onFailure(error);
      }
    }
  }

  async #beat(): Promise<void> {
    if (this.#session !== undefined && (await this.#client.renewSession(this.#session))) {
      const held = await this.#client.get(this.#key);
      if (held?.session === this.#session && held.entry.value === this.#value) return;
    } else {
      this.#session = await this.#client.createSession(this.#key, this.#ttlSeconds);
    }
    // If another session holds the key (a killed predecessor's, until its TTL), a later beat gets it.
    await this.#client.acquire(this.#key, this.#value, this.#session);
  }
}
