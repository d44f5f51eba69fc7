import type { FederatedVM, VMMigration } from '../../crds/index.js';
import { attempt as trying, isInterruption, messageOf, Transient } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import { isUnanswered, tolerating } from '../common/libvirt.js';
import type { Outcome } from '../common/outcome.js';
import type { HostRef, Versioned, VmRecord } from '../common/records.js';
import { hostKey, machineLink } from '../host.js';
import { assess, isLeftOver } from './assess.js';
import { startMove } from './begin.js';
import { describe, type Ends, readEnds } from './ends.js';
import type { Move } from './move.js';
import { isUnderWay, live } from './move.js';
import { assertMoving, giveBack, takeOver } from './ownership.js';
import { carryPostCopy } from './postcopy.js';
import { progressOf } from './progress.js';
import { settle } from './settle.js';
import { isOverdue, reasonToEnd, remedies, steer } from './steer.js';
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
import { awaitDaemons, isHeldOn } from './still.js';

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
  const { target } = record.value;
  const to = target ? hostKey(target) : '';
  if (move?.isHandingOver)
    return underWay(
      advance(migration, 'SwitchingOver', 'SwitchingOver', `switching over to ${to}`, dependencies),
      pollMs,
    );
  const ends = await readEnds(fuid, record.value, target, dependencies);
  const { job } = ends;
  const from = hostKey(record.value);
  const inFlight = move !== undefined && !move.answer.settled;
  const isWaiting = ends.source !== 'unknown' && ends.source !== 'absent' && ends.source.state === 'paused';
  const waiting = isWaiting ? `; at ${from} the machine is paused meanwhile, as it may run at ${to}` : '';
  const awaited = (phase: 'Copying' | 'SwitchingOver', message: string): Outcome<Status> =>
    awaitDaemons(migration, ends, [record.value, target], phase, message, dependencies);
  const verdict = assess(ends.source, ends.target, job !== undefined);
  switch (verdict) {
    case 'target':
      await takeOver(fuid, uid, dependencies);
      return await settle(migration, fuid, dependencies.directory.machine(fuid) ?? record, dependencies, ends);
    case 'unknown':
      return underWay(
        advance(
          migration,
          migration.status?.phase ?? 'Copying',
          'EndUnknown',
          `${from} or ${to} does not answer: nothing is started or removed until both do${waiting}`,
          dependencies,
        ),
        2_000,
      );
    case 'moving': {
      const places = target && { from: record.value, to: target, isOwned: false };
      const postCopy = places && (await carryPostCopy(migration, fuid, ends, places, dependencies));
      if (postCopy) return postCopy;
      await steer(migration, machine, fuid, record.value, job, dependencies);
      if (ends.isAborted && isLeftOver(ends.source, ends.target)) {
        // Else the machine could not be given back before that QEMU ends.
        if (isHeldOn(migration, ends, dependencies)) await end(target, fuid, uid, dependencies);
        const note = `the copy to ${to} was given up; waiting for the daemons to end it`;
        return underWay(advance(migration, 'Copying', 'GivingUp', note, dependencies), pollMs);
      }
      const hasBegun = (migration.status?.progressPercent ?? 0) > 0;
      const phase = !job && hasBegun ? 'SwitchingOver' : 'Copying';
      const message =
        phase === 'Copying' ? `copying ${what(record.value)} from ${from} to ${to}` : `switching over to ${to}`;
      if (!job) return awaited(phase, message);
      const figures = progressOf(job.params, migration.status ?? {});
      return underWay(advance(migration, phase, phase, message, dependencies, figures), pollMs);
    }
    case 'resumeTarget':
      if (inFlight) return awaited('SwitchingOver', `switching over to ${to}`);
      await resume(target, fuid, dependencies);
      return underWay(
        advance(migration, 'SwitchingOver', 'Recovering', `resuming the machine at ${to}`, dependencies),
        100,
      );
    case 'resumeSource':
      if (inFlight) return awaited('SwitchingOver', `switching over to ${to}`);
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
          `the machine is at neither ${from} nor ${to} as a whole: its domain is ${describe(ends.source)} and ${describe(ends.target)}; look at both hosts`,
          dependencies,
        ),
        10_000,
      );
    case 'off':
      if (inFlight) return awaited('Copying', 'waiting for the daemon’s answer');
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
      if (inFlight && !isHeldOn(migration, ends, dependencies)) {
        // No daemon may have heard of it yet: each takes but a few at a time.
        if (isUnwanted(migration, machine) || isOverdue(migration, machine, dependencies)) move.withdraw();
        return underWay(
          advance(migration, 'Copying', 'Copying', `copying ${what(record.value)} from ${from} to ${to}`, dependencies),
          pollMs,
        );
      }
      return await failedOrNotBegun(migration, machine, fuid, record, move, ends, dependencies);
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
  ends: Ends,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const from = hostKey(record.value);
  const stays = isHeldOn(migration, ends, dependencies)
    ? `the machine runs at ${from}, where QEMU has not ended the copy; it can't move before it was stopped and started`
    : `the machine runs at ${from}`;
  const overdue = reasonToEnd(migration, machine, dependencies);
  const result = isUnwanted(migration, machine)
    ? ({ phase: 'Cancelled', reason: 'Cancelled', message: `cancelled; ${stays}` } as const)
    : overdue !== undefined && isOverdue(migration, machine, dependencies)
      ? ({ phase: 'Failed', reason: overdue, message: `${remedies[overdue]}; ${stays}` } as const)
      : undefined;
  const mayGoOn = move?.mayGoOn ?? true;
  if (result && mayGoOn) await requireNothingUnderWay(fuid, record.value, dependencies);
  if (result) return await giveBack(migration, fuid, record, result, dependencies);
  if (move && !isUnanswered(move.answer.error) && !isInterruption(move.answer.error)) {
    const message = `${messageOf(move.answer.error ?? 'the daemon stopped the move')}; ${stays}`;
    return await giveBack(
      migration,
      fuid,
      record,
      { phase: 'Failed', reason: 'MigrationFailed', message },
      dependencies,
    );
  }
  // Taken up again after a restart of ours that hit between the record and the call, after the daemon's, or a break between us.
  const target = record.value.target && reachable(record.value.target, record.value, dependencies, 'target');
  if (!target) throw new Transient('RecordDamaged', 'the record of the move names no target');
  startMove(
    migration,
    fuid,
    record.value,
    mayGoOn,
    reachable(record.value, record.value, dependencies, 'source'),
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
  const ends = [
    reachable(record, record, dependencies, 'source'),
    reachable(target, record, dependencies, 'target'),
  ] as const;
  const places = `${hostKey(record)}, ${hostKey(target)}`;
  if (await trying('LibvirtFailed', places, () => isUnderWay(fuid, ...ends)))
    throw new Transient('MoveUnderWay', `the move to ${hostKey(target)} goes on; it is looked at again`);
}

/** Ends what a move that was given up has at its target, as the daemon there would. */
async function end(
  ref: HostRef | undefined,
  fuid: string,
  attempt: string,
  { hosts, store }: MigrationDependencies,
): Promise<void> {
  const link = ref && machineLink(hosts.get(ref), live);
  await assertMoving(fuid, attempt, { store });
  if (ref && link?.isConnected)
    await trying('LibvirtFailed', `target ${hostKey(ref)}`, () =>
      tolerating(['NO_DOMAIN', 'OPERATION_INVALID'], link.connection.destroyDomain(domainUuid(fuid))),
    );
}

async function resume(ref: HostRef | undefined, fuid: string, { hosts }: MigrationDependencies): Promise<void> {
  const link = ref && machineLink(hosts.get(ref), live);
  if (link?.isConnected) await tolerating(['OPERATION_INVALID'], link.connection.resumeDomain(domainUuid(fuid)));
}
