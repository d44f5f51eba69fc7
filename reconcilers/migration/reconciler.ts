import type { FederatedVM, MigrationPhase, StorageKind, VMMigration, VMMigrationStatus } from '../../crds/index.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { JobStats } from '../../drivers/libvirt/types.js';
import { consul, federatedUid } from '../common/allocation.js';
import { within } from '../common/deadline.js';
import type { Directory } from '../common/directory.js';
import {
  attempt as trying,
  isInterruption,
  messageOf,
  Transient,
  Waiting,
  type Interruption,
} from '../common/errors.js';
import { given } from '../common/given.js';
import { domainUuid, networkUuid } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import { interrupted, type Outcome } from '../common/outcome.js';
import { keys, serialise, type HostRef, type Versioned, type VmRecord } from '../common/records.js';
import type { Dataplane } from '../dataplane/dataplane.js';
import { hostKey, type Host, type Hosts } from '../host.js';
import type { Objects } from '../objects.js';
import { copySizeBytes, createCopies, deleteCopies } from '../vm/disk.js';
import { schedule } from '../vm/schedule.js';
import { machineSize } from '../vm/size.js';
import { assess, type End, type Verdict } from './assess.js';
import { isUnderWay, linkOf, Move } from './move.js';
import { progressOf, resultOf } from './progress.js';
import { storageNow, targetOf, volumesAt } from './transfer.js';

export interface MigrationDependencies {
  readonly objects: Objects;
  readonly hosts: Hosts;
  readonly directory: Directory;
  readonly dataplane: Dataplane;
  readonly store: KeyValueStore;
  /** The moves that this process started, by attempt. Losing it loses nothing: the daemons and Consul tell the rest. */
  readonly moves: Map<string, Move>;
  /** Disks that this process deletes just now, after a move, by fuid. */
  readonly clearing: Map<string, Promise<void>>;
  /** Asks for a reconcile of the migration. */
  readonly enqueue: (migration: VMMigration) => void;
  readonly log: (message: string, fields: Record<string, unknown>) => void;
  /** Wall clock, for timestamps only. */
  readonly clock: () => Date;
}

type Status = Omit<VMMigrationStatus, 'conditions' | 'observedGeneration'>;

/** How often the figures of a running copy are read. */
const pollMs = 1_000;
/** A copy that names no deadline gets a base, and the time that its memory takes at this rate. */
const baseDeadlineMs = 300_000;
/** A target's switch that does not answer in this time is not ready for a machine. */
const preflightMs = 5_000;
const slowestBytesPerSecond = 1_000_000n;

/** It will never succeed: one-shot, like a Job. */
class Failure extends Error {
  constructor(
    readonly reason: string,
    message: string,
  ) {
    super(message);
  }
}

/** Carries a move one step on, from what both ends and the ownership record show. */
export async function reconcileMigration(
  migration: VMMigration,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const status: Status = migration.status ?? {};
  if (isFinal(status.phase)) return concluded(migration, status);
  dependencies.directory.assertCurrent();
  const machine = dependencies.objects.machine(migration.metadata.namespace, migration.spec.vmName);
  const fuid = machine && (await federatedUid(dependencies.store, machine));
  if (fuid !== undefined) dependencies.directory.assertSound(fuid);
  const record = fuid === undefined ? undefined : dependencies.directory.machine(fuid);
  try {
    if (
      fuid !== undefined &&
      machine &&
      record?.value.phase === 'Moving' &&
      record.value.attempt === migration.metadata.uid
    )
      return await carryOn(migration, machine, fuid, record, dependencies);
    if (status.attempt !== undefined && fuid !== undefined && record)
      return await settle(migration, fuid, record, dependencies);
    if (!machine && status.attempt !== undefined)
      return finish(migration, 'Cancelled', 'MachineDeleted', 'the machine was deleted meanwhile', dependencies);
    if (isUnwanted(migration, machine))
      return finish(migration, 'Cancelled', 'Cancelled', 'cancelled before it began', dependencies);
    return await begin(migration, machine, fuid, record, dependencies);
  } catch (error) {
    if (error instanceof Failure) return finish(migration, 'Failed', error.reason, error.message, dependencies);
    if (isInterruption(error)) return pending(migration, error, dependencies);
    throw error;
  }
}

