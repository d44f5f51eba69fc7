import type { MigrationPhase, VMMigration } from '../../crds/index.js';
import type { Outcome } from '../common/outcome.js';
import type { HostRef } from '../common/records.js';
import { hostKey } from '../host.js';
import { describe, type Ends } from './ends.js';
import { advance, type MigrationDependencies, pollMs, type Status, underWay } from './step.js';

/** What a move shows, and since when. What another process has seen of it is not known: that only makes it more patient. */
export interface Still {
  readonly picture: string;
  readonly sinceMs: number;
}

/** The daemons give each other up after 30 s, and wait as long for a guest to end. */
export const overdueMs = 60_000;
/** A copy that was given up ends at once, unless QEMU can't end it. */
const givenUpMs = 15_000;
const lookAgainMs = 10_000;

type Clocks = Pick<MigrationDependencies, 'stills' | 'now' | 'clock'>;

/** For how long a move has shown this, in milliseconds. */
export function stillMs({ metadata }: VMMigration, picture: string, { stills, now }: Omit<Clocks, 'clock'>): number {
  const before = stills.get(metadata.uid);
  if (before?.picture === picture) return now() - before.sinceMs;
  stills.set(metadata.uid, { picture, sinceMs: now() });
  return 0;
}

const pictureOf = ({ source, target }: Ends): string => `${describe(source)}, ${describe(target)}`;

/** Whether a copy was given up some time ago, and the source's daemon still waits for QEMU to end it, as it may for ever (ADR 0008). */
export const isHeldOn = (migration: VMMigration, ends: Ends, clocks: Omit<Clocks, 'clock'>): boolean =>
  ends.isAborted && stillMs(migration, pictureOf(ends), clocks) > givenUpMs;

/** Only a person can help; it is looked at all the same. */
export function helpless(
  migration: VMMigration,
  phase: MigrationPhase,
  reason: string,
  message: string,
  dependencies: Clocks,
): Outcome<Status> {
  const status = advance(migration, phase, reason, message, dependencies);
  return {
    status,
    ready: { value: false, reason, message },
    stalled: { reason, message },
    requeueAfterMs: lookAgainMs,
  };
}

/**
 * The next step is the daemons' own. Where they do not take it, nobody can tell for them which end has all of the guest: both are
 * shown to a person, who decides. Nothing is done on a guess.
 */
export function awaitDaemons(
  migration: VMMigration,
  ends: Ends,
  [from, to]: readonly [HostRef, HostRef | undefined],
  phase: MigrationPhase,
  message: string,
  dependencies: Clocks,
): Outcome<Status> {
  if (stillMs(migration, pictureOf(ends), dependencies) <= overdueMs)
    return underWay(advance(migration, phase, phase, message, dependencies), pollMs);
  const { source, target } = ends;
  const [here, there] = [hostKey(from), to ? hostKey(to) : 'the target'];
  const note =
    `no daemon goes on with the move: the domain is ${describe(source)} at ${here} and ${describe(target)} at ${there}. ` +
    `Read both daemons’ logs. If the guest is whole at ${here}, end its domain at ${there} (virsh destroy); ` +
    `if it is whole at ${there}, resume it there (virsh resume). The rest follows by itself`;
  return helpless(migration, phase, 'SwitchOverOverdue', note, dependencies);
}
