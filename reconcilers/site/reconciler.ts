import type { Observable } from 'rxjs';
import {
  quantity,
  type Site,
  type SiteHost,
  type SiteHostStatus,
  type SiteStatus,
  type VMMigration,
} from '../../crds/index.js';
import type { Directory } from '../common/directory.js';
import { isInterruption, messageOf } from '../common/errors.js';
import { domainName, edgeBridge, integrationBridge } from '../common/identity.js';
import type { Outcome } from '../common/outcome.js';
import { text } from '../common/rows.js';
import type { Dataplane } from '../dataplane/dataplane.js';
import type { BoundaryState } from '../dataplane/floodlight.js';
import { hostKey, type Host, type Hosts } from '../host.js';
import type { Objects, RequestMove } from '../objects.js';
import { machineSize } from '../vm/size.js';
import { diffBridges, listenerOf, removeBridges, type BridgeChange, type Peer, type Tables } from './bridges.js';
import { evacuated, planEvacuation } from './evacuate.js';
import { gatherHost, type ObservedHost, type Problem } from './gather.js';
import type { Prober } from '../underlay/prober.js';
import { linksOf } from './links.js';
import { departure, type Members } from './members.js';
import type { Roster } from './roster.js';

export interface SiteDependencies {
  readonly hosts: Hosts;
  readonly dataplane: Pick<Dataplane, 'boundary'>;
  readonly objects: Objects;
  readonly directory: Directory;
  readonly roster: Roster;
  readonly underlay: Pick<Prober, 'finding'>;
  readonly log: (message: string, fields: Record<string, unknown>) => void;
  readonly requestMove: RequestMove;
  /** Deletes a VMMigration that is over. */
  readonly dropMove: (migration: VMMigration) => Promise<void>;
  /** Wall clock. */
  readonly clock: () => Date;
}

type Status = Omit<SiteStatus, 'conditions' | 'observedGeneration'>;

/** Brings a site's hosts to where networks and machines can be put on them, and says what they have. */
export async function reconcileSite(
  site: Site,
  members: Members,
  dependencies: SiteDependencies,
): Promise<Outcome<Status>> {
  const { hosts, objects, roster } = dependencies;
  const observe = (specs: readonly SiteHost[]) => Promise.all(specs.map((spec) => gatherHost(site, spec, hosts)));
  const [staying, leaving] = await Promise.all([observe(members.staying), observe(members.leaving)]);
  if (site.metadata.deletionTimestamp !== undefined) return await remove(site, [...staying, ...leaving], dependencies);
  const peers = roster.peers();
  const [kept, left] = await Promise.all([
    Promise.all(staying.map(async (each) => ({ each, problems: await prepare(each, peers, dependencies) }))),
    Promise.all(leaving.map(async (each) => ({ each, problem: await depart(site, each, peers, dependencies) }))),
  ]);
  const gone = left.filter(({ problem }) => problem === undefined).map(({ each }) => each.spec.name);
  if (gone.length > 0) await roster.forget(site, gone);
  const status = statusOf(
    site,
    [
      ...kept.map(({ each, problems }) => hostStatus(each, problems, site, objects)),
      ...left.flatMap(({ each, problem }) => (problem ? [hostStatus(each, [problem], site, objects)] : [])),
      ...unused(members),
    ],
    objects,
  );
  const { links, conditions } = linksOf(site, peers, objects, (from, to) => dependencies.underlay.finding(from, to));
  const { againMs, condition } = await evacuate(site, dependencies);
  const outcome = conclude({ ...status, links });
  const waits = [outcome.requeueAfterMs, againMs].filter((wait) => wait !== undefined);
  return {
    ...outcome,
    ...(waits.length > 0 ? { requeueAfterMs: Math.min(...waits) } : {}),
    conditions: [...conditions, ...(condition ? [condition] : [])],
  };
}

