import { createHash } from 'node:crypto';
import { Subscription } from 'rxjs';
import { entryCookie, isEntryCookie, type ConnectedSwitch, type Floodlight } from '../../drivers/floodlight/index.js';
import { flowBody, flowKey } from '../../drivers/openflow/index.js';
import type { Flow, Switch } from '../../drivers/openflow/types.js';
import { messageOf } from '../common/errors.js';
import { bridgeCookie } from '../common/identity.js';
import { Program, type SdnController, type Wanted } from './program.js';

/** Whether a site's boundary may be, and is, in Floodlight's hands. */
export interface BoundaryState {
  /** Whether isth-edge may connect to it: it answers, and would open no path by itself. undefined: not known yet. */
  readonly isFit: boolean | undefined;
  readonly problem: { readonly reason: string; readonly message: string } | undefined;
}

const usualTimes = {
  /** How often Floodlight is asked whether it has the switch: it tells nothing by itself. */
  pollMs: 5_000,
  /** After a switch has come, a clearing of its tables may still be under way. */
  settleMs: 2_000,
} as const;
/** An entry is on the switch 5 to 30 ms after Floodlight has taken it. */
const verifyMs = 1_500;
const verifyStepMs = 20;
const applicationMask = 0xfffn << 52n;
const staticEntries = 10n << 52n;
const reactiveFlows = 2n << 52n;
/** Ours are even (tables.ts), Floodlight's the odd ones above: both can stand beside each other while one takes over. */
const offset = 1;

/** Whatever no flow meets ends here, and never becomes a question to a controller that might answer it with a path. */
const guard = (priority: number): Flow[] =>
  [0, 1].map((table) => ({ table, priority, cookie: bridgeCookie, match: {}, instructions: {} }));

/**
 * isth-edge in the hands of a Floodlight. Its answers prove nothing, so what is on the switch is read from the switch
 * itself. Until Floodlight has been seen to hold everything, BuiltIn stands in: neither a controller that is slow to come
 * nor one that is not fit costs a machine its way. docs/adr/0004.
 */
