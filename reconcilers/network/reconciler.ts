import type { FederatedNetwork, FederatedNetworkSite, FederatedNetworkStatus } from '../../crds/index.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import { consul, federatedUid, type Allocator, type Grant } from '../common/allocation.js';
import { within } from '../common/deadline.js';
import type { Directory } from '../common/directory.js';
import { isInterruption, messageOf, Transient, Waiting, type Interruption } from '../common/errors.js';
import { hint, integrationBridge, networkName, networkUuid } from '../common/identity.js';
import { pickFree } from '../common/ip.js';
import { interrupted, type Outcome } from '../common/outcome.js';
import { keys, serialise, type NetworkRecord, type Versioned } from '../common/records.js';
import type { Dataplane, FlowReport } from '../dataplane/dataplane.js';
import { hostKey, type Host, type Hosts } from '../host.js';
import type { Objects } from '../objects.js';
import { ensureNetwork, removeNetwork } from './libvirt.js';
import { controllerMismatch, planNetwork, uncarried, vniRange, type NetworkPlan } from './plan.js';
import { adoptPolicy, closed, planPolicy } from './policy.js';

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
  dependencies.directory.assertSound(fuid);
  if (network.metadata.deletionTimestamp !== undefined) return await remove(network, fuid, dependencies);
  let record = dependencies.directory.network(fuid);
  try {
    const plan = planNetwork(network, dependencies.objects);
    record = await adopt(fuid, record ?? (await allocate(network, fuid, plan, dependencies)), plan, dependencies);
  } catch (error) {
    if (!isInterruption(error)) throw error;
    return interrupted(statusOf(network, fuid, record?.value, [], dependencies), error);
  }
  const { value } = record;
  const refused = await servePolicy(network, fuid, dependencies);
  const sites = await Promise.all(value.sites.map((site) => ensureSite(network, fuid, value, site, dependencies)));
  const leaving = value.leaving.map((name): FederatedNetworkSite => ({
    name,
    ready: false,
    reason: 'Leaving',
    message: 'waiting for all its hosts to answer, to remove the network there',
  }));
  const status = statusOf(network, fuid, value, [...sites, ...leaving], dependencies);
  return refused ? interrupted(status, refused) : conclude(status);
}

/**
 * A firewall or flow with a fault is told, and what was accepted before stays in force. Where that is nothing yet, a
 * firewall with a fault closes the network rather than leave it open.
 */
async function servePolicy(
  network: FederatedNetwork,
  fuid: string,
  dependencies: NetworkDependencies,
): Promise<Interruption | undefined> {
  try {
    await adoptPolicy(fuid, planPolicy(network, dependencies.objects), dependencies);
    return undefined;
  } catch (error) {
    if (!isInterruption(error)) throw error;
    const isFirst = network.spec.firewall !== undefined && !dependencies.directory.policy(fuid);
    // If even that can't be written, nothing is laid at any site.
    if (isFirst && !isServed(network)) await adoptPolicy(fuid, closed, dependencies);
    return error;
  }
}

/** A network that has been Ready is a running one, whose traffic a faulty first firewall does not end. */
const isServed = ({ status }: FederatedNetwork): boolean => status?.sites?.some(({ ready }) => ready) ?? false;

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
      leaving: [],
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

/**
 * Takes up a change of the sites: new ones are joined; one that is no longer named is left once no machine of it is there. That
 * it leaves is written down first: from then on the data plane drops its flows, and nobody places a machine there.
 */
async function adopt(
  fuid: string,
  record: Versioned<NetworkRecord>,
  plan: NetworkPlan,
  dependencies: NetworkDependencies,
): Promise<Versioned<NetworkRecord>> {
  const unnamed = record.value.sites.filter((site) => !plan.sites.includes(site));
  // A machine that is not seen because Consul is away must not lose its network.
  if (unnamed.length > 0) dependencies.directory.assertCurrent();
  const machines = [...dependencies.directory.machinesOf(fuid)].map(([, machine]) => machine);
  const occupied = unnamed.filter((site) =>
    machines.some((machine) => machine.site === site || machine.target?.site === site),
  );
  const sites = [...plan.sites, ...occupied].sort();
  const leaving = [...record.value.leaving, ...unnamed].filter((site) => !sites.includes(site));
  return await leave(fuid, await write(fuid, record, { sites, leaving }, dependencies), dependencies);
}

/** Clears the sites that are leaving, and strikes off those of which nothing is left. */
async function leave(
  fuid: string,
  record: Versioned<NetworkRecord>,
  dependencies: NetworkDependencies,
): Promise<Versioned<NetworkRecord>> {
  const { sites, leaving, vni } = record.value;
  const cleared = await Promise.all(leaving.map((site) => isCleared(fuid, vni, site, dependencies)));
  return await write(fuid, record, { sites, leaving: leaving.filter((_, index) => !cleared[index]) }, dependencies);
}

/** Takes the network out of a site's libvirts and switches; true once nothing of it is there. */
async function isCleared(
  fuid: string,
  vni: number,
  site: string,
  { hosts, objects, dataplane }: NetworkDependencies,
): Promise<boolean> {
  const members = hosts.ofSite(site);
  // A Site that exists but is not connected yet is away; one that no longer exists went with all that was on it.
  if (objects.site(site) && hosts.inUse(site)?.every((host) => hosts.get({ site, host })) !== true) return false;
  const results = await Promise.allSettled(
    members.map(async (host) => {
      await within(siteDeadlineMs, `libvirt of host ${hostKey(host)}`, removeNetwork(host, fuid));
      const { error } = await within(siteDeadlineMs, `switches of host ${hostKey(host)}`, dataplane.ensure(host, vni));
      if (error !== undefined) throw new Transient('FlowsNotRemoved', error);
    }),
  );
  return results.every(({ status }) => status === 'fulfilled');
}

