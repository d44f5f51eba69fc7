import { Subscription } from 'rxjs';
import type { MigrationPolicy } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { JobStats, TypedParameters } from '../../drivers/libvirt/types.js';
import { Transient } from '../common/errors.js';
import { domainUuid, metadataNamespace } from '../common/identity.js';
import { isUnanswered, tolerating } from '../common/libvirt.js';
import { driverOf, type VmRecord } from '../common/records.js';
import { buildXml } from '../common/xml.js';
import type { MachineVolumes } from '../vm/disk.js';
import { hasCopyOnRead } from '../vm/chain.js';
import { diskTarget } from '../vm/domain.js';
import { type Host, type LibvirtLink, machineLink } from '../host.js';
import { firstDowntimeMs, policyFlags, policyParameters } from './policy.js';
import { type Extent, withVolumes } from './relocate.js';

/** Marks the domain, at whichever end, with the attempt that moves it. */
const attemptNamespace = `${metadataNamespace}/migration`;

/** Why a guest stops that is to run at the target next; one that somebody pauses during a move may go on at the source. */
const handOvers: ReadonlySet<number> = new Set([
  constants.DOMAIN_EVENT_SUSPENDED_MIGRATED,
  constants.DOMAIN_EVENT_SUSPENDED_POSTCOPY,
]);

/** The daemons take so long at most to hand a guest over, or both ends are looked at. */
const handOverMs = 1_000;

/** How long the daemons may show nothing of a call that was made. */
const takeUpMs = 10_000;

/** What the disk is copied into, and how much of it is copied. */
interface Copies {
  readonly volumes: MachineVolumes;
  readonly extent: Extent;
}

export interface Recovery {
  /** How often it was tried, this time included. */
  readonly tries: number;
  /** What became of the last time. */
  readonly why: string | undefined;
  readonly networkDowntimeMs: number | undefined;
}

export interface MoveRequest {
  readonly fuid: string;
  readonly attempt: string;
  readonly source: Host;
  readonly target: Host;
  readonly policy: MigrationPolicy;
  /** Makes what the disk is copied into at the target; undefined: both ends have it from the share. */
  readonly makeCopies: (() => Promise<Copies>) | undefined;
  /** Whether another process may have begun the same move just before. */
  readonly isTakenUp: boolean;
  /** Throws Transient unless this attempt still has the machine, as Consul's leader knows it. Asked before anything is made or begun. */
  readonly assertMoving: () => Promise<void>;
  /** A post-copy that broke off is resumed: both ends have all but memory. */
  readonly recovery?: Recovery;
  /**
   * Called the moment the guest stops at the source to be handed over, or runs there again: its frames go to the end that is to run it.
   * Resolves true once all switches follow.
   */
  readonly onHandOver: (to: 'source' | 'target') => Promise<boolean>;
  /**
   * Called the moment the source's daemon resumes a guest that was to run at the target: it does so when it has lost the target's daemon, too,
   * and with that the answer whether the guest runs there.
   */
  readonly onTakenBack: () => Promise<void>;
  /** Called the moment the guest runs at the target. Resolves true once all switches follow. */
  readonly onTargetRuns: () => Promise<boolean>;
  /** Called when something happened that the reconcile should look at. */
  readonly onChange: () => void;
}

/** A move that this process started. The daemons carry it on without us: this only watches. */
export class Move {
  #error: unknown;
  /** By the monotonic clock. */
  readonly begunAtMs = performance.now();
  #settledAtMs: number | undefined;
  #completed: JobStats['params'] | undefined;
  #stoppedAtMs: number | undefined;
  #isAtTarget: boolean;
  /** The guest has stopped at the source to run at the target, and does not run at the source again. */
  #isHandedOver = false;
  #networkDowntimeMs: number | undefined;
  /** Whether a daemon may have been asked to move the machine. */
  #isAsked: boolean;
  readonly #subscription = new Subscription();
  readonly #withdrawal = new AbortController();

