import type { FederatedVM, VMMigration } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import { consul } from '../common/allocation.js';
import { attempt as trying, messageOf, Transient } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import type { Outcome } from '../common/outcome.js';
import { recordChanged } from '../common/latest.js';
import { keys, parseRecord, type HostRef, type Versioned, vmRecord, type VmRecord } from '../common/records.js';
import { hostKey } from '../host.js';
import { changed, StaleCopy } from '../vm/copy.js';
import { findVolumes } from '../vm/disk.js';
import { machineSize } from '../vm/size.js';
import { type End, isOff } from './assess.js';
import { Copying, mayDoBetter } from './copying.js';
import { readEnd } from './ends.js';
import { linkOf } from './move.js';
import { cas, giveBack, takeOver } from './ownership.js';
import { deadlineMs } from './policy.js';
import { copyProgress } from './progress.js';
import { relocated } from './relocate.js';
import { advance, isUnwanted, type MigrationDependencies, pollMs, reachable, type Status, underWay } from './step.js';
import { extentOf, volumesAt } from './transfer.js';

/**
 * What both ends of an offline move say. Pure.
 * - unknown: an end does not answer: start, undefine, delete nothing.
 * - takeOver: it runs at the target, from a copy that is complete: somebody has started it there.
 * - occupied: it runs at the target, though what is there is not complete, or it runs at the source, too.
 * - runs: it runs at the source, which nobody but its user can have done; the source keeps it.
 * - gone: the source has forgotten it; its disk is there.
 * - copy: its disk is to be copied.
 * - hand: all that it is made of is at the target, or on a share.
 */
export type OfflineVerdict = 'unknown' | 'takeOver' | 'occupied' | 'runs' | 'gone' | 'copy' | 'hand';

export function assessOffline(source: End, target: End, isCopied: boolean): OfflineVerdict {
  if (source === 'unknown' || target === 'unknown') return 'unknown';
  const isHere = source !== 'absent' && !isOff(source);
  if (target !== 'absent' && !isOff(target)) return isCopied && !isHere ? 'takeOver' : 'occupied';
  if (isHere) return 'runs';
  if (source === 'absent') return 'gone';
  return isCopied ? 'hand' : 'copy';
}

/** Carries an offline move one step on; its machine is on record as Moving, so nobody starts it. */
export async function carryOffline(
  migration: VMMigration,
  machine: FederatedVM,
  fuid: string,
  record: Versioned<VmRecord>,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const { value } = record;
  const { target } = value;
  if (!target) throw new Transient('RecordDamaged', 'the record of the move names no target');
  const [from, to] = [hostKey(value), hostKey(target)];
  const { uid } = migration.metadata;
  const copying = dependencies.copies.get(uid);
  // One after the other: what is then found absent at the target was absent after the source was looked at.
  const source = await readEnd(value, value, fuid, dependencies);
  const verdict = assessOffline(source, await readEnd(target, value, fuid, dependencies), isCopied(value));
  const say = (reason: string, message: string, againMs: number): Outcome<Status> =>
    underWay(advance(migration, migration.status?.phase ?? 'Copying', reason, message, dependencies), againMs);
  if (verdict === 'unknown')
    return say('EndUnknown', `${from} or ${to} does not answer: nothing is undefined or removed until both do`, 2_000);
  if (verdict === 'occupied')
    return say(
      'TargetOccupied',
      `a domain of this machine runs at ${to}, and its disk is not there; look at both`,
      10_000,
    );
  if (verdict === 'takeOver') return await conclude(migration, fuid, record, dependencies);
  const end = endOf(migration, machine, verdict, from, dependencies);
  if (end) {
    copying?.close();
    if (copying?.state.kind === 'running') return say('Stopping', `${end.message}; the copy is being stopped`, 200);
    return await giveBack(migration, fuid, record, end, dependencies);
  }
  if (verdict === 'copy') return await copy(migration, fuid, record, target, copying, dependencies);
  if (migration.status?.phase !== 'SwitchingOver')
    return underWay(
      advance(migration, 'SwitchingOver', 'SwitchingOver', `handing the machine over to ${to}`, dependencies, {
        ...(target.storage ? { remainingBytes: 0 } : { transferredBytes: 0, remainingBytes: 0 }),
      }),
      0,
    );
  try {
    await define(fuid, value, target, dependencies);
  } catch (error) {
    if (!(error instanceof StaleCopy)) throw error;
    const { copy: _, ...uncopied } = value;
    await cas(fuid, uncopied, record.index, dependencies);
    throw new Transient('CopyStale', `${error.message}; it is copied anew`, { cause: error });
  }
  return await conclude(migration, fuid, record, dependencies);
}

/** Whether all of the disk is where the target finds it. */
export const isCopied = ({ target, copy }: VmRecord): boolean =>
  target?.storage === undefined || copy?.stamp !== undefined;

interface Ending {
  readonly phase: 'Failed' | 'Cancelled';
  readonly reason: string;
  readonly message: string;
}

/** Why the source keeps the machine, if it does. */
function endOf(
  migration: VMMigration,
  machine: FederatedVM,
  verdict: OfflineVerdict,
  from: string,
  { clock, objects }: MigrationDependencies,
): Ending | undefined {
  const stays = `the machine stays at ${from}`;
  if (isUnwanted(migration, machine))
    return { phase: 'Cancelled', reason: 'Cancelled', message: `cancelled; ${stays}` };
  const failed = (reason: string, why: string): Ending => ({ phase: 'Failed', reason, message: `${why}; ${stays}` });
  if (verdict === 'runs') return failed('MachineStarted', 'its domain was started at the source during the move');
  if (verdict === 'gone') return failed('DomainGone', 'its domain was undefined at the source during the move');
  if (verdict !== 'copy') return undefined;
  const { status, spec } = migration;
  const begun = status?.phaseTimestamps?.find(({ phase }) => phase === 'Copying')?.time;
  const template = machine.spec.template === undefined ? undefined : objects.template(machine.spec.template);
  const { diskBytes } = machineSize(machine.spec, template?.spec);
  if (begun !== undefined && clock().getTime() - Date.parse(begun) > deadlineMs(spec.policy ?? {}, diskBytes))
    return failed(
      'DeadlineExceeded',
      'the copy did not end by its deadline; give it more time (spec.policy.timeoutSeconds) or more bandwidth',
    );
  return undefined;
}

