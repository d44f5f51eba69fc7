import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type { FederatedNetwork, FederatedVM, FederatedVMStatus, Site, StorageKind, VMPhase } from '../../crds/index.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import type { Connection } from '../../drivers/libvirt/types.js';
import { consul, federatedUid, type Allocator } from '../common/allocation.js';
import { within } from '../common/deadline.js';
import type { Directory } from '../common/directory.js';
import { attempt, isInterruption, messageOf, Stalled, Transient, Waiting } from '../common/errors.js';
import { domainUuid, networkUuid } from '../common/identity.js';
import { interrupted, type Outcome } from '../common/outcome.js';
import { recordChanged } from '../common/latest.js';
import {
  driverOf,
  type Driver,
  keys,
  serialise,
  type HostRef,
  type InterfaceRecord,
  type NetworkRecord,
  type Versioned,
  type VmRecord,
} from '../common/records.js';
import type { Dataplane } from '../dataplane/dataplane.js';
import { isFenced } from '../fenced.js';
import { hostKey, machineLink, type Host, type Hosts, type LibvirtLink, type ObservedDomain } from '../host.js';
import type { Objects, ReadSecret, RequestMove } from '../objects.js';
import { orphanedAttempt } from '../migration/orphaned.js';
import { allocateMachine, permissions, placementOf } from './allocate.js';
import { define } from './define.js';
import { deleteVolumes, diskPlace, sharePlace } from './disk.js';
import { erase } from './erase.js';
import { clearAbandoned, restartElsewhere } from './fence.js';
import { planMachine, type MachinePlan, type References } from './plan.js';
import { phaseOf } from './power.js';
import { assertOwner, converge } from './run.js';
import { schedule } from './schedule.js';

export interface MachineDependencies {
  readonly objects: Objects;
  readonly hosts: Hosts;
  readonly directory: Directory;
  readonly dataplane: Dataplane;
  readonly allocator: Allocator;
  readonly store: KeyValueStore;
  readonly readSecret: ReadSecret;
  /** Live read. */
  readonly readSite: (name: string) => Promise<Site | undefined>;
  readonly requestMove: RequestMove;
  /** Carries a move whose VMMigration is gone one step on, and answers how it stands. */
  readonly endOrphaned: (machine: FederatedVM, record: VmRecord, attempt: string) => Promise<string>;
  /** Runs placements one after the other. */
  readonly placing: <T>(act: () => Promise<T>) => Promise<T>;
  /** Milliseconds, monotonic. */
  readonly now: () => number;
}

type Status = Omit<FederatedVMStatus, 'conditions' | 'observedGeneration'>;

/** libvirt adds the port before a start returns; the switch's word of it comes a moment later. */
const portPatienceMs = 3_000;

/** Makes the machine exist at its place and do what runStrategy says, or, once deleted, not exist at all. */
export async function reconcileMachine(
  machine: FederatedVM,
  dependencies: MachineDependencies,
): Promise<Outcome<Status>> {
  const fuid = await federatedUid(dependencies.store, machine);
  dependencies.directory.assertSound(fuid);
  if (machine.metadata.deletionTimestamp !== undefined) return await remove(machine, fuid, dependencies);
  let record = dependencies.directory.machine(fuid);
  try {
    const plan = planMachine(machine, await gatherReferences(machine, record !== undefined, dependencies));
    if (!record) {
      record = await place(machine, fuid, plan, dependencies);
      const message = `placed at ${hostKey(record.value)}`;
      // The user sees where it goes before images are copied; the work goes on at once.
      return working(statusOf(machine, fuid, record.value, 'Provisioning', plan), 'Provisioning', message, 0);
    }
    return await ensure(machine, fuid, plan, record, dependencies);
  } catch (error) {
    if (!isInterruption(error)) throw error;
    const observed = record && observe(fuid, record.value, dependencies);
    return interrupted(
      statusOf(
        machine,
        fuid,
        record?.value,
        observed ? phaseOf(observed) : unobservedPhase(record?.value, dependencies),
      ),
      error,
    );
  }
}

function working(status: Status, reason: string, message: string, requeueAfterMs?: number): Outcome<Status> {
  return {
    status,
    ready: { value: false, reason, message },
    reconciling: { reason, message },
    ...(requeueAfterMs === undefined ? {} : { requeueAfterMs }),
  };
}

