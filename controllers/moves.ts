import { kinds, type VMMigration } from '../crds/index.js';
import type { MoveRequest } from '../reconcilers/objects.js';
import { isKubeError, type KubeApi } from './kube/api.js';

/** One of that name exists already if an earlier try's answer was lost. It goes with its machine. */
export async function requestMove(api: KubeApi, { machine, name, target, labels }: MoveRequest): Promise<void> {
  const { apiVersion, kind, metadata } = machine;
  try {
    await api.create(kinds.VMMigration, {
      metadata: {
        name,
        namespace: metadata.namespace,
        labels,
        ownerReferences: [
          {
            ...{ apiVersion, kind, name: metadata.name, uid: metadata.uid },
            ...{ controller: true, blockOwnerDeletion: false },
          },
        ],
      },
      spec: { vmName: metadata.name, target },
    });
  } catch (error) {
    if (!isKubeError(error, 'KUBE_ALREADY_EXISTS')) throw error;
  }
}

export async function dropMove(api: KubeApi, { metadata }: VMMigration): Promise<void> {
  await api.delete(kinds.VMMigration, metadata, { uid: metadata.uid });
}
