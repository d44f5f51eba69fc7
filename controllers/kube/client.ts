import type { IncomingMessage } from 'node:http';
import https from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';

import { KubeConfig } from '@kubernetes/client-node';

import {
  apiVersionOf,
  isKubeError,
  KubeApiError,
  type ApplyOptions,
  type CallOptions,
  type DeleteOptions,
  type KubeApi,
  type KubeObject,
  type ListOptions,
  type NewKubeObject,
  type ObjectKey,
  type ObjectList,
  type Resource,
  type Selection,
  type WatchEvent,
  type WatchOptions,
} from './api.js';
import { answerError, parseEvent, parseJson, parseList, parseObject, parseSecret } from './wire.js';

export interface KubeOptions {
  /** Default: $KUBECONFIG, ~/.kube/config, then the pod's service account. */
  readonly kubeconfigPath?: string | undefined;
  /** Of every call but watch. Default 10 s. */
  readonly deadlineMs?: number | undefined;
}

export interface KubeConnection extends KubeApi {
  /** The namespace of the kubeconfig's context; in a pod, the pod's own. */
  readonly namespace: string;
  /** Calls and watches that still run fail with KUBE_UNAVAILABLE. */
  close(): void;
}

/** Reads the configuration only; the first call connects. */
export function connectKube(options: KubeOptions = {}): KubeConnection {
  const config = new KubeConfig();
  try {
    if (options.kubeconfigPath === undefined) config.loadFromDefault();
    else config.loadFromFile(options.kubeconfigPath);
  } catch (cause) {
    throw new KubeApiError('KUBE_PROTOCOL', 'kubeconfig', 0, 'Unreadable', { cause });
  }
  return new Client(config, options.deadlineMs ?? 10_000);
}

const SECRETS: Resource = { group: '', version: 'v1', plural: 'secrets', kind: 'Secret', namespaced: true };

/** Tokens and certificates may rotate; reading them at every request would cost more than the request. */
const CREDENTIALS_MAX_AGE_MS = 10_000;

interface Credentials {
  readonly agent: https.Agent;
  readonly headers: Readonly<Record<string, string>>;
  readonly readAt: number;
  /** The TLS material of the agent, to tell whether it has changed. */
  readonly tls: string;
}

interface Request {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  /** For errors: the verb and the object, no query. */
  readonly title: string;
  readonly path: string;
  readonly body?: string | undefined;
  readonly contentType?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Plain HTTPS on kept connections; the client library gives the credentials. Its generated classes cost 3 ms more a call
 * (p50 of a status apply 4.7 ms, here 1.5 ms).
 */
class Client implements KubeConnection {
  readonly namespace: string;
  readonly #server: URL;
  readonly #agents = new Set<https.Agent>();
  #credentials: Credentials | undefined;

  constructor(
    private readonly config: KubeConfig,
    private readonly deadlineMs: number,
  ) {
    const cluster = config.getCurrentCluster();
    if (!cluster?.server.startsWith('https:'))
      throw new KubeApiError('KUBE_PROTOCOL', 'kubeconfig', 0, 'NoHTTPSServer');
    this.#server = new URL(cluster.server);
    this.namespace = config.getContextObject(config.getCurrentContext())?.namespace ?? 'default';
  }

  async get(resource: Resource, key: ObjectKey, options: CallOptions = {}): Promise<KubeObject | undefined> {
    const title = `get ${describe(resource, key)}`;
    const value = await this.#find({ method: 'GET', title, path: pathOf(resource, key), signal: options.signal });
    return value === undefined ? undefined : parseObject(resource, value, title);
  }

