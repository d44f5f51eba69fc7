import { BehaviorSubject, Subject } from 'rxjs';
import { flowKey } from '../../../../drivers/openflow/index.js';
import type { Flow, FlowChange, FlowFilter, Switch, SwitchState } from '../../../../drivers/openflow/types.js';

type Removed = Pick<Flow, 'table' | 'priority' | 'cookie' | 'match'>;

/** A switch in memory: what a bundle says is in the map when it resolves. */
export class MemorySwitch implements Switch {
  readonly endpoint = 'tcp:memory:1';
  readonly state = new BehaviorSubject<SwitchState>({ connected: false });
  readonly flowRemoved = new Subject<Removed>();
  readonly packetIn = new Subject<never>();
  readonly flows = new Map<string, Flow>();
  /** Bundles that were committed. */
  readonly bundles: (readonly FlowChange[])[] = [];
  /** How often it was read. */
  dumps = 0;
  /** Called when a bundle is in force, before its answer is on its way. */
  onCommit: () => void = () => undefined;
  /** The next bundle fails with this: before it is in force, or after. */
  failure: { readonly error: Error; readonly committed: boolean } | undefined;

  #session = 0;

  connect(): void {
    this.state.next({ connected: true, datapathId: 1n });
  }

  /** Whoever waits for an answer gets none any more. */
  disconnect(): void {
    this.#session++;
    this.state.next({ connected: false });
  }

  /** Somebody else deletes a flow, which the switch reports. */
  tamper(flow: Flow): void {
    if (this.flows.delete(flowKey(flow))) this.flowRemoved.next(flow);
  }

  /** As of this moment, and the answer takes a while. */
  async dumpFlows({ cookie = 0n, cookieMask = 0n }: FlowFilter = {}): Promise<Flow[]> {
    const session = this.#assertConnected();
    this.dumps++;
    const found = [...this.flows.values()].filter((flow) => (flow.cookie & cookieMask) === (cookie & cookieMask));
    await new Promise(setImmediate);
    this.#assertConnected(session);
    return found;
  }

  async readFlows(filter: FlowFilter, each: (flow: Flow) => void): Promise<void> {
    (await this.dumpFlows(filter)).forEach(each);
  }

  async bundle(changes: readonly FlowChange[]): Promise<void> {
    const session = this.#assertConnected();
    const { failure } = this;
    this.failure = undefined;
    if (failure && !failure.committed) throw failure.error;
    this.bundles.push(changes);
    for (const change of changes) this.#change(change);
    await new Promise(setImmediate);
    this.onCommit();
    await new Promise(setImmediate);
    this.#assertConnected(session);
    if (failure) throw failure.error;
  }

  ready(): Promise<void> {
    return Promise.resolve();
  }

  ports(): Promise<never[]> {
    return Promise.resolve([]);
  }

  barrier(): Promise<void> {
    return Promise.resolve();
  }

  packetOut(): Promise<void> {
    return Promise.resolve();
  }

  setMeter(): Promise<void> {
    return Promise.resolve();
  }

  removeMeter(): Promise<void> {
    return Promise.resolve();
  }

  meters(): Promise<never[]> {
    return Promise.resolve([]);
  }

  flushConnections(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #change(change: FlowChange): void {
    switch (change.kind) {
      case 'add':
        this.flows.set(flowKey(change.flow), change.flow);
        return;
      case 'remove': {
        const found = this.flows.get(flowKey(change.flow));
        // A removal is by cookie too.
        if (found?.cookie !== change.flow.cookie) return;
        this.flows.delete(flowKey(change.flow));
        this.flowRemoved.next(found);
        return;
      }
      case 'removeAll':
        throw new Error('removal by filter is not what a program does');
    }
  }

  #assertConnected(session = this.#session): number {
    if (!this.state.value.connected || session !== this.#session) throw new Error('not connected');
    return session;
  }
}