async function gatherReferences(
  machine: FederatedVM,
  placed: boolean,
  { objects, directory, store }: MachineDependencies,
): Promise<References> {
  const networks = new Map<string, { object: FederatedNetwork; fuid: string; record: NetworkRecord | undefined }>();
  for (const { name } of machine.spec.networks) {
    const object = objects.network(machine.metadata.namespace, name);
    if (!object) continue;
    const fuid = await federatedUid(store, object);
    networks.set(name, { object, fuid, record: directory.network(fuid)?.value });
  }
  return {
    placed,
    template: machine.spec.template === undefined ? undefined : objects.template(machine.spec.template),
    networks,
  };
}

async function place(
  machine: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  dependencies: MachineDependencies,
): Promise<Versioned<VmRecord>> {
  const { objects, directory, allocator } = dependencies;
  directory.assertCurrent();
  // One at a time: what a machine takes of a host is seen by the next only once it is on record.
  return await dependencies.placing(async () => {
    const target = schedule(
      {
        size: plan.size,
        driver: plan.driver,
        sites: plan.sites,
        site: machine.spec.placement?.site,
        host: machine.spec.placement?.host,
        needsShare: plan.storage !== 'Local',
        field: 'spec.placement',
      },
      objects,
      directory,
    );
    return await allocateMachine(machine, fuid, plan, target, allocator, directory);
  });
}

/** The machine's domain where the record has it, as the daemon's events tell. */
function observe(fuid: string, record: VmRecord, { hosts }: MachineDependencies): ObservedDomain | undefined {
  const link = machineLink(hosts.get(record), record);
  return link?.isConnected ? link.domains.get(domainUuid(fuid)) : undefined;
}

function unobservedPhase(record: VmRecord | undefined, { hosts }: MachineDependencies): VMPhase {
  if (!record) return 'Pending';
  if (record.phase === 'Moving') return 'Migrating';
  return machineLink(hosts.get(record), record)?.isConnected ? 'Provisioning' : 'Unknown';
}

async function ensure(
  machine: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  found: Versioned<VmRecord>,
  dependencies: MachineDependencies,
): Promise<Outcome<Status>> {
  const orphaned = orphanedAttempt(machine, found.value, dependencies.objects);
  if (orphaned !== undefined) {
    const message = await dependencies.endOrphaned(machine, found.value, orphaned);
    return working(statusOf(machine, fuid, found.value, 'Migrating', plan), 'MoveWithoutMigration', message, 500);
  }
  if (found.value.phase === 'Moving') {
    const { target } = found.value;
    return working(
      statusOf(machine, fuid, found.value, 'Migrating', plan),
      'Migrating',
      `moving to ${target ? hostKey(target) : 'another host'}`,
    );
  }
  if (found.value.phase === 'Deleting')
    throw new Waiting('Deleting', 'an earlier deletion of this machine is still going on', 2_000);
  const { source } = found.value.last ?? {};
  // Where the move has not undefined it yet, it could still be started.
  if (source)
    return working(
      statusOf(machine, fuid, found.value, 'Migrating', plan),
      'Migrating',
      `moved from ${hostKey(source)}; it is started once nothing is left of it there`,
    );
  refuseNewNetworks(plan, found.value);
  const permitted = await permit(fuid, plan, found, dependencies);
  if (isFenced(permitted.value, dependencies)) {
    refuseDouble(fuid, permitted.value, dependencies);
    const ref = await restartElsewhere(machine, fuid, plan, permitted, dependencies);
    const message = `its host ${hostKey(permitted.value)} is fenced: it starts at ${hostKey(ref)}`;
    const placed = { ...permitted.value, ...ref };
    return working(statusOf(machine, fuid, placed, 'Provisioning', plan), 'HostFenced', message, 0);
  }
  const record = await clearAbandoned(
    fuid,
    permitted,
    () => assertOwner(fuid, permitted.value, dependencies),
    dependencies,
  );
  const moved = await servePlacement(machine, fuid, record, dependencies);
  const { host, link, connection } = reach(record.value, dependencies);
  refuseDouble(fuid, record.value, dependencies);
  const site = dependencies.objects.site(host.site);
  if (!site)
    throw new Waiting(
      'SiteMissing',
      `Site ${host.site}, where the machine is, no longer exists; create it again`,
      10_000,
    );
  const disks = diskPlace(host, site, record.value.storage ?? plan.storage, driverOf(record.value), dependencies.hosts);
  requireNetworks(record.value, host);
  const uuid = domainUuid(fuid);
  const at = `site ${host.site}, host ${host.host}`;
  const seen = link.domains.get(uuid);
  const restart = await attempt('LibvirtFailed', at, () =>
    define(machine, fuid, plan, record, disks, host, site, connection, dependencies),
  );
  // Started is only what was off when its definition was looked at.
  const domain = seen ??
    link.domains.get(uuid) ?? {
      ...(await attempt('LibvirtFailed', at, () => connection.domainState(uuid))),
      uuid,
      name: '',
    };
  const power = await attempt('LibvirtFailed', at, () =>
    converge(machine, fuid, domain, connection, record, dependencies),
  );
  if (power.waiting)
    return working(
      statusOf(machine, fuid, record.value, phaseOf(power.domain), plan),
      power.waiting.reason,
      power.waiting.message,
      power.waiting.afterMs,
    );
  if (phaseOf(power.domain) === 'Running' || phaseOf(power.domain) === 'Paused')
    await plugIn(record.value, host, dependencies);
  const status = statusOf(machine, fuid, record.value, phaseOf(power.domain), plan);
  const message = `${phaseOf(power.domain)} at ${hostKey(host)}`;
  return {
    status,
    ready: { value: true, reason: phaseOf(power.domain), message },
    ...(restart || moved
      ? {
          conditions: [
            ...(restart
              ? [{ type: 'RestartRequired', status: 'True' as const, reason: 'SpecChanged', message: restart }]
              : []),
            ...(moved
              ? [{ type: 'MoveRequested', status: 'True' as const, reason: 'PlacementChanged', message: moved }]
              : []),
          ],
        }
      : {}),
  };
}

