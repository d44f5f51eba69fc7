import { readFile } from 'node:fs/promises';
import { parse } from 'yaml';
import { z } from 'zod';
import { isKubeError, type KubeObject, type NewKubeObject, type Resource } from '../../controllers/kube/api.js';
import { group, kinds } from '../../crds/index.js';
import { project, type Lab } from '../lab.js';
import { until } from '../until.js';
import { finalizer } from './marks.js';

const floorGroup = `floor.${group}`;
const inFloorGroup = ({ version, plural, kind, namespaced }: Resource): Resource => ({
  group: floorGroup,
  version,
  plural,
  kind,
  namespaced,
});

export const floorNetworks = inFloorGroup(kinds.FederatedNetwork);
export const floorMachines = inFloorGroup(kinds.FederatedVM);

const definitions: Resource = {
  group: 'apiextensions.k8s.io',
  version: 'v1',
  plural: 'customresourcedefinitions',
  kind: 'CustomResourceDefinition',
  namespaced: false,
};
const definition = z.object({ spec: z.looseObject({ names: z.looseObject({}) }) });

export async function defineKinds(lab: Lab): Promise<void> {
  for (const resource of [floorNetworks, floorMachines]) {
    const { plural } = resource;
    const { spec } = definition.parse(parse(await readFile(`${project}crds/${group}_${plural}.yaml`, 'utf8')));
    const metadata = { name: `${plural}.${floorGroup}` };
    // The short names stay the operator's.
    await lab.kube.create(definitions, {
      metadata,
      spec: { ...spec, group: floorGroup, names: { ...spec.names, shortNames: [] } },
    });
    await until(`${plural} of the floor served`, () => isServed(lab, resource));
  }
}

async function isServed({ kube }: Lab, resource: Resource): Promise<boolean> {
  try {
    await kube.list(resource);
    return true;
  } catch (error) {
    // 429 for a moment while the server sets a new kind up.
    if (isKubeError(error, 'KUBE_NOT_FOUND', 'KUBE_UNAVAILABLE')) return false;
    throw error;
  }
}

/** Their objects go with them. */
export async function removeKinds(lab: Lab): Promise<void> {
  const { kube } = lab;
  for (const resource of [floorNetworks, floorMachines]) {
    if (await isServed(lab, resource))
      for (const { metadata } of (await kube.list(resource)).items)
        await kube.patch(resource, metadata, { metadata: { finalizers: null } });
    const name = `${resource.plural}.${floorGroup}`;
    await kube.delete(definitions, { name });
    await until(`${name} gone`, async () => (await kube.get(definitions, { name })) === undefined);
  }
}

/** As a user creates it and an operator takes it up. */
export async function createHeld({ kube }: Lab, resource: Resource, object: NewKubeObject): Promise<KubeObject> {
  const { metadata } = await kube.create(resource, object);
  return await kube.setFinalizers(resource, metadata, [finalizer], metadata.resourceVersion);
}

/** What follows the deletion of an object with a finalizer; cleanUp happens in between. */
export async function deleteHeld(
  { kube }: Lab,
  resource: Resource,
  metadata: KubeObject['metadata'],
  cleanUp: () => Promise<unknown>,
): Promise<void> {
  await kube.delete(resource, metadata);
  await cleanUp();
  await kube.patch(resource, metadata, { metadata: { finalizers: null } });
}
