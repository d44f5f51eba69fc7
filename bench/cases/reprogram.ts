import { setTimeout as sleep } from 'node:timers/promises';
import { kinds } from '../../crds/index.js';
import { networkCookie } from '../../reconcilers/common/identity.js';
import type { Bench, Case } from '../bench.js';
import { cookie as floorCookie } from '../floor/marks.js';
import { installFlows, removeFlows } from '../floor/network.js';
import type { LabHost } from '../lab.js';
import { namespace, networkName, networkSpec, statusOf } from '../objects.js';
import type { Row } from '../row.js';
import { Series } from '../series.js';
import { isGone, isReady, Watched } from '../watch.js';

const resource = kinds.FederatedNetwork;

export const reprogram: Case = {
  name: 'reprogram',
  about: 'the flows of a network, removed by hand at one site, until they are back',
  run,
};

async function run({ lab, operator, rounds, signal }: Bench): Promise<Row[]> {
  await operator.start();
  await using watched = await Watched.open(lab.kube, resource, namespace);
  const [host] = lab.hosts;
  if (!host) throw new Error('the lab has no host');
  await lab.kube.create(resource, { metadata: { namespace, name: networkName }, spec: networkSpec });
  const { vni } = statusOf(await watched.until(networkName, isReady));
  const cookie = networkCookie(vni ?? 0);
  const wanted = await countFlows(host, cookie);
  const series = new Series<'ours' | 'floor'>();
  for (let round = 0; round <= rounds.usual; round++) {
    signal.throwIfAborted();
    if (round === 1) series.restart();
    await series.time('ours', async () => {
      const all = [{ kind: 'removeAll', filter: { cookie } }] as const;
      await Promise.all([host.int.bundle(all), host.edge.bundle(all)]);
      while ((await countFlows(host, cookie)) < wanted) signal.throwIfAborted();
    });
    await installFlows(host);
    await series.time('floor', async () => {
      await removeFlows(host);
      await installFlows(host);
      await countFlows(host, floorCookie);
    });
    await removeFlows(host);
    // Whatever the operator does after the flows are back is not part of the next round.
    await sleep(50);
  }
  await lab.kube.delete(resource, { namespace, name: networkName });
  await watched.until(networkName, isGone);
  return [
    {
      name: `network: ${wanted} flows removed by hand → back`,
      ...series.against('ours', 'floor'),
      paper: 370,
      rounds: rounds.usual,
    },
  ];
}

async function countFlows({ int, edge }: LabHost, cookie: bigint): Promise<number> {
  const flows = await Promise.all([int.dumpFlows({ cookie }), edge.dumpFlows({ cookie })]);
  return flows.flat().length;
}