/** Whether the machine's host is fenced, or was when it left its site: nothing there runs, or is waited for. */
function isOff({ site, host }: VmRecord, { hosts }: MachineDependencies): boolean {
  return hosts.inUse(site)?.includes(host) === false;
}

/** The record's host with an open connection; Transient, naming the site, while there is none. */
function reach(
  record: VmRecord,
  dependencies: MachineDependencies,
): { host: Host; link: LibvirtLink; connection: Connection } {
  const { hosts } = dependencies;
  if (isOff(record, dependencies))
    throw new Waiting(
      'HostFenced',
      `site ${record.site}, host ${record.host} is not in use (spec.hosts), and the machine with it; put the host back, with fenced: true if it is off for good, or delete the machine`,
      30_000,
    );
  const host = hosts.get(record);
  const link = machineLink(host, record);
  if (!host || !link?.isConnected)
    throw new Transient(
      'SiteUnreachable',
      `site ${record.site}, host ${record.host}: ${link?.lastError?.message ?? 'not connected'}; the machine is left as it is until the site answers`,
    );
  return { host, link, connection: link.connection };
}

/** A machine whose domain is found running at another host than its owner's is never started: somebody has to look. */
function refuseDouble(fuid: string, record: VmRecord, { hosts }: MachineDependencies): void {
  for (const host of hosts.all()) {
    // What a host that is away held when it was last seen proves nothing.
    const link = machineLink(host, record);
    if (hostKey(host) === hostKey(record) || !link?.isConnected) continue;
    const stray = link.domains.get(domainUuid(fuid));
    if (stray?.state === 'running')
      throw new Stalled(
        'RunsElsewhere',
        `the machine belongs to ${hostKey(record)}, but its domain ${stray.name} is ${stray.state} at ${hostKey(host)}; find out which is right and stop the other`,
      );
  }
}

/** Interfaces are given when the machine gets its place; plugging in and out later is not there yet, and is said so. */
function refuseNewNetworks(plan: MachinePlan, record: VmRecord): void {
  const given = record.interfaces.map(({ name }) => name);
  if (plan.networks.map(({ name }) => name).join() !== given.join())
    throw new Stalled(
      'NetworksChanged',
      `spec.networks: this version can't attach or detach networks of an existing machine; restore ${given.join(', ')}, or make a new machine`,
    );
}

