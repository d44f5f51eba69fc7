import type { KubeObject } from '../../controllers/kube/api.js';
import { quantity } from '../../crds/index.js';
import { metaData, networkConfigV2, seedImage, userData } from '../../drivers/cloudinit/index.js';
import type { VolumeRef } from '../../drivers/libvirt/types.js';
import { domainUuid, interfaceId, macAddress } from '../../reconcilers/common/identity.js';
import { buildXml } from '../../reconcilers/common/xml.js';
import { domainXml, type BaseSource, type DiskSource } from '../../reconcilers/vm/domain.js';
import { tiny } from '../objects.js';
import type { Lab, LabHost } from '../lab.js';
import { createHeld, deleteHeld, floorMachines } from './kinds.js';
import { claim, fieldManager, keyPrefix, mark, release } from './marks.js';

const image = 'tiny.qcow2';
const mtu = 1_450;
/** Not like the operator's: what is left over must be told from what is a tenant's. */
export const diskName = (fuid: string): string => `${mark}-${fuid}-root.qcow2`;
const seedName = (fuid: string): string => `${mark}-${fuid}-seed.iso`;
const diskBytes = String(quantity.parse(tiny.disk));

export interface FloorMachine {
  readonly metadata: KubeObject['metadata'];
  readonly host: LabHost;
  readonly keys: readonly string[];
}

/** What a machine with a Local disk needs at its place, until it runs. network: one that is there, by fuid. */
export async function createMachine(
  lab: Lab,
  key: { namespace: string; name: string },
  spec: object,
  status: object,
  host: LabHost,
  network: string,
): Promise<FloorMachine> {
  const { metadata } = await createHeld(lab, floorMachines, { metadata: key, spec });
  const { uid } = metadata;
  const keys = ['ip', 'mac', 'vm', 'owner', 'object'].map((what) => `${keyPrefix}${what}/${uid}`);
  await claim(lab.consul, keys);
  const { libvirt } = host;
  const [disk, seed] = await Promise.all([createOverlay(host, uid), uploadSeed(host, host.storage.pool, uid)]);
  await libvirt.defineDomain(xmlOf(uid, network, { kind: 'file', path: disk.key }, { kind: 'file', path: seed.key }));
  await libvirt.startDomain(domainUuid(uid));
  await lab.kube.applyStatus(floorMachines, key, status, { fieldManager });
  return { metadata, host, keys };
}

export async function deleteMachine(lab: Lab, { metadata, host, keys }: FloorMachine): Promise<void> {
  await deleteHeld(lab, floorMachines, metadata, async () => {
    await erase(host, metadata.uid);
    await deleteVolumes(host, host.storage.pool, metadata.uid);
    await release(lab.consul, keys);
  });
}

export async function erase({ libvirt }: LabHost, fuid: string): Promise<void> {
  await libvirt.destroyDomain(domainUuid(fuid));
  await libvirt.undefineDomain(domainUuid(fuid));
}

export async function deleteVolumes({ libvirt }: LabHost, pool: string, fuid: string): Promise<void> {
  await Promise.all([diskName(fuid), seedName(fuid)].map((name) => libvirt.deleteVolume(pool, name)));
}

async function createOverlay({ libvirt, storage }: LabHost, fuid: string): Promise<VolumeRef> {
  const base = await libvirt.lookupVolume(storage.imagePool, image);
  if (!base) throw new Error(`pool ${storage.imagePool} has no ${image}`);
  const xml = buildXml({
    volume: {
      name: diskName(fuid),
      capacity: { '@unit': 'bytes', '#text': diskBytes },
      target: { format: { '@type': 'qcow2' } },
      backingStore: { path: base.key, format: { '@type': 'qcow2' } },
    },
  });
  return await libvirt.createVolume(storage.pool, xml);
}

export async function uploadSeed({ libvirt }: LabHost, pool: string, fuid: string): Promise<VolumeRef> {
  const identity = { instanceId: fuid, hostname: mark };
  const seed = seedImage({
    metaData: metaData(identity),
    userData: userData(identity),
    networkConfig: networkConfigV2([{ mac: macAddress(fuid, 0), address: '172.31.0.10', prefixLength: 16, mtu }]),
  });
  const size = { '@unit': 'bytes', '#text': String(seed.length) };
  const name = seedName(fuid);
  const volume = await libvirt.createVolume(
    pool,
    buildXml({ volume: { name, capacity: size, allocation: size, target: { format: { '@type': 'raw' } } } }),
  );
  await libvirt.uploadVolume(pool, name, once(seed));
  return volume;
}

// eslint-disable-next-line @typescript-eslint/require-await -- an AsyncIterable is what an upload takes
async function* once(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}

export function xmlOf(
  fuid: string,
  network: string,
  disk: DiskSource,
  seed: DiskSource,
  { memoryBytes = quantity.parse(tiny.memory), base }: { memoryBytes?: bigint | undefined; base?: BaseSource } = {},
): string {
  return domainXml({
    fuid,
    namespace: mark,
    name: mark,
    size: { vcpus: tiny.vcpus, memoryBytes, diskBytes: 0n, label: '' },
    datapath: 'netdev',
    virtualisation: 'qemu',
    disk,
    base,
    seed,
    interfaces: [
      { network, name: mark, id: interfaceId(fuid, 0), mac: macAddress(fuid, 0), address: '172.31.0.10', mtu },
    ],
  });
}

/** Of a disk that names no backing image. */
export const volumeXml = (name: string, bytes = diskBytes): string =>
  buildXml({
    volume: {
      name,
      capacity: { '@unit': 'bytes', '#text': bytes },
      target: { format: { '@type': 'qcow2' } },
    },
  });

/** The image, whole, of the size that the guest's disk has: a copy first is of its original's. */
export async function createCopy({ libvirt, storage }: LabHost, pool: string, name: string): Promise<VolumeRef> {
  const base = await libvirt.lookupVolume(storage.imagePool, image);
  if (!base) throw new Error(`pool ${storage.imagePool} has no ${image}`);
  const volume = await libvirt.createVolumeFrom(pool, volumeXml(name), base);
  await libvirt.resizeVolume(pool, name, BigInt(diskBytes));
  return volume;
}
