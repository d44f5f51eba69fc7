import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, readdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** A real Consul server of one's own, on loopback. */
export interface ConsulServer {
  readonly url: string;
  /** Without a farewell, as a crash. */
  kill(): Promise<void>;
  /** After kill, on the same ports. Its data are kept unless it is a dev server. */
  start(): Promise<void>;
  /** Stops the process from running (SIGSTOP) until resume: connections stay open, answers don't come. */
  pause(): Promise<void>;
  resume(): void;
  /** Leaves nothing. May be called again. */
  stop(): Promise<void>;
}

export interface ConsulCluster {
  readonly servers: readonly ConsulServer[];
  /** The running server that leads now, by its own and the others' word. */
  leader(): Promise<ConsulServer>;
  stop(): Promise<void>;
}

const readyTimeoutMs = 30_000;

/** dev: data in memory only, up in half a second. */
export async function startConsul({ dev = true } = {}): Promise<ConsulServer> {
  const server = await createConsulServer({ dev, peers: 1 });
  return startAll([server]).then(() => server);
}

/** Three servers that keep their data on disk. */
export async function startConsulCluster(): Promise<ConsulCluster> {
  const first = await createConsulServer({ dev: false, peers: 3 });
  const servers = [first];
  for (let i = 1; i < 3; i++) servers.push(await createConsulServer({ dev: false, peers: 3, join: first.serfAddress }));
  await startAll(servers);
  return {
    servers,
    async leader() {
      const end = Date.now() + readyTimeoutMs;
      while (Date.now() < end) {
        for (const server of servers) {
          const address = await server.leaderAddress();
          const leader = servers.find((each) => each.running && each.raftAddress === address);
          if (leader !== undefined) return leader;
        }
        await sleep(50);
      }
      throw new Error(`no leader within ${readyTimeoutMs} ms`);
    },
    async stop() {
      await Promise.all(servers.map((server) => server.stop()));
    },
  };
}

async function startAll(servers: readonly LocalServer[]): Promise<void> {
  try {
    await Promise.all(servers.map((server) => server.start()));
  } catch (error) {
    await Promise.all(servers.map((server) => server.stop()));
    throw error;
  }
}

class LocalServer implements ConsulServer {
  readonly url: string;
  readonly raftAddress: string;
  readonly serfAddress: string;
  readonly #directory: string;
  readonly #dev: boolean;
  readonly #janitor: ReturnType<typeof startJanitor>;
  #child: ChildProcess | undefined;
  #log = '';

  constructor(directory: string, dev: boolean, ports: { http: number; raft: number; serf: number }) {
    this.url = `http://127.0.0.1:${ports.http}`;
    this.raftAddress = `127.0.0.1:${ports.raft}`;
    this.serfAddress = `127.0.0.1:${ports.serf}`;
    this.#directory = directory;
    this.#janitor = startJanitor(directory);
    this.#dev = dev;
  }

  get running(): boolean {
    return this.#child !== undefined;
  }

  async start(): Promise<void> {
    const args = ['agent', ...(this.#dev ? ['-dev'] : []), `-config-file=${join(this.#directory, 'config.json')}`];
    // The server dies with us, however we end.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', binary(), ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    const keep = (text: Buffer) => (this.#log = (this.#log + text.toString()).slice(-4000));
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    const end = Date.now() + readyTimeoutMs;
    while ((await this.leaderAddress()) === '') {
      if (child.exitCode !== null || Date.now() > end) throw new Error(`consul did not become ready:\n${this.#log}`);
      await sleep(25);
    }
  }

  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }

  async pause(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    child.kill('SIGSTOP');
    // The signal reaches the threads one after another.
    const tasks = `/proc/${child.pid ?? ''}/task`;
    const stopped = async (task: string) => (await readFile(join(tasks, task, 'stat'), 'utf8')).includes(') T ');
    while ((await Promise.all((await readdir(tasks)).map(stopped))).includes(false)) await sleep(1);
  }

  resume(): void {
    this.#child?.kill('SIGCONT');
  }

  async stop(): Promise<void> {
    await this.kill();
    if (this.#janitor.exitCode !== null) return;
    const removed = once(this.#janitor, 'exit');
    this.#janitor.stdin.end();
    await removed;
  }

  /** Empty if there is none or the server doesn't answer. */
  async leaderAddress(): Promise<string> {
    try {
      const response = await fetch(`${this.url}/v1/status/leader`, {
        headers: { connection: 'close' },
        signal: AbortSignal.timeout(1000),
      });
      const address: unknown = response.ok ? await response.json() : '';
      return typeof address === 'string' ? address : '';
    } catch {
      return '';
    }
  }
}

async function createConsulServer(options: { dev: boolean; peers: number; join?: string }): Promise<LocalServer> {
  const [http, raft, serf] = await freePorts();
  const directory = await mkdtemp(join(tmpdir(), 'consul-'));
  const config = {
    node_name: `node-${http}`,
    server: true,
    ...(options.dev ? {} : { bootstrap_expect: options.peers, data_dir: join(directory, 'data') }),
    ...(options.join === undefined ? {} : { retry_join: [options.join], retry_interval: '200ms' }),
    bind_addr: '127.0.0.1',
    client_addr: '127.0.0.1',
    ports: { http, server: raft, serf_lan: serf, serf_wan: -1, dns: -1, grpc: -1, grpc_tls: -1 },
    performance: { raft_multiplier: 1 },
    session_ttl_min: '1s',
    connect: { enabled: false },
    disable_update_check: true,
    log_level: 'warn',
  };
  await writeFile(join(directory, 'config.json'), JSON.stringify(config));
  return new LocalServer(directory, options.dev, { http, raft, serf });
}

/** Removes the directory when its standard input ends, which it does however this process ends. */
function startJanitor(directory: string) {
  const script = 'read _; until rm -rf -- "$1"; do sleep 0.1; done';
  return spawn('sh', ['-c', script, 'janitor', directory], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
}

/** All held at once, so that they differ. */
async function freePorts(): Promise<[number, number, number]> {
  const holders = [createServer(), createServer(), createServer()] as const;
  const hold = async (holder: (typeof holders)[number]): Promise<number> => {
    holder.listen(0, '127.0.0.1');
    await once(holder, 'listening');
    return (holder.address() as AddressInfo).port;
  };
  const ports: [number, number, number] = [await hold(holders[0]), await hold(holders[1]), await hold(holders[2])];
  await Promise.all(holders.map((holder) => once(holder.close(), 'close')));
  return ports;
}

function binary(): string {
  const built = join(import.meta.dirname, '../../.cache/tools/consul');
  return existsSync(built) ? built : 'consul';
}