const isFinal = (phase: MigrationPhase | undefined): boolean =>
  phase === 'Succeeded' || phase === 'Failed' || phase === 'Cancelled';

function isUnwanted({ metadata, spec }: VMMigration, machine: FederatedVM | undefined): boolean {
  return (
    metadata.deletionTimestamp !== undefined ||
    spec.cancel === true ||
    machine?.metadata.deletionTimestamp !== undefined
  );
}

function concluded(migration: VMMigration, status: Status): Outcome<Status> {
  const ready = {
    value: status.phase === 'Succeeded',
    reason: status.reason ?? status.phase ?? 'Pending',
    message: status.message ?? '',
  };
  return {
    status,
    ready,
    ...(status.phase === 'Failed' ? { stalled: { reason: ready.reason, message: ready.message } } : {}),
    finished: migration.metadata.deletionTimestamp !== undefined,
  };
}

/** The status one step on; a phase that is entered gets its time. */
function advance(
  migration: VMMigration,
  phase: MigrationPhase,
  reason: string,
  message: string,
  { clock }: MigrationDependencies,
  more: Status = {},
): Status {
  const before: Status = migration.status ?? {};
  const time = clock().toISOString();
  const entered = before.phase !== phase;
  return {
    ...before,
    ...more,
    phase,
    reason,
    message,
    ...(before.startTime === undefined && phase !== 'Pending' ? { startTime: time } : {}),
    ...(entered ? { phaseTimestamps: [...(before.phaseTimestamps ?? []), { phase, time }] } : {}),
    ...(isFinal(phase) ? { completionTime: time } : {}),
  };
}

function underWay(status: Status, requeueAfterMs: number): Outcome<Status> {
  const reason = status.phase ?? 'Pending';
  const message = status.message ?? '';
  return { status, ready: { value: false, reason, message }, reconciling: { reason, message }, requeueAfterMs };
}

function pending(migration: VMMigration, error: Interruption, dependencies: MigrationDependencies): Outcome<Status> {
  const phase = migration.status?.phase ?? 'Pending';
  return interrupted(advance(migration, phase, error.reason, error.message, dependencies), error);
}

function finish(
  migration: VMMigration,
  phase: 'Succeeded' | 'Failed' | 'Cancelled',
  reason: string,
  message: string,
  dependencies: MigrationDependencies,
  more: Status = {},
): Outcome<Status> {
  dependencies.moves.get(migration.metadata.uid)?.close();
  dependencies.moves.delete(migration.metadata.uid);
  return concluded(migration, advance(migration, phase, reason, message, dependencies, more));
}

/** Checks everything that can be checked, then takes the record: from there on only both ends decide. */
async function begin(
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
  if (record.value.last?.left) {
    // Of the move before, which found the host away: this one may go back there.
    await clearCopied(migration, fuid, record, dependencies);
    throw new Transient('RecordChanged', 'the machine’s record changed; it is read again');
  }
  const source = reachable(record.value, dependencies, 'source');
  const target = reachable(chooseTarget(migration, machine, record.value, dependencies), dependencies, 'target');
  const storage = storageNow(machine, record.value, dependencies);
  const to = targetOf(migration, storage, target);
  await preflight(migration, fuid, record.value, storage, to, source, target, dependencies);
  if (migration.status?.attempt === undefined) {
    // The intent stands in the object before anything is touched.
    const more = {
      attempt: metadata.uid,
      source: place(source),
      target: place(target),
      storage: spec.storage === 'Copy' ? 'Copy' : storage,
      progressPercent: 0,
    } as const;
    const message = `preparing to move ${spec.vmName} from ${hostKey(source)} to ${hostKey(target)}`;
    return underWay(advance(migration, 'Preparing', 'Preparing', message, dependencies, more), 0);
  }
  const moving: VmRecord = { ...record.value, storage, phase: 'Moving', attempt: metadata.uid, target: to };
  if (!(await cas(fuid, moving, record.index, dependencies)))
    throw new Transient('RecordChanged', 'the machine’s record changed meanwhile; it is read again');
  startMove(migration, fuid, moving, false, source, target, dependencies);
  return underWay(
    advance(migration, 'Copying', 'Copying', `copying ${what(moving)} to ${hostKey(target)}`, dependencies),
    pollMs,
  );
}

