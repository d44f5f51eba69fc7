import { Subscription } from 'rxjs';
import { flowBody, flowKey } from '../../drivers/openflow/index.js';
import type { Flow, FlowChange, Switch } from '../../drivers/openflow/types.js';
import { cookieMagic, cookieMagicMask } from '../common/identity.js';

/** The flows of one unit of change (one cookie), by flowKey. */
type Installed = Map<string, { readonly body: string; readonly flow: Flow }>;

/** What must change on a bridge so that a cookie's flows are the wanted ones. Pure. */
export function diffFlows(
  wanted: readonly Flow[],
  installed: ReadonlyMap<string, { body: string; flow: Flow }>,
): FlowChange[] {
  const keep = new Set<string>();
  const adds: FlowChange[] = [];
  for (const flow of wanted) {
    const key = flowKey(flow);
    keep.add(key);
    if (installed.get(key)?.body !== flowBody(flow)) adds.push({ kind: 'add', flow });
  }
  const removals: FlowChange[] = [];
  for (const [key, { flow }] of installed) if (!keep.has(key)) removals.push({ kind: 'remove', flow });
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
  apply(wanted: ReadonlyMap<bigint, readonly Flow[]>): Promise<void>;
  /** How many of the wanted flows are there. */
  present(cookie: bigint, wanted: readonly Flow[]): number;
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
  /** The very flows that a cookie's installed ones were last seen to be: nobody has to compare them again. */
  readonly #settled = new Map<bigint, readonly Flow[]>();
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
        const flows = settled.get(cookie);
        if (!sameFlows(before?.get(cookie), now.get(cookie))) this.onDrift(cookie);
        else if (flows) this.#settle(cookie, flows);
      }
    });
  }

  present(cookie: bigint, wanted: readonly Flow[]): number {
    if (this.isSettled(cookie, wanted)) return wanted.length;
    const installed = this.#installed?.get(cookie);
    return installed ? wanted.filter((flow) => installed.has(flowKey(flow))).length : 0;
  }

  /** Whether these very flows are known to be all that the cookie has. */
  isSettled(cookie: bigint, flows: readonly Flow[]): boolean {
    return this.#settled.get(cookie) === flows;
  }

  /** The ports that the cookie's flows are for; undefined while the bridge is not known. */
  inPorts(cookie: bigint): ReadonlySet<number> | undefined {
    if (!this.#installed) return undefined;
    const installed = [...(this.#installed.get(cookie)?.values() ?? [])];
    return new Set(installed.flatMap(({ flow }) => flow.match.inPort ?? []));
  }

  /** One atomic bundle for all of them. */
  async apply(wanted: ReadonlyMap<bigint, readonly Flow[]>): Promise<void> {
    await this.#exclusively(async () => {
      const installed = await this.#known();
      const open = [...wanted].filter(([cookie, flows]) => !this.isSettled(cookie, flows));
      const changes = open.flatMap(([cookie, flows]) => diffFlows(flows, installed.get(cookie) ?? new Map()));
      if (changes.length === 0) {
        for (const [cookie, flows] of open) this.#settle(cookie, flows);
        return;
      }
      try {
        await this.bridge.bundle(changes);
      } catch (error) {
        // The outcome is unknown (or nothing happened): read again before the next change.
        if (this.#installed === installed) this.#forget();
        throw error;
      }
      for (const [cookie, flows] of open) {
        if (flows.length === 0) installed.delete(cookie);
        else installed.set(cookie, new Map(flows.map((flow) => [flowKey(flow), { body: flowBody(flow), flow }])));
        if (this.#installed === installed) this.#settle(cookie, flows);
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

  #settle(cookie: bigint, flows: readonly Flow[]): void {
    if (flows.length === 0) this.#settled.delete(cookie);
    else this.#settled.set(cookie, flows);
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
    const read = group(await this.bridge.dumpFlows({ cookie: cookieMagic, cookieMask: cookieMagicMask }));
    if (session !== this.#session)
      throw new Error(`${this.bridge.endpoint}: the connection was lost while flows were read`);
    this.#installed = read;
    return read;
  }
}

function sameFlows(before: Installed | undefined, now: Installed | undefined): boolean {
  return (
    (before?.size ?? 0) === (now?.size ?? 0) &&
    [...(now ?? [])].every(([key, { body }]) => before?.get(key)?.body === body)
  );
}

function group(flows: readonly Flow[]): Map<bigint, Installed> {
  const installed = new Map<bigint, Installed>();
  for (const flow of flows) {
    const unit = installed.get(flow.cookie) ?? (new Map() as Installed);
    installed.set(flow.cookie, unit.set(flowKey(flow), { body: flowBody(flow), flow }));
  }
  return installed;
}