export class FloodlightBoundary implements SdnController {
  readonly #standIn: Program;
  readonly #subscriptions = new Subscription();
  readonly #wanted = new Map<bigint, Wanted>();
  /** What has to be seen at Floodlight before the stand-in goes; undefined: it has gone. */
  #pending: Set<bigint> | undefined = new Set();
  #isRecognised = false;
  /** Static entries' flows on the switch, by flowKey. */
  #flows: Map<string, Flow> | undefined;
  /** Names of our entries in Floodlight's list. */
  #names: Set<string> | undefined;
  #datapathId: bigint | undefined;
  #since: number | undefined;
  /** The last connection that Floodlight told of, if it has one now or not. */
  #lastSince: number | undefined;
  #hasComeAgain = false;
  /** The switch was emptied while Floodlight held it. */
  #wasEmptied = false;
  /** Floodlight was seen to empty the switch's tables as it came again. */
  #clearsTables = false;
  /** Whether what is pushed now stays: no clearing of the tables is under way any more. */
  #isSettled = false;
  #state: BoundaryState = { isFit: undefined, problem: undefined };
  #turn: Promise<unknown> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  #settling: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(
    private readonly bridge: Switch,
    private readonly floodlight: Floodlight,
    private readonly onDrift: (cookie: bigint | undefined) => void,
    private readonly onState: () => void,
    private readonly times: { readonly pollMs: number; readonly settleMs: number } = usualTimes,
  ) {
    this.#standIn = new Program(bridge, (cookie) => {
      // Once it has gone, that its flows go is no news.
      if (cookie === undefined || this.#pending) onDrift(cookie);
    });
    this.#subscriptions.add(
      bridge.state.subscribe((state) => {
        this.#flows = undefined;
        this.#datapathId = state.connected ? state.datapathId : undefined;
      }),
    );
    this.#subscriptions.add(
      bridge.flowRemoved.subscribe((removed) => {
        if (!isEntryCookie(removed.cookie)) return;
        if (isGuard(removed) && !this.#pending) this.#emptied();
        if (!this.#flows?.delete(flowKey(removed))) return;
        // Whose it was, its name would tell; all are looked at, and nothing is sent for those that are right.
        this.#names = undefined;
        onDrift(undefined);
      }),
    );
    void this.#poll();
  }

  get state(): BoundaryState {
    return this.#state;
  }

  get isConnected(): boolean {
    return this.#standIn.isConnected;
  }

  cookies(): Iterable<bigint> {
    const listed = [...(this.#names ?? [])].flatMap((name) => cookieOf(name) ?? []);
    return new Set([...this.#standIn.cookies(), ...listed]);
  }

  async load(): Promise<void> {
    await this.#standIn.load();
    await this.#known();
  }

  async apply(wanted: ReadonlyMap<bigint, Wanted>): Promise<void> {
    const turn = this.#turn.then(() => this.#apply(wanted));
    this.#turn = turn.catch(() => undefined);
    await turn;
  }

  present(cookie: bigint): number {
    if (this.#pending) return this.#standIn.present(cookie);
    return this.#wanted.get(cookie)?.flows.filter((flow) => this.#isThere(cookie, flow)).length ?? 0;
  }

  /** What is on the switch is compared each time: Floodlight may have changed it, and has to be told. */
  isSettled(): boolean {
    return false;
  }

  async audit(): Promise<void> {
    if (this.#pending) await this.#standIn.audit();
    const before = this.#flows;
    this.#flows = undefined;
    this.#names = undefined;
    const now = await this.#known();
    const same = before?.size === now.size && [...now].every(([key, flow]) => isSame(before.get(key), flow));
    if (!same) this.onDrift(undefined);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#settling);
    this.#subscriptions.unsubscribe();
    this.#standIn.close();
  }

  async #apply(wanted: ReadonlyMap<bigint, Wanted>): Promise<void> {
    for (const [cookie, unit] of wanted) {
      if (unit.flows.length > 0 || cookie === bridgeCookie) this.#wanted.set(cookie, unit);
      else this.#wanted.delete(cookie);
      this.#pending?.add(cookie);
    }
    await this.#recognise();
    if (this.#pending) {
      const withGuard = [...wanted].map(([cookie, { revision, flows }]) => ({
        ...{ cookie, revision },
        flows: guarded(cookie, flows, 2),
      }));
      await this.#standIn.apply(new Map(withGuard.map((unit) => [unit.cookie, unit])));
      if (!this.#isReady) {
        await this.#overrule(wanted);
        return;
      }
    }
    if (!this.#isReady) {
      // Nothing to say to it is nothing that could fail.
      const missing = [...wanted].filter(([cookie, { flows }]) => !this.#isDone(cookie, flows));
      if (missing.length === 0) return;
      throw new Error(this.#state.problem?.message ?? `Floodlight at ${this.floodlight.url} does not have the switch`);
    }
    await this.#push(wanted);
    await this.#takeOver(wanted);
  }

  /** Floodlight's flows stand above the stand-in's: those that say something else are taken off while it can't be told. */
  async #overrule(wanted: ReadonlyMap<bigint, Wanted>): Promise<void> {
    const datapathId = this.#datapathId;
    if (datapathId === undefined) return;
    const flows = await this.#known();
    const stale = [...wanted]
      .flatMap(([cookie, unit]) => [...entriesOf(datapathId, cookie, unit.flows).values()])
      .flatMap((entry) => {
        const found = flows.get(flowKey(entry));
        return found === undefined || isSame(found, entry) ? [] : [found];
      });
    if (stale.length === 0) return;
    await this.bridge.bundle(stale.map((flow) => ({ kind: 'remove', flow })));
    for (const flow of stale) flows.delete(flowKey(flow));
  }

  get #isReady(): boolean {
    return this.#state.isFit === true && this.#isSettled;
  }

  /** A boundary that another process of ours has handed over is not taken back: Floodlight's guard tells. */
  async #recognise(): Promise<void> {
    if (this.#isRecognised) return;
    const flows = await this.#known();
    this.#isRecognised = true;
    if ([...this.#standIn.cookies()].length > 0) return;
    if (guard(2 + offset).every((flow) => flows.has(flowKey(flow)))) this.#pending = undefined;
  }

  /**
   * All is gone from the switch, the guard too. A Floodlight that empties it takes its own entries out of its list after
   * that, new ones of the same names as well: until it is at rest, BuiltIn stands in.
   */
  #emptied(): void {
    this.#wasEmptied = true;
    this.#pending = new Set(this.#wanted.keys());
    this.#flows = undefined;
    this.#names = undefined;
    this.#unsettle();
    this.onDrift(undefined);
  }

  async #push(wanted: ReadonlyMap<bigint, Wanted>): Promise<void> {
    const datapathId = this.#datapathId;
    if (datapathId === undefined) throw new Error(`${this.bridge.endpoint}: not connected`);
    try {
      const listed = this.#names ? undefined : await this.floodlight.entries(datapathId);
      const names = (this.#names ??= namesOfOurs(datapathId, listed ?? []));
      const flows = await this.#known();
      const units = [...wanted].map(([cookie, each]) => ({ cookie, flows: entriesOf(datapathId, cookie, each.flows) }));
      const missing = units.flatMap(({ flows: entries }) =>
        [...entries].filter(([name, flow]) => !names.has(name) || !isSame(flows.get(flowKey(flow)), flow)),
      );
      // In the list, and yet not on the switch: pushing it again would change nothing.
      const lost = missing.filter(([name, flow]) => names.has(name) && !flows.has(flowKey(flow)));
      await Promise.all(lost.map(([name]) => this.floodlight.remove(name)));
      await Promise.all(missing.map(([name, flow]) => this.floodlight.push(datapathId, name, flow)));
      for (const [name] of missing) names.add(name);
      const kept = new Set(units.flatMap(({ flows: entries }) => [...entries.keys()]));
      const cookies = new Set(wanted.keys());
      const stale = [...names].filter((name) => !kept.has(name) && cookies.has(cookieOf(name) ?? -1n));
      await Promise.all(stale.map((name) => this.floodlight.remove(name)));
      for (const name of stale) names.delete(name);
      if (missing.length + stale.length > 0) await this.#verify(new Map(missing), stale);
      if (listed) await this.#removeUnlisted(datapathId, listed, await this.#known());
    } catch (error) {
      // What was done is not known: both are read anew before the next change.
      this.#flows = undefined;
      this.#names = undefined;
      throw error;
    }
  }

  /** Reads the switch until it has what was pushed, and no longer has what was removed. */
  async #verify(pushed: ReadonlyMap<string, Flow>, removed: readonly string[]): Promise<void> {
    const gone = new Set(removed.map(entryCookie));
    for (const deadline = performance.now() + verifyMs; ;) {
      this.#flows = undefined;
      const flows = await this.#known();
      const absent = [...pushed].find(([, flow]) => !isSame(flows.get(flowKey(flow)), flow));
      const left = [...flows.values()].find(({ cookie }) => gone.has(cookie));
      if (!absent && !left) return;
      if (performance.now() > deadline)
        throw new Error(
          absent
            ? `Floodlight at ${this.floodlight.url} took the entry ${absent[0]}, but the switch does not have it`
            : `Floodlight at ${this.floodlight.url} removed an entry, but the switch still has it`,
        );
      await new Promise((resolve) => setTimeout(resolve, verifyStepMs));
    }
  }

  /** Flows that neither Floodlight nor we know of: left from before its restart, for networks that are gone. */
  async #removeUnlisted(datapathId: bigint, listed: Iterable<string>, flows: Map<string, Flow>): Promise<void> {
    const wanted = [...this.#wanted].flatMap(([cookie, { flows: each }]) => [
      ...entriesOf(datapathId, cookie, each).keys(),
    ]);
    const known = new Set([...listed, ...wanted].map(entryCookie));
    const unlisted = [...flows].filter(([, { cookie }]) => !known.has(cookie));
    if (unlisted.length === 0) return;
    await this.bridge.bundle(unlisted.map(([, flow]) => ({ kind: 'remove', flow })));
    for (const [key] of unlisted) flows.delete(key);
  }

  /** When everything has been seen at Floodlight, the stand-in goes. */
  async #takeOver(pushed: ReadonlyMap<bigint, Wanted>): Promise<void> {
    // What was emptied right after it was seen there is looked at again.
    if (!this.#pending || !this.#isReady) return;
    for (const cookie of pushed.keys()) this.#pending.delete(cookie);
    if (this.#pending.size > 0) return;
    const cookies = [...this.#standIn.cookies()];
    this.#pending = undefined;
    await this.#standIn.apply(new Map(cookies.map((cookie) => [cookie, { revision: 'none', flows: [] }])));
  }

  #isDone(cookie: bigint, flows: readonly Flow[]): boolean {
    if (this.#datapathId === undefined) return false;
    const entries = entriesOf(this.#datapathId, cookie, flows);
    const listed = this.#names && [...this.#names].filter((name) => cookieOf(name) === cookie);
    return (
      flows.every((flow) => this.#isThere(cookie, flow)) &&
      (listed ? listed.every((name) => entries.has(name)) : flows.length > 0)
    );
  }

  #isThere(cookie: bigint, flow: Flow): boolean {
    if (this.#datapathId === undefined) return false;
    const [entry] = entriesOf(this.#datapathId, cookie, [flow]).values();
    return entry !== undefined && isSame(this.#flows?.get(flowKey(entry)), entry);
  }

  async #known(): Promise<Map<string, Flow>> {
    if (this.#flows) return this.#flows;
    const read = await this.bridge.dumpFlows({ cookie: staticEntries, cookieMask: applicationMask });
    return (this.#flows = new Map(read.map((flow) => [flowKey(flow), flow])));
  }

  async #poll(): Promise<void> {
    const before = this.#state;
    try {
      await this.#look();
    } catch (error) {
      // What it is told now would only wait for its time to be up.
      this.#unsettle();
      this.#state = {
        isFit: before.isFit,
        problem: {
          reason: 'ControllerUnreachable',
          message: `Floodlight at ${this.floodlight.url}: ${messageOf(error)}; what is programmed stays in force, and changes wait`,
        },
      };
    }
    if (this.#closed) return;
    if (before.isFit !== this.#state.isFit || before.problem?.message !== this.#state.problem?.message) this.onState();
    this.#timer = setTimeout(() => void this.#poll(), this.times.pollMs);
  }

  async #look(): Promise<void> {
    const [switches, problems] = await Promise.all([this.floodlight.switches(), this.floodlight.problems()]);
    if (this.#closed) return;
    const ours = switches.find(({ datapathId }) => datapathId === this.#datapathId);
    if (ours?.connectedSince !== this.#since) {
      // It has come, gone, or come again: what it holds now is anyone's guess.
      this.#since = ours?.connectedSince;
      if (ours) {
        this.#hasComeAgain = this.#lastSince !== undefined && this.#lastSince !== ours.connectedSince;
        this.#lastSince = ours.connectedSince;
      }
      this.#flows = undefined;
      this.#names = undefined;
      this.#unsettle();
    }
    const isMaster = ours?.role === 'MASTER';
    const unfit = problems.map(
      ({ module, problem }) => `${module} ${problem === 'OpensPaths' ? 'is' : 'is not'} loaded`,
    );
    const wasFit = this.#state.isFit;
    this.#state = {
      isFit: unfit.length === 0,
      problem: problemOf(this.floodlight.url, unfit, ours, isMaster) ?? this.#clearing(),
    };
    if (!isMaster) this.#unsettle();
    else if (!this.#isSettled) this.#settling ??= setTimeout(() => this.#settle(), this.times.settleMs);
    if (wasFit === this.#state.isFit) return;
    // One that might open paths of its own loses the boundary: BuiltIn stands in again.
    if (!this.#state.isFit && !this.#pending) this.#pending = new Set(this.#wanted.keys());
    this.onDrift(undefined);
  }

  #settle(): void {
    this.#settling = undefined;
    this.#isSettled = true;
    // Somebody else may empty the switch too; then Floodlight need not have come again.
    if (this.#hasComeAgain) this.#clearsTables = this.#wasEmptied;
    this.#hasComeAgain = this.#wasEmptied = false;
    this.onDrift(undefined);
  }

  #clearing(): BoundaryState['problem'] {
    if (!this.#clearsTables) return undefined;
    return {
      reason: 'ControllerClearsTables',
      message: `Floodlight at ${this.floodlight.url} emptied the switch isth-edge when it connected again; set its two clearTables… settings of OFSwitchManager to NO`,
    };
  }

  #unsettle(): void {
    clearTimeout(this.#settling);
    this.#settling = undefined;
    this.#isSettled = false;
  }
}

function problemOf(
  url: string,
  unfit: readonly string[],
  ours: ConnectedSwitch | undefined,
  isMaster: boolean,
): BoundaryState['problem'] {
  if (unfit.length > 0)
    return {
      reason: 'ControllerUnfit',
      message: `Floodlight at ${url}: ${unfit.join(', ')}; without Forwarding and with the static entry pusher it may program the boundary`,
    };
  if (isMaster) return undefined;
  const how = ours ? `is ${ours.role ?? 'not ready'} for` : 'does not have';
  return {
    reason: 'ControllerUnreachable',
    message: `Floodlight at ${url} ${how} the switch isth-edge; check sdnController.openflow`,
  };
}

/** Takes off a bridge what a Floodlight has left there, once BuiltIn's own flows are in force. */
export async function removeFloodlight(bridge: Switch): Promise<void> {
  const left = (await bridge.dumpFlows()).filter(isFloodlights);
  if (left.length > 0) await bridge.bundle(left.map((flow) => ({ kind: 'remove', flow })));
}

function isFloodlights({ cookie, priority, match, instructions }: Flow): boolean {
  if (isEntryCookie(cookie) || (cookie & applicationMask) === reactiveFlows) return true;
  // Its question to the controller about whatever no flow meets.
  const asks = instructions.apply?.some((action) => action.type === 'output' && action.port === 'controller') ?? false;
  return cookie === 0n && priority === 0 && Object.keys(match).length === 0 && asks;
}

const isSame = (found: Flow | undefined, wanted: Flow): boolean =>
  found !== undefined && flowBody(found) === flowBody(wanted);

const isGuard = ({ table, priority, match }: Pick<Flow, 'table' | 'priority' | 'match'>): boolean =>
  guard(2 + offset).some((each) => flowKey(each) === flowKey({ table, priority, match }));

const guarded = (cookie: bigint, flows: readonly Flow[], priority: number): readonly Flow[] =>
  cookie === bridgeCookie ? [...flows, ...guard(priority)] : flows;

const namePrefix = (datapathId: bigint): string => `isth-${datapathId.toString(16)}-`;
const namesOfOurs = (datapathId: bigint, names: Iterable<string>): Set<string> =>
  new Set([...names].filter((name) => name.startsWith(namePrefix(datapathId))));
const unitPrefix = (datapathId: bigint, cookie: bigint): string => `${namePrefix(datapathId)}${cookie.toString(16)}-`;

/** Whose entry it is, as its name tells. */
function cookieOf(name: string): bigint | undefined {
  const [, cookie] = /^isth-[0-9a-f]+-([0-9a-f]+)-[0-9a-f]+$/.exec(name) ?? [];
  return cookie === undefined ? undefined : BigInt(`0x${cookie}`);
}

/** A unit's flows as entries, by name; each with the cookie that Floodlight gives an entry of that name. */
function entriesOf(datapathId: bigint, cookie: bigint, flows: readonly Flow[]): Map<string, Flow> {
  return new Map(
    guarded(cookie, flows, 2).map((flow) => {
      const raised = { ...flow, priority: flow.priority + offset };
      const digest = createHash('sha256').update(flowKey(raised)).digest('hex').slice(0, 12);
      const name = `${unitPrefix(datapathId, cookie)}${digest}`;
      return [name, { ...raised, cookie: entryCookie(name) }];
    }),
  );
}
