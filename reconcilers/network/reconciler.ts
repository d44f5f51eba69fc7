import type { FederatedNetwork, FederatedNetworkSite, FederatedNetworkStatus } from '../../crds/index.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import { consul, federatedUid, type Allocator, type Grant } from '../common/allocation.js';
import { within } from '../common/deadline.js';
import type { Directory } from '../common/directory.js';
import { isInterruption, messageOf, Transient, Waiting } from '../common/errors.js';
import { hint, integrationBridge, networkName } from '../common/identity.js';
import { pickFree } from '../common/ip.js';
import { interrupted, type Outcome } from '../common/outcome.js';
import { keys, serialise, type NetworkRecord, type Versioned } from '../common/records.js';
import type { Dataplane, FlowReport } from '../dataplane/dataplane.js';
import { hostKey, type Host, type Hosts } from '../host.js';
import type { Objects } from '../objects.js';
import { ensureNetwork, removeNetwork } from './libvirt.js';
import { planNetwork, vniRange, type NetworkPlan } from './plan.js';

export interface NetworkDependencies {
  readonly objects: Objects;
  readonly hosts: Hosts;
  readonly directory: Directory;
  readonly dataplane: Dataplane;
  readonly allocator: Allocator;
  readonly store: KeyValueStore;
}

type Status = Omit<FederatedNetworkStatus, 'conditions' | 'observedGeneration'>;

/** A site that does not answer in this time is reported as such, and looked at again; the others are not kept waiting. */
const siteDeadlineMs = 8_000;

/** Makes every site of the network carry it, or, once deleted, none. */
export async function reconcileNetwork(
  network: FederatedNetwork,
  dependencies: NetworkDependencies,
): Promise<Outcome<Status>> {
  const fuid = await federatedUid(dependencies.store, network);
  if (network.metadata.deletionTimestamp !== undefined) return await remove(network, fuid, dependencies);
  let record = dependencies.directory.network(fuid);
  try {
    const plan = planNetwork(network, dependencies.objects);
    record = await adopt(fuid, record ?? (await allocate(network, fuid, plan, dependencies)), plan, dependencies);
  } catch (error) {
    if (!isInterruption(error)) throw error;
    return interrupted(statusOf(network, fuid, record?.value, [], dependencies), error);
  }
  const sites = await Promise.all(
    record.value.sites.map((site) => ensureSite(network, fuid, record.value, site, dependencies)),
  );
  return conclude(statusOf(network, fuid, record.value, sites, dependencies));
}

function conclude(status: Status): Outcome<Status> {
  const broken = (status.sites ?? []).filter((site) => !site.ready);
  const [first] = broken;
  if (!first) return { status, ready: { value: true, reason: 'SitesReady', message: 'all sites carry the network' } };
  const reason = first.reason ?? 'SiteNotReady';
  const message = broken.map((site) => `site ${site.name}: ${site.message ?? 'not ready'}`).join('; ');
  return { status, ready: { value: false, reason, message }, reconciling: { reason, message }, retry: true };
}

/** Claims VLAN and VNI and writes the network's record, all or nothing. */
async function allocate(
  network: FederatedNetwork,
  fuid: string,
  plan: NetworkPlan,
  dependencies: NetworkDependencies,
): Promise<Versioned<NetworkRecord>> {
  const { allocator, directory } = dependencies;
  directory.assertCurrent();
  const { namespace, name } = network.metadata;
  const propose = (lost: ReadonlySet<string>): Grant => {
    const free = (key: string): boolean => !lost.has(key) && !allocator.isTaken(key);
    const vlan = network.spec.vlanId ?? pickFree(plan.vlanRange, (id) => !free(keys.vlan(id)), hint(`${fuid}/vlan`));
    if (vlan === undefined)
      throw new Waiting(
        'VLANsExhausted',
        `no VLAN is free in ${String(plan.vlanRange.first)}-${String(plan.vlanRange.last)}, which the sites ${plan.sites.join(', ')} share; widen their vlanRange or delete a network`,
        30_000,
      );
    const vni = network.spec.vni ?? pickFree(vniRange, (id) => !free(keys.vni(id)), hint(`${fuid}/vni`));
    if (vni === undefined) throw new Waiting('VNIsExhausted', 'no VNI is free', 30_000);
    const record: NetworkRecord = {
      namespace,
      name,
      cidr: network.spec.cidr,
      vlan,
      vni,
      mtu: plan.mtu,
      sites: [...plan.sites],
    };
    return {
      claims: [
        {
          what: `VLAN ${String(vlan)}`,
          field: 'spec.vlanId',
          key: keys.vlan(vlan),
          pinned: network.spec.vlanId !== undefined,
        },
        { what: `VNI ${String(vni)}`, field: 'spec.vni', key: keys.vni(vni), pinned: network.spec.vni !== undefined },
      ],
      records: { [keys.network(fuid)]: record },
    };
  };
  await allocator.grant(fuid, { kind: network.kind, namespace, name }, propose);
  const record = directory.network(fuid);
  if (!record) throw new Transient('AllocationUnseen', 'what was allocated is not visible yet');
  return record;
}

