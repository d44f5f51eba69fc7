import type { FederatedVM, VMMigration } from '../../crds/index.js';
import type { JobStats } from '../../drivers/libvirt/types.js';
import { attempt as trying, messageOf, Transient } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import type { Outcome } from '../common/outcome.js';
import type { HostRef, Versioned, VmRecord } from '../common/records.js';
import { hostKey } from '../host.js';
import { machineSize } from '../vm/size.js';
import { assess, type End, type Verdict } from './assess.js';
import { startMove } from './begin.js';
import type { Move } from './move.js';
import { isUnderWay } from './move.js';
import { giveBack, takeOver } from './ownership.js';
import { progressOf } from './progress.js';
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

/** A copy that names no deadline gets a base, and the time that its memory takes at this rate. */
const baseDeadlineMs = 300_000;
const slowestBytesPerSecond = 1_000_000n;

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
      if (isUnwanted(migration, machine) || pastDeadline(migration, machine, dependencies))
        await abort(fuid, record.value, dependencies);
      const switching = job === undefined;
      const figures = job ? progressOf(job.params, migration.status ?? {}) : {};
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

/** It runs at the source and nothing is under way: the move was refused, aborted, or this process never began it. */
async function failedOrNotBegun(
  migration: VMMigration,
  machine: FederatedVM,
  fuid: string,
  record: Versioned<VmRecord>,
  move: Move | undefined,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const from = hostKey(record.value);
  if (isUnwanted(migration, machine)) {
    const { target } = record.value;
    if (!move && target?.storage) {
      const ends = [
        reachable(record.value, dependencies, 'source'),
        reachable(target, dependencies, 'target'),
      ] as const;
      if (await trying('LibvirtFailed', `${from}, ${hostKey(target)}`, () => isUnderWay(fuid, ...ends)))
        throw new Transient('MoveUnderWay', `the move to ${hostKey(target)} goes on; it is looked at again`);
    }
    const message = `cancelled; the machine runs at ${from}`;
    return await giveBack(migration, fuid, record, { phase: 'Cancelled', reason: 'Cancelled', message }, dependencies);
  }
  if (move) {
    const late = pastDeadline(migration, machine, dependencies);
    const why = late
      ? 'it did not finish by its deadline (spec.policy.timeoutSeconds)'
      : messageOf(move.answer.error ?? 'the daemon stopped the move');
    const message = `${why}; the machine runs at ${from}`;
    const reason = late ? 'DeadlineExceeded' : 'MigrationFailed';
    return await giveBack(migration, fuid, record, { phase: 'Failed', reason, message }, dependencies);
  }
  // Taken up again after a restart of ours that hit between the record and the call, or after the daemon's.
  const target = record.value.target && reachable(record.value.target, dependencies, 'target');
  if (!target) throw new Transient('RecordDamaged', 'the record of the move names no target');
  startMove(migration, fuid, record.value, true, reachable(record.value, dependencies, 'source'), target, dependencies);
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

function pastDeadline(
  migration: VMMigration,
  machine: FederatedVM,
  { clock, objects }: MigrationDependencies,
): boolean {
  const begun = migration.status?.phaseTimestamps?.find(({ phase }) => phase === 'Copying')?.time;
  if (begun === undefined) return false;
  const template = machine.spec.template === undefined ? undefined : objects.template(machine.spec.template);
  const { timeoutSeconds } = migration.spec.policy ?? {};
  const { memoryBytes } = machineSize(machine.spec, template?.spec);
  const allowedMs =
    timeoutSeconds === undefined
      ? baseDeadlineMs + Number(memoryBytes / slowestBytesPerSecond) * 1_000
      : timeoutSeconds * 1_000;
  return clock().getTime() - Date.parse(begun) > allowedMs;
}

async function abort(fuid: string, record: VmRecord, { hosts }: MigrationDependencies): Promise<void> {
  const link = hosts.get(record)?.qemu;
  if (link?.isConnected)
    await tolerating(['OPERATION_INVALID', 'NO_DOMAIN'], link.connection.abortJob(domainUuid(fuid)));
}

async function resume(ref: HostRef | undefined, fuid: string, { hosts }: MigrationDependencies): Promise<void> {
  const link = ref && hosts.get(ref)?.qemu;
  if (link?.isConnected) await tolerating(['OPERATION_INVALID'], link.connection.resumeDomain(domainUuid(fuid)));
}
