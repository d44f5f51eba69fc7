import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { Controller, Forwarding, isRole, type SwitchConnection } from './controller.js';
import { printFlow, type Row } from './language.js';
import { Pusher } from './pusher.js';

export interface FloodlightOptions {
  /** Where REST is served and where switches connect; port 0 = any free one. Default 127.0.0.1:0. */
  readonly rest?: { readonly host: string; readonly port: number };
  readonly openflow?: { readonly host: string; readonly port: number };
  /** Default 100 ms: how long a new switch has no role, and again until it is cleared. */
  readonly settleMs?: number;
}

const behaviour = z.strictObject({
  /** Both clearTables settings: tables are cleared when a switch connects, and its entries with them. Floodlight's default is true. */
  clearTables: z.boolean().default(false),
  /** The Forwarding module: packets that miss make flows and floods. Floodlight's default is true. */
  forwarding: z.boolean().default(false),
  /** Every answer comes that much later. */
  delayMs: z.number().default(0),
  /** No answer comes at all. */
  hang: z.boolean().default(false),
  /** Every change is answered with HTTP 200 and this status, and not done. */
  refuseWith: z.string().optional(),
});

/** What may be otherwise, or go wrong. */
export type Behaviour = z.input<typeof behaviour>;

interface Answer {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
}

/**
 * Stands in for Floodlight: the endpoints that drivers/floodlight uses, answering as the recorded one did, and an
 * OpenFlow 1.3 controller behind them for real switches. Not spoken: groups, queues, IPv6, write actions, XML.
 */
export class FloodlightStandIn implements AsyncDisposable {
  #behaviour = behaviour.parse({});
  #pusher: Pusher;
  #forwarding = new Forwarding();
  #http: Server | undefined;
  readonly #controller: Controller;
  readonly #rest: { readonly host: string; port: number };
  readonly #openflow: { readonly host: string; port: number };

