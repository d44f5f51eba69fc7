import { firstValueFrom } from 'rxjs';
import type { Site, SiteHost } from '../../crds/index.js';
import type { Entry, KeyValueStore } from '../../drivers/consul/types.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { Switch } from '../../drivers/openflow/types.js';
import { consul } from '../common/allocation.js';
import { within } from '../common/deadline.js';
import { messageOf } from '../common/errors.js';
import {
  cookieMagic,
  cookieMagicMask,
  domainUuid,
  edgeBridge,
  fuidOfVolume,
  integrationBridge,
  isOurs,
  metadataNamespace,
  networkUuid,
  ovsdbMark,
  vniOfCookie,
} from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import { keys, parseRecord, prefixes, siteRecord } from '../common/records.js';
import { entries, text, uuids } from '../common/rows.js';
import { parseXml } from '../common/xml.js';
import { hostKey, type Host, type Hosts, type LibvirtLink } from '../host.js';
import type { Tables } from '../site/bridges.js';
import { leavingHosts } from '../site/members.js';
import { defaultImagePool, defaultPool } from '../vm/disk.js';
import type { ApiObjects, HostLook, Look, SeenDomain, SeenNetwork, SeenPort, SeenVolume } from './look.js';

export interface AuditDependencies {
  readonly store: KeyValueStore;
  readonly hosts: Hosts;
  /** Fresh from the API server. */
  readonly readObjects: () => Promise<ApiObjects>;
  /** Whether the caller wants that site looked at. */
  readonly isAsked: (site: string) => boolean;
}

/** A host that takes longer to answer one question is away. */
const deadlineMs = 15_000;

/**
 * Looks at everything once; changes nothing. Throws if Consul or the API server can't be read: without them there is nothing
 * to compare with. What is made last is read first, so that what is just being made already has what it stands on.
 */
export async function gather({ store, hosts, readObjects, isAsked }: AuditDependencies): Promise<Look> {
  const connected = [...hosts.all()];
  const parts = new Map(
    await Promise.all(connected.map(async (host) => [hostKey(host), await readHost(host, connected)] as const)),
  );
  const records = await consul('reading the records', () => store.list(prefixes.all));
  const objects = await readObjects();
  const known = knownDomains(records, objects);
  const looks = await Promise.all(
    objects.sites.flatMap((site) =>
      hostsOf(site, records).map(async (spec): Promise<HostLook> => {
        const ref = { site: site.metadata.name, host: spec.name };
        const host = hosts.get(ref);
        const seen = parts.get(hostKey(ref)) ?? unseen(ref.site, isAsked(ref.site), hosts);
        const looked = { ...ref, asked: isAsked(ref.site), fenced: spec.fenced ?? false, ...seen };
        return host && seen.domains ? { ...looked, ...(await identify(host, seen, known)) } : looked;
      }),
    ),
  );
  return { objects, entries: records, hosts: looks };
}

/** The hosts that a Site names, and those that it no longer names but that have not been cleared yet. */
export function hostsOf({ metadata, spec }: Site, records: readonly Entry[]): SiteHost[] {
  const entry = records.find(({ key }) => key === keys.site(metadata.name));
  try {
    return entry
      ? [...spec.hosts, ...leavingHosts(spec.hosts, parseRecord(siteRecord, entry).value.hosts)]
      : spec.hosts;
  } catch {
    // The Site says that its record is damaged.
    return spec.hosts;
  }
}

type Parts = Omit<HostLook, 'site' | 'host' | 'asked' | 'fenced'>;

function unseen(site: string, asked: boolean, hosts: Hosts): Parts {
  return {
    domains: undefined,
    networks: undefined,
    volumes: undefined,
    ports: undefined,
    flows: { int: undefined, edge: undefined },
    problems: asked ? [hosts.problem(site) ?? 'not connected'] : [],
  };
}

/** A call or a few for each kind of thing, however many there are; a call for each libvirt network, which has no bulk read. */
async function readHost(host: Host, all: readonly Host[]): Promise<Parts> {
  const problems: string[] = [];
  const part = async <T>(what: string, read: () => T | Promise<T>): Promise<T | undefined> => {
    try {
      return await within(deadlineMs, what, (async () => await read())());
    } catch (error) {
      problems.push(`${what}: ${messageOf(error)}`);
      return undefined;
    }
  };
  const [domains, networks, volumes, ports] = await Promise.all([
    part('libvirt', () => readDomains(host)),
    part('libvirt networks', () => readNetworks(host.libvirt)),
    part('storage pools', () => readVolumes(host, all)),
    part('OVSDB', () => readPorts(host)),
  ]);
  const [int, edge] = await Promise.all([
    part(integrationBridge, () => readFlows(host, integrationBridge, host.int)),
    part(edgeBridge, () => readFlows(host, edgeBridge, host.edge)),
  ]);
  return { domains, networks, volumes, ports, flows: { int, edge }, problems };
}

/** The inventory that the link read in bulk and that events keep current. */
function readDomains(host: Host): SeenDomain[] {
  const drivers = [
    { driver: 'qemu', link: host.qemu },
    { driver: 'lxc', link: host.lxc },
  ] as const;
  return drivers.flatMap(({ driver, link }) => {
    if (!link) return [];
    if (!link.isConnected) throw link.lastError ?? new Error(`${link.uri}: connecting`);
    return [...link.domains.values()].map(({ uuid, name, state }) => ({ driver, uuid, name, state, mark: undefined }));
  });
}

