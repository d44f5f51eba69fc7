import type { SiteSpec } from '../../crds/index.js';

/** A VXLAN frame's outer IPv4, UDP and VXLAN headers and its inner Ethernet header, in bytes (RFC 7348 §5). */
export const encapsulation = 20 + 8 + 8 + 14;
const defaultUnderlayMtu = 1500;

export const underlayMtu = ({ underlayMTU }: Pick<SiteSpec, 'underlayMTU'>): number =>
  underlayMTU ?? defaultUnderlayMtu;

/** The largest IP packet of a tenant, in bytes, that the underlay is said to carry between hosts of these sites. */
export const promisedMtu = (...ends: readonly Pick<SiteSpec, 'underlayMTU'>[]): number =>
  Math.min(...ends.map(underlayMtu)) - encapsulation;

/** What every path of IPv4 carries, in bytes (RFC 791 §3.2). */
export const leastMtu = 68;

/** Whether a packet of that many bytes comes back. */
type Passes = (mtu: number) => Promise<boolean>;

/**
 * The largest packet that passes, up to what is promised, in bytes. What carries the promise costs one question; what
 * carries as little as last time, a few. Undefined: nothing passes, or not what did a moment ago.
 */
export async function measureMtu(passes: Passes, promised: number, last?: number): Promise<number | undefined> {
  if (await passes(promised)) return promised;
  let [passing, lost] = [leastMtu, promised];
  if (!(await passes(passing))) return undefined;
  // Most likely it is as it was.
  for (const guess of last === undefined ? [] : [last, last + 1]) {
    if (guess <= passing || guess >= lost) continue;
    if (await passes(guess)) passing = guess;
    else lost = guess;
  }
  while (lost - passing > 1) {
    const middle = Math.floor((passing + lost) / 2);
    if (await passes(middle)) passing = middle;
    else lost = middle;
  }
  // A wire that was cut meanwhile, or was crowded, carries no less than before.
  if (await passes(promised)) return promised;
  return (await passes(passing)) ? passing : undefined;
}
