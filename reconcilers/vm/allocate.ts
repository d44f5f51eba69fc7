import { formatAddress, type FederatedVM } from '../../crds/index.js';
import type { Allocator, Claim, Grant } from '../common/allocation.js';
import type { Directory } from '../common/directory.js';
import { Transient, Waiting } from '../common/errors.js';
import { given } from '../common/given.js';
import { hint, interfaceId, macAddress } from '../common/identity.js';
import { pickFree } from '../common/ip.js';
import { keys, type HostRef, type InterfaceRecord, type Versioned, type VmRecord } from '../common/records.js';
import type { MachinePlan, PlannedInterface } from './plan.js';

/** Claims addresses and MACs and writes who owns the machine, all or nothing. */
export async function allocateMachine(
  machine: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  place: HostRef,
  allocator: Allocator,
  directory: Directory,
): Promise<Versioned<VmRecord>> {
  const { namespace, name } = machine.metadata;
  const propose = (lost: ReadonlySet<string>): Grant => {
    const isFree = (key: string): boolean => !lost.has(key) && !allocator.isTaken(key);
    const interfaces = plan.networks.map((network, index) => ({
      ...proposeInterface(network, fuid, index, isFree),
      ...permissions(plan, network),
    }));
    const record: VmRecord = {
      namespace,
      name,
      ...place,
      generation: 1,
      phase: 'Owned',
      disk: false,
      // Left out of a virtual machine's, as ever.
      ...given({ driver: plan.driver === 'qemu' ? undefined : plan.driver }),
      storage: plan.storage,
      placedFor: placementOf(machine),
      interfaces,
    };
    const claims = interfaces.flatMap((each, index): Claim[] => [
      {
        what: `address ${each.address}`,
        field: `spec.networks[${String(index)}].address`,
        key: keys.ip(each.network, each.address),
        pinned: plan.networks[index]?.address !== undefined,
      },
      { what: `MAC ${each.mac}`, field: 'MAC', key: keys.mac(each.mac), pinned: false },
    ]);
    return { claims, records: { [keys.vm(fuid)]: record } };
  };
  await allocator.grant(fuid, { kind: machine.kind, namespace, name }, propose);
  const record = directory.machine(fuid);
  if (!record) throw new Transient('AllocationUnseen', 'what was allocated is not visible yet');
  return record;
}

/** What port security lets the machine say on that network beyond its own address. */
export const permissions = (
  { role }: MachinePlan,
  { allowed }: PlannedInterface,
): Pick<InterfaceRecord, 'role' | 'allowed'> => given({ role, allowed: allowed && [...allowed] });

function proposeInterface(
  network: PlannedInterface,
  fuid: string,
  index: number,
  isFree: (key: string) => boolean,
): InterfaceRecord {
  const address = network.address ?? pickAddress(network, fuid, isFree);
  let attempt = 0;
  while (!isFree(keys.mac(macAddress(fuid, index, attempt)))) attempt++;
  return {
    network: network.fuid,
    name: network.name,
    id: interfaceId(fuid, index),
    mac: macAddress(fuid, index, attempt),
    address,
  };
}

function pickAddress(network: PlannedInterface, fuid: string, isFree: (key: string) => boolean): string {
  const value = pickFree(
    network.space,
    (each) => !isFree(keys.ip(network.fuid, formatAddress(each))),
    hint(`${fuid}/${network.fuid}`),
  );
  if (value !== undefined) return formatAddress(value);
  throw new Waiting(
    'AddressesExhausted',
    `FederatedNetwork ${network.name} has no free address left; delete a machine or use another network`,
    30_000,
  );
}

/** spec.placement as the record keeps it. */
export function placementOf({ spec }: FederatedVM): string | undefined {
  const { site, host } = spec.placement ?? {};
  return site === undefined ? undefined : `${site}/${host ?? '*'}`;
}
