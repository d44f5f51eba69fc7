import { isDeepStrictEqual } from 'node:util';
import type { FederatedNetwork } from '../../crds/index.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import { consul, type Allocator } from '../common/allocation.js';
import type { Directory } from '../common/directory.js';
import { Stalled, Transient, Waiting } from '../common/errors.js';
import { given } from '../common/given.js';
import { keys, serialise, type FirewallPolicy, type Policy } from '../common/records.js';
import { firewallFlows } from '../dataplane/firewall.js';
import type { Objects } from '../objects.js';

/** A firewall may not come to more flows than this on a host: peers times pieces of port ranges, for each rule. */
const maxFirewallFlows = 4_096;

/** What the spec's firewall and flows come to. Pure. Throws Stalled or Waiting, naming the field and the remedy. */
export function planPolicy(network: FederatedNetwork, objects: Objects): Policy {
  const { flows = [] } = network.spec;
  refuseTwins(flows);
  const firewall = planFirewall(network, objects);
  return { ...(firewall ? { firewall } : {}), flows };
}

/** A switch holds one flow of a priority and match: the later would silently replace the earlier. */
function refuseTwins(flows: Policy['flows']): void {
  const seen = new Map<string, number>();
  for (const [index, { at, priority, match, name }] of flows.entries()) {
    const key = JSON.stringify([at, priority, Object.entries(match).sort(([a], [b]) => (a < b ? -1 : 1))]);
    const twin = seen.get(key);
    if (twin !== undefined)
      throw new Stalled(
        'FlowRejected',
        `spec.flows[${String(index)}] (${name}): at, priority and match are those of spec.flows[${String(twin)}] (${flows[twin]?.name ?? ''}); change one of them`,
      );
    seen.set(key, index);
  }
}

function planFirewall(network: FederatedNetwork, objects: Objects): FirewallPolicy | undefined {
  const { firewall } = network.spec;
  if (!firewall) return undefined;
  const { namespace } = network.metadata;
  const rules = (firewall.rules ?? []).map((rule, index): FirewallPolicy['rules'][number] => {
    const { direction, action, protocol, ports, from, to } = rule;
    const field = `spec.firewall.rules[${String(index)}].${from ? 'from' : 'to'}`;
    const peers = (from ?? to)?.map(({ cidr, network: name }, peer) => {
      if (cidr !== undefined) return cidr;
      const other = objects.network(namespace, name ?? '');
      if (other) return other.spec.cidr;
      throw new Waiting(
        'FirewallRejected',
        `${field}[${String(peer)}].network: there is no FederatedNetwork ${name ?? ''} in namespace ${namespace}; create it or give a cidr`,
        30_000,
      );
    });
    return { direction, action, ...given({ protocol, ports, peers }) };
  });
  const planned: FirewallPolicy = { defaultAction: firewall.defaultAction ?? 'Allow', rules };
  const size = firewallFlows(0, planned).length;
  if (size > maxFirewallFlows)
    throw new Stalled(
      'FirewallRejected',
      `spec.firewall: its rules come to ${String(size)} flows on each host, more than ${String(maxFirewallFlows)}; use fewer peers a rule, or port ranges that begin and end at multiples of a power of 2`,
    );
  return planned;
}

/** What is in force of a firewall that can't be, where none was before: nobody is reached by what it may have been meant to keep out. */
export const closed: Policy = { firewall: { defaultAction: 'Deny', rules: [] }, flows: [] };

/** Makes the policy the one in force. What was accepted before stays until this has been written. */
export async function adoptPolicy(
  fuid: string,
  wanted: Policy,
  { directory, store, allocator }: { directory: Directory; store: KeyValueStore; allocator: Allocator },
): Promise<void> {
  const current = directory.policy(fuid);
  if (isDeepStrictEqual(current?.value ?? { flows: [] }, wanted)) return;
  directory.assertCurrent();
  if (!current) {
    await allocator.hold(fuid, keys.policy(fuid), wanted);
    return;
  }
  const result = await consul('writing the firewall and flows', () =>
    store.transact([{ verb: 'cas', key: keys.policy(fuid), value: serialise(wanted), index: current.index }]),
  );
  if (!result.ok)
    throw new Transient('RecordChanged', 'the network’s firewall and flows changed meanwhile; they are read again');
}
