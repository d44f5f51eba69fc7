import { networkName, networkUuid, integrationBridge } from '../../reconcilers/common/identity.js';
import { networkXml } from '../../reconcilers/network/libvirt.js';
import { mark, vlan } from '../floor/marks.js';
import type { Lab, LabHost } from '../lab.js';
import { labIn } from './line.js';

const bridge = 'br-bare';
/** Where echo requests come from: an interface of the site that the others' tunnels lead to. */
const port = 'bare0';
const key = 77;

/**
 * What bare libvirt's guests are plugged in: at each site a switch that learns, joined by VXLAN through one of them, so that
 * there is no loop. A guest that arrives is found by the RARP that QEMU sends for it.
 */
export class LearningOverlay implements AsyncDisposable {
  private constructor(
    private readonly lab: Lab,
    readonly fuid: string,
  ) {}

  static async create(lab: Lab, fuid: string, center: string, address: string): Promise<LearningOverlay> {
    const overlay = new LearningOverlay(lab, fuid);
    for (const host of lab.hosts) {
      const others = lab.hosts.filter((other) => other !== host && (host.site === center || other.site === center));
      await labIn(host.site, 'ovs-vsctl', ...switchArguments(others));
      await lay(host, fuid);
    }
    const addressed = `ovs-vsctl add-port ${bridge} ${port} tag=${vlan} -- set interface ${port} type=internal &&
      ip address add ${address} dev ${port} && ip link set ${port} mtu 1450 up`;
    await labIn(center, 'sh', '-c', addressed);
    return overlay;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { site, libvirt } of this.lab.hosts) {
      await libvirt.destroyNetwork(networkUuid(this.fuid));
      await libvirt.undefineNetwork(networkUuid(this.fuid));
      await labIn(site, 'ovs-vsctl', '--if-exists', 'del-br', bridge);
    }
  }
}

function switchArguments(peers: readonly LabHost[]): string[] {
  const tunnels = peers.flatMap(({ site, spec }) => [
    ...['--', 'add-port', bridge, `bare-${site}`, '--', 'set', 'interface', `bare-${site}`, 'type=vxlan'],
    ...[`options:remote_ip=${spec.underlayAddress}`, `options:key=${key}`],
  ]);
  // The one that a run left that was killed goes first.
  const add = ['--', 'add-br', bridge, '--', 'set', 'bridge', bridge, 'datapath_type=netdev'];
  return ['--if-exists', 'del-br', bridge, ...add, ...tunnels];
}

async function lay({ libvirt }: LabHost, fuid: string): Promise<void> {
  const xml = networkXml({ fuid, name: networkName(mark, fuid), vlan }).replace(integrationBridge, bridge);
  await libvirt.defineNetwork(xml);
  await libvirt.startNetwork(networkUuid(fuid));
}