/** Writes the sites, if they differ. */
async function write(
  fuid: string,
  { value, index }: Versioned<NetworkRecord>,
  change: Pick<NetworkRecord, 'sites' | 'leaving'>,
  { store, directory }: NetworkDependencies,
): Promise<Versioned<NetworkRecord>> {
  const next = { ...value, sites: [...new Set(change.sites)].sort(), leaving: [...new Set(change.leaving)].sort() };
  if (next.sites.join() === value.sites.join() && next.leaving.join() === value.leaving.join()) return { value, index };
  const result = await consul('updating the network', () =>
    store.transact([{ verb: 'cas', key: keys.network(fuid), value: serialise(next), index }]),
  );
  const written = directory.network(fuid);
  if (!result.ok || !written)
    throw new Transient('RecordChanged', 'the network’s record changed meanwhile; it is read again');
  return written;
}

async function ensureSite(
  network: FederatedNetwork,
  fuid: string,
  record: NetworkRecord,
  site: string,
  dependencies: NetworkDependencies,
): Promise<FederatedNetworkSite> {
  const { hosts, objects, directory } = dependencies;
  const name = networkName(network.metadata.name, fuid);
  const wanted = { fuid, name, vlan: record.vlan };
  const base = {
    name: site,
    endpoint: name,
    bridge: integrationBridge,
    vlanId: record.vlan,
    vni: record.vni,
    machines: [...directory.machinesOf(fuid)].filter(([, machine]) => machine.site === site).length,
    controller: objects.site(site)?.spec.sdnController?.type ?? 'BuiltIn',
  };
  const open = hosts.ofSite(site);
  const members = open.filter((host) => needs(host, fuid, dependencies));
  if (members.length === 0) return { ...base, ready: false, reason: 'NotConnected', message: 'not connected yet' };
  const [results, leaving] = await Promise.all([
    Promise.all(members.map((host) => ensureHost(host, wanted, record.vni, dependencies))),
    Promise.all(open.filter((host) => !members.includes(host)).map((host) => leaveHost(host, fuid, dependencies))),
  ]);
  const flows = {
    wanted: results.reduce((sum, { report }) => sum + report.wanted, 0),
    present: results.reduce((sum, { report }) => sum + report.present, 0),
  };
  const problem = results.find(({ error }) => error !== undefined);
  if (problem) return { ...base, ready: false, reason: problem.reason, message: problem.error ?? '', flows };
  const stuck = leaving.find((message) => message !== undefined);
  if (stuck !== undefined) return { ...base, ready: false, reason: 'Leaving', message: stuck, flows };
  const mismatch = controllerMismatch(network, site, base.controller);
  if (mismatch !== undefined) return { ...base, ready: false, reason: 'ControllerMismatch', message: mismatch, flows };
  const narrow = uncarried(objects.site(site), record);
  if (narrow !== undefined) return { ...base, ready: false, reason: 'MTUNotCarried', message: narrow, flows };
  return { ...base, ready: true, reason: 'Ready', message: '', flows };
}

/** A host that leaves its site keeps a network for as long as a machine of it is there. */
function needs({ site, host }: Host, fuid: string, { objects, directory }: NetworkDependencies): boolean {
  if (objects.site(site)?.spec.hosts.some(({ name }) => name === host)) return true;
  return [...directory.machinesOf(fuid)].some(([, machine]) =>
    [machine, machine.target].some((ref) => ref?.site === site && ref.host === host),
  );
}

/** Returns why the network could not be removed. While the host is away its Site says so, and its return leads here again. */
async function leaveHost(host: Host, fuid: string, { directory }: NetworkDependencies): Promise<string | undefined> {
  const { libvirt } = host;
  // A machine that is not seen because Consul is away must not lose its network.
  if (!directory.current || !libvirt.isConnected || !libvirt.networks.has(networkUuid(fuid))) return undefined;
  try {
    await within(siteDeadlineMs, `libvirt of host ${hostKey(host)}`, removeNetwork(host, fuid));
    return undefined;
  } catch (error) {
    return `host ${hostKey(host)}, which is leaving: ${messageOf(error)}`;
  }
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
    bySite: shown.map(inALine).join(', '),
    sitesReady: `${String(shown.filter((site) => site.ready).length)}/${String(record?.sites.length ?? network.spec.sites?.length ?? 0)}`,
    machines: [...directory.machinesOf(fuid)].length,
  };
}

function inALine({ name, controller, flows, machines }: FederatedNetworkSite): string {
  const present = flows ? ` ${String(flows.present)}/${String(flows.wanted)} flows` : '';
  const attached = machines === undefined ? '' : ` ${String(machines)} machine${machines === 1 ? '' : 's'}`;
  return `${name} ${controller ?? ''}${present}${attached}`;
}

/** Removes the network from every site, then gives back what it holds. A network with machines stays, and names them. */
async function remove(
  network: FederatedNetwork,
  fuid: string,
  dependencies: NetworkDependencies,
): Promise<Outcome<Status>> {
  const { directory, objects, allocator } = dependencies;
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
    const { sites, leaving } = record.value;
    const gone = await leave(
      fuid,
      await write(fuid, record, { sites: [], leaving: [...sites, ...leaving] }, dependencies),
      dependencies,
    );
    if (gone.value.leaving.length > 0)
      return blocked(
        'SiteUnreachable',
        `waiting for site ${gone.value.leaving.join(', ')} to answer, to remove the network there`,
        statusOf(network, fuid, record.value, [], dependencies),
      );
  }
  await allocator.release(fuid);
  return { status: {}, ready: { value: false, reason: 'Deleted', message: 'nothing is left' }, finished: true };
}
