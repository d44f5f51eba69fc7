import type { FederatedVM, Site } from '../../crds/index.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { Connection } from '../../drivers/libvirt/types.js';
import { consul } from '../common/allocation.js';
import { Stalled } from '../common/errors.js';
import { given } from '../common/given.js';
import { domainUuid, metadataNamespace } from '../common/identity.js';
import { refusedWith, tolerating } from '../common/libvirt.js';
import { recordChanged } from '../common/latest.js';
import {
  keys,
  parseRecord,
  serialise,
  vmRecord,
  type BaseImage,
  type Versioned,
  type VmRecord,
} from '../common/records.js';
import { parseXml } from '../common/xml.js';
import { hostKey, machineLink, type Host, type Hosts } from '../host.js';
import type { ReadSecret } from '../objects.js';
import { hasCopyOnRead, standsOnBase } from './chain.js';
import { containerXml } from './container.js';
import {
  baseSource,
  createVolumes,
  findVolumes,
  mainVolumeName,
  type DiskPlace,
  type MachineVolumes,
  type RootVolume,
} from './disk.js';
import { domainXml, type BaseSource } from './domain.js';
import { baseOf, findImage, type Image } from './image.js';
import type { MachinePlan } from './plan.js';
import { phaseOf } from './power.js';
import { createRoot } from './root.js';
import { buildSeed } from './seed.js';

interface DefineDependencies {
  readonly hosts: Hosts;
  readonly store: KeyValueStore;
  readonly readSecret: ReadSecret;
}

/** Makes volumes and definition right. Returns what a restart would change in a running domain. */
export async function define(
  machine: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  record: Versioned<VmRecord>,
  disks: DiskPlace,
  host: Host,
  site: Site,
  connection: Connection,
  dependencies: DefineDependencies,
): Promise<string | undefined> {
  const uuid = domainUuid(fuid);
  const seen = machineLink(host, record.value)?.domains.get(uuid);
  const volumes = record.value.disk ? await findVolumes(fuid, disks) : undefined;
  const definitionFor = async (of: MachineVolumes | RootVolume, base: BaseImage | undefined): Promise<string> =>
    'root' in of
      ? containerFor(machine, fuid, plan, record.value, of)
      : domainFor(
          machine,
          fuid,
          plan,
          record.value,
          of,
          base && baseSource(base, site),
          host,
          await virtualisationOf(connection),
        );
  if (!volumes) {
    if (record.value.disk)
      throw new Stalled(
        'DiskMissing',
        `pool ${disks.pool} of host ${hostKey(disks.via)}: the machine's ${disks.driver === 'lxc' ? 'root file system' : 'disk or seed'} is gone; restore volume ${mainVolumeName(fuid, disks)}, or delete the machine`,
      );
    await assertNoDisk(fuid, record.value, connection, dependencies);
    const image = await findImage(plan.image, plan.storage, disks, site, dependencies.hosts);
    const base = plan.storage === 'Cached' ? baseOf(image) : undefined;
    const made = await provision(machine, fuid, plan, record.value, image, disks, dependencies);
    await Promise.all([
      markDisk(fuid, record, base, dependencies),
      connection.defineDomain(await definitionFor(made, base)),
    ]);
    return undefined;
  }
  const definition = await definitionFor(volumes, record.value.base);
  if (!seen) {
    await connection.defineDomain(definition);
    return undefined;
  }
  const current = await definitionOf(uuid, connection);
  const isOff = phaseOf(seen) === 'Stopped' || phaseOf(seen) === 'Failed';
  if (current === parseXml(definition)('domain', 'metadata', 'isthmus:machine', '@definition')) {
    if (isOff && plan.storage === 'Cached' && !(await standsAsRecorded(uuid, record.value, connection)))
      await connection.defineDomain(definition);
    return undefined;
  }
  if (current === 'transient') {
    // Undefined by hand while it runs: it would be gone with its next power-off.
    await connection.defineDomain(definition);
    return undefined;
  }
  if (!isOff)
    return 'flavor, resources or networks changed; stop and start the machine (runStrategy) for it to take effect';
  await connection.defineDomain(definition);
  return undefined;
}

/**
 * Whether a disk that was made Cached stands, in the definition that it starts from, on its image, and keeps what it reads of that; or on nothing,
 * if the record says that it is whole. While it is made so, libvirt takes the image away before what was read has come to the disk.
 */
async function standsAsRecorded(uuid: string, { base }: VmRecord, connection: Connection): Promise<boolean> {
  const xml = await connection.domainXml(uuid, constants.DOMAIN_XML_INACTIVE);
  return base ? standsOnBase(xml) && hasCopyOnRead(xml) : !standsOnBase(xml) && !hasCopyOnRead(xml);
}

