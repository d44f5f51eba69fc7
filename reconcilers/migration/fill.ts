import type { VMMigration } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { BlockJob, Connection } from '../../drivers/libvirt/types.js';
import { attempt as trying, messageOf } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import { assertUnchanged, recordChanged } from '../common/latest.js';
import { tolerating } from '../common/libvirt.js';
import type { Outcome } from '../common/outcome.js';
import type { Versioned, VmRecord } from '../common/records.js';
import { isFenced } from '../fenced.js';
import { hostKey } from '../host.js';
import { diskTarget } from '../vm/domain.js';
import { hasCopyOnRead, standsOnBase, withoutBase } from '../vm/chain.js';
import { linkOf } from './move.js';
import { cas } from './ownership.js';
import { helpless, overdueMs } from './still.js';
import { advance, finish, isUnwanted, type MigrationDependencies, pollMs, reachable, type Status, underWay } from './step.js'; // prettier-ignore
import { isFilled } from './transfer.js';

/** How a disk's filling gets on, as this process has seen it. Times by the monotonic clock. */
export interface Filling {
  /** Of the domain whose QEMU reads; another begins anew. */
  readonly id: number;
  /** Bytes that it has read at most, begun again or not. */
  readonly furthest: bigint;
  readonly gainedAtMs: number;
  readonly lookedAtMs: number;
  readonly begunAtMs: number;
  /** Why it could not be begun, the last time. */
  readonly why?: string;
}

/** A pull that has ended early is begun again no sooner. */
const againMs = 10_000;
/** So long nothing may be read before the disk is left as it is. */
const patienceMs = 600_000;
/** What was not looked at for so long may have got on meanwhile. */
const unseenMs = 30_000;

/** A guest that ends takes the job along, and what is known of it. */
const unlessOff = ['OPERATION_INVALID', 'NO_DOMAIN'] as const;

/** What is the case with the disk. other: QEMU does something else with it. */
type Look = { readonly id: number } & (
  { readonly kind: 'off' | 'whole' | 'hollow' } | { readonly kind: 'pulled' | 'other'; readonly job: BlockJob }
);

/**
 * Makes a Cached disk Local where it has arrived: the running guest's QEMU reads into it what it still lacks of its image (ADR 0008). undefined:
 * that is not asked for, or done. figures: of the move, which is over.
 */
export async function fill(
  migration: VMMigration,
  fuid: string,
  found: Versioned<VmRecord>,
  figures: Status,
  dependencies: MigrationDependencies,
): Promise<Outcome<Status> | undefined> {
  const { base, ...whole } = found.value;
  if (!isFilled(migration, whole.storage) || !base) return undefined;
  const { fills, now, objects } = dependencies;
  const { uid, namespace } = migration.metadata;
  const at = hostKey(whole);
  const image = `image ${base.name} of the share`;
  const { remainingBytes: _, ...moved } = figures;
  const giveUp = (why: string): Outcome<Status> => {
    const message = `the machine has moved to ${at}, but ${why}: its disk stays Cached, on ${image} (what it reads of that stays in it again once the machine was stopped and started)`;
    return finish(migration, 'Failed', 'DiskNotWhole', message, dependencies, { ...moved, progressPercent: 99 });
  };
  const say = (message: string, more: Status = {}): Outcome<Status> => {
    const status = { ...moved, progressPercent: 99, ...more };
    return underWay(advance(migration, 'Finalizing', 'MakingWhole', message, dependencies, status), pollMs);
  };
  if (whole.phase !== 'Owned') return giveUp('it is moved on, or deleted, before its disk was whole');
  if (isFenced(whole, dependencies)) return giveUp('that host is fenced');
  const { connection } = linkOf(reachable(whole, whole, dependencies, 'target'), whole);
  const uuid = domainUuid(fuid);
  const asking = async <T>(call: () => Promise<T>): Promise<T> => await trying('LibvirtFailed', `target ${at}`, call);
  const look = await asking(() => lookAt(uuid, connection));
  const machine = objects.machine(namespace, migration.spec.vmName);
  const isToRun = (machine?.spec.runStrategy ?? 'Running') === 'Running';
  const unchanged = async (): Promise<void> => await assertUnchanged(fuid, found.index, dependencies.store);
  const isFlushed = look.kind === 'whole' && (await asking(() => flush(look.id, uuid, isToRun, unchanged, connection)));
  if (isFlushed) {
    await asking(() => dropBase(uuid, unchanged, connection));
    if (!(await cas(fuid, { ...whole, storage: 'Local' }, found.index, dependencies))) throw recordChanged();
    return say(`the machine’s disk at ${at} is whole`, { remainingBytes: 0 });
  }
  if (isUnwanted(migration, machine)) {
    if (look.kind === 'pulled') await asking(() => abort(uuid, connection));
    return giveUp('making its disk whole was cancelled');
  }
  if (look.kind === 'off' && machine?.spec.runStrategy === 'Stopped')
    return giveUp('it was stopped before its disk was whole');
  if (look.kind === 'whole')
    return say(`the machine’s disk at ${at} is whole; that is recorded when the machine is not paused any more`);
  const seen = gained(fills.get(uid), look, now());
  fills.set(uid, seen);
  const silentMs = now() - seen.gainedAtMs;
  if (silentMs > patienceMs) {
    if (look.kind === 'pulled') await asking(() => abort(uuid, connection));
    return giveUp(`nothing more of it was read for ${String(patienceMs / 60_000)} minutes`);
  }
  if (look.kind === 'off') return say(`the machine’s disk is made whole from ${image} when it runs again at ${at}`);
  if (look.kind === 'other')
    return say(`the machine’s disk is made whole from ${image} when QEMU at ${at} has ended what it does with it (block job: ${look.job.type})`); // prettier-ignore
  if (look.kind === 'hollow' && now() - seen.begunAtMs >= againMs) {
    const { why: _why, ...rest } = seen;
    const begun = await asking(() => begin(uuid, connection, migration.spec.policy?.bandwidthMiBps));
    fills.set(uid, { ...rest, begunAtMs: now(), ...begun });
  }
  const message = `the machine’s disk at ${at} is made whole from ${image}`;
  if (silentMs > overdueMs) {
    const cause = seen.why === undefined ? '' : ` (${seen.why})`;
    const remedy = `nothing has been read for a minute${cause}: see to the share, and to the room in the pool at ${at}; or leave the disk Cached (spec.cancel)`;
    return helpless(migration, 'Finalizing', 'ImageNotRead', `${message}, but ${remedy}`, dependencies);
  }
  return say(message, look.kind === 'pulled' ? { remainingBytes: Number(look.job.end - look.job.current) } : {});
}

