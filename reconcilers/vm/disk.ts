import { posix } from 'node:path';
import type { Site, SiteSpec, StorageKind } from '../../crds/index.js';
import type { Connection, VolumeRef } from '../../drivers/libvirt/types.js';
import { Waiting } from '../common/errors.js';
import { diskVolumeName, rootVolumeName, seedVolumeName, transferVolumeName } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import type { BaseImage, Driver } from '../common/records.js';
import { buildXml, type Xml } from '../common/xml.js';
import { hostKey, type Host, type Hosts } from '../host.js';
import type { BaseSource, DiskSource } from './domain.js';
import type { Image } from './image.js';

/** Where a machine's volumes are made, and how a domain reads them. */
export interface DiskPlace {
  /** The daemon that creates and deletes the volumes. */
  readonly via: Host;
  readonly pool: string;
  readonly imagePool: string;
  /** Of the machine: a container has other volumes than a virtual machine. */
  readonly driver: Driver;
  sourceOf(volume: VolumeRef): DiskSource;
}

export const defaultPool = 'default';
export const defaultImagePool = 'images';

export function diskPlace(host: Host, site: Site, storage: StorageKind, driver: Driver, hosts: Hosts): DiskPlace {
  if (storage === 'Shared') return sharePlace(site, hosts);
  return {
    via: host,
    pool: site.spec.storage?.pool ?? defaultPool,
    imagePool: site.spec.storage?.imagePool ?? defaultImagePool,
    driver,
    sourceOf: ({ key }) => ({ kind: 'file', path: key }),
  };
}

function shareOf({ metadata, spec }: Site): Share {
  const shared = spec.storage?.shared;
  if (!shared)
    throw new Waiting(
      'NoShare',
      `spec.storage: site ${metadata.name} has no storage.shared; add it to the Site or use Local`,
      30_000,
    );
  return shared;
}

type Share = NonNullable<NonNullable<SiteSpec['storage']>['shared']>;

const onShare = ({ server, path }: Share, name: string): DiskSource => ({
  kind: 'nfs',
  server,
  path: posix.join(path, name),
});

/** What a Cached disk stands on, as a host of that site reads it. Throws Waiting where there is no share. */
export const baseSource = ({ name, format }: BaseImage, site: Site): BaseSource => ({
  source: onShare(shareOf(site), name),
  format,
});

/** Throws Waiting while the host that serves the share is not there. */
export function sharePlace(site: Site, hosts: Hosts): DiskPlace {
  const shared = shareOf(site);
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
    // LXC reads no share.
    driver: 'qemu',
    sourceOf: ({ name }) => onShare(shared, name),
  };
}

/** A virtual machine's. */
export interface MachineVolumes {
  readonly disk: DiskSource;
  readonly seed: DiskSource;
}

/** A container's: the path of its root file system. */
export interface RootVolume {
  readonly root: string;
}

/** The volume that is all of a machine. */
export function mainVolumeName(fuid: string, { driver }: Pick<DiskPlace, 'driver'>): string {
  switch (driver) {
    case 'qemu':
      return diskVolumeName(fuid);
    case 'lxc':
      return rootVolumeName(fuid);
  }
}

/** All that there may be of a machine. */
function volumeNames(fuid: string, driver: Driver): readonly string[] {
  switch (driver) {
    case 'qemu':
      return [diskVolumeName(fuid), seedVolumeName(fuid)];
    case 'lxc':
      return [rootVolumeName(fuid), transferVolumeName(fuid)];
  }
}

/** Finds the machine's volumes, or undefined unless all are there. */
export async function findVolumes(fuid: string, place: DiskPlace): Promise<MachineVolumes | RootVolume | undefined> {
  const { connection } = place.via.libvirt;
  if (place.driver === 'lxc') {
    const root = await connection.lookupVolume(place.pool, rootVolumeName(fuid));
    return root && { root: root.key };
  }
  const [disk, seed] = await Promise.all(
    [diskVolumeName(fuid), seedVolumeName(fuid)].map((name) => connection.lookupVolume(place.pool, name)),
  );
  return disk && seed ? { disk: place.sourceOf(disk), seed: place.sourceOf(seed) } : undefined;
}

