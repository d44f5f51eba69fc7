import type { FederatedVM, StorageKind, VMMigration } from '../../crds/index.js';
import type { VolumeInfo } from '../../drivers/libvirt/types.js';
import { within } from '../common/deadline.js';
import { attempt as trying, Waiting } from '../common/errors.js';
import { tolerating } from '../common/libvirt.js';
import { domainUuid, networkUuid } from '../common/identity.js';
import { type BaseImage, driverOf, type HostRef, type VmRecord } from '../common/records.js';
import { type Host, hostKey } from '../host.js';
import { copySizeBytes, needsTransfer } from '../vm/copy.js';
import { sharePlace } from '../vm/disk.js';
import { unmountable } from '../vm/root.js';
import { schedule, spannedSites } from '../vm/schedule.js';
import { machineSize } from '../vm/size.js';
import { uncarried } from '../network/plan.js';
import { misfit } from './compatible.js';
import type { Mode } from './mode.js';
import { linkOf, live } from './move.js';
import { diskTarget } from '../vm/domain.js';
import { oldestForZstd } from './policy.js';
import { Failure, type MigrationDependencies, place } from './step.js';
import { isFilled, storageNow, targetOf, volumesAt } from './transfer.js';

/** A target's switch that does not answer in this time is not ready for a machine. */
const preflightMs = 5_000;

export function chooseTarget(
  migration: VMMigration,
  machine: FederatedVM,
  record: VmRecord,
  dependencies: MigrationDependencies,
): HostRef {
  const { spec, status } = migration;
  const { objects, directory } = dependencies;
  const { site, host } = spec.target;
  // Chosen once: what was written down with the intent is where it goes.
  if (status?.attempt !== undefined && status.target?.host !== undefined)
    return place({ ...status.target, host: status.target.host });
  if (site === record.site && (host === undefined || host === record.host))
    throw new Failure(
      'AlreadyThere',
      `spec.target: FederatedVM ${spec.vmName} already is at ${hostKey(record)}; name another site or host`,
    );
  const template = machine.spec.template === undefined ? undefined : objects.template(machine.spec.template);
  const sites = spannedSites(record, directory);
  if (objects.site(site) && !sites.includes(site))
    throw new Failure(
      'NetworkNotAtTarget',
      `spec.target.site: not all networks of ${spec.vmName} span ${site} (they share: ${sites.join(', ')}); add the site to them or name another`,
    );
  return schedule(
    {
      ...{ size: machineSize(machine.spec, template?.spec), driver: driverOf(record) },
      ...{ sites, site, host, field: 'spec.target' },
      needsShare: targetOf(migration, storageNow(machine, record, dependencies), record)?.storage !== 'Local',
    },
    objects,
    directory,
  );
}

