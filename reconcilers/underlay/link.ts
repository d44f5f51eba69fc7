import { isDeepStrictEqual } from 'node:util';
import type { Liveness } from '../dataplane/ports.js';
import { settledLatency, usualLatency, type Finding } from './finding.js';
import { leastMtu, measureMtu } from './mtu.js';

export interface LinkTimes {
  readonly intervalMs: number;
  /** What has only begun is not called broken before. */
  readonly graceMs: number;
  /** A probe that could not be made is made again after this long, then twice as long, up to the interval. */
  readonly retryMs: number;
}

/** One way between two hosts, as its prober needs it. */
export interface Way {
  /** The round trip of a packet of that many bytes, in ms; undefined: lost. Fails if it could not be sent. */
  trip(mtu: number): Promise<number | undefined>;
  /** What the underlay should carry, in bytes; undefined: the far end is not known. */
  promised(): number | undefined;
}

/** The latency is that of so many small frames: a slow round trip, or six, are no news. */
const remembered = 9;
const atFirst = 3;
const jitter = 0.1;

/** Follows one way between two hosts: BFD tells whether it is up, probes what it carries. */
export class Link {
  #finding: Finding | undefined;
  /** As BFD tells; undefined: it does not. */
  #liveness: Liveness | undefined;
  #upSinceMs: number | undefined;
  #trips: number[] = [];
  #failures = 0;
  #probing = false;
  /** Counts who has asked for a round. */
  #asked = 0;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly way: Way,
    private readonly times: LinkTimes,
    /** Called when the finding is another. */
    private readonly onChange: () => void,
  ) {
    this.#hush();
  }

  /** Undefined: it is too early to say. */
  get finding(): Finding | undefined {
    return this.#finding;
  }

  /** What the switch says of the tunnel. */
  hear(liveness: Liveness | undefined): void {
    const wasUp = this.#liveness?.isUp ?? false;
    if (isDeepStrictEqual(liveness, this.#liveness)) return;
    this.#liveness = liveness;
    if (liveness?.isUp) {
      if (wasUp) return;
      clearTimeout(this.#timer);
      this.#upSinceMs = performance.now();
      this.#failures = 0;
      if (this.#finding) this.#tell({ state: 'Up' });
      void this.#probe();
    } else {
      this.#upSinceMs = undefined;
      this.#hush();
    }
  }

  /** What is promised may be something else now. */
  refresh(): void {
    const promised = this.way.promised();
    if (this.#upSinceMs !== undefined && promised !== this.#finding?.mtu?.promised) void this.#probe();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  /** Down is told at once of what was up; a tunnel or a daemon that has just come is given time. */
  #hush(): void {
    const liveness = this.#liveness;
    const silent = (): void =>
      this.#tell(
        liveness
          ? { state: 'Down', why: `the tunnel is down (BFD: ${liveness.diagnostic || 'no session yet'})` }
          : { state: 'Unknown', why: 'the switch does not tell' },
      );
    clearTimeout(this.#timer);
    if (liveness && this.#finding) silent();
    else this.#timer = setTimeout(silent, this.times.graceMs);
  }

  /** A new state; what was measured stays until it is measured again. */
  #tell({ state, why, ...measured }: Finding): void {
    const { mtu, latencyMs } = this.#finding ?? {};
    const kept = { ...(mtu ? { mtu } : {}), ...(latencyMs === undefined ? {} : { latencyMs }) };
    const finding: Finding = { ...kept, ...measured, state, ...(why === undefined ? {} : { why }) };
    if (this.#closed || isDeepStrictEqual(finding, this.#finding)) return;
    this.#finding = finding;
    this.onChange();
  }

  async #probe(): Promise<void> {
    this.#asked++;
    if (this.#probing) return;
    this.#probing = true;
    clearTimeout(this.#timer);
    for (let served = 0; served !== this.#asked && this.#upSinceMs !== undefined && !this.#closed;) {
      served = this.#asked;
      const since = this.#upSinceMs;
      try {
        this.#failures = (await this.#round(since)) ? 0 : this.#failures + 1;
      } catch {
        // It could not be sent: that is our end's trouble, which its Site tells.
        this.#failures++;
      }
    }
    this.#probing = false;
    if (this.#upSinceMs === undefined || this.#closed) return;
    const { intervalMs, retryMs } = this.times;
    const waitMs = this.#failures === 0 ? intervalMs : Math.min(intervalMs, retryMs * 2 ** (this.#failures - 1));
    this.#timer = setTimeout(() => void this.#probe(), waitMs * (1 + jitter * (2 * Math.random() - 1)));
  }

  /** One small and one full-size frame, if all is well. False: nothing came back. */
  async #round(since: number): Promise<boolean> {
    const promised = this.way.promised();
    if (promised === undefined) return false;
    const trips: number[] = [];
    for (let count = this.#trips.length === 0 ? atFirst : 1; count > 0; count--) {
      const trip = await this.way.trip(leastMtu);
      if (trip === undefined) break;
      trips.push(trip);
    }
    // What has changed meanwhile says that none of this counts.
    const isCurrent = (): boolean => this.#upSinceMs === since && !this.#closed;
    const recent = [...this.#trips, ...trips].slice(-remembered);
    const [first, ...others] = recent;
    if (trips.length === 0 || first === undefined) {
      if (isCurrent() && performance.now() - since > this.times.graceMs)
        this.#tell({ state: 'Unknown', why: 'the tunnel is up, but no probe comes back' });
      return false;
    }
    const before = this.#finding?.mtu;
    const passes = async (mtu: number) => (await this.way.trip(mtu)) !== undefined;
    const carried = await measureMtu(passes, promised, before?.carried);
    if (!isCurrent()) return true;
    this.#trips = recent;
    this.#tell({
      state: 'Up',
      latencyMs: settledLatency(this.#finding?.latencyMs, usualLatency([first, ...others])),
      ...(carried === undefined ? {} : { mtu: { carried, promised } }),
    });
    return carried !== undefined;
  }
}
