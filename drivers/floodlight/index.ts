import { z } from 'zod';
import { checkName, type FlowAnswer, readFlow, writeEntry } from './entry.js';
import { FloodlightError } from './errors.js';
import { formatDatapathId, parseDatapathId } from './notation.js';
import { Rest } from './rest.js';
import type { ConnectedSwitch, Floodlight, FloodlightOptions, Problem } from './types.js';
import type { Flow } from '../openflow/index.js';

export { entryCookie, isEntryCookie } from './entry.js';
export { FloodlightError } from './errors.js';
export type * from './types.js';

/**
 * A client of the Floodlight whose REST interface is at `url` (http://host:8080; a path is put before Floodlight's own).
 * Connects when first used. Throws FLOODLIGHT_UNSUPPORTED if the URL is not one of http or https.
 */
export function openFloodlight(url: string, options: FloodlightOptions = {}): Floodlight {
  return new FloodlightClient(url, options);
}

/** They answer packets that no flow meets, with flows or floods of their own. */
const openers = [
  'net.floodlightcontroller.forwarding.Forwarding',
  'net.floodlightcontroller.hub.Hub',
  'net.floodlightcontroller.learningswitch.LearningSwitch',
];
const pusher = 'net.floodlightcontroller.staticentry.StaticEntryPusher';

const record = z.record(z.string(), z.unknown());
const switchesAnswer = z.array(z.object({ switchDPID: z.string(), connectedSince: z.number() }));
const modulesAnswer = z.record(z.string(), z.object({ loaded: z.boolean() }));
const roleAnswer = z.record(z.string(), z.string());
const listAnswer = z.record(z.string(), z.array(record));
const statusAnswer = z.object({ status: z.string() });
const flowAnswer: z.ZodType<FlowAnswer> = z.object({
  cookie: z.string(),
  table_id: z.string(),
  priority: z.string(),
  idle_timeout_s: z.string(),
  hard_timeout_s: z.string(),
  match: record,
  instructions: record,
});
/** Without a switch Floodlight answers lines of help, as an object. */
const flowsAnswer = z.object({ flows: z.array(flowAnswer).optional() });

const paths = {
  switches: '/wm/core/controller/switches/json',
  modules: '/wm/core/module/loaded/json',
  role: (dpid: string) => `/wm/core/switch/${dpid}/role/json`,
  flows: (dpid: string) => `/wm/core/switch/${dpid}/flow/json`,
  list: (dpid: string) => `/wm/staticentrypusher/list/${dpid}/json`,
  entry: '/wm/staticentrypusher/json',
} as const;

class FloodlightClient implements Floodlight {
  readonly #rest: Rest;

  constructor(
    readonly url: string,
    options: FloodlightOptions,
  ) {
    this.#rest = new Rest(url, options);
  }

  async switches(): Promise<ConnectedSwitch[]> {
    const answer = await this.#get(paths.switches, switchesAnswer);
    return Promise.all(
      answer.map(async ({ switchDPID, connectedSince }) => {
        const datapathId = parseDatapathId(switchDPID);
        if (datapathId === undefined) throw this.#misunderstood(paths.switches, switchDPID);
        return { datapathId, connectedSince, role: await this.#role(datapathId) };
      }),
    );
  }

  async problems(): Promise<Problem[]> {
    const modules = await this.#get(paths.modules, modulesAnswer);
    const isLoaded = (module: string) => modules[module]?.loaded === true;
    return [
      ...openers.filter(isLoaded).map((module) => ({ module, problem: 'OpensPaths' as const })),
      ...(isLoaded(pusher) ? [] : [{ module: pusher, problem: 'NotLoaded' as const }]),
    ];
  }

  async entries(datapathId: bigint): Promise<ReadonlySet<string>> {
    const answer = await this.#get(paths.list(formatDatapathId(datapathId)), listAnswer);
    return new Set(Object.values(answer).flatMap((entries) => entries.flatMap((entry) => Object.keys(entry))));
  }

  async flows(datapathId: bigint): Promise<Flow[]> {
    const dpid = formatDatapathId(datapathId);
    const { flows } = await this.#get(paths.flows(dpid), flowsAnswer);
    if (flows === undefined)
      throw new FloodlightError('FLOODLIGHT_NO_SWITCH', `${this.url}: switch ${dpid} is not connected to Floodlight`);
    return flows.map((answer) => {
      const flow = readFlow(answer);
      if (flow === undefined) throw this.#misunderstood(paths.flows(dpid), answer);
      return flow;
    });
  }

  async push(datapathId: bigint, name: string, flow: Flow): Promise<void> {
    await this.#change('POST', writeEntry(datapathId, name, flow), 'Entry pushed');
  }

  async remove(name: string): Promise<void> {
    checkName(name);
    await this.#change('DELETE', { name }, `Entry ${name} deleted`);
  }

  async close(): Promise<void> {
    await this.#rest.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #role(datapathId: bigint): Promise<string | undefined> {
    const dpid = formatDatapathId(datapathId);
    const answer = await this.#get(paths.role(dpid), roleAnswer);
    return answer[dpid];
  }

  async #change(method: 'POST' | 'DELETE', body: object, success: string): Promise<void> {
    const { status } = this.#parse(paths.entry, statusAnswer, await this.#rest.call(method, paths.entry, body));
    if (status !== success) throw new FloodlightError('FLOODLIGHT_REFUSED', `${this.url}: ${status.slice(0, 300)}`);
  }

  async #get<T>(path: string, shape: z.ZodType<T>): Promise<T> {
    return this.#parse(path, shape, await this.#rest.call('GET', path));
  }

  #parse<T>(path: string, shape: z.ZodType<T>, answer: unknown): T {
    const parsed = shape.safeParse(answer);
    if (parsed.success) return parsed.data;
    throw this.#misunderstood(path, answer, parsed.error);
  }

  #misunderstood(path: string, answer: unknown, cause?: unknown): FloodlightError {
    const excerpt = JSON.stringify(answer).slice(0, 200);
    return new FloodlightError(
      'FLOODLIGHT_PROTOCOL',
      `${this.url}: the answer of ${path} is not understood: ${excerpt}`,
      cause,
    );
  }
}
