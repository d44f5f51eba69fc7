import { kinds } from '../../crds/index.js';
import type { Bench, Case } from '../bench.js';
import { createNetwork, deleteNetwork } from '../floor/network.js';
import { namespace, networkSpec, statusOf } from '../objects.js';
import { atMost, type Row } from '../row.js';
import { Series } from '../series.js';
import { isGone, isReady, Watched } from '../watch.js';

const resource = kinds.FederatedNetwork;

export const network: Case = {
  name: 'network',
  about: 'a FederatedNetwork on three sites: created until Ready, deleted until gone',
  run,
};

async function run({ lab, operator, rounds, signal }: Bench): Promise<Row[]> {
  await operator.start();
  await using watched = await Watched.open(lab.kube, resource, namespace);
  const series = new Series<'created' | 'deleted' | 'floorCreated' | 'floorDeleted'>();
  for (let round = 0; round <= rounds.usual; round++) {
    signal.throwIfAborted();
    if (round === 1) series.restart();
    const key = { namespace, name: `n-${round}` };
    const ready = await series.time('created', async () => {
      await lab.kube.create(resource, { metadata: key, spec: networkSpec });
      return await watched.until(key.name, isReady);
    });
    await series.time('deleted', async () => {
      await lab.kube.delete(resource, key);
      await watched.until(key.name, isGone);
    });
    const floor = await series.time('floorCreated', () => createNetwork(lab, key, networkSpec, statusOf(ready)));
    await series.time('floorDeleted', () => deleteNetwork(lab, floor));
  }
  const created = series.against('created', 'floorCreated');
  return [
    {
      name: 'network, 3 sites: created → Ready',
      ...created,
      paper: 4_000,
      rounds: rounds.usual,
      target: atMost(created.ours, 3, created.floor, 100),
    },
    {
      name: 'network, 3 sites: deleted → gone',
      ...series.against('deleted', 'floorDeleted'),
      paper: 1_700,
      rounds: rounds.usual,
    },
  ];
}
