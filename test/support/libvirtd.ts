import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { TlsMaterial } from '../../drivers/libvirt/types.js';

const run = promisify(execFile);

/** A certificate authority of one's own, in a directory that goes with it. */
export interface Authority {
  readonly ca: string;
  /** A key and a certificate for servers and clients, for these subject alternative names: `IP:127.0.0.1`, `DNS:a.example`. */
  issue(commonName: string, names?: readonly string[]): Promise<TlsMaterial>;
  remove(): Promise<void>;
}

export async function createAuthority(): Promise<Authority> {
  const directory = await mkdtemp(join(tmpdir(), 'isthmus-ca-'));
  const at = (name: string): string => join(directory, name);
  const make = async (name: string, extensions: readonly string[], signer: readonly string[]): Promise<void> => {
    const config = [
      '[req]',
      'distinguished_name=dn',
      'prompt=no',
      'x509_extensions=ext',
      '[dn]',
      `CN=${name}`,
      '[ext]',
    ];
    await writeFile(at(`${name}.cnf`), [...config, ...extensions, ''].join('\n'));
    await run('openssl', [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'],
      ...['-config', at(`${name}.cnf`), '-keyout', at(`${name}.key`), '-out', at(`${name}.pem`), ...signer],
    ]);
  };
  await make('ca', ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign'], []);
  const ca = await readFile(at('ca.pem'), 'utf8');
  return {
    ca,
    async issue(commonName, names = []) {
      const extensions = [
        'basicConstraints=critical,CA:FALSE',
        'keyUsage=critical,digitalSignature,keyEncipherment',
        'extendedKeyUsage=serverAuth,clientAuth',
        ...(names.length === 0 ? [] : [`subjectAltName=${names.join(',')}`]),
      ];
      await make(commonName, extensions, ['-CA', at('ca.pem'), '-CAkey', at('ca.key')]);
      const [cert, key] = await Promise.all([
        readFile(at(`${commonName}.pem`), 'utf8'),
        readFile(at(`${commonName}.key`), 'utf8'),
      ]);
      return { ca, cert, key };
    },
    remove: () => rm(directory, { recursive: true, force: true }),
  };
}

export interface LibvirtdOptions {
  /** The server's certificate; without it the daemon does not listen for TLS. */
  readonly tls?: TlsMaterial;
  /** What TCP clients must show; default none. */
  readonly tcpAuthentication?: 'none' | 'sasl';
}

/**
 * A real libvirtd of one's own: qemu, lxc and test drivers, networks and pools, all state in a temporary directory. It sees
 * private /run, /var/lib/libvirt, /etc/libvirt, /var/log/libvirt and /var/cache/libvirt, and it lives in a process
 * namespace of its own, so that its guests end with it, whatever happens to us.
 */
export interface Libvirtd {
  /** Private to it; guests' files may go here. */
  readonly directory: string;
  readonly socket: string;
  readonly tcpPort: number;
  readonly tlsPort: number;
  /** qemu+unix, for instance: `uri('qemu', 'unix')`. */
  uri(driver: 'qemu' | 'lxc' | 'test', transport: 'unix' | 'tcp' | 'tls'): string;
  /** A shell command's words to run a program where the daemon's /run is /run. */
  readonly inside: readonly string[];
  /** Just the daemon, as a crash: guests go on. */
  kill(): void;
  /** SIGSTOP: connections stay open, answers don't come. */
  pause(): void;
  resume(): void;
  /** Leaves nothing. */
  stop(): Promise<void>;
  /** Its last words. */
  log(): Promise<string>;
}

const READY_TIMEOUT_MS = 30_000;
const PRIVATE = ['run', 'var/lib/libvirt', 'etc/libvirt', 'var/log/libvirt', 'var/cache/libvirt'];
const PORTS_PER_MIGRATION_RANGE = 8;

export async function startLibvirtd(options: LibvirtdOptions = {}): Promise<Libvirtd> {
  const directory = await mkdtemp(join(tmpdir(), 'isthmus-libvirtd-'));
  const forget = (): void => rmSync(directory, { recursive: true, force: true });
  process.once('exit', forget);
  const [tcpPort, tlsPort, migrationPort] = await freePorts();
  await configure(directory, options, { tcpPort, tlsPort, migrationPort });

  const binds = PRIVATE.map((path) => `mount --bind ${join(directory, path)} /${path}`);
  // A shell as the first process reaps what the daemon leaves; the daemon's guests are not its children.
  const script = [
    'set -e',
    ...binds,
    `libvirtd --listen -f /etc/libvirt/libvirtd.conf >${join(directory, 'log')} 2>&1 &`,
    'echo started',
    'wait || true',
    'exec sleep infinity',
  ].join('\n');
  const child = spawn(
    'setpriv',
    [
      ...['--pdeathsig', 'KILL', '--'],
      ...['unshare', '--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child=KILL', '--mount-proc'],
      ...['sh', '-c', script],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const log = (): Promise<string> => readFile(join(directory, 'log'), 'utf8').catch(() => '');
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    }
    process.off('exit', forget);
    // The namespace's last processes may still be on their way out.
    await rm(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  };
  try {
    await once(child.stdout, 'data');
    const shell = await onlyChild(child);
    const [daemon] = await childrenOf(shell);
    if (daemon === undefined) throw new Error('libvirtd did not start');
    const socket = join(directory, 'run/libvirt/libvirt-sock');
    const uri: Libvirtd['uri'] = (driver, transport) => uriOf(driver, transport, { socket, tcpPort, tlsPort });
    await ready(uri('qemu', 'unix'), child, log);
    return {
      directory,
      socket,
      tcpPort,
      tlsPort,
      uri,
      inside: ['nsenter', '--target', String(daemon), '--mount', '--'],
      kill: () => void process.kill(daemon, 'SIGKILL'),
      pause: () => void process.kill(daemon, 'SIGSTOP'),
      resume: () => void process.kill(daemon, 'SIGCONT'),
      stop,
      log,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function uriOf(
  driver: 'qemu' | 'lxc' | 'test',
  transport: 'unix' | 'tcp' | 'tls',
  at: { socket: string; tcpPort: number; tlsPort: number },
): string {
  const path = driver === 'test' ? '/default' : '/system';
  switch (transport) {
    case 'unix':
      return `${driver}+unix://${path}?socket=${at.socket}`;
    case 'tcp':
      return `${driver}+tcp://127.0.0.1:${at.tcpPort}${path}`;
    case 'tls':
      return `${driver}+tls://127.0.0.1:${at.tlsPort}${path}`;
  }
}

async function configure(
  directory: string,
  { tls, tcpAuthentication = 'none' }: LibvirtdOptions,
  ports: { tcpPort: number; tlsPort: number; migrationPort: number },
): Promise<void> {
  for (const path of PRIVATE) await mkdir(join(directory, path), { recursive: true });
  // /var/lock is a link to it: libvirt locks a console there.
  await mkdir(join(directory, 'run/lock'));
  const etc = join(directory, 'etc/libvirt');
  const daemon = {
    host_uuid: randomUUID(),
    listen_addr: '127.0.0.1',
    listen_tcp: 1,
    tcp_port: String(ports.tcpPort),
    auth_tcp: tcpAuthentication,
    auth_unix_rw: 'none',
    listen_tls: tls === undefined ? 0 : 1,
    ...(tls !== undefined && {
      tls_port: String(ports.tlsPort),
      ca_file: '/etc/libvirt/ca.pem',
      cert_file: '/etc/libvirt/server.pem',
      key_file: '/etc/libvirt/server.key',
    }),
  };
  const qemu = {
    user: 'root',
    group: 'root',
    security_driver: 'none',
    cgroup_controllers: [],
    namespaces: [],
    stdio_handler: 'file',
    remember_owner: 0,
    migration_port_min: ports.migrationPort,
    migration_port_max: ports.migrationPort + PORTS_PER_MIGRATION_RANGE - 1,
  };
  const render = (config: object): string =>
    Object.entries(config)
      .map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`)
      .join('');
  await writeFile(join(etc, 'libvirtd.conf'), render(daemon));
  await writeFile(join(etc, 'qemu.conf'), render(qemu));
  if (tls === undefined) return;
  await writeFile(join(etc, 'ca.pem'), tls.ca);
  await writeFile(join(etc, 'server.pem'), tls.cert);
  await writeFile(join(etc, 'server.key'), tls.key);
}

/** libvirt's own client tells when the drivers are up: the socket is there long before, also if they will fail. */
async function ready(uri: string, child: ChildProcess, log: () => Promise<string>): Promise<void> {
  const end = Date.now() + READY_TIMEOUT_MS;
  for (;;) {
    const answers = await run('virsh', ['-c', uri, 'hostname']).then(
      () => true,
      () => false,
    );
    if (answers) return;
    if (child.exitCode !== null || Date.now() > end) throw new Error(`libvirtd did not become ready:\n${await log()}`);
    await sleep(20);
  }
}

async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text.split(' ').filter(Boolean).map(Number);
}

async function onlyChild({ pid }: ChildProcess): Promise<number> {
  const [child] = pid === undefined ? [] : await childrenOf(pid);
  if (child === undefined) throw new Error('unshare has no child');
  return child;
}

/** Two ports and the first of a range, all free now and held at once, so that they differ. */
async function freePorts(): Promise<[number, number, number]> {
  const holders = [createServer(), createServer()] as const;
  const hold = async (holder: (typeof holders)[number]): Promise<number> => {
    holder.listen(0, '127.0.0.1');
    await once(holder, 'listening');
    return (holder.address() as AddressInfo).port;
  };
  const ports = [await hold(holders[0]), await hold(holders[1])] as const;
  await Promise.all(holders.map((holder) => once(holder.close(), 'close')));
  return [...ports, migrationRange()];
}

/** Below the ephemeral ports, apart for each daemon of this process and likely apart from other processes'. */
let ranges = 0;
function migrationRange(): number {
  return 20_000 + ((process.pid * 4 + ranges++) % 1200) * PORTS_PER_MIGRATION_RANGE;
}