/** The definition that the machine starts from follows the running domain's; libvirt does that by itself where it finds the image in it. */
async function dropBase(uuid: string, assertOwned: () => Promise<void>, connection: Connection): Promise<void> {
  const kept = await connection.domainXml(uuid, constants.DOMAIN_XML_INACTIVE | constants.DOMAIN_XML_SECURE);
  if (!standsOnBase(kept) && !hasCopyOnRead(kept)) return;
  await assertOwned();
  await connection.defineDomain(withoutBase(kept));
}

/** In this order: libvirt forgets the job only after the definitions tell what has come of it. */
async function lookAt(uuid: string, connection: Connection): Promise<Look> {
  const { id = -1 } = (await connection.lookupDomain(uuid)) ?? {};
  if (id < 0) return { id, kind: 'off' };
  const job = await tolerating(unlessOff, connection.blockJob(uuid, diskTarget));
  if (job) return { id, kind: job.type === 'pull' ? 'pulled' : 'other', job };
  const xml = await tolerating(['NO_DOMAIN'], connection.domainXml(uuid));
  if (xml === undefined) return { id, kind: 'off' };
  return { id, kind: standsOnBase(xml) ? 'hollow' : 'whole' };
}

function gained(before: Filling | undefined, look: Look, nowMs: number): Filling {
  const { id } = look;
  const current = look.kind === 'pulled' ? look.job.current : -1n;
  // What another QEMU had read last may be lost, and this one has it before it yet.
  if (!before || before.id !== id || nowMs - before.lookedAtMs > unseenMs)
    return { id, furthest: current, gainedAtMs: nowMs, lookedAtMs: nowMs, begunAtMs: -Infinity };
  const seen = { ...before, lookedAtMs: nowMs };
  return current > before.furthest ? { ...seen, furthest: current, gainedAtMs: nowMs } : seen;
}

/** A refusal is told of, and tried again. */
async function begin(uuid: string, connection: Connection, mibPerSecond = 0): Promise<Pick<Filling, 'why'>> {
  try {
    await connection.pullBlocks(uuid, diskTarget, mibPerSecond);
    return {};
  } catch (error) {
    return { why: messageOf(error) };
  }
}

/** Not waited for: QEMU may itself wait for a share that is away. */
const abort = async (uuid: string, connection: Connection): Promise<unknown> =>
  await tolerating(
    [...unlessOff, 'INVALID_ARG'],
    connection.abortBlockJob(uuid, diskTarget, constants.DOMAIN_BLOCK_JOB_ABORT_ASYNC),
  );

/**
 * Brings all that was read to the disk: QEMU does so when it stops a guest, for a moment, and libvirt has no other way to ask for it. Until then
 * the disk would show holes after a power failure. Answers whether it did so with a disk that is whole: a guest that is paused was stopped before that.
 */
async function flush(
  id: number,
  uuid: string,
  isToRun: boolean,
  assertOwned: () => Promise<void>,
  connection: Connection,
): Promise<boolean> {
  const { state, reason } = (await tolerating(['NO_DOMAIN'], connection.domainState(uuid))) ?? {};
  const isRunning = state === 'running' || state === 'blocked';
  // Somebody who did this before us may have got no further than to stop it.
  const isStopped = state === 'paused' && reason === constants.DOMAIN_PAUSED_USER && isToRun;
  if (!isRunning && !isStopped) return false;
  await assertOwned();
  if (isRunning) await connection.suspendDomain(uuid);
  await tolerating(['OPERATION_INVALID'], connection.resumeDomain(uuid));
  if (!isRunning) return false;
  const after = await lookAt(uuid, connection);
  return after.id === id && after.kind === 'whole';
}
