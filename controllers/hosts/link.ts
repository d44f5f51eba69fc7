import { BehaviorSubject, Subject, Subscription, type Observable } from 'rxjs';
import { connect, constants, LibvirtConnectionError, LibvirtError } from '../../drivers/libvirt/index.js';
import type { Connection, ConnectOptions, DomainLifecycle, DomainState } from '../../drivers/libvirt/types.js';
import type { LibvirtLink, ObservedDomain, ObservedNetwork } from '../../reconcilers/host.js';
import { backoffMs, sleep } from '../runtime/time.js';

const retry = { baseMs: 200, maxMs: 5_000 } as const;
/**
 * A daemon tells that a domain has ended before it takes it off its list; after that it tells nothing more. One that has moved away it keeps
 * until its connection to the target is closed, for half a minute where the line is cut, so that is looked at again and again.
 */
const secondLookMs = 1_000;
const longestLookMs = 30_000;

/** virDomainState, by its number. */
const states: readonly DomainState[] = [
  'nostate',
  'running',
  'blocked',
  'paused',
  'shutdown',
  'shutoff',
  'crashed',
  'pmsuspended',
];

type Named = Pick<ObservedDomain, 'uuid' | 'name'>;

const hasMovedAway = ({ state, reason }: ObservedDomain): boolean =>
  state === 'shutoff' && reason === constants.DOMAIN_SHUTOFF_MIGRATED;

/** Keeps one libvirt connection open, and what the daemon holds in memory: read in bulk, then kept current by events. */
export class Link implements LibvirtLink {
  readonly domains = new Map<string, ObservedDomain>();
  readonly networks = new Map<string, ObservedNetwork>();
  readonly #changes = new Subject<{ domains: readonly string[]; networks: readonly string[] }>();
  readonly #lifecycle = new Subject<{ uuid: string; event: DomainLifecycle; detail: number }>();
  readonly #connected = new BehaviorSubject(false);
  readonly #stop = new AbortController();
  /** What an event has named since it was last read, and whether it is being read. */
  readonly #stale = new Map<string, 'reading' | 'again'>();
  readonly #secondLooks = new Map<string, NodeJS.Timeout>();
  #connection: Connection | undefined;
  #lastError: Error | undefined;
  readonly #running: Promise<void>;

  constructor(
    readonly uri: string,
    private readonly options: Pick<ConnectOptions, 'tls' | 'assertMayChange'> = {},
  ) {
    this.#running = this.#run();
  }

  get changes(): Observable<{ domains: readonly string[]; networks: readonly string[] }> {
    return this.#changes;
  }

  get lifecycle(): Observable<{ uuid: string; event: DomainLifecycle; detail: number }> {
    return this.#lifecycle;
  }

  get connected(): Observable<boolean> {
    return this.#connected;
  }

  get isConnected(): boolean {
    return this.#connected.value;
  }

  get lastError(): Error | undefined {
    return this.#lastError;
  }

