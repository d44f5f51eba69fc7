import { constants } from '../../drivers/libvirt/index.js';
import type { DomainStatus } from '../../drivers/libvirt/types.js';

/** One end of a move as its daemon shows it. unknown: it does not answer, so nothing may be concluded. */
export type End = 'unknown' | 'absent' | DomainStatus;

/**
 * What both ends together say (docs: design, rules for a migration). Pure.
 * - target: the target has it, running or as the guest or the user left it, whatever the source said.
 * - source: the source has it, as the guest or the user left it; nothing is under way, the move has failed or never began.
 * - moving: memory is being copied, the ends are switching over, or an end is still being taken down.
 * - resumeTarget: the source has handed over everything, but nobody resumed the target.
 * - resumeSource: the move paused the source, the target is proven gone.
 * - off: the guest powered off or crashed midway; the source keeps it.
 * - lost: it is at neither end, or at the source only as what post-copy has left behind.
 * - unknown: an end does not answer: start, undefine, delete nothing.
 */
export type Verdict = 'target' | 'source' | 'moving' | 'resumeTarget' | 'resumeSource' | 'off' | 'lost' | 'unknown';

export const runs = (end: DomainStatus): boolean => end.state === 'running' || end.state === 'blocked';

/** A domain that is defined but off, because it moved away or never came. */
export const isOff = (end: DomainStatus): boolean => end.state === 'shutoff' || end.state === 'crashed';

export function assess(source: End, target: End, jobActive: boolean): Verdict {
  if (target !== 'unknown' && target !== 'absent' && runs(target)) return 'target';
  if (source === 'unknown' || target === 'unknown') return 'unknown';
  if (jobActive) return 'moving';
  const targetGone = target === 'absent' || isOff(target);
  if (source !== 'absent' && !isOff(source)) return targetGone ? alone(source) : 'moving';
  // The source let go only after the target had everything: a target that has lost track of it may still run it.
  if (target === 'absent') return source === 'absent' || handedOver(source) ? 'lost' : 'off';
  // Off for another reason than the move: what the target holds is not the whole guest, and libvirt takes it down.
  if (source !== 'absent' && !handedOver(source)) return targetGone ? 'off' : 'moving';
  return arrived(target);
}

/** libvirt kills the source only after the target has everything and has been resumed. */
export const handedOver = ({ state, reason }: DomainStatus): boolean =>
  state === 'shutoff' && reason === constants.DOMAIN_SHUTOFF_MIGRATED;

/** The source, where nothing is at the target. */
function alone(source: DomainStatus): Verdict {
  switch (source.state) {
    case 'paused':
      if (source.reason === constants.DOMAIN_PAUSED_MIGRATION) return 'resumeSource';
      // The guest has run on at the target since: what is here is its past, and must not run on the same disk.
      if (isPostCopy(source.reason)) return 'lost';
      return 'source';
    case 'nostate':
    case 'shutdown':
      return 'moving';
    case 'running':
    case 'blocked':
    case 'pmsuspended':
    case 'shutoff':
    case 'crashed':
      return 'source';
  }
}

/**
 * Whether the source has nothing but the past of a guest that the target has all of, and runs: its daemon was away, or cut off, when it was to
 * conclude that. It leaves the guest paused then, or even resumes it, and we pause that again.
 */
export const isPast = (source: End, target: End): boolean =>
  source !== 'unknown' &&
  source !== 'absent' &&
  (runs(source)
    ? !runsInPostCopy(source)
    : source.state === 'paused' &&
      (source.reason === constants.DOMAIN_PAUSED_MIGRATION || source.reason === constants.DOMAIN_PAUSED_USER)) &&
  target !== 'unknown' &&
  target !== 'absent' &&
  runs(target) &&
  !runsInPostCopy(target);

/** Whether the guest is the source's, and what the target has of it never ran: of a move that was given up nothing more will come of that. */
export const isLeftOver = (source: End, target: End): boolean =>
  source !== 'unknown' &&
  source !== 'absent' &&
  !isOff(source) &&
  alone(source) === 'source' &&
  target !== 'unknown' &&
  target !== 'absent' &&
  target.state === 'paused' &&
  awaitsResume(target);

