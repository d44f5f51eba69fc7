import type { FederatedVM, VMMigration } from '../../crds/index.js';
import { messageOf, Transient, Waiting } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import type { Outcome } from '../common/outcome.js';
import { recordChanged } from '../common/latest.js';
import type { Versioned, VmRecord } from '../common/records.js';
import { isFenced } from '../fenced.js';
import { type Host, hostKey, machineLink } from '../host.js';
import { createCopies } from '../vm/disk.js';
import { clearCopied, clearSource } from './clear.js';
import { live, Move, type MoveRequest } from './move.js';
import { chooseMode } from './mode.js';
import { areSwitchesFollowing, assertMoving, cas, headFor, holdBack, takeOver } from './ownership.js';
import { chooseTarget, preflight } from './preflight.js';
import {
  advance,
  Failure,
  type MigrationDependencies,
  place,
  pollMs,
  reachable,
  type Status,
  underWay,
  what,
} from './step.js';
import { extentOf, isFilled, storageNow, targetOf, volumesAt } from './transfer.js';

/** Checks everything that can be checked, then takes the record: from there on only both ends decide. */
export async function begin(
  migration: VMMigration,
  machine: FederatedVM | undefined,
  fuid: string | undefined,
  record: Versioned<VmRecord> | undefined,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const { spec, metadata } = migration;
  if (!machine || fuid === undefined)
    throw new Waiting(
      'UnknownMachine',
      `spec.vmName: there is no FederatedVM ${spec.vmName} in namespace ${metadata.namespace}; create it or name another`,
      30_000,
    );
  if (!record) throw new Waiting('MachineNotPlaced', `spec.vmName: FederatedVM ${spec.vmName} has no place yet`, 5_000);
  if (record.value.phase === 'Moving')
    throw new Waiting(
      'AnotherMigration',
      `FederatedVM ${spec.vmName} is being moved by another VMMigration; this one follows`,
      5_000,
    );
  const { last } = record.value;
  const open = dependencies.objects.openMigrations().map((each) => each.metadata.uid);
  if (last && last.attempt !== metadata.uid && open.includes(last.attempt))
    throw new Waiting(
      'AnotherMigration',
      `FederatedVM ${spec.vmName} has just been moved by another VMMigration, which is not over yet; this one follows`,
      5_000,
    );
  if (record.value.last?.source ?? record.value.last?.left) {
    // Of the move before, which found the host away: this one may go back there.
    if (record.value.last.source) await clearSource(migration, fuid, record.value.last.source, record, dependencies);
    else await clearCopied(migration, fuid, record, dependencies);
    throw new Transient('RecordChanged', 'the machine’s record changed; it is read again');
  }
  if (migration.status?.attempt !== undefined) refuseOverrun(migration, record.value, dependencies);
  const { value } = record;
  const source = reachable(value, value, dependencies, 'source');
  const target = reachable(chooseTarget(migration, machine, value, dependencies), value, dependencies, 'target');
  if (record.value.leftAt?.some((ref) => hostKey(ref) === hostKey(target)))
    throw new Waiting(
      'TargetNotCleared',
      `target ${hostKey(target)} was fenced when the machine was there; what is left of it is removed first`,
      2_000,
    );
  const storage = storageNow(machine, record.value, dependencies);
  const to = targetOf(migration, storage, target);
  const mode = chooseMode(
    migration,
    machine,
    machineLink(source, value)?.domains.get(domainUuid(fuid))?.state,
    hostKey(source),
  );
  const isNew = migration.status?.attempt === undefined;
  if (isNew) dependencies.places.check(migration, source.site);
  await preflight(migration, fuid, record.value, mode, storage, to, source, target, dependencies);
  if (isNew) {
    // Others may have gone first meanwhile. From here to the return nothing is waited for.
    dependencies.places.take(migration, source.site);
    // The intent stands in the object before anything is touched.
    const more = {
      attempt: metadata.uid,
      source: place(source),
      target: place(target),
      mode,
      storage: spec.storage === 'Copy' ? 'Copy' : storage,
      progressPercent: 0,
    } as const;
    const message = `preparing to move ${spec.vmName} from ${hostKey(source)} to ${hostKey(target)}`;
    return underWay(advance(migration, 'Preparing', 'Preparing', message, dependencies, more), 0);
  }
  const moving: VmRecord = { ...record.value, storage, phase: 'Moving', mode, attempt: metadata.uid, target: to };
  if (!(await cas(fuid, moving, record.index, dependencies))) throw recordChanged();
  if (mode === 'Offline') {
    const [phase, message] = to?.storage
      ? (['Copying', `copying the disk from ${hostKey(source)} to ${hostKey(target)}`] as const)
      : (['SwitchingOver', `handing the machine over to ${hostKey(target)}`] as const);
    return underWay(advance(migration, phase, phase, message, dependencies, { mode }), 0);
  }
  startMove(migration, fuid, moving, false, source, target, dependencies);
  return underWay(
    advance(migration, 'Copying', 'Copying', `copying ${what(moving)} to ${hostKey(target)}`, dependencies, { mode }),
    pollMs,
  );
}

