/** The operator under measurement, in a process of its own as in production. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, openSync, closeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import type { Resource } from '../controllers/kube/api.js';
import { kinds } from '../crds/index.js';
import { consulUrl, kubeconfig, operatorNamespace, project, type Lab } from './lab.js';

const leases: Resource = {
  group: 'coordination.k8s.io',
  version: 'v1',
  plural: 'leases',
  kind: 'Lease',
  namespaced: true,
};
const held = z.object({ holderIdentity: z.string() });

const healthUrl = 'http://127.0.0.1:8081/readyz';
const startTimeoutMs = 60_000;
const logFile = `${project}.lab/bench-operator.log`;

const answers = async (): Promise<boolean> =>
  await fetch(healthUrl).then(
    ({ ok }) => ok,
    () => false,
  );

/** Throws if an operator runs already: two would share the work, and one that is not ours can't be started and ended. */
export async function refuseOther(): Promise<void> {
  if (await answers())
    throw new Error(
      'an operator runs on this machine already; end it first (make demo-down, or the one that you started)',
    );
}

export class Operator {
  #process: ChildProcess | undefined;

  constructor(private readonly lab: Lab) {}

  get pid(): number {
    const pid = this.#process?.pid;
    if (pid === undefined) throw new Error('the operator does not run');
    return pid;
  }

  /** Resolves when it is ready and all Sites are. Does nothing if it runs. */
  async start(): Promise<void> {
    if (this.#process) return;
    const main = process.env['ISTHMUS_OPERATOR'] ?? `${project}dist/controllers/main.js`;
    if (!existsSync(main)) throw new Error(`${main} is not there: make build`);
    const options = (process.env['ISTHMUS_NODE_OPTIONS'] ?? '').split(' ').filter((option) => option !== '');
    const log = openSync(logFile, 'a');
    // A session of its own: Ctrl-C is for the bench, which still needs it to clean up.
    const child = spawn(
      process.execPath,
      [...options, main, '--kubeconfig', kubeconfig, '--consul', consulUrl, '--log-level', 'debug'],
      { detached: true, stdio: ['ignore', log, log] },
    );
    closeSync(log);
    this.#process = child;
    const deadline = performance.now() + startTimeoutMs;
    while (!(await answers()) || !(await this.#leads(child.pid)) || !(await this.#sitesReady())) {
      if (child.exitCode !== null) throw new Error(`the operator ended by itself; see ${logFile}`);
      if (performance.now() > deadline) throw new Error(`the operator or its Sites are not ready; see ${logFile}`);
      await sleep(100);
    }
    await Promise.all(this.lab.hosts.flatMap(({ int, edge }) => [int.ready(), edge.ready()]));
  }

  async stop(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGTERM');
    const impatience = setTimeout(() => child.kill('SIGKILL'), 25_000);
    await ended;
    clearTimeout(impatience);
  }

  /** One that was killed before holds the lease for a while. */
  async #leads(pid: number | undefined): Promise<boolean> {
    const lease = await this.lab.kube.get(leases, { namespace: operatorNamespace, name: 'isthmus' });
    const holder = held.safeParse(lease?.spec).data?.holderIdentity;
    return holder?.endsWith(`-${String(pid)}`) ?? false;
  }

  async #sitesReady(): Promise<boolean> {
    const { items } = await this.lab.kube.list(kinds.Site);
    return items.every((item) =>
      kinds.Site.parse(item).status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True'),
    );
  }
}
