/** Takes away all that a run made, or one that was killed left behind. */
import type { Resource } from '../controllers/kube/api.js';
import { kinds } from '../crds/index.js';
import { LibvirtError } from '../drivers/libvirt/index.js';
import { keyPrefix, mark } from './floor/marks.js';
import { removeKinds } from './floor/kinds.js';
import { removeFlows } from './floor/network.js';
import { removeMachines } from './floor/ports.js';
import type { Lab, LabHost } from './lab.js';
import type { Operator } from './operator.js';
import { namespace } from './objects.js';
import { until } from './until.js';

const namespaces: Resource = { group: '', version: 'v1', plural: 'namespaces', kind: 'Namespace', namespaced: false };
/** Objects of which no operator has heard. */
export const listNamespace = `${namespace}-list`;

export async function createNamespace({ kube }: Lab, name: string): Promise<void> {
  await kube.create(namespaces, { metadata: { name } });
}

/** Starts the operator if it must take things down, and leaves it as it was otherwise. */
export async function removeEverything(lab: Lab, operator: Operator): Promise<void> {
  await removeMachines(lab);
  await removeObjects(lab, operator);
  // Before the namespace, which waits for the finalizers of their objects.
  await removeKinds(lab);
  for (const name of [namespace, listNamespace]) await removeNamespace(lab, name);
  for (const { key } of await lab.consul.list(keyPrefix)) await lab.consul.transact([{ verb: 'delete', key }]);
  await Promise.all(lab.hosts.map(removeFloor));
}

async function removeObjects(lab: Lab, operator: Operator): Promise<void> {
  for (const resource of [kinds.VMMigration, kinds.FederatedVM, kinds.FederatedNetwork]) {
    const present = async () => (await lab.kube.list(resource, { namespace })).items;
    const found = await present();
    if (found.length === 0) continue;
    await operator.start();
    await Promise.all(found.map(({ metadata }) => lab.kube.delete(resource, metadata)));
    await until(
      `${resource.plural} of namespace ${namespace} gone`,
      async () => (await present()).length === 0,
      180_000,
    );
  }
}

export async function removeNamespace({ kube }: Lab, name: string): Promise<void> {
  await kube.delete(namespaces, { name });
  await until(`namespace ${name} gone`, async () => (await kube.get(namespaces, { name })) === undefined);
}

async function removeFloor(host: LabHost): Promise<void> {
  const { libvirt } = host;
  const ours = ({ name }: { name: string }): boolean => name.startsWith(`isth-${mark}-`);
  for (const { uuid, id } of (await libvirt.listDomains()).filter(ours)) {
    if (id >= 0) await gone(libvirt.destroyDomain(uuid));
    await gone(libvirt.undefineDomain(uuid));
  }
  for (const { uuid } of (await libvirt.listNetworks()).filter(ours)) {
    if (await libvirt.networkIsActive(uuid)) await gone(libvirt.destroyNetwork(uuid));
    await gone(libvirt.undefineNetwork(uuid));
  }
  for (const pool of await libvirt.listPools())
    for (const { name } of await libvirt.listVolumes(pool.name))
      if (name.startsWith(`${mark}-`)) await gone(libvirt.deleteVolume(pool.name, name));
  // A lab without bridges yet has no flows of ours either.
  await removeFlows(host).catch(() => undefined);
}

/** What is gone already is fine. */
async function gone(call: Promise<void>): Promise<void> {
  try {
    await call;
  } catch (error) {
    if (!(error instanceof LibvirtError)) throw error;
  }
}
