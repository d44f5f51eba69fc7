import type { KubeObject } from '../../controllers/kube/api.js';
import type { Flow, PortDescription } from '../../drivers/openflow/types.js';
import { networkName, networkUuid, patchPorts } from '../../reconcilers/common/identity.js';
import { networkFlows, type BridgeFlows } from '../../reconcilers/dataplane/tables.js';
import { networkXml } from '../../reconcilers/network/libvirt.js';
import type { Lab, LabHost } from '../lab.js';
import { createHeld, deleteHeld, floorNetworks } from './kinds.js';
import { claim, cookie, fieldManager, keyPrefix, mark, release, vlan, vni } from './marks.js';

export interface FloorNetwork {
  readonly metadata: KubeObject['metadata'];
  readonly keys: readonly string[];
}

/** What a network needs at all sites; status is of the size that the operator writes. */
export async function createNetwork(
  lab: Lab,
  key: { namespace: string; name: string },
  spec: object,
  status: object,
): Promise<FloorNetwork> {
  const { metadata } = await createHeld(lab, floorNetworks, { metadata: key, spec });
  const keys = ['vlan', 'vni', 'network', 'owner', 'object'].map((what) => `${keyPrefix}${what}/${metadata.uid}`);
  await claim(lab.consul, keys);
  await Promise.all(lab.hosts.flatMap((host) => [layNetwork(host, metadata.uid), installFlows(host)]));
  await lab.kube.applyStatus(floorNetworks, key, status, { fieldManager });
  return { metadata, keys };
}

export async function deleteNetwork(lab: Lab, { metadata, keys }: FloorNetwork): Promise<void> {
  await deleteHeld(lab, floorNetworks, metadata, async () => {
    await Promise.all(lab.hosts.flatMap((host) => [liftNetwork(host, metadata.uid), removeFlows(host)]));
    await release(lab.consul, keys);
  });
}

export async function layNetwork({ libvirt }: LabHost, fuid: string): Promise<void> {
  const uuid = networkUuid(fuid);
  await libvirt.defineNetwork(networkXml({ fuid, name: networkName(mark, fuid), vlan }));
  await Promise.all([libvirt.startNetwork(uuid), libvirt.setNetworkAutostart(uuid, true)]);
}

export async function liftNetwork({ libvirt }: LabHost, fuid: string): Promise<void> {
  await libvirt.destroyNetwork(networkUuid(fuid));
  await libvirt.undefineNetwork(networkUuid(fuid));
}

export async function installFlows(host: LabHost): Promise<void> {
  const { int, edge } = await flowsOf(host);
  const add = (flows: readonly Flow[]) => flows.map((flow) => ({ kind: 'add', flow }) as const);
  await Promise.all([host.int.bundle(add(int)), host.edge.bundle(add(edge))]);
}

export async function removeFlows(host: LabHost): Promise<void> {
  const all = [{ kind: 'removeAll', filter: { cookie } }] as const;
  await Promise.all([host.int.bundle(all), host.edge.bundle(all)]);
}

const compiled = new WeakMap<LabHost, Promise<BridgeFlows>>();

/** What the operator installs on a host for a network without machines. Port numbers are read once. */
async function flowsOf(host: LabHost): Promise<BridgeFlows> {
  const flows = compiled.get(host) ?? compile(host);
  compiled.set(host, flows);
  return await flows;
}

async function compile(host: LabHost): Promise<BridgeFlows> {
  const [int, edge] = await Promise.all([host.int.ports(), host.edge.ports()]);
  const patch = { int: portOf(int, patchPorts.int), edge: portOf(edge, patchPorts.edge) };
  const tunnels = edge.filter(({ name }) => /^isth-[0-9a-f]{10}$/.test(name)).map(({ port }) => port);
  const flows = networkFlows({
    ...{ vni, vlan, cidr: '172.31.0.0/16', patch, ports: [], locations: [], tunnels },
    policy: { flows: [] },
  });
  const marked = (each: readonly Flow[]) => each.map((flow) => ({ ...flow, cookie }));
  return { int: marked(flows.int), edge: marked(flows.edge) };
}

function portOf(ports: readonly PortDescription[], name: string): number {
  const port = ports.find((each) => each.name === name)?.port;
  if (port === undefined) throw new Error(`the bridge has no port ${name}`);
  return port;
}
