import { setTimeout as sleep } from 'node:timers/promises';
import { filter, firstValueFrom, map, of, startWith, timeout } from 'rxjs';
import type { VMMigration } from '../../crds/index.js';
import { consul } from '../common/allocation.js';
import { within } from '../common/deadline.js';
import { attempt as trying, Transient } from '../common/errors.js';
import { given } from '../common/given.js';
import { latestMachine, recordChanged } from '../common/latest.js';
import { domainUuid } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import { keys, serialise, type Versioned, type VmRecord } from '../common/records.js';
import { abandoned, isFenced } from '../fenced.js';
import { hostKey, machineLink } from '../host.js';
import type { Outcome } from '../common/outcome.js';
import { deleteTransfer } from '../vm/copy.js';
import { deleteCopies } from '../vm/disk.js';
import { runs } from './assess.js';
import { readEnd } from './ends.js';
import { finish, place, type MigrationDependencies, type Status } from './step.js';
import { volumesAt } from './transfer.js';
import { undefineAt } from './undefine.js';

/** A switch that has not followed by then is away: it does when it is back. */
const followMs = 5_000;

/**
 * The target owns the machine from here; the data planes follow the record. Does nothing if that has happened. how: what the move is told
 * to have come to.
 */
export async function takeOver(
  fuid: string,
  attempt: string,
  dependencies: MigrationDependencies,
  how = { reason: 'Succeeded', message: '' },
): Promise<void> {
  const { directory } = dependencies;
  const moving = (): Versioned<VmRecord> | undefined => {
    const record = directory.machine(fuid);
    return record?.value.phase === 'Moving' && record.value.attempt === attempt ? record : undefined;
  };
  const record = moving();
  if (!record?.value.target) return;
  const { attempt: done, target, mode, copy: _, ...kept } = record.value;
  const left = target.storage && { ...place(kept), storage: kept.storage ?? 'Local' };
  const source = mode === 'Offline' ? place(kept) : undefined;
  const last = { attempt, moved: true, ...how, ...given({ left, source }) };
  const leftAt = isFenced(kept, dependencies) ? abandoned(kept, kept) : kept.leftAt;
  const generation = kept.generation + 1;
  const owned: VmRecord = {
    ...kept,
    ...given({ leftAt }),
    ...given(target),
    ...{ phase: 'Owned', generation, last },
  };
  if (await cas(fuid, owned, record.index, dependencies)) return;
  // The event of the target's resuming and the reconcile both come here: the first one has done it, of which the directory is yet to hear.
  const heard = directory.changes.pipe(
    startWith(undefined),
    filter(() => directory.machine(fuid)?.index !== record.index),
    timeout({ first: followMs, with: () => of(undefined) }),
  );
  await firstValueFrom(heard, { defaultValue: undefined });
  if (moving())
    throw new Transient('RecordChanged', `the record changed while attempt ${done} took over; it is read again`);
}

/** Whether every host's flows of the machine's networks send to where the record says; resolves when they do, or after a while. */
export async function areSwitchesFollowing(fuid: string, dependencies: MigrationDependencies): Promise<boolean> {
  const { directory } = dependencies;
  const owned = directory.changes.pipe(
    startWith(undefined),
    map(() => directory.machine(fuid)?.value),
    filter((record) => record?.phase === 'Owned'),
    timeout({ first: followMs, with: () => of(undefined) }),
  );
  const record = await firstValueFrom(owned, { defaultValue: undefined });
  return record !== undefined && (await areFlowsInForce(fuid, dependencies));
}

/** A daemon that takes so long to answer whether it runs the guest does not answer. */
const answerMs = 2_000;

/**
 * Pauses a guest that the source's daemon has resumed though it may run at the target: nobody can tell until that answers, and it must not run
 * twice. Then it goes on, where it is to. Answers whether that was necessary.
 */
export async function holdBack(fuid: string, attempt: string, dependencies: MigrationDependencies): Promise<boolean> {
  const record = dependencies.directory.machine(fuid)?.value;
  if (!record?.target || record.phase !== 'Moving' || record.attempt !== attempt) return false;
  const target = hostKey(record.target);
  const read = readEnd(record.target, record, fuid, dependencies);
  const end = await Promise.race([read, sleep(answerMs).then(() => 'unknown' as const)]);
  if (end === 'absent' || (end !== 'unknown' && !runs(end))) return false;
  const link = machineLink(dependencies.hosts.get(record), record);
  if (!link?.isConnected) return false;
  await tolerating(['OPERATION_INVALID', 'NO_DOMAIN'], link.connection.suspendDomain(domainUuid(fuid)));
  dependencies.log('the source runs the machine again, and is paused until it is known whether the target does', {
    machine: `${record.namespace}/${record.name}`,
    target,
  });
  return true;
}

