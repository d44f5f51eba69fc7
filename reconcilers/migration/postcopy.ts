import type { VMMigration } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import { attempt as trying, messageOf } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import type { Outcome } from '../common/outcome.js';
import type { HostRef } from '../common/records.js';
import { hostKey } from '../host.js';
import { erase } from '../vm/erase.js';
import { assessPostCopy } from './assess.js';
import { following } from './begin.js';
import { describe, type Ends } from './ends.js';
import { addressOf, linkOf, live, Move, peerUri } from './move.js';
import { progressOf } from './progress.js';
import { overdueMs, stillMs } from './still.js';
import { advance, isUnwanted, type MigrationDependencies, pollMs, reachable, type Status, underWay } from './step.js';

/** So long nothing may arrive before the line is said to be the cause. */
const quietMs = 10_000;

/**
 * A connection that stands still for so long is dead: TCP gives up after a quarter of an hour (tcp_retries2). Until then it goes on by itself
 * when the line is back, and breaking it off could only keep the other end from ever hearing of that.
 */
const deadMs = 1_200_000;

/** The source has not noticed so long after the target has: it never will by itself, if it has nothing left to send. */
const unnoticedMs = 15_000;

const firstRetryMs = 1_000;
const longestRetryMs = 30_000;

/** A daemon that can't connect to the other knows after some two minutes. */
const unansweredMs = 180_000;

interface Places {
  readonly from: HostRef;
  readonly to: HostRef;
  /** Whether the record says that the target has the machine. */
  readonly isOwned: boolean;
}

/**
 * Carries on a move that is in post-copy: neither end has all of the guest, so that nothing is started, ended or given back; undefined: it
 * is in none, or over.
 */
