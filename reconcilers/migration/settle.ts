import type { VMMigration } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { JobStats } from '../../drivers/libvirt/types.js';
import { given } from '../common/given.js';
import { domainUuid } from '../common/identity.js';
import type { Outcome } from '../common/outcome.js';
import { assertUnchanged, latestMachine, recordChanged } from '../common/latest.js';
import type { Versioned, VmRecord } from '../common/records.js';
import { hostKey, machineLink } from '../host.js';
import { brokenBy, endPart, eraseAt, startedAnewAt } from './anew.js';
import { begin } from './begin.js';
import { isFenced } from '../fenced.js';
import { clearCopied, clearSource } from './clear.js';
import { assessPostCopy, isOff, isPast, runs } from './assess.js';
import { describe, type Ends, readEnds } from './ends.js';
import { carryPostCopy } from './postcopy.js';
import { fill } from './fill.js';
import { resultOf } from './progress.js';
import { helpless, overdueMs, stillMs } from './still.js';
import { advance, finish, isUnwanted, type MigrationDependencies, pollMs, type Status, underWay } from './step.js';

/** A daemon that is there concludes a move at once, and gives the other's up after half a minute. */
const concludedMs = 5_000;

/** After the record has said who owns the machine: the source is cleaned up, the figures are read, the result is told. */
export async function settle(
  migration: VMMigration,
  fuid: string,
  found: Versioned<VmRecord>,
  dependencies: MigrationDependencies,
  seen?: Ends,
): Promise<Outcome<Status>> {
  const record = found.value;
  const { uid } = migration.metadata;
  if (record.last?.attempt !== uid) return await resumeOrConclude(migration, fuid, record, dependencies);
  if (!record.last.moved) {
    const { reason, message } = record.last;
    return finish(migration, reason === 'Cancelled' ? 'Cancelled' : 'Failed', reason, message, dependencies);
  }
  const clearing = isCleared(migration, record) ? undefined : await clear(migration, fuid, found, seen, dependencies);
  if (clearing) return clearing;
  const broken = brokenBy(migration, record);
  if (broken) return finish(migration, 'Failed', broken.reason, broken.message, dependencies);
  if (migration.status?.mode === 'Offline') return concludeOffline(migration, record, dependencies);
  const figures = await figuresOf(migration, record, fuid, dependencies);
  const filling = await fill(migration, fuid, found, figures, dependencies);
  if (filling) return filling;
  const { totalTimeMs: spent, downtimeMs = 0 }: Status = figures;
  const message =
    spent === undefined
      ? `moved to ${hostKey(record)}; how long that took is not known any more`
      : `moved to ${hostKey(record)} in ${(spent / 1_000).toFixed(1)} s, downtime ${String(downtimeMs)} ms`;
  return finish(migration, 'Succeeded', 'Succeeded', message, dependencies, figures);
}

/** Whether nothing of a move that takes the disk along is left at the source: what it left there is struck off last. */
const isCleared = ({ status }: VMMigration, { last }: VmRecord): boolean =>
  status?.storage !== undefined &&
  status.storage !== 'Shared' &&
  last?.left === undefined &&
  last?.source === undefined;

