import type { FederatedVM, VMMigration } from '../../crds/index.js';
import type { JobStats } from '../../drivers/libvirt/types.js';
import { attempt as trying, messageOf, Transient } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import { isUnanswered, tolerating } from '../common/libvirt.js';
import type { Outcome } from '../common/outcome.js';
import type { HostRef, Versioned, VmRecord } from '../common/records.js';
import { hostKey } from '../host.js';
import { machineSize } from '../vm/size.js';
import { assess, type End, type Verdict } from './assess.js';
import { startMove } from './begin.js';
import type { Move } from './move.js';
import { isUnderWay } from './move.js';
import { giveBack, takeOver } from './ownership.js';
import { deadlineMs, follow, isStalled, onStall } from './policy.js';
import { lookAt, progressOf } from './progress.js';
import { settle } from './settle.js';
import {
  advance,
  isUnwanted,
  type MigrationDependencies,
  pollMs,
  reachable,
  type Status,
  underWay,
  what,
} from './step.js';

interface Ends {
  readonly verdict: Verdict;
  readonly job: JobStats | undefined;
}

/** Live reads of both ends: states and reasons, and the source's job. */
async function readEnds(fuid: string, record: VmRecord, { hosts }: MigrationDependencies): Promise<Ends> {
  const read = async (ref: HostRef | undefined): Promise<End> => {
    const link = ref && hosts.get(ref)?.qemu;
    if (!link?.isConnected) return 'unknown';
    try {
      return (await tolerating(['NO_DOMAIN'], link.connection.domainState(domainUuid(fuid)))) ?? 'absent';
    } catch {
      return 'unknown';
    }
  };
  const readJob = async (): Promise<JobStats | 'unknown' | undefined> => {
    const link = hosts.get(record)?.qemu;
    if (!link?.isConnected) return 'unknown';
    try {
      return await tolerating(['NO_DOMAIN', 'OPERATION_INVALID'], link.connection.jobStats(domainUuid(fuid)));
    } catch {
      return 'unknown';
    }
  };
  // The source first: what is then found absent at the target was absent after the source was looked at.
  const [source, job] = await Promise.all([read(record), readJob()]);
  const target = await read(record.target);
  if (job === 'unknown') return { verdict: assess('unknown', target, false), job: undefined };
  const active = job !== undefined && (job.type === 'bounded' || job.type === 'unbounded');
  return { verdict: assess(source, target, active), job: active ? job : undefined };
}

export async function carryOn(
  migration: VMMigration,
  machine: FederatedVM,
  fuid: string,
  record: Versioned<VmRecord>,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const { moves } = dependencies;
  const { uid } = migration.metadata;
  const move = moves.get(uid);
  const { verdict, job } = await readEnds(fuid, record.value, dependencies);
  const from = hostKey(record.value);
  const to = record.value.target ? hostKey(record.value.target) : '';
  const inFlight = move !== undefined && !move.answer.settled;
  switch (verdict) {
    case 'target':
      await takeOver(fuid, uid, dependencies);
      return await settle(migration, fuid, dependencies.directory.machine(fuid) ?? record, dependencies);
    case 'unknown':
      return underWay(
        advance(
          migration,
          migration.status?.phase ?? 'Copying',
          'EndUnknown',
          `${from} or ${to} does not answer: nothing is started or removed until both do`,
          dependencies,
        ),
        2_000,
      );
    case 'moving': {
      const switching = job === undefined;
      const figures = job ? progressOf(job.params, migration.status ?? {}) : {};
      await steer(migration, machine, fuid, record.value, job, dependencies);
      const phase = switching && (migration.status?.progressPercent ?? 0) > 0 ? 'SwitchingOver' : 'Copying';
      const message =
        phase === 'Copying' ? `copying ${what(record.value)} from ${from} to ${to}` : `switching over to ${to}`;
      return underWay(advance(migration, phase, phase, message, dependencies, figures), pollMs);
    }
    case 'resumeTarget':
      if (inFlight)
        return underWay(
          advance(migration, 'SwitchingOver', 'SwitchingOver', `switching over to ${to}`, dependencies),
          pollMs,
        );
      await resume(record.value.target, fuid, dependencies);
      return underWay(
        advance(migration, 'SwitchingOver', 'Recovering', `resuming the machine at ${to}`, dependencies),
        100,
      );
    case 'resumeSource':
      if (inFlight)
        return underWay(
          advance(migration, 'SwitchingOver', 'SwitchingOver', `switching over to ${to}`, dependencies),
          pollMs,
        );
      await resume(record.value, fuid, dependencies);
      return underWay(
        advance(migration, 'Copying', 'Recovering', `resuming the machine at ${from}`, dependencies),
        100,
      );
    case 'lost':
      return underWay(
        advance(
          migration,
          migration.status?.phase ?? 'Copying',
          'MachineAtNeitherEnd',
          `the machine is at neither ${from} nor ${to}; look at both hosts`,
          dependencies,
        ),
        10_000,
      );
    case 'off':
      if (inFlight)
        return underWay(
          advance(migration, 'Copying', 'Copying', 'waiting for the daemon’s answer', dependencies),
          pollMs,
        );
      return await giveBack(
        migration,
        fuid,
        record,
        {
          phase: 'Failed',
          reason: 'GuestStopped',
          message: `the guest powered off or crashed during the move; it stays at ${from}`,
        },
        dependencies,
      );
    case 'source':
      if (inFlight)
        return underWay(
          advance(migration, 'Copying', 'Copying', `copying ${what(record.value)} from ${from} to ${to}`, dependencies),
          pollMs,
        );
      return await failedOrNotBegun(migration, machine, fuid, record, move, dependencies);
  }
}

