// A private Kubernetes API server: etcd and kube-apiserver on free loopback ports, with RBAC, in a folder of its own.
import { spawn, type ChildProcess } from 'node:child_process';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, openSync, closeSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import type { KubeApi, Resource } from '../../controllers/kube/api.js';

export interface ApiServer {
  /** Path of a kubeconfig whose user is in system:masters. */
  readonly kubeconfig: string;
  readonly url: string;
  /** PEM of the serving certificate's authority. */
  readonly ca: string;
  /** Bearer token of the administrator. */
  readonly token: string;
  /** Forgets etcd's history, as etcd does in time; older watches and continue tokens of uncached resources get 410 Gone. */
  compact(): Promise<void>;
  stop(): Promise<void>;
}

const READY_TIMEOUT_MS = 30_000;

/** Starts both; answers once the server is ready and the default namespace exists (about 3 s). ConfigMaps have no watch cache. */
export async function startApiServer(): Promise<ApiServer> {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-apiserver-'));
  const processes: ChildProcess[] = [];
  const removeNow = () => {
    for (const child of processes) child.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  };
  process.once('exit', removeNow);
  const stop = async () => {
    for (const child of processes.toReversed()) await end(child);
    rmSync(dir, { recursive: true, force: true });
    process.removeListener('exit', removeNow);
  };
  try {
    return { ...(await start(dir, processes)), stop };
  } catch (error) {
    const logs = ['etcd', 'kube-apiserver'].map((name) => tail(join(dir, `${name}.log`)));
    await stop();
    throw new Error(`the API server did not start:\n${logs.join('\n')}`, { cause: error });
  }
}

async function start(dir: string, processes: ChildProcess[]): Promise<Omit<ApiServer, 'stop'>> {
  const [etcdPort, peerPort, port] = await freePorts(3);
  const etcdUrl = `http://127.0.0.1:${etcdPort}`;
  const peerUrl = `http://127.0.0.1:${peerPort}`;
  const url = `https://127.0.0.1:${port}`;
  const token = randomUUID();
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const certificates = join(dir, 'certificates');
  const keyFile = join(dir, 'service-account.key');
  const tokenFile = join(dir, 'tokens.csv');
  mkdirSync(certificates);
  writeFileSync(keyFile, privateKey.export({ type: 'sec1', format: 'pem' }), { mode: 0o600 });
  writeFileSync(tokenFile, `${token},admin,admin,system:masters\n`, { mode: 0o600 });

  const etcd = [
    ...['--name=default', `--data-dir=${join(dir, 'etcd')}`, `--initial-cluster=default=${peerUrl}`],
    ...[`--listen-client-urls=${etcdUrl}`, `--advertise-client-urls=${etcdUrl}`],
    ...[`--listen-peer-urls=${peerUrl}`, `--initial-advertise-peer-urls=${peerUrl}`],
    ...['--unsafe-no-fsync', '--log-level=warn'],
  ];
  const apiserver = [
    ...[`--etcd-servers=${etcdUrl}`, '--bind-address=127.0.0.1', `--secure-port=${port}`, `--cert-dir=${certificates}`],
    ...['--service-cluster-ip-range=198.19.255.0/24', '--endpoint-reconciler-type=none'],
    ...[`--service-account-issuer=${url}`, `--service-account-key-file=${keyFile}`],
    ...[`--service-account-signing-key-file=${keyFile}`, `--token-auth-file=${tokenFile}`, '--authorization-mode=RBAC'],
    // No controller manager makes service accounts here, so nothing may wait for them.
    ...['--disable-admission-plugins=ServiceAccount', '--watch-cache-sizes=configmaps#0'],
  ];
  processes.push(run(dir, 'etcd', etcd), run(dir, 'kube-apiserver', apiserver));

  const caFile = join(certificates, 'apiserver.crt');
  await ready(processes, async () => {
    if (!existsSync(caFile)) return false;
    const ca = readFileSync(caFile, 'utf8');
    return (
      (await status(url, '/readyz', ca, token)) === 200 &&
      (await status(url, '/api/v1/namespaces/default', ca, token)) === 200
    );
  });

  const ca = readFileSync(caFile, 'utf8');
  const kubeconfig = join(dir, 'kubeconfig');
  writeFileSync(kubeconfig, kubeconfigOf(url, ca, token), { mode: 0o600 });
  return { kubeconfig, url, ca, token, compact: () => compact(etcdUrl) };
}

/** JSON is YAML. */
export function kubeconfigOf(server: string, ca: string, token: string): string {
  return JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'test', cluster: { server, 'certificate-authority-data': Buffer.from(ca).toString('base64') } }],
    users: [{ name: 'admin', user: { token } }],
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'admin', namespace: 'default' } }],
    'current-context': 'test',
  });
}

function tool(name: string): string {
  const folders = [process.env['KUBEBUILDER_ASSETS'], fileURLToPath(new URL('../../.cache/tools', import.meta.url))];
  const found = folders.map((folder) => folder && join(folder, name)).find((path) => path && existsSync(path));
  if (!found) throw new Error(`${name} is not installed: run tools/install`);
  return found;
}