  get connection(): Connection {
    if (this.#connection && this.#connected.value) return this.#connection;
    throw new LibvirtConnectionError('LIBVIRT_UNREACHABLE', `${this.uri}: ${this.#lastError?.message ?? 'connecting'}`);
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#connection?.close();
    await this.#running;
    this.#connected.complete();
    this.#changes.complete();
    this.#lifecycle.complete();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    for (let failures = 0; !signal.aborted; failures++) {
      const events = new Subscription();
      try {
        const connection = await connect(this.uri, { ...this.options, signal });
        this.#connection = connection;
        let open = (): void => undefined;
        const loaded = new Promise<void>((resolve) => (open = resolve));
        this.#follow(connection, loaded, events);
        await this.#load(connection);
        open();
        failures = 0;
        this.#lastError = undefined;
        this.#connected.next(true);
        this.#changes.next({ domains: [...this.domains.keys()], networks: [...this.networks.keys()] });
        this.#lastError = (await connection.closed) ?? new Error('the connection was closed');
      } catch (error) {
        this.#lastError = error instanceof Error ? error : new Error(String(error));
        await this.#connection?.close();
      } finally {
        events.unsubscribe();
        this.#connection = undefined;
        this.#stale.clear();
        for (const timer of this.#secondLooks.values()) clearTimeout(timer);
        this.#secondLooks.clear();
      }
      this.#setDown();
      await sleep(backoffMs(failures, retry.baseMs, retry.maxMs), signal);
    }
  }

  #setDown(): void {
    if (this.#connected.value) this.#connected.next(false);
  }

  /** Events that come while the bulk read is under way are followed up after it, so none is lost. */
  #follow(connection: Connection, loaded: Promise<void>, events: Subscription): void {
    events.add(
      connection.events.domainLifecycle.subscribe(({ domain, event, detail }) => {
        this.#lifecycle.next({ uuid: domain.uuid, event, detail });
        void this.#look(domain, connection, loaded);
      }),
    );
    events.add(
      connection.events.networkLifecycle.subscribe(({ network }) => {
        void this.#refresh(`network ${network.uuid}`, connection, loaded, () =>
          this.#readNetwork(connection, network.uuid, network.name),
        );
      }),
    );
  }

  /** Reads a domain that something has happened to, and then again if it may yet go without a word. */
  async #look(domain: Named, connection: Connection, loaded: Promise<void>): Promise<void> {
    await this.#refresh(`domain ${domain.uuid}`, connection, loaded, () => this.#readDomain(connection, domain));
    if (this.domains.get(domain.uuid)?.state === 'shutoff') this.#lookAgain(domain, connection, secondLookMs);
  }

  #lookAgain(domain: Named, connection: Connection, afterMs: number): void {
    const { uuid } = domain;
    clearTimeout(this.#secondLooks.get(uuid));
    this.#secondLooks.delete(uuid);
    if (connection !== this.#connection) return;
    const look = async (): Promise<void> => {
      this.#secondLooks.delete(uuid);
      await this.#refresh(`domain ${uuid}`, connection, Promise.resolve(), () => this.#readDomain(connection, domain));
      const now = this.domains.get(uuid);
      if (now && hasMovedAway(now)) this.#lookAgain(domain, connection, Math.min(2 * afterMs, longestLookMs));
    };
    this.#secondLooks.set(
      uuid,
      setTimeout(() => void look(), afterMs),
    );
  }

  async #load(connection: Connection): Promise<void> {
    const [domains, networks, active] = await Promise.all([
      readDomains(connection),
      connection.listNetworks(),
      connection.listNetworks(constants.CONNECT_LIST_NETWORKS_ACTIVE),
    ]);
    const running = new Set(active.map(({ uuid }) => uuid));
    this.domains.clear();
    this.networks.clear();
    for (const domain of domains) this.domains.set(domain.uuid, domain);
    for (const domain of domains.filter(hasMovedAway)) this.#lookAgain(domain, connection, secondLookMs);
    for (const { uuid, name } of networks) this.networks.set(uuid, { uuid, name, active: running.has(uuid) });
  }

  /** Reads one thing anew, one read at a time, once more if it was named meanwhile; not before the bulk read is taken in. */
  async #refresh(
    what: string,
    connection: Connection,
    loaded: Promise<void>,
    read: () => Promise<void>,
  ): Promise<void> {
    const before = this.#stale.get(what);
    this.#stale.set(what, before === undefined ? 'reading' : 'again');
    if (before !== undefined) return;
    try {
      await loaded;
      do {
        this.#stale.set(what, 'reading');
        await read();
      } while (this.#stale.get(what) === 'again');
    } catch {
      // A daemon that does not answer one question is not to be believed in others: the next connection reads all anew.
      await connection.close();
    } finally {
      this.#stale.delete(what);
    }
  }

  async #readDomain(connection: Connection, { uuid, name }: Named): Promise<void> {
    try {
      const status = await connection.domainState(uuid);
      this.domains.set(uuid, { uuid, name, ...status });
    } catch (error) {
      if (!(error instanceof LibvirtError && error.kind === 'NO_DOMAIN')) throw error;
      this.domains.delete(uuid);
    }
    this.#changes.next({ domains: [uuid], networks: [] });
  }

  async #readNetwork(connection: Connection, uuid: string, name: string): Promise<void> {
    try {
      this.networks.set(uuid, { uuid, name, active: await connection.networkIsActive(uuid) });
    } catch (error) {
      if (!(error instanceof LibvirtError && error.kind === 'NO_NETWORK')) throw error;
      this.networks.delete(uuid);
    }
    this.#changes.next({ domains: [], networks: [uuid] });
  }
}

/** All domains with their states in one call, where the driver has it. */
async function readDomains(connection: Connection): Promise<ObservedDomain[]> {
  try {
    const all = await connection.allDomainStats(constants.DOMAIN_STATS_STATE);
    return all.map(({ domain: { uuid, name }, params }) => ({
      uuid,
      name,
      state: states[Number(params.get('state.state') ?? 0)] ?? 'nostate',
      reason: Number(params.get('state.reason') ?? 0),
    }));
  } catch (error) {
    if (!(error instanceof LibvirtError && (error.kind === 'NO_SUPPORT' || error.kind === 'OPERATION_UNSUPPORTED')))
      throw error;
    const domains = await connection.listDomains();
    return await Promise.all(
      domains.map(async ({ uuid, name }) => ({ uuid, name, ...(await connection.domainState(uuid)) })),
    );
  }
}
