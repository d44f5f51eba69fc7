import { constants } from '../../drivers/libvirt/index.js';
import type { Connection } from '../../drivers/libvirt/types.js';
import { integrationBridge, metadataNamespace, metadataPrefix, networkUuid } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import { buildXml, parseXml } from '../common/xml.js';
import type { Host } from '../host.js';

/** The libvirt network that machines of a FederatedNetwork plug into; of one name and UUID at all sites. */
export interface WantedNetwork {
  readonly fuid: string;
  readonly name: string;
  readonly vlan: number;
}

export function networkXml({ fuid, name, vlan }: WantedNetwork): string {
  return buildXml({
    network: {
      name,
      uuid: networkUuid(fuid),
      metadata: {
        [`${metadataPrefix}:network`]: { [`@xmlns:${metadataPrefix}`]: metadataNamespace, '@fuid': fuid },
      },
      forward: { '@mode': 'bridge' },
      bridge: { '@name': integrationBridge },
      virtualport: { '@type': 'openvswitch' },
      vlan: { tag: { '@id': vlan } },
    },
  });
}

/** What a defined network says of what matters; equal texts mean that nothing needs to be redefined. */
function essence(xml: string): string {
  const at = parseXml(xml);
  return [
    at('network', 'name'),
    at('network', 'uuid'),
    at('network', 'forward', '@mode'),
    at('network', 'bridge', '@name'),
    at('network', 'virtualport', '@type'),
    at('network', 'vlan', 'tag', '@id'),
  ].join('|');
}

/** Defines, mends and starts the network on one host; does nothing where nothing differs. */
export async function ensureNetwork(host: Host, wanted: WantedNetwork): Promise<void> {
  const { connection, networks } = host.libvirt;
  const uuid = networkUuid(wanted.fuid);
  const xml = networkXml(wanted);
  const seen = networks.get(uuid);
  const same = seen !== undefined && (await isDefined(connection, uuid, xml));
  if (same && seen.active) return;
  if (!same) await connection.defineNetwork(xml);
  // A running network keeps its old definition until it is restarted; machines that are plugged in stay plugged in.
  if (!same && seen?.active) await tolerating(['OPERATION_INVALID'], connection.destroyNetwork(uuid));
  await Promise.all([
    tolerating(['OPERATION_INVALID'], connection.startNetwork(uuid)),
    connection.setNetworkAutostart(uuid, true),
  ]);
}

/** Whether it is defined as wanted, for good: one that was undefined by hand while active lives on without autostart. */
async function isDefined(connection: Connection, uuid: string, xml: string): Promise<boolean> {
  const [current, autostart] = await Promise.all([
    connection.networkXml(uuid, constants.NETWORK_XML_INACTIVE),
    tolerating(['OPERATION_INVALID'], connection.networkAutostart(uuid)),
  ]);
  return autostart === true && essence(current) === essence(xml);
}

/** Removes the network from one host, whatever state it is in. */
export async function removeNetwork(host: Host, fuid: string): Promise<void> {
  const { connection } = host.libvirt;
  const uuid = networkUuid(fuid);
  // Not by what events have told: a definition of our own may be too young to have been told.
  await tolerating(['OPERATION_INVALID', 'NO_NETWORK'], connection.destroyNetwork(uuid));
  await tolerating(['NO_NETWORK'], connection.undefineNetwork(uuid));
}
