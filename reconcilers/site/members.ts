import type { SiteHost } from '../../crds/index.js';

/** The hosts of a site, by what is to be done with them. */
export interface Members {
  /** Named by the spec and used. */
  readonly staying: readonly SiteHost[];
  /** No longer named, but once taken into use: something of ours may be on them. */
  readonly leaving: readonly SiteHost[];
  /** Named, and taken for off. */
  readonly fenced: readonly SiteHost[];
  /** Named, but their VXLAN end point is still that of a host that leaves: they join when it is gone. */
  readonly waiting: readonly { readonly spec: SiteHost; readonly behind: string }[];
}

/** Hosts that were taken into use and are no longer named. */
export function leavingHosts(named: readonly SiteHost[], recorded: readonly SiteHost[]): SiteHost[] {
  return recorded.filter(({ name }) => !named.some((spec) => spec.name === name));
}

/**
 * Pure. occupied: VXLAN end points of the hosts that leave, whichever site's, with the host's name as site/host: two
 * tunnels to one end point can't be.
 */
export function membersOf(
  named: readonly SiteHost[],
  recorded: readonly SiteHost[],
  occupied: ReadonlyMap<string, string>,
): Members {
  const up = named.filter(({ fenced }) => fenced !== true);
  const behind = ({ underlayAddress }: SiteHost): string | undefined => occupied.get(underlayAddress);
  return {
    staying: up.filter((spec) => behind(spec) === undefined),
    leaving: leavingHosts(named, recorded),
    fenced: named.filter(({ fenced }) => fenced === true),
    waiting: up.flatMap((spec) => {
      const leaver = behind(spec);
      return leaver === undefined ? [] : [{ spec, behind: leaver }];
    }),
  };
}

/** What is known of a host that leaves. */
export interface Leaver {
  readonly name: string;
  /** False at first sight: what was under way when the spec changed shows in the records by the next. */
  readonly announced: boolean;
  /** Whether Consul's view is whole: what is not seen may exist otherwise. */
  readonly sound: boolean;
  /** What it has that only the user can move or delete. */
  readonly holds: readonly string[];
  /** Why it can't be reached. */
  readonly away: string | undefined;
  /** Our libvirt networks that are still defined there. */
  readonly networks: readonly string[];
}

/** keep: it serves what it holds. clear: its networks are being removed. forget: only its bridges are left. */
export type Departure = { readonly step: 'keep' | 'clear'; readonly message: string } | { readonly step: 'forget' };

/** What comes next for a host that leaves. Pure. */
export function departure({ name, announced, sound, holds, away, networks }: Leaver): Departure {
  const left = `host ${name} is no longer in spec.hosts`;
  if (holds.length > 0)
    return {
      step: 'keep',
      message: `${left} but still has ${holds.join(', ')}; move or delete them, or put the host back`,
    };
  if (!sound) return { step: 'keep', message: `${left}; waiting for Consul to tell whether it still has machines` };
  if (away !== undefined)
    return {
      step: 'keep',
      message: `${left} and can't be cleared: ${away}; that goes on when it answers; if it is off for good, put it back with fenced: true, then take it out again`,
    };
  if (!announced) return { step: 'keep', message: `${left}; its networks and bridges will be removed` };
  if (networks.length > 0)
    return { step: 'clear', message: `${left}; its networks are being removed: ${networks.join(', ')}` };
  return { step: 'forget' };
}
