import type { MigrationPolicy } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { TypedParameters } from '../../drivers/libvirt/types.js';

/** What a policy leaves out, as docs/adr/0007 chose it by measurement. */
export const defaults = { maxDowntimeMs: 300, autoConverge: true } as const;

/** libvirt that can compress with Zstd: 9.4.0. */
export const oldestForZstd = 9_004_000;

/** A copy that names no deadline gets a base, and the time that its memory takes at this rate. */
const baseDeadlineMs = 300_000;
const slowestBytesPerSecond = 1_000_000n;

/** Without any gain for this long, or for some rounds of copying where those take longer, a copy stands still. */
const stallMs = 60_000;
const stallRounds = 3;

/** The least time at the switch-over is tried first: most guests need no more. */
const firstShare = 4;

/**
 * By how much a guest is slowed down that writes too fast, in percent of its time: first, and more each time. With QEMU's own 20 and 10 a slow
 * line takes twice the rounds (docs/adr/0007).
 */
const throttle = { firstPercent: 40, stepPercent: 25 } as const;

/** VIR_MIGRATE_* that the policy asks for. */
export function policyFlags({
  autoConverge = defaults.autoConverge,
  postCopy,
  compression,
  parallelConnections,
  tls,
}: MigrationPolicy): number {
  return (
    (autoConverge ? constants.MIGRATE_AUTO_CONVERGE : 0) |
    (postCopy === 'OnStall' ? constants.MIGRATE_POSTCOPY : 0) |
    (compression === 'XBZRLE' || compression === 'Zstd' ? constants.MIGRATE_COMPRESSED : 0) |
    (parallelConnections === undefined ? 0 : constants.MIGRATE_PARALLEL) |
    (tls ? constants.MIGRATE_TLS : 0)
  );
}

/** VIR_MIGRATE_PARAM_* that the policy asks for. */
export function policyParameters({
  autoConverge = defaults.autoConverge,
  bandwidthMiBps,
  postCopy,
  compression,
  parallelConnections,
}: MigrationPolicy): TypedParameters {
  const bandwidth = (name: string) =>
    ({ name, value: { type: 'ullong', value: BigInt(bandwidthMiBps ?? 0) } }) as const;
  const count = (name: string, value: number) => ({ name, value: { type: 'int', value } }) as const;
  const parameters: TypedParameters[number][] = [];
  if (autoConverge)
    parameters.push(
      count(constants.MIGRATE_PARAM_AUTO_CONVERGE_INITIAL, throttle.firstPercent),
      count(constants.MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT, throttle.stepPercent),
    );
  if (bandwidthMiBps !== undefined) {
    parameters.push(bandwidth(constants.MIGRATE_PARAM_BANDWIDTH));
    if (postCopy === 'OnStall') parameters.push(bandwidth(constants.MIGRATE_PARAM_BANDWIDTH_POSTCOPY));
  }
  if (compression !== undefined && compression !== 'None')
    parameters.push({
      name: constants.MIGRATE_PARAM_COMPRESSION,
      value: { type: 'string', value: compression.toLowerCase() },
    });
  if (parallelConnections !== undefined)
    parameters.push(count(constants.MIGRATE_PARAM_PARALLEL_CONNECTIONS, parallelConnections));
  return parameters;
}

/** How long a copy may take, in milliseconds. */
export function deadlineMs({ timeoutSeconds }: MigrationPolicy, memoryBytes: bigint): number {
  if (timeoutSeconds !== undefined) return timeoutSeconds * 1_000;
  return baseDeadlineMs + Number(memoryBytes / slowestBytesPerSecond) * 1_000;
}

/** What to do at the deadline, or when a copy stands still. */
export const onStall = ({ onStall: wanted, postCopy }: MigrationPolicy): 'Abort' | 'PostCopy' | 'Pause' =>
  wanted ?? (postCopy === 'OnStall' ? 'PostCopy' : 'Abort');

/** What the daemon tells of a copy now and then. throttlePercent: how much auto-converge slows the guest down. */
export interface Look {
  readonly remainingBytes?: number | undefined;
  readonly transferredBytes?: number | undefined;
  readonly iteration?: number | undefined;
  readonly throttlePercent?: number | undefined;
}

/** A copy so far. What this process has not seen of it is as if it began when first seen: that only makes it more patient. */
export interface Course {
  /** How long the guest may stand still now; grows to the policy's limit round by round while that does not suffice. */
  readonly downtimeMs: number;
  readonly iteration: number;
  /** When the round began that is under way, and how long the longest one before it took. */
  readonly roundAtMs: number;
  readonly longestRoundMs: number;
  /** The least that remained as a round began: within each it goes down to nearly nothing. */
  readonly lowestBytes: number;
  readonly throttlePercent: number;
  readonly transferredBytes: number;
  /** When something was sent last, and when something was gained: less remains, or the guest is slowed down more. */
  readonly sentAtMs: number;
  readonly gainedAtMs: number;
}

export const firstDowntimeMs = ({ maxDowntimeMs = defaults.maxDowntimeMs }: MigrationPolicy): number =>
  Math.max(1, Math.floor(maxDowntimeMs / firstShare));

/** The course with one more look at the daemon's figures. Pure. */
export function follow(course: Course | undefined, look: Look, policy: MigrationPolicy, nowMs: number): Course {
  const { remainingBytes = Infinity, transferredBytes = 0, iteration = 0, throttlePercent = 0 } = look;
  if (!course)
    return {
      ...{ downtimeMs: firstDowntimeMs(policy), iteration, roundAtMs: nowMs, longestRoundMs: 0 },
      ...{ lowestBytes: remainingBytes, throttlePercent, transferredBytes, sentAtMs: nowMs, gainedAtMs: nowMs },
    };
  const { maxDowntimeMs = defaults.maxDowntimeMs } = policy;
  const isNewRound = iteration > course.iteration;
  // The first round is the memory itself: all that it sends is gained.
  const isLower = remainingBytes < course.lowestBytes && (isNewRound || iteration <= 1);
  const isSlower = throttlePercent > course.throttlePercent;
  const isSent = transferredBytes > course.transferredBytes;
  return {
    // That another round followed the second says that what the guest wrote meanwhile did not fit.
    downtimeMs: isNewRound && iteration > 2 ? Math.min(maxDowntimeMs, course.downtimeMs * 2) : course.downtimeMs,
    iteration: Math.max(iteration, course.iteration),
    roundAtMs: isNewRound ? nowMs : course.roundAtMs,
    longestRoundMs: isNewRound ? Math.max(course.longestRoundMs, nowMs - course.roundAtMs) : course.longestRoundMs,
    // What the first round comes down to says nothing about the second one.
    lowestBytes: isNewRound && iteration === 2 ? remainingBytes : isLower ? remainingBytes : course.lowestBytes,
    throttlePercent: Math.max(throttlePercent, course.throttlePercent),
    transferredBytes: Math.max(transferredBytes, course.transferredBytes),
    sentAtMs: isSent ? nowMs : course.sentAtMs,
    gainedAtMs: isLower || isSlower || (isNewRound && iteration <= 2) ? nowMs : course.gainedAtMs,
  };
}

/** Whether nothing has been sent for so long that nothing will be. */
export const isSilent = ({ sentAtMs }: Course, nowMs: number): boolean => nowMs - sentAtMs > stallMs;

/** Whether nothing has been sent, or gained, for so long that nothing will be. */
export const isStalled = (course: Course, nowMs: number): boolean =>
  isSilent(course, nowMs) || nowMs - course.gainedAtMs > Math.max(stallMs, stallRounds * course.longestRoundMs);