/** Takes up a change of the sites: new ones are joined, one that is no longer named is left once no machine of it is there. */
async function adopt(
  fuid: string,
  record: Versioned<NetworkRecord>,
  plan: NetworkPlan,
  dependencies: NetworkDependencies,
): Promise<Versioned<NetworkRecord>> {
  const leaving = record.value.sites.filter((site) => !plan.sites.includes(site));
  const occupied = leaving.filter((site) =>
    [...dependencies.directory.machinesOf(fuid)].some(
      ([, machine]) => machine.site === site || machine.target?.site === site,
    ),
  );
  const sites = [...new Set([...plan.sites, ...occupied])].sort();
  const kept = [
    ...new Set([
      ...sites,
      ...(await clear(
        fuid,
        leaving.filter((site) => !occupied.includes(site)),
        dependencies,
      )),
    ]),
  ].sort();
  if (kept.join() === record.value.sites.join()) return record;
  return await write(fuid, { ...record, value: { ...record.value, sites: kept } }, dependencies);
}

async function write(
  fuid: string,
  { value, index }: Versioned<NetworkRecord>,
  { store, directory }: NetworkDependencies,
): Promise<Versioned<NetworkRecord>> {
  const result = await consul('updating the network', () =>
    store.transact([{ verb: 'cas', key: keys.network(fuid), value: serialise(value), index }]),
  );
  if (!result.ok) throw new Transient('RecordChanged', 'the network’s record changed meanwhile; it is read again');
  return directory.network(fuid) ?? { value, index };
}

/**
 * Takes the network away from sites: from libvirt, then from the record, which makes the data plane drop the flows.
 * Returns the sites that could not be cleared; they stay in the record, so that nothing of theirs is given away.
 */
async function clear(
  fuid: string,
  sites: readonly string[],
  { hosts, objects }: NetworkDependencies,
): Promise<string[]> {
  const results = await Promise.all(
    sites.map(async (site) => {
      // A Site that exists but is not connected yet is away; one that no longer exists has nothing of ours.
      if (hosts.ofSite(site).length < (objects.site(site)?.spec.hosts.length ?? 0)) return [site];
      try {
        await within(
          siteDeadlineMs,
          `site ${site}`,
          Promise.all(hosts.ofSite(site).map((host) => removeNetwork(host, fuid))),
        );
        return [];
      } catch {
        return [site];
      }
    }),
  );
  return results.flat();
}

async function ensureSite(
  network: FederatedNetwork,
  fuid: string,
  record: NetworkRecord,
  site: string,
  dependencies: NetworkDependencies,
): Promise<FederatedNetworkSite> {
  const { hosts, objects } = dependencies;
  const name = networkName(network.metadata.name, fuid);
  const wanted = { fuid, name, vlan: record.vlan };
  const base = {
    name: site,
    endpoint: name,
    bridge: integrationBridge,
    controller: objects.site(site)?.spec.sdnController?.type ?? 'BuiltIn',
  };
  const members = hosts.ofSite(site);
  if (members.length === 0) return { ...base, ready: false, reason: 'NotConnected', message: 'not connected yet' };
  const results = await Promise.all(members.map((host) => ensureHost(host, wanted, record.vni, dependencies)));
  const flows = {
    wanted: results.reduce((sum, { report }) => sum + report.wanted, 0),
    present: results.reduce((sum, { report }) => sum + report.present, 0),
  };
  const problem = results.find(({ error }) => error !== undefined);
  if (problem) return { ...base, ready: false, reason: problem.reason, message: problem.error ?? '', flows };
  return { ...base, ready: true, reason: 'Ready', message: '', flows };
}