/** What port security lets the machine say follows its spec and its template; the data planes follow the record. */
async function permit(
  fuid: string,
  plan: MachinePlan,
  record: Versioned<VmRecord>,
  { store, directory }: MachineDependencies,
): Promise<Versioned<VmRecord>> {
  const interfaces = record.value.interfaces.map(({ network, name, id, mac, address }, at): InterfaceRecord => {
    const planned = plan.networks[at];
    return { network, name, id, mac, address, ...(planned ? permissions(plan, planned) : {}) };
  });
  if (isDeepStrictEqual(interfaces, record.value.interfaces)) return record;
  const next: VmRecord = { ...record.value, interfaces };
  const result = await consul('updating the machine', () =>
    store.transact([{ verb: 'cas', key: keys.vm(fuid), value: serialise(next), index: record.index }]),
  );
  const written = directory.machine(fuid);
  if (!result.ok || !written) throw recordChanged();
  return written;
}

/** A domain can't start on a libvirt network that is not up; its coming up brings the machine back here. */
function requireNetworks(record: VmRecord, host: Host): void {
  const missing = record.interfaces.find(
    ({ network }) => host.libvirt.networks.get(networkUuid(network))?.active !== true,
  );
  if (missing)
    throw new Waiting(
      'NetworkNotReady',
      `FederatedNetwork ${missing.name} is not up at site ${host.site}, host ${host.host} yet`,
      2_000,
    );
}

/** Waits for the ports, and for the flows that let frames in and out of them. */
async function plugIn(record: VmRecord, host: Host, { dataplane, directory }: MachineDependencies): Promise<void> {
  const ports = await Promise.all(record.interfaces.map(({ id }) => dataplane.whenPort(host, id, portPatienceMs)));
  if (ports.includes(false))
    throw new Transient(
      'PortMissing',
      `site ${host.site}, host ${host.host}: Open vSwitch has no port for the machine's interface yet`,
    );
  // The other hosts' switches follow the record by themselves; without its own host's flows the machine hears nothing.
  for (const { network } of record.interfaces) {
    const vni = directory.network(network)?.value.vni;
    if (vni === undefined) continue;
    const { error } = await within(portPatienceMs, hostKey(host), dataplane.ensure(host, vni));
    if (error !== undefined) throw new Transient('FlowsNotApplied', `site ${host.site}, host ${host.host}: ${error}`);
  }
}

/** A changed placement asks for a move, once. Returns what was asked for while it is not served. */
async function servePlacement(
  machine: FederatedVM,
  fuid: string,
  record: Versioned<VmRecord>,
  dependencies: MachineDependencies,
): Promise<string | undefined> {
  const wanted = placementOf(machine);
  const { placedFor, site, host, generation } = record.value;
  if (wanted === undefined || wanted === placedFor || !machine.spec.placement) return undefined;
  const { placement } = machine.spec;
  const there = placement.site === site && (placement.host === undefined || placement.host === host);
  if (!there && placedFor !== undefined) {
    const digest = createHash('sha256')
      .update(`${wanted}/${String(generation)}`)
      .digest('hex')
      .slice(0, 8);
    await dependencies.requestMove({ machine, name: `${machine.metadata.name}-${digest}`, target: placement });
  }
  const next: VmRecord = { ...record.value, placedFor: wanted };
  await consul('recording the placement', () =>
    dependencies.store.transact([{ verb: 'cas', key: keys.vm(fuid), value: serialise(next), index: record.index }]),
  );
  return there ? undefined : `a move to ${wanted} was asked for`;
}

function statusOf(
  machine: FederatedVM,
  fuid: string,
  record: VmRecord | undefined,
  phase: VMPhase,
  plan?: MachinePlan,
): Status {
  const { status } = machine;
  return {
    phase,
    ...(record ? { site: record.site, host: record.host, uuid: domainUuid(fuid) } : {}),
    ...((plan?.size.label ?? status?.flavor) === undefined ? {} : { flavor: plan?.size.label ?? status?.flavor }),
    ...(record
      ? { interfaces: record.interfaces.map(({ name, mac, address }) => ({ network: name, mac, address })) }
      : {}),
  };
}

