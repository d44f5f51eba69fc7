import type { VMMigration } from '../../crds/index.js';
import { attempt as trying } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import { assertUnchanged, recordChanged } from '../common/latest.js';
import type { Outcome } from '../common/outcome.js';
import { driverOf, type HostRef, type Versioned, type VmRecord } from '../common/records.js';
import { hostKey } from '../host.js';
import { erase } from '../vm/erase.js';
import { runsOnPart } from './assess.js';
import { readEnd } from './ends.js';
import { linkOf } from './move.js';
import { cas } from './ownership.js';
import { advance, type MigrationDependencies, place, reachable, type Status, underWay } from './step.js';

/**
 * The source is off for good, and memory that it still had is gone with it: a guest that began at the target without, in post-copy, can't go on.
 * The machine starts anew there.
 */
export async function endPart(
  migration: VMMigration,
  fuid: string,
  found: Versioned<VmRecord>,
  from: HostRef,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status> | undefined> {
  const { value: record, index } = found;
  const { last } = record;
  const say = (reason: string, message: string, againMs: number): Outcome<Status> =>
    underWay(advance(migration, 'Finalizing', reason, message, dependencies), againMs);
  const why = `source ${hostKey(from)} is fenced`;
  const end = await readEnd(record, record, fuid, dependencies);
  if (end === 'unknown')
    return say(
      'EndUnknown',
      `${why}; whether ${hostKey(record)} has all of the machine is seen when it answers`,
      2_000,
    );
  if (!last || end === 'absent' || !runsOnPart(end)) return undefined;
  const reason = 'SourceFenced';
  const message = `${why}, with memory that ${hostKey(record)} did not have yet: the machine starts anew there`;
  // Said first: what was erased can't tell any more why.
  if (last.reason !== reason) {
    if (!(await cas(fuid, { ...record, last: { ...last, reason, message } }, index, dependencies)))
      throw recordChanged();
  } else await eraseAt(record, fuid, found, dependencies);
  return say(reason, message, 0);
}

export async function eraseAt(
  ref: HostRef,
  fuid: string,
  { value, index }: Versioned<VmRecord>,
  dependencies: MigrationDependencies,
): Promise<void> {
  const link = linkOf(reachable(ref, value, dependencies, 'target'), value);
  await assertUnchanged(fuid, index, dependencies.store);
  await trying('LibvirtFailed', hostKey(ref), () => erase(domainUuid(fuid), link, driverOf(value)));
}

/** Where the machine starts anew, because the target was fenced after it had gone there. */
export const startedAnewAt = ({ status }: VMMigration, record: VmRecord): HostRef | undefined =>
  status?.target?.host !== undefined &&
  hostKey({ site: status.target.site, host: status.target.host }) !== hostKey(record)
    ? place(record)
    : undefined;

/** Why the guest that moved is not the one that runs; undefined: it is. */
export function brokenBy(migration: VMMigration, record: VmRecord): { reason: string; message: string } | undefined {
  if (record.last && record.last.reason !== 'Succeeded') return record.last;
  const anew = startedAnewAt(migration, record);
  const message = anew && `the target was fenced after the machine had moved there; it starts anew at ${hostKey(anew)}`;
  return message === undefined ? undefined : { reason: 'TargetFenced', message };
}
