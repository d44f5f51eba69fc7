import type { Observable } from 'rxjs';
import type { SiteHost, SiteSpec } from '../crds/index.js';
import type { Floodlight } from '../drivers/floodlight/types.js';
import type { Connection, DomainLifecycle, DomainStatus } from '../drivers/libvirt/types.js';
import type { Switch } from '../drivers/openflow/types.js';
import type { Ovsdb } from '../drivers/ovsdb/types.js';
import { driverOf, type HostRef, type VmRecord } from './common/records.js';

/** A domain as the daemon's events tell, without asking again. */
export interface ObservedDomain extends DomainStatus {
  readonly uuid: string;
  readonly name: string;
}

export interface ObservedNetwork {
  readonly uuid: string;
  readonly name: string;
  readonly active: boolean;
}

/** One libvirt driver of one host, kept connected, with what it holds read in bulk and kept current by its events. */
export interface LibvirtLink {
  readonly uri: string;
  /** The open connection. Throws an error that names the URI and the last failure while there is none. */
  readonly connection: Connection;
  readonly isConnected: boolean;
  /** Why there is no connection, while there is none. */
  readonly lastError: Error | undefined;
  readonly domains: ReadonlyMap<string, ObservedDomain>;
  readonly networks: ReadonlyMap<string, ObservedNetwork>;
  /** After the inventory has taken the change in; on a new connection all that is held is named. */
  readonly changes: Observable<{ readonly domains: readonly string[]; readonly networks: readonly string[] }>;
  /** The daemon's own words, at once: for what must not wait for the inventory (a guest resuming at a migration's target). */
  readonly lifecycle: Observable<{ readonly uuid: string; readonly event: DomainLifecycle; readonly detail: number }>;
  readonly connected: Observable<boolean>;
}

/** Everything that one host offers. Links reconnect by themselves. */
export interface Host extends HostRef {
  readonly spec: SiteHost;
  readonly siteSpec: SiteSpec;
  /** Networks and storage are the daemon's, whichever driver one connects to: this is the link for those. */
  readonly libvirt: LibvirtLink;
  readonly qemu: LibvirtLink | undefined;
  readonly lxc: LibvirtLink | undefined;
  readonly ovsdb: Ovsdb;
  readonly int: Switch;
  readonly edge: Switch;
  /** Whom the site has chosen to program isth-edge; undefined: BuiltIn. */
  readonly floodlight: Floodlight | undefined;
}

/** The link that holds a machine's domain at a host; undefined: the host has no such driver, or is not there. */
export const machineLink = (
  host: Pick<Host, 'qemu' | 'lxc'> | undefined,
  machine: Pick<VmRecord, 'driver'>,
): LibvirtLink | undefined => host?.[driverOf(machine)];

/** The hosts of the sites that this operator manages. */
export interface Hosts {
  get(ref: HostRef): Host | undefined;
  ofSite(site: string): readonly Host[];
  all(): Iterable<Host>;
  /**
   * Names of the hosts that a site uses, open or not; undefined while that is not known. A host that is not among them is
   * fenced, or was when it left: nothing of it is waited for.
   */
  inUse(site: string): readonly string[] | undefined;
  /** Why a site's hosts can't be connected to at all, such as a missing Secret. */
  problem(site: string): string | undefined;
  readonly added: Observable<Host>;
  readonly removed: Observable<Host>;
}

export const hostKey = ({ site, host }: HostRef): string => `${site}/${host}`;