const place = ({ site, host }: HostRef): HostRef => ({ site, host });

const what = ({ target }: VmRecord): string => (target?.storage ? 'disk and memory' : 'memory');

function reachable(ref: HostRef, { hosts }: MigrationDependencies, end: 'source' | 'target'): Host {
  const host = hosts.get(ref);
  if (!host?.qemu?.isConnected)
    throw new Waiting(
      'SiteUnreachable',
      `${end} ${hostKey(ref)}: ${host?.qemu?.lastError?.message ?? 'not connected'}; nothing is moved until it answers`,
      5_000,
    );
  return host;
}

function chooseTarget(
  migration: VMMigration,
  machine: FederatedVM,
  record: VmRecord,
  dependencies: MigrationDependencies,
): HostRef {
  const { spec, status } = migration;
  const { objects, directory } = dependencies;
  const { site, host } = spec.target;
  // Chosen once: what was written down with the intent is where it goes.
  if (status?.attempt !== undefined && status.target?.host !== undefined)
    return place({ ...status.target, host: status.target.host });
  if (site === record.site && (host === undefined || host === record.host))
    throw new Failure(
      'AlreadyThere',
      `spec.target: FederatedVM ${spec.vmName} already is at ${hostKey(record)}; name another site or host`,
    );
  const networks = record.interfaces.flatMap(({ network }) =>
    directory.network(network)?.value.sites ? [directory.network(network)?.value.sites ?? []] : [],
  );
  const template = machine.spec.template === undefined ? undefined : objects.template(machine.spec.template);
  const sites =
    networks.length > 0 ? networks.reduce((shared, each) => shared.filter((name) => each.includes(name))) : [];
  if (objects.site(site) && !sites.includes(site))
    throw new Failure(
      'NetworkNotAtTarget',
      `spec.target.site: not all networks of ${spec.vmName} span ${site} (they share: ${sites.join(', ')}); add the site to them or name another`,
    );
  return schedule(
    {
      ...{ size: machineSize(machine.spec, template?.spec), sites, site, host, field: 'spec.target' },
      needsShare: targetOf(migration, storageNow(machine, record, dependencies), record)?.storage !== 'Local',
    },
    objects,
    directory,
  );
}