/** Asks for the moves that empty what is in maintenance; the migrations do the rest, within their limits. */
async function evacuate(
  site: Site,
  { objects, directory, requestMove, dropMove, clock }: SiteDependencies,
): Promise<{ againMs?: number | undefined; condition?: ReturnType<typeof evacuated> }> {
  const plan = planEvacuation(site, objects, directory, clock());
  if (!plan) return {};
  if (!directory.current || !directory.isSound) {
    const message = 'waiting for Consul to tell which machines are here';
    return {
      againMs: 5_000,
      condition: { type: 'Evacuated', status: 'False', reason: 'RecordsUnknown', message },
    };
  }
  for (const ask of plan.asks) await requestMove(ask);
  for (const migration of plan.drops) await dropMove(migration);
  return { againMs: plan.againMs, condition: evacuated(plan) };
}

function conclude(status: Status): Outcome<Status> {
  const all = status.hosts ?? [];
  const broken = all.filter(({ ready, reason }) => !ready && reason !== 'Fenced');
  const [first] = broken;
  if (!first && !all.some(({ ready }) => ready)) {
    const message = 'spec.hosts: all are fenced; nothing runs at this site';
    return { status, ready: { value: false, reason: 'Fenced', message } };
  }
  if (!first) return { status, ready: { value: true, reason: 'HostsReady', message: 'all hosts are ready' } };
  const reason = first.reason ?? 'HostNotReady';
  const message = broken.map((host) => host.message ?? host.name).join('; ');
  const requeueAfterMs = broken.some((host) => host.reason === leavingReason) ? 2_000 : 10_000;
  return { status, ready: { value: false, reason, message }, reconciling: { reason, message }, requeueAfterMs };
}

/** Hosts that the spec names and nobody touches. */
function unused({ fenced, waiting }: Members): SiteHostStatus[] {
  return [
    ...fenced.map(({ name }) => ({
      name,
      ready: false,
      reason: 'Fenced',
      message: `host ${name} is taken for off (fenced): nothing is done there, and no other host talks to it`,
    })),
    ...waiting.map(({ spec: { name, underlayAddress }, behind }) => ({
      name,
      ready: false,
      reason: 'AddressInUse',
      message: `host ${name}: underlayAddress ${underlayAddress} is that of host ${behind}, which is leaving; it joins when that is gone`,
    })),
  ];
}

const leavingReason = 'HostLeaving';

/** One step of a host's way out. What it waits for comes back as a problem; undefined: nothing of ours is left there. */
async function depart(
  site: Site,
  observed: ObservedHost,
  peers: readonly Peer[],
  dependencies: SiteDependencies,
): Promise<Problem | undefined> {
  const { directory, log } = dependencies;
  const { host, spec, problems } = observed;
  const { name } = spec;
  const away = problems.find(({ reason }) => isAway(reason))?.message;
  const next = departure({
    name,
    announced: site.status?.hosts?.some((each) => each.name === name && each.reason === leavingReason) ?? false,
    sound: directory.current && directory.isSound,
    holds: holdings(site.metadata.name, observed, dependencies),
    away,
    networks: observed.ourNetworks,
  });
  if (next.step === 'keep') await prepare(observed, peers, dependencies);
  if (next.step !== 'forget') return { reason: leavingReason, message: next.message };
  try {
    if (host) await apply(host, removeBridges(tablesOf(host)), log);
    return undefined;
  } catch (error) {
    return { reason: leavingReason, message: `host ${name}: removing its bridges: ${messageOf(error)}` };
  }
}

/** What a host has that the user must move or delete: machines by the records, strays by its daemons, shares by the Sites. */
function holdings(
  site: string,
  { spec, ourMachines }: ObservedHost,
  { objects, directory }: SiteDependencies,
): string[] {
  const ref = `${site}/${spec.name}`;
  const machines = [...directory.machines()].filter(
    ([, { value }]) => hostKey(value) === ref || (value.target && hostKey(value.target) === ref),
  );
  const known = new Set(machines.map(([fuid, { value }]) => domainName(value.name, fuid)));
  const shares = [...objects.sites()].filter((each) => each.spec.storage?.shared?.via === ref);
  return [
    ...machines.map(([, { value }]) => `FederatedVM ${value.namespace}/${value.name}`).sort(),
    ...ourMachines.filter((domain) => !known.has(domain)).map((domain) => `domain ${domain}`),
    ...shares.map(({ metadata }) => `the share of Site ${metadata.name} (storage.shared.via)`),
  ];
}

