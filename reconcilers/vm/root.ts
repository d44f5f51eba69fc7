import { rootVolumeName, transferVolumeName } from '../common/identity.js';
import { Waiting } from '../common/errors.js';
import { tolerating } from '../common/libvirt.js';
import { buildXml, parseXml } from '../common/xml.js';
import { hostKey } from '../host.js';
import { anew, type DiskPlace, type DiskRequest, refuseSameStorage, type RootVolume } from './disk.js';

/** Sparse, and whole: LXC mounts it by a loop device, which knows no image below it. libvirt converts what is not raw. */
const rootXml = (fuid: string, capacityBytes: bigint): string =>
  buildXml({
    volume: {
      name: rootVolumeName(fuid),
      capacity: { '@unit': 'bytes', '#text': String(capacityBytes) },
      allocation: '0',
      target: { format: { '@type': 'raw' } },
    },
  });

/** What a loop device keeps of its file's path, with the zero at its end (linux/loop.h); libvirt refuses what is longer. */
const loopNameBytes = 64;

/** Why LXC could not mount a root file system in that pool, if so. */
export async function unmountable(fuid: string, { via, pool }: DiskPlace): Promise<string | undefined> {
  const folder = parseXml(await via.libvirt.connection.poolXml(pool))('pool', 'target', 'path') ?? '';
  const most = loopNameBytes - 1 - Buffer.byteLength(`/${rootVolumeName(fuid)}`);
  if (Buffer.byteLength(folder) <= most) return undefined;
  return `pool ${pool} of host ${hostKey(via)} is at ${folder}, and LXC mounts no file whose path is longer than 63 bytes: containers need a pool at a path of at most ${String(most)} (spec.storage.pool of the Site)`;
}

/**
 * Makes the root file system of a container that never ran: a copy of the image, in a file of the disk's size. What an earlier try left is made
 * anew, so never call this once the record says that it exists. Throws Waiting for a pool that LXC mounts nothing of.
 */
export async function createRoot(
  { fuid, image, diskBytes }: Pick<DiskRequest, 'fuid' | 'image' | 'diskBytes'>,
  place: DiskPlace,
): Promise<RootVolume> {
  const { via, pool } = place;
  const { connection } = via.libvirt;
  const fault = await unmountable(fuid, place);
  if (fault !== undefined) throw new Waiting('PathTooLong', fault, 30_000);
  const name = rootVolumeName(fuid);
  const xml = rootXml(fuid, image.capacityBytes);
  const { key } = await anew(connection, pool, name, () => connection.createVolumeFrom(pool, xml, image.volume));
  if (diskBytes > image.capacityBytes) await connection.resizeVolume(pool, name, diskBytes);
  return { root: key };
}

/** A stream has no holes, so what is sent of a sparse file is a qcow2 of what it holds. Makes what takes that in at the target. */
export async function createParcel(fuid: string, from: DiskPlace, to: DiskPlace): Promise<void> {
  await refuseSameStorage(fuid, from, to);
  const { connection } = to.via.libvirt;
  const name = transferVolumeName(fuid);
  const xml = buildXml({ volume: { name, capacity: '1', target: { format: { '@type': 'qcow2' } } } });
  await anew(connection, to.pool, name, () => connection.createVolume(to.pool, xml));
}

/** Makes the root file system of what was sent. */
export async function unpackRoot(fuid: string, from: DiskPlace, { via, pool }: DiskPlace): Promise<void> {
  const { connection } = via.libvirt;
  const { capacityBytes } = await from.via.libvirt.connection.volumeInfo(from.pool, rootVolumeName(fuid));
  const parcel = transferVolumeName(fuid);
  const sent = await connection.lookupVolume(pool, parcel);
  if (!sent) throw new Error(`pool ${pool}: volume ${parcel} is gone`);
  const xml = rootXml(fuid, capacityBytes);
  await anew(connection, pool, rootVolumeName(fuid), () => connection.createVolumeFrom(pool, xml, sent));
  await tolerating(['NO_STORAGE_VOL'], connection.deleteVolume(pool, parcel));
}
