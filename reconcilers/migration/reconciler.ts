import type { VMMigration } from '../../crds/index.js';
import { federatedUid } from '../common/allocation.js';
import { isInterruption, Waiting } from '../common/errors.js';
import type { Outcome } from '../common/outcome.js';
import { begin } from './begin.js';
import { hostKey } from '../host.js';
import { carryOn } from './carry.js';
import { evacuates, isPointless, maintenanceEnded } from './evacuation.js';
import { carryFenced } from './fenced.js';
import { assertNotBegun } from './ownership.js';
import { carryOffline } from './offline.js';
import { settle } from './settle.js';
import {
  concluded,
  Failure,
  finish,
  isFinal,
  isUnwanted,
  type MigrationDependencies,
  pending,
  type Status,
} from './step.js';

/** Carries a move one step on, from what both ends and the ownership record show. */
export const reconcileMigration = async (
  migration: VMMigration,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> =>
  await alone(migration.metadata.uid, dependencies.carried, () => carry(migration, dependencies));

/**
 * One worker at a time for an attempt: what one gives up, and deletes at the target, another must not hand over meanwhile. Throws Waiting
 * while there is another.
 */
export async function alone<T>(attempt: string, carried: Set<string>, act: () => Promise<T>): Promise<T> {
  if (carried.has(attempt))
    throw new Waiting('MoveWithoutMigration', `attempt ${attempt} is still carried on, its VMMigration is gone`, 500);
  carried.add(attempt);
  try {
    return await act();
  } finally {
    carried.delete(attempt);
  }
}

/** So long what was chosen may be away before a move that has not begun gives its place back. */
const preparingMs = 120_000;

function isOverdueToBegin({ status }: VMMigration, { clock }: MigrationDependencies): boolean {
  const since = status?.phaseTimestamps?.find(({ phase }) => phase === 'Preparing')?.time;
  return status?.phase === 'Preparing' && since !== undefined && clock().getTime() - Date.parse(since) > preparingMs;
}

async function carry(migration: VMMigration, dependencies: MigrationDependencies): Promise<Outcome<Status>> {
  const status: Status = migration.status ?? {};
  if (isFinal(status.phase)) return concluded(migration, status);
  dependencies.directory.assertCurrent();
  const machine = dependencies.objects.machine(migration.metadata.namespace, migration.spec.vmName);
  let fuid: string | undefined;
  try {
    fuid = machine && (await federatedUid(dependencies.store, machine));
    if (fuid !== undefined) dependencies.directory.assertSound(fuid);
    const record = fuid === undefined ? undefined : dependencies.directory.machine(fuid);
    if (
      fuid !== undefined &&
      machine &&
      record?.value.phase === 'Moving' &&
      record.value.attempt === migration.metadata.uid
    )
      return (
        (await carryFenced(migration, machine, fuid, record, dependencies)) ??
        (await (record.value.mode === 'Offline' ? carryOffline : carryOn)(
          migration,
          machine,
          fuid,
          record,
          dependencies,
        ))
      );
    if (status.attempt !== undefined && fuid !== undefined && record)
      return await settle(migration, fuid, record, dependencies);
    if (!machine && status.attempt !== undefined)
      return finish(migration, 'Cancelled', 'MachineDeleted', 'the machine was deleted meanwhile', dependencies);
    if (isUnwanted(migration, machine))
      return finish(migration, 'Cancelled', 'Cancelled', 'cancelled before it began', dependencies);
    if (record && isPointless(migration, record.value, dependencies.objects.site(record.value.site)))
      return finish(
        migration,
        'Cancelled',
        maintenanceEnded,
        `${hostKey(record.value)}, where the machine is, is not in maintenance (any more); nothing was moved`,
        dependencies,
      );
    return await begin(migration, machine, fuid, record, dependencies);
  } catch (error) {
    if (status.attempt === undefined) dependencies.places.release(migration);
    if (error instanceof Failure) return finish(migration, 'Failed', error.reason, error.message, dependencies);
    if (!isInterruption(error)) throw error;
    if (fuid !== undefined && isOverdueToBegin(migration, dependencies)) {
      await assertNotBegun(fuid, migration.metadata.uid, dependencies);
      const message = `not prepared within ${String(preparingMs / 60_000)} minutes: ${error.message}; nothing was moved`;
      return finish(migration, 'Failed', 'DeadlineExceeded', message, dependencies);
    }
    // Another place may be had: the Site chooses anew.
    if (evacuates(migration) !== undefined && status.attempt === undefined && error.reason === 'NoRoom')
      return finish(migration, 'Failed', error.reason, error.message, dependencies);
    return pending(migration, error, dependencies);
  }
}
