import type { VMMigration } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import { attempt as trying } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import { recordChanged } from '../common/latest.js';
import { tolerating } from '../common/libvirt.js';
import type { Outcome } from '../common/outcome.js';
import type { Versioned, VmRecord } from '../common/records.js';
import { isFenced } from '../fenced.js';
import { hostKey } from '../host.js';
import { diskTarget } from '../vm/domain.js';
import { isOff } from './assess.js';
import { linkOf } from './move.js';
import { cas } from './ownership.js';
import { standsOnBase, withoutBase } from './relocate.js';
import { helpless, overdueMs, stillMs } from './still.js';
import { advance, finish, isUnwanted, type MigrationDependencies, pollMs, reachable, type Status, underWay } from './step.js'; // prettier-ignore
import { isFilled } from './transfer.js';

/** One that ended before it was seen is begun again so long later. */
const againMs = 10_000;

/**
 * Makes a Cached disk Local where it has arrived: the running guest's QEMU reads into it what it still lacks of its image (ADR 0008). undefined:
 * that is not asked for, or done.
 */
export async function fill(
  migration: VMMigration,
  fuid: string,
  { value: record, index }: Versioned<VmRecord>,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status> | undefined> {
  const { base } = record;
  if (!isFilled(migration, record.storage) || !base) return undefined;
  const at = hostKey(record);
  const image = `image ${base.name} of the share`;
  const giveUp = (why: string): Outcome<Status> =>
    finish(
      migration,
      'Failed',
      'DiskNotWhole',
      `the machine has moved to ${at}, but ${why}: its disk stays Cached, on ${image}`,
      dependencies,
    );
  const say = (message: string, more: Status = {}): Outcome<Status> =>
    underWay(advance(migration, 'Finalizing', 'MakingWhole', `${message} at ${at}`, dependencies, more), pollMs);
  if (record.phase !== 'Owned') return giveUp('it is moved on, or deleted, before its disk was whole');
  if (isFenced(record, dependencies)) return giveUp('that host is fenced');
  const { connection } = linkOf(reachable(record, record, dependencies, 'target'), record);
  const uuid = domainUuid(fuid);
  const asking = async <T>(call: () => Promise<T>): Promise<T> => await trying('LibvirtFailed', `target ${at}`, call);
  const machine = dependencies.objects.machine(migration.metadata.namespace, migration.spec.vmName);
  const state = await asking(() => tolerating(['NO_DOMAIN'], connection.domainState(uuid)));
  const isRunning = state !== undefined && !isOff(state);
  // A guest that ends takes the job along.
  const unlessOff = ['OPERATION_INVALID', 'NO_DOMAIN'] as const;
  const job = isRunning && (await asking(() => tolerating(unlessOff, connection.blockJob(uuid, diskTarget))));
  if (isUnwanted(migration, machine)) {
    const { DOMAIN_BLOCK_JOB_ABORT_ASYNC } = constants;
    if (job)
      await asking(
        () =>
        tolerating([...unlessOff, 'INVALID_ARG'], connection.abortBlockJob(uuid, diskTarget, DOMAIN_BLOCK_JOB_ABORT_ASYNC)), // prettier-ignore
      );
    return giveUp('making its disk whole was cancelled');
  }
  if (!isRunning)
    return machine?.spec.runStrategy === 'Stopped'
      ? giveUp('it was stopped before its disk was whole')
      : say(`the machine’s disk is made whole from ${image} when it runs again`);
  const stillFor = stillMs(migration, job ? `read ${String(job.current)}` : 'no job', dependencies);
  if (job) {
    const { current, end } = job;
    const percent = end > 0n ? Number((100n * current) / end) : 0;
    const message = `the machine’s disk is made whole from ${image} (${String(percent)} %)`;
    if (stillFor <= overdueMs) return say(message, { remainingBytes: Number(end - current) });
    const why = `${message} at ${at}, but nothing has been read for a minute: see to the share, or leave the disk Cached (spec.cancel)`;
    return helpless(migration, 'Finalizing', 'ImageNotRead', why, dependencies);
  }
  const xml = await asking(() => tolerating(['NO_DOMAIN'], connection.domainXml(uuid)));
  if (xml !== undefined && standsOnBase(xml)) {
    if (stillFor > againMs) dependencies.stills.delete(migration.metadata.uid);
    const { bandwidthMiBps = 0 } = migration.spec.policy ?? {};
    if (stillFor === 0) await asking(() => connection.pullBlocks(uuid, diskTarget, bandwidthMiBps));
    return say(`the machine’s disk is made whole from ${image}`);
  }
  await asking(async () => {
    const kept = await connection.domainXml(uuid, constants.DOMAIN_XML_INACTIVE | constants.DOMAIN_XML_SECURE);
    if (withoutBase(kept) !== kept) await connection.defineDomain(withoutBase(kept));
  });
  const { base: _, ...whole } = record;
  if (!(await cas(fuid, { ...whole, storage: 'Local' }, index, dependencies))) throw recordChanged();
  return say('the machine’s disk is whole');
}
