import type { FederatedVM, VMMigration } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { DomainStatus } from '../../drivers/libvirt/types.js';
import { attempt as trying } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import type { Outcome } from '../common/outcome.js';
import { driverOf, type HostRef, type Versioned, type VmRecord } from '../common/records.js';
import { isFenced } from '../fenced.js';
import { hostKey, type LibvirtLink, machineLink } from '../host.js';
import { erase } from '../vm/erase.js';
import { awaitsResume, handedOver, isOff, pausedInPostCopy } from './assess.js';
import { isCopied } from './offline.js';
import { giveBack, takeOver } from './ownership.js';
import { settle } from './settle.js';
import { advance, finish, isUnwanted, type MigrationDependencies, pollMs, type Status, underWay } from './step.js';

/** The end that is not fenced, as its daemon shows it. both: neither is. */
export type Rest = 'both' | 'unknown' | 'absent' | DomainStatus;

/**
 * What becomes of a move one end of which is off for good.
 * - takeOver: the target has it or, if that is what is off, had it; what the source still holds is the guest's past, or lost to it.
 * - giveBack: the source has it or had it; what the target holds never ran.
 * - resumeSource: the move paused it there.
 * - abort: the source still sends to what is off.
 * - wait: the daemon is taking it down.
 * - unknown: the other end does not answer, or both may have the latest disk.
 */
export type FencedVerdict = 'takeOver' | 'giveBack' | 'resumeSource' | 'abort' | 'wait' | 'unknown';

/** Pure. isCopied: the disk goes with it, so that each end has one of its own. */
export function assessFenced(
  end: 'source' | 'target',
  rest: Rest,
  jobActive: boolean,
  isCopied: boolean,
): FencedVerdict {
  // Off both, and on a share: whoever owns it starts it anew from the one disk.
  if (rest === 'both') return isCopied ? 'unknown' : 'giveBack';
  if (rest === 'unknown') return 'unknown';
  if (end === 'source') {
    if (rest === 'absent') return 'giveBack';
    if (rest.state === 'nostate' || rest.state === 'shutdown') return 'wait';
    return rest.state === 'paused' && awaitsResume(rest) ? 'giveBack' : 'takeOver';
  }
  if (rest === 'absent' || handedOver(rest)) return 'takeOver';
  if (pausedInPostCopy(rest)) return 'takeOver';
  if (jobActive) return 'abort';
  if (rest.state === 'nostate' || rest.state === 'shutdown') return 'wait';
  if (isOff(rest)) return 'giveBack';
  return rest.state === 'paused' && rest.reason === constants.DOMAIN_PAUSED_MIGRATION ? 'resumeSource' : 'giveBack';
}

/**
 * So, for an offline move. Pure. isWhole: all of its disk is at the target, or on a share. The domain is defined at the target only when all that it needs is there, and the source keeps its own
 * until the record names the target.
 */
export function assessFencedOffline(end: 'source' | 'target', rest: Rest, isWhole: boolean): FencedVerdict {
  if (rest === 'both') return 'giveBack';
  if (rest === 'unknown') return 'unknown';
  return end === 'source' && rest !== 'absent' && isWhole ? 'takeOver' : 'giveBack';
}

/** Resolves a move one end of which is fenced; undefined: neither is. */
export async function carryFenced(
  migration: VMMigration,
  machine: FederatedVM,
  fuid: string,
  record: Versioned<VmRecord>,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status> | undefined> {
  const { value } = record;
  const { target } = value;
  const off = [value, target].map((ref) => ref !== undefined && isFenced(ref, dependencies));
  if (!target || !off.includes(true)) return undefined;
  const end = off[0] === true ? 'source' : 'target';
  const [lost, kept]: [HostRef, HostRef] = end === 'source' ? [value, target] : [target, value];
  const link = machineLink(dependencies.hosts.get(kept), value);
  const uuid = domainUuid(fuid);
  const { rest, jobActive } = off.includes(false)
    ? await look(uuid, link)
    : ({ rest: 'both', jobActive: false } as const);
  const say = (reason: string, message: string, againMs: number): Outcome<Status> =>
    underWay(advance(migration, migration.status?.phase ?? 'Copying', reason, message, dependencies), againMs);
  const why = `${end} ${hostKey(lost)} is fenced`;
  const reason = end === 'source' ? 'SourceFenced' : 'TargetFenced';
  const act = async (call: (to: LibvirtLink) => Promise<unknown>): Promise<void> => {
    if (link) await trying('LibvirtFailed', `site ${kept.site}, host ${kept.host}`, () => call(link));
  };
  const verdict =
    value.mode === 'Offline'
      ? assessFencedOffline(end, rest, isCopied(value))
      : assessFenced(end, rest, jobActive, target.storage !== undefined);
  switch (verdict) {
    case 'unknown':
      return say('EndUnknown', `${why}; ${hostKey(kept)} has to answer before the machine is started anywhere`, 2_000);
    case 'wait':
      return say(reason, `${why}; waiting for the domain at ${hostKey(kept)} to end`, pollMs);
    case 'abort':
      await act(({ connection }) => tolerating(['OPERATION_INVALID', 'NO_DOMAIN'], connection.abortJob(uuid)));
      return say(reason, `${why}: the copy is being stopped`, pollMs);
    case 'resumeSource':
      await act(({ connection }) => tolerating(['OPERATION_INVALID'], connection.resumeDomain(uuid)));
      return say(reason, `${why}: resuming the machine at ${hostKey(kept)}`, 100);
    case 'giveBack': {
      if (end === 'source') await act((to) => erase(uuid, to, driverOf(value)));
      const phase = isUnwanted(migration, machine) ? 'Cancelled' : 'Failed';
      return await giveBack(migration, fuid, record, { phase, reason, message: `${why}; the machine is at ${hostKey(value)}` }, dependencies); // prettier-ignore
    }
    case 'takeOver': {
      if (end === 'target') await act((to) => erase(uuid, to, driverOf(value)));
      const message = `${why}, and the machine had gone over to it`;
      await takeOver(fuid, migration.metadata.uid, dependencies, end === 'target' ? { reason, message } : undefined);
      const taken = dependencies.directory.machine(fuid);
      if (end === 'source' && taken) return await settle(migration, fuid, taken, dependencies);
      return finish(migration, 'Failed', reason, message, dependencies);
    }
  }
}

async function look(uuid: string, link: LibvirtLink | undefined): Promise<{ rest: Rest; jobActive: boolean }> {
  if (!link?.isConnected) return { rest: 'unknown', jobActive: false };
  try {
    // LXC knows no jobs.
    const job = await tolerating(['NO_DOMAIN', 'OPERATION_INVALID', 'NO_SUPPORT'], link.connection.jobStats(uuid));
    const rest = (await tolerating(['NO_DOMAIN'], link.connection.domainState(uuid))) ?? 'absent';
    return { rest, jobActive: job?.type === 'bounded' || job?.type === 'unbounded' };
  } catch {
    return { rest: 'unknown', jobActive: false };
  }
}