  private constructor({ rest, openflow, settleMs = 100 }: FloodlightOptions) {
    this.#rest = { host: '127.0.0.1', port: 0, ...rest };
    this.#openflow = { host: '127.0.0.1', port: 0, ...openflow };
    this.#pusher = this.#newPusher();
    this.#controller = new Controller({
      clearTables: () => this.#behaviour.clearTables,
      settleMs,
      ready: ({ datapathId }) => this.#pusher.resend(formatDpid(datapathId)),
      flowRemoved: ({ datapathId }, removed) => this.#pusher.flowRemoved(formatDpid(datapathId), removed),
      packetIn: (connection, packet) => {
        if (this.#behaviour.forwarding) this.#forwarding.packetIn(connection, packet);
      },
    });
  }

  static async start(options: FloodlightOptions = {}): Promise<FloodlightStandIn> {
    const standIn = new FloodlightStandIn(options);
    await standIn.resume();
    return standIn;
  }

  /** From now on; what is left out is well. From outside: PUT /stand-in with the same as JSON. */
  behave(wanted: Behaviour): void {
    this.#behaviour = behaviour.parse(wanted);
  }

  /** http://127.0.0.1:port. */
  get url(): string {
    return `http://${this.#rest.host}:${this.#rest.port}`;
  }

  /** tcp:127.0.0.1:port, for ovs-vsctl set-controller. */
  get openflow(): string {
    return `tcp:${this.#openflow.host}:${this.#openflow.port}`;
  }

  /** Dies: connections end, nothing listens. What was stored is gone. */
  async stop(): Promise<void> {
    const server = this.#http;
    this.#http = undefined;
    this.#pusher = this.#newPusher();
    this.#forwarding = new Forwarding();
    await this.#controller.close();
    if (server === undefined) return;
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  }

  /** Starts again where it was. */
  async resume(): Promise<void> {
    this.#openflow.port = await this.#controller.listen(this.#openflow.host, this.#openflow.port);
    const server = createServer((request, response) => {
      this.#serve(request, response).catch((error: unknown) => {
        console.error(error);
        response.destroy();
      });
    });
    server.listen(this.#rest.port, this.#rest.host);
    await once(server, 'listening');
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('a TCP server has a port');
    this.#rest.port = address.port;
    this.#http = server;
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.resume();
  }

  /** Ends a switch's connection, as a lost probe does; it comes again by itself. */
  disconnect(datapathId: bigint): void {
    this.#controller.disconnect(datapathId);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #newPusher(): Pusher {
    return new Pusher((dpid) => this.#switch(dpid));
  }

  #switch(dpid: string): SwitchConnection | undefined {
    return isDpid(dpid) ? this.#controller.switches.get(BigInt(`0x${dpid.replaceAll(':', '')}`)) : undefined;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request);
    const { pathname } = new URL(request.url ?? '/', this.url);
    if (request.method === 'PUT' && pathname === '/stand-in') {
      this.behave(behaviour.parse(JSON.parse(body)));
      response.end();
      return;
    }
    const answer = await this.#answer(request.method ?? 'GET', decodeURIComponent(pathname), body);
    if (this.#behaviour.delayMs > 0) await sleep(this.#behaviour.delayMs, undefined, { ref: false });
    // The connection stays open for ever, as a wedged controller leaves it.
    if (answer === undefined || this.#behaviour.hang) return;
    response.writeHead(answer.status, { 'content-type': answer.contentType, server: 'Restlet-Framework/2.3.2' });
    response.end(answer.body);
  }

  /** Undefined: it never answers. */
  async #answer(method: string, path: string, body: string): Promise<Answer | undefined> {
    const [, dpid = '', kind] = /^\/wm\/core\/switch\/([^/]+)\/(role|flow)\/json$/.exec(path) ?? [];
    if (kind === 'flow') return method === 'GET' ? this.#flows(dpid) : methodNotAllowed;
    if (kind === 'role') return this.#role(method, dpid, body);
    const [, verb, of = ''] =
      /^\/wm\/static(?:entry|flow|flowentry)pusher(?:\/(list|clear)\/([^/]+))?\/json$/.exec(path) ?? [];
    if (verb === 'list') return method === 'GET' ? this.#list(of) : methodNotAllowed;
    if (verb === 'clear') return method === 'GET' ? this.#clear(of) : methodNotAllowed;
    switch (path) {
      case '/wm/core/controller/switches/json':
        return model(this.#switches());
      case '/wm/core/module/loaded/json':
        return model(modules(this.#behaviour.forwarding));
      case '/wm/core/health/json':
        return model({ healthy: true });
      case '/wm/staticentrypusher/json':
      case '/wm/staticflowpusher/json':
      case '/wm/staticflowentrypusher/json':
        if (method !== 'POST' && method !== 'DELETE') return methodNotAllowed;
        if (this.#pusher.wedged) return undefined;
        if (this.#behaviour.refuseWith !== undefined) return status(this.#behaviour.refuseWith);
        return method === 'POST' ? this.#post(body) : this.#delete(body);
      default:
        return failure(404, 'Not Found', 'The server has not found anything matching the request URI');
    }
  }

  #switches(): object {
    return [...this.#controller.switches.values()].map(({ inetAddress, connectedSince, datapathId }) => ({
      inetAddress,
      connectedSince,
      openFlowVersion: 'OF_13',
      switchDPID: formatDpid(datapathId),
    }));
  }

  async #role(method: string, dpid: string, body: string): Promise<Answer> {
    const connections = [...this.#controller.switches.values()];
    if (dpid === 'all')
      return model(
        Object.fromEntries(
          connections.flatMap((each) => (each.role ? [[formatDpid(each.datapathId), each.role]] : [])),
        ),
      );
    const connection = this.#switch(dpid);
    if (connection?.role === undefined) return model({ ERROR: `Switch Manager could not locate switch DPID ${dpid}` });
    const wanted = method === 'POST' ? property(JSON.parse(body), 'role') : undefined;
    if (isRole(wanted)) {
      await connection.become(wanted);
      if (wanted === 'MASTER') await connection.prepare();
    }
    return model({ [formatDpid(connection.datapathId)]: connection.role });
  }

  async #flows(dpid: string): Promise<Answer> {
    const connection = this.#switch(dpid);
    if (connection?.role === undefined) return model(help);
    return model({ flows: (await connection.flows()).map(printFlow) });
  }

  #list(dpid: string): Answer {
    if (dpid === 'all') return model(this.#pusher.list());
    if (isDpid(dpid)) return model(this.#pusher.list(dpid));
    const form = 'Invalid switch DPID string. Must be a 64-bit value in the form 00:11:22:33:44:55:66:77.';
    return failure(400, 'Bad Request', form);
  }

  #clear(dpid: string): Answer {
    if (dpid !== 'all' && !isDpid(dpid)) {
      const broken = `'{"status":"Could not delete flows/groups requested! See controller log for details."}'`;
      return { status: 400, contentType: 'application/json; charset=UTF-8', body: broken };
    }
    this.#pusher.clear(dpid === 'all' ? undefined : dpid.toLowerCase());
    return status(dpid === 'all' ? 'Deleted all flows/groups.' : `Deleted all flows/groups for switch ${dpid}.`);
  }

  #post(body: string): Answer | undefined {
    if (body === '') return exception('Cannot invoke "String.length()" because "content" is null');
    const row = parseJson(body);
    if (row === undefined) return status('Error! Could not parse flow mod, see log for details.');
    const number = /^(0x[0-9a-f]+|[+-]?\d+)$/i;
    const bad = ['eth_type', 'ip_proto']
      .map((key) => row.get(key))
      .find((value) => value !== undefined && !number.test(value));
    if (bad !== undefined) return exception(`For input string: "${bad}"`);
    const warning = warn(row);
    if (warning !== undefined) return status(`Warning! ${warning} discarded.`);
    const pusher = this.#pusher;
    const answer = status('Entry pushed');
    pusher.store(row);
    // The answer is what the row's reader never comes to give.
    return pusher.wedged ? undefined : answer;
  }

  #delete(body: string): Answer {
    if (body === '') return status('Error! No data posted.');
    const row = parseJson(body, (key) => key);
    if (row === undefined) return status('Error deleting entry, see log for details');
    const name = row.get('name');
    if (name === undefined || name === '') return status('Error deleting entry, no name provided');
    this.#pusher.remove(name);
    return status(`Entry ${name} deleted`);
  }
}

