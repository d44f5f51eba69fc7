import { kinds, type MigrationPolicy } from '../../crds/index.js';
import { runInGuest } from '../../lab/guest.js';
import type { Bench, Case } from '../bench.js';
import { shaped } from '../migration/line.js';
import { WritingLoad } from '../migration/load.js';
import { loadMiB } from '../migration/plan.js';
import { machineSpec, namespace, withNetwork } from '../objects.js';
import type { Row } from '../row.js';
import { isGone, isOver, isReady, Watched } from '../watch.js';

const name = 'mover';
const sites = ['valencia', 'saopaulo'] as const;
const rateMbit = 100;

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
    const title = `${namespace}/${name}`;
    await runInGuest(title, 'true', 120_000);
    const line = await shaped(sites, rateMbit);
    try {
      for (const [at, each] of policies.entries()) {
        signal.throwIfAborted();
        const load = each.loaded ? await WritingLoad.start(title, loadMiB('tiny')) : undefined;
        const key = { namespace, name: `wan-${at}` };
        const { status: now } = kinds.FederatedVM.parse(await machines.until(name, isReady));
        const site = sites.find((other) => other !== now?.site) ?? sites[0];
        await lab.kube.create(kinds.VMMigration, {
          metadata: key,
          spec: { vmName: name, target: { site }, policy: each.policy },
        });
        const done = await migrations.until(key.name, isOver, 400_000);
        // Also whether the guest is still alive.
        await (load?.stop() ?? runInGuest(title, 'true')).catch(() => say(`${name} no longer answers`));
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
      }
    } finally {
      await line[Symbol.asyncDispose]();
    }
    await lab.kube.delete(kinds.FederatedVM, { namespace, name });
    await machines.until(name, isGone);
  });
  return rows;
}
