import { Subject, type Observable } from 'rxjs';
import type { Site, SiteHost } from '../../crds/index.js';
import type { KeyValueStore, View } from '../../drivers/consul/types.js';
import { consul } from '../common/allocation.js';
import { isInterruption, Transient, type Interruption } from '../common/errors.js';
import {
  keys,
  parseRecord,
  prefixes,
  serialise,
  siteRecord,
  type SiteRecord,
  type Versioned,
} from '../common/records.js';
import type { Objects } from '../objects.js';
import type { Peer } from './bridges.js';
import { leavingHosts, membersOf, type Members } from './members.js';

/**
 * The hosts of all sites, from the Sites' specs and from the records in Consul of those that were taken into use: a host
 * that its spec no longer names is known until nothing of ours is left on it, whoever restarts meanwhile.
 */
export class Roster {
  readonly #view: View;
  readonly #records = new Map<string, Versioned<SiteRecord> | Interruption>();
  /** The hosts of each site as its record had them when it could be read last. */
  readonly #readable = new Map<string, readonly SiteHost[]>();
  readonly #changes = new Subject<readonly string[]>();
  readonly #subscription;

  constructor(
    private readonly store: Pick<KeyValueStore, 'transact' | 'watch'>,
    private readonly objects: Objects,
  ) {
    this.#view = store.watch(prefixes.site);
    this.#subscription = this.#view.changes.subscribe((changed) => {
      for (const key of changed) this.#take(key);
      this.#changes.next(changed.map((key) => key.slice(prefixes.site.length)));
    });
  }

  /** Names of the sites whose record changed: every host has a tunnel to every other, so this concerns all sites. */
  get changes(): Observable<readonly string[]> {
    return this.#changes;
  }

  async ready(timeoutMs?: number): Promise<void> {
    await this.#view.ready(timeoutMs);
  }

  /** The hosts of a site. Throws Stalled for a record that can't be read. */
  of(site: Site): Members {
    return membersOf(site.spec.hosts, this.#record(site.metadata.name)?.value.hosts ?? [], this.#occupied());
  }

  /** The hosts that were in use when this was last written down; undefined: nothing is written down of the site yet. */
  recorded(site: Site): SiteHost[] | undefined {
    const hosts = this.#record(site.metadata.name)?.value.hosts;
    if (!hosts) return undefined;
    const { staying, leaving } = this.of(site);
    return [...staying, ...leaving].filter(({ name }) => hosts.some((host) => host.name === name));
  }

  /** The hosts of a site, those that join written down before anybody touches them. */
  async take(site: Site): Promise<Members> {
    const members = this.of(site);
    if (site.metadata.deletionTimestamp === undefined)
      await this.#write(site.metadata.name, [...members.staying, ...members.leaving]);
    return members;
  }

  /** Strikes off hosts that have left, of which nothing is left. */
  async forget(site: Site, names: readonly string[]): Promise<void> {
    const { staying, leaving } = this.of(site);
    await this.#write(
      site.metadata.name,
      [...staying, ...leaving].filter(({ name }) => !names.includes(name)),
    );
  }

  /** Drops what is written down of a site that is gone. */
  async drop(site: string): Promise<void> {
    const record = this.#record(site);
    if (!record) return;
    const key = keys.site(site);
    const result = await consul('dropping the site’s record', () =>
      this.store.transact([{ verb: 'delete-cas', key, index: record.index }]),
    );
    if (!result.ok) throw changed(site);
  }

  /** Every host of every Site that is not off, one on its way out too: its machines talk until they are gone. */
  peers(): Peer[] {
    return [...this.objects.sites()].flatMap((site) => {
      const { staying, leaving } = membersOf(site.spec.hosts, this.#lastKnown(site.metadata.name), this.#occupied());
      return [...staying, ...leaving].map(({ name, underlayAddress }) => ({
        site: site.metadata.name,
        host: name,
        underlayAddress,
      }));
    });
  }

  close(): void {
    this.#subscription.unsubscribe();
    this.#view.close();
    this.#changes.complete();
  }

  #record(site: string): Versioned<SiteRecord> | undefined {
    const record = this.#records.get(site);
    if (isInterruption(record)) throw record;
    return record;
  }

  /** What the other sites go by: a record that can't be read is a matter of its own site. */
  #lastKnown(site: string): readonly SiteHost[] {
    return this.#readable.get(site) ?? [];
  }

  #take(key: string): void {
    const site = key.slice(prefixes.site.length);
    const entry = this.#view.get(key);
    if (!entry) {
      this.#records.delete(site);
      this.#readable.delete(site);
      return;
    }
    try {
      const record = parseRecord(siteRecord, entry);
      this.#records.set(site, record);
      this.#readable.set(site, record.value.hosts);
    } catch (error) {
      if (!isInterruption(error)) throw error;
      this.#records.set(site, error);
    }
  }

  #occupied(): Map<string, string> {
    return new Map(
      [...this.objects.sites()].flatMap(({ metadata: { name }, spec }) =>
        leavingHosts(spec.hosts, this.#lastKnown(name)).map((host): [string, string] => [
          host.underlayAddress,
          `${name}/${host.name}`,
        ]),
      ),
    );
  }

  async #write(site: string, hosts: readonly SiteHost[]): Promise<void> {
    const record = this.#record(site);
    const value = serialise(siteRecord.parse({ hosts }));
    if (record && serialise(record.value) === value) return;
    const result = await consul('recording the site’s hosts', () =>
      this.store.transact([{ verb: 'cas', key: keys.site(site), value, index: record?.index ?? 0 }]),
    );
    if (!result.ok) throw changed(site);
  }
}

const changed = (site: string): Transient =>
  new Transient('RecordChanged', `the record of site ${site} changed meanwhile; it is read again`);
