import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Resource } from '../../controllers/kube/api.js';
import { kinds } from '../../crds/index.js';
import type { Bench, Case } from '../bench.js';
import { createNamespace, listNamespace, removeNamespace } from '../cleanup.js';
import { kubeconfig, project } from '../lab.js';
import { fieldManager } from '../floor/marks.js';
import { machineSpec, networkSpec } from '../objects.js';
import { limit, type Row } from '../row.js';
import { Series } from '../series.js';

const run = promisify(execFile);
const count = 1_000;
const atOnce = 16;
const conditions = [
  { type: 'Ready', status: 'True', reason: 'Ready', message: 'ready', lastTransitionTime: '2026-01-01T00:00:00Z' },
];

export const list: Case = {
  name: 'list',
  about: `kubectl get of ${count} objects, while no operator runs`,
  run: async (bench) => {
    await bench.operator.stop();
    await createNamespace(bench.lab, listNamespace);
    const machines = await listed(bench, kinds.FederatedVM, machineSpec('valencia'), {
      phase: 'Running',
      site: 'valencia',
      host: 'a',
      flavor: '1/128Mi',
      interfaces: [{ network: 'n', mac: '02:00:00:00:00:01', address: '172.30.0.1' }],
      conditions,
    });
    const networks = await listed(bench, kinds.FederatedNetwork, networkSpec, {
      vlanId: 100,
      vni: 4096,
      mtu: 1450,
      sitesReady: '3/3',
      conditions,
    });
    await removeNamespace(bench.lab, listNamespace);
    return [...machines, ...networks];
  },
};

/** The floor is the API server's answer itself, without kubectl's start, discovery and printing. */
async function listed(
  { lab, rounds, signal }: Bench,
  resource: Resource & { shortNames: readonly string[] },
  spec: object,
  status: object,
): Promise<Row[]> {
  const numbers = Array.from({ length: count }, (_, index) => index).values();
  const fill = async (): Promise<void> => {
    for (const number of numbers) {
      signal.throwIfAborted();
      const key = { namespace: listNamespace, name: `x-${number}` };
      await lab.kube.create(resource, { metadata: key, spec });
      await lab.kube.applyStatus(resource, key, status, { fieldManager });
    }
  };
  await Promise.all(Array.from({ length: atOnce }, fill));
  const [shortName = resource.plural] = resource.shortNames;
  const series = new Series<'kubectl' | 'floor'>();
  for (let round = 0; round <= rounds.usual; round++) {
    signal.throwIfAborted();
    if (round === 1) series.restart();
    const { stdout } = await series.time('kubectl', () =>
      run(`${project}.cache/tools/kubectl`, ['--kubeconfig', kubeconfig, '-n', listNamespace, 'get', shortName]),
    );
    const lines = stdout.trimEnd().split('\n').length - 1;
    if (lines !== count) throw new Error(`kubectl get ${shortName} shows ${lines} of ${count}`);
    await series.time('floor', () => lab.kube.list(resource, { namespace: listNamespace }));
  }
  const figures = series.against('kubectl', 'floor');
  return [
    {
      name: `kubectl get ${shortName}, ${count} objects`,
      ...figures,
      paper: 660,
      rounds: rounds.usual,
      target: limit(figures.ours, 660, 'ms'),
    },
  ];
}