export async function carryPostCopy(
  migration: VMMigration,
  fuid: string,
  ends: Ends,
  places: Places,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status> | undefined> {
  const { from, to, isOwned } = places;
  const kind = assessPostCopy(ends.source, ends.target);
  if (!kind || (kind === 'ended' && !isOwned)) return undefined;
  const [source, target] = [hostKey(from), hostKey(to)];
  const figures = ends.job ? progressOf(ends.job.params, migration.status ?? {}) : {};
  const phase = isOwned ? 'Finalizing' : 'SwitchingOver';
  const machine = dependencies.objects.machine(migration.metadata.namespace, migration.spec.vmName);
  const note = isUnwanted(migration, machine)
    ? `; it can’t be cancelled any more: the machine has begun to run at ${target}`
    : '';
  const say = (reason: string, message: string): Outcome<Status> =>
    underWay(advance(migration, phase, reason, message + note, dependencies, figures), pollMs);
  const picture = `${describe(ends.source)}, ${describe(ends.target)}, ${String(figures.transferredBytes)}`;
  const still = stillMs(migration, picture, dependencies);
  const coming = isOwned
    ? `the machine runs at ${target}; the rest of its memory comes from ${source}`
    : `switching over to ${target}`;
  const line = (): string => lineOf(places, dependencies);
  switch (kind) {
    case 'unknown':
      return say('EndUnknown', `${target} does not answer; ${source} keeps what it has of the machine’s memory`);
    case 'sending':
      if (still > deadMs) await breakOff(migration, fuid, from, dependencies);
      return still > quietMs
        ? say('Recovering', `no memory comes from ${source} to ${target} any more; ${line()}`)
        : say('PostCopy', coming);
    case 'brokenAtSource': {
      if (still > deadMs) await breakOff(migration, fuid, from, dependencies);
      // Only the daemons have lost each other then.
      if (still <= quietMs) return say('PostCopy', coming);
      // QEMU there waits for an answer that can't come, and libvirt has no way to tell it.
      const remedy =
        still > overdueMs
          ? `. If that works, end at ${target} what is left of the old connection (ss --kill, ports 49152-49215)`
          : '';
      return say('Recovering', `post-copy broke off, which ${target} has not noticed yet; ${line()}${remedy}`);
    }
    case 'brokenAtTarget':
      if (still > unnoticedMs) await breakOff(migration, fuid, from, dependencies);
      return say('Recovering', `post-copy broke off, which ${source} has not noticed yet; ${line()}`);
    case 'broken':
      return recover(migration, fuid, places, say, dependencies);
    case 'complete':
      return undefined;
    case 'ended': {
      const link = linkOf(reachable(from, live, dependencies, 'source'), live);
      await trying('LibvirtFailed', `source ${source}`, () => erase(domainUuid(fuid), link, live.driver));
      return say(
        'Recovering',
        `the guest ended at ${target} before all of its memory was there; ${source} was cleared`,
      );
    }
  }
}

/** What has to work for a move to go on, for a person to look at. */
function lineOf({ from, to }: Places, dependencies: MigrationDependencies): string {
  const target = reachable(to, live, dependencies, 'target');
  return `it goes on when ${hostKey(from)} reaches ${hostKey(to)} (${peerUri(target)}, and ${addressOf(target)} ports 49152-49215)`;
}

/** Asks the source's daemon to go on over a new connection, again and again. */
function recover(
  migration: VMMigration,
  fuid: string,
  places: Places,
  say: (reason: string, message: string) => Outcome<Status>,
  dependencies: MigrationDependencies,
): Outcome<Status> {
  const { moves, now } = dependencies;
  const { uid } = migration.metadata;
  const { from, to } = places;
  const before = moves.get(uid);
  const broke = `post-copy from ${hostKey(from)} to ${hostKey(to)} broke off`;
  if (before && !before.recovery && !before.answer.settled)
    return say('Recovering', `${broke}; the daemon has to give it up`);
  const tries = before?.recovery?.tries ?? 0;
  const { settledAtMs } = before ?? { settledAtMs: -Infinity };
  const { error } = before?.answer ?? {};
  const why = error === undefined ? before?.recovery?.why : messageOf(error);
  const pauseMs = tries === 0 ? 0 : Math.min(longestRetryMs, firstRetryMs * 2 ** tries);
  if (settledAtMs !== undefined && now() - settledAtMs >= pauseMs) {
    before?.close();
    const move = new Move({
      ...{ fuid, attempt: uid, policy: migration.spec.policy ?? {}, isTakenUp: true, makeCopies: undefined },
      source: reachable(from, live, dependencies, 'source'),
      target: reachable(to, live, dependencies, 'target'),
      assertMoving: async () => await Promise.resolve(),
      recovery: { tries: tries + 1, why, networkDowntimeMs: before?.networkDowntimeMs },
      ...following(migration, fuid, dependencies),
      onChange: () => dependencies.enqueue(migration),
    });
    moves.set(uid, move);
  }
  const isUnanswered = before && settledAtMs === undefined && now() - before.begunAtMs > unansweredMs;
  const remedy = isUnanswered
    ? `. No daemon answers: QEMU at ${hostKey(to)} may itself wait for memory that is missing. To give the guest up, end it there (virsh destroy)`
    : '';
  return say('Recovering', `${broke}${why === undefined ? '' : `: ${why}`}; ${lineOf(places, dependencies)}${remedy}`);
}

/** Has the source's daemon give up a connection that is dead, so that another can be made. */
async function breakOff(
  migration: VMMigration,
  fuid: string,
  from: HostRef,
  dependencies: MigrationDependencies,
): Promise<void> {
  const { connection } = linkOf(reachable(from, live, dependencies, 'source'), live);
  dependencies.stills.delete(migration.metadata.uid);
  dependencies.log('post-copy is broken off to be resumed', { machine: migration.spec.vmName, source: hostKey(from) });
  await trying('LibvirtFailed', `source ${hostKey(from)}`, () =>
    // QEMU may have noticed just now, and has nothing to break off then.
    tolerating(
      ['OPERATION_INVALID', 'INTERNAL_ERROR', 'NO_DOMAIN'],
      connection.abortJob(domainUuid(fuid), constants.DOMAIN_ABORT_JOB_POSTCOPY),
    ),
  );
}
