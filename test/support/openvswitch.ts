import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Certificate, key and the CA that the other side must come from, as file names. */
export interface Identity {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

/** A CA of its own, a server for 127.0.0.1, one for another host, and a client; and a client of a CA that nobody knows. */
export interface Pki {
  readonly server: Identity;
  readonly misnamedServer: Identity;
  readonly client: Identity;
  readonly strangerClient: Identity;
}

export interface OpenVSwitchOptions {
  /** What the ssl listeners show; there are none without it. */
  readonly identity?: Identity;
}

/**
 * A private ovsdb-server and ovs-vswitchd in a directory of their own. Bridges are of the dummy datapath, so no network
 * device appears and no privilege is needed. The daemons die with this process, however it ends.
 */
export class OpenVSwitch implements AsyncDisposable {
  #ovsdbServer: ChildProcess | undefined;
  #vswitchd: ChildProcess | undefined;

  private constructor(
    readonly dir: string,
    private readonly options: OpenVSwitchOptions,
    /** Where the database listens on TCP (and TLS): `tcp:127.0.0.1:port`. */
    readonly ovsdbTcp: string,
    readonly ovsdbSsl: string,
  ) {}

  static async start(options: OpenVSwitchOptions = {}): Promise<OpenVSwitch> {
    const dir = await mkdtemp(join(tmpdir(), 'ovs-'));
    const [tcpPort, sslPort] = [await freePort(), await freePort()];
    const ovs = new OpenVSwitch(dir, options, `tcp:127.0.0.1:${tcpPort}`, `ssl:127.0.0.1:${sslPort}`);
    try {
      await run('ovsdb-tool', ['create', join(dir, 'conf.db'), '/usr/share/openvswitch/vswitch.ovsschema']);
      await ovs.startOvsdbServer();
      await ovs.vsctl('--no-wait', 'init');
      if (options.identity !== undefined) {
        const { key, cert, ca } = options.identity;
        await ovs.vsctl('--no-wait', 'set-ssl', key, cert, ca);
      }
      await ovs.startVswitchd();
      return ovs;
    } catch (error) {
      await ovs.stop();
      throw error;
    }
  }

  get ovsdbUnix(): string {
    return `unix:${join(this.dir, 'db.sock')}`;
  }

