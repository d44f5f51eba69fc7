import { constants } from '../../drivers/libvirt/index.js';
import type { DomainStatus } from '../../drivers/libvirt/types.js';

/** One end of a move as its daemon shows it. unknown: it does not answer, so nothing may be concluded. */
export type End = 'unknown' | 'absent' | DomainStatus;

/**
 * What both ends together say (docs: design, rules for a migration). Pure.
 * - target: it runs there; the target owns the machine, whatever the source said.
 * - source: it runs at the source, nothing is under way; the move has failed or never began.
 * - moving: memory is being copied, or the ends are switching over.
 * - resumeTarget: the source is proven off and everything has arrived, but nobody resumed the target.
 * - resumeSource: the source is paused, the target proven gone.
 * - off: the guest powered off or crashed midway; the source keeps it.
 * - lost: it is at neither end.
 * - unknown: an end does not answer: start, undefine, delete nothing.
 */
export type Verdict = 'target' | 'source' | 'moving' | 'resumeTarget' | 'resumeSource' | 'off' | 'lost' | 'unknown';

const runs = (end: DomainStatus): boolean => end.state === 'running' || end.state === 'blocked';

/** A domain that is defined but off, because it moved away or never came. */
const isOff = (end: DomainStatus): boolean => end.state === 'shutoff' || end.state === 'crashed';

export function assess(source: End, target: End, jobActive: boolean): Verdict {
  if (target !== 'unknown' && target !== 'absent' && runs(target)) return 'target';
  if (source === 'unknown' || target === 'unknown') return 'unknown';
  if (jobActive) return 'moving';
  const targetGone = target === 'absent' || isOff(target);
  if (source !== 'absent' && runs(source)) return targetGone ? 'source' : 'moving';
  const sourceOff = source === 'absent' || isOff(source);
  if (!sourceOff) {
    if (!targetGone) return 'moving';
    // A machine that the user paused stays paused; only what the move paused is resumed.
    return source.reason === constants.DOMAIN_PAUSED_USER ? 'source' : 'resumeSource';
  }
  if (targetGone) return source === 'absent' ? (target === 'absent' ? 'lost' : 'target') : 'off';
  // The target is there, paused, and the source is off: libvirt has handed over all that there is.
  return target.state === 'paused' && target.reason !== constants.DOMAIN_PAUSED_POSTCOPY_FAILED
    ? 'resumeTarget'
    : 'moving';
}
