import { randomBytes } from 'node:crypto';
import {
  filter,
  firstValueFrom,
  ignoreElements,
  map,
  merge,
  mergeMap,
  Subject,
  take,
  takeUntil,
  timer,
  type Subscription,
} from 'rxjs';
import type { Switch } from '../../drivers/openflow/types.js';
import { probeMacs } from '../common/identity.js';
import { decodeProbe, encodeProbe, type Probe } from './frame.js';

export interface EchoTimes {
  /** How long an answer is waited for. */
  readonly deadlineMs: number;
  /** A frame without an answer is sent again after this long. */
  readonly againMs: number;
}

/** One lost frame says nothing. */
const tries = 3;

/** Sends probes from a host's isth-int to peers' and times what comes back. */
export class Echo {
  readonly #answers = new Subject<Probe & { readonly atMs: number }>();
  readonly #closed = new Subject<void>();
  readonly #subscription: Subscription;

  constructor(
    /** The host's isth-int. */
    private readonly bridge: Pick<Switch, 'packetIn' | 'packetOut' | 'barrier'>,
    /** The host, as "site/host". */
    private readonly self: string,
    /** isth-int's end of the patch. */
    private readonly patchPort: () => number | undefined,
    private readonly times: EchoTimes,
  ) {
    this.#subscription = bridge.packetIn.subscribe(({ data }) => {
      const probe = decodeProbe(data);
      if (probe) this.#answers.next({ ...probe, atMs: performance.now() });
    });
  }

  /**
   * The round trip of a packet of that many bytes to a peer ("site/host") and back, in ms; undefined: none of three came
   * back. Fails if it was not sent, which says nothing of the way.
   */
  async trip(peer: string, mtu: number): Promise<number | undefined> {
    const { deadlineMs, againMs } = this.times;
    const sentMs = new Map<string, number>();
    const sending = timer(0, againMs).pipe(
      take(tries),
      mergeMap(async () => {
        const id = randomBytes(8).toString('hex');
        sentMs.set(id, performance.now());
        await this.#send(peer, { id, mtu });
      }),
      ignoreElements(),
    );
    const back = this.#answers.pipe(
      // One that came back shorter is not the one that was sent.
      filter((answer) => answer.mtu === mtu),
      map(({ id, atMs }) => atMs - (sentMs.get(id) ?? NaN)),
      filter((trip) => !Number.isNaN(trip)),
    );
    // Once the switch has answered this, it has sent what we gave it, and we have what it had for us.
    const deadline = timer((tries - 1) * againMs + deadlineMs).pipe(mergeMap(() => this.bridge.barrier()));
    const trip = merge(back, sending).pipe(takeUntil(merge(deadline, this.#closed)));
    return await firstValueFrom(trip, { defaultValue: undefined });
  }

  close(): void {
    this.#subscription.unsubscribe();
    this.#closed.next();
    this.#closed.complete();
    this.#answers.complete();
  }

  async #send(peer: string, probe: Probe): Promise<void> {
    const port = this.patchPort();
    if (port === undefined) throw new Error(`host ${this.self}: the bridges are not joined yet`);
    const frame = encodeProbe(probeMacs(this.self).reply, probeMacs(peer).request, probe);
    await this.bridge.packetOut('controller', [{ type: 'output', port }], frame);
  }
}
