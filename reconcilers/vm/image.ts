import type { Site, StorageKind } from '../../crds/index.js';
import type { VolumeRef } from '../../drivers/libvirt/types.js';
import { Waiting } from '../common/errors.js';
import type { BaseImage } from '../common/records.js';
import { parseXml } from '../common/xml.js';
import { hostKey, type Host, type Hosts } from '../host.js';
import { type DiskPlace, sharePlace } from './disk.js';

/** An image as its pool has it. */
export interface Image {
  readonly volume: VolumeRef;
  readonly format: string;
  readonly capacityBytes: bigint;
  /** The file that it takes what it does not hold from. */
  readonly standsOn: string | undefined;
}

/**
 * The image that a machine's disk is made of: from the pool of images, or, where it stays the disk's base, from the share, where every
 * site has it. Throws Waiting, naming what is missing where.
 */
export async function findImage(
  name: string,
  storage: StorageKind,
  { via, imagePool }: Pick<DiskPlace, 'via' | 'imagePool'>,
  site: Site,
  hosts: Hosts,
): Promise<Image> {
  if (storage === 'Cached') {
    const share = sharePlace(site, hosts);
    return await imageIn(share.via, share.pool, name, 'a Cached machine reads its image from the share; copy it there');
  }
  return await imageIn(via, imagePool, name);
}

/** A pool's image. Throws Waiting, with the remedy, if there is none of that name. */
export async function imageIn(via: Host, pool: string, image: string, remedy = 'upload it there'): Promise<Image> {
  const { connection } = via.libvirt;
  // The tables that people keep images under often name the file with its ending.
  for (const name of [image, `${image}.qcow2`, `${image}.img`]) {
    const volume = await connection.lookupVolume(pool, name);
    if (!volume) continue;
    const at = parseXml(await connection.volumeXml(pool, name));
    return {
      volume,
      format: at('volume', 'target', 'format', '@type') ?? 'raw',
      capacityBytes: BigInt(at('volume', 'capacity') ?? '0'),
      standsOn: at('volume', 'backingStore', 'path'),
    };
  }
  throw new Waiting(
    'UnknownImage',
    `spec.image.name: there is no volume ${image} in pool ${pool} of host ${hostKey(via)}; ${remedy} or name another`,
    30_000,
  );
}

/** What is put on record of the image that a Cached disk stands on. Throws Waiting for one that can't be a base. */
export function baseOf({ volume, format, standsOn }: Image): BaseImage {
  const refuse = (fault: string): Waiting =>
    new Waiting('ImageNotUsable', `spec.image.name: volume ${volume.name} in pool ${volume.pool} ${fault}`, 30_000);
  if (format !== 'qcow2' && format !== 'raw')
    throw refuse(`is ${format}, and a Cached machine reads qcow2 or raw; convert it`);
  if (standsOn !== undefined)
    throw refuse(`stands on ${standsOn}, and a Cached machine needs a whole image; convert it, or name another`);
  return { name: volume.name, format };
}
