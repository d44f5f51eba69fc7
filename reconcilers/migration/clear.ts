import type { VMMigration } from '../../crds/index.js';
import { attempt as trying, Waiting } from '../common/errors.js';
import { given } from '../common/given.js';
import { domainUuid } from '../common/identity.js';
import { assertUnchanged, recordChanged } from '../common/latest.js';
import type { Versioned, VmRecord } from '../common/records.js';
import { abandoned, isFenced } from '../fenced.js';
import { hostKey, machineLink } from '../host.js';
import { deleteCopies, findVolumes } from '../vm/disk.js';
import { linkOf } from './move.js';
import { cas } from './ownership.js';
import { type MigrationDependencies, reachable, type Status } from './step.js';
import { volumesAt } from './transfer.js';
import { undefineAt } from './undefine.js';

/**
 * libvirt undefines the source of a live move by itself; after a crash of its daemon it may be left over, switched off. After an offline
 * move we do, and then the record says so. Answers whether the record was written.
 */
export async function clearSource(
  migration: VMMigration,
  fuid: string,
  source: Status['source'],
  { value, index }: Versioned<VmRecord>,
  dependencies: MigrationDependencies,
): Promise<boolean> {
  if (source?.host === undefined || hostKey({ site: source.site, host: source.host }) === hostKey(value)) return false;
  const ref = { site: source.site, host: source.host };
  const isGone = isFenced(ref, dependencies);
  // Its record names it (leftAt): the domain goes when the host is back.
  if (!isGone) {
    if (!machineLink(dependencies.hosts.get(ref), value)?.isConnected)
      throw new Waiting(
        'SiteUnreachable',
        `the machine is at ${hostKey(value)}; waiting for ${hostKey(ref)} to answer, to see that nothing of ${migration.spec.vmName} is left there`,
        5_000,
      );
    await undefineAt(ref, value, fuid, dependencies);
  }
  const isNamed = value.leftAt?.some((each) => hostKey(each) === hostKey(ref)) ?? false;
  if (!value.last || (!value.last.source && (isNamed || !isGone))) return false;
  const { source: _, ...last } = value.last;
  const leftAt = isGone ? abandoned(value, ref) : value.leftAt;
  if (!(await cas(fuid, { ...value, ...given({ leftAt }), last }, index, dependencies))) throw recordChanged();
  return true;
}

/** The disk that was copied goes last of all: ownership has moved, the source is off, the target has the machine. */
export async function clearCopied(
  { spec }: VMMigration,
  fuid: string,
  { value, index }: Versioned<VmRecord>,
  dependencies: MigrationDependencies,
): Promise<void> {
  const { directory, clearing } = dependencies;
  if (!value.last?.left) return;
  const { left, ...last } = value.last;
  const target = reachable(value, value, dependencies, 'target');
  const there = await trying('LibvirtFailed', `target ${hostKey(value)}`, () =>
    linkOf(target, value).connection.lookupDomain(domainUuid(fuid)),
  );
  if (!there)
    throw new Waiting(
      'MachineAtNeitherEnd',
      `${hostKey(value)} has no domain of ${spec.vmName} any more: the disk that was copied stays until that is cleared up`,
      10_000,
    );
  const kept = volumesAt(value, value.storage ?? 'Local', value, dependencies);
  if (!(await trying('LibvirtFailed', `target ${hostKey(value)}`, () => findVolumes(fuid, kept))))
    throw new Waiting(
      'DiskMissing',
      `${hostKey(value)} has no whole disk of ${spec.vmName} in pool ${kept.pool}: what was copied from stays at ${hostKey(left)} until that is cleared up`,
      10_000,
    );
  await assertUnchanged(fuid, index, dependencies.store);
  // Another move may be about to copy the disk back to where it is deleted: it waits for us, or we let it be.
  if (directory.machine(fuid)?.index !== index || clearing.has(fuid)) throw recordChanged();
  // A host that is off keeps its volumes; the audit names them when it is back.
  const deleted = isFenced(left, dependencies)
    ? Promise.resolve()
    : deleteCopies(fuid, volumesAt(left, left.storage, value, dependencies), kept);
  clearing.set(
    fuid,
    deleted.catch(() => undefined),
  );
  try {
    await trying('LibvirtFailed', `source ${hostKey(left)}`, () => deleted);
  } finally {
    clearing.delete(fuid);
  }
  const cleared: VmRecord = { ...value, last };
  if (!(await cas(fuid, cleared, index, dependencies))) throw recordChanged();
}
