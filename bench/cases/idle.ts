import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { kinds } from '../../crds/index.js';
import type { Bench, Case } from '../bench.js';
import { machineSpec, namespace, withNetwork } from '../objects.js';
import { limit, type Row } from '../row.js';
import { isGone, isReady, Watched } from '../watch.js';

const resource = kinds.FederatedVM;
/** Paused, each is a QEMU process with a port and flows, and leaves the CPU to the measurement. */
const count = 100;
/** USER_HZ: what /proc counts CPU time in on Linux, whatever the kernel's own tick. */
const ticksPerSecond = 100;
const settleMs = 5_000;

export const idle: Case = {
  name: 'idle',
  about: `CPU and memory of an operator with ${count} machines, when nothing happens`,
  run,
};

async function run(bench: Bench): Promise<Row[]> {
  const { lab, operator, rounds, signal } = bench;
  await operator.start();
  return await withNetwork(bench, async () => {
    await using watched = await Watched.open(lab.kube, resource, namespace);
    const names = Array.from({ length: count }, (_, index) => `idle-${index}`);
    const from = performance.now();
    for (const [index, name] of names.entries()) {
      const { site = '' } = lab.hosts[index % lab.hosts.length] ?? {};
      const spec = machineSpec(site, { runStrategy: 'Paused' });
      await lab.kube.create(resource, { metadata: { namespace, name }, spec });
    }
    await Promise.all(names.map((name) => watched.until(name, isReady, 300_000)));
    const allReady = performance.now() - from;
    await sleep(settleMs, undefined, { signal });
    const before = await cpuSeconds(operator.pid);
    await sleep(rounds.idleSeconds * 1_000, undefined, { signal });
    const cpuPercent = (100 * ((await cpuSeconds(operator.pid)) - before)) / rounds.idleSeconds;
    const rss = await residentMiB(operator.pid);
    await Promise.all(names.map((name) => lab.kube.delete(resource, { namespace, name })));
    await Promise.all(names.map((name) => watched.until(name, isGone, 300_000)));
    const what = `${count} machines (QEMU, Paused)`;
    return [
      { name: `${what} created at once → all Ready`, ours: allReady, rounds: 1 },
      {
        name: `operator idle with ${what}: CPU over ${rounds.idleSeconds} s`,
        unit: '% of a core',
        ours: cpuPercent,
        rounds: 1,
        target: limit(cpuPercent, 1, '% of a core'),
      },
      {
        name: `operator idle with ${what}: resident memory`,
        unit: 'MiB',
        ours: rss,
        rounds: 1,
        target: limit(rss, 200, 'MiB'),
      },
    ];
  });
}

/** User and system time, proc(5) /proc/pid/stat fields 14 and 15. */
async function cpuSeconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

async function residentMiB(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
}
