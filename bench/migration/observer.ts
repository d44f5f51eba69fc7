import { randomUUID } from 'node:crypto';
import { addMachines, Databases, portName, removeMachines, type Port } from '../floor/ports.js';
import { hostOf, type Lab } from '../lab.js';
import { labIn } from './line.js';

/** Of a tenant's network in the lab. */
const mtu = 1_450;

/** Makes a host a machine of a tenant's network, for the data plane: it may ask all others for echoes, without a guest that does so. */
export async function joinNetwork(lab: Lab, site: string, network: string, address: string): Promise<AsyncDisposable> {
  await using databases = await Databases.open(lab);
  const host = hostOf(lab, site);
  const ovsdb = databases.hosts.get(host);
  if (!ovsdb) throw new Error(`${site} has no OVSDB`);
  const port: Port = { ...{ host, ovsdb, network, address, fuid: randomUUID() }, isHost: true };
  const name = portName(port);
  await addMachines(lab, [port]);
  await labIn(site, 'ovs-vsctl', '--timeout=20', 'wait-until', 'Interface', name, 'ofport>0');
  const addressed = `ip address add ${address}/16 dev ${name} && ip link set ${name} mtu ${mtu} up`;
  await labIn(site, 'sh', '-c', addressed);
  return { [Symbol.asyncDispose]: async () => await removeMachines(lab) };
}
