import { posix } from 'node:path';
import type { Site, StorageKind } from '../../crds/index.js';
import type { Connection, VolumeRef } from '../../drivers/libvirt/types.js';
import { Waiting } from '../common/errors.js';
import { diskVolumeName, seedVolumeName } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import { buildXml, parseXml } from '../common/xml.js';
import { hostKey, type Host, type Hosts } from '../host.js';
import type { DiskSource } from './domain.js';

/** Where a machine's volumes are made, and how a domain reads them. */
export interface DiskPlace {
  /** The daemon that creates and deletes the volumes. */
  readonly via: Host;
  readonly pool: string;
  readonly imagePool: string;
  sourceOf(volume: VolumeRef): DiskSource;
}

export const defaultPool = 'default';
export const defaultImagePool = 'images';

export function diskPlace(host: Host, site: Site, storage: StorageKind, hosts: Hosts): DiskPlace {
  if (storage !== 'Local') return sharePlace(site, hosts);
  return {
    via: host,
    pool: site.spec.storage?.pool ?? defaultPool,
    imagePool: site.spec.storage?.imagePool ?? defaultImagePool,
    sourceOf: ({ key }) => ({ kind: 'file', path: key }),
  };
}

/** Throws Waiting while the host that serves the share is not there. */
export function sharePlace(site: Site, hosts: Hosts): DiskPlace {
  const shared = site.spec.storage?.shared;
  if (!shared)
    throw new Waiting(
      'NoShare',
      `spec.storage: site ${site.metadata.name} has no storage.shared; add it to the Site or use Local`,
      30_000,
    );
  const [viaSite = '', viaHost = ''] = shared.via.split('/');
  const via = hosts.get({ site: viaSite, host: viaHost });
  if (!via)
    throw new Waiting(
      'ShareUnreachable',
      `Site ${site.metadata.name}: storage.shared.via names ${shared.via}, which is not connected`,
      10_000,
    );
  return {
    via,
    pool: shared.pool,
    imagePool: via.siteSpec.storage?.imagePool ?? defaultImagePool,
    sourceOf: ({ name }) => ({ kind: 'nfs', server: shared.server, path: posix.join(shared.path, name) }),
  };
}

export interface MachineVolumes {
  readonly disk: DiskSource;
  readonly seed: DiskSource;
}

/**
 * Finds the machine's volumes, or undefined unless both are there.
 */
export async function findVolumes(fuid: string, place: DiskPlace): Promise<MachineVolumes | undefined> {
  const { connection } = place.via.libvirt;
  const [disk, seed] = await Promise.all(
    [diskVolumeName(fuid), seedVolumeName(fuid)].map((name) => connection.lookupVolume(place.pool, name)),
  );
  return disk && seed ? { disk: place.sourceOf(disk), seed: place.sourceOf(seed) } : undefined;
}

export interface DiskRequest {
  readonly fuid: string;
  readonly image: string;
  readonly storage: StorageKind;
  readonly diskBytes: bigint;
  readonly seed: Uint8Array;
}

/**
 * Makes disk and seed of a machine that never ran. What an earlier try left may be half done and is made anew, so never call
 * this once the record says that the disk exists.
 */
export async function createVolumes(request: DiskRequest, place: DiskPlace): Promise<MachineVolumes> {
  const [disk, seed] = await Promise.all([createDisk(request, place), createSeed(request, place)]);
  return { disk: place.sourceOf(disk), seed: place.sourceOf(seed) };
}

async function createDisk({ fuid, image, storage, diskBytes }: DiskRequest, place: DiskPlace): Promise<VolumeRef> {
  const { connection } = place.via.libvirt;
  const base = await findImage(image, place);
  const capacity = diskBytes > base.capacityBytes ? diskBytes : base.capacityBytes;
  const name = diskVolumeName(fuid);
  const target = { format: { '@type': 'qcow2' } };
  switch (storage) {
    case 'Local':
    case 'Cached': {
      // An overlay: made in milliseconds, whatever the image's size.
      const xml = buildXml({
        volume: {
          name,
          capacity: { '@unit': 'bytes', '#text': String(capacity) },
          target,
          backingStore: { path: base.volume.key, format: { '@type': base.format } },
        },
      });
      return await anew(connection, place.pool, name, () => connection.createVolume(place.pool, xml));
    }
    case 'Shared': {
      // A copy: the machine needs nothing of a site's own image pool wherever it goes.
      const xml = buildXml({
        volume: { name, capacity: { '@unit': 'bytes', '#text': String(base.capacityBytes) }, target },
      });
      const volume = await anew(connection, place.pool, name, () =>
        connection.createVolumeFrom(place.pool, xml, base.volume),
      );
      if (capacity > base.capacityBytes) await connection.resizeVolume(place.pool, name, capacity);
      return volume;
    }
  }
}

async function createSeed({ fuid, seed }: Pick<DiskRequest, 'fuid' | 'seed'>, place: DiskPlace): Promise<VolumeRef> {
  const { connection } = place.via.libvirt;
  const name = seedVolumeName(fuid);
  const bytes = { '@unit': 'bytes', '#text': String(seed.length) };
  const xml = buildXml({
    volume: { name, capacity: bytes, allocation: bytes, target: { format: { '@type': 'raw' } } },
  });
  const volume = await anew(connection, place.pool, name, () => connection.createVolume(place.pool, xml));
  await connection.uploadVolume(place.pool, name, chunks(seed));
  return volume;
}

// eslint-disable-next-line @typescript-eslint/require-await -- an AsyncIterable is what an upload takes
async function* chunks(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}

/**
 * Makes what a live move copies a disk into, and copies the seed, which libvirt does not: it never changes. What an earlier try
 * left there is made anew.
 */