async function ensureHost(
  host: Host,
  wanted: Parameters<typeof ensureNetwork>[1],
  vni: number,
  { dataplane }: NetworkDependencies,
) {
  const none: FlowReport = { wanted: 0, present: 0, error: undefined };
  const [libvirt, flows] = await Promise.allSettled([
    within(siteDeadlineMs, `libvirt of host ${host.host}`, ensureNetwork(host, wanted)),
    within(siteDeadlineMs, `switches of host ${host.host}`, dataplane.ensure(host, vni)),
  ]);
  const report = flows.status === 'fulfilled' ? flows.value : none;
  if (libvirt.status === 'rejected')
    return { report, reason: 'LibvirtFailed', error: `host ${hostKey(host)}: ${messageOf(libvirt.reason)}` };
  const error = flows.status === 'rejected' ? messageOf(flows.reason) : report.error;
  return {
    report,
    reason: 'FlowsNotApplied',
    error: error === undefined ? undefined : `host ${hostKey(host)}: ${error}`,
  };
}

function statusOf(
  network: FederatedNetwork,
  fuid: string,
  record: NetworkRecord | undefined,
  sites: FederatedNetworkSite[],
  { directory }: NetworkDependencies,
): Status {
  // A site that was ready and could not be looked at now keeps its last word.
  const shown = sites.length > 0 ? sites : (network.status?.sites ?? []);
  return {
    ...(record ? { vlanId: record.vlan, vni: record.vni, mtu: record.mtu } : {}),
    sites: shown,
    sitesReady: `${String(shown.filter((site) => site.ready).length)}/${String(record?.sites.length ?? network.spec.sites?.length ?? 0)}`,
    machines: [...directory.machinesOf(fuid)].length,
  };
}

/** Removes the network from every site, then gives back what it holds. A network with machines stays, and names them. */
async function remove(
  network: FederatedNetwork,
  fuid: string,
  dependencies: NetworkDependencies,
): Promise<Outcome<Status>> {
  const { directory, objects, allocator, dataplane, hosts } = dependencies;
  directory.assertCurrent();
  const { namespace, name } = network.metadata;
  const record = directory.network(fuid);
  const blocked = (reason: string, message: string, status: Status): Outcome<Status> => ({
    status,
    ready: { value: false, reason, message },
    reconciling: { reason: 'Deleting', message },
    conditions: [{ type: 'DeletionBlocked', status: 'True', reason, message }],
    requeueAfterMs: 5_000,
  });
  const machines = new Set([
    ...objects.machinesOn(namespace, name).map(({ metadata }) => metadata.name),
    ...[...directory.machinesOf(fuid)].map(([, machine]) => machine.name),
  ]);
  if (machines.size > 0)
    return blocked(
      'MachinesPresent',
      `machines still use the network: ${[...machines].sort().slice(0, 20).join(', ')}${machines.size > 20 ? ` and ${String(machines.size - 20)} more` : ''}; delete them first`,
      statusOf(network, fuid, record?.value, [], dependencies),
    );
  if (record) {
    const present = record.value.sites;
    const stuck = await clear(fuid, present, dependencies);
    const cleared = await write(fuid, { ...record, value: { ...record.value, sites: stuck } }, dependencies);
    const left = await Promise.all(
      present
        .flatMap((site) => hosts.ofSite(site))
        .map(async (host) => ({
          host,
          report: await within(siteDeadlineMs, hostKey(host), dataplane.ensure(host, record.value.vni)).catch(
            (error: unknown): FlowReport => ({ wanted: 0, present: 0, error: messageOf(error) }),
          ),
        })),
    );
    const unreached = left.flatMap(({ host, report }) => (report.error === undefined ? [] : [host.site]));
    const away = [...new Set([...stuck, ...unreached])].sort();
    if (away.length > 0) {
      if (unreached.length > 0)
        await write(fuid, { ...cleared, value: { ...cleared.value, sites: away } }, dependencies);
      return blocked(
        'SiteUnreachable',
        `waiting for site ${away.join(', ')} to answer, to remove the network there`,
        statusOf(network, fuid, record.value, [], dependencies),
      );
    }
  }
  await allocator.release(fuid);
  return { status: {}, ready: { value: false, reason: 'Deleted', message: 'nothing is left' }, finished: true };
}
