import { Subscription } from 'rxjs';
import { flowBody, flowKey, flowOfKey } from '../../drivers/openflow/index.js';
import type { Flow, FlowChange, Switch } from '../../drivers/openflow/types.js';
import { cookieMagic, cookieMagicMask } from '../common/identity.js';

/** The flows that a unit of change is to have on a bridge. */
export interface Wanted {
  /** Those of a unit that have the same revision are the same: nobody has to make or compare them again. */
  readonly revision: string;
  readonly flows: readonly Flow[];
}

/** The flows of one unit of change (one cookie): flowBody by flowKey. As text, which is small: there may be 100,000. */
type Installed = Map<string, string>;

/** What must change on a bridge so that a cookie's flows are the wanted ones. Pure. */
export function diffFlows(
  cookie: bigint,
  wanted: readonly Flow[],
  installed: ReadonlyMap<string, string>,
): FlowChange[] {
  const keep = new Set<string>();
  const adds: FlowChange[] = [];
  for (const flow of wanted) {
    const key = flowKey(flow);
    keep.add(key);
    if (installed.get(key) !== flowBody(flow)) adds.push({ kind: 'add', flow });
  }
  const removals: FlowChange[] = [];
  for (const key of installed.keys())
    if (!keep.has(key)) removals.push({ kind: 'remove', flow: { ...flowOfKey(key), cookie } });
  return [...removals, ...adds];
}

/**
 * Who programs a bridge: BuiltIn (Program) or, for isth-edge, the site's Floodlight. A cookie is one unit of change, the flows
 * of one network. Every method fails with what prevents it, and can be called again.
 */
export interface SdnController {
  /** While it is not, its next connection reports drift, so nobody has to ask again. */
  readonly isConnected: boolean;
  /** Cookies of which flows are installed. */
  cookies(): Iterable<bigint>;
  /** Reads the bridge if it is not known yet. */
  load(): Promise<void>;
  /** Makes the cookies' flows the wanted ones; resolved = in force. Nothing is sent if nothing differs. */
  apply(wanted: ReadonlyMap<bigint, Wanted>): Promise<void>;
  /** Whether what has this revision is known to be all that the cookie has: there is nothing to apply. */
  isSettled(cookie: bigint, revision: string): boolean;
  /** How many of the flows that the cookie should have are there, as far as is known. */
  present(cookie: bigint): number;
  /** Reads the bridge anew; what differs from what was thought to be there is reported as drift. */
  audit(): Promise<void>;
  close(): void;
}

/**
 * BuiltIn: what one bridge holds of ours, by cookie: read in bulk when the switch connects, kept current by our own bundles and by
 * the switch's reports of what was removed behind our back.
 */
export class Program implements SdnController {
  #installed: Map<bigint, Installed> | undefined;
  /** What a cookie's installed flows were last seen to be. */
  readonly #settled = new Map<bigint, string>();
  #connected = false;
  /** Counts connections: what an earlier one answered says nothing of what the bridge holds now. */
  #session = 0;
  /** Reads and bundles take turns: each changes what is thought to be there. */
  #turn: Promise<unknown> = Promise.resolve();
  /** What the switch says was removed while a turn is under way: only its end knows whether it is news. */
  #meanwhile: { cookie: bigint; key: string }[] | undefined;
  readonly #subscriptions = new Subscription();