/** What can be known beforehand, so that a move that can't succeed touches nothing. */
async function preflight(
  migration: VMMigration,
  fuid: string,
  record: VmRecord,
  storage: StorageKind,
  to: VmRecord['target'],
  source: Host,
  target: Host,
  dependencies: MigrationDependencies,
): Promise<void> {
  const { directory, dataplane } = dependencies;
  const { spec } = migration;
  const uuid = domainUuid(fuid);
  if (spec.mode === 'Offline')
    throw new Failure('ModeNotSupported', 'spec.mode: Offline is not supported by this version; use Live');
  const domain = linkOf(source).domains.get(uuid);
  if (domain?.state !== 'running' && domain?.state !== 'paused')
    throw new Failure(
      'MachineNotRunning',
      `spec.vmName: FederatedVM ${spec.vmName} is ${domain?.state ?? 'not defined'} at ${hostKey(source)}; start it (runStrategy: Running), then make a new VMMigration`,
    );
  for (const { network, name } of record.interfaces) {
    if (!directory.network(network))
      throw new Waiting('NetworkNotReady', `FederatedNetwork ${name} is not allocated`, 5_000);
    if (target.libvirt.networks.get(networkUuid(network))?.active !== true)
      throw new Waiting(
        'NetworkNotReady',
        `FederatedNetwork ${name} is not up at target ${hostKey(target)} yet`,
        2_000,
      );
  }
  const share = (host: Host): string =>
    JSON.stringify([host.siteSpec.storage?.shared?.server, host.siteSpec.storage?.shared?.path]);
  if (to?.storage) await requireSpace(fuid, record, storage, { ...to, storage: to.storage }, dependencies);
  else if (share(source) !== share(target))
    throw new Failure(
      'ShareDiffers',
      `spec.target.site: ${target.site} has another storage.shared than ${source.site}; a machine on a share moves within it, or with spec.storage: Copy`,
    );
  for (const { network, name } of record.interfaces) {
    const vni = directory.network(network)?.value.vni;
    if (vni === undefined) continue;
    const { error } = await within(preflightMs, hostKey(target), dataplane.ensure(target, vni));
    if (error !== undefined)
      throw new Waiting(
        'FlowsNotApplied',
        `FederatedNetwork ${name} has no flows at target ${hostKey(target)}: ${error}`,
        5_000,
      );
  }
  const there = await trying('LibvirtFailed', `target ${hostKey(target)}`, () =>
    linkOf(target).connection.lookupDomain(uuid),
  );
  if (there && there.id >= 0)
    throw new Failure(
      'TargetOccupied',
      `target ${hostKey(target)} already runs a domain of this machine; look at both ends`,
    );
}

const mebibytes = (bytes: bigint): string => `${String(bytes >> 20n)} MiB`;

/** Once, before anything is touched: later the copy itself has taken the space. */
async function requireSpace(
  fuid: string,
  record: VmRecord,
  storage: StorageKind,
  to: HostRef & { readonly storage: StorageKind },
  dependencies: MigrationDependencies,
): Promise<void> {
  const [from, target] = [volumesAt(record, storage, dependencies), volumesAt(to, to.storage, dependencies)];
  const [needed, pool] = await Promise.all([
    trying('LibvirtFailed', `source ${hostKey(record)}`, () => copySizeBytes(fuid, from)),
    trying('LibvirtFailed', `target ${hostKey(to)}`, () => target.via.libvirt.connection.poolInfo(target.pool)),
  ]);
  if (pool.availableBytes < needed)
    throw new Failure(
      'NoSpace',
      `target ${hostKey(to)}: pool ${target.pool} has ${mebibytes(pool.availableBytes)} free, the disk takes ${mebibytes(needed)}; make room or name another host`,
    );
}

function startMove(
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
        const from = volumesAt({ site, host }, storage ?? 'Local', dependencies);
        return await createCopies(fuid, from, volumesAt(to, to.storage ?? 'Local', dependencies));
      }),
    onTargetRuns: () => {
      void takeOver(fuid, attempt, dependencies).catch((error: unknown) => {
        dependencies.log('taking over failed, tried again by the reconcile', {
          machine: migration.spec.vmName,
          error: messageOf(error),
        });
      });
    },
    onChange: () => dependencies.enqueue(migration),
  });
  dependencies.moves.set(attempt, move);
  return move;
}

