import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { kinds, type MigrationPolicy } from '../../crds/index.js';
import { runInGuest } from '../../lab/guest.js';
import type { KubeObject } from '../../controllers/kube/api.js';
import type { Bench, Case } from '../bench.js';
import { project } from '../lab.js';
import { machineSpec, namespace, withNetwork } from '../objects.js';
import type { Row } from '../row.js';
import { isGone, isReady, Watched } from '../watch.js';

const name = 'mover';
const sites = ['valencia', 'saopaulo'] as const;
const rateMbit = 100;
/** What the guest writes again and again, in MiB: three quarters of what its kernel leaves free. */
const loadMiB = 60;

/** One policy a row: how long a move takes with it, and how long the guest stands still. deadline: nothing else would end it. */
const policies: readonly { name: string; loaded: boolean; policy: MigrationPolicy }[] = [
  { name: 'idle, by default', loaded: false, policy: {} },
  { name: 'idle, with compression: XBZRLE', loaded: false, policy: { compression: 'XBZRLE' } },
  { name: 'writing, by default', loaded: true, policy: {} },
  { name: 'writing, with XBZRLE', loaded: true, policy: { compression: 'XBZRLE' } },
  { name: 'writing, not slowed down, paused after 60 s', loaded: true, policy: { autoConverge: false, timeoutSeconds: 60, onStall: 'Pause' } },
  { name: 'writing, not slowed down, post-copy after 20 s', loaded: true, policy: { autoConverge: false, timeoutSeconds: 20, postCopy: 'OnStall' } },
]; // prettier-ignore

export const wan: Case = {
  name: 'wan',
  about: `moves over a line of ${rateMbit} Mbit/s by policy, of an idle guest and of one that writes all the time`,
  run,
};

const isOver = (object: KubeObject | undefined): boolean =>
  ['Succeeded', 'Failed', 'Cancelled'].includes(kinds.VMMigration.parse(object).status?.phase ?? '');

async function shape(parameters: readonly string[]): Promise<void> {
  for (const site of sites)
    await promisify(execFile)(`${project}lab/in`, ['wan', 'tc', 'qdisc', parameters[0] ?? '', 'dev', site, 'root', ...parameters.slice(1)]); // prettier-ignore
}

async function run(bench: Bench): Promise<Row[]> {
  const { lab, operator, signal, say } = bench;
  await operator.start();
  const rows: Row[] = [];
  await withNetwork(bench, async () => {
    await using machines = await Watched.open(lab.kube, kinds.FederatedVM, namespace);
    await using migrations = await Watched.open(lab.kube, kinds.VMMigration, namespace);
    const spec = machineSpec(sites[0], { storage: 'Shared' });
    await lab.kube.create(kinds.FederatedVM, { metadata: { namespace, name }, spec });
    await machines.until(name, isReady);
    const inGuest = async (command: string): Promise<string> =>
      (await runInGuest(`${namespace}/${name}`, command, 120_000)).output;
    await inGuest('true');
    await shape(['replace', 'tbf', 'rate', `${rateMbit}mbit`, 'burst', '256kb', 'latency', '50ms']);
    try {
      for (const [at, each] of policies.entries()) {
        signal.throwIfAborted();
        await inGuest(
          each.loaded
            ? `pgrep -f conv=notrunc || (while :; do dd if=/dev/urandom of=/run/load bs=1M count=${loadMiB} conv=notrunc; done >/dev/null 2>&1 &)`
            : 'true',
        );
        const key = { namespace, name: `wan-${at}` };
        const { status: now } = kinds.FederatedVM.parse(await machines.until(name, isReady));
        const site = sites.find((other) => other !== now?.site) ?? sites[0];
        await lab.kube.create(kinds.VMMigration, {
          metadata: key,
          spec: { vmName: name, target: { site }, policy: each.policy },
        });
        const done = await migrations.until(key.name, isOver, 400_000);
        const { status = {} } = kinds.VMMigration.parse(done);
        const { totalTimeMs = NaN, downtimeMs = NaN, transferredBytes = NaN } = status;
        if (status.phase !== 'Succeeded') {
          say(`${each.name}: ${status.message ?? ''}`);
          continue;
        }
        say(
          `${each.name}: ${(totalTimeMs / 1_000).toFixed(1)} s, downtime ${downtimeMs} ms, ${transferredBytes >> 20} MiB`,
        );
        rows.push(
          { name: `${rateMbit} Mbit/s, ${each.name}: total`, ours: totalTimeMs, rounds: 1 },
          { name: `${rateMbit} Mbit/s, ${each.name}: downtime`, ours: downtimeMs, rounds: 1 },
        );
        await machines.until(name, isReady);
        await inGuest('true').catch(() => say(`${name} no longer answers`));
      }
    } finally {
      await shape(['delete']);
    }
    await lab.kube.delete(kinds.FederatedVM, { namespace, name });
    await machines.until(name, isGone);
  });
  return rows;
}
