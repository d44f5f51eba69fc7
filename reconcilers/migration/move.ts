import { Subscription } from 'rxjs';
import type { MigrationPolicy } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { JobStats, TypedParameters } from '../../drivers/libvirt/types.js';
import { Transient } from '../common/errors.js';
import { domainUuid, metadataNamespace } from '../common/identity.js';
import { isUnanswered, tolerating } from '../common/libvirt.js';
import { buildXml } from '../common/xml.js';
import type { MachineVolumes } from '../vm/disk.js';
import { diskTarget } from '../vm/domain.js';
import type { Host, LibvirtLink } from '../host.js';
import { firstDowntimeMs, policyFlags, policyParameters } from './policy.js';
import { withVolumes } from './relocate.js';

/** Marks the domain, at whichever end, with the attempt that moves it. */
const attemptNamespace = `${metadataNamespace}/migration`;

/** How long the daemons may show nothing of a call that was made. */
const takeUpMs = 10_000;

export interface MoveRequest {
  readonly fuid: string;
  readonly attempt: string;
  readonly source: Host;
  readonly target: Host;
  readonly policy: MigrationPolicy;
  /** Makes what the disk is copied into at the target; undefined: both ends have it from the share. */
  readonly makeCopies: (() => Promise<MachineVolumes>) | undefined;
  /** Whether another process may have begun the same move just before. */
  readonly isTakenUp: boolean;
  /** Called the moment the guest runs at the target: every millisecond until then is downtime. Resolves true once all switches follow. */
  readonly onTargetRuns: () => Promise<boolean>;
  /** Called when something happened that the reconcile should look at. */
  readonly onChange: () => void;
}

/** A move that this process started. The daemons carry it on without us: this only watches. */
export class Move {
  #error: unknown;
  #settled = false;
  #completed: JobStats['params'] | undefined;
  #stoppedAtMs: number | undefined;
  #networkDowntimeMs: number | undefined;
  /** Whether a daemon may have been asked to move the machine. */
  #isAsked: boolean;
  readonly #subscription = new Subscription();

  constructor(private readonly request: MoveRequest) {
    this.#isAsked = request.isTakenUp;
    const uuid = domainUuid(request.fuid);
    const source = linkOf(request.source);
    const target = linkOf(request.target);
    this.#subscription.add(
      target.lifecycle.subscribe((event) => {
        if (event.uuid !== uuid) return;
        // Questions to the daemons while they switch over would only lengthen it, so just these two are followed up.
        if (event.event === 'resumed') void this.#followed();
        if (event.event === 'resumed' || event.event === 'stopped') request.onChange();
      }),
    );
    this.#subscription.add(
      source.lifecycle.subscribe((event) => {
        if (event.uuid === uuid && event.event === 'suspended') this.#stoppedAtMs = performance.now();
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
    return { settled: this.#settled, error: this.#error };
  }

  /** Whether the daemons may carry it on, or yet begin it, though it has settled: the connection ended before they had answered. */
  get mayGoOn(): boolean {
    return this.#isAsked && isUnanswered(this.#error);
  }

  /** The daemon's own account of the job, once it has completed. */
  get completed(): JobStats['params'] | undefined {
    return this.#completed;
  }

  /** From the guest's stop at the source until it runs at the target and all switches send there; undefined: not seen. */
  get networkDowntimeMs(): number | undefined {
    return this.#networkDowntimeMs;
  }

  close(): void {
    this.#subscription.unsubscribe();
  }

  async #followed(): Promise<void> {
    const isForwarded = await this.request.onTargetRuns();
    if (isForwarded && this.#stoppedAtMs !== undefined)
      this.#networkDowntimeMs = Math.round(performance.now() - this.#stoppedAtMs);
  }

  async #run(uuid: string, { connection }: LibvirtLink): Promise<void> {
    const { DOMAIN_AFFECT_LIVE, DOMAIN_AFFECT_CONFIG } = constants;
    const { attempt, target, policy } = this.request;
    const mark = buildXml({ migration: { '@attempt': attempt } });
    try {
      const { fuid, source, makeCopies, isTakenUp } = this.request;
      if (makeCopies && isTakenUp) {
        if (await isUnderWay(fuid, source, target)) return;
        this.#isAsked = false;
      }
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
      this.#isAsked = true;
      await connection.migrateToUri(uuid, peerUri(target), given, flags(policy, copies));
    } catch (error) {
      this.#error = error;
    } finally {
      this.#settled = true;
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
    tolerating(['OPERATION_INVALID', 'NO_DOMAIN'], linkOf(source).connection.jobStats(uuid)),
    linkOf(target).connection.lookupDomain(uuid),
  ]);
  return job?.type === 'bounded' || job?.type === 'unbounded' || there !== undefined;
}

export function linkOf(host: Host): LibvirtLink {
  if (!host.qemu) throw new Transient('SiteUnreachable', `site ${host.site}, host ${host.host} has no libvirt.qemu`);
  return host.qemu;
}

function peerUri(host: Host): string {
  const uri = host.spec.libvirt.peerURI ?? host.spec.libvirt.qemu;
  if (uri === undefined)
    throw new Transient('SiteUnreachable', `site ${host.site}, host ${host.host} has no libvirt.peerURI`);
  return uri;
}

function flags(policy: MigrationPolicy, copies: MachineVolumes | undefined): number {
  return (
    constants.MIGRATE_LIVE |
    constants.MIGRATE_PEER2PEER |
    constants.MIGRATE_PERSIST_DEST |
    constants.MIGRATE_UNDEFINE_SOURCE |
    constants.MIGRATE_ABORT_ON_ERROR |
    // The guest's writes go to both ends, so that the copy of a disk that is written to comes to an end.
    (copies ? constants.MIGRATE_NON_SHARED_DISK | constants.MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES : 0) |
    policyFlags(policy)
  );
}

function parameters(
  target: Host,
  policy: MigrationPolicy,
  live: string,
  persistent: string,
  copies: MachineVolumes | undefined,
): TypedParameters {
  const address = target.spec.migrationAddress ?? target.spec.underlayAddress;
  const text = (name: string, value: string) => ({ name, value: { type: 'string', value } }) as const;
  const {
    MIGRATE_PARAM_DEST_XML,
    MIGRATE_PARAM_DISKS_URI,
    MIGRATE_PARAM_MIGRATE_DISKS,
    MIGRATE_PARAM_PERSIST_XML,
    MIGRATE_PARAM_URI,
  } = constants;
  return [
    text(MIGRATE_PARAM_URI, `tcp://${address}`),
    text(MIGRATE_PARAM_PERSIST_XML, copies ? withVolumes(persistent, copies) : persistent),
    ...(copies
      ? [
          text(MIGRATE_PARAM_DEST_XML, withVolumes(live, copies)),
          text(MIGRATE_PARAM_DISKS_URI, `tcp://${address}`),
          text(MIGRATE_PARAM_MIGRATE_DISKS, diskTarget),
        ]
      : []),
    ...policyParameters(policy),
  ];
}
