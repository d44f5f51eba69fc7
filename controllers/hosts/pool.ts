import { filter, firstValueFrom, merge, Subject, timer, type Observable } from 'rxjs';
import type { Site, SiteHost, SiteSpec } from '../../crds/index.js';
import { openFloodlight } from '../../drivers/floodlight/index.js';
import type { Floodlight } from '../../drivers/floodlight/types.js';
import type { TlsMaterial } from '../../drivers/libvirt/types.js';
import { openSwitch } from '../../drivers/openflow/index.js';
import type { Switch } from '../../drivers/openflow/types.js';
import { openOvsdb } from '../../drivers/ovsdb/index.js';
import type { Ovsdb } from '../../drivers/ovsdb/types.js';
import { messageOf } from '../../reconcilers/common/errors.js';
import { hostKey, type Host, type Hosts } from '../../reconcilers/host.js';
import type { HostRef } from '../../reconcilers/common/records.js';
import type { ReadSecret } from '../../reconcilers/objects.js';
import { monitoredTables } from '../../reconcilers/site/bridges.js';
import { Link } from './link.js';

/** Holds the connections to every host of the Sites; a host whose end points or certificates change gets new ones. */
export class HostPool implements Hosts {
  readonly #open = new Map<string, OpenHost>();
  readonly #inUse = new Map<string, readonly string[]>();
  readonly #problems = new Map<string, string>();
  readonly #added = new Subject<Host>();
  readonly #removed = new Subject<Host>();
  /** One change of a site at a time. */
  readonly #turns = new Map<string, Promise<void>>();

  constructor(
    private readonly readSecret: ReadSecret,
    /** Where the Secrets with the certificates are. */
    private readonly namespace: string,
    /** Asked before anything is changed at a host by libvirt. */
    private readonly assertMayChange: () => void = () => undefined,
  ) {}

  get added(): Observable<Host> {
    return this.#added;
  }

  get removed(): Observable<Host> {
    return this.#removed;
  }

  get(ref: HostRef): Host | undefined {
    return this.#open.get(hostKey(ref));
  }

  ofSite(site: string): readonly Host[] {
    return [...this.#open.values()].filter((host) => host.site === site);
  }

  all(): Iterable<Host> {
    return this.#open.values();
  }

  inUse(site: string): readonly string[] | undefined {
    return this.#inUse.get(site);
  }

  problem(site: string): string | undefined {
    return this.#problems.get(site);
  }

  /** Opens, replaces and closes connections so that they are those of the hosts that the Site uses; undefined: it is gone. */
  async update(name: string, site: Site | undefined, inUse: readonly SiteHost[] = []): Promise<void> {
    const turn = (this.#turns.get(name) ?? Promise.resolve()).then(() => this.#update(name, site, inUse));
    this.#turns.set(
      name,
      turn.catch(() => undefined),
    );
    await turn;
  }

  /** Resolves when every host has connected or failed to, or its time is up. */
  async settled({ hostMs, bridgeMs }: { readonly hostMs: number; readonly bridgeMs: number }): Promise<void> {
    const waits = [...this.#open.values()].flatMap((host) => [
      ...[host.qemu, host.lxc]
        .filter((link) => link !== undefined)
        .map((link) => first(link.connected, (connected) => connected || link.lastError !== undefined, hostMs)),
      first(host.ovsdb.state, ({ connected }) => connected, hostMs),
      ...[host.int, host.edge].map(({ state }) => first(state, ({ connected }) => connected, bridgeMs)),
    ]);
    await Promise.all(waits);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open.values()].map((host) => host.close()));
    this.#open.clear();
    this.#added.complete();
    this.#removed.complete();
  }

  async #update(name: string, site: Site | undefined, inUse: readonly SiteHost[]): Promise<void> {
    const tls = site && (await this.#certificates(site));
    if (site)
      this.#inUse.set(
        name,
        inUse.map((spec) => spec.name),
      );
    else this.#inUse.delete(name);
    const wanted = new Map(inUse.map((spec) => [`${name}/${spec.name}`, spec]));
    if (tls === null) wanted.clear();
    for (const host of this.ofSite(name)) {
      const open = this.#open.get(hostKey(host));
      const spec = wanted.get(hostKey(host));
      if (open && spec && site && open.serves(spec, site.spec, tls ?? undefined)) open.adopt(spec, site.spec);
      else await this.#drop(hostKey(host));
    }
    if (!site) return;
    for (const [key, spec] of wanted) {
      if (this.#open.has(key)) continue;
      try {
        const host = new OpenHost(name, spec, site.spec, tls ?? undefined, this.assertMayChange);
        this.#open.set(key, host);
        this.#added.next(host);
      } catch (error) {
        // An end point that can't be parsed: the site's other hosts are opened.
        this.#problems.set(name, `spec.hosts: host ${spec.name}: ${messageOf(error)}`);
      }
    }
  }

  /** null: the site names certificates that can't be had. */
  async #certificates(site: Site): Promise<TlsMaterial | undefined | null> {
    const { name } = site.metadata;
    const secret = site.spec.tlsSecretRef?.name;
    this.#problems.delete(name);
    if (secret === undefined) return undefined;
    const data = await this.readSecret(this.namespace, secret);
    const [ca, cert, key] = ['ca.crt', 'tls.crt', 'tls.key'].map((field) => data?.[field]?.toString('utf8'));
    if (ca !== undefined && cert !== undefined && key !== undefined) return { ca, cert, key };
    this.#problems.set(
      name,
      `spec.tlsSecretRef: Secret ${this.namespace}/${secret} ${data ? 'lacks one of ca.crt, tls.crt, tls.key' : 'does not exist'}; create it with all three`,
    );
    return null;
  }

  async #drop(key: string): Promise<void> {
    const host = this.#open.get(key);
    if (!host) return;
    this.#open.delete(key);
    this.#removed.next(host);
    await host.close();
  }
}