/** Begins the copy, tells how far it is, or puts on record that it is complete. */
async function copy(
  migration: VMMigration,
  fuid: string,
  { value, index }: Versioned<VmRecord>,
  target: HostRef & Pick<NonNullable<VmRecord['target']>, 'storage'>,
  found: Copying | undefined,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const { copies } = dependencies;
  const { uid } = migration.metadata;
  const say = (message: string, more: Status = {}): Status =>
    advance(migration, 'Copying', 'Copying', message, dependencies, more);
  const message = `copying the disk from ${hostKey(value)} to ${hostKey(target)}`;
  const write = async (copy: NonNullable<VmRecord['copy']>): Promise<void> => {
    if (!(await cas(fuid, { ...value, copy }, index, dependencies))) throw recordChanged();
  };
  if (!found) {
    reachable(value, value, dependencies, 'source');
    reachable(target, value, dependencies, 'target');
    await dependencies.clearing.get(fuid);
    const begun = new Copying({
      fuid,
      from: volumesAt(value, value.storage ?? 'Local', value, dependencies),
      to: volumesAt(target, target.storage ?? 'Local', value, dependencies),
      bandwidthMiBps: migration.spec.policy?.bandwidthMiBps,
      onChange: () => dependencies.enqueue(migration),
    });
    // Whoever began a copy before can't call it complete any more.
    await write({ id: begun.id });
    copies.set(uid, begun);
    begun.begin();
    return underWay(say(message), pollMs);
  }
  const { state, figures } = found;
  switch (state.kind) {
    case 'running':
      return underWay(
        say(message, copyProgress(figures, migration.status ?? {}, spentMs(migration, dependencies))),
        pollMs,
      );
    case 'complete': {
      if (value.copy?.id !== found.id) {
        // Our view may only lag.
        const entry = await consul('asking whose copy it is', () => dependencies.store.get(keys.vm(fuid)));
        if ((entry && parseRecord(vmRecord, entry).value.copy?.id) !== found.id) copies.delete(uid);
        throw recordChanged();
      }
      await write({ id: found.id, stamp: state.stamp });
      return underWay(say(message, copyProgress(figures, migration.status ?? {}, undefined)), 0);
    }
    case 'failed': {
      copies.delete(uid);
      const why = messageOf(state.error);
      if (mayDoBetter(state.error) || state.error instanceof StaleCopy)
        throw new Transient('CopyInterrupted', `${message}: ${why}; it is begun anew`, { cause: state.error });
      const ending = {
        phase: 'Failed',
        reason: 'MigrationFailed',
        message: `${why}; the machine stays at ${hostKey(value)}`,
      } as const;
      return await giveBack(migration, fuid, { value, index }, ending, dependencies);
    }
  }
}

/** Since this copy's phase began; undefined: not known. */
function spentMs({ status }: VMMigration, { clock }: MigrationDependencies): number | undefined {
  const begun = status?.phaseTimestamps?.find(({ phase }) => phase === 'Copying')?.time;
  return begun === undefined ? undefined : clock().getTime() - Date.parse(begun);
}

/** Defines the domain at the target as it is at the source, but for where its volumes lie; it is not started. */
async function define(
  fuid: string,
  value: VmRecord,
  target: NonNullable<VmRecord['target']>,
  dependencies: MigrationDependencies,
): Promise<void> {
  const uuid = domainUuid(fuid);
  const source = linkOf(reachable(value, value, dependencies, 'source'), value).connection;
  const there = linkOf(reachable(target, value, dependencies, 'target'), value).connection;
  const disks = volumesAt(value, value.storage ?? 'Local', value, dependencies);
  const { stamp } = value.copy ?? {};
  const stale = await trying('LibvirtFailed', `${hostKey(value)}, ${hostKey(target)}`, async () => {
    const xml = await source.domainXml(uuid, constants.DOMAIN_XML_SECURE | constants.DOMAIN_XML_INACTIVE);
    const volumes = target.storage && (await findVolumes(fuid, volumesAt(target, target.storage, value, dependencies)));
    if (target.storage && !volumes) return new StaleCopy(`the copy of the disk at ${hostKey(target)} is gone`);
    await there.defineDomain(volumes ? relocated(xml, volumes, extentOf(target.storage ?? 'Local')) : xml);
    // A start that was under way when the record was taken has come to light by now.
    const state = await tolerating(['NO_DOMAIN'], source.domainState(uuid));
    if (state && !isOff(state))
      throw new Transient(
        'MachineStarted',
        `the machine is ${state.state} at ${hostKey(value)}; it is looked at again`,
      );
    return stamp === undefined ? undefined : await changed(fuid, disks, stamp);
  });
  if (stale) throw stale;
}

async function conclude(
  migration: VMMigration,
  fuid: string,
  record: Versioned<VmRecord>,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  await takeOver(fuid, migration.metadata.uid, dependencies);
  const { target } = record.value;
  const message = `the machine is at ${target ? hostKey(target) : 'the target'}; clearing ${hostKey(record.value)}`;
  return underWay(advance(migration, 'Finalizing', 'Finalizing', message, dependencies), 0);
}