async function readNetworks(link: LibvirtLink): Promise<SeenNetwork[]> {
  const { connection } = link;
  const ours = [...link.networks.values()].filter(({ name }) => isOurs(name));
  const read = await Promise.all(
    ours.map(async ({ uuid, name }): Promise<SeenNetwork[]> => {
      const xml = await tolerating(['NO_NETWORK'], connection.networkXml(uuid, constants.NETWORK_XML_INACTIVE));
      if (xml === undefined) return [];
      const at = parseXml(xml);
      const fuid = at('network', 'metadata', 'isthmus:network', '@fuid');
      const vlan = at('network', 'vlan', 'tag', '@id');
      return [
        {
          uuid,
          name,
          fuid: fuid !== undefined && networkUuid(fuid) === uuid ? fuid : undefined,
          vlan: vlan === undefined ? undefined : Number(vlan),
          bridge: at('network', 'bridge', '@name'),
        },
      ];
    }),
  );
  return read.flat();
}

/** Our volumes in the pools that the Sites name. */
async function readVolumes(host: Host, all: readonly Host[]): Promise<SeenVolume[]> {
  const { storage } = host.siteSpec;
  const shares = all.flatMap(({ siteSpec }) => siteSpec.storage?.shared ?? []);
  const shared = new Set(shares.filter(({ via }) => via === hostKey(host)).map(({ pool }) => pool));
  const pools = new Set([storage?.pool ?? defaultPool, storage?.imagePool ?? defaultImagePool, ...shared]);
  const { connection } = host.libvirt;
  const volumes = await Promise.all(
    [...pools].map(async (pool) =>
      (await connection.listVolumes(pool)).flatMap(({ name }): SeenVolume[] => {
        const fuid = fuidOfVolume(name);
        return fuid === undefined ? [] : [{ pool, name, fuid, shared: shared.has(pool) }];
      }),
    ),
  );
  return volumes.flat();
}

function readPorts({ ovsdb }: Host): SeenPort[] {
  const rows: Tables = (table) => ovsdb.rows(table);
  return [...rows('Bridge')].flatMap(([bridgeUuid, bridge]) =>
    uuids(bridge, 'ports').flatMap((uuid): SeenPort[] => {
      const port = rows('Port').get(uuid);
      const row = uuids(port, 'interfaces').map((each) => rows('Interface').get(each))[0];
      const ids = entries(row, 'external_ids');
      const interfaceId = ids.get('iface-id');
      const peer = ids.get(ovsdbMark) === 'tunnel' ? ids.get(`${ovsdbMark}-peer`) : undefined;
      if (interfaceId === undefined && peer === undefined) return [];
      const ofports = row?.['ofport'];
      const ofport: unknown = Array.isArray(ofports) ? ofports[0] : ofports;
      return [
        {
          uuid,
          name: text(port, 'name') ?? '',
          bridge: text(bridge, 'name') ?? '',
          bridgeUuid,
          works: typeof ofport === 'number' && ofport > 0,
          interfaceId,
          peer,
        },
      ];
    }),
  );
}

/** VNIs of our flows. A bridge that is not there, or not ours, has none. */
async function readFlows({ ovsdb }: Host, name: string, bridge: Switch): Promise<number[]> {
  const isThere = [...ovsdb.rows('Bridge').values()].some(
    (row) => text(row, 'name') === name && entries(row, 'external_ids').has(ovsdbMark),
  );
  if (!isThere) return [];
  const state = await firstValueFrom(bridge.state);
  if (!state.connected) throw state.error ?? new Error(`${bridge.endpoint} does not answer`);
  const flows = await bridge.dumpFlows({ cookie: cookieMagic, cookieMask: cookieMagicMask });
  return [...new Set(flows.flatMap(({ cookie }) => vniOfCookie(cookie) ?? []))];
}

/** UUIDs of the domains that records or objects tell the owner of. */
function knownDomains(records: readonly Entry[], { machines }: ApiObjects): ReadonlySet<string> {
  const fuids = records
    .filter(({ key }) => key.startsWith(prefixes.vm))
    .map(({ key }) => key.slice(prefixes.vm.length));
  return new Set([...fuids, ...machines.map(({ metadata }) => metadata.uid)].map(domainUuid));
}

/** Reads the marks of the domains that might be ours and that nothing else tells of. */
async function identify(
  host: Host,
  { domains = [], problems }: Parts,
  known: ReadonlySet<string>,
): Promise<Pick<HostLook, 'domains' | 'problems'>> {
  try {
    const marked = domains.map(async (domain) =>
      known.has(domain.uuid) || !isOurs(domain.name) ? domain : { ...domain, mark: await readMark(host, domain) },
    );
    return { domains: await within(deadlineMs, 'libvirt', Promise.all(marked)), problems };
  } catch (error) {
    return { domains: undefined, problems: [...problems, `libvirt: ${messageOf(error)}`] };
  }
}

async function readMark(host: Host, { driver, uuid }: SeenDomain): Promise<SeenDomain['mark']> {
  const link = host[driver];
  const xml = link && (await tolerating(['NO_DOMAIN'], link.connection.domainMetadata(uuid, metadataNamespace)));
  if (xml === undefined) return undefined;
  const at = parseXml(xml);
  const [fuid, namespace = '', name = ''] = ['@fuid', '@namespace', '@name'].map(
    (attribute) => at('machine', attribute) ?? at('isthmus:machine', attribute),
  );
  return fuid !== undefined && domainUuid(fuid) === uuid ? { fuid, namespace, name } : undefined;
}
