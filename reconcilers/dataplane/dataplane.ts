import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { filter, firstValueFrom, map, startWith, Subject, Subscription, takeUntil, timer, type Observable } from 'rxjs';
import type { Directory } from '../common/directory.js';
import { messageOf } from '../common/errors.js';
import { bridgeCookie, networkCookie, patchPorts, vniOfCookie } from '../common/identity.js';
import type { HostRef, VmRecord } from '../common/records.js';
import { hostKey, type Host, type Hosts } from '../host.js';
import { OpenFlowError } from '../../drivers/openflow/index.js';
import { probes } from './layout.js';
import { Ports } from './ports.js';
import { FloodlightBoundary, removeFloodlight, type BoundaryState } from './floodlight.js';
import { Program, type SdnController, type Wanted } from './program.js';
import type { LocalPort } from './security.js';
import { bridgeFlows, networkFlows, type BridgeFlows, type Location } from './tables.js';

/** How far a network's flows on one host are what they should be. */
export interface FlowReport {
  readonly wanted: number;
  readonly present: number;
  readonly error: string | undefined;
}

/** The unit of work on a host: a VNI, or the bridges' own flows. */
type Unit = number | 'bridge';

const cookieOf = (unit: Unit): bigint => (unit === 'bridge' ? bridgeCookie : networkCookie(unit));

/**
 * Keeps every host's bridges programmed: listens to the directory (who is where), to the ports (OVSDB) and to the switches (what was
 * removed), and brings the units that a change touches to what they should be. A port's flows are there milliseconds
 * after its tap appears, and no reconcile has to ask for them.
 */
export class Dataplane {
  readonly #hosts = new Map<string, HostDataplane>();
  readonly #subscriptions = new Subscription();
  readonly #drift = new Subject<{ readonly host: HostRef; readonly vni: number }>();
  readonly #boundaries = new Subject<HostRef>();
  /** Machines that are being switched over, by fuid. */
  readonly #headed = new Map<string, { readonly attempt: string; readonly to: HostRef }>();

  constructor(
    private readonly hosts: Hosts,
    private readonly directory: Directory,
    private readonly log: (message: string, fields: Record<string, unknown>) => void,
  ) {}