  async startOvsdbServer(): Promise<void> {
    const { identity } = this.options;
    const tls = identity && [
      `--private-key=${identity.key}`,
      `--certificate=${identity.cert}`,
      `--ca-cert=${identity.ca}`,
      `--remote=${passive(this.ovsdbSsl)}`,
    ];
    this.#ovsdbServer = await this.#spawn('ovsdb-server', [
      join(this.dir, 'conf.db'),
      `--remote=p${this.ovsdbUnix}`,
      `--remote=${passive(this.ovsdbTcp)}`,
      `--unixctl=${join(this.dir, 'db.ctl')}`,
      ...(tls ?? []),
    ]);
  }

  async startVswitchd(): Promise<void> {
    this.#vswitchd = await this.#spawn('ovs-vswitchd', [
      this.ovsdbUnix,
      '--enable-dummy=override',
      '--disable-system',
      `--unixctl=${join(this.dir, 'vswitchd.ctl')}`,
    ]);
  }

  async stopOvsdbServer(): Promise<void> {
    await end(this.#ovsdbServer);
  }

  async stopVswitchd(): Promise<void> {
    await end(this.#vswitchd);
  }

  /** Stops the switch in its tracks, connections and all, or lets it go on. */
  freezeVswitchd(frozen: boolean): void {
    this.#vswitchd?.kill(frozen ? 'SIGSTOP' : 'SIGCONT');
  }

  /** A bridge with a passive OpenFlow listener; resolves with its endpoint when it listens. */
  async addBridge(name: string, scheme: 'tcp' | 'ssl' = 'tcp'): Promise<string> {
    const endpoint = `${scheme}:127.0.0.1:${await freePort()}`;
    await this.vsctl(
      ...[
        'add-br',
        name,
        '--',
        'set',
        'bridge',
        name,
        'datapath_type=dummy',
        'fail_mode=secure',
        'protocols=OpenFlow13',
      ],
      ...['--', 'set-controller', name, passive(endpoint)],
    );
    return endpoint;
  }

  async addPort(bridge: string, name: string, port: number): Promise<void> {
    await this.vsctl('add-port', bridge, name, '--', 'set', 'interface', name, 'type=dummy', `ofport_request=${port}`);
  }

  vsctl(...args: string[]): Promise<string> {
    return this.#tool('ovs-vsctl', ['--retry', '--timeout=10', `--db=${this.ovsdbUnix}`, ...args]);
  }

  ofctl(...args: string[]): Promise<string> {
    return this.#tool('ovs-ofctl', ['--timeout=10', '-OOpenFlow13', ...args]);
  }

  /** ovs-vswitchd's control commands, e.g. `netdev-dummy/receive p1 <packet>`. */
  appctl(...args: string[]): Promise<string> {
    return this.#tool('ovs-appctl', ['--timeout=10', '-t', join(this.dir, 'vswitchd.ctl'), ...args]);
  }

  /** Ends the daemons and removes the directory. */
  async stop(): Promise<void> {
    this.freezeVswitchd(false);
    await Promise.all([this.stopVswitchd(), this.stopOvsdbServer()]);
    await rm(this.dir, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #tool(command: string, args: string[]): Promise<string> {
    return (await run(command, args, { env: this.#environment(), maxBuffer: 2 ** 26 })).stdout;
  }

  async #spawn(daemon: string, args: string[]): Promise<ChildProcess> {
    const log = await open(join(this.dir, `${daemon}.log`), 'a');
    try {
      const child = spawn('setpriv', ['--pdeathsig', 'TERM', daemon, ...args], {
        env: this.#environment(),
        stdio: ['ignore', log.fd, log.fd],
      });
      await once(child, 'spawn');
      return child;
    } finally {
      await log.close();
    }
  }

  #environment(): NodeJS.ProcessEnv {
    return { ...process.env, OVS_RUNDIR: this.dir, OVS_LOGDIR: this.dir, OVS_DBDIR: this.dir };
  }
}

/** `tcp:host:port` as the listener's side writes it. */
function passive(endpoint: string): string {
  const [scheme, host, port] = endpoint.split(':');
  return `p${scheme ?? ''}:${port ?? ''}:${host ?? ''}`;
}

async function end(child: ChildProcess | undefined): Promise<void> {
  if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 3000);
  await exited;
  clearTimeout(timer);
}

/** A port of 127.0.0.1 that nothing listens on. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('a TCP server has a port');
  return address.port;
}

/** Makes the certificates in the directory, with openssl. */
export async function makePki(dir: string): Promise<Pki> {
  const ca = await makeCa(dir, 'ca');
  const stranger = await makeCa(dir, 'stranger-ca');
  return {
    server: await makeIdentity(dir, 'server', ca, 'IP:127.0.0.1'),
    misnamedServer: await makeIdentity(dir, 'misnamed', ca, 'DNS:elsewhere.example.org'),
    client: await makeIdentity(dir, 'client', ca, 'DNS:client'),
    strangerClient: { ...(await makeIdentity(dir, 'stranger', stranger, 'DNS:stranger')), ca: `${ca}.pem` },
  };
}

const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];

async function makeCa(dir: string, name: string): Promise<string> {
  const path = join(dir, name);
  await run('openssl', [
    'req',
    '-x509',
    ...KEY,
    '-keyout',
    `${path}.key`,
    '-out',
    `${path}.pem`,
    '-subj',
    `/CN=${name}`,
  ]);
  return path;
}

async function makeIdentity(dir: string, name: string, ca: string, subjectAltName: string): Promise<Identity> {
  const path = join(dir, name);
  const signer = ['-CA', `${ca}.pem`, '-CAkey', `${ca}.key`];
  const extension = ['-addext', `subjectAltName=${subjectAltName}`, '-addext', 'basicConstraints=critical,CA:FALSE'];
  const files = ['-keyout', `${path}.key`, '-out', `${path}.pem`, '-subj', `/CN=${name}`];
  await run('openssl', ['req', '-x509', ...signer, ...KEY, ...extension, ...files]);
  return { cert: `${path}.pem`, key: `${path}.key`, ca: `${ca}.pem` };
}

/** The files' contents, as the drivers take them. */
export async function loadIdentity({ cert, key, ca }: Identity): Promise<{ ca: string; cert: string; key: string }> {
  const [caText, certText, keyText] = await Promise.all([ca, cert, key].map((file) => readFile(file, 'utf8')));
  return { ca: caText ?? '', cert: certText ?? '', key: keyText ?? '' };
}
