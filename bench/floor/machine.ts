import type { KubeObject } from '../../controllers/kube/api.js';
import { quantity } from '../../crds/index.js';
import { metaData, networkConfigV2, seedImage, userData } from '../../drivers/cloudinit/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { JobStats, TypedParameters, VolumeRef } from '../../drivers/libvirt/types.js';
import { domainUuid, interfaceId, macAddress } from '../../reconcilers/common/identity.js';
import { buildXml } from '../../reconcilers/common/xml.js';
import { domainXml, type DiskSource } from '../../reconcilers/vm/domain.js';
import { tiny } from '../objects.js';
import { hostOf, type Lab, type LabHost } from '../lab.js';
import { createHeld, deleteHeld, floorMachines } from './kinds.js';
import { claim, fieldManager, keyPrefix, mark, release } from './marks.js';

const image = 'tiny.qcow2';
const mtu = 1_450;
const memoryBytes = quantity.parse(tiny.memory);
/** Not like the operator's: what is left over must be told from what is a tenant's. */
const diskName = (fuid: string): string => `${mark}-${fuid}-root.qcow2`;
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

async function erase({ libvirt }: LabHost, fuid: string): Promise<void> {
  await libvirt.destroyDomain(domainUuid(fuid));
  await libvirt.undefineDomain(domainUuid(fuid));
}

async function deleteVolumes({ libvirt }: LabHost, pool: string, fuid: string): Promise<void> {
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

async function uploadSeed({ libvirt }: LabHost, pool: string, fuid: string): Promise<VolumeRef> {
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

function xmlOf(fuid: string, network: string, disk: DiskSource, seed: DiskSource): string {
  return domainXml({
    fuid,
    namespace: mark,
    name: mark,
    size: { vcpus: tiny.vcpus, memoryBytes, diskBytes: 0n, label: '' },
    datapath: 'netdev',
    virtualisation: 'qemu',
    disk,
    seed,
    interfaces: [
      { network, name: mark, id: interfaceId(fuid, 0), mac: macAddress(fuid, 0), address: '172.31.0.10', mtu },
    ],
  });
}

/** A guest with its disk on the share, as the operator makes one, for moves by bare libvirt. */
export class BareMover {
  private constructor(
    private readonly lab: Lab,
    private readonly fuid: string,
    private at: LabHost,
    private readonly share: { readonly via: LabHost; readonly pool: string },
  ) {}

  static async create(lab: Lab, fuid: string, site: string, network: string): Promise<BareMover> {
    const shared = lab.sites.find(({ metadata }) => metadata.name === site)?.spec.storage?.shared;
    if (!shared) throw new Error(`Site ${site} has no storage.shared`);
    const via = hostOf(lab, shared.via.split('/')[0] ?? '');
    const host = hostOf(lab, site);
    const base = await via.libvirt.lookupVolume(via.storage.imagePool, image);
    if (!base) throw new Error(`pool ${via.storage.imagePool} has no ${image}`);
    const capacity = { '@unit': 'bytes', '#text': diskBytes };
    await via.libvirt.createVolumeFrom(
      shared.pool,
      buildXml({ volume: { name: diskName(fuid), capacity, target: { format: { '@type': 'qcow2' } } } }),
      base,
    );
    await uploadSeed(via, shared.pool, fuid);
    const [disk, seed] = [diskName(fuid), seedName(fuid)].map((name): DiskSource => ({
      kind: 'nfs',
      server: shared.server,
      path: `${shared.path}/${name}`,
    }));
    if (!disk || !seed) throw new Error('unreachable: two volumes');
    await host.libvirt.defineDomain(xmlOf(fuid, network, disk, seed));
    await host.libvirt.startDomain(domainUuid(fuid));
    return new BareMover(lab, fuid, host, { via, pool: shared.pool });
  }

  /** One peer-to-peer move with the flags that the operator uses. Answers the daemon's own account of it. */
  async move(site: string): Promise<JobStats['params']> {
    const { libvirt } = this.at;
    const target = hostOf(this.lab, site);
    const uuid = domainUuid(this.fuid);
    const flags =
      constants.MIGRATE_LIVE |
      constants.MIGRATE_PEER2PEER |
      constants.MIGRATE_PERSIST_DEST |
      constants.MIGRATE_UNDEFINE_SOURCE |
      constants.MIGRATE_ABORT_ON_ERROR;
    const uri = `tcp://${target.spec.migrationAddress ?? target.spec.underlayAddress}`;
    const parameters: TypedParameters = [{ name: constants.MIGRATE_PARAM_URI, value: { type: 'string', value: uri } }];
    await libvirt.migrateToUri(uuid, target.spec.libvirt.peerURI ?? target.spec.libvirt.qemu, parameters, flags);
    this.at = target;
    return (await target.libvirt.jobStats(uuid, constants.DOMAIN_JOB_STATS_COMPLETED)).params;
  }
  async remove(): Promise<void> {
    await erase(this.at, this.fuid);
    await deleteVolumes(this.share.via, this.share.pool, this.fuid);
  }
}
