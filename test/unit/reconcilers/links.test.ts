import { describe, expect, it } from '@jest/globals';
import type { Site, SiteLink } from '../../../crds/index.js';
import { hostKey } from '../../../reconcilers/host.js';
import { uncarried } from '../../../reconcilers/network/plan.js';
import type { Peer } from '../../../reconcilers/site/bridges.js';
import { linksOf } from '../../../reconcilers/site/links.js';
import type { Finding } from '../../../reconcilers/underlay/finding.js';
import { objectsOf, siteObject } from './support/objects.js';

const peers: readonly Peer[] = [
  { site: 'valencia', host: 'a', underlayAddress: '198.51.100.11' },
  { site: 'saopaulo', host: 'a', underlayAddress: '198.51.100.12' },
  { site: 'saopaulo', host: 'b', underlayAddress: '198.51.100.13' },
];
const good: Finding = { state: 'Up', mtu: { carried: 1450, promised: 1450 }, latencyMs: 12 };
const narrow: Finding = { ...good, mtu: { carried: 1250, promised: 1450 } };
const down: Finding = { ...good, state: 'Down', why: 'the tunnel is down (BFD: Control Detection Time Expired)' };
const silent: Finding = { state: 'Unknown', why: 'the tunnel is up, but no probe comes back' };

const saopaulo = (spec = {}) => siteObject('saopaulo', spec);
function tell(findings: Readonly<Record<string, Finding>>, site: Site = siteObject('valencia'), far = saopaulo()) {
  return linksOf(site, peers, objectsOf({ sites: [site, far] }), (from, to) =>
    from.site === 'valencia' ? findings[hostKey(to)] : undefined,
  );
}
const both = (finding: Finding) => ({ 'saopaulo/a': finding, 'saopaulo/b': finding });
const up = (peer: string, more: Partial<SiteLink> = {}): SiteLink => ({
  ...{ host: 'a', peer, state: 'Up', mtu: 1450, latencyMs: 12 },
  ...more,
});

