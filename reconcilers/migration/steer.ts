import type { FederatedVM, VMMigration } from '../../crds/index.js';
import type { JobStats } from '../../drivers/libvirt/types.js';
import { domainUuid } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import type { VmRecord } from '../common/records.js';
import { machineLink } from '../host.js';
import { machineSize } from '../vm/size.js';
import { deadlineMs, follow, isSilent, isStalled, onStall } from './policy.js';
import { lookAt } from './progress.js';
import { isUnwanted, type MigrationDependencies } from './step.js';

type Overdue = 'DeadlineExceeded' | 'Stalled';

export const remedies: Readonly<Record<Overdue, string>> = {
  DeadlineExceeded:
    'the copy did not end by its deadline; give it more time (spec.policy.timeoutSeconds) or another spec.policy.onStall',
  Stalled:
    'the copy made no progress any more; look at the connection between the sites, or let it go on by spec.policy.onStall: PostCopy or Pause',
};

/** Why a copy is not waited for any longer, if so. */
export function reasonToEnd(
  migration: VMMigration,
  machine: FederatedVM,
  dependencies: MigrationDependencies,
): Overdue | undefined {
  if (shareOfTime(migration, machine, dependencies) > 1) return 'DeadlineExceeded';
  const course = dependencies.courses.get(migration.metadata.uid);
  return course && isStalled(course, dependencies.now()) ? 'Stalled' : undefined;
}

/** How much of the time is used up that the copy has, 1 being all of it. */
function shareOfTime(migration: VMMigration, machine: FederatedVM, { clock, objects }: MigrationDependencies): number {
  const begun = migration.status?.phaseTimestamps?.find(({ phase }) => phase === 'Copying')?.time;
  if (begun === undefined) return 0;
  const template = machine.spec.template === undefined ? undefined : objects.template(machine.spec.template);
  const { memoryBytes } = machineSize(machine.spec, template?.spec);
  return (clock().getTime() - Date.parse(begun)) / deadlineMs(migration.spec.policy ?? {}, memoryBytes);
}

/** Keeps a copy to its policy: more time at the switch-over where the guest writes a lot, and an end to what has none. */
export async function steer(
  migration: VMMigration,
  machine: FederatedVM,
  fuid: string,
  record: VmRecord,
  job: JobStats | undefined,
  dependencies: MigrationDependencies,
): Promise<void> {
  const { courses, hosts, now } = dependencies;
  const { uid } = migration.metadata;
  const policy = migration.spec.policy ?? {};
  const link = machineLink(hosts.get(record), record);
  if (!link?.isConnected) return;
  const { connection } = link;
  const uuid = domainUuid(fuid);
  // The copy may have ended, or the guest, since it was looked at.
  const unlessOver = (call: Promise<void>) => tolerating(['OPERATION_INVALID', 'NO_DOMAIN'], call);
  if (isUnwanted(migration, machine)) {
    await unlessOver(connection.abortJob(uuid));
    return;
  }
  if (!job) return;
  const before = courses.get(uid);
  const course = follow(before, lookAt(job.params), policy, now());
  courses.set(uid, course);
  if (before && course.downtimeMs !== before.downtimeMs)
    await unlessOver(connection.setMigrationMaxDowntime(uuid, course.downtimeMs));
  if (reasonToEnd(migration, machine, dependencies) === undefined) return;
  if (isOverdue(migration, machine, dependencies)) await unlessOver(connection.abortJob(uuid));
  else if (onStall(policy) === 'Pause') await unlessOver(connection.suspendDomain(uuid));
  // Over a line that carries nothing just now the guest would stop here and not begin there, and be lost.
  else if (before && course.transferredBytes > before.transferredBytes)
    await unlessOver(connection.startPostCopy(uuid));
}

/**
 * Whether a copy is not waited for any longer, and given up. A paused guest is not left so for ever either, and post-copy does not begin
 * while nothing is sent.
 */
export function isOverdue(migration: VMMigration, machine: FederatedVM, dependencies: MigrationDependencies): boolean {
  if (reasonToEnd(migration, machine, dependencies) === undefined) return false;
  switch (onStall(migration.spec.policy ?? {})) {
    case 'Abort':
      return true;
    case 'Pause':
      return shareOfTime(migration, machine, dependencies) > 2;
    case 'PostCopy': {
      const course = dependencies.courses.get(migration.metadata.uid);
      return course !== undefined && isSilent(course, dependencies.now());
    }
  }
}