  constructor(
    private readonly bridge: Switch,
    /** Called with a cookie whose flows are no longer what they were; undefined: with all of them. */
    private readonly onDrift: (cookie: bigint | undefined) => void,
  ) {
    this.#subscriptions.add(
      bridge.state.subscribe((state) => {
        this.#forget();
        this.#session++;
        this.#connected = state.connected;
        if (state.connected) onDrift(undefined);
      }),
    );
    this.#subscriptions.add(
      bridge.flowRemoved.subscribe((removed) => {
        const removal = { cookie: removed.cookie, key: flowKey(removed) };
        if (this.#meanwhile) this.#meanwhile.push(removal);
        else this.#strike(removal);
      }),
    );
  }

  get isConnected(): boolean {
    return this.#connected;
  }

  cookies(): Iterable<bigint> {
    return this.#installed?.keys() ?? [];
  }

  async load(): Promise<void> {
    if (this.#installed) return;
    await this.#exclusively(async () => {
      await this.#known();
    });
  }

  async audit(): Promise<void> {
    await this.#exclusively(async () => {
      const before = this.#installed;
      const settled = new Map(this.#settled);
      this.#forget();
      const now = await this.#known();
      for (const cookie of new Set([...(before?.keys() ?? []), ...now.keys()])) {
        const revision = settled.get(cookie);
        if (!sameFlows(before?.get(cookie), now.get(cookie))) this.onDrift(cookie);
        else if (revision !== undefined) this.#settled.set(cookie, revision);
      }
    });
  }

  present(cookie: bigint): number {
    return this.#installed?.get(cookie)?.size ?? 0;
  }

  isSettled(cookie: bigint, revision: string): boolean {
    return this.#settled.get(cookie) === revision;
  }

  /** The ports that the cookie's flows are for; undefined while the bridge is not known. */
  inPorts(cookie: bigint): ReadonlySet<number> | undefined {
    if (!this.#installed) return undefined;
    const keys = [...(this.#installed.get(cookie)?.keys() ?? [])];
    return new Set(keys.flatMap((key) => flowOfKey(key).match.inPort ?? []));
  }

  /** One atomic bundle for all of them. */
  async apply(wanted: ReadonlyMap<bigint, Wanted>): Promise<void> {
    await this.#exclusively(async () => {
      const installed = await this.#known();
      const open = [...wanted]
        .filter(([cookie, { revision }]) => !this.isSettled(cookie, revision))
        .map(([cookie, unit]) => ({
          ...{ cookie, ...unit },
          changes: diffFlows(cookie, unit.flows, installed.get(cookie) ?? new Map()),
        }));
      const changes = open.flatMap((unit) => unit.changes);
      try {
        if (changes.length > 0) await this.bridge.bundle(changes);
      } catch (error) {
        // The outcome is unknown (or nothing happened): read again before the next change.
        if (this.#installed === installed) this.#forget();
        throw error;
      }
      for (const unit of open) {
        const { cookie, revision, flows } = unit;
        if (flows.length === 0) installed.delete(cookie);
        else if (unit.changes.length > 0) installed.set(cookie, listed(flows));
        if (this.#installed !== installed) continue;
        if (flows.length === 0) this.#settled.delete(cookie);
        else this.#settled.set(cookie, revision);
      }
    });
  }

  close(): void {
    this.#subscriptions.unsubscribe();
  }

  async #exclusively(act: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(async () => {
      this.#meanwhile = [];
      try {
        await act();
      } finally {
        const removals = this.#meanwhile;
        this.#meanwhile = undefined;
        for (const removal of removals) this.#strike(removal);
      }
    });
    this.#turn = turn.catch(() => undefined);
    await turn;
  }

  #forget(): void {
    this.#installed = undefined;
    this.#settled.clear();
  }

  /** A removed flow that is listed was removed behind our back; what we removed ourselves no longer is. */
  #strike({ cookie, key }: { cookie: bigint; key: string }): void {
    if (!this.#installed?.get(cookie)?.delete(key)) return;
    this.#settled.delete(cookie);
    this.onDrift(cookie);
  }

  async #known(): Promise<Map<bigint, Installed>> {
    if (this.#installed) return this.#installed;
    const session = this.#session;
    const read = new Map<bigint, Installed>();
    await this.bridge.readFlows({ cookie: cookieMagic, cookieMask: cookieMagicMask }, (flow) => {
      const unit = read.get(flow.cookie) ?? (new Map() as Installed);
      read.set(flow.cookie, unit.set(flowKey(flow), flowBody(flow)));
    });
    if (session !== this.#session)
      throw new Error(`${this.bridge.endpoint}: the connection was lost while flows were read`);
    this.#installed = read;
    return read;
  }
}

function sameFlows(before: Installed | undefined, now: Installed | undefined): boolean {
  return (before?.size ?? 0) === (now?.size ?? 0) && [...(now ?? [])].every(([key, body]) => before?.get(key) === body);
}

const listed = (flows: readonly Flow[]): Installed => new Map(flows.map((flow) => [flowKey(flow), flowBody(flow)]));
