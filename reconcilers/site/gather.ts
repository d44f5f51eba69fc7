import type { Site, SiteHost } from '../../crds/index.js';
import { messageOf } from '../common/errors.js';
import { isOurs } from '../common/identity.js';
import { text } from '../common/rows.js';
import type { Host, Hosts } from '../host.js';

/** What one host of a site is found to be. */
export interface ObservedHost {
  readonly spec: SiteHost;
  readonly host: Host | undefined;
  /** Why the host can't be used, one entry for each thing that is wrong. */
  readonly problems: readonly Problem[];
  readonly versions: { readonly libvirt?: string; readonly qemu?: string; readonly openvswitch?: string };
  readonly capacity: { readonly cpus?: number; readonly memoryBytes?: bigint; readonly diskBytes?: bigint };
  readonly foreignNetworks: readonly string[];
  /** Names of our networks and machines that are still there. */
  readonly ourNetworks: readonly string[];
  readonly ourMachines: readonly string[];
}

export interface Problem {
  readonly reason: string;
  readonly message: string;
}

/** The oldest that was tried. */
const oldest = { libvirt: 9_000_000, openvswitch: [3, 1] } as const;

const dotted = (version: number): string =>
  [Math.floor(version / 1_000_000), Math.floor(version / 1_000) % 1_000, version % 1_000].join('.');

export async function gatherHost(site: Site, spec: SiteHost, hosts: Hosts): Promise<ObservedHost> {
  const host = hosts.get({ site: site.metadata.name, host: spec.name });
  if (!host)
    return {
      spec,
      host,
      problems: [
        {
          reason: 'NotConnected',
          message: `host ${spec.name}: ${hosts.problem(site.metadata.name) ?? 'not connected yet'}`,
        },
      ],
      versions: {},
      capacity: {},
      foreignNetworks: [],
      ourNetworks: [],
      ourMachines: [],
    };
  const [libvirt, openvswitch] = [await gatherLibvirt(site, host), gatherOpenvswitch(host)];
  const networks = namesIn(host.libvirt.networks);
  const machines = [host.qemu, host.lxc].flatMap((link) => (link ? namesIn(link.domains) : []));
  return {
    spec,
    host,
    problems: [...libvirt.problems, ...openvswitch.problems],
    versions: { ...libvirt.versions, ...openvswitch.versions },
    capacity: libvirt.capacity,
    foreignNetworks: networks.filter((name) => !isOurs(name)),
    ourNetworks: networks.filter(isOurs),
    ourMachines: machines.filter(isOurs),
  };
}

const namesIn = (inventory: ReadonlyMap<string, { readonly name: string }>): string[] =>
  [...inventory.values()].map(({ name }) => name).sort();

type Part = Pick<ObservedHost, 'problems' | 'versions' | 'capacity'>;

async function gatherLibvirt(site: Site, host: Host): Promise<Part> {
  const links = [host.qemu, host.lxc].filter((link) => link !== undefined);
  const down = links.filter((link) => !link.isConnected);
  if (down.length > 0)
    return {
      problems: down.map((link) => ({
        reason: 'LibvirtUnreachable',
        message: `host ${host.host}: ${link.uri}: ${link.lastError?.message ?? 'connecting'}; check the daemon, the address and the certificate in tlsSecretRef`,
      })),
      versions: {},
      capacity: {},
    };
  try {
    const connection = host.libvirt.connection;
    const [library, hypervisor, node] = await Promise.all([
      connection.libVersion(),
      host.qemu?.connection.hypervisorVersion(),
      connection.nodeInfo(),
    ]);
    const problems: Problem[] = [];
    if (library < oldest.libvirt)
      problems.push({
        reason: 'VersionTooOld',
        message: `host ${host.host}: libvirt ${dotted(library)} is older than ${dotted(oldest.libvirt)}`,
      });
    const disk = await gatherPools(site, host, problems);
    return {
      problems,
      versions: { libvirt: dotted(library), ...(hypervisor === undefined ? {} : { qemu: dotted(hypervisor) }) },
      capacity: {
        cpus: node.cpus,
        memoryBytes: BigInt(node.memoryKiB) * 1024n,
        ...(disk === undefined ? {} : { diskBytes: disk }),
      },
    };
  } catch (error) {
    return {
      problems: [{ reason: 'LibvirtUnreachable', message: `host ${host.host}: ${messageOf(error)}` }],
      versions: {},
      capacity: {},
    };
  }
}

/** Size of the pool for local disks; a pool that is missing or inactive is a problem of the host. */
async function gatherPools(site: Site, host: Host, problems: Problem[]): Promise<bigint | undefined> {
  const storage = site.spec.storage ?? {};
  const via = storage.shared?.via === `${host.site}/${host.host}` ? [storage.shared.pool] : [];
  const names = [storage.pool ?? 'default', storage.imagePool ?? 'images', ...via];
  const sizes = await Promise.all(
    names.map(async (name) => {
      const pool = await host.libvirt.connection.lookupPool(name);
      const info = pool && (await host.libvirt.connection.poolInfo(name));
      if (info?.state !== 'running')
        problems.push({
          reason: 'PoolMissing',
          message: `host ${host.host}: storage pool ${name} is ${info?.state ?? 'not defined'}; define and start it, or name another in spec.storage`,
        });
      return info?.capacityBytes;
    }),
  );
  return sizes[0];
}

function gatherOpenvswitch(host: Host): Part {
  let row;
  try {
    [row] = host.ovsdb.rows('Open_vSwitch').values();
  } catch (error) {
    return {
      problems: [
        {
          reason: 'OvsdbUnreachable',
          message: `host ${host.host}: ${messageOf(error)}; check ovsdb-server, the address and the certificate in tlsSecretRef`,
        },
      ],
      versions: {},
      capacity: {},
    };
  }
  // Set by the distribution's start script, not by the daemon itself, so it may be missing.
  const version = text(row, 'ovs_version') ?? '';
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [oldestMajor, oldestMinor] = oldest.openvswitch;
  const tooOld = version !== '' && (major < oldestMajor || (major === oldestMajor && minor < oldestMinor));
  return {
    problems: tooOld
      ? [
          {
            reason: 'VersionTooOld',
            message: `host ${host.host}: Open vSwitch ${version} is older than ${oldest.openvswitch.join('.')}`,
          },
        ]
      : [],
    versions: version === '' ? {} : { openvswitch: version },
    capacity: {},
  };
}
