import { kinds, type FederatedVM, type VMMigration } from '../../crds/index.js';
import { federatedUid } from '../common/allocation.js';
import type { VmRecord } from '../common/records.js';
import type { Objects } from '../objects.js';
import { assertMoving } from './ownership.js';
import { reconcileMigration } from './reconciler.js';
import { isFinal, type MigrationDependencies, place } from './step.js';

/**
 * The attempt of a move that is not over, though its VMMigration is, or is gone: somebody took the finalizer off. Nobody else ends it, so nobody
 * could start the machine, or delete it.
 */
export function orphanedAttempt(
  { metadata }: FederatedVM,
  { phase, attempt, last }: VmRecord,
  objects: Objects,
): string | undefined {
  const open = phase === 'Moving' ? attempt : (last?.source ?? last?.left) && last.attempt;
  if (open === undefined) return undefined;
  const migrations = objects.migrationsOf(metadata.namespace, metadata.name);
  const isCarried = migrations.some(
    ({ metadata: { uid }, status }) => uid === open && !(phase === 'Moving' && isFinal(status?.phase)),
  );
  return isCarried ? undefined : open;
}

/** Carries such a move one step on, as one that is cancelled. Answers how it stands. */
export async function endOrphaned(
  machine: FederatedVM,
  record: VmRecord,
  attempt: string,
  dependencies: MigrationDependencies,
): Promise<string> {
  // What this process has heard may be old: it may be over, and the next one under way.
  if (record.phase === 'Moving')
    await assertMoving(await federatedUid(dependencies.store, machine), attempt, dependencies);
  const { status } = await reconcileMigration(standIn(machine, record, attempt), dependencies);
  const how = isFinal(status.phase) ? 'is over' : 'is being ended';
  return `the move of attempt ${attempt} ${how}, its VMMigration is gone: ${status.message ?? ''}`;
}

/** What the VMMigration would say, as far as the record tells. */
const standIn = ({ metadata }: FederatedVM, record: VmRecord, attempt: string): VMMigration => {
  const { namespace, name, creationTimestamp } = metadata;
  return {
    apiVersion: kinds.VMMigration.apiVersion,
    kind: kinds.VMMigration.kind,
    metadata: { namespace, name, uid: attempt, resourceVersion: '', generation: 1, creationTimestamp },
    spec: { vmName: name, target: place(record.target ?? record), cancel: true },
    status: {
      phase: 'Copying',
      attempt,
      mode: record.mode ?? 'Live',
      source: place(record.phase === 'Moving' ? record : (record.last?.source ?? record.last?.left ?? record)),
      target: place(record.target ?? record),
    },
  };
};