  async list(resource: Resource, options: ListOptions = {}): Promise<ObjectList> {
    const title = `list ${resource.plural}`;
    const query = { ...selection(options), limit: options.limit, continue: options.continue };
    const path = pathOf(resource, { namespace: options.namespace }) + queryOf(query);
    return parseList(resource, await this.#json({ method: 'GET', title, path, signal: options.signal }), title);
  }

  async *watch(resource: Resource, options: WatchOptions): AsyncGenerator<WatchEvent> {
    const title = `watch ${resource.plural}`;
    const { resourceVersion, timeoutSeconds, signal } = options;
    const query = { ...selection(options), watch: true, allowWatchBookmarks: true, resourceVersion, timeoutSeconds };
    const path = pathOf(resource, { namespace: options.namespace }) + queryOf(query);
    try {
      const answer = await this.#open({ method: 'GET', title, path, signal });
      if (answer.statusCode !== 200) throw answerError(title, answer.statusCode ?? 0, await textOf(answer));
      for await (const line of linesOf(answer)) yield parseEvent(resource, line, title);
    } catch (error) {
      if (!signal.aborted) throw failure(title, error, signal);
    }
  }

  async create(resource: Resource, object: NewKubeObject, options: CallOptions = {}): Promise<KubeObject> {
    const { namespace } = object.metadata;
    const title = `create ${describe(resource, object.metadata)}`;
    const body = JSON.stringify({ ...object, apiVersion: apiVersionOf(resource), kind: resource.kind });
    const path = pathOf(resource, { namespace });
    const request = { method: 'POST', title, path, body, contentType: 'application/json', ...options } as const;
    return parseObject(resource, await this.#json(request), title);
  }

  async applyStatus(resource: Resource, key: ObjectKey, status: object, options: ApplyOptions): Promise<KubeObject> {
    const title = `apply status of ${describe(resource, key)}`;
    const body = JSON.stringify({ apiVersion: apiVersionOf(resource), kind: resource.kind, metadata: key, status });
    const path = `${pathOf(resource, key)}/status${queryOf({ fieldManager: options.fieldManager, force: true })}`;
    const contentType = 'application/apply-patch+yaml';
    const value = await this.#json({ method: 'PATCH', title, path, body, contentType, signal: options.signal });
    const object = parseObject(resource, value, title);
    if (options.uid !== undefined && object.metadata.uid !== options.uid) {
      throw new KubeApiError('KUBE_CONFLICT', title, 409, 'OtherUID');
    }
    return object;
  }

  async setFinalizers(
    resource: Resource,
    key: ObjectKey,
    finalizers: readonly string[],
    resourceVersion: string,
    options: CallOptions = {},
  ): Promise<KubeObject> {
    return this.patch(resource, key, { metadata: { finalizers, resourceVersion } }, options);
  }

  async patch(resource: Resource, key: ObjectKey, mergePatch: object, options: CallOptions = {}): Promise<KubeObject> {
    const title = `patch ${describe(resource, key)}`;
    const contentType = 'application/merge-patch+json';
    const body = JSON.stringify(mergePatch);
    const path = pathOf(resource, key);
    const value = await this.#json({ method: 'PATCH', title, path, body, contentType, signal: options.signal });
    return parseObject(resource, value, title);
  }

  async delete(resource: Resource, key: ObjectKey, options: DeleteOptions = {}): Promise<void> {
    const title = `delete ${describe(resource, key)}`;
    const preconditions = options.uid === undefined ? undefined : { uid: options.uid };
    const body = JSON.stringify({ preconditions, propagationPolicy: options.propagation });
    const contentType = 'application/json';
    try {
      await this.#find({
        method: 'DELETE',
        title,
        path: pathOf(resource, key),
        body,
        contentType,
        signal: options.signal,
      });
    } catch (error) {
      if (options.uid === undefined || !isKubeError(error, 'KUBE_CONFLICT')) throw error;
      const present = await this.get(resource, key, options);
      if (present?.metadata.uid === options.uid) throw error;
    }
  }

  async secret(
    namespace: string,
    name: string,
    options: CallOptions = {},
  ): Promise<Record<string, Buffer> | undefined> {
    const key = { namespace, name };
    const title = `get ${describe(SECRETS, key)}`;
    const value = await this.#find({ method: 'GET', title, path: pathOf(SECRETS, key), signal: options.signal });
    return value === undefined ? undefined : parseSecret(value, title);
  }

  close(): void {
    for (const agent of this.#agents) agent.destroy();
  }

  async #find(request: Request): Promise<unknown> {
    try {
      return await this.#json(request);
    } catch (error) {
      if (isKubeError(error, 'KUBE_NOT_FOUND')) return undefined;
      throw error;
    }
  }

  async #json(request: Request): Promise<unknown> {
    const deadline = new AbortController();
    const timer = setTimeout(() => {
      deadline.abort(new KubeApiError('KUBE_UNAVAILABLE', request.title, 0, 'DeadlineExceeded'));
    }, this.deadlineMs);
    const forward = () => {
      deadline.abort(request.signal?.reason);
    };
    request.signal?.addEventListener('abort', forward, { once: true });
    if (request.signal?.aborted) forward();
    try {
      const { status, text } = await this.#exchange({ ...request, signal: deadline.signal });
      if (status >= 200 && status < 300) return parseJson(text, request.title);
      // The next call reads the credentials anew.
      if (status === 401) this.#credentials = undefined;
      throw answerError(request.title, status, text);
    } catch (error) {
      throw failure(request.title, error, deadline.signal);
    } finally {
      clearTimeout(timer);
      request.signal?.removeEventListener('abort', forward);
    }
  }