describe('what a Site tells of its links', () => {
  it('is one to each host of each site, its own other hosts’ too, and none to itself', () => {
    expect(tell(both(good)).links).toEqual([up('saopaulo/a'), up('saopaulo/b')]);
    const site = saopaulo();
    const own = linksOf(site, peers, objectsOf({ sites: [site] }), () => good).links;
    expect(own.map(({ host, peer }) => `${host} ${peer}`)).toEqual([
      ...['a valencia/a', 'a saopaulo/b', 'b valencia/a', 'b saopaulo/a'],
    ]);
  });

  it('is nothing where there is one host', () => {
    expect(linksOf(siteObject('valencia'), peers.slice(0, 1), objectsOf({}), () => undefined)).toEqual({
      links: [],
      conditions: [],
    });
  });

  it('is what it was, as long as a new process has not looked', () => {
    const told = [up('saopaulo/a', { mtu: 1250, message: 'as it was' }), up('saopaulo/b')];
    const site = siteObject('valencia', {}, {}, { links: told });
    expect(tell({}, site).links).toEqual(told);
    expect(tell({}).links.map(({ state }) => state)).toEqual(['Unknown', 'Unknown']);
  });

  it('keeps a latency that wavers, over a restart of ours too', () => {
    const site = siteObject('valencia', {}, {}, { links: [up('saopaulo/a'), up('saopaulo/b', { latencyMs: 4 })] });
    expect(tell(both({ ...good, latencyMs: 14 }), site).links.map(({ latencyMs }) => latencyMs)).toEqual([12, 14]);
  });

  it('has no MTU that was measured against another promise', () => {
    const site = siteObject('valencia', { underlayMTU: 1600 });
    const { links, conditions } = tell(both(good), site, saopaulo({ underlayMTU: 1600 }));
    expect(links.map(({ mtu }) => mtu)).toEqual([undefined, undefined]);
    expect(conditions.map(({ type }) => type)).toEqual(['LinksUp']);
  });

  const conditions: readonly { reason: string; findings: Record<string, Finding>; tells: Record<string, string>; names?: readonly string[] }[] = [
    { reason: 'all is well', findings: both(good), tells: { LinksUp: 'True AllUp', MTUCarried: 'True AsPromised' } },
    { reason: 'one is down', findings: { ...both(good), 'saopaulo/b': down }, tells: { LinksUp: 'False LinkDown', MTUCarried: 'True AsPromised' }, names: ['valencia/a to saopaulo/b', 'BFD', '198.51.100.11 and 198.51.100.13', '4789'] },
    { reason: 'one carries less', findings: { ...both(good), 'saopaulo/a': narrow }, tells: { LinksUp: 'True AllUp', MTUCarried: 'False MTUNotCarried' }, names: ['valencia/a to saopaulo/a', '1250', '1450', 'underlayMTU 1500', 'to 1300'] },
    { reason: 'one can’t be told', findings: { ...both(good), 'saopaulo/a': silent }, tells: {} },
    { reason: 'one can’t be told and one is down', findings: { 'saopaulo/a': silent, 'saopaulo/b': down }, tells: { LinksUp: 'False LinkDown' } },
    { reason: 'nothing is known', findings: {}, tells: {} },
  ]; // prettier-ignore
  it.each(conditions)('says of the Site, when $reason', ({ findings, tells, names = [] }) => {
    const found = tell(findings).conditions;
    expect(Object.fromEntries(found.map(({ type, status, reason }) => [type, `${status} ${reason}`]))).toEqual(tells);
    const message = found.find(({ status }) => status === 'False')?.message ?? '';
    for (const name of names) expect(message).toContain(name);
  });

  it('counts what would be too many to name', () => {
    const many = Array.from({ length: 9 }, (_, index) => ({
      site: 'far',
      host: `h${String(index)}`,
      underlayAddress: '',
    }));
    const site = siteObject('valencia');
    const { conditions: found } = linksOf(site, [...peers.slice(0, 1), ...many], objectsOf({}), () => down);
    expect(found[0]?.message).toContain('far/h4');
    expect(found[0]?.message).not.toContain('far/h5');
    expect(found[0]?.message).toContain('And 4 more');
  });
});

describe('a network at a site of which links carry less than it needs', () => {
  const at = (...links: SiteLink[]) => siteObject('valencia', {}, {}, { links });
  const record = { mtu: 1450, sites: ['valencia', 'saopaulo'] };
  it.each([
    { reason: 'is ready where they carry it', site: at(up('saopaulo/a')), network: record, names: undefined },
    { reason: 'is ready where that is not known', site: at({ host: 'a', peer: 'saopaulo/a', state: 'Unknown' }), network: record, names: undefined },
    { reason: 'is ready at a site that nothing is known of', site: undefined, network: record, names: undefined },
    { reason: 'is ready where it needs no more', site: at(up('saopaulo/a', { mtu: 1250 })), network: { ...record, mtu: 1250 }, names: undefined },
    { reason: 'is ready where it does not span that site', site: at(up('lisbon/a', { mtu: 1250 })), network: record, names: undefined },
    { reason: 'is not where it does', site: at(up('saopaulo/a'), up('saopaulo/b', { mtu: 1250 })), network: record, names: ['host a to saopaulo/b', '1250', '1450', 'to 1500', 'mtu 1250'] },
    { reason: 'is not on another host of the site either', site: at(up('valencia/b', { mtu: 1300 })), network: record, names: ['valencia/b', '1300'] },
    { reason: 'stays so while the link is down', site: at(up('saopaulo/a', { mtu: 1250, state: 'Down' })), network: record, names: ['saopaulo/a'] },
  ])('$reason', ({ site, network, names }) => {
    const why = uncarried(site, network);
    if (!names) expect(why).toBeUndefined();
    for (const name of names ?? []) expect(why).toContain(name);
  }); // prettier-ignore
});
