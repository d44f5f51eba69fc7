import type { FederatedVM, StorageKind, VMMigration } from '../../crds/index.js';
import { Waiting } from '../common/errors.js';
import { given } from '../common/given.js';
import { driverOf, type HostRef, type VmRecord } from '../common/records.js';
import { hostKey, type Hosts } from '../host.js';
import type { Objects } from '../objects.js';
import { diskPlace, type DiskPlace } from '../vm/disk.js';
import type { Extent } from './relocate.js';

interface TransferDependencies {
  readonly objects: Objects;
  readonly hosts: Hosts;
}

/** What the machine's disk is now. */
export function storageNow(
  machine: FederatedVM,
  record: VmRecord,
  { objects }: Pick<TransferDependencies, 'objects'>,
): StorageKind {
  const template = machine.spec.template === undefined ? undefined : objects.template(machine.spec.template);
  return record.storage ?? machine.spec.storage ?? template?.spec.storage ?? 'Local';
}

/**
 * Where the disk goes; with what it becomes there if it is copied: a shared one stays where it is, unless that is asked for. A cached one
 * stays so until it is filled.
 */
export const targetOf = (
  { spec }: Pick<VMMigration, 'spec'>,
  storage: StorageKind,
  { site, host }: HostRef,
): VmRecord['target'] => ({
  ...{ site, host },
  ...given({ storage: arrivesAs(spec.storage === 'Copy', storage) }),
});

function arrivesAs(isCopied: boolean, storage: StorageKind): StorageKind | undefined {
  if (storage === 'Cached') return storage;
  return isCopied ? 'Local' : storage === 'Shared' ? undefined : storage;
}

/** Whether a disk that has arrived so is made whole there. */
export const isFilled = ({ spec }: Pick<VMMigration, 'spec'>, arrived: StorageKind | undefined): boolean =>
  spec.storage === 'Copy' && arrived === 'Cached';

/** How much of a disk is copied that arrives so. */
export const extentOf = (arrives: StorageKind, fills = false): Extent => {
  if (arrives !== 'Cached') return 'Whole';
  return fills ? 'Filled' : 'Overlay';
};

/** The volumes' place at one end of a move. Throws Waiting while the end, or the host that serves its share, is not there. */
export function volumesAt(
  ref: HostRef,
  storage: StorageKind,
  machine: Pick<VmRecord, 'driver'>,
  { objects, hosts }: TransferDependencies,
): DiskPlace {
  const site = objects.site(ref.site);
  const host = hosts.get(ref);
  if (!site || !host)
    throw new Waiting('SiteUnreachable', `${hostKey(ref)}, where volumes of the machine are, is not connected`, 5_000);
  return diskPlace(host, site, storage, driverOf(machine), hosts);
}
