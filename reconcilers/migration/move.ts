import { Subscription } from 'rxjs';
import type { MigrationPolicy } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { JobStats, TypedParameters } from '../../drivers/libvirt/types.js';
import { Transient } from '../common/errors.js';
import { domainUuid, metadataNamespace } from '../common/identity.js';
import { buildXml } from '../common/xml.js';
import type { Host, LibvirtLink } from '../host.js';

/** Marks the domain, at whichever end, with the attempt that moves it. */
const attemptNamespace = `${metadataNamespace}/migration`;

export interface MoveRequest {
  readonly fuid: string;
  readonly attempt: string;
  readonly source: Host;
  readonly target: Host;
  readonly policy: MigrationPolicy;
  /** Called the moment the guest runs at the target: every millisecond until then is downtime. */
  readonly onTargetRuns: () => void;
  /** Called when something happened that the reconcile should look at. */
  readonly onChange: () => void;
}

/** A move that this process started. The daemons carry it on without us: this only watches. */
export class Move {
  #error: unknown;
  #settled = false;
  #completed: JobStats['params'] | undefined;
  readonly #subscription = new Subscription();

  constructor(private readonly request: MoveRequest) {
    const uuid = domainUuid(request.fuid);
    const source = linkOf(request.source);
    const target = linkOf(request.target);
    this.#subscription.add(
      target.lifecycle.subscribe((event) => {
        if (event.uuid !== uuid) return;
        // Questions to the daemons while they switch over would only lengthen it, so just these two are followed up.
        if (event.event === 'resumed') request.onTargetRuns();
        if (event.event === 'resumed' || event.event === 'stopped') request.onChange();
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

  /** The daemon's own account of the job, once it has completed. */
  get completed(): JobStats['params'] | undefined {
    return this.#completed;
  }

  close(): void {
    this.#subscription.unsubscribe();
  }

  async #run(uuid: string, { connection }: LibvirtLink): Promise<void> {
    const { DOMAIN_AFFECT_LIVE, DOMAIN_AFFECT_CONFIG } = constants;
    const { attempt, target, policy } = this.request;
    const mark = buildXml({ migration: { '@attempt': attempt } });
    try {
      await connection.setDomainMetadata(
        uuid,
        mark,
        'isthmus-migration',
        attemptNamespace,
        DOMAIN_AFFECT_LIVE | DOMAIN_AFFECT_CONFIG,
      );
      if (policy.maxDowntimeMs !== undefined) await connection.setMigrationMaxDowntime(uuid, policy.maxDowntimeMs);
      const persistent = await connection.domainXml(
        uuid,
        constants.DOMAIN_XML_INACTIVE | constants.DOMAIN_XML_SECURE | constants.DOMAIN_XML_MIGRATABLE,
      );
      await connection.migrateToUri(uuid, peerUri(target), parameters(target, policy, persistent), flags(policy));
    } catch (error) {
      this.#error = error;
    } finally {
      this.#settled = true;
      this.request.onChange();
    }
  }
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

function flags(policy: MigrationPolicy): number {
  return (
    constants.MIGRATE_LIVE |
    constants.MIGRATE_PEER2PEER |
    constants.MIGRATE_PERSIST_DEST |
    constants.MIGRATE_UNDEFINE_SOURCE |
    constants.MIGRATE_ABORT_ON_ERROR |
    (policy.autoConverge ? constants.MIGRATE_AUTO_CONVERGE : 0)
  );
}

function parameters(target: Host, policy: MigrationPolicy, persistentXml: string): TypedParameters {
  const address = target.spec.migrationAddress ?? target.spec.underlayAddress;
  return [
    { name: constants.MIGRATE_PARAM_URI, value: { type: 'string', value: `tcp://${address}` } },
    { name: constants.MIGRATE_PARAM_PERSIST_XML, value: { type: 'string', value: persistentXml } },
    ...(policy.bandwidthMiBps === undefined
      ? []
      : [
          {
            name: constants.MIGRATE_PARAM_BANDWIDTH,
            value: { type: 'ullong', value: BigInt(policy.bandwidthMiBps) },
          } as const,
        ]),
  ];
}
