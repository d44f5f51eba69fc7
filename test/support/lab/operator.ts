import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { consulUrl } from './consul.js';
import { kubectl } from './kube.js';
import { addWitness, eventually, project } from './run.js';

export interface OperatorOptions {
  /** Default 300, as the operator's own. */
  readonly resyncSeconds?: number;
  /** Default 60, as the operator's own. */
  readonly probeSeconds?: number;
  /** False: leads at once, for a successor of one that was killed and left its Lease behind. */
  readonly leaderElect?: boolean;
  /** One that runs already, and is to be followed by this one. */
  readonly besides?: Operator;
  /** Node's arguments that run it in another way than from dist. */
  readonly program?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
}

const shownLines = 25;

/** An operator of the lab as a process. ISTHMUS_OPERATOR names another main.js than dist/controllers/main.js. */
export class Operator implements AsyncDisposable {
  readonly #lines: string[] = [];
  readonly #exited: Promise<unknown>;
  readonly #endWitness = addWitness(() => `the operator's last lines:\n${this.tail()}`);

  private constructor(
    readonly child: ChildProcess,
    private readonly healthAddress: string,
  ) {
    this.#exited = once(child, 'exit');
    if (child.stderr) createInterface(child.stderr).on('line', (line) => this.#lines.push(line));
  }

  /** Resolves when the controllers work. */
  static async start({
    resyncSeconds = 300,
    probeSeconds = 60,
    leaderElect = true,
    program = ['--enable-source-maps', process.env['ISTHMUS_OPERATOR'] ?? `${project}dist/controllers/main.js`],
    env = {},
    besides,
  }: OperatorOptions = {}): Promise<Operator> {
    if (!besides) await refuseAnother();
    const healthAddress = `127.0.0.1:${String(await freePort())}`;
    // It dies with the test, however that ends.
    const child = spawn(
      'setpriv',
      [
        ...['--pdeathsig', 'KILL', process.execPath, ...program],
        ...[`--kubeconfig=${project}.lab/kubeconfig`, `--consul=${consulUrl}`, `--health-address=${healthAddress}`],
        ...[`--resync-seconds=${String(resyncSeconds)}`, `--probe-seconds=${String(probeSeconds)}`],
        '--log-format=console',
        ...(leaderElect ? [] : ['--no-leader-elect']),
      ],
      { cwd: project, env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'pipe'] },
    );
    const operator = new Operator(child, healthAddress);
    try {
      await eventually('the operator works', () => operator.#working(), 40_000);
      return operator;
    } catch (error) {
      await operator.kill();
      throw error;
    }
  }

  tail(): string {
    return this.#lines.slice(-shownLines).join('\n');
  }

  get lines(): readonly string[] {
    return this.#lines;
  }

  /** Resolves when the process has ended, however. */
  get ended(): Promise<unknown> {
    return this.#exited;
  }

  /** Finished reconciles of a kind since its start, by its plural name. */
  async reconciles(plural: string): Promise<number> {
    const text = await (await fetch(`http://${this.healthAddress}/metrics`)).text();
    const samples = text.matchAll(
      new RegExp(`^isthmus_reconcile_total\\{[^}]*controller="${plural}"[^}]*\\} (\\d+)`, 'gm'),
    );
    return [...samples].reduce((sum, [, count]) => sum + Number(count), 0);
  }

  /** As a power cut would. */
  async kill(): Promise<void> {
    this.child.kill('SIGKILL');
    await this.#exited;
    this.#endWitness();
  }

  /** As Kubernetes does; answers its exit code. */
  async stop(): Promise<number | null> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      this.child.kill('SIGTERM');
      await this.#exited;
    }
    this.#endWitness();
    return this.child.exitCode;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  #working(): Promise<void> {
    if (this.child.exitCode !== null) throw new Error(`it ended with ${String(this.child.exitCode)}`);
    if (!this.#lines.some((line) => line.includes('controllers start'))) throw new Error('it does not lead yet');
    return Promise.resolve();
  }
}

const lease = ['lease', 'isthmus', '--namespace=isthmus-system', '--ignore-not-found'] as const;

async function leader(): Promise<number> {
  const holder = await kubectl('get', ...lease, '--output=jsonpath={.spec.holderIdentity}');
  return Number(/-(\d+)$/.exec(holder)?.[1] ?? 0);
}

/** Two operators on one lab would each undo what the other does for its test. */
async function refuseAnother(): Promise<void> {
  const pid = await leader();
  if (pid > 0 && isAlive(pid)) throw new Error(`an operator runs already (pid ${String(pid)}): end it first`);
}

/** That a test before has killed its operator is no reason to wait until its Lease expires. */
export async function forgetDeadLeader(): Promise<void> {
  const pid = await leader();
  if (pid > 0 && !isAlive(pid)) await kubectl('delete', ...lease);
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (typeof address !== 'object' || address === null) throw new Error('no port');
  return address.port;
}