/** All values as text; undefined if it is not an object of such. */
function parseJson(body: string, spell = (key: string) => key.toLowerCase().trim()): Row | undefined {
  try {
    const parsed: unknown = JSON.parse(body);
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return undefined;
    const entries = Object.entries(parsed).map(([key, value]: [string, unknown]): [string, string] => {
      const isTree = typeof value === 'object' && value !== null;
      if (isTree && spell(key) !== 'group_buckets') throw new SyntaxError('a tree where a value belongs');
      return [spell(key), typeof value === 'string' ? value : JSON.stringify(value)];
    });
    return new Map(entries);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

const ipTypes = [0x0800, 0x0806, 0x8035, 0x86dd];

/** What is refused before it is stored; there is little. */
function warn(row: Row): string | undefined {
  const dpid = row.get('switch');
  const type = row.get('eth_type');
  const hasAddress = [...row.keys()].some((key) => /^ipv[46]_(src|dst)$/.test(key));
  if (hasAddress || row.has('ip_proto')) {
    if (type === undefined) return 'Must specify eth_type of IPv4/IPv6 to match on IPv4/IPv6 fields! The flow has been';
    if (!hasAddress && !ipTypes.includes(Number(type))) return 'eth_type not recognized! The flow has been';
  }
  if (dpid === undefined) return 'Must specify switch DPID in flow. The flow has been';
  return isDpid(dpid) ? undefined : 'Switch DPID invalid! The flow has been';
}

const isDpid = (text: string) => /^([0-9a-f]{2}:){7}[0-9a-f]{2}$/i.test(text);
const formatDpid = (datapathId: bigint) =>
  datapathId
    .toString(16)
    .padStart(16, '0')
    .replace(/..(?!$)/g, '$&:');
const property = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;

const model = (body: object): Answer => ({ status: 200, contentType: 'application/json', body: JSON.stringify(body) });

/** Put together by hand: a quote in it makes it invalid. */
const status = (text: string): Answer => ({
  status: 200,
  contentType: 'application/json; charset=UTF-8',
  body: `{"status" : "${text}"}`,
});

const sections: Readonly<Record<number, string>> = { 400: '4.1', 404: '4.5', 405: '4.6', 500: '5.1' };

function failure(code: number, reasonPhrase: string, description: string, throwable: object | null = null): Answer {
  const body = {
    code,
    description,
    reasonPhrase,
    throwable,
    uri: `http://www.w3.org/Protocols/rfc2616/rfc2616-sec10.html#sec10.${sections[code] ?? ''}`,
    globalError: false,
    redirection: false,
    recoverableError: false,
    error: true,
    success: false,
    informational: false,
    serverError: code >= 500,
    connectorError: false,
    clientError: code < 500,
  };
  return { status: code, contentType: 'application/json', body: JSON.stringify(body) };
}

const notAllowed = 'The method specified in the request is not allowed for the resource identified by the request URI';
const methodNotAllowed = failure(405, 'Method Not Allowed', notAllowed);

function exception(message: string): Answer {
  const description = 'The server encountered an unexpected condition which prevented it from fulfilling the request';
  const throwable = { cause: null, stackTrace: [], message, suppressed: [], localizedMessage: message };
  return failure(500, 'Internal Server Error', description, throwable);
}

/** Instead of a switch's flows, if there is no such switch. */
const help = {
  '   ': 'An error has occurred while proccesing your request,',
  '  *': 'which might be due to one or more of the following:',
  ' * ': '-- An invalid DPID and/or stats/features request.',
  ' **': '-- The switch is not connected to the controller.',
  '*  ': "-- The request specified is not supported by the switch's OpenFlow version.",
  'Valid statistics and features are': [
    ...['aggregate', 'desc', 'experimenter', 'flow', 'flow-lightweight', 'group', 'group-desc', 'group-features'],
    ...['meter', 'meter-config', 'meter-features', 'port', 'port-desc', 'queue', 'queue-desc', 'table', 'table-desc'],
    ...['table-features', 'flow-monitor', 'controller-status', 'bundle-features', 'features'],
  ],
};

const loadedModules = [
  ...['accesscontrollist.ACL', 'core.internal.FloodlightProvider', 'core.internal.OFSwitchManager'],
  ...['core.internal.ShutdownServiceImpl', 'debugcounter.DebugCounterServiceImpl'],
  ...['devicemanager.internal.DefaultEntityClassifier', 'devicemanager.internal.DeviceManagerImpl'],
  ...['dhcpserver.DHCPServer', 'firewall.Firewall', 'hasupport.HAController'],
  ...['linkdiscovery.internal.LinkDiscoveryManager', 'loadbalancer.LoadBalancer', 'perfmon.PktInProcessingTime'],
  ...['restserver.RestApiServer', 'routing.RoutingManager', 'staticentry.StaticEntryPusher'],
  ...['statistics.StatisticsCollector', 'storage.memory.MemoryStorageSource', 'threadpool.ThreadPool'],
  'topology.TopologyManager',
];
const otherModules = [
  ...['cpanalyzer.CPAnalyzer', 'flowcache.FlowReconcileManager', 'hub.Hub', 'jython.JythonDebugInterface'],
  ...['learningswitch.LearningSwitch', 'simpleft.FT', 'ui.web.StaticWebRoutable'],
  'virtualnetwork.VirtualNetworkFilter',
];

/** Without what each depends on and provides. */
function modules(forwarding: boolean): object {
  const entry = (name: string, loaded: boolean): [string, object] => [name, { loaded, depends: {}, provides: {} }];
  const own = (name: string, loaded: boolean): [string, object] => entry(`net.floodlightcontroller.${name}`, loaded);
  return Object.fromEntries<object>([
    ...loadedModules.map((name) => own(name, true)),
    ...otherModules.map((name) => own(name, false)),
    own('forwarding.Forwarding', forwarding),
    entry('org.sdnplatform.sync.internal.SyncManager', true),
    entry('org.sdnplatform.sync.internal.SyncTorture', false),
  ]);
}
