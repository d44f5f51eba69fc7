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
 * What one bridge holds of ours, by cookie: read in bulk when the switch connects, kept current by our own bundles and by
 * the switch's reports of what was removed behind our back.
 */
export class Program {
  #installed: Map<bigint, Installed> | undefined;
  #connected = false;
  #loading: Promise<void> | undefined;
  /** What was removed behind our back while a bundle of ours was on its way. */
  #removedMeanwhile: { cookie: bigint; key: string }[] = [];
  readonly #subscriptions = new Subscription();

  constructor(
    private readonly bridge: Switch,
    /** Called with a cookie whose flows are no longer what they were; undefined: with all of them. */
    private readonly onDrift: (cookie: bigint | undefined) => void,
  ) {
    this.#subscriptions.add(
      bridge.state.subscribe((state) => {
        this.#installed = undefined;
        this.#connected = state.connected;
        if (state.connected) onDrift(undefined);
      }),
    );
    this.#subscriptions.add(
      bridge.flowRemoved.subscribe((removed) => {
        const key = flowKey(removed);
        // What we removed ourselves is no longer listed, so it is not drift.
        if (!this.#installed?.get(removed.cookie)?.delete(key)) return;
        this.#removedMeanwhile.push({ cookie: removed.cookie, key });
        onDrift(removed.cookie);
      }),
    );
  }

  /** Its next connection reports drift, so nobody has to ask again. */
  get isConnected(): boolean {
    return this.#connected;
  }

  /** Cookies of which flows are installed. */
  cookies(): Iterable<bigint> {
    return this.#installed?.keys() ?? [];
  }

  /** Reads the bridge if it is not known yet. */
  async load(): Promise<void> {
    if (this.#installed) return;
    this.#loading ??= this.#read().finally(() => {
      this.#loading = undefined;
    });
    await this.#loading;
  }

  /** Reads the bridge anew; what differs from what was thought to be there is reported as drift. */
  async audit(): Promise<void> {
    const before = this.#installed;
    const now = group(await this.bridge.dumpFlows({ cookie: cookieMagic, cookieMask: cookieMagicMask }));
    if (before !== this.#installed) return;
    this.#installed = now;
    for (const cookie of new Set([...(before?.keys() ?? []), ...now.keys()])) {
      const was = before?.get(cookie) ?? new Map();
      const is = now.get(cookie) ?? new Map();
      if (
        was.size !== is.size ||
        [...is].some(
          ([key, { body }]: [string, { body: string }]) =>
            (was.get(key) as { body: string } | undefined)?.body !== body,
        )
      )
        this.onDrift(cookie);
    }
  }

  /** How many of the wanted flows are there. */
  present(cookie: bigint, wanted: readonly Flow[]): number {
    const installed = this.#installed?.get(cookie);
    return installed ? wanted.filter((flow) => installed.has(flowKey(flow))).length : 0;
  }

  /** Makes the cookies' flows the wanted ones: one atomic bundle for all of them, none if nothing differs. */
  async apply(wanted: ReadonlyMap<bigint, readonly Flow[]>): Promise<void> {
    await this.load();
    const installed = this.#installed;
    if (!installed) throw new Error(`${this.bridge.endpoint}: the switch went away`);
    const changes = [...wanted].flatMap(([cookie, flows]) => diffFlows(flows, installed.get(cookie) ?? new Map()));
    if (changes.length === 0) return;
    // Listed as gone before the switch says so, else its report would pass for drift.
    for (const change of changes)
      if (change.kind === 'remove') installed.get(change.flow.cookie)?.delete(flowKey(change.flow));
    this.#removedMeanwhile = [];
    try {
      await this.bridge.bundle(changes);
    } catch (error) {
      // The outcome is unknown (or nothing happened): read again before the next change.
      if (this.#installed === installed) this.#installed = undefined;
      throw error;
    }
    for (const [cookie, flows] of wanted) {
      if (flows.length === 0) installed.delete(cookie);
      else installed.set(cookie, new Map(flows.map((flow) => [flowKey(flow), { body: flowBody(flow), flow }])));
    }
    for (const { cookie, key } of this.#removedMeanwhile) installed.get(cookie)?.delete(key);
  }

  close(): void {
    this.#subscriptions.unsubscribe();
  }

  async #read(): Promise<void> {
    this.#installed = group(await this.bridge.dumpFlows({ cookie: cookieMagic, cookieMask: cookieMagicMask }));
  }
}

function group(flows: readonly Flow[]): Map<bigint, Installed> {
  const installed = new Map<bigint, Installed>();
  for (const flow of flows) {
    const unit = installed.get(flow.cookie) ?? (new Map() as Installed);
    installed.set(flow.cookie, unit.set(flowKey(flow), { body: flowBody(flow), flow }));
  }
  return installed;
}
