import type { DomainStatus, JobStats } from '../../drivers/libvirt/types.js';
import { domainUuid } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import type { HostRef, VmRecord } from '../common/records.js';
import { machineLink } from '../host.js';
import type { End } from './assess.js';
import { live } from './move.js';
import type { MigrationDependencies } from './step.js';

/** Both ends of a live move, and what the source says of its job; job: only while it is under way. */
export interface Ends {
  readonly source: End;
  readonly target: End;
  readonly job: JobStats | undefined;
  /** The source's daemon has given the job up, and QEMU has not ended it yet. */
  readonly isAborted: boolean;
}

/** One end, as its daemon shows it now. */
export async function readEnd(
  ref: HostRef | undefined,
  record: Pick<VmRecord, 'driver'>,
  fuid: string,
  { hosts }: Pick<MigrationDependencies, 'hosts'>,
): Promise<End> {
  const link = ref && machineLink(hosts.get(ref), record);
  if (!link?.isConnected) return 'unknown';
  try {
    return (await tolerating(['NO_DOMAIN'], link.connection.domainState(domainUuid(fuid)))) ?? 'absent';
  } catch {
    return 'unknown';
  }
}

export async function readEnds(
  fuid: string,
  from: HostRef,
  to: HostRef | undefined,
  dependencies: MigrationDependencies,
): Promise<Ends> {
  const readJob = async (): Promise<JobStats | 'unknown' | undefined> => {
    const link = machineLink(dependencies.hosts.get(from), live);
    if (!link?.isConnected) return 'unknown';
    try {
      return await tolerating(['NO_DOMAIN', 'OPERATION_INVALID'], link.connection.jobStats(domainUuid(fuid)));
    } catch {
      return 'unknown';
    }
  };
  // The source first: what is then found absent at the target was absent after the source was looked at.
  const [source, job] = await Promise.all([readEnd(from, live, fuid, dependencies), readJob()]);
  const target = await readEnd(to, live, fuid, dependencies);
  if (job === 'unknown') return { source: 'unknown', target, job: undefined, isAborted: false };
  const active = job?.type === 'bounded' || job?.type === 'unbounded';
  return { source, target, job: active ? job : undefined, isAborted: job?.type === 'cancelled' };
}

/** As `virsh domstate --reason` writes them, in the order of libvirt's numbers. */
const reasons: Partial<Record<DomainStatus['state'], readonly string[]>> = {
  running: [
    ...['unknown', 'booted', 'migrated', 'restored', 'from snapshot', 'unpaused', 'migration canceled'],
    ...['save canceled', 'event wakeup', 'crashed', 'post-copy', 'post-copy failed'],
  ],
  paused: [
    ...['unknown', 'user', 'migrating', 'saving', 'dumping', 'I/O error', 'watchdog', 'from snapshot', 'shutting down'],
    ...['creating snapshot', 'crashed', 'starting up', 'post-copy', 'post-copy failed'],
  ],
  shutoff: ['unknown', 'shutdown', 'destroyed', 'crashed', 'migrated', 'saved', 'failed', 'from snapshot', 'daemon'],
};

/** For people, who compare it with what virsh shows them. */
export function describe(end: End): string {
  if (end === 'unknown') return 'not to be seen';
  if (end === 'absent') return 'not there';
  const reason = reasons[end.state]?.[end.reason];
  return reason === undefined ? end.state : `${end.state} (${reason})`;
}