  /** Begins to program; before, nothing is written to any switch. */
  start(): void {
    this.#subscriptions.add(this.hosts.added.subscribe((host) => this.#add(host)));
    this.#subscriptions.add(
      this.hosts.removed.subscribe((host) => {
        this.#hosts.get(hostKey(host))?.close();
        this.#hosts.delete(hostKey(host));
      }),
    );
    this.#subscriptions.add(
      this.directory.changes.subscribe(({ vnis, machines }) => {
        for (const fuid of machines) if (!this.#heading(fuid)) this.#headed.delete(fuid);
        this.#mark(vnis);
      }),
    );
    for (const host of this.hosts.all()) this.#add(host);
  }

  /** Networks whose flows on a host have changed without a reconcile asking for it, be it behind our back. */
  get drift(): Observable<{ readonly host: HostRef; readonly vni: number }> {
    return this.#drift;
  }

  /** Hosts of which what boundary() tells has changed. */
  get boundaries(): Observable<HostRef> {
    return this.#boundaries;
  }

  /** How a host's Floodlight does; undefined for one that has none. */
  boundary(ref: HostRef): BoundaryState | undefined {
    return this.#hosts.get(hostKey(ref))?.boundary;
  }

  /**
   * Sends a machine's frames to where it is going to run, before its record says so; undefined: to where its record says. Holds while
   * the record tells of this attempt. Frames that come before the guest runs wait in its tap.
   */
  head(fuid: string, attempt: string, to: HostRef | undefined): void {
    if (to) this.#headed.set(fuid, { attempt, to });
    else if (!this.#headed.delete(fuid)) return;
    this.#mark(this.directory.vnisOf(fuid));
  }

  /** Resolves when the network's flows on that host are in force, or with the error that prevents it. */
  async ensure(ref: HostRef, vni: number): Promise<FlowReport> {
    const host = this.#hosts.get(hostKey(ref));
    if (!host) return { wanted: 0, present: 0, error: `host ${hostKey(ref)} is not known` };
    return await host.ensure(vni);
  }

  /** The state of the network's flows on that host as last seen. */
  report(ref: HostRef, vni: number): FlowReport | undefined {
    return this.#hosts.get(hostKey(ref))?.report(vni);
  }

  /** Whether the switch of that host has a port for the machine's interface. */
  hasPort(ref: HostRef, interfaceId: string): boolean {
    return this.#hosts.get(hostKey(ref))?.ports.machine(interfaceId) !== undefined;
  }

  /** Resolves true once the switch has given the machine's interface a port on that host, false after the deadline. */
  async whenPort(ref: HostRef, interfaceId: string, deadlineMs: number): Promise<boolean> {
    const ports = this.#hosts.get(hostKey(ref))?.ports;
    if (!ports) return false;
    const seen = ports.changes.pipe(
      startWith(undefined),
      map(() => ports.machine(interfaceId) !== undefined),
      filter((present) => present),
      takeUntil(timer(deadlineMs)),
    );
    return await firstValueFrom(seen, { defaultValue: false });
  }

  /** Reads all switches anew and repairs what differs from what was thought to be there. */
  async audit(): Promise<void> {
    await Promise.all([...this.#hosts.values()].map((host) => host.audit()));
  }

  close(): void {
    this.#subscriptions.unsubscribe();
    for (const host of this.#hosts.values()) host.close();
    this.#hosts.clear();
    this.#drift.complete();
    this.#boundaries.complete();
  }

  #mark(vnis: Iterable<number>): void {
    for (const vni of vnis) for (const each of this.#hosts.values()) each.mark(vni);
  }

  #heading(fuid: string): HostRef | undefined {
    const headed = this.#headed.get(fuid);
    const record = headed && this.directory.machine(fuid)?.value;
    return record?.phase === 'Moving' && record.attempt === headed?.attempt ? headed?.to : undefined;
  }

  #add(host: Host): void {
    this.#hosts.get(hostKey(host))?.close();
    const whereIs = (fuid: string, record: VmRecord): HostRef => this.#heading(fuid) ?? record;
    const dataplane = new HostDataplane(host, this.directory, whereIs, this.log, {
      drift: (vni) => this.#drift.next({ host, vni }),
      boundary: () => this.#boundaries.next(host),
    });
    this.#hosts.set(hostKey(host), dataplane);
  }
}

/** How many flows a unit is to have on each bridge. They themselves are made when they are needed, and not kept. */
interface Counts {
  readonly int: number;
  readonly edge: number;
}

const total = (counts: Counts | undefined): number => (counts ? counts.int + counts.edge : 0);

const nothing: BridgeFlows = { int: [], edge: [] };

/** What a unit's flows are made of: the same inputs, the same revision. */
interface Recipe {
  readonly revision: string;
  readonly make: () => BridgeFlows;
}

function recipe(inputs: unknown, make: () => BridgeFlows): Recipe {
  // A map would say nothing of what it holds.
  const text = JSON.stringify(inputs, (_, value: unknown) => (value instanceof Map ? [...value] : value));
  return { revision: createHash('sha256').update(text).digest('base64'), make };
}

/** A switch that refused or did not answer is asked again after this long; one that reconnects, at once. */
const retryMs = 2_000;
/**
 * Units of one pass: the flows of a thousand at once would fill memory, and keep waiting who asks for one. A Floodlight takes
 * over all or nothing.
 */
const passUnits = 100;

interface Waiter {
  readonly vni: number;
  readonly resolve: (report: FlowReport) => void;
}

class HostDataplane {
  readonly ports: Ports;
  readonly #programs: { readonly int: Program; readonly edge: SdnController };
  readonly #floodlight: FloodlightBoundary | undefined;
  readonly #dirty = new Set<Unit>();
  /** Of each unit that is to have flows here. */
  readonly #wanted = new Map<Unit, Counts>();
  /** How many flows each network has here, as last told. */
  readonly #told = new Map<number, number>();
  #waiters: Waiter[] = [];
  #running = false;
  #closed = false;
  #error: string | undefined;
  #hasMeter = true;
  readonly #failed = new Set<Unit>();
  /** Whether there may be flows of a Floodlight that the site no longer has. */
  #mayBeLeft = false;
  #retry: NodeJS.Timeout | undefined;
  readonly #subscription;

  constructor(
    private readonly host: Host,
    private readonly directory: Directory,
    private readonly whereIs: (fuid: string, record: VmRecord) => HostRef,
    private readonly log: (message: string, fields: Record<string, unknown>) => void,
    private readonly tell: { readonly drift: (vni: number) => void; readonly boundary: () => void },
  ) {
    this.ports = new Ports(host.ovsdb);
    this.#subscription = this.ports.changes.subscribe(({ interfaceId, infrastructure }) => {
      if (infrastructure) this.markAll();
      else if (interfaceId !== undefined) {
        const network = this.directory.interface(interfaceId)?.network;
        const vni = network === undefined ? undefined : this.directory.network(network)?.value.vni;
        if (vni !== undefined) this.mark(vni);
      }
    });
    const drift = (cookie: bigint | undefined) => {
      if (cookie === undefined) {
        this.markAll();
        return;
      }
      const vni = vniOfCookie(cookie);
      this.mark(vni ?? 'bridge');
      if (vni !== undefined) this.tell.drift(vni);
    };
    this.#floodlight =
      host.floodlight && new FloodlightBoundary(host.edge, host.floodlight, drift, () => this.tell.boundary());
    this.#programs = { int: new Program(host.int, drift), edge: this.#floodlight ?? new Program(host.edge, drift) };
    this.markAll();
  }

  get boundary(): BoundaryState | undefined {
    return this.#floodlight?.state;
  }

  mark(unit: Unit): void {
    this.#dirty.add(unit);
    void this.#drain();
  }

  markAll(): void {
    this.#dirty.add('bridge');
    for (const [, { value }] of this.directory.networks()) this.#dirty.add(value.vni);
    void this.#drain();
  }

  async ensure(vni: number): Promise<FlowReport> {
    return await new Promise((resolve) => {
      this.#waiters.push({ vni, resolve });
      this.mark(vni);
    });
  }

  report(vni: number): FlowReport | undefined {
    const wanted = this.#wanted.get(vni);
    if (!wanted) return undefined;
    const cookie = networkCookie(vni);
    const present = (bridge: 'int' | 'edge') => Math.min(wanted[bridge], this.#programs[bridge].present(cookie));
    return { wanted: total(wanted), present: present('int') + present('edge'), error: this.#error };
  }

  async audit(): Promise<void> {
    await Promise.allSettled([this.#programs.int.audit(), this.#programs.edge.audit()]);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#subscription.unsubscribe();
    this.ports.close();
    this.#programs.int.close();
    this.#programs.edge.close();
    for (const { vni, resolve } of this.#waiters.splice(0)) resolve(this.#outcome(vni, 'the host was removed'));
  }

  /** Works off what is dirty, what has gathered as one bundle a bridge; one pass at a time. */
  async #drain(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    // What changes in the same turn of the event loop goes together.
    await Promise.resolve();
    while (this.#dirty.size > 0 && !this.#closed) {
      const units = this.#next();
      const waiters = this.#waiters.filter(({ vni }) => units.has(vni));
      this.#waiters = this.#waiters.filter(({ vni }) => !units.has(vni));
      this.#error = await this.#pass(units);
      if (this.#error !== undefined && this.#isConnected) this.#retryLater(units);
      for (const { vni, resolve } of waiters) resolve(this.#outcome(vni, this.#error));
      this.#tellOf(units, new Set(waiters.map(({ vni }) => vni)));
      if (units.has('bridge')) this.#mayBeLeft = !this.#floodlight;
      if (!this.#mayBeLeft || this.#error !== undefined || this.#failed.size + this.#dirty.size > 0) continue;
      // A Floodlight that has left its work to BuiltIn, which has laid everything now.
      this.#mayBeLeft = false;
      await removeFloodlight(this.host.edge).catch(() => undefined);
    }
    this.#running = false;
  }

  /** What the next pass works off: first of all what somebody waits for. */
  #next(): Set<Unit> {
    const units = new Set<Unit>();
    for (const unit of [...this.#waiters.map(({ vni }) => vni), ...this.#dirty]) {
      if (units.size === passUnits && !this.#floodlight) break;
      if (this.#dirty.delete(unit)) units.add(unit);
    }
    return units;
  }

  /** A network that has got more or fewer flows, and whose reconcile has not been told, is to be looked at: its status says how many. */
  #tellOf(units: Iterable<Unit>, told: ReadonlySet<number>): void {
    for (const unit of units) {
      if (unit === 'bridge') continue;
      const now = total(this.#wanted.get(unit));
      if (this.#told.get(unit) === now) continue;
      if (now === 0) this.#told.delete(unit);
      else this.#told.set(unit, now);
      if (!told.has(unit)) this.tell.drift(unit);
    }
  }

  /** Each bridge by itself: what is wrong with one does not keep the other from what it needs. */
  async #pass(units: ReadonlySet<Unit>): Promise<string | undefined> {
    const { int, edge } = this.#programs;
    const loaded = await Promise.allSettled([int.load(), edge.load()]);
    const intIsKnown = loaded[0].status === 'fulfilled';
    // While Consul is away, what is not seen may exist.
    if (units.has('bridge') && this.directory.current && this.directory.isSound)
      for (const vni of this.#orphans()) if (!units.has(vni)) this.#dirty.add(vni);
    const wanted = { int: new Map<bigint, Wanted>(), edge: new Map<bigint, Wanted>() };
    try {
      if (units.has('bridge')) await this.#ensureMeter();
      for (const unit of units) {
        const cookie = cookieOf(unit);
        const { revision, make } = this.#recipe(unit);
        if (int.isSettled(cookie, revision) && edge.isSettled(cookie, revision)) continue;
        const flows = make();
        wanted.int.set(cookie, { revision, flows: flows.int });
        wanted.edge.set(cookie, { revision, flows: flows.edge });
        if (flows.int.length + flows.edge.length === 0) this.#wanted.delete(unit);
        else this.#wanted.set(unit, { int: flows.int.length, edge: flows.edge.length });
      }
      await this.#forget(wanted.int);
    } catch (error) {
      return this.#failure(error);
    }
    // Which ports are new, a bridge that could not be read does not tell: their connections would not be forgotten.
    const applied = await Promise.allSettled([intIsKnown ? int.apply(wanted.int) : undefined, edge.apply(wanted.edge)]);
    const failed = [...loaded, ...applied].find((result) => result.status === 'rejected');
    if (failed) return this.#failure(failed.reason);
    return undefined;
  }

  #failure(error: unknown): string {
    if (this.#isConnected) this.log('flows not applied', { host: hostKey(this.host), error: messageOf(error) });
    return messageOf(error);
  }

  /** A port that is new here may have the number of an earlier one, whose connections are not its own. */
  async #forget(wanted: ReadonlyMap<bigint, Wanted>): Promise<void> {
    const { int } = this.#programs;
    const patch = this.ports.named(patchPorts.int);
    const zones = new Set<number>();
    for (const [cookie, { revision, flows }] of wanted) {
      const known = int.isSettled(cookie, revision) ? undefined : int.inPorts(cookie);
      if (!known) continue;
      for (const { match } of flows)
        if (match.inPort !== undefined && match.inPort !== patch && !known.has(match.inPort)) zones.add(match.inPort);
    }
    await Promise.all([...zones].map((zone) => this.host.int.flushConnections(zone)));
  }

  /** A flow can only name a meter that exists. Without meters there are no probes, and everything else. */
  async #ensureMeter(): Promise<void> {
    const { id, rate } = probes.meter;
    const { int } = this.host;
    try {
      const found = (await int.meters()).find((meter) => meter.id === id);
      if (!isDeepStrictEqual(found?.rate, rate)) await int.setMeter(id, rate);
      this.#hasMeter = true;
    } catch (error) {
      if (!(error instanceof OpenFlowError)) throw error;
      if (this.#hasMeter) this.log('no meters, so no probes', { host: hostKey(this.host), error: error.message });
      this.#hasMeter = false;
    }
  }

  get #isConnected(): boolean {
    return this.#programs.int.isConnected && this.#programs.edge.isConnected;
  }

  /** VNIs of which flows are here but no record anywhere: networks that were deleted while we were away. */
  #orphans(): number[] {
    const { int, edge } = this.#programs;
    return [...int.cookies(), ...edge.cookies()]
      .flatMap((cookie) => vniOfCookie(cookie) ?? [])
      .filter((vni) => this.directory.networkOfVni(vni) === undefined);
  }

  #retryLater(units: Iterable<Unit>): void {
    for (const unit of units) this.#failed.add(unit);
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      for (const unit of this.#failed) this.#dirty.add(unit);
      this.#failed.clear();
      void this.#drain();
    }, retryMs);
  }

  #outcome(vni: number, error: string | undefined): FlowReport {
    return { wanted: 0, present: 0, ...this.report(vni), error };
  }

  #recipeOfBridges(): Recipe {
    const int = this.ports.named(patchPorts.int);
    const edge = this.ports.named(patchPorts.edge);
    if (int === undefined || edge === undefined || !this.#hasMeter) return recipe('bare', () => bridgeFlows());
    const facts = { self: hostKey(this.host), patch: { int, edge }, tunnels: this.ports.tunnels() };
    return recipe(facts, () => bridgeFlows(facts));
  }

  #recipe(unit: Unit): Recipe {
    if (unit === 'bridge') return this.#recipeOfBridges();
    const fuid = this.directory.networkOfVni(unit);
    const network = fuid === undefined ? undefined : this.directory.network(fuid)?.value;
    if (fuid === undefined || !network?.sites.includes(this.host.site)) return recipe('nothing', () => nothing);
    const int = this.ports.named(patchPorts.int);
    const edge = this.ports.named(patchPorts.edge);
    if (int === undefined || edge === undefined) throw new Error('the bridges are not joined yet');
    const ports: LocalPort[] = [];
    const locations: Location[] = [];
    for (const [machineFuid, machine] of this.directory.machinesOf(fuid)) {
      const place = hostKey(this.whereIs(machineFuid, machine));
      for (const { network: of, id, mac, address, role, allowed } of machine.interfaces) {
        if (of !== fuid) continue;
        const port = this.ports.machine(id);
        if (port !== undefined) ports.push({ port, mac, address, role, allowed });
        if (place !== hostKey(this.host)) locations.push({ mac, at: 'elsewhere', tunnel: this.ports.tunnel(place) });
        else if (port !== undefined) locations.push({ mac, at: 'here', port });
      }
    }
    const tunnels = network.sites.flatMap((site) => this.ports.tunnelsTo(site));
    const { value: policy = { flows: [] }, index } = this.directory.policy(fuid) ?? {};
    const { vlan, cidr } = network;
    const facts = { vni: unit, vlan, cidr, patch: { int, edge }, ports, locations, tunnels };
    return recipe([fuid, index, facts], () => networkFlows({ ...facts, policy }));
  }
}