/** Sees that the source has let go, and removes what it still has; undefined: it has nothing. */
async function clear(
  migration: VMMigration,
  fuid: string,
  found: Versioned<VmRecord>,
  seen: Ends | undefined,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status> | undefined> {
  const record = found.value;
  const held = await heldBySource(migration, fuid, found, seen, dependencies);
  if (held) return held;
  // A fenced target's machine may just start anew at the source: then what has been seen there is not what the move left.
  await assertUnchanged(fuid, found.index, dependencies.store);
  const move = dependencies.moves.get(migration.metadata.uid);
  if (move && !move.answer.settled) {
    const message = `the machine runs at ${hostKey(record)}; waiting for the source to let go`;
    return underWay(advance(migration, 'Finalizing', 'Finalizing', message, dependencies), pollMs);
  }
  if (await clearSource(migration, fuid, migration.status?.source, found, dependencies)) {
    const message = `the machine is at ${hostKey(record)}`;
    return underWay(advance(migration, 'Finalizing', 'Finalizing', message, dependencies), 0);
  }
  if (record.last?.left) await clearCopied(migration, fuid, found, dependencies);
  return undefined;
}

/** What the daemons tell of the move, or what was put down of that before. */
async function figuresOf(
  { metadata, status = {} }: VMMigration,
  record: VmRecord,
  fuid: string,
  dependencies: MigrationDependencies,
): Promise<Status> {
  const move = dependencies.moves.get(metadata.uid);
  const isKnown = status.totalTimeMs !== undefined;
  const completed = move?.completed ?? (isKnown ? undefined : await completedAt(record, fuid, dependencies));
  const { totalTimeMs, downtimeMs } = status;
  return {
    ...(completed ? resultOf(completed, status) : { progressPercent: 100, remainingBytes: 0, ...given({ totalTimeMs, downtimeMs }) }), // prettier-ignore
    ...given({ networkDowntimeMs: move?.networkDowntimeMs }),
  };
}

/** The target has the machine, and yet the source has a part of it, or does not let go; undefined: neither can be seen. */
async function heldBySource(
  migration: VMMigration,
  fuid: string,
  found: Versioned<VmRecord>,
  seen: Ends | undefined,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status> | undefined> {
  const record = found.value;
  const { source, mode } = migration.status ?? {};
  if (mode === 'Offline' || source?.host === undefined) return undefined;
  const from = { site: source.site, host: source.host };
  if (hostKey(from) === hostKey(record)) return undefined;
  if (isFenced(from, dependencies)) return await endPart(migration, fuid, found, from, dependencies);
  const ends = seen ?? (await readEnds(fuid, from, record, dependencies));
  if (startedAnewAt(migration, record) !== undefined && assessPostCopy(ends.source, 'absent') === 'ended') {
    const message = `the machine starts anew at ${hostKey(record)}; ${hostKey(from)}, which has a past of it, is cleared`;
    await eraseAt(from, fuid, found, dependencies);
    return underWay(advance(migration, 'Finalizing', 'Recovering', message, dependencies), 0);
  }
  const postCopy = await carryPostCopy(migration, fuid, ends, { from, to: record, isOwned: true }, dependencies);
  if (postCopy) return postCopy;
  if (ends.source === 'unknown' || ends.source === 'absent' || isOff(ends.source)) return undefined;
  const [here, there] = [hostKey(from), hostKey(record)];
  const states = `${describe(ends.source)} at ${here} and ${describe(ends.target)} at ${there}`;
  const still = stillMs(migration, states, dependencies);
  // One look at both ends takes a while, in which the guest may have gone from one to the other.
  const isTwice = runs(ends.source) && still > 0;
  if ((isTwice || still > concludedMs) && !ends.job && isPast(ends.source, ends.target)) {
    await eraseAt(from, fuid, found, dependencies);
    const message = `the machine runs at ${there}; ${here}, whose daemon has not heard of that, is cleared`;
    return underWay(advance(migration, 'Finalizing', 'Recovering', message, dependencies), 0);
  }
  if (still <= overdueMs) return undefined;
  const message = `${there} has the machine, but the source’s daemon does not end its domain: it is ${states}. Read its log, then end it at ${here} (virsh destroy)`;
  return helpless(migration, 'Finalizing', 'SourceNotOff', message, dependencies);
}

function concludeOffline(
  migration: VMMigration,
  record: VmRecord,
  dependencies: MigrationDependencies,
): Outcome<Status> {
  const { startTime, transferredBytes = 0 } = migration.status ?? {};
  const totalTimeMs = startTime === undefined ? 0 : dependencies.clock().getTime() - Date.parse(startTime);
  const message = `moved to ${hostKey(record)} in ${(totalTimeMs / 1_000).toFixed(1)} s, ${String(transferredBytes >> 20)} MiB copied; the machine was switched off`;
  const figures = { progressPercent: 100, transferredBytes, remainingBytes: 0, totalTimeMs };
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
  const begun =
    migration.status?.phaseTimestamps?.some(({ phase }) => phase !== 'Pending' && phase !== 'Preparing') ?? false;
  if (begun) {
    const { attempt, last } = (await latestMachine(fuid, dependencies.store))?.value ?? record;
    if ([attempt, last?.attempt].includes(migration.metadata.uid)) throw recordChanged();
    const message = `how it ended is no longer on record, other moves followed; the machine is at ${at}`;
    return finish(migration, 'Failed', 'Superseded', message, dependencies);
  }
  const machine = dependencies.objects.machine(migration.metadata.namespace, migration.spec.vmName);
  if (isUnwanted(migration, machine))
    return finish(migration, 'Cancelled', 'Cancelled', `cancelled; the machine runs at ${at}`, dependencies);
  return await begin(migration, machine, fuid, dependencies.directory.machine(fuid), dependencies);
}

async function completedAt(
  record: VmRecord,
  fuid: string,
  { hosts }: MigrationDependencies,
): Promise<JobStats['params'] | undefined> {
  const link = machineLink(hosts.get(record), record);
  if (!link?.isConnected) return undefined;
  const flags = constants.DOMAIN_JOB_STATS_COMPLETED | constants.DOMAIN_JOB_STATS_KEEP_COMPLETED;
  const stats = await link.connection.jobStats(domainUuid(fuid), flags).catch(() => undefined);
  return stats?.type === 'completed' ? stats.params : undefined;
}