export async function createCopies(fuid: string, from: DiskPlace, to: DiskPlace): Promise<MachineVolumes> {
  const { connection } = to.via.libvirt;
  const name = diskVolumeName(fuid);
  if (await isSameStorage(fuid, from, to))
    throw new Error(
      `pool ${to.pool} of ${hostKey(to.via)} is the same storage as pool ${from.pool} of ${hostKey(from.via)}: a disk can't be copied onto itself; give the hosts pools of their own, or use storage: Shared`,
    );
  const { capacityBytes } = await from.via.libvirt.connection.volumeInfo(from.pool, name);
  const capacity = { '@unit': 'bytes', '#text': String(capacityBytes) };
  const xml = buildXml({ volume: { name, capacity, target: { format: { '@type': 'qcow2' } } } });
  const [disk, seed] = await Promise.all([
    anew(connection, to.pool, name, () => connection.createVolume(to.pool, xml)),
    readVolume(from, seedVolumeName(fuid)).then((bytes) => createSeed({ fuid, seed: bytes }, to)),
  ]);
  return { disk: to.sourceOf(disk), seed: to.sourceOf(seed) };
}

/** Deletes one of two copies of a machine's volumes: not if it is the other. */
export async function deleteCopies(fuid: string, copies: DiskPlace, kept: DiskPlace): Promise<void> {
  if (!(await isSameStorage(fuid, kept, copies))) await deleteVolumes(fuid, copies);
}

/** Two hosts may have one folder as their pools: the disk that one sees there is then the disk of the other. */
export async function isSameStorage(fuid: string, one: DiskPlace, other: DiskPlace): Promise<boolean> {
  const [here, there] = [one.via.libvirt.connection, other.via.libvirt.connection];
  await refresh(there, other.pool);
  if (!(await there.lookupVolume(other.pool, diskVolumeName(fuid)))) return false;
  const name = `isth-${fuid}-probe`;
  const xml = buildXml({ volume: { name, capacity: '1', target: { format: { '@type': 'raw' } } } });
  await anew(there, other.pool, name, () => there.createVolume(other.pool, xml));
  try {
    await refresh(here, one.pool);
    return (await here.lookupVolume(one.pool, name)) !== undefined;
  } finally {
    await tolerating(['NO_STORAGE_VOL'], there.deleteVolume(other.pool, name));
  }
}

/** A pool in which a volume is being made just now can't be read anew. */
export async function refresh(connection: Connection, pool: string): Promise<void> {
  for (let tries = 20; ; tries--) {
    try {
      await connection.refreshPool(pool);
      return;
    } catch (error) {
      if (tries === 0) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function readVolume({ via, pool }: DiskPlace, name: string): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of via.libvirt.connection.downloadVolume(pool, name)) parts.push(part);
  return Buffer.concat(parts);
}

/** What a whole copy of the disk may take: its own bytes and those of the image that it stands on, at most what the guest sees. */
export async function copySizeBytes(fuid: string, { via, pool, imagePool }: DiskPlace): Promise<bigint> {
  const { connection } = via.libvirt;
  const name = diskVolumeName(fuid);
  const [{ allocationBytes, capacityBytes }, xml] = await Promise.all([
    connection.volumeInfo(pool, name),
    connection.volumeXml(pool, name),
  ]);
  const backing = parseXml(xml)('volume', 'backingStore', 'path');
  const images = backing === undefined ? [] : await connection.listVolumes(imagePool);
  const image = images.find(({ key }) => key === backing);
  const bytes = allocationBytes + (image ? (await connection.volumeInfo(imagePool, image.name)).allocationBytes : 0n);
  return bytes < capacityBytes ? bytes : capacityBytes;
}

/**
 * Creates a volume; one of that name is deleted first: it carries our mark and never was in use. That there is one is looked up: a
 * daemon that is to copy a volume calls it an internal error.
 */
export async function anew(
  connection: Connection,
  pool: string,
  name: string,
  create: () => Promise<VolumeRef>,
): Promise<VolumeRef> {
  try {
    return await create();
  } catch (error) {
    if (!(await connection.lookupVolume(pool, name))) throw error;
  }
  await tolerating(['NO_STORAGE_VOL'], connection.deleteVolume(pool, name));
  return await create();
}

interface Image {
  readonly volume: VolumeRef;
  readonly format: string;
  readonly capacityBytes: bigint;
}

async function findImage(image: string, place: DiskPlace): Promise<Image> {
  const { connection } = place.via.libvirt;
  // The tables that people keep images under often name the file with its ending.
  const found = await firstOf([image, `${image}.qcow2`, `${image}.img`], (name) =>
    connection.lookupVolume(place.imagePool, name),
  );
  if (!found)
    throw new Waiting(
      'UnknownImage',
      `spec.image.name: there is no volume ${image} in pool ${place.imagePool} of host ${hostKey(place.via)}; upload it there or name another`,
      30_000,
    );
  const at = parseXml(await connection.volumeXml(place.imagePool, found.name));
  return {
    volume: found,
    format: at('volume', 'target', 'format', '@type') ?? 'raw',
    capacityBytes: BigInt(at('volume', 'capacity') ?? '0'),
  };
}

async function firstOf<T>(
  names: readonly string[],
  find: (name: string) => Promise<T | undefined>,
): Promise<T | undefined> {
  for (const name of names) {
    const found = await find(name);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** Deletes what the machine has in a place; what is gone already is fine. */
export async function deleteVolumes(fuid: string, place: Pick<DiskPlace, 'via' | 'pool'>): Promise<void> {
  const { connection } = place.via.libvirt;
  await Promise.all(
    [diskVolumeName(fuid), seedVolumeName(fuid)].map((name) =>
      tolerating(['NO_STORAGE_VOL'], connection.deleteVolume(place.pool, name)),
    ),
  );
}
