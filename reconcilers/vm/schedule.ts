import { quantity, type FederatedVM, type Site, type SiteHost } from '../../crds/index.js';
import type { Directory } from '../common/directory.js';
import { Waiting } from '../common/errors.js';
import type { Driver, HostRef, VmRecord } from '../common/records.js';
import { hostKey } from '../host.js';
import type { Objects } from '../objects.js';
import { machineSize, type MachineSize } from './size.js';

/** What is asked of a place. */
export interface PlacementRequest {
  readonly size: MachineSize;
  /** Of libvirt, that the host has to offer. */
  readonly driver: Driver;
  /** Sites that the machine's networks span. */
  readonly sites: readonly string[];
  readonly site: string | undefined;
  readonly host: string | undefined;
  /** Its disk is on the share, so the host needs one. */
  readonly needsShare: boolean;
  /** Its disk is on the share of this site already: another share will not do. */
  readonly sharedWith?: string | undefined;
  /** Bytes of memory that are as good as given away, by host, beyond what is on record. */
  readonly promised?: ReadonlyMap<string, bigint> | undefined;
  /** The spec field that pins the place, for messages. */
  readonly field: string;
}

/** A host, and either its free memory after placement or why it will not do. Pure. */
interface Candidate {
  readonly ref: HostRef;
  readonly refusal: string | undefined;
  readonly freeBytes: bigint;
}

/** The host with the most memory left. Throws Waiting that says why each candidate will not do. Pure. */
export function schedule(request: PlacementRequest, objects: Objects, directory: Directory): HostRef {
  const sites = [...objects.sites()];
  if (request.site !== undefined && !sites.some(({ metadata }) => metadata.name === request.site))
    throw new Waiting(
      'UnknownSite',
      `${request.field}.site: there is no Site ${request.site} (known: ${sites.map(({ metadata }) => metadata.name).join(', ')}); name another`,
      30_000,
    );
  const used = memoryInUse(objects, directory);
  for (const [key, bytes] of request.promised ?? []) used.set(key, (used.get(key) ?? 0n) + bytes);
  const shared = request.sharedWith === undefined ? undefined : objects.site(request.sharedWith);
  const candidates = sites
    .filter(({ metadata }) => request.site === undefined || metadata.name === request.site)
    .flatMap((site) => site.spec.hosts.map((host) => assess(site, host, request, used, shared)))
    .filter(({ ref }) => request.host === undefined || ref.host === request.host);
  if (candidates.length === 0)
    throw new Waiting(
      'UnknownHost',
      `${request.field}.host: site ${request.site ?? '*'} has no host ${request.host ?? ''}; name another or leave it out`,
      30_000,
    );
  const [best] = candidates
    .filter(({ refusal }) => refusal === undefined)
    .sort((a, b) => (a.freeBytes < b.freeBytes ? 1 : a.freeBytes > b.freeBytes ? -1 : 0));
  if (best) return best.ref;
  throw new Waiting(
    'NoRoom',
    `no host will do: ${candidates.map(({ ref, refusal }) => `${hostKey(ref)}: ${refusal ?? ''}`).join('; ')}`,
    10_000,
  );
}

function assess(
  site: Site,
  host: SiteHost,
  request: PlacementRequest,
  used: ReadonlyMap<string, bigint>,
  shared: Site | undefined,
): Candidate {
  const ref = { site: site.metadata.name, host: host.name };
  const status = site.status?.hosts?.find(({ name }) => name === host.name);
  const capacity = status?.capacity?.memory === undefined ? 0n : quantity.parse(status.capacity.memory);
  const freeBytes = capacity - (used.get(hostKey(ref)) ?? 0n) - request.size.memoryBytes;
  const refusal = (): string | undefined => {
    if (!request.sites.includes(ref.site)) return 'not all networks of the machine span this site';
    if (site.metadata.deletionTimestamp !== undefined) return 'the site is being deleted';
    if (site.spec.maintenance || host.maintenance) return 'in maintenance';
    if (host.fenced) return 'fenced';
    if (!host.libvirt[request.driver]) return `has no libvirt.${request.driver}`;
    if (request.needsShare && !site.spec.storage?.shared) return 'the site has no storage.shared';
    if (shared && !sharesDisks(shared, site)) return `has another storage.shared than ${shared.metadata.name}`;
    if (!status?.ready) return `not ready (${status?.reason ?? 'not looked at yet'})`;
    if (freeBytes < 0n) return `${quantity.format(-freeBytes)} of memory short`;
    return undefined;
  };
  return { ref, refusal: refusal(), freeBytes };
}

const sharesDisks = (a: Site, b: Site): boolean =>
  a.spec.storage?.shared?.server === b.spec.storage?.shared?.server &&
  a.spec.storage?.shared?.path === b.spec.storage?.shared?.path;

/** The sites that all networks of a machine span. */
export function spannedSites({ interfaces }: VmRecord, directory: Directory): readonly string[] {
  const networks = interfaces.flatMap(({ network }) => {
    const sites = directory.network(network)?.value.sites;
    return sites ? [sites] : [];
  });
  return networks.length > 0 ? networks.reduce((shared, each) => shared.filter((name) => each.includes(name))) : [];
}

/** Memory promised at each host. The record counts, not the status: it is there the moment a place is given. */
function memoryInUse(objects: Objects, directory: Directory): Map<string, bigint> {
  const used = new Map<string, bigint>();
  for (const [, { value: record }] of directory.machines()) {
    const machine = objects.machine(record.namespace, record.name);
    const bytes = machine ? sizeOf(machine, objects).memoryBytes : 0n;
    for (const ref of record.target ? [record, record.target] : [record])
      used.set(hostKey(ref), (used.get(hostKey(ref)) ?? 0n) + bytes);
  }
  return used;
}

const sizeOf = (machine: FederatedVM, objects: Objects): MachineSize =>
  machineSize(
    machine.spec,
    machine.spec.template === undefined ? undefined : objects.template(machine.spec.template)?.spec,
  );
