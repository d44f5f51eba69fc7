import { constants } from '../../drivers/libvirt/index.js';
import type { DomainStatus } from '../../drivers/libvirt/types.js';
import type { VMPhase } from '../../crds/index.js';

export type RunStrategy = 'Running' | 'Stopped' | 'Paused';

/** What to do so that a domain does what it should. wait: it is on its way, or only somebody else can help. */
export type PowerAction = 'none' | 'start' | 'startPaused' | 'resume' | 'suspend' | 'shutdown' | 'wait';

/** Pure. Only a pause that a user asked for is ended; one for an I/O error or a migration has a cause that remains. */
export function powerAction(wanted: RunStrategy, { state, reason }: DomainStatus): PowerAction {
  const off = state === 'shutoff' || state === 'crashed';
  switch (wanted) {
    case 'Running':
      if (off) return 'start';
      if (state === 'paused') return resumable(reason) ? 'resume' : 'wait';
      return state === 'shutdown' ? 'wait' : 'none';
    case 'Stopped':
      if (off) return 'none';
      return state === 'shutdown' ? 'wait' : 'shutdown';
    case 'Paused':
      if (off) return 'startPaused';
      return state === 'running' || state === 'blocked' ? 'suspend' : 'none';
  }
}

function resumable(reason: number): boolean {
  const reasons: readonly number[] = [
    constants.DOMAIN_PAUSED_USER,
    constants.DOMAIN_PAUSED_UNKNOWN,
    constants.DOMAIN_PAUSED_STARTING_UP,
    constants.DOMAIN_PAUSED_FROM_SNAPSHOT,
  ];
  return reasons.includes(reason);
}

export function phaseOf({ state }: DomainStatus): VMPhase {
  switch (state) {
    case 'running':
    case 'blocked':
    case 'nostate':
      return 'Running';
    case 'paused':
    case 'pmsuspended':
      return 'Paused';
    case 'shutdown':
      return 'Stopping';
    case 'shutoff':
      return 'Stopped';
    case 'crashed':
      return 'Failed';
  }
}

/** One whose init ends sooner is not started again at once, over and over. */
const restedMs = 10_000;

/** How long to wait with a start, in milliseconds, where the guest ended by itself soon after the one before; undefined: not at all. Pure. */
export function endedSoonMs(
  { state, reason }: DomainStatus,
  startedAtMs: number | undefined,
  nowMs: number,
): number | undefined {
  if (state !== 'shutoff' || reason !== constants.DOMAIN_SHUTOFF_SHUTDOWN || startedAtMs === undefined)
    return undefined;
  const leftMs = startedAtMs + restedMs - nowMs;
  return leftMs > 0 ? leftMs : undefined;
}