/** The target owns the machine from here; the data planes follow the record. Does nothing if that has happened. */
async function takeOver(fuid: string, attempt: string, dependencies: MigrationDependencies): Promise<void> {
  const { directory } = dependencies;
  const moving = (): Versioned<VmRecord> | undefined => {
    const record = directory.machine(fuid);
    return record?.value.phase === 'Moving' && record.value.attempt === attempt ? record : undefined;
  };
  const record = moving();
  if (!record?.value.target) return;
  const { attempt: done, target, ...kept } = record.value;
  const left = target.storage && { ...place(kept), storage: kept.storage ?? 'Local' };
  const last = { attempt, moved: true, reason: 'Succeeded', message: '', ...given({ left }) };
  const owned: VmRecord = { ...kept, ...given(target), phase: 'Owned', generation: kept.generation + 1, last };
  if (await cas(fuid, owned, record.index, dependencies)) return;
  // The event of the target's resuming and the reconcile both come here; the first one has done it.
  if (moving())
    throw new Transient('RecordChanged', `the record changed while attempt ${done} took over; it is read again`);
}

/** The source keeps the machine, and the migration ends: why is on record with it, so that it is not begun again. */
async function giveBack(
  migration: VMMigration,
  fuid: string,
  { value, index }: Versioned<VmRecord>,
  result: { phase: 'Failed' | 'Cancelled'; reason: string; message: string },
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const { attempt = migration.metadata.uid, target, ...kept } = value;
  const { phase, reason, message } = result;
  // Neither end has a domain at the target: only what was copied so far is there.
  if (target?.storage) {
    const copies = volumesAt(target, target.storage, dependencies);
    const kept = volumesAt(value, value.storage ?? 'Local', dependencies);
    await trying('LibvirtFailed', `target ${hostKey(target)}`, () => deleteCopies(fuid, copies, kept));
  }
  const owned: VmRecord = { ...kept, phase: 'Owned', last: { attempt, moved: false, reason, message } };
  if (!(await cas(fuid, owned, index, dependencies)))
    throw new Transient(
      'RecordChanged',
      `the record changed while the move to ${target ? hostKey(target) : ''} was given up; it is read again`,
    );
  return finish(migration, phase, reason, message, dependencies);
}

async function cas(fuid: string, record: VmRecord, index: number, { store }: MigrationDependencies): Promise<boolean> {
  const result = await consul('recording the move', () =>
    store.transact([{ verb: 'cas', key: keys.vm(fuid), value: serialise(record), index }]),
  );
  return result.ok;
}

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