/** What can be known beforehand, so that a move that can't succeed touches nothing. */
export async function preflight(
  migration: VMMigration,
  fuid: string,
  record: VmRecord,
  mode: Mode,
  storage: StorageKind,
  to: VmRecord['target'],
  source: Host,
  target: Host,
  dependencies: MigrationDependencies,
): Promise<void> {
  const { directory, dataplane, objects } = dependencies;
  const { spec } = migration;
  const uuid = domainUuid(fuid);
  if (!record.disk)
    throw new Waiting('MachineNotPlaced', `spec.vmName: FederatedVM ${spec.vmName} has no disk yet`, 2_000);
  for (const { network, name } of record.interfaces) {
    const allocated = directory.network(network)?.value;
    if (!allocated) throw new Waiting('NetworkNotReady', `FederatedNetwork ${name} is not allocated`, 5_000);
    if (target.libvirt.networks.get(networkUuid(network))?.active !== true)
      throw new Waiting(
        'NetworkNotReady',
        `FederatedNetwork ${name} is not up at target ${hostKey(target)} yet`,
        2_000,
      );
    const narrow = uncarried(objects.site(target.site), allocated);
    if (narrow !== undefined)
      throw new Failure('MTUNotCarried', `spec.target.site: FederatedNetwork ${name} at ${target.site}: ${narrow}`);
  }
  if (mode === 'Offline' && driverOf(record) === 'qemu') await refuseSaved(migration, uuid, source);
  // A container has neither a machine type nor a CPU of its own, and nothing of it is sent but its disk.
  if (driverOf(record) === 'qemu') await requireFit(migration, uuid, mode, source, target);
  if (mode === 'Live') await requireFreeDisk(migration, uuid, source);
  const share = (host: Host): string =>
    JSON.stringify([host.siteSpec.storage?.shared?.server, host.siteSpec.storage?.shared?.path]);
  if (mode === 'Offline' && isFilled(migration, storage))
    throw new Failure(
      'CopyNotSupported',
      `spec.storage: Copy: the disk of FederatedVM ${spec.vmName} is Cached, and is made whole only while the machine runs; start it, or leave spec.storage out, with a new VMMigration`,
    );
  if (to?.storage !== 'Local' && share(source) !== share(target))
    throw new Failure(
      'ShareDiffers',
      `spec.target.site: ${target.site} has another storage.shared than ${source.site}; a machine on a share moves within it${storage === 'Cached' ? '' : ', or with spec.storage: Copy'}`,
    );
  const base = record.base && (await requireBase(record.site, record.base, dependencies));
  if (driverOf(record) === 'lxc' && to?.storage) {
    const place = volumesAt(to, to.storage, record, dependencies);
    const fault = await trying('LibvirtFailed', `target ${hostKey(target)}`, () => unmountable(fuid, place));
    if (fault !== undefined) throw new Failure('PathTooLong', `spec.target: ${fault}`);
  }
  const fills = isFilled(migration, to?.storage) ? (base?.capacityBytes ?? 0n) : 0n;
  if (to?.storage) await requireSpace(fuid, record, mode, storage, { ...to, storage: to.storage }, fills, dependencies);
  for (const { network, name } of record.interfaces) {
    const vni = directory.network(network)?.value.vni;
    if (vni === undefined) continue;
    const { error } = await within(preflightMs, hostKey(target), dataplane.ensure(target, vni));
    if (error !== undefined)
      throw new Waiting(
        'FlowsNotApplied',
        `FederatedNetwork ${name} has no flows at target ${hostKey(target)}: ${error}`,
        5_000,
      );
  }
  const there = await trying('LibvirtFailed', `target ${hostKey(target)}`, () =>
    linkOf(target, record).connection.lookupDomain(uuid),
  );
  if (there && there.id >= 0)
    throw new Failure(
      'TargetOccupied',
      `target ${hostKey(target)} already runs a domain of this machine; look at both ends`,
    );
  for (const { id, name } of record.interfaces)
    if (dataplane.hasPort(target, id))
      throw new Waiting(
        'PortTaken',
        `target ${hostKey(target)}: its switch has a port with the interface id of FederatedVM ${spec.vmName} in ${name}, and the machine is not there; see what it is (ovs-vsctl find Interface external_ids:iface-id=${id}) and delete it, or name another host`,
        5_000,
      );
}

/** Only the host that it was saved at can go on with it, and the domain's definition goes from there. */
async function refuseSaved({ spec }: VMMigration, uuid: string, source: Host): Promise<void> {
  const isSaved = await trying('LibvirtFailed', `source ${hostKey(source)}`, () =>
    linkOf(source, live).connection.hasManagedSave(uuid),
  );
  if (isSaved)
    throw new Failure(
      'MachineSaved',
      `spec.vmName: the memory of FederatedVM ${spec.vmName} is saved at ${hostKey(source)} (virsh managedsave), and would be lost; start it there, or drop that memory (virsh managedsave-remove), then make a new VMMigration`,
    );
}

/** What QEMU still does with the disk would keep it from being copied, and the domain from being moved at all. */
async function requireFreeDisk({ spec }: VMMigration, uuid: string, source: Host): Promise<void> {
  const at = `source ${hostKey(source)}`;
  const { connection } = linkOf(source, live);
  // A guest that has ended meanwhile is found out about later.
  const job = await trying('LibvirtFailed', at, () =>
    tolerating(['OPERATION_INVALID', 'NO_DOMAIN'], connection.blockJob(uuid, diskTarget)),
  );
  if (job)
    throw new Waiting(
      'DiskBusy',
      `${at}: QEMU is at work on the disk of FederatedVM ${spec.vmName} (block job: ${job.type}); it moves when that has ended. A copy that was given up and does not end (virsh blockjob) ends with that QEMU: stop and start the machine`,
      5_000,
    );
}

