import { parseCidr, type AddressRange, type Cidr, type FederatedNetwork, type Site } from '../../crds/index.js';
import { Stalled, Waiting } from '../common/errors.js';
import type { NetworkRecord } from '../common/records.js';
import type { Objects } from '../objects.js';
import { encapsulation, promisedMtu, underlayMtu } from '../underlay/mtu.js';

const defaultVlanRange = { from: 100, to: 3999 } as const;
export const vniRange: AddressRange = { first: 4096, last: 16_777_215 };

/** What a network's spec comes to on the sites that there are. */
export interface NetworkPlan {
  readonly sites: readonly string[];
  readonly mtu: number;
  readonly vlanRange: AddressRange;
}

/** Pure. Throws Stalled or Waiting, naming the field and the remedy. */
export function planNetwork(network: FederatedNetwork, objects: Objects): NetworkPlan {
  const sites = memberSites(network, objects);
  refuseOverlap(network, objects);
  const smallest = sites.reduce((least, site) => (underlayMtu(site.spec) < underlayMtu(least.spec) ? site : least));
  const largestMtu = promisedMtu(smallest.spec);
  const mtu = network.spec.mtu ?? largestMtu;
  if (mtu > largestMtu)
    throw new Stalled(
      'MTUTooLarge',
      `spec.mtu: ${String(mtu)} does not fit: site ${smallest.metadata.name} carries ${String(largestMtu)} (underlayMTU ${String(underlayMtu(smallest.spec))} less ${String(encapsulation)} for VXLAN); make a network with a smaller mtu or leave it out`,
    );
  const ranges = sites.map(({ spec }) => spec.vlanRange ?? defaultVlanRange);
  const vlanRange = {
    first: Math.max(...ranges.map(({ from }) => from)),
    last: Math.min(...ranges.map(({ to }) => to)),
  };
  const pin = network.spec.vlanId;
  if (vlanRange.first > vlanRange.last)
    throw new Stalled(
      'NoCommonVLAN',
      `spec.sites: the vlanRanges of ${names(sites)} have no VLAN in common; widen one of them`,
    );
  if (pin !== undefined && (pin < vlanRange.first || pin > vlanRange.last))
    throw new Stalled(
      'VLANOutOfRange',
      `spec.vlanId: ${String(pin)} is not in ${String(vlanRange.first)}-${String(vlanRange.last)}, which the sites ${names(sites)} share; choose another or leave it out`,
    );
  return { sites: sites.map(({ metadata }) => metadata.name).sort(), mtu, vlanRange };
}

/**
 * Why a site can't carry what a network's machines send to its other members, as far as that has been measured; undefined:
 * nothing is known against it. What has not been measured is no failure.
 */
export function uncarried(
  site: Site | undefined,
  { mtu, sites }: Pick<NetworkRecord, 'mtu' | 'sites'>,
): string | undefined {
  const narrow = (site?.status?.links ?? []).flatMap(({ host, peer, mtu: carried }) =>
    carried !== undefined && carried < mtu && sites.includes(peer.split('/')[0] ?? '') ? [{ host, peer, carried }] : [],
  );
  if (narrow.length === 0) return undefined;
  const told = narrow.map(
    ({ host, peer, carried }) => `host ${host} to ${peer}: packets of ${String(carried)} bytes pass`,
  );
  const least = Math.min(...narrow.map(({ carried }) => carried));
  return `${told.join(', ')}, not of ${String(mtu)} as the network has it; raise the MTU of the underlay between them to ${String(mtu + encapsulation)}, or make a network with mtu ${String(least)}`;
}

const names = (sites: readonly Site[]): string => sites.map(({ metadata }) => metadata.name).join(', ');

function memberSites(network: FederatedNetwork, objects: Objects): [Site, ...Site[]] {
  const known = [...objects.sites()];
  const staying = (site: Site): boolean => site.metadata.deletionTimestamp === undefined;
  const chosen = network.spec.sites?.map((name) => {
    const site = known.find(({ metadata }) => metadata.name === name);
    if (!site)
      throw new Waiting(
        'UnknownSite',
        `spec.sites: there is no Site ${name} (known: ${names(known) || 'none'}); create it or take it out of the list`,
        30_000,
      );
    return site;
  });
  const [first, ...rest] = chosen ?? known.filter(staying);
  if (!first) throw new Waiting('NoSite', 'spec.sites: there is no Site yet; create one', 30_000);
  return [first, ...rest];
}

/** Parsed once an object: every plan looks at all networks of its tenant. */
const ranges = new WeakMap<FederatedNetwork, Cidr | undefined>();

function rangeOf(network: FederatedNetwork): Cidr | undefined {
  if (!ranges.has(network)) ranges.set(network, parseCidr(network.spec.cidr));
  return ranges.get(network);
}

/** Within a tenant addresses must be unambiguous: a machine may be on several of its networks. The older network stays. */
function refuseOverlap(network: FederatedNetwork, objects: Objects): void {
  const own = parseCidr(network.spec.cidr);
  if (!own)
    throw new Stalled('InvalidCIDR', `spec.cidr: ${network.spec.cidr} is not an IPv4 CIDR, such as 172.16.0.0/16`);
  for (const other of objects.networks()) {
    if (other.metadata.namespace !== network.metadata.namespace || other.metadata.uid === network.metadata.uid)
      continue;
    const theirs = rangeOf(other);
    if (!theirs || theirs.last < own.first || own.last < theirs.first || !isOlder(other, network)) continue;
    throw new Waiting(
      'OverlappingCIDR',
      `spec.cidr: ${network.spec.cidr} overlaps ${other.spec.cidr} of FederatedNetwork ${other.metadata.namespace}/${other.metadata.name}; choose another range`,
      30_000,
    );
  }
}

function isOlder(a: FederatedNetwork, b: FederatedNetwork): boolean {
  const [first, second] = [a, b].map(({ metadata }) => `${metadata.creationTimestamp}/${metadata.uid}`);
  return (first ?? '') < (second ?? '');
}

/** Why a site with that controller is not what the network asks for; undefined: it is. */
export function controllerMismatch(network: FederatedNetwork, site: string, controller: string): string | undefined {
  const wanted = network.spec.sdnController;
  if (wanted === undefined || wanted === controller) return undefined;
  return `spec.sdnController: site ${site} has ${controller}, not ${wanted}; take the site out of spec.sites or change the site's sdnController`;
}
