import { describe, expect, it } from '@jest/globals';
import type { FederatedNetwork, Site } from '../../../crds/index.js';
import { controllerMismatch, planNetwork, type NetworkPlan } from '../../../reconcilers/network/plan.js';
import { interruptionOf } from './support/interruption.js';
import { networkObject, objectsOf, siteObject } from './support/objects.js';

const valencia = siteObject('valencia', { vlanRange: { from: 100, to: 200 } });
const saopaulo = siteObject('saopaulo', { vlanRange: { from: 150, to: 300 }, underlayMTU: 1600 });
const both = [valencia, saopaulo];

interface World {
  readonly reason: string;
  readonly network?: FederatedNetwork;
  readonly sites?: readonly Site[];
  readonly networks?: readonly FederatedNetwork[];
}
const plan = ({ network = networkObject('blue'), sites = both, networks = [] }: World): NetworkPlan =>
  planNetwork(network, objectsOf({ sites, networks: [...networks, network] }));

describe('planNetwork', () => {
  const cases: readonly (World & { plan: Partial<NetworkPlan> })[] = [
    { reason: 'no sites named are all sites, in an order of their own', plan: { sites: ['saopaulo', 'valencia'] } },
    { reason: 'named sites are those', network: networkObject('blue', { sites: ['saopaulo'] }), plan: { sites: ['saopaulo'] } },
    { reason: 'a site that is being deleted is not joined by itself', sites: [valencia, siteObject('old', {}, { deletionTimestamp: '2026-11-22T11:00:00Z' })], plan: { sites: ['valencia'] } },
    { reason: 'the MTU is the smallest underlay’s less 50 bytes of VXLAN over IPv4', plan: { mtu: 1450 } },
    { reason: 'an underlay without a word carries 1500', sites: [siteObject('plain', { vlanRange: { from: 1, to: 9 } })], plan: { mtu: 1450 } },
    { reason: 'a larger underlay carries more', sites: [saopaulo], plan: { mtu: 1550 } },
    { reason: 'a smaller MTU that fits is kept', network: networkObject('blue', { mtu: 1400 }), plan: { mtu: 1400 } },
    { reason: 'the largest that fits, fits', network: networkObject('blue', { mtu: 1450 }), plan: { mtu: 1450 } },
    { reason: 'VLANs come from what all sites share', plan: { vlanRange: { first: 150, last: 200 } } },
    { reason: 'a site without a range has 100 to 3999', sites: [siteObject('plain')], plan: { vlanRange: { first: 100, last: 3999 } } },
    { reason: 'a pin at the edge of the range is in it', network: networkObject('blue', { vlanId: 200 }), plan: { vlanRange: { first: 150, last: 200 } } },
    { reason: 'another tenant may have the same addresses', networks: [networkObject('blue', {}, { namespace: 'other', uid: 'x', creationTimestamp: '2026-11-01T00:00:00Z' })], plan: { mtu: 1450 } },
    { reason: 'a neighbouring range is another', networks: [networkObject('red', { cidr: '172.17.0.0/16' }, { creationTimestamp: '2026-11-01T00:00:00Z' })], plan: { mtu: 1450 } },
    { reason: 'of two that overlap the older one goes on', networks: [networkObject('red', {}, { creationTimestamp: '2026-11-23T00:00:00Z' })], plan: { mtu: 1450 } },
    { reason: 'a controller that all sites have is no obstacle', network: networkObject('blue', { sdnController: 'BuiltIn' }), plan: { mtu: 1450 } },
  ]; // prettier-ignore
  it.each(cases)('$reason', (world) => {
    expect(plan(world)).toMatchObject(world.plan);
  });

  const refused: readonly (World & { code: 'STALLED' | 'WAITING'; why: string; names: readonly string[] })[] = [
    { reason: 'a site that is not there may come', network: networkObject('blue', { sites: ['oslo'] }), code: 'WAITING', why: 'UnknownSite', names: ['spec.sites', 'oslo', 'valencia, saopaulo'] },
    { reason: 'without any Site there is nowhere to be', sites: [], code: 'WAITING', why: 'NoSite', names: ['spec.sites'] },
    { reason: 'an MTU that does not fit would let connections open and data stall', network: networkObject('blue', { mtu: 1451 }), code: 'STALLED', why: 'MTUTooLarge', names: ['spec.mtu', '1451', 'valencia', '1450'] },
    { reason: 'ranges without a VLAN in common', sites: [valencia, siteObject('far', { vlanRange: { from: 201, to: 300 } })], code: 'STALLED', why: 'NoCommonVLAN', names: ['vlanRange', 'valencia, far'] },
    { reason: 'a pin below what they share', network: networkObject('blue', { vlanId: 149 }), code: 'STALLED', why: 'VLANOutOfRange', names: ['spec.vlanId', '149', '150-200'] },
    { reason: 'a pin above what they share', network: networkObject('blue', { vlanId: 201 }), code: 'STALLED', why: 'VLANOutOfRange', names: ['spec.vlanId', '201', '150-200'] },
    { reason: 'of two that overlap the younger one waits', networks: [networkObject('red', { cidr: '172.16.128.0/24' }, { creationTimestamp: '2026-11-01T00:00:00Z' })], code: 'WAITING', why: 'OverlappingCIDR', names: ['spec.cidr', '172.16.128.0/24', 'acme/red'] },
    { reason: 'of two of the same second the uid decides', networks: [networkObject('red', {}, { uid: '00000000-0000-4000-8000-000000000000' })], code: 'WAITING', why: 'OverlappingCIDR', names: ['acme/red'] },
  ]; // prettier-ignore
  it.each(refused)('stops at, and names the field and the way out: $reason', ({ code, why, names, ...world }) => {
    const interruption = interruptionOf(() => plan(world));
    expect(interruption).toMatchObject({ code: `ISTHMUS_${code}`, reason: why });
    for (const name of names) expect(interruption.message).toContain(name);
  });

  const controllers: readonly { reason: string; wanted?: string; has: string; names?: readonly string[] }[] = [
    { reason: 'none asked for', has: 'Floodlight' },
    { reason: 'the one asked for', wanted: 'Floodlight', has: 'Floodlight' },
    { reason: 'another', wanted: 'Floodlight', has: 'BuiltIn', names: ['spec.sdnController', 'valencia', 'BuiltIn', 'not Floodlight'] },
  ]; // prettier-ignore
  it.each(controllers)('asks a site for a controller, and the site alone is not ready without: $reason', (each) => {
    const network = networkObject('blue', each.wanted === undefined ? {} : { sdnController: each.wanted });
    const mismatch = controllerMismatch(network, 'valencia', each.has);
    if (!each.names) expect(mismatch).toBeUndefined();
    for (const name of each.names ?? []) expect(mismatch).toContain(name);
  });

  it('never stops both of two that overlap, nor neither', () => {
    const red = networkObject('red');
    const blue = networkObject('blue');
    const stopped = [red, blue].filter((network) => {
      try {
        planNetwork(network, objectsOf({ sites: both, networks: [red, blue] }));
        return false;
      } catch {
        return true;
      }
    });
    expect(stopped).toHaveLength(1);
  });
});
