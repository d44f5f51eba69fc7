import type { VMMigrationStatus } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { JobStats } from '../../drivers/libvirt/types.js';
import { given } from '../common/given.js';
import type { CopyFigures } from '../vm/copy.js';
import type { Look } from './policy.js';

type Figures = Pick<
  VMMigrationStatus,
  | 'progressPercent'
  | 'transferredBytes'
  | 'remainingBytes'
  | 'dirtyRateBytesPerSecond'
  | 'estimatedSecondsRemaining'
  | 'iteration'
  | 'totalTimeMs'
  | 'downtimeMs'
>;

function number(params: JobStats['params'], name: string): number | undefined {
  const value = params.get(name);
  return typeof value === 'number' || typeof value === 'bigint' ? Number(value) : undefined;
}

const defined = <T extends object>(figures: { [K in keyof T]: T[K] | undefined }): T =>
  Object.fromEntries(Object.entries(figures).filter(([, value]) => value !== undefined)) as T;

/** Figures of a running job. The percentage never runs backwards, though what remains may grow, and is 100 only at the end. */
export function progressOf(params: JobStats['params'], before: Figures): Figures {
  const total = number(params, constants.DOMAIN_JOB_DATA_TOTAL) ?? 0;
  const remaining = number(params, constants.DOMAIN_JOB_DATA_REMAINING);
  const percent = total > 0 && remaining !== undefined ? Math.floor((100 * (total - remaining)) / total) : 0;
  const pages = number(params, constants.DOMAIN_JOB_MEMORY_DIRTY_RATE);
  const dirtyRate =
    pages === undefined
      ? before.dirtyRateBytesPerSecond
      : pages * (number(params, constants.DOMAIN_JOB_MEMORY_PAGE_SIZE) ?? 4096);
  const sent =
    (number(params, constants.DOMAIN_JOB_MEMORY_BPS) ?? 0) + (number(params, constants.DOMAIN_JOB_DISK_BPS) ?? 0);
  const gained = sent - (dirtyRate ?? 0);
  return defined<Figures>({
    progressPercent: Math.max(before.progressPercent ?? 0, Math.min(percent, 99)),
    transferredBytes: number(params, constants.DOMAIN_JOB_DATA_PROCESSED) ?? before.transferredBytes,
    remainingBytes: remaining ?? before.remainingBytes,
    dirtyRateBytesPerSecond: dirtyRate,
    estimatedSecondsRemaining: remaining !== undefined && gained > 0 ? Math.ceil(remaining / gained) : undefined,
    iteration: number(params, constants.DOMAIN_JOB_MEMORY_ITERATION) ?? before.iteration,
    totalTimeMs: undefined,
    downtimeMs: undefined,
  });
}

/** Figures of a copy of our own. What is sent and the percentage never run backwards, though a copy may be begun anew. */
export function copyProgress(
  { sentBytes, totalBytes }: CopyFigures,
  before: Figures,
  spentMs: number | undefined,
): Figures {
  const remaining = totalBytes === undefined ? undefined : Math.max(0, totalBytes - sentBytes);
  const percent = totalBytes ? Math.floor((100 * sentBytes) / totalBytes) : 0;
  const perSecond = spentMs !== undefined && spentMs > 0 ? (1_000 * sentBytes) / spentMs : 0;
  return {
    progressPercent: Math.max(before.progressPercent ?? 0, Math.min(percent, 99)),
    transferredBytes: Math.max(before.transferredBytes ?? 0, sentBytes),
    ...given({
      remainingBytes: remaining,
      estimatedSecondsRemaining:
        remaining !== undefined && perSecond > 0 ? Math.ceil(remaining / perSecond) : undefined,
    }),
  };
}

/** Figures of a job that has completed. */
export function resultOf(params: JobStats['params'], before: Figures): Figures {
  return {
    ...progressOf(params, before),
    ...defined<Figures>({
      progressPercent: 100,
      remainingBytes: 0,
      totalTimeMs: number(params, constants.DOMAIN_JOB_TIME_ELAPSED),
      downtimeMs: number(params, constants.DOMAIN_JOB_DOWNTIME),
      transferredBytes: number(params, constants.DOMAIN_JOB_DATA_PROCESSED) ?? before.transferredBytes,
      dirtyRateBytesPerSecond: undefined,
      estimatedSecondsRemaining: 0,
      iteration: number(params, constants.DOMAIN_JOB_MEMORY_ITERATION) ?? before.iteration,
    }),
  };
}

/** What a running copy is judged by. */
export const lookAt = (params: JobStats['params']): Look => ({
  remainingBytes: number(params, constants.DOMAIN_JOB_DATA_REMAINING),
  transferredBytes: number(params, constants.DOMAIN_JOB_DATA_PROCESSED),
  iteration: number(params, constants.DOMAIN_JOB_MEMORY_ITERATION),
  throttlePercent: number(params, constants.DOMAIN_JOB_AUTO_CONVERGE_THROTTLE),
});