/** Whether both ends can do what the policy asks for, and the target has a place for this very guest. */
async function requireFit({ spec }: VMMigration, uuid: string, mode: Mode, source: Host, target: Host): Promise<void> {
  const ends = [source, target].map((host) => ({ host, connection: linkOf(host, live).connection }));
  const asksZstd = spec.policy?.compression === 'Zstd';
  const [unfit] = await Promise.all([
    trying('LibvirtFailed', `target ${hostKey(target)}`, () =>
      misfit(uuid, mode === 'Live', linkOf(source, live).connection, linkOf(target, live).connection),
    ),
    ...(asksZstd ? ends : []).map(async ({ host, connection }) => {
      const version = await trying('LibvirtFailed', hostKey(host), () => connection.libVersion());
      if (version < oldestForZstd)
        throw new Failure(
          'CompressionNotSupported',
          `spec.policy.compression: libvirt at ${hostKey(host)} is older than 9.4 and can't do Zstd; leave it out or use XBZRLE, then make a new VMMigration`,
        );
    }),
  ]);
  if (unfit) throw new Failure(unfit.reason, `spec.target: ${hostKey(target)}: ${unfit.message}`);
}

/** What a Cached disk stands on has to be there while it is read, whether it stays below the disk or is read into it. */
async function requireBase(
  site: string,
  { name }: BaseImage,
  { objects, hosts }: MigrationDependencies,
): Promise<VolumeInfo | undefined> {
  const share = objects.site(site);
  if (!share) return undefined;
  const { via, pool } = sharePlace(share, hosts);
  const at = `host ${hostKey(via)}`;
  const found = await trying('LibvirtFailed', at, () => via.libvirt.connection.lookupVolume(pool, name));
  if (!found)
    throw new Failure(
      'ImageMissing',
      `${at}: the machine’s disk stands on volume ${name} of pool ${pool}, which is not there; restore it (virsh pool-refresh if it is), then make a new VMMigration`,
    );
  return await trying('LibvirtFailed', at, () => via.libvirt.connection.volumeInfo(pool, name));
}

const mebibytes = (bytes: bigint): string => `${String(bytes >> 20n)} MiB`;

/** Once, before anything is touched: later the copy itself has taken the space. fillsBytes: what is read into it once it is there. */
async function requireSpace(
  fuid: string,
  record: VmRecord,
  mode: Mode,
  storage: StorageKind,
  to: HostRef & { readonly storage: StorageKind },
  fillsBytes: bigint,
  dependencies: MigrationDependencies,
): Promise<void> {
  const [from, target] = [
    volumesAt(record, storage, record, dependencies),
    volumesAt(to, to.storage, record, dependencies),
  ];
  const at = `source ${hostKey(record)}`;
  const isPacked = driverOf(record) === 'lxc';
  const [needed, beside] = await Promise.all([
    trying('LibvirtFailed', at, () => copySizeBytes(fuid, from, fillsBytes)),
    trying('LibvirtFailed', at, () => (mode === 'Offline' ? needsTransfer(fuid, from) : Promise.resolve(false))),
  ]);
  const ends = [
    // What is sent of a container's root file system stands beside it until it is unpacked.
    {
      where: `target ${hostKey(to)}`,
      place: target,
      takes: isPacked ? 2n * needed : needed,
      remedy: 'make room or name another host',
    },
    // An offline move makes the disk whole beside it, and sends that.
    ...(beside
      ? [
          {
            where: at,
            place: from,
            takes: needed,
            remedy: `make room for a whole copy of it${isPacked ? '' : ', or move the machine while it runs'}`,
          },
        ]
      : []),
  ];
  for (const { where, place, takes, remedy } of ends) {
    const pool = await trying('LibvirtFailed', where, () => place.via.libvirt.connection.poolInfo(place.pool));
    if (pool.availableBytes < takes)
      throw new Failure(
        'NoSpace',
        `${where}: pool ${place.pool} has ${mebibytes(pool.availableBytes)} free, the disk takes ${mebibytes(takes)}; ${remedy}`,
      );
  }
}
