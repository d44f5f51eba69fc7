import { randomUUID } from 'node:crypto';
import { kinds } from '../../crds/index.js';
import type { Bench, Case } from '../bench.js';
import { createMachine, deleteMachine } from '../floor/machine.js';
import { layNetwork, liftNetwork } from '../floor/network.js';
import { hostOf } from '../lab.js';
import { machineSpec, namespace, withNetwork } from '../objects.js';
import { atMost, type Row } from '../row.js';
import { Series } from '../series.js';
import { isGone, isReady, Watched } from '../watch.js';

const resource = kinds.FederatedVM;
const site = 'saopaulo';

export const machine: Case = {
  name: 'machine',
  about: 'a tiny FederatedVM with a Local disk: created until it runs, deleted until gone',
  run,
};

async function run(bench: Bench): Promise<Row[]> {
  const { lab, operator, rounds, signal } = bench;
  await operator.start();
  const host = hostOf(lab, site);
  const floorNetwork = randomUUID();
  await layNetwork(host, floorNetwork);
  const series = new Series<'created' | 'deleted' | 'floorCreated' | 'floorDeleted'>();
  await withNetwork(bench, async () => {
    await using watched = await Watched.open(lab.kube, resource, namespace);
    for (let round = 0; round <= rounds.usual; round++) {
      signal.throwIfAborted();
      if (round === 1) series.restart();
      const key = { namespace, name: `m-${round}` };
      const spec = machineSpec(site);
      const ready = await series.time('created', async () => {
        await lab.kube.create(resource, { metadata: key, spec });
        return await watched.until(key.name, isReady);
      });
      await series.time('deleted', async () => {
        await lab.kube.delete(resource, key);
        await watched.until(key.name, isGone);
      });
      const status = ready?.status ?? {};
      const floor = await series.time('floorCreated', () => createMachine(lab, key, spec, status, host, floorNetwork));
      await series.time('floorDeleted', () => deleteMachine(lab, floor));
    }
  });
  await liftNetwork(host, floorNetwork);
  const created = series.against('created', 'floorCreated');
  return [
    {
      name: 'machine, tiny, Local: created → running',
      ...created,
      paper: 7_300,
      rounds: rounds.usual,
      target: atMost(created.ours, 1.5, created.floor),
    },
    {
      name: 'machine, tiny, Local: deleted → gone',
      ...series.against('deleted', 'floorDeleted'),
      paper: 570,
      rounds: rounds.usual,
    },
  ];
}