/** Whether a problem means that nothing can be read or removed there. */
const isAway = (reason: string): boolean => ['NotConnected', 'LibvirtUnreachable', 'OvsdbUnreachable'].includes(reason);

/** Makes the host's bridges right. What prevents it comes back as problems. */
async function prepare(
  { host, spec, problems }: ObservedHost,
  peers: readonly Peer[],
  { log, dataplane }: SiteDependencies,
): Promise<Problem[]> {
  if (!host || problems.some(({ reason }) => reason === 'OvsdbUnreachable')) return [...problems];
  try {
    const wanted = {
      datapathType: spec.ovs.datapathType ?? 'system',
      underlayAddress: spec.underlayAddress,
      controller: controllerOf(host, dataplane.boundary(host)),
      listeners: { int: listenerOf(spec.ovs.openflow.int), edge: listenerOf(spec.ovs.openflow.edge) },
      peers: peers.filter((peer) => hostKey(peer) !== hostKey(host)),
    };
    await apply(host, diffBridges(wanted, tablesOf(host)), log);
    return [
      ...problems,
      ...switchProblem(host, integrationBridge, host.int),
      ...switchProblem(host, edgeBridge, host.edge),
      ...controllerProblem(host, dataplane.boundary(host)),
    ];
  } catch (error) {
    const reason = isInterruption(error) ? error.reason : 'OvsdbFailed';
    return [...problems, { reason, message: `host ${host.host}: ${messageOf(error)}` }];
  }
}

/** Where isth-edge is to connect to. As long as it is not known whether Floodlight is fit for it, that stays as it is. */
function controllerOf(host: Host, boundary: BoundaryState | undefined): string | undefined {
  const target = host.siteSpec.sdnController?.openflow;
  if (target === undefined || !boundary) return undefined;
  const isAttached = (): boolean =>
    [...host.ovsdb.rows('Controller').values()].some((row) => text(row, 'target') === target);
  return (boundary.isFit ?? isAttached()) ? target : undefined;
}

function controllerProblem(host: Host, boundary: BoundaryState | undefined): Problem[] {
  if (!boundary?.problem) return [];
  const { reason, message } = boundary.problem;
  return [{ reason, message: `host ${host.host}: ${message}` }];
}

const tablesOf =
  (host: Host): Tables =>
  (table) =>
    host.ovsdb.rows(table);

async function apply(host: Host, changes: readonly BridgeChange[], log: SiteDependencies['log']): Promise<void> {
  if (changes.length === 0) return;
  for (const { reason } of changes) log('changing bridges', { host: hostKey(host), change: reason });
  await host.ovsdb.transact(changes.flatMap(({ operations }) => operations));
}

/** A new bridge's listener answers a moment after it was made; its connecting brings the site back here. */
function switchProblem(host: Host, name: string, bridge: Host['int']): Problem[] {
  const state = latest(bridge.state);
  if (state?.connected) return [];
  return [
    {
      reason: 'OpenFlowUnreachable',
      message: `host ${host.host}: OpenFlow listener of ${name} at ${bridge.endpoint}: ${state?.error?.message ?? 'connecting'}`,
    },
  ];
}

/** What an observable that replays its current value says now. */
function latest<T>(observable: Observable<T>): T | undefined {
  let value: T | undefined;
  observable.subscribe((next) => (value = next)).unsubscribe();
  return value;
}

function machinesAt(site: string, objects: Objects, host?: string) {
  return [...objects.machines()].filter(
    ({ status }) => status?.site === site && (host === undefined || status.host === host),
  );
}

function statusOf(site: Site, hosts: SiteHostStatus[], objects: Objects): Status {
  return {
    hosts,
    hostsReady: `${String(hosts.filter((host) => host.ready).length)}/${String(hosts.length)}`,
    vms: machinesAt(site.metadata.name, objects).length,
    controller: site.spec.sdnController?.type ?? 'BuiltIn',
  };
}

