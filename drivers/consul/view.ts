import { setTimeout as sleep } from 'node:timers/promises';
import { BehaviorSubject, Subject, filter, firstValueFrom, timeout } from 'rxjs';
import type { Observable } from 'rxjs';
import { backoffMs } from './backoff.js';
import type { Client } from './client.js';
import { ConsulError, ConsulUnavailableError } from './errors.js';
import { Replica } from './replica.js';
import type { OwnWrite } from './replica.js';
import type { Entry, View } from './types.js';

const waitSeconds = 300;
const readyTimeoutMs = 10_000;

/**
 * The pause between two reads. An answer has the whole prefix, so a large prefix that changes all the time is read less
 * often (0.2 s for 10,000 keys); a change after a quiet time is seen at once.
 */
const pauseMs = (entries: number) => Math.min(500, 5 + entries / 50);

/** View over blocking queries: https://developer.hashicorp.com/consul/api-docs/features/blocking */
export class PrefixView implements View {
  readonly changes: Observable<readonly string[]>;
  readonly prefix: string;
  readonly #client: Client;
  readonly #onClose: (view: PrefixView) => void;
  readonly #replica = new Replica();
  readonly #changes = new Subject<readonly string[]>();
  readonly #state = new BehaviorSubject<'unread' | 'read' | 'closed'>('unread');
  #current = false;
  #index = 0;
  #lastError: unknown;
  /** Aborted to read anew at once. */
  #attempt = new AbortController();

  /** Owns the client, which must serve this view alone. */
  constructor(client: Client, prefix: string, onClose: (view: PrefixView) => void) {
    this.#client = client.cancelOnDisconnect();
    this.prefix = prefix;
    this.#onClose = onClose;
    this.changes = this.#changes.asObservable();
    void this.#follow();
  }

  get current(): boolean {
    return this.#current;
  }

  get(key: string): Entry | undefined {
    return this.#replica.get(key);
  }

  entries(): IterableIterator<Entry> {
    return this.#replica.entries();
  }

  async ready(timeoutMs = readyTimeoutMs): Promise<void> {
    const known = this.#state.pipe(
      filter((state) => state !== 'unread'),
      timeout({
        first: timeoutMs,
        with: () => {
          throw new ConsulUnavailableError(`${this.prefix} could not be read in ${timeoutMs} ms`, this.#lastError);
        },
      }),
    );
    if ((await firstValueFrom(known)) === 'closed')
      throw new ConsulError('CONSUL_CLOSED', `the view of ${this.prefix} is closed`);
  }

  close(): void {
    if (this.#state.value === 'closed') return;
    this.#current = false;
    this.#state.next('closed');
    this.#attempt.abort();
    this.#client.close();
    this.#changes.complete();
    this.#onClose(this);
  }

  /** Shows acknowledged writes of the same store. */
  wrote(writes: Iterable<OwnWrite>): void {
    const own: OwnWrite[] = [];
    let exact = true;
    for (const write of writes) {
      if (!('entry' in write ? write.entry.key : write.key).startsWith(this.prefix)) continue;
      own.push(write);
      // Until the next read such a key stays hidden, even if someone has created it again meanwhile.
      if ('key' in write && write.deletedIndex === Infinity) exact = false;
    }
    this.#publish(this.#replica.wrote(own));
    if (!exact) this.#readAnew();
  }

  /** To be called when another call has found Consul away: a blocking query alone may not notice for minutes. */
  doubt(): void {
    if (!this.#current) return;
    this.#current = false;
    this.#readAnew();
  }

  #readAnew(): void {
    this.#index = 0;
    this.#attempt.abort();
  }

  async #follow(): Promise<void> {
    let failures = 0;
    while (this.#state.value !== 'closed') {
      this.#attempt = new AbortController();
      const { signal } = this.#attempt;
      try {
        await this.#read(signal);
        failures = 0;
        await sleep(pauseMs(this.#replica.size), undefined, { signal });
      } catch (error) {
        if (signal.aborted) continue;
        this.#current = false;
        this.#index = 0;
        this.#lastError = error;
        await sleep(backoffMs(++failures), undefined, { signal }).catch(() => undefined);
      }
    }
  }

  async #read(signal: AbortSignal): Promise<void> {
    const begun = this.#replica.begin();
    const { index, entries } = await this.#client.follow(this.prefix, this.#index, waitSeconds, signal);
    // An index that goes backwards (a restored server) must not be waited behind.
    this.#index = index < this.#index ? 0 : index;
    const changed = this.#replica.answer(begun, index, entries);
    this.#current = true;
    if (this.#state.value === 'unread') this.#state.next('read');
    this.#publish(changed);
  }

  #publish(changed: readonly string[]): void {
    if (changed.length > 0) this.#changes.next(changed);
  }
}