/** The definition's mark in the domain's persistent configuration; transient if it has none. */
async function definitionOf(uuid: string, connection: Connection): Promise<string | undefined> {
  let metadata: string | undefined;
  try {
    metadata = await connection.domainMetadata(uuid, metadataNamespace, constants.DOMAIN_AFFECT_CONFIG);
  } catch (error) {
    if (refusedWith(error, 'OPERATION_INVALID')) return 'transient';
    throw error;
  }
  if (metadata === undefined) return undefined;
  const at = parseXml(metadata);
  return at('machine', '@definition') ?? at('isthmus:machine', '@definition');
}

/** Volumes are made anew only for a machine that never ran: our copy of the record may be old, so Consul's leader and the daemon are asked. */
async function assertNoDisk(
  fuid: string,
  record: VmRecord,
  connection: Connection,
  { store }: DefineDependencies,
): Promise<void> {
  const [entry, state] = await Promise.all([
    consul('asking whether the machine has a disk', () => store.get(keys.vm(fuid))),
    tolerating(['NO_DOMAIN'], connection.domainState(domainUuid(fuid))),
  ]);
  const live = entry && parseRecord(vmRecord, entry).value;
  if (live?.phase !== 'Owned' || hostKey(live) !== hostKey(record) || live.disk) throw recordChanged();
  if (state && phaseOf(state) !== 'Stopped')
    throw new Stalled(
      'DiskInUse',
      `host ${hostKey(record)}: the machine's domain is ${state.state} though no disk is on record; look at it before anything is made`,
    );
}

async function provision(
  machine: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  record: VmRecord,
  image: Image,
  disks: DiskPlace,
  { readSecret }: DefineDependencies,
): Promise<MachineVolumes | RootVolume> {
  const request = { fuid, image, diskBytes: plan.size.diskBytes };
  switch (disks.driver) {
    case 'qemu': {
      const seed = await buildSeed(machine, fuid, plan.cloudInit, plan.networks, record.interfaces, readSecret);
      return await createVolumes({ ...request, storage: plan.storage, seed }, disks);
    }
    case 'lxc':
      return await createRoot(request, disks);
  }
}

function domainFor(
  machine: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  record: VmRecord,
  volumes: MachineVolumes,
  base: BaseSource | undefined,
  { spec }: Host,
  virtualisation: 'kvm' | 'qemu',
): string {
  const mtus = new Map(plan.networks.map((network) => [network.fuid, network.record.mtu]));
  return domainXml({
    fuid,
    namespace: machine.metadata.namespace,
    name: machine.metadata.name,
    size: plan.size,
    datapath: spec.ovs.datapathType ?? 'system',
    virtualisation,
    ...volumes,
    base,
    interfaces: record.interfaces.map((each) => ({ ...each, mtu: mtus.get(each.network) ?? 1500 })),
  });
}

function containerFor(
  { metadata: { namespace, name } }: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  record: VmRecord,
  { root }: RootVolume,
): string {
  const interfaces = record.interfaces.flatMap((each) => {
    const network = plan.networks.find((planned) => planned.fuid === each.network);
    if (!network) return [];
    const { prefixLength, gateway } = network;
    // A router is not its own way out.
    return [
      { ...each, mtu: network.record.mtu, prefixLength, gateway: gateway === each.address ? undefined : gateway },
    ];
  });
  return containerXml({ fuid, namespace, name, size: plan.size, root, interfaces });
}

const virtualisations = new WeakMap<Connection, Promise<'kvm' | 'qemu'>>();

/** What the host's daemon offers for x86-64 guests; asked once a connection. */
async function virtualisationOf(connection: Connection): Promise<'kvm' | 'qemu'> {
  let known = virtualisations.get(connection);
  if (!known) {
    known = connection.capabilities().then((xml) => (/<domain type='kvm'\/?>/.test(xml) ? 'kvm' : 'qemu'));
    virtualisations.set(connection, known);
    known.catch(() => virtualisations.delete(connection));
  }
  return await known;
}

/** From here on a missing disk is data loss to report. */
async function markDisk(
  fuid: string,
  { value, index }: Versioned<VmRecord>,
  base: BaseImage | undefined,
  { store }: DefineDependencies,
): Promise<void> {
  const record: VmRecord = { ...value, disk: true, ...given({ base }) };
  const result = await consul('recording the disk', () =>
    store.transact([{ verb: 'cas', key: keys.vm(fuid), value: serialise(record), index }]),
  );
  if (!result.ok) throw recordChanged();
}