/** Sends the machine's frames to the target on all hosts, or back to where the record has it. Resolves true once every host does. */
export async function headFor(
  end: 'source' | 'target',
  fuid: string,
  attempt: string,
  dependencies: MigrationDependencies,
): Promise<boolean> {
  const { directory, dataplane } = dependencies;
  const target = directory.machine(fuid)?.value.target;
  dataplane.head(fuid, attempt, end === 'target' ? target : undefined);
  return await areFlowsInForce(fuid, dependencies);
}

async function areFlowsInForce(fuid: string, { directory, dataplane, hosts }: MigrationDependencies): Promise<boolean> {
  const vnis = directory.vnisOf(fuid);
  const reports = [...hosts.all()].flatMap((host) =>
    vnis.map(async (vni) => await within(followMs, hostKey(host), dataplane.ensure(host, vni))),
  );
  return (await Promise.all(reports)).every(({ error }) => error === undefined);
}

/** The source keeps the machine, and the migration ends: why is on record with it, so that it is not begun again. */
export async function giveBack(
  migration: VMMigration,
  fuid: string,
  { value, index }: Versioned<VmRecord>,
  result: { phase: 'Failed' | 'Cancelled'; reason: string; message: string },
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const { attempt = migration.metadata.uid, target, mode, copy: _, ...kept } = value;
  const { phase, reason, message } = result;
  await assertMoving(fuid, attempt, dependencies);
  // There is no domain at the target: only what was copied so far is there. With an end that is off it stays: the two may
  // be one storage, and nobody can tell.
  const isTargetOff = target !== undefined && isFenced(target, dependencies);
  if (mode === 'Offline' && target && !isTargetOff) await undefineAt(target, value, fuid, dependencies);
  if (mode === 'Offline' && target?.storage && !isFenced(value, dependencies)) {
    const from = volumesAt(value, value.storage ?? 'Local', value, dependencies);
    await trying('LibvirtFailed', `source ${hostKey(value)}`, () => deleteTransfer(fuid, from));
  }
  if (target?.storage && !isTargetOff && !isFenced(value, dependencies)) {
    const copies = volumesAt(target, target.storage, value, dependencies);
    const kept = volumesAt(value, value.storage ?? 'Local', value, dependencies);
    await trying('LibvirtFailed', `target ${hostKey(target)}`, () => deleteCopies(fuid, copies, kept));
  }
  const last = { attempt, moved: false, reason, message };
  const leftAt = isTargetOff ? abandoned(kept, target) : kept.leftAt;
  const owned: VmRecord = { ...kept, ...given({ leftAt }), phase: 'Owned', last };
  if (!(await cas(fuid, owned, index, dependencies)))
    throw new Transient(
      'RecordChanged',
      `the record changed while the move to ${target ? hostKey(target) : ''} was given up; it is read again`,
    );
  return finish(migration, phase, reason, message, dependencies);
}

/** Asks Consul's leader: what this process has heard may be old, and what is ended or deleted at the target may be the machine by now. */
export async function assertMoving(
  fuid: string,
  attempt: string,
  { store }: Pick<MigrationDependencies, 'store'>,
): Promise<void> {
  const record = (await latestMachine(fuid, store))?.value;
  if (record?.phase !== 'Moving' || record.attempt !== attempt) throw recordChanged();
}

/** Throws Transient if this attempt has, or had, the machine, as Consul's leader knows it. */
export async function assertNotBegun(
  fuid: string,
  attempt: string,
  { store }: Pick<MigrationDependencies, 'store'>,
): Promise<void> {
  const record = (await latestMachine(fuid, store))?.value;
  if (record?.attempt === attempt || record?.last?.attempt === attempt) throw recordChanged();
}

/** Writes the machine's record, if it is still the one that was read. */
export async function cas(
  fuid: string,
  record: VmRecord,
  index: number,
  { store }: MigrationDependencies,
): Promise<boolean> {
  const result = await consul('recording the move', () =>
    store.transact([{ verb: 'cas', key: keys.vm(fuid), value: serialise(record), index }]),
  );
  return result.ok;
}
