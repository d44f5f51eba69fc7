import { setTimeout as sleep } from 'node:timers/promises';
import { diskVolumeName, transferVolumeName } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import { buildXml, parseXml } from '../common/xml.js';
import { anew, createCopies, type DiskPlace, mainVolumeName, refresh } from './disk.js';
import { createParcel, unpackRoot } from './root.js';

/** How far a copy is, in bytes of what is sent. */
export interface CopyFigures {
  readonly sentBytes: number;
  /** Undefined until the disk is whole and its size known. */
  readonly totalBytes: number | undefined;
}

export interface CopyOptions {
  /** undefined: no limit. */
  readonly bytesPerSecond: number | undefined;
  readonly signal: AbortSignal;
  readonly onProgress: (figures: CopyFigures) => void;
}

/** What was copied is not the disk: that was written to meanwhile, or the copy is gone. */
export class StaleCopy extends Error {
  readonly code = 'ISTHMUS_STALE_COPY';
}

/**
 * Copies disk and seed of a machine that is off, through this process: libvirt has no way from one host's volume to another's. What an earlier
 * try left is made anew. Resolves with the disk's stamp. Throws StaleCopy, or what the signal or the daemons say.
 */
export async function copyVolumes(
  fuid: string,
  from: DiskPlace,
  to: DiskPlace,
  { bytesPerSecond, signal, onProgress }: CopyOptions,
): Promise<string> {
  const [source, target] = [from.via.libvirt.connection, to.via.libvirt.connection];
  const into = await makeReady(fuid, from, to);
  signal.throwIfAborted();
  // Which image it stands on is known from when the pool was last read.
  await refresh(source, from.pool);
  const stamp = await stampOf(fuid, from);
  const name = await makeWhole(fuid, from);
  signal.throwIfAborted();
  const totalBytes = Number(parseXml(await source.volumeXml(from.pool, name))('volume', 'physical') ?? '0');
  let sentBytes = 0;
  onProgress({ sentBytes, totalBytes });
  const begunAt = performance.now();
  async function* metered(): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const bytes of source.downloadVolume(from.pool, name)) {
      signal.throwIfAborted();
      yield bytes;
      sentBytes += bytes.length;
      onProgress({ sentBytes, totalBytes });
      const aheadMs =
        bytesPerSecond === undefined ? 0 : (1_000 * sentBytes) / bytesPerSecond - (performance.now() - begunAt);
      if (aheadMs > 0) await sleep(aheadMs, undefined, { signal });
    }
  }
  await target.uploadVolume(to.pool, into, metered());
  signal.throwIfAborted();
  if (to.driver === 'lxc') await unpackRoot(fuid, from, to);
  await deleteTransfer(fuid, from);
  const stale = await changed(fuid, from, stamp);
  if (stale) throw stale;
  return stamp;
}

/** Whether the disk was written to since it had that stamp. */
export async function changed(fuid: string, place: DiskPlace, stamp: string): Promise<StaleCopy | undefined> {
  if ((await stampOf(fuid, place)) === stamp) return undefined;
  return new StaleCopy(
    `volume ${mainVolumeName(fuid, place)} in pool ${place.pool} was written to while it was copied`,
  );
}

/** Deletes what a copy needed beside the disk; what is gone already is fine. */
export async function deleteTransfer(fuid: string, { via, pool }: DiskPlace): Promise<void> {
  await tolerating(['NO_STORAGE_VOL'], via.libvirt.connection.deleteVolume(pool, transferVolumeName(fuid)));
}

/** When the disk was last written to, as its file system tells. */
async function stampOf(fuid: string, { via, pool, driver }: DiskPlace): Promise<string> {
  const stamp = parseXml(await via.libvirt.connection.volumeXml(pool, mainVolumeName(fuid, { driver })))(
    'volume',
    'target',
    'timestamps',
    'mtime',
  );
  if (stamp === undefined) throw new Error(`pool ${pool} does not tell when its volumes were written to`);
  return stamp;
}

/** Whether a whole copy of the disk is made beside it, to be sent. */
export async function needsTransfer(fuid: string, { via, pool, driver }: DiskPlace): Promise<boolean> {
  if (driver === 'lxc') return true;
  const xml = await via.libvirt.connection.volumeXml(pool, diskVolumeName(fuid));
  return parseXml(xml)('volume', 'backingStore', 'path') !== undefined;
}

/**
 * What a copy of the disk may take: its own bytes, those of the image that it names, and what is read into it afterwards; at most what the
 * guest sees.
 */
export async function copySizeBytes(
  fuid: string,
  { via, pool, imagePool, driver }: DiskPlace,
  fillsBytes = 0n,
): Promise<bigint> {
  const { connection } = via.libvirt;
  const name = mainVolumeName(fuid, { driver });
  const [{ allocationBytes, capacityBytes }, xml] = await Promise.all([
    connection.volumeInfo(pool, name),
    connection.volumeXml(pool, name),
  ]);
  const backing = parseXml(xml)('volume', 'backingStore', 'path');
  const images = backing === undefined ? [] : await connection.listVolumes(imagePool);
  const image = images.find(({ key }) => key === backing);
  const below = image && (await connection.volumeInfo(imagePool, image.name));
  const bytes = allocationBytes + (below?.allocationBytes ?? 0n) + fillsBytes;
  return bytes < capacityBytes ? bytes : capacityBytes;
}

/** Makes what the disk is sent into, and all that is not sent. Returns its name. */
async function makeReady(fuid: string, from: DiskPlace, to: DiskPlace): Promise<string> {
  switch (to.driver) {
    case 'qemu':
      await createCopies(fuid, from, to);
      return diskVolumeName(fuid);
    case 'lxc':
      await createParcel(fuid, from, to);
      return transferVolumeName(fuid);
  }
}

/**
 * The volume to send: the disk itself, or, where it stands on an image that the target may not have, or is a raw file with holes, a whole copy
 * beside it.
 */
async function makeWhole(fuid: string, { via, pool, driver }: DiskPlace): Promise<string> {
  const { connection } = via.libvirt;
  const name = mainVolumeName(fuid, { driver });
  const [disk, xml] = await Promise.all([connection.lookupVolume(pool, name), connection.volumeXml(pool, name)]);
  const at = parseXml(xml);
  if (!disk || (driver === 'qemu' && at('volume', 'backingStore', 'path') === undefined)) return name;
  const transfer = transferVolumeName(fuid);
  const capacity = { '@unit': 'bytes', '#text': at('volume', 'capacity') ?? '0' };
  const whole = buildXml({ volume: { name: transfer, capacity, target: { format: { '@type': 'qcow2' } } } });
  await anew(connection, pool, transfer, () => connection.createVolumeFrom(pool, whole, disk));
  return transfer;
}