export interface DiskRequest {
  readonly fuid: string;
  readonly image: Image;
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
  const { pool } = place;
  const capacityBytes = diskBytes > image.capacityBytes ? diskBytes : image.capacityBytes;
  const name = diskVolumeName(fuid);
  switch (storage) {
    case 'Local': {
      // An overlay: made in milliseconds, whatever the image's size.
      const xml = diskXml(name, capacityBytes, { path: image.volume.key, format: { '@type': image.format } });
      return await anew(connection, pool, name, () => connection.createVolume(pool, xml));
    }
    case 'Cached': {
      // An overlay, too, but libvirt makes none on what it can't open as a file: the domain's definition says what it stands on.
      const xml = diskXml(name, capacityBytes);
      return await anew(connection, pool, name, () => connection.createVolume(pool, xml));
    }
    case 'Shared': {
      // A copy: the machine needs nothing of a site's own image pool wherever it goes.
      const xml = diskXml(name, image.capacityBytes);
      const volume = await anew(connection, pool, name, () => connection.createVolumeFrom(pool, xml, image.volume));
      if (capacityBytes > image.capacityBytes) await connection.resizeVolume(pool, name, capacityBytes);
      return volume;
    }
  }
}

const diskXml = (name: string, capacityBytes: bigint, backingStore?: Xml): string =>
  buildXml({
    volume: {
      name,
      capacity: { '@unit': 'bytes', '#text': String(capacityBytes) },
      target: { format: { '@type': 'qcow2' } },
      ...(backingStore ? { backingStore } : {}),
    },
  });

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
  await refuseSameStorage(fuid, from, to);
  const { capacityBytes } = await from.via.libvirt.connection.volumeInfo(from.pool, name);
  const xml = diskXml(name, capacityBytes);
  const [disk, seed] = await Promise.all([
    anew(connection, to.pool, name, () => connection.createVolume(to.pool, xml)),
    readVolume(from, seedVolumeName(fuid)).then((bytes) => createSeed({ fuid, seed: bytes }, to)),
  ]);
  return { disk: to.sourceOf(disk), seed: to.sourceOf(seed) };
}

export async function refuseSameStorage(fuid: string, from: DiskPlace, to: DiskPlace): Promise<void> {
  if (await isSameStorage(fuid, from, to))
    throw new Error(
      `pool ${to.pool} of ${hostKey(to.via)} is the same storage as pool ${from.pool} of ${hostKey(from.via)}: a disk can't be copied onto itself; give the hosts pools of their own${to.driver === 'qemu' ? ', or use storage: Shared' : ''}`,
    );
}

/** Deletes one of two copies of a machine's volumes: not if it is the other. */
export async function deleteCopies(fuid: string, copies: DiskPlace, kept: DiskPlace): Promise<void> {
  if (!(await isSameStorage(fuid, kept, copies))) await deleteVolumes(fuid, copies);
}

/** Two hosts may have one folder as their pools: the disk that one sees there is then the disk of the other. */
export async function isSameStorage(fuid: string, one: DiskPlace, other: DiskPlace): Promise<boolean> {
  const [here, there] = [one.via.libvirt.connection, other.via.libvirt.connection];
  await refresh(there, other.pool);
  if (!(await there.lookupVolume(other.pool, mainVolumeName(fuid, other)))) return false;
  const name = `isth-${fuid}-probe`;
  // Nothing in it: the pool may be full, which is why a copy is to be deleted.
  const xml = buildXml({ volume: { name, capacity: '1', allocation: '0', target: { format: { '@type': 'raw' } } } });
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

/** Deletes what the machine has in a place; what is gone already is fine. */
export async function deleteVolumes(
  fuid: string,
  { via, pool, driver }: Pick<DiskPlace, 'via' | 'pool' | 'driver'>,
): Promise<void> {
  const { connection } = via.libvirt;
  await Promise.all(
    volumeNames(fuid, driver).map((name) => tolerating(['NO_STORAGE_VOL'], connection.deleteVolume(pool, name))),
  );
}