  constructor(private readonly request: MoveRequest) {
    this.#isAsked = request.isTakenUp;
    this.#isAtTarget = request.recovery !== undefined;
    this.#networkDowntimeMs = request.recovery?.networkDowntimeMs;
    const uuid = domainUuid(request.fuid);
    const source = linkOf(request.source, live);
    const target = linkOf(request.target, live);
    this.#subscription.add(
      target.lifecycle.subscribe((event) => {
        if (event.uuid !== uuid) return;
        // A post-copy tells of it once more when it ends, or is recovered.
        if (event.event === 'resumed' && !this.#isAtTarget) {
          this.#isAtTarget = true;
          void this.#forwarded(request.onTargetRuns());
        }
        // Questions to the daemons while they switch over would only lengthen it, so just these two are followed up.
        if (event.event === 'resumed' || event.event === 'stopped') request.onChange();
      }),
    );
    this.#subscription.add(
      source.lifecycle.subscribe((event) => {
        if (event.uuid !== uuid || this.#isAtTarget) return;
        if (event.event === 'resumed') {
          this.#stoppedAtMs = this.#networkDowntimeMs = undefined;
          void request.onHandOver('source');
          if (this.#isHandedOver) void request.onTakenBack();
          this.#isHandedOver = false;
        }
        if (event.event !== 'suspended') return;
        this.#stoppedAtMs = performance.now();
        if (!handOvers.has(event.detail)) return;
        this.#isHandedOver = true;
        void this.#forwarded(request.onHandOver('target'));
        // It is told, without asking the daemons anything: isHandingOver.
        request.onChange();
      }),
    );
    this.#subscription.add(
      source.connection.events.jobCompleted.subscribe(({ domain, params }) => {
        if (domain.uuid !== uuid) return;
        this.#completed = params;
        request.onChange();
      }),
    );
    void this.#run(uuid, source);
  }

  /** Whether the daemon has answered, and with which error. The answer proves nothing about who has the machine. */
  get answer(): { readonly settled: boolean; readonly error: unknown } {
    return { settled: this.#settledAtMs !== undefined, error: this.#error };
  }

  /** When the daemon answered, by the monotonic clock. */
  get settledAtMs(): number | undefined {
    return this.#settledAtMs;
  }

  /** Whether the guest has just stopped at the source, to run at the target next: questions to the daemons would only keep it from that. */
  get isHandingOver(): boolean {
    const stoppedForMs = this.#stoppedAtMs === undefined ? Infinity : performance.now() - this.#stoppedAtMs;
    return !this.#isAtTarget && stoppedForMs < handOverMs;
  }

  get recovery(): Recovery | undefined {
    return this.request.recovery;
  }

  /** Whether the daemons may carry it on, or yet begin it, though it has settled: the connection ended before they had answered. */
  get mayGoOn(): boolean {
    return this.#isAsked && isUnanswered(this.#error);
  }

  /** The daemon's own account of the job, once it has completed. */
  get completed(): JobStats['params'] | undefined {
    return this.#completed;
  }

  /** From the guest's stop at the source until all switches send to the target; undefined: not seen. */
  get networkDowntimeMs(): number | undefined {
    return this.#networkDowntimeMs;
  }

  /** Nothing is begun any more, and a call that no daemon has yet is taken back. One that was sent goes on. */
  withdraw(): void {
    this.#withdrawal.abort(new Error('the move was given up before it began'));
  }

  close(): void {
    this.withdraw();
    this.#subscription.unsubscribe();
  }

  async #forwarded(following: Promise<boolean>): Promise<void> {
    const stoppedAtMs = this.#stoppedAtMs;
    const isForwarded = await following;
    if (isForwarded && stoppedAtMs !== undefined && stoppedAtMs === this.#stoppedAtMs)
      this.#networkDowntimeMs ??= Math.round(performance.now() - stoppedAtMs);
  }

  async #run(uuid: string, { connection }: LibvirtLink): Promise<void> {
    const { DOMAIN_AFFECT_LIVE, DOMAIN_AFFECT_CONFIG } = constants;
    const { attempt, target, policy, recovery } = this.request;
    const mark = buildXml({ migration: { '@attempt': attempt } });
    const { signal } = this.#withdrawal;
    try {
      if (recovery) {
        const given = [migrationUri(target), ...policyParameters(policy)];
        await connection.migrateToUri(uuid, peerUri(target), given, flags(policy) | resuming);
        return;
      }
      const { fuid, source, makeCopies, isTakenUp, assertMoving } = this.request;
      if (makeCopies && isTakenUp) {
        if (await isUnderWay(fuid, source, target)) return;
        this.#isAsked = false;
      }
      // What is copied into is made anew: by now that could be the machine's disk.
      if (makeCopies) await assertMoving();
      signal.throwIfAborted();
      const copies = await makeCopies?.();
      await connection.setDomainMetadata(
        uuid,
        mark,
        'isthmus-migration',
        attemptNamespace,
        DOMAIN_AFFECT_LIVE | DOMAIN_AFFECT_CONFIG,
      );
      await connection.setMigrationMaxDowntime(uuid, firstDowntimeMs(policy));
      const asItMoves = constants.DOMAIN_XML_SECURE | constants.DOMAIN_XML_MIGRATABLE;
      const [live, persistent] = await Promise.all([
        connection.domainXml(uuid, asItMoves),
        connection.domainXml(uuid, asItMoves | constants.DOMAIN_XML_INACTIVE),
      ]);
      const given = parameters(target, policy, live, persistent, copies);
      await assertMoving();
      const wasAsked = this.#isAsked;
      this.#isAsked = true;
      try {
        await connection.migrateToUri(uuid, peerUri(target), given, flags(policy, copies, live), { signal });
      } catch (error) {
        if (error === signal.reason) this.#isAsked = wasAsked;
        throw error;
      }
    } catch (error) {
      this.#error = error;
    } finally {
      this.#settledAtMs = performance.now();
      this.request.onChange();
    }
  }
}