/** What an intent rests on may be gone before the record was taken: it must not hold its place for ever. */
function refuseOverrun({ spec, status }: VMMigration, record: VmRecord, dependencies: MigrationDependencies): void {
  const { source, target } = status ?? {};
  if (source?.site !== record.site || source.host !== record.host)
    throw new Failure('Superseded', `FederatedVM ${spec.vmName} is at ${hostKey(record)} meanwhile; nothing was moved`);
  for (const [end, ref] of [
    ['source', source],
    ['target', target],
  ] as const)
    if (ref?.host !== undefined && isFenced({ site: ref.site, host: ref.host }, dependencies))
      throw new Failure(
        end === 'source' ? 'SourceFenced' : 'TargetFenced',
        `${end} ${ref.site}/${ref.host} is fenced; nothing was moved`,
      );
}

export function startMove(
  migration: VMMigration,
  fuid: string,
  { site, host, storage, target: to }: VmRecord,
  isTakenUp: boolean,
  source: Host,
  target: Host,
  dependencies: MigrationDependencies,
): Move {
  const attempt = migration.metadata.uid;
  dependencies.moves.get(attempt)?.close();
  // Another copy begins at nothing: it is not judged by what the last one had sent.
  dependencies.courses.delete(attempt);
  // What an earlier try has begun to switch over runs at the source after all.
  dependencies.dataplane.head(fuid, attempt, undefined);
  const move = new Move({
    fuid,
    attempt,
    source,
    target,
    policy: migration.spec.policy ?? {},
    isTakenUp,
    makeCopies:
      to?.storage &&
      (async () => {
        await dependencies.clearing.get(fuid);
        const [is, becomes] = [storage ?? 'Local', to.storage ?? 'Local'];
        const from = volumesAt({ site, host }, is, live, dependencies);
        const volumes = await createCopies(fuid, from, volumesAt(to, becomes, live, dependencies));
        return { volumes, extent: extentOf(becomes, isFilled(migration, becomes)) };
      }),
    assertMoving: async () => await assertMoving(fuid, attempt, dependencies),
    ...following(migration, fuid, dependencies),
    onChange: () => dependencies.enqueue(migration),
  });
  dependencies.moves.set(attempt, move);
  return move;
}

/** The switches follow the guest at once; the record when it runs at the target, and what the switches do hangs on that no more. */
export const following = (
  migration: VMMigration,
  fuid: string,
  dependencies: MigrationDependencies,
): Pick<MoveRequest, 'onHandOver' | 'onTakenBack' | 'onTargetRuns'> => {
  const attempt = migration.metadata.uid;
  return {
    onHandOver: async (to) => await headFor(to, fuid, attempt, dependencies),
    onTakenBack: async () => {
      try {
        if (await holdBack(fuid, attempt, dependencies)) dependencies.enqueue(migration);
      } catch (error) {
        const fields = { machine: migration.spec.vmName, error: messageOf(error) };
        dependencies.log('the source runs again, and could not be asked to wait for the target', fields);
      }
    },
    onTargetRuns: async () => {
      try {
        await takeOver(fuid, attempt, dependencies);
        return await areSwitchesFollowing(fuid, dependencies);
      } catch (error) {
        const fields = { machine: migration.spec.vmName, error: messageOf(error) };
        dependencies.log('taking over failed, tried again by the reconcile', fields);
        return false;
      }
    },
  };
};
