import { execFile, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { runInGuest } from '../../../lab/guest.js';

const execute = promisify(execFile);

export const project = fileURLToPath(new URL('../../..', import.meta.url));

export const sites = ['valencia', 'saopaulo', 'lisbon'] as const;
export type SiteName = (typeof sites)[number];

/** Hosts as the lab calls them: a site's first bears the site's name; the spare one belongs to no site at first. */
export const labHosts = [...sites, 'lisbon-b'] as const;
export type LabHost = (typeof labHosts)[number];

/** Standard output of a command that has to succeed; its error carries what it wrote to standard error. */
export async function run(file: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
  const { stdout } = await execute(file, args, {
    cwd: project,
    env: { ...process.env, ...env },
    maxBuffer: 1 << 26,
    timeout: 120_000,
  });
  return stdout;
}

/** The same for a command that reads its standard input. */
export async function feed(file: string, args: readonly string[], input: string): Promise<string> {
  const child = spawn(file, args, { cwd: project, stdio: ['pipe', 'pipe', 'pipe'] });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdin.on('error', () => undefined); // one that ended without having read: its exit code says how
  child.stdin.end(input);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new CommandError(`${file} ${args.join(' ')} ended with ${String(code)}: ${stderr}`, stderr);
  return stdout;
}

export class CommandError extends Error {
  readonly code = 'COMMAND_FAILED';
  constructor(
    message: string,
    readonly stderr: string,
  ) {
    super(message);
  }
}

/** A command inside a host of the lab. */
export async function inSite(host: LabHost, ...command: string[]): Promise<string> {
  return await run('lab/in', [host, ...command]);
}

/** A host's wire to the wide area network. */
export async function wire(host: LabHost, state: 'up' | 'down'): Promise<void> {
  await run('lab/in', ['wan', 'ip', 'link', 'set', host, state]);
}

/** A shell command inside the machine or container `namespace/name`; waits while a guest boots. */
export async function guest(
  title: string,
  command: string,
  timeoutMs = 30_000,
): Promise<{ stdout: string; exitCode: number }> {
  const { output, exitCode } = await runInGuest(title, command, timeoutMs);
  return { stdout: output, exitCode };
}

/** What a failure of a wait shows beside the last observation. */
const witnesses = new Set<() => string>();

export function addWitness(witness: () => string): () => void {
  witnesses.add(witness);
  return () => witnesses.delete(witness);
}

/** Asks again until it no longer throws; fails with what was thrown last and what the witnesses saw. */
export async function eventually<T>(what: string, ask: () => Promise<T>, timeoutMs = 30_000): Promise<T> {
  const from = performance.now();
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      const spentMs = performance.now() - from;
      if (spentMs > timeoutMs) {
        const seen = error instanceof Error ? error.message : String(error);
        const told = [...witnesses].map((witness) => witness()).join('\n');
        throw new Error(`not within ${String(Math.round(spentMs))} ms: ${what}\nlast seen: ${seen}\n${told}`, {
          cause: error,
        });
      }
      await sleep(150);
    }
  }
}

/** A line of the test's report that a green run shows too. */
export function report(line: string): void {
  process.stdout.write(`      ${line}\n`);
}