/** The kernel ends the child with us, so that nothing stays behind even if we are killed. */
function run(dir: string, name: string, args: string[]): ChildProcess {
  const log = openSync(join(dir, `${name}.log`), 'w');
  try {
    return spawn('setpriv', ['--pdeathsig', 'KILL', tool(name), ...args], { stdio: ['ignore', log, log] });
  } finally {
    closeSync(log);
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
}

async function ready(processes: ChildProcess[], probe: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + READY_TIMEOUT_MS;
  for (;;) {
    if (processes.some((child) => child.exitCode !== null)) throw new Error('a process ended');
    if (await probe()) return;
    if (performance.now() > deadline) throw new Error('not ready in time');
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function tail(file: string): string {
  return existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(-15).join('\n') : `${file}: none`;
}

/** Of one request on a connection of its own; 0 while nobody answers. */
async function status(url: string, path: string, ca: string, token: string): Promise<number> {
  return new Promise((resolve) => {
    const headers = { authorization: `Bearer ${token}` };
    const request = https.get(url + path, { ca, headers, agent: false, timeout: 2000 }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode ?? 0));
    });
    request.on('timeout', () => request.destroy());
    request.on('error', () => resolve(0));
  });
}

async function etcdCall(etcdUrl: string, path: string, body: unknown): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const request = http.request(etcdUrl + path, { method: 'POST', agent: false }, (response) => {
      response.setEncoding('utf8');
      let text = '';
      response.on('data', (chunk: string) => (text += chunk));
      response.on('end', () => {
        if (response.statusCode === 200) resolve(JSON.parse(text));
        else reject(new Error(`etcd ${path}: ${text}`));
      });
    });
    request.on('error', reject);
    request.end(JSON.stringify(body));
  });
}

async function compact(etcdUrl: string): Promise<void> {
  const answer = await etcdCall(etcdUrl, '/v3/kv/range', { key: Buffer.from('/').toString('base64'), limit: '1' });
  const revision = /"revision":"(\d+)"/.exec(JSON.stringify(answer))?.[1];
  await etcdCall(etcdUrl, '/v3/kv/compaction', { revision, physical: true });
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => {
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    return address.port;
  });
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}

/** A way to the server that can be cut. */
export interface Proxy {
  /** Of a server that is reached through the proxy. */
  readonly kubeconfig: string;
  /** Resets every connection; new ones are accepted. */
  cut(): void;
  /** While true, bytes are swallowed in both directions, as by a firewall that has forgotten the connection. */
  stall(stalled: boolean): void;
  stop(): Promise<void>;
}

export async function startProxy(server: ApiServer): Promise<Proxy> {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-proxy-'));
  const sockets = new Set<Socket>();
  let swallow = false;
  const relay = (from: Socket, to: Socket) => {
    sockets.add(from);
    from.on('data', (chunk) => swallow || to.write(chunk));
    from.on('error', () => to.destroy());
    from.on('close', () => {
      sockets.delete(from);
      to.destroy();
    });
  };
  const listener = createServer((near) => {
    const far = connect(Number(new URL(server.url).port), '127.0.0.1');
    relay(near, far);
    relay(far, near);
  });
  await once(listener.listen(0, '127.0.0.1'), 'listening');
  const address = listener.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const kubeconfig = join(dir, 'kubeconfig');
  writeFileSync(kubeconfig, kubeconfigOf(`https://127.0.0.1:${address.port}`, server.ca, server.token), {
    mode: 0o600,
  });
  const cut = () => {
    for (const socket of sockets) socket.resetAndDestroy();
  };
  return {
    kubeconfig,
    cut,
    stall: (stalled) => (swallow = stalled),
    async stop() {
      if (!listener.listening) return;
      const closed = once(listener.close(), 'close');
      cut();
      await closed;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** A kind that exists only for tests. */
export const WIDGETS: Resource = {
  group: 'test.isthmus.dev',
  version: 'v1',
  plural: 'widgets',
  kind: 'Widget',
  namespaced: true,
};

const CRDS: Resource = {
  group: 'apiextensions.k8s.io',
  version: 'v1',
  plural: 'customresourcedefinitions',
  kind: 'CustomResourceDefinition',
  namespaced: false,
};

/** Installs the kind of WIDGETS: spec.size an integer, status anything; answers once it is served. */
export async function installWidgets(api: KubeApi): Promise<void> {
  const { group, version, plural, kind } = WIDGETS;
  const properties = {
    spec: { type: 'object', properties: { size: { type: 'integer' } } },
    status: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
  };
  const schema = { openAPIV3Schema: { type: 'object', properties } };
  await api.create(CRDS, {
    metadata: { name: `${plural}.${group}` },
    spec: {
      group,
      scope: 'Namespaced',
      names: { plural, singular: 'widget', kind, listKind: `${kind}List` },
      versions: [{ name: version, served: true, storage: true, subresources: { status: {} }, schema }],
    },
  });
  const deadline = performance.now() + READY_TIMEOUT_MS;
  for (;;) {
    try {
      await api.list(WIDGETS);
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
