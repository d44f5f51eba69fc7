import { isKubeError, type CallOptions, type KubeApi, type Metadata, type Resource } from '../kube/api.js';

const ATTEMPTS = 5;

/**
 * Puts the finalizer on the object, which may be an old copy; to be awaited before the first effect. False if the object is
 * gone or being deleted: then it can't have one any more.
 */
export async function ensureFinalizer(
  api: KubeApi,
  resource: Resource,
  metadata: Metadata,
  finalizer: string,
  options: CallOptions = {},
): Promise<boolean> {
  const result = await change(api, resource, metadata, options, (live) => {
    const finalizers = live.finalizers ?? [];
    if (finalizers.includes(finalizer) || live.deletionTimestamp !== undefined) return undefined;
    return [...finalizers, finalizer];
  });
  return result?.finalizers?.includes(finalizer) ?? false;
}

/** Takes the finalizer off; succeeds if it is gone, answers false if the object is. */
export async function removeFinalizer(
  api: KubeApi,
  resource: Resource,
  metadata: Metadata,
  finalizer: string,
  options: CallOptions = {},
): Promise<boolean> {
  const left = await change(api, resource, metadata, options, (live) => {
    const finalizers = live.finalizers ?? [];
    return finalizers.includes(finalizer) ? finalizers.filter((each) => each !== finalizer) : undefined;
  });
  return left !== undefined;
}

/** Others change the list too: the write is locked on the version it was made from, and made again from a live read. */
async function change(
  api: KubeApi,
  resource: Resource,
  metadata: Metadata,
  options: CallOptions,
  next: (live: Metadata) => readonly string[] | undefined,
): Promise<Metadata | undefined> {
  const { name, namespace, uid } = metadata;
  let live = metadata;
  for (let attempt = 1; ; attempt += 1) {
    const finalizers = next(live);
    if (!finalizers) return live;
    try {
      return (await api.setFinalizers(resource, { name, namespace }, finalizers, live.resourceVersion, options))
        .metadata;
    } catch (error) {
      if (isKubeError(error, 'KUBE_NOT_FOUND')) return undefined;
      if (!isKubeError(error, 'KUBE_CONFLICT') || attempt === ATTEMPTS) throw error;
    }
    const object = await api.get(resource, { name, namespace }, options);
    if (object?.metadata.uid !== uid) return undefined;
    live = object.metadata;
  }
}
