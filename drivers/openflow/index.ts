import { map, type Observable, type ObservedValueOf, Subject } from 'rxjs';
import { Link } from '../wire/link.js';
import { PORT } from './actions.js';
import { OpenFlowConnectionError } from './errors.js';
import { type Event, OpenFlowSession } from './session.js';
import type {
  Action,
  Flow,
  FlowChange,
  FlowFilter,
  Meter,
  MeterId,
  MeterRate,
  OpenFlowOptions,
  PortDescription,
  Switch,
  SwitchState,
} from './types.js';

export { OpenFlowConnectionError, OpenFlowError, OpenFlowTimeoutError, OpenFlowValueError } from './errors.js';
export { flowBody, flowKey, flowOfKey } from './flow.js';
export { EndpointError } from '../wire/endpoint.js';
export type * from './types.js';

/**
 * Connects to a bridge's passive listener (`tcp:host:port`, `ssl:host:port`, `unix:/path`). Returns at once and connects
 * in the background. Throws EndpointError if the endpoint can't be parsed or `ssl:` lacks its certificates.
 */
export function openSwitch(endpoint: string, options: OpenFlowOptions = {}): Switch {
  return new OpenFlowSwitch(endpoint, options);
}

class OpenFlowSwitch implements Switch {
  readonly flowRemoved: Switch['flowRemoved'];
  readonly packetIn: Switch['packetIn'];
  readonly state: Observable<SwitchState>;
  readonly #flowRemoved = new Subject<ObservedValueOf<Switch['flowRemoved']>>();
  readonly #packetIn = new Subject<ObservedValueOf<Switch['packetIn']>>();
  readonly #link: Link<OpenFlowSession>;

  constructor(
    readonly endpoint: string,
    { tls, connectTimeoutMs = 5000, callTimeoutMs = 10_000, echoIntervalMs = 5000 }: OpenFlowOptions,
  ) {
    this.flowRemoved = this.#flowRemoved.asObservable();
    this.packetIn = this.#packetIn.asObservable();
    const failure = (message: string, cause: unknown) => new OpenFlowConnectionError(message, { cause });
    const event = (event: Event) => this.#emit(event);
    this.#link = new Link(
      endpoint,
      { tls, connectTimeoutMs, idleMs: echoIntervalMs, failure },
      (wire) => new OpenFlowSession(wire, { endpoint, callTimeoutMs, event }),
    );
    this.state = this.#link.state.pipe(
      map((state) => (state.connected ? { connected: true, datapathId: state.session.datapathId } : state)),
    );
  }

  ready(timeoutMs = 10_000): Promise<void> {
    return this.#link.ready(timeoutMs);
  }

  async dumpFlows(filter: FlowFilter = {}): Promise<Flow[]> {
    const flows: Flow[] = [];
    await this.readFlows(filter, (flow) => flows.push(flow));
    return flows;
  }

  async readFlows(filter: FlowFilter, each: (flow: Flow) => void): Promise<void> {
    await this.#link.session().readFlows(filter, each);
  }

  async ports(): Promise<PortDescription[]> {
    return this.#link.session().ports();
  }

  async bundle(changes: readonly FlowChange[]): Promise<void> {
    return this.#link.session().bundle(changes);
  }

  async barrier(): Promise<void> {
    return this.#link.session().barrier();
  }

  async setMeter(id: MeterId, rate: MeterRate): Promise<void> {
    return this.#link.session().setMeter(id, rate);
  }

  async removeMeter(id: MeterId): Promise<void> {
    return this.#link.session().removeMeter(id);
  }

  async meters(): Promise<Meter[]> {
    return this.#link.session().meters();
  }

  async flushConnections(zone: number): Promise<void> {
    return this.#link.session().flushConnections(zone);
  }

  async packetOut(inPort: number | 'controller', actions: readonly Action[], data: Uint8Array): Promise<void> {
    return this.#link.session().packetOut(inPort === 'controller' ? PORT.controller : inPort, actions, data);
  }

  async close(): Promise<void> {
    await this.#link.close();
    this.#flowRemoved.complete();
    this.#packetIn.complete();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #emit(event: Event): void {
    const { table, cookie, match } = event;
    if (event.type === 'flowRemoved') {
      if (event.byDelete) this.#flowRemoved.next({ table, priority: event.priority, cookie, match });
      return;
    }
    const { inPort = 0, metadata = 0n, tunnelId = 0n, tunnelSource } = match;
    this.#packetIn.next({
      inPort,
      cookie,
      table,
      data: event.data,
      metadata: valueOf(metadata),
      tunnelId: valueOf(tunnelId),
      ...(tunnelSource === undefined ? {} : { tunnelSource }),
    });
  }
}

const valueOf = (field: bigint | { readonly value: bigint }) => (typeof field === 'bigint' ? field : field.value);