async function carryOn(
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

/** After the record has said who owns the machine: the source is cleaned up, the figures are read, the result is told. */
async function settle(
  migration: VMMigration,
  fuid: string,
  found: Versioned<VmRecord>,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const record = found.value;
  const { source } = migration.status ?? {};
  const { uid } = migration.metadata;
  if (record.last?.attempt !== uid) return await resumeOrConclude(migration, fuid, record, dependencies);
  if (!record.last.moved) {
    const { reason, message } = record.last;
    return finish(migration, reason === 'Cancelled' ? 'Cancelled' : 'Failed', reason, message, dependencies);
  }
  const move = dependencies.moves.get(migration.metadata.uid);
  if (move && !move.answer.settled) {
    const message = `the machine runs at ${hostKey(record)}; waiting for the source to let go`;
    return underWay(advance(migration, 'Finalizing', 'Finalizing', message, dependencies), pollMs);
  }
  await clearSource(migration, fuid, source, record, dependencies);
  if (record.last.left) await clearCopied(migration, fuid, found, dependencies);
  const completed = move?.completed ?? (await completedAt(record, fuid, dependencies));
  const figures = completed ? resultOf(completed, migration.status ?? {}) : { progressPercent: 100 };
  const spent = figures.totalTimeMs ?? 0;
  const message = `moved to ${hostKey(record)} in ${(spent / 1_000).toFixed(1)} s, downtime ${String(figures.downtimeMs ?? 0)} ms`;
  return finish(migration, 'Succeeded', 'Succeeded', message, dependencies, figures);
}

/** The record does not tell of this attempt: either it was never taken, or others have moved the machine since. */
async function resumeOrConclude(
  migration: VMMigration,
  fuid: string,
  record: VmRecord,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status>> {
  const at = hostKey(record);
  const begun = migration.status?.phaseTimestamps?.some(({ phase }) => phase === 'Copying') ?? false;
  if (begun) {
    const message = `how it ended is no longer on record, other moves followed; the machine is at ${at}`;
    return finish(migration, 'Failed', 'Superseded', message, dependencies);
  }
  const machine = dependencies.objects.machine(migration.metadata.namespace, migration.spec.vmName);
  if (isUnwanted(migration, machine))
    return finish(migration, 'Cancelled', 'Cancelled', `cancelled; the machine runs at ${at}`, dependencies);
  return await begin(migration, machine, fuid, dependencies.directory.machine(fuid), dependencies);
}

/** libvirt undefines the source by itself; after a crash of its daemon it may be left over, switched off. */
async function clearSource(
  migration: VMMigration,
  fuid: string,
  source: Status['source'],
  record: VmRecord,
  { hosts }: MigrationDependencies,
): Promise<void> {
  if (source?.host === undefined || hostKey({ site: source.site, host: source.host }) === hostKey(record)) return;
  const link = hosts.get({ site: source.site, host: source.host })?.qemu;
  if (!link?.isConnected)
    throw new Waiting(
      'SiteUnreachable',
      `the machine runs at ${hostKey(record)}; waiting for ${source.site}/${source.host} to answer, to see that nothing of ${migration.spec.vmName} is left there`,
      5_000,
    );
  const { connection } = link;
  const uuid = domainUuid(fuid);
  const state = await tolerating(['NO_DOMAIN'], connection.domainState(uuid));
  if (!state) return;
  if (state.state !== 'shutoff')
    throw new Waiting(
      'SourceNotOff',
      `waiting for the domain at ${source.site}/${source.host} to end (it is ${state.state})`,
      500,
    );
  await tolerating(['NO_DOMAIN'], connection.undefineDomain(uuid, constants.DOMAIN_UNDEFINE_NVRAM));
}

/** The disk that was copied goes last of all: ownership has moved, the source is off, the target has the machine. */
async function clearCopied(
  { spec }: VMMigration,
  fuid: string,
  { value, index }: Versioned<VmRecord>,
  dependencies: MigrationDependencies,
): Promise<void> {
  const { directory, clearing } = dependencies;
  if (!value.last?.left) return;
  const { left, ...last } = value.last;
  const target = reachable(value, dependencies, 'target');
  const there = await trying('LibvirtFailed', `target ${hostKey(value)}`, () =>
    linkOf(target).connection.lookupDomain(domainUuid(fuid)),
  );
  if (!there)
    throw new Waiting(
      'MachineAtNeitherEnd',
      `${hostKey(value)} has no domain of ${spec.vmName} any more: the disk that was copied stays until that is cleared up`,
      10_000,
    );
  // Another move may be about to copy the disk back to where it is deleted: it waits for us, or we let it be.
  if (directory.machine(fuid)?.index !== index || clearing.has(fuid))
    throw new Transient('RecordChanged', 'the machine’s record changed meanwhile; it is read again');
  const kept = volumesAt(value, value.storage ?? 'Local', dependencies);
  const deleted = deleteCopies(fuid, volumesAt(left, left.storage, dependencies), kept);
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
  if (!(await cas(fuid, cleared, index, dependencies)))
    throw new Transient('RecordChanged', 'the machine’s record changed meanwhile; it is read again');
}

async function completedAt(
  record: VmRecord,
  fuid: string,
  { hosts }: MigrationDependencies,
): Promise<JobStats['params'] | undefined> {
  const link = hosts.get(record)?.qemu;
  if (!link?.isConnected) return undefined;
  const flags = constants.DOMAIN_JOB_STATS_COMPLETED | constants.DOMAIN_JOB_STATS_KEEP_COMPLETED;
  const stats = await link.connection.jobStats(domainUuid(fuid), flags).catch(() => undefined);
  return stats?.type === 'completed' ? stats.params : undefined;
}
