import { constants } from '../../drivers/libvirt/index.js';
import type { JobStats, TypedParameters, VolumeRef } from '../../drivers/libvirt/types.js';
import { domainUuid } from '../../reconcilers/common/identity.js';
import { diskTarget, type DiskSource } from '../../reconcilers/vm/domain.js';
import { hostOf, type Lab, type LabHost } from '../lab.js';
import { createCopy, deleteVolumes, diskName, erase, uploadSeed, volumeXml, xmlOf } from './machine.js';
import { mark } from './marks.js';

/** What makes libvirt take the disk along, for each way of storage; 0: both ends have it from the share. */
const diskFlags = {
  Shared: 0,
  Local: constants.MIGRATE_NON_SHARED_DISK | constants.MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES,
  // As ours: with synchronous writes below copy-on-read QEMU 7.2 stands still now and then (ADR 0008).
  Cached: constants.MIGRATE_NON_SHARED_INC,
} as const;

/** The image on the share that Cached disks stand on, as a FederatedVM names it. */
export const baseImage = `${mark}-image`;
const baseVolume = `${baseImage}.qcow2`;

/** Puts it there until it is disposed of. */
export async function layBase(lab: Lab, site: string): Promise<AsyncDisposable> {
  const { via, pool } = shareOf(lab, site);
  await createCopy(via, pool, baseVolume);
  return { [Symbol.asyncDispose]: async () => await via.libvirt.deleteVolume(pool, baseVolume) };
}

export interface BareGuest {
  readonly site: string;
  /** A libvirt network that is at all hosts, by fuid. */
  readonly network: string;
  /** Default: on the share. Cached needs the base there (layBase). */
  readonly storage?: keyof typeof diskFlags;
  /** Default: the tiny machine's. */
  readonly memoryBytes?: bigint;
}

/** What ends a move: the daemon's own account of it. */
export type Account = JobStats['params'];

/** A guest as the operator makes one, for moves by bare libvirt. */
export class BareMover {
  private constructor(
    private readonly lab: Lab,
    private readonly fuid: string,
    private readonly storage: keyof typeof diskFlags,
    private at: LabHost,
    private readonly share: Share,
  ) {}

  static async create(lab: Lab, fuid: string, guest: BareGuest): Promise<BareMover> {
    const { network, memoryBytes, storage = 'Shared' } = guest;
    const mover = new BareMover(lab, fuid, storage, hostOf(lab, guest.site), shareOf(lab, guest.site));
    const { at, share } = mover;
    const { via, pool } = mover.place;
    const isShared = storage === 'Shared';
    const isCached = storage === 'Cached';
    const [disk, seed] = await Promise.all([
      isCached ? via.libvirt.createVolume(pool, volumeXml(diskName(fuid))) : createCopy(via, pool, diskName(fuid)),
      uploadSeed(via, pool, fuid),
    ]);
    const onShare = (name: string): DiskSource => ({
      kind: 'nfs',
      server: share.server,
      path: `${share.path}/${name}`,
    });
    const source = ({ key, name }: VolumeRef): DiskSource => (isShared ? onShare(name) : { kind: 'file', path: key });
    const xml = xmlOf(fuid, network, source(disk), source(seed), {
      memoryBytes,
      ...(isCached ? { base: { source: onShare(baseVolume), format: 'qcow2' } } : {}),
    });
    await at.libvirt.defineDomain(xml);
    await at.libvirt.startDomain(domainUuid(fuid));
    return mover;
  }

  get source(): LabHost {
    return this.at;
  }

  get uuid(): string {
    return domainUuid(this.fuid);
  }

  /** One peer-to-peer move with the flags that the operator uses. A disk that moves along has what it is copied into there. */
  async move(site: string): Promise<Account> {
    const { libvirt } = this.at;
    const target = hostOf(this.lab, site);
    const flags =
      constants.MIGRATE_LIVE |
      constants.MIGRATE_PEER2PEER |
      constants.MIGRATE_PERSIST_DEST |
      constants.MIGRATE_UNDEFINE_SOURCE |
      constants.MIGRATE_ABORT_ON_ERROR |
      diskFlags[this.storage];
    const uri = `tcp://${target.spec.migrationAddress ?? target.spec.underlayAddress}`;
    const text = (name: string, value: string) => ({ name, value: { type: 'string', value } }) as const;
    const parameters: TypedParameters = [
      text(constants.MIGRATE_PARAM_URI, uri),
      ...(diskFlags[this.storage] === 0 ? [] : [text(constants.MIGRATE_PARAM_MIGRATE_DISKS, diskTarget)]),
    ];
    await libvirt.migrateToUri(this.uuid, target.spec.libvirt.peerURI ?? target.spec.libvirt.qemu, parameters, flags);
    this.at = target;
    return (await target.libvirt.jobStats(this.uuid, constants.DOMAIN_JOB_STATS_COMPLETED)).params;
  }

  /** Makes at a site what the next move copies into; nothing for a guest on the share. */
  async prepare(site: string): Promise<void> {
    if (diskFlags[this.storage] === 0) return;
    const target = hostOf(this.lab, site);
    const { pool } = target.storage;
    const xml = await this.at.libvirt.volumeXml(this.at.storage.pool, diskName(this.fuid));
    const [, capacity = ''] = /<capacity[^>]*>(\d+)</.exec(xml) ?? [];
    await target.libvirt.createVolume(pool, volumeXml(diskName(this.fuid), capacity));
    await uploadSeed(target, pool, this.fuid);
  }

  /** Takes away what a move has left at a site: the old disk, or the copy of a move that did not end. */
  async clear(site: string): Promise<void> {
    if (diskFlags[this.storage] === 0 || site === this.at.site) return;
    const left = hostOf(this.lab, site);
    await deleteVolumes(left, left.storage.pool, this.fuid);
  }

  async remove(): Promise<void> {
    await erase(this.at, this.fuid);
    const { via, pool } = this.place;
    await deleteVolumes(via, pool, this.fuid);
  }

  /** Where its volumes are now. */
  private get place(): { readonly via: LabHost; readonly pool: string } {
    return this.storage === 'Shared' ? this.share : { via: this.at, pool: this.at.storage.pool };
  }
}

interface Share {
  readonly via: LabHost;
  readonly pool: string;
  readonly server: string;
  readonly path: string;
}

function shareOf(lab: Lab, site: string): Share {
  const shared = lab.sites.find(({ metadata }) => metadata.name === site)?.spec.storage?.shared;
  if (!shared) throw new Error(`Site ${site} has no storage.shared`);
  return { ...shared, via: hostOf(lab, shared.via.split('/')[0] ?? '') };
}
