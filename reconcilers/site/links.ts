import type { Site, SiteLink } from '../../crds/index.js';
import type { HostRef } from '../common/records.js';
import type { Outcome } from '../common/outcome.js';
import { hostKey } from '../host.js';
import type { Objects } from '../objects.js';
import { settledLatency, type Finding } from '../underlay/finding.js';
import { encapsulation, promisedMtu } from '../underlay/mtu.js';
import type { Peer } from './bridges.js';

/** What is known of the way between two hosts; undefined: it is too early to say. */
export type Findings = (from: HostRef, to: HostRef) => Finding | undefined;

type Conditions = NonNullable<Outcome<unknown>['conditions']>;

/** One end at this site, the other anywhere. */
interface Pair {
  readonly from: Peer;
  readonly to: Peer;
  /** The largest IP packet of a machine that the underlay should carry between them, in bytes. */
  readonly promised: number;
}

/** Above that many a message counts instead of naming. */
const named = 5;

/**
 * What a Site tells of the links between its hosts and all others, and the conditions that come of it. Pure. A link that this
 * process has not looked at yet keeps what was told of it before, so a restart of ours is no news.
 */
export function linksOf(
  site: Site,
  hosts: readonly Peer[],
  objects: Pick<Objects, 'site'>,
  findings: Findings,
): { readonly links: SiteLink[]; readonly conditions: Conditions } {
  const pairs = hosts
    .filter((from) => from.site === site.metadata.name)
    .flatMap((from) => hosts.filter((to) => hostKey(to) !== hostKey(from)).map((to) => ({ from, to })))
    .map((ends) => ({ ...ends, promised: promisedMtu(site.spec, objects.site(ends.to.site)?.spec ?? site.spec) }));
  const links = pairs.map((pair) => ({ pair, link: linkOf(pair, site.status?.links ?? [], findings) }));
  return { links: links.map(({ link }) => link), conditions: [...linksUp(links), ...mtuCarried(links)] };
}

function linkOf(pair: Pair, told: readonly SiteLink[], findings: Findings): SiteLink {
  const { from, to, promised } = pair;
  const ends = { host: from.host, peer: hostKey(to) };
  const before = told.find(({ host, peer }) => host === ends.host && peer === ends.peer);
  const finding = findings(from, to);
  if (!finding) return before ?? { ...ends, state: 'Unknown', message: 'not looked at yet' };
  const { state, mtu, latencyMs, why } = finding;
  // What was measured against another promise may be less than would pass.
  const carried = mtu?.promised === promised ? mtu.carried : undefined;
  const message = why === undefined ? shortfall(pair, carried) : `${why}; ${remedyOf(pair, state)}`;
  return {
    ...ends,
    state,
    ...(carried === undefined ? {} : { mtu: carried }),
    ...(latencyMs === undefined ? {} : { latencyMs: settledLatency(before?.latencyMs, latencyMs) }),
    ...(message === undefined ? {} : { message }),
  };
}

function remedyOf({ from, to }: Pair, state: SiteLink['state']): string {
  const addresses = `${from.underlayAddress} and ${to.underlayAddress}`;
  return state === 'Down'
    ? `check the underlay between ${addresses}, and that UDP port 4789 is open both ways`
    : `check that Open vSwitch and the operator work at both ends, ${addresses}`;
}

function shortfall({ from, to, promised }: Pair, carried: number | undefined): string | undefined {
  if (carried === undefined || carried >= promised) return undefined;
  const sites = [...new Set([from.site, to.site])].join(' or ');
  return `packets of ${String(carried)} bytes pass, not of ${String(promised)} as underlayMTU ${String(promised + encapsulation)} promises; raise the MTU of the underlay to that, or lower spec.underlayMTU of Site ${sites} to ${String(carried + encapsulation)}`;
}

type Told = readonly { readonly pair: Pair; readonly link: SiteLink }[];

function linksUp(links: Told): Conditions {
  const down = links.filter(({ link }) => link.state === 'Down');
  if (down.length > 0) return [{ type: 'LinksUp', status: 'False', reason: 'LinkDown', message: naming(down) }];
  if (links.length === 0 || links.some(({ link }) => link.state !== 'Up')) return [];
  return [{ type: 'LinksUp', status: 'True', reason: 'AllUp', message: 'every host of every site is heard of' }];
}

function mtuCarried(links: Told): Conditions {
  const narrow = links.filter(({ pair, link }) => shortfall(pair, link.mtu) !== undefined);
  if (narrow.length > 0)
    return [{ type: 'MTUCarried', status: 'False', reason: 'MTUNotCarried', message: naming(narrow) }];
  if (links.length === 0 || links.some(({ link }) => link.mtu === undefined)) return [];
  const message = 'the underlay carries what underlayMTU promises';
  return [{ type: 'MTUCarried', status: 'True', reason: 'AsPromised', message }];
}

function naming(links: Told): string {
  const lines = links.slice(0, named).map(({ pair, link }) => {
    const what = link.message ?? shortfall(pair, link.mtu) ?? link.state;
    return `${hostKey(pair.from)} to ${link.peer}: ${what}`;
  });
  const more = links.length - named;
  return `${lines.join('. ')}${more > 0 ? `. And ${String(more)} more` : ''}`;
}