class OpenHost implements Host {
  readonly host: string;
  readonly qemu: Link | undefined;
  readonly lxc: Link | undefined;
  readonly ovsdb: Ovsdb;
  readonly int: Switch;
  readonly edge: Switch;
  readonly floodlight: Floodlight | undefined;
  readonly #endpoints: string;

  constructor(
    readonly site: string,
    public spec: SiteHost,
    public siteSpec: SiteSpec,
    tls: TlsMaterial | undefined,
    assertMayChange: () => void,
  ) {
    this.host = spec.name;
    this.#endpoints = endpointsOf(spec, siteSpec, tls);
    const options = tls ? { tls } : {};
    const { libvirt, ovs } = spec;
    const url = siteSpec.sdnController?.url;
    const opened: { close(): Promise<void> }[] = [];
    const open = <T extends { close(): Promise<void> }>(each: T): T => {
      opened.push(each);
      return each;
    };
    try {
      this.floodlight = url === undefined ? undefined : open(openFloodlight(url));
      this.ovsdb = open(openOvsdb(ovs.ovsdb, monitoredTables, options));
      this.int = open(openSwitch(ovs.openflow.int, options));
      this.edge = open(openSwitch(ovs.openflow.edge, options));
      this.qemu =
        libvirt.qemu === undefined ? undefined : open(new Link(libvirt.qemu, { ...options, assertMayChange }));
      this.lxc = libvirt.lxc === undefined ? undefined : open(new Link(libvirt.lxc, { ...options, assertMayChange }));
    } catch (error) {
      for (const each of opened) void each.close();
      throw error;
    }
  }

  get libvirt(): Link {
    const link = this.qemu ?? this.lxc;
    // The schema requires one of them.
    if (!link) throw new Error(`host ${hostKey(this)} has neither libvirt.qemu nor libvirt.lxc`);
    return link;
  }

  /** Whether these connections are the ones that the spec asks for. */
  serves(spec: SiteHost, siteSpec: SiteSpec, tls: TlsMaterial | undefined): boolean {
    return endpointsOf(spec, siteSpec, tls) === this.#endpoints;
  }

  adopt(spec: SiteHost, siteSpec: SiteSpec): void {
    this.spec = spec;
    this.siteSpec = siteSpec;
  }

  async close(): Promise<void> {
    const { qemu, lxc, ovsdb, int, edge, floodlight } = this;
    await Promise.all([
      ...[qemu?.close(), lxc?.close(), floodlight?.close()],
      ...[ovsdb.close(), int.close(), edge.close()],
    ]);
  }
}

const endpointsOf = ({ libvirt, ovs }: SiteHost, { sdnController }: SiteSpec, tls: TlsMaterial | undefined): string =>
  JSON.stringify([libvirt.qemu, libvirt.lxc, ovs.ovsdb, ovs.openflow, sdnController?.url, tls]);

/** Resolves at the first value that will do, at the end, or when the time is up. */
async function first<T>(values: Observable<T>, willDo: (value: T) => boolean, patienceMs: number): Promise<void> {
  await firstValueFrom(merge(values.pipe(filter(willDo)), timer(patienceMs)), { defaultValue: undefined });
}