/** Takes the machine away: nobody may start it, then off, undefined, volumes deleted, everything given back. */
async function remove(machine: FederatedVM, fuid: string, dependencies: MachineDependencies): Promise<Outcome<Status>> {
  const { directory, hosts, allocator } = dependencies;
  directory.assertCurrent();
  const finished: Outcome<Status> = {
    status: {},
    ready: { value: false, reason: 'Deleted', message: 'nothing is left' },
    finished: true,
  };
  const record = directory.machine(fuid);
  if (!record) {
    await allocator.release(fuid);
    return finished;
  }
  const blocked = (reason: string, message: string): Outcome<Status> => ({
    ...working(statusOf(machine, fuid, record.value, 'Deleting'), 'Deleting', message, 2_000),
    conditions: [{ type: 'DeletionBlocked', status: 'True', reason, message }],
  });
  const orphaned = orphanedAttempt(machine, record.value, dependencies.objects);
  if (orphaned !== undefined && record.value.phase === 'Moving')
    return blocked('MoveWithoutMigration', await dependencies.endOrphaned(machine, record.value, orphaned));
  if (record.value.phase === 'Moving')
    return blocked('Migrating', 'a migration of the machine is being cancelled first');
  if (record.value.phase === 'Owned') await markDeleting(fuid, record, dependencies);
  const host = hosts.get(record.value);
  if (!machineLink(host, record.value)?.isConnected && !isOff(record.value, dependencies))
    return blocked(
      'SiteUnreachable',
      `waiting for site ${record.value.site} to answer, to remove the machine from host ${record.value.host}`,
    );
  try {
    const uuid = domainUuid(fuid);
    const holders = [...hosts.all()].flatMap((each) => {
      const link = machineLink(each, record.value);
      return link && (each === host || link.domains.has(uuid)) ? [link] : [];
    });
    await Promise.all(holders.map((link) => erase(uuid, link, driverOf(record.value))));
    const driver = driverOf(record.value);
    await removeVolumes(
      record.value.storage ?? machine.spec.storage,
      fuid,
      record.value.site,
      driver,
      host,
      dependencies,
    );
    const { left, source } = record.value.last ?? {};
    if (source) connected(source, record.value, dependencies);
    if (left)
      await removeVolumes(
        left.storage,
        fuid,
        left.site,
        driver,
        connected(left, record.value, dependencies),
        dependencies,
      );
  } catch (error) {
    if (isInterruption(error)) return blocked(error.reason, error.message);
    const { site, host: name } = record.value;
    throw new Transient('LibvirtFailed', `site ${site}, host ${name}: ${messageOf(error)}`, { cause: error });
  }
  await allocator.release(fuid);
  return finished;
}

async function markDeleting(
  fuid: string,
  { value, index }: Versioned<VmRecord>,
  { store }: MachineDependencies,
): Promise<void> {
  const record: VmRecord = { ...value, phase: 'Deleting' };
  const result = await consul('recording the deletion', () =>
    store.transact([{ verb: 'cas', key: keys.vm(fuid), value: serialise(record), index }]),
  );
  if (!result.ok) throw recordChanged();
}

/** The host, to remove what a move has left there; undefined for one that is off for good. */
function connected(ref: HostRef, record: VmRecord, dependencies: MachineDependencies): Host | undefined {
  const { hosts } = dependencies;
  const host = hosts.get(ref);
  if (machineLink(host, record)?.isConnected) return host;
  if (hosts.inUse(ref.site)?.includes(ref.host) === false) return undefined;
  throw new Waiting(
    'SiteUnreachable',
    `waiting for site ${ref.site} to answer, to remove what a move has left at host ${ref.host}`,
    5_000,
  );
}

/** Where nobody wrote down what the disk is, both places are looked at. */
async function removeVolumes(
  storage: StorageKind | undefined,
  fuid: string,
  siteName: string,
  driver: Driver,
  host: Host | undefined,
  { objects, hosts }: MachineDependencies,
): Promise<void> {
  const site = objects.site(siteName);
  if (!site) return;
  if (host && storage !== 'Shared') await deleteVolumes(fuid, diskPlace(host, site, 'Local', driver, hosts));
  if ((storage ?? 'Shared') === 'Shared' && site.spec.storage?.shared)
    await deleteVolumes(fuid, sharePlace(site, hosts));
}
