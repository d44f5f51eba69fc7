import { kinds, type Flow } from '../../crds/index.js';
import type { Bench, Case } from '../bench.js';
import { cookie } from '../floor/marks.js';
import { removeFlows } from '../floor/network.js';
import type { LabHost } from '../lab.js';
import { namespace, networkName, networkSpec, statusOf } from '../objects.js';
import { limit, type Row } from '../row.js';
import { Series } from '../series.js';
import { isGone, isReady, Watched } from '../watch.js';

const resource = kinds.FederatedNetwork;
const count = 100;

export const flows: Case = {
  name: 'flows',
  about: `${count} flows of a user, half at ports and half at the boundary, added, changed and removed on three sites`,
  run,
};

const entries = (priority: number): Flow[] =>
  Array.from({ length: count }, (_, index) => ({
    name: `f-${index}`,
    at: index % 2 === 0 ? 'Port' : 'Boundary',
    priority,
    match: { ethType: 'ipv4', ipProtocol: 'udp', udpDst: 1_000 + index },
    actions: [{ drop: {} }],
  }));

async function run({ lab, operator, rounds, signal }: Bench): Promise<Row[]> {
  await operator.start();
  await using watched = await Watched.open(lab.kube, resource, namespace);
  const metadata = { namespace, name: networkName };
  await lab.kube.create(resource, { metadata, spec: networkSpec });
  await watched.until(networkName, isReady);
  const series = new Series<'added' | 'changed' | 'removed' | 'floor'>();
  const change = async (name: 'added' | 'changed' | 'removed', wanted: readonly Flow[]): Promise<void> => {
    const { metadata: written } = await lab.kube.patch(resource, metadata, { spec: { flows: wanted } });
    // From here on it can be seen; what the API server takes to check its rules before is not ours.
    await series.time(name, () => inForce(written.generation));
  };
  const inForce = async (generation: number | undefined): Promise<void> => {
    // Ready for this generation: every flow of every site has been confirmed by a barrier.
    await watched.until(networkName, (object) => isReady(object) && statusOf(object).observedGeneration === generation);
  };
  for (let round = 0; round <= rounds.usual; round++) {
    signal.throwIfAborted();
    if (round === 1) series.restart();
    await change('added', entries(100));
    await change('changed', entries(101));
    await change('removed', []);
    await series.time('floor', () => Promise.all(lab.hosts.map(install)));
    await Promise.all(lab.hosts.map(removeFlows));
  }
  await lab.kube.delete(resource, metadata);
  await watched.until(networkName, isGone);
  const row = (name: 'added' | 'changed' | 'removed'): Row => {
    const figures = series.against(name, 'floor');
    return {
      name: `network: ${count} flows of a user ${name} on 3 sites: written → Ready`,
      ...figures,
      paper: 370,
      rounds: rounds.usual,
      target: limit(figures.ours, 100, 'ms'),
    };
  };
  return [row('added'), row('changed'), row('removed')];
}

/** As many flows by bundles and barriers alone. */
async function install({ int, edge }: LabHost): Promise<void> {
  const add = Array.from({ length: count / 2 }, (_, index) => ({
    kind: 'add' as const,
    flow: {
      ...{ table: 1, priority: 100, cookie, instructions: {} },
      match: { metadata: 4_001n, ethType: 0x0800, ipProtocol: 17, udpDst: 1_000 + index },
    },
  }));
  await Promise.all([int.bundle(add), edge.bundle(add)]);
}