/** The target, where the source has handed over. A guest that was paused before arrives paused by the user, as libvirt says it. */
function arrived(target: DomainStatus): Verdict {
  if (target.state === 'nostate') return 'moving';
  if (target.state !== 'paused') return 'target';
  if (isPostCopy(target.reason)) return 'moving';
  return awaitsResume(target) ? 'resumeTarget' : 'target';
}

/** Paused as it came, by nobody's wish. */
export function awaitsResume({ reason }: DomainStatus): boolean {
  const untouched: readonly number[] = [
    constants.DOMAIN_PAUSED_UNKNOWN,
    constants.DOMAIN_PAUSED_MIGRATION,
    constants.DOMAIN_PAUSED_STARTING_UP,
  ];
  return untouched.includes(reason);
}

const isPostCopy = (reason: number): boolean =>
  reason === constants.DOMAIN_PAUSED_POSTCOPY || reason === constants.DOMAIN_PAUSED_POSTCOPY_FAILED;

/** In post-copy, as the source is from its begin, and the target while it lacks what it needs. */
export const pausedInPostCopy = ({ state, reason }: DomainStatus): boolean => state === 'paused' && isPostCopy(reason);

/** After post-copy began: it has run here, with memory that is still at the other end. */
export const runsOnPart = (end: DomainStatus): boolean => pausedInPostCopy(end) || runsInPostCopy(end);

const runsInPostCopy = ({ state, reason }: DomainStatus): boolean =>
  state === 'running' &&
  (reason === constants.DOMAIN_RUNNING_POSTCOPY || reason === constants.DOMAIN_RUNNING_POSTCOPY_FAILED);

/**
 * What a move needs whose guest has begun to run at the target while the source has memory of it.
 * - sending: the daemons are at it.
 * - brokenAtSource: the target has not noticed yet, or only the daemons have lost each other.
 * - brokenAtTarget: the source has not noticed yet.
 * - broken: both have noticed. It goes on over another connection, if that is asked for, or not at all.
 * - complete: the target has all of the memory; the source is to let go.
 * - ended: that guest is no more; nobody can use what the source has of it.
 * - unknown: the target does not answer.
 */
export type PostCopy = 'sending' | 'brokenAtSource' | 'brokenAtTarget' | 'broken' | 'complete' | 'ended' | 'unknown';

/** From both ends' states and reasons alone, whoever has the machine on record. Pure. undefined: the source is in no post-copy, or unknown. */
export function assessPostCopy(source: End, target: End): PostCopy | undefined {
  if (source === 'unknown' || source === 'absent' || !pausedInPostCopy(source)) return undefined;
  const isBroken = source.reason === constants.DOMAIN_PAUSED_POSTCOPY_FAILED;
  if (target === 'unknown') return 'unknown';
  if (target === 'absent' || isOff(target)) return 'ended';
  if (runs(target) && target.reason === constants.DOMAIN_RUNNING_BOOTED) return 'ended';
  if (runs(target) && target.reason === constants.DOMAIN_RUNNING_MIGRATED) return 'complete';
  switch (seenAt(target)) {
    case 'broken':
      return isBroken ? 'broken' : 'brokenAtTarget';
    case 'sending':
      return isBroken ? 'brokenAtSource' : 'sending';
    case undefined:
      return isBroken ? 'broken' : 'sending';
  }
}

/** How the target sees a post-copy; undefined: what has happened to the guest since is all that it tells. */
function seenAt({ state, reason }: DomainStatus): 'sending' | 'broken' | undefined {
  if (state === 'nostate' || state === 'shutdown') return 'sending';
  if (state === 'running') {
    if (reason === constants.DOMAIN_RUNNING_POSTCOPY) return 'sending';
    return reason === constants.DOMAIN_RUNNING_POSTCOPY_FAILED ? 'broken' : undefined;
  }
  if (state !== 'paused') return undefined;
  if (reason === constants.DOMAIN_PAUSED_POSTCOPY) return 'sending';
  return reason === constants.DOMAIN_PAUSED_POSTCOPY_FAILED ? 'broken' : undefined;
}
