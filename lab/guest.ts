/**
 * A shell command inside a tiny guest (lab/guest-image), through libvirt's console: no network needed, so it also works
 * in the middle of a move; or inside a tiny container (lab/container-image), in its namespaces. `lab/guest` is the command line of it;
 * tests import runInGuest.
 */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { connect, constants, type Connection, type DomainRef } from '../drivers/libvirt/index.js';

const pids = fileURLToPath(new URL('../.lab/run', import.meta.url));
const inHost = fileURLToPath(new URL('in', import.meta.url));

export type GuestErrorCode = 'GuestNotFound' | 'GuestTimeout' | 'ConsoleClosed';

export class GuestError extends Error {
  override readonly name = 'GuestError';
  constructor(
    readonly code: GuestErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

export interface GuestResult {
  /** What the command wrote, standard output and error in the order they came. */
  readonly output: string;
  readonly exitCode: number;
}

/** A running machine. */
interface Guest extends AsyncDisposable {
  /** hear: gets what the machine said last, where it may be asked for. */
  run(command: string, signal: AbortSignal, hear: (words: string) => void): Promise<GuestResult>;
}

/** Through the host's own socket, which works when its underlay is cut. The path is the host's, seen by its keeper. */
async function connectTo(host: string, driver: 'qemu' | 'lxc'): Promise<Connection> {
  const [keeper = ''] = readFileSync(join(pids, `${host}-host.pid`), 'utf8').split(' ');
  return connect(`${driver}+unix:///system?socket=/proc/${keeper}/root/run/libvirt/libvirt-sock`, {
    connectTimeoutMs: 5_000,
  });
}

/** The domain titled so among those of a driver that run on a host; one that is paused can't answer. */
async function domainOn(connection: Connection, title: string): Promise<DomainRef | undefined> {
  for (const domain of await connection.listDomains(constants.CONNECT_LIST_DOMAINS_ACTIVE)) {
    const [xml, { state }] = await Promise.all([
      connection.domainXml(domain.uuid),
      connection.domainState(domain.uuid),
    ]);
    if (state === 'running' && xml.includes(`<title>${title}</title>`)) return domain;
  }
  return undefined;
}

async function machineOn(host: string, title: string): Promise<Guest | undefined> {
  const connection = await connectTo(host, 'qemu');
  try {
    const domain = await domainOn(connection, title);
    if (domain)
      return {
        async run(command, signal, hear) {
          const stream = await connection.openConsole(domain.uuid, undefined, constants.DOMAIN_CONSOLE_FORCE);
          const shell = new ConsoleShell(stream);
          try {
            return await converse(shell, command, signal);
          } finally {
            hear(`${host}: ${shell.tail}`);
            stream.destroy();
          }
        },
        [Symbol.asyncDispose]: () => connection.close(),
      };
  } catch (error) {
    await connection.close();
    throw error;
  }
  await connection.close();
  return undefined;
}

async function containerOn(host: string, title: string): Promise<Guest | undefined> {
  const connection = await connectTo(host, 'lxc');
  try {
    const domain = await domainOn(connection, title);
    return (
      domain && {
        run: (command, signal) => enter(host, domain.name, command, signal),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      }
    );
  } finally {
    await connection.close();
  }
}

/**
 * By root of the host, in the namespaces of the container's first process. `virsh lxc-enter-namespace` fails where libvirt has lost sight
 * of that (docs/adr/0009).
 */
async function enter(host: string, domain: string, command: string, signal: AbortSignal): Promise<GuestResult> {
  const script = `
    init=$(pgrep -P "$(cat /run/libvirt/lxc/${domain}.pid)") || exit 0
    echo entered
    exec nsenter --target "$init" --mount --net --pid --uts --ipc -- /bin/sh -c 'PATH=/bin:/sbin; eval "$1"' sh "$1" 2>&1`;
  const stdio = ['ignore', 'pipe', 'inherit'] as const;
  const child = spawn(inHost, [host, 'sh', '-c', script, 'sh', command], { stdio: [...stdio], signal });
  const [output, [exitCode]] = await Promise.all([
    text(child.stdout),
    once(child, 'close') as Promise<[number | null]>,
  ]);
  const [mark, ...lines] = output.split('\n');
  if (mark !== 'entered') throw new GuestError('GuestNotFound', `${domain} does not run at ${host} any more`);
  return { output: lines.join('\n'), exitCode: exitCode ?? 255 };
}

/** The machine, on whichever host runs it. Throws GuestError GuestNotFound. */
async function findGuest(title: string): Promise<Guest> {
  const hosts = readdirSync(pids).flatMap((file) => /^(.+)-libvirtd\.pid$/.exec(file)?.slice(1) ?? []);
  const answers = await Promise.allSettled(hosts.flatMap((host) => [machineOn(host, title), containerOn(host, title)]));
  const guests = answers.flatMap((answer) => (answer.status === 'fulfilled' ? (answer.value ?? []) : []));
  const [guest, ...others] = guests;
  await Promise.all(others.map((other) => other[Symbol.asyncDispose]()));
  if (guest !== undefined) return guest;
  const failures = answers.flatMap((answer) => (answer.status === 'rejected' ? [answer.reason as unknown] : []));
  const cause = failures.length > 0 ? new AggregateError(failures, 'hosts that did not answer') : undefined;
  throw new GuestError('GuestNotFound', `no host runs a machine ${title}`, { cause });
}

/** One caller at a time a guest: flock(1) holds the lock until its input ends, which it does when this process does. */
async function lock(title: string, signal: AbortSignal): Promise<() => void> {
  const file = join(pids, `guest-${title.replaceAll('/', '.')}.lock`);
  const holder = spawn('flock', [file, 'sh', '-c', 'echo held; exec cat'], { stdio: ['pipe', 'pipe', 'ignore'] });
  try {
    await once(holder.stdout, 'data', { signal });
    return () => holder.stdin.end();
  } catch (error) {
    holder.kill();
    throw error;
  }
}

/** Lines to a POSIX shell whose terminal echoes, each with its output and status. */
class ConsoleShell {
  private received = '';
  private failure: Error | undefined;
  private wake: () => void = () => undefined;

  constructor(private readonly stream: Duplex) {
    stream.setEncoding('utf8');
    stream.on('data', (text: string) => {
      this.received += text;
      this.wake();
    });
    stream.on('error', (error) => this.fail(error));
    stream.on('end', () => this.fail(undefined));
  }

  /** What came last, for a message. */
  get tail(): string {
    return this.received.slice(-400).trim();
  }

  private fail(cause: Error | undefined): void {
    this.failure ??= new GuestError('ConsoleClosed', `the console ended: ${this.tail}`, { cause });
    this.wake();
  }

  async waitFor(pattern: RegExp, signal: AbortSignal): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.received);
      if (match !== null) return match;
      if (this.failure !== undefined) throw this.failure;
      signal.throwIfAborted();
      await new Promise<void>((resolve) => {
        const go = (): void => {
          signal.removeEventListener('abort', go);
          resolve();
        };
        this.wake = go;
        signal.addEventListener('abort', go);
      });
    }
  }

  send(text: string): void {
    this.stream.write(text);
  }

  async line(text: string, signal: AbortSignal): Promise<GuestResult> {
    const id = randomUUID();
    // The marks are written in two halves, so that the echo of this line does not hold them.
    this.send(`printf '%s%s\\n' '<${id}' ' begin>'; ${text}; printf '\\n%s%s\\n' '<${id}' " $?>"\n`);
    const [, output = '', status] = await this.waitFor(
      new RegExp(`<${id} begin>\\r?\\n([^]*?)\\r?\\n<${id} (\\d+)>`),
      signal,
    );
    return { output: output.replaceAll('\r\n', '\n'), exitCode: Number(status) };
  }
}