  /** One question and its answer. A server that is too busy, or not ready yet, has done nothing and says when to come again. */
  async #exchange(request: Request & { signal: AbortSignal }): Promise<{ status: number; text: string }> {
    for (;;) {
      const answer = await this.#open(request);
      const text = await textOf(answer);
      const status = answer.statusCode ?? 0;
      const seconds = Number(answer.headers['retry-after']);
      if (status !== 429 || !(seconds >= 0)) return { status, text };
      await sleep(seconds * 1_000, undefined, { signal: request.signal });
    }
  }

  /**
   * Sends and waits for the head of the answer. A server closes idle connections without notice, so a request that meets
   * such a one is sent again unless it could then happen twice.
   */
  async #open(request: Request): Promise<IncomingMessage> {
    const { agent, headers } = await this.#authenticate();
    for (;;) {
      const sent = https.request({
        agent,
        host: this.#server.hostname.replace(/^\[|\]$/g, ''),
        port: this.#server.port || 443,
        method: request.method,
        path: `${this.#server.pathname.replace(/\/$/, '')}${request.path}`,
        headers: {
          ...headers,
          accept: 'application/json',
          'user-agent': 'isthmus',
          ...(request.body === undefined
            ? {}
            : { 'content-type': request.contentType, 'content-length': Buffer.byteLength(request.body) }),
        },
        ...(request.signal ? { signal: request.signal } : {}),
      });
      try {
        return await new Promise<IncomingMessage>((resolve, reject) => {
          sent.on('response', resolve);
          sent.on('error', reject);
          sent.end(request.body);
        });
      } catch (error) {
        const idleClosed = sent.reusedSocket && ['ECONNRESET', 'EPIPE'].includes(systemCode(error));
        if (!idleClosed || request.method === 'POST' || request.signal?.aborted) throw error;
      }
    }
  }

  async #authenticate(): Promise<Credentials> {
    const now = performance.now();
    if (this.#credentials && now - this.#credentials.readAt < CREDENTIALS_MAX_AGE_MS) return this.#credentials;
    const applied: https.RequestOptions = {};
    await this.config.applyToHTTPSOptions(applied);
    const { ca, cert, key, pfx, passphrase, rejectUnauthorized, servername } = applied;
    const options = { ca, cert, key, pfx, passphrase, rejectUnauthorized, servername };
    const tls = JSON.stringify(options);
    const headers = headersOf(applied);
    // Not from before the await: of several first calls, one makes the agent.
    const last = this.#credentials;
    const agent = last?.tls === tls ? last.agent : this.#agentOf(applied, options);
    this.#credentials = { agent, headers, readAt: now, tls };
    return this.#credentials;
  }

  /** The library's own agent keeps no connections, but it knows how to go through a proxy. */
  #agentOf(applied: https.RequestOptions, options: https.AgentOptions): https.Agent {
    const proxied = this.config.getCurrentCluster()?.proxyUrl !== undefined;
    const agent =
      proxied && applied.agent instanceof https.Agent
        ? applied.agent
        : new https.Agent({ ...withoutUndefined(options), keepAlive: true, keepAliveMsecs: 30_000 });
    this.#agents.add(agent);
    return agent;
  }
}

function withoutUndefined(options: https.AgentOptions): https.AgentOptions {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

function headersOf(applied: https.RequestOptions): Record<string, string> {
  const basic = applied.auth ? { Authorization: `Basic ${Buffer.from(applied.auth).toString('base64')}` } : {};
  return {
    ...basic,
    ...Object.fromEntries(Object.entries(applied.headers ?? {}).map(([name, value]) => [name, String(value)])),
  };
}

function pathOf(resource: Resource, key: Partial<ObjectKey>): string {
  const root = resource.group === '' ? `/api/${resource.version}` : `/apis/${resource.group}/${resource.version}`;
  const namespace =
    resource.namespaced && key.namespace !== undefined ? `/namespaces/${encodeURIComponent(key.namespace)}` : '';
  return `${root}${namespace}/${resource.plural}${key.name === undefined ? '' : `/${encodeURIComponent(key.name)}`}`;
}

function queryOf(parameters: Readonly<Record<string, string | number | boolean | undefined>>): string {
  const pairs = Object.entries(parameters).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${encodeURIComponent(value)}`],
  );
  return pairs.length === 0 ? '' : `?${pairs.join('&')}`;
}

function selection({ labelSelector, fieldSelector }: Selection) {
  return { labelSelector, fieldSelector };
}

function describe(resource: Resource, key: ObjectKey): string {
  return `${resource.plural} ${key.namespace === undefined ? '' : `${key.namespace}/`}${key.name}`;
}

function systemCode(error: unknown): string {
  const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : 'UNKNOWN';
}

function failure(title: string, error: unknown, signal: AbortSignal): KubeApiError {
  if (error instanceof KubeApiError) return error;
  if (!signal.aborted) return new KubeApiError('KUBE_UNAVAILABLE', title, 0, systemCode(error), { cause: error });
  if (signal.reason instanceof KubeApiError) return signal.reason;
  return new KubeApiError('KUBE_ABORTED', title, 0, 'Aborted', { cause: signal.reason });
}

async function textOf(answer: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    answer.on('data', (chunk: Buffer) => chunks.push(chunk));
    answer.on('end', () => {
      resolve(Buffer.concat(chunks).toString('utf8'));
    });
    answer.on('error', reject);
  });
}

async function* linesOf(answer: IncomingMessage): AsyncGenerator<string> {
  answer.setEncoding('utf8');
  let rest = '';
  for await (const chunk of answer) {
    const lines = (rest + String(chunk)).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) if (line !== '') yield line;
  }
}