/**
 * It runs at the source and nothing seems to be under way: the move was refused, aborted, or nobody has begun it. A daemon that has not
 * answered, to another process or to a connection that ended, may yet begin it.
 */
async function failedOrNotBegun(
  migration: VMMigration,
  machine: FederatedVM,
  fuid: string,
  record: Versioned<VmRecord>,
  move: Move | undefined,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const from = hostKey(record.value);
  const overdue = reasonToEnd(migration, machine, dependencies);
  const isAborted = overdue !== undefined && isToAbort(migration, machine, dependencies);
  const result = isUnwanted(migration, machine)
    ? ({ phase: 'Cancelled', reason: 'Cancelled', message: `cancelled; the machine runs at ${from}` } as const)
    : isAborted
      ? ({ phase: 'Failed', reason: overdue, message: `${remedies[overdue]}; the machine runs at ${from}` } as const)
      : undefined;
  const mayGoOn = move?.mayGoOn ?? true;
  if (result && mayGoOn) await requireNothingUnderWay(fuid, record.value, dependencies);
  if (result) return await giveBack(migration, fuid, record, result, dependencies);
  if (move && !isUnanswered(move.answer.error)) {
    const message = `${messageOf(move.answer.error ?? 'the daemon stopped the move')}; the machine runs at ${from}`;
    return await giveBack(
      migration,
      fuid,
      record,
      { phase: 'Failed', reason: 'MigrationFailed', message },
      dependencies,
    );
  }
  // Taken up again after a restart of ours that hit between the record and the call, after the daemon's, or a break between us.
  const target = record.value.target && reachable(record.value.target, dependencies, 'target');
  if (!target) throw new Transient('RecordDamaged', 'the record of the move names no target');
  startMove(
    migration,
    fuid,
    record.value,
    mayGoOn,
    reachable(record.value, dependencies, 'source'),
    target,
    dependencies,
  );
  return underWay(
    advance(
      migration,
      'Copying',
      'Copying',
      `copying ${what(record.value)} from ${from} to ${hostKey(target)}`,
      dependencies,
    ),
    pollMs,
  );
}

/**
 * What is given up belongs to the source again, and what was copied is deleted: no daemon may carry the move on after that, as it would
 * if another process has begun it just before, or we have and did not hear of it.
 */
async function requireNothingUnderWay(
  fuid: string,
  record: VmRecord,
  dependencies: MigrationDependencies,
): Promise<void> {
  const { target } = record;
  if (!target) return;
  const ends = [reachable(record, dependencies, 'source'), reachable(target, dependencies, 'target')] as const;
  const places = `${hostKey(record)}, ${hostKey(target)}`;
  if (await trying('LibvirtFailed', places, () => isUnderWay(fuid, ...ends)))
    throw new Transient('MoveUnderWay', `the move to ${hostKey(target)} goes on; it is looked at again`);
}

type Overdue = 'DeadlineExceeded' | 'Stalled';

const remedies: Readonly<Record<Overdue, string>> = {
  DeadlineExceeded:
    'the copy did not end by its deadline; give it more time (spec.policy.timeoutSeconds) or another spec.policy.onStall',
  Stalled:
    'the copy made no progress any more; look at the connection between the sites, or let it go on by spec.policy.onStall: PostCopy or Pause',
};

/** Why a copy is not waited for any longer, if so. */
function reasonToEnd(
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
async function steer(
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
  const link = hosts.get(record)?.qemu;
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
  if (isToAbort(migration, machine, dependencies)) await unlessOver(connection.abortJob(uuid));
  else if (onStall(policy) === 'PostCopy') await unlessOver(connection.startPostCopy(uuid));
  else await unlessOver(connection.suspendDomain(uuid));
}

/** Whether a copy that is not waited for any longer is given up. A paused guest is not left so for ever either. */
const isToAbort = (migration: VMMigration, machine: FederatedVM, dependencies: MigrationDependencies): boolean => {
  const action = onStall(migration.spec.policy ?? {});
  return action === 'Abort' || (action === 'Pause' && shareOfTime(migration, machine, dependencies) > 2);
};

async function resume(ref: HostRef | undefined, fuid: string, { hosts }: MigrationDependencies): Promise<void> {
  const link = ref && hosts.get(ref)?.qemu;
  if (link?.isConnected) await tolerating(['OPERATION_INVALID'], link.connection.resumeDomain(domainUuid(fuid)));
}