/**
 * Whether a move that another process may have begun is under way. Who changes the volumes at the target has to know: under a
 * copy that goes on they would be lost with the machine. The daemons show nothing for a moment after the call, so this takes a while.
 */
export async function isUnderWay(fuid: string, source: Host, target: Host): Promise<boolean> {
  await new Promise((resolve) => setTimeout(resolve, takeUpMs));
  const uuid = domainUuid(fuid);
  const [job, there] = await Promise.all([
    // A guest that has stopped meanwhile has no jobs.
    tolerating(['OPERATION_INVALID', 'NO_DOMAIN'], linkOf(source, live).connection.jobStats(uuid)),
    linkOf(target, live).connection.lookupDomain(uuid),
  ]);
  // A definition alone is not a guest that comes.
  return job?.type === 'bounded' || job?.type === 'unbounded' || (there !== undefined && there.id >= 0);
}

/** The driver of what moves live: LXC can't do that. */
export const live = { driver: 'qemu' } as const;

export function linkOf(host: Host, machine: Pick<VmRecord, 'driver'>): LibvirtLink {
  const link = machineLink(host, machine);
  if (link) return link;
  throw new Transient('SiteUnreachable', `site ${host.site}, host ${host.host} has no libvirt.${driverOf(machine)}`);
}

export function peerUri(host: Host): string {
  const uri = host.spec.libvirt.peerURI ?? host.spec.libvirt.qemu;
  if (uri === undefined)
    throw new Transient('SiteUnreachable', `site ${host.site}, host ${host.host} has no libvirt.peerURI`);
  return uri;
}

const text = (name: string, value: string) => ({ name, value: { type: 'string', value } }) as const;

/** Where the target takes in memory and disks. */
export const addressOf = ({ spec }: Host): string => `tcp://${spec.migrationAddress ?? spec.underlayAddress}`;

const migrationUri = (target: Host) => text(constants.MIGRATE_PARAM_URI, addressOf(target));

const resuming = constants.MIGRATE_POSTCOPY | constants.MIGRATE_POSTCOPY_RESUME;

/**
 * With synchronous writes the guest's go to both ends, so that the copy of a disk that is written to comes to an end. Not below copy-on-read:
 * there a copy may stand still for ever (QEMU 7.2; ADR 0008).
 */
const synchronously = constants.MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES;
const copyFlags: Readonly<Record<Extent, number>> = {
  Whole: constants.MIGRATE_NON_SHARED_DISK | synchronously,
  Overlay: constants.MIGRATE_NON_SHARED_INC,
  Filled: constants.MIGRATE_NON_SHARED_INC,
};

function flags(policy: MigrationPolicy, copies?: Copies, definition = ''): number {
  return (
    constants.MIGRATE_LIVE |
    constants.MIGRATE_PEER2PEER |
    constants.MIGRATE_PERSIST_DEST |
    constants.MIGRATE_UNDEFINE_SOURCE |
    constants.MIGRATE_ABORT_ON_ERROR |
    (copies ? copyFlags[copies.extent] & ~(hasCopyOnRead(definition) ? synchronously : 0) : 0) |
    policyFlags(policy)
  );
}

function parameters(
  target: Host,
  policy: MigrationPolicy,
  live: string,
  persistent: string,
  copies: Copies | undefined,
): TypedParameters {
  const { MIGRATE_PARAM_DEST_XML, MIGRATE_PARAM_DISKS_URI, MIGRATE_PARAM_MIGRATE_DISKS, MIGRATE_PARAM_PERSIST_XML } =
    constants;
  const relocated = (xml: string): string => (copies ? withVolumes(xml, copies.volumes, copies.extent) : xml);
  return [
    migrationUri(target),
    text(MIGRATE_PARAM_PERSIST_XML, relocated(persistent)),
    ...(copies
      ? [
          text(MIGRATE_PARAM_DEST_XML, relocated(live)),
          text(MIGRATE_PARAM_DISKS_URI, addressOf(target)),
          text(MIGRATE_PARAM_MIGRATE_DISKS, diskTarget),
        ]
      : []),
    ...policyParameters(policy),
  ];
}
