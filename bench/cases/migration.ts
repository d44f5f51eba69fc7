import { randomUUID } from 'node:crypto';
import { kinds } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import { runInGuest } from '../../lab/guest.js';
import type { Bench, Case } from '../bench.js';
import { BareMover } from '../floor/mover.js';
import { mark } from '../floor/marks.js';
import { layNetwork, liftNetwork } from '../floor/network.js';
import { machineSpec, namespace, withNetwork } from '../objects.js';
import { atMost, type Row } from '../row.js';
import { Series } from '../series.js';
import { isGone, isReady, Watched } from '../watch.js';

const name = 'mover';
const sites = ['valencia', 'saopaulo'] as const;
const MiB = 2 ** 20;

export const migration: Case = {
  name: 'migration',
  about: 'a tiny machine on the share from site to site: the VMMigration created until Succeeded, against bare libvirt',
  run,
};

async function run(bench: Bench): Promise<Row[]> {
  const { lab, operator, rounds, signal, say } = bench;
  await operator.start();
  const floorNetwork = randomUUID();
  for (const host of lab.hosts) await layNetwork(host, floorNetwork);
  const series = new Series<'ours' | 'bare' | 'downtime' | 'bareDowntime' | 'MiB' | 'bareMiB'>();
  await withNetwork(bench, async () => {
    await using machines = await Watched.open(lab.kube, kinds.FederatedVM, namespace);
    await using migrations = await Watched.open(lab.kube, kinds.VMMigration, namespace);
    const spec = machineSpec(sites[0], { storage: 'Shared' });
    await lab.kube.create(kinds.FederatedVM, { metadata: { namespace, name }, spec });
    const bare = await BareMover.create(lab, randomUUID(), { site: sites[0], network: floorNetwork });
    await machines.until(name, isReady);
    const titles = [`${namespace}/${name}`, `${mark}/${mark}`];
    await Promise.all(titles.map((title) => runInGuest(title, 'true', 60_000)));
    for (let round = 0; round <= rounds.migrations; round++) {
      signal.throwIfAborted();
      if (round === 1) series.restart();
      const site = sites[(round + 1) % 2] ?? sites[0];
      const key = { namespace, name: `to-${site}-${round}` };
      const ours = async (): Promise<void> => {
        const done = await series.time('ours', async () => {
          await lab.kube.create(kinds.VMMigration, { metadata: key, spec: { vmName: name, target: { site } } });
          return await migrations.until(key.name, isReady, 120_000);
        });
        const { downtimeMs, transferredBytes } = kinds.VMMigration.parse(done).status ?? {};
        series.add('downtime', downtimeMs ?? NaN);
        series.add('MiB', (transferredBytes ?? NaN) / MiB);
        // The rest of what the operator does, such as the status of the machine, is not to be in bare libvirt's way.
        await machines.until(name, isReady);
      };
      const theirs = async (): Promise<void> => {
        const stats = await series.time('bare', () => bare.move(site));
        series.add('bareDowntime', Number(stats.get(constants.DOMAIN_JOB_DOWNTIME)));
        series.add('bareMiB', Number(stats.get(constants.DOMAIN_JOB_DATA_PROCESSED)) / MiB);
      };
      // By turns first: whoever comes second finds the hosts a little busier.
      for (const move of round % 4 < 2 ? [ours, theirs] : [theirs, ours]) await move();
      await lab.kube.delete(kinds.VMMigration, key);
    }
    for (const title of titles)
      await runInGuest(title, 'true', 20_000).catch(() =>
        say(`${title} no longer answers: emulated guests may die in a move`),
      );
    await lab.kube.delete(kinds.FederatedVM, { namespace, name });
    await machines.until(name, isGone);
    await bare.remove();
  });
  for (const host of lab.hosts) await liftNetwork(host, floorNetwork);
  const total = series.against('ours', 'bare');
  const downtime = series.against('downtime', 'bareDowntime');
  return [
    {
      name: 'migration, tiny, on the share: created → Succeeded',
      ...total,
      paper: 40_000,
      rounds: rounds.migrations,
      target: atMost(total.ours, 1.3, total.floor),
    },
    {
      name: 'migration: downtime (job statistics)',
      ...downtime,
      paper: 1_000,
      rounds: rounds.migrations,
      // Guests of one kind differ by some tens of milliseconds from move to move.
      target: atMost(downtime.ours, 1.1, downtime.floor),
    },
    {
      name: 'migration: transferred',
      unit: 'MiB',
      ...series.against('MiB', 'bareMiB'),
      paper: 408e6 / MiB,
      rounds: rounds.migrations,
    },
  ];
}