function hostStatus(
  observed: ObservedHost,
  problems: readonly Problem[],
  site: Site,
  objects: Objects,
): SiteHostStatus {
  const [first] = problems;
  const { cpus, memoryBytes, diskBytes } = observed.capacity;
  const sizes = machinesAt(site.metadata.name, objects, observed.spec.name).flatMap((machine) => {
    const template = machine.spec.template === undefined ? undefined : objects.template(machine.spec.template);
    return machineSize(machine.spec, template?.spec);
  });
  const capacity = {
    ...(cpus === undefined ? {} : { cpus }),
    ...(memoryBytes === undefined ? {} : { memory: quantity.format(memoryBytes) }),
    ...(diskBytes === undefined ? {} : { disk: quantity.format(diskBytes) }),
  };
  const sum = (of: (size: (typeof sizes)[number]) => bigint): string =>
    quantity.format(sizes.reduce((total, size) => total + of(size), 0n));
  return {
    name: observed.spec.name,
    ready: first === undefined,
    reason: first?.reason ?? 'Ready',
    message: problems.map(({ message }) => message).join('; '),
    ...(isEmpty(observed.versions) ? {} : { versions: observed.versions }),
    ...(isEmpty(capacity) ? {} : { capacity }),
    allocated: {
      cpus: sizes.reduce((total, { vcpus }) => total + vcpus, 0),
      memory: sum(({ memoryBytes: bytes }) => bytes),
      disk: sum(({ diskBytes: bytes }) => bytes),
    },
    foreignNetworks: observed.foreignNetworks.slice(0, 50),
  };
}

/** A server-side apply that empties an object makes it null, which the schema refuses: it has to be left out. */
const isEmpty = (object: object): boolean => Object.keys(object).length === 0;

/** A site goes when nothing of ours lives there any more; then the bridges go too. */
async function remove(
  site: Site,
  observed: readonly ObservedHost[],
  dependencies: SiteDependencies,
): Promise<Outcome<Status>> {
  const { objects, roster, log } = dependencies;
  const name = site.metadata.name;
  const status = statusOf(
    site,
    observed.map((each) => hostStatus(each, each.problems, site, objects)),
    objects,
  );
  const blocked = (reason: string, message: string): Outcome<Status> => ({
    status,
    ready: { value: false, reason, message },
    reconciling: { reason: 'Deleting', message },
    conditions: [{ type: 'DeletionBlocked', status: 'True', reason, message }],
    requeueAfterMs: 5_000,
  });
  const machines = machinesAt(name, objects).map(({ metadata }) => `${metadata.namespace}/${metadata.name}`);
  if (machines.length > 0)
    return blocked(
      'MachinesPresent',
      `site ${name} still has machines: ${machines.join(', ')}; delete them or move them away`,
    );
  const networks = [...objects.networks()]
    .filter(({ spec, status: seen }) => spec.sites?.includes(name) || seen?.sites?.some((each) => each.name === name))
    .map(({ metadata }) => `${metadata.namespace}/${metadata.name}`);
  if (networks.length > 0)
    return blocked(
      'NetworksPresent',
      `site ${name} still has networks: ${networks.join(', ')}; delete them or take the site out of their spec.sites`,
    );
  const away = observed.filter(({ problems }) => problems.some(({ reason }) => isAway(reason)));
  if (away.length > 0)
    return blocked(
      'HostUnreachable',
      `site ${name}: ${away.map(({ spec, problems }) => problems[0]?.message ?? spec.name).join('; ')}; its bridges are removed when it answers again; if it is off for good, set spec.hosts[].fenced: true`,
    );
  const left = observed.flatMap(({ ourNetworks, ourMachines }) => [...ourNetworks, ...ourMachines]);
  if (left.length > 0) return blocked('LeftoversPresent', `site ${name} still holds ${left.join(', ')}`);
  for (const { host } of observed) if (host) await apply(host, removeBridges(tablesOf(host)), log);
  await roster.drop(name);
  return { status, ready: { value: false, reason: 'Deleted', message: 'nothing is left' }, finished: true };
}