/** A terminal's line holds 4095 bytes. */
const chunkLength = 2_000;

/**
 * A guest that has not answered for so long is not booting: an earlier caller left something running, which is interrupted.
 * Not sooner: of 240 guests interrupted twice a second while their init opened the terminal, two never ran anything again.
 */
const bootMs = 10_000;
const askAgainMs = 500;

async function converse(shell: ConsoleShell, command: string, signal: AbortSignal): Promise<GuestResult> {
  // Ask until the shell answers: the guest may still boot, and loses then what it is sent.
  const ready = `<${randomUUID()}`;
  const answered = new RegExp(`${ready} ready>`);
  const began = performance.now();
  for (let answer; answer === undefined;) {
    const interrupt = performance.now() - began > bootMs ? '\x03' : '';
    shell.send(`${interrupt}\nprintf '%s%s\\n' '${ready}' ' ready>'\n`);
    // Not AbortSignal.timeout: one that only AbortSignal.any knows of may be collected, and then never comes (Node 20).
    const patience = new AbortController();
    const timer = setTimeout(() => patience.abort(), askAgainMs);
    try {
      answer = await shell.waitFor(answered, AbortSignal.any([signal, patience.signal]));
    } catch (error) {
      if (signal.aborted || !patience.signal.aborted) throw error;
    } finally {
      clearTimeout(timer);
    }
  }
  const encoded = Buffer.from(command).toString('base64');
  await shell.line('COMMAND=', signal);
  for (let at = 0; at < encoded.length; at += chunkLength) {
    await shell.line(`COMMAND=\${COMMAND}${encoded.slice(at, at + chunkLength)}`, signal);
  }
  return shell.line('sh -c "$(echo "$COMMAND" | base64 -d)" </dev/null 2>&1', signal);
}

/**
 * Runs a shell command in the machine titled NAMESPACE/NAME, wherever it runs now; waits while it is between two hosts,
 * boots, or another caller holds its console. Throws GuestError (GuestNotFound, GuestTimeout, ConsoleClosed).
 */
export async function runInGuest(title: string, command: string, timeoutMs = 30_000): Promise<GuestResult> {
  const signal = AbortSignal.timeout(timeoutMs);
  let lastWords = 'its console is busy';
  const release = await lock(title, signal).catch((error: unknown) => fail(error));
  try {
    await using guest = await whenFound(title, signal);
    return await guest.run(command, signal, (words) => (lastWords = words));
  } catch (error) {
    return fail(error);
  } finally {
    release();
  }

  function fail(cause: unknown): never {
    if (!signal.aborted || cause instanceof GuestError) throw cause;
    throw new GuestError('GuestTimeout', `${title} gave no answer within ${timeoutMs} ms (${lastWords})`, { cause });
  }
}

async function whenFound(title: string, signal: AbortSignal): Promise<Guest> {
  for (;;) {
    try {
      return await findGuest(title);
    } catch (error) {
      if (signal.aborted || !(error instanceof GuestError)) throw error;
      await sleep(100);
    }
  }
}

async function main(args: string[]): Promise<void> {
  const seconds = args[0] === '--timeout' ? Number(args.splice(0, 2)[1]) : 30;
  const [title, ...words] = args;
  if (title === undefined || words.length === 0 || !(seconds > 0)) {
    console.error('usage: lab/guest [--timeout SECONDS] NAMESPACE/NAME COMMAND…');
    process.exitCode = 2;
    return;
  }
  try {
    const { output, exitCode } = await runInGuest(title, words.join(' '), seconds * 1_000);
    process.stdout.write(output);
    process.exitCode = exitCode;
  } catch (error) {
    console.error(`lab/guest: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 255;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv.slice(2));
