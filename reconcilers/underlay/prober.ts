import { Subject, Subscription, type Observable } from 'rxjs';
import { patchPorts } from '../common/identity.js';
import type { HostRef } from '../common/records.js';
import { Ports } from '../dataplane/ports.js';
import { hostKey, type Host, type Hosts } from '../host.js';
import { Echo, type EchoTimes } from './echo.js';
import type { Finding } from './finding.js';
import { Link, type LinkTimes } from './link.js';

export type ProberTimes = EchoTimes & LinkTimes;

const usualTimes = { deadlineMs: 1_000, againMs: 300, graceMs: 5_000, retryMs: 1_000 } as const;

/** What the underlay should carry between two sites, in bytes of a tenant's IP packet; undefined: one is not known. */
export type Promised = (from: string, to: string) => number | undefined;

/**
 * Finds out what the underlay carries between the hosts that we manage and all their peers: docs/adr/0005. What it costs
 * goes with the pairs of hosts, not with networks or machines.
 */
export class Prober {
  readonly #hosts = new Map<string, HostProber>();
  readonly #subscriptions = new Subscription();
  readonly #changes = new Subject<HostRef>();
  readonly #times: ProberTimes;

  constructor(
    private readonly hosts: Hosts,
    private readonly promised: Promised,
    times: Pick<ProberTimes, 'intervalMs'> & Partial<ProberTimes>,
  ) {
    this.#times = { ...usualTimes, ...times };
  }

  /** Begins to probe. */
  start(): void {
    this.#subscriptions.add(this.hosts.added.subscribe((host) => this.#add(host)));
    this.#subscriptions.add(
      this.hosts.removed.subscribe((host) => {
        this.#hosts.get(hostKey(host))?.close();
        this.#hosts.delete(hostKey(host));
      }),
    );
    for (const host of this.hosts.all()) this.#add(host);
  }

  /** Hosts of which what finding() tells has changed. */
  get changes(): Observable<HostRef> {
    return this.#changes;
  }

  /** What is known of the way from one host to another; undefined: it is too early to say. */
  finding(from: HostRef, to: HostRef): Finding | undefined {
    return this.#hosts.get(hostKey(from))?.finding(hostKey(to));
  }

  /** What is promised may have changed. */
  refresh(): void {
    for (const host of this.#hosts.values()) host.refresh();
  }

  close(): void {
    this.#subscriptions.unsubscribe();
    for (const host of this.#hosts.values()) host.close();
    this.#hosts.clear();
    this.#changes.complete();
  }

  #add(host: Host): void {
    this.#hosts.get(hostKey(host))?.close();
    const onChange = () => this.#changes.next(host);
    this.#hosts.set(hostKey(host), new HostProber(host, this.promised, this.#times, onChange));
  }
}

/** The links of one host. */
class HostProber {
  readonly #ports: Ports;
  readonly #echo: Echo;
  readonly #links = new Map<string, Link>();
  readonly #subscriptions = new Subscription();
  #isConnected = false;

  constructor(
    private readonly host: Host,
    private readonly promised: Promised,
    private readonly times: ProberTimes,
    private readonly onChange: () => void,
  ) {
    const ports = (this.#ports = new Ports(host.ovsdb));
    this.#echo = new Echo(host.int, hostKey(host), () => ports.named(patchPorts.int), times);
    this.#subscriptions.add(
      ports.changes.subscribe(({ liveness }) => {
        if (liveness) this.#follow();
      }),
    );
    this.#subscriptions.add(
      host.ovsdb.state.subscribe(({ connected }) => {
        this.#isConnected = connected;
        this.#follow();
      }),
    );
  }

  finding(peer: string): Finding | undefined {
    return this.#links.get(peer)?.finding;
  }

  refresh(): void {
    for (const link of this.#links.values()) link.refresh();
  }

  close(): void {
    this.#subscriptions.unsubscribe();
    for (const link of this.#links.values()) link.close();
    this.#echo.close();
    this.#ports.close();
  }

  /** A link for each tunnel there is, each told how its tunnel does. */
  #follow(): void {
    const tunnels = this.#ports.liveness();
    for (const [peer, link] of this.#links)
      if (!tunnels.has(peer)) {
        link.close();
        this.#links.delete(peer);
      }
    for (const [peer, liveness] of tunnels) {
      const link = this.#links.get(peer) ?? this.#newLink(peer);
      // What the database said last before it was lost is not how it is.
      link.hear(this.#isConnected ? liveness : undefined);
    }
  }

  #newLink(peer: string): Link {
    const way = {
      trip: async (mtu: number) => await this.#echo.trip(peer, mtu),
      promised: () => this.promised(this.host.site, peer.split('/')[0] ?? ''),
    };
    const link = new Link(way, this.times, this.onChange);
    this.#links.set(peer, link);
    return link;
  }
}
