/** The objects that the bench asks the operator for. */
import type { KubeObject } from '../controllers/kube/api.js';
import { kinds, type FederatedNetworkStatus, type StorageKind } from '../crds/index.js';
import type { Bench } from './bench.js';
import { isGone, isReady, Watched } from './watch.js';

export const namespace = 'isthmus-bench';
export const networkName = 'n';
export const networkSpec = { cidr: '172.30.0.0/16' };
export const tiny = { vcpus: 1, memory: '128Mi', disk: '1Gi' } as const;

export function machineSpec(
  site: string,
  more: { storage?: StorageKind; runStrategy?: 'Paused'; resources?: object } = {},
): object {
  return {
    type: 'VirtualMachine',
    image: { name: 'tiny' },
    resources: tiny,
    storage: 'Local',
    placement: { site },
    networks: [{ name: networkName }],
    ...more,
  };
}

/** A network for the machines of a case, gone at its end. */
export async function withNetwork<T>({ lab }: Bench, work: () => Promise<T>): Promise<T> {
  const key = { namespace, name: networkName };
  await using watched = await Watched.open(lab.kube, kinds.FederatedNetwork, namespace);
  await lab.kube.create(kinds.FederatedNetwork, { metadata: key, spec: networkSpec });
  await watched.until(networkName, isReady);
  const result = await work();
  await lab.kube.delete(kinds.FederatedNetwork, key);
  await watched.until(networkName, isGone);
  return result;
}

export const statusOf = (network: KubeObject | undefined): FederatedNetworkStatus =>
  kinds.FederatedNetwork.parse(network).status ?? {};
