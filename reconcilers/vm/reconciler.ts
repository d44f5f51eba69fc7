import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type { FederatedNetwork, FederatedVM, FederatedVMStatus, Site, StorageKind, VMPhase } from '../../crds/index.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { Connection } from '../../drivers/libvirt/types.js';
import { consul, federatedUid, type Allocator } from '../common/allocation.js';
import { within } from '../common/deadline.js';
import type { Directory } from '../common/directory.js';
import { attempt, isInterruption, messageOf, Stalled, Transient, Waiting } from '../common/errors.js';
import { domainUuid, metadataNamespace, networkUuid } from '../common/identity.js';
import { refusedWith, tolerating } from '../common/libvirt.js';
import { interrupted, type Outcome } from '../common/outcome.js';
import {
  keys,
  parseRecord,
  serialise,
  vmRecord,
  type HostRef,
  type InterfaceRecord,
  type NetworkRecord,
  type Versioned,
  type VmRecord,
} from '../common/records.js';
import { parseXml } from '../common/xml.js';
import type { Dataplane } from '../dataplane/dataplane.js';
import { isFenced } from '../fenced.js';
import { hostKey, type Host, type Hosts, type LibvirtLink, type ObservedDomain } from '../host.js';
import type { Objects, ReadSecret, RequestMove } from '../objects.js';
import { allocateMachine, permissions, placementOf } from './allocate.js';
import {
  createVolumes,
  deleteVolumes,
  diskPlace,
  findVolumes,
  sharePlace,
  type DiskPlace,
  type MachineVolumes,
} from './disk.js';
import { domainXml } from './domain.js';
import { erase } from './erase.js';
import { clearAbandoned, restartElsewhere } from './fence.js';
import { planMachine, type MachinePlan, type References } from './plan.js';
import { phaseOf, powerAction } from './power.js';
import { schedule } from './schedule.js';
import { buildSeed } from './seed.js';

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
  /** Runs placements one after the other. */
  readonly placing: <T>(act: () => Promise<T>) => Promise<T>;
  /** Milliseconds, monotonic. */
  readonly now: () => number;
}

type Status = Omit<FederatedVMStatus, 'conditions' | 'observedGeneration'>;

/** A guest that ignores the power button for this long is switched off. */
const shutdownGraceMs = 60_000;
/** libvirt adds the port before a start returns; the switch's word of it comes a moment later. */
const portPatienceMs = 3_000;

const shutdownAsked = new Map<string, number>();

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
  const link = hosts.get(record)?.qemu;
  return link?.isConnected ? link.domains.get(domainUuid(fuid)) : undefined;
}

function unobservedPhase(record: VmRecord | undefined, { hosts }: MachineDependencies): VMPhase {
  if (!record) return 'Pending';
  if (record.phase === 'Moving') return 'Migrating';
  return hosts.get(record)?.qemu?.isConnected ? 'Provisioning' : 'Unknown';
}

async function ensure(
  machine: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  found: Versioned<VmRecord>,
  dependencies: MachineDependencies,
): Promise<Outcome<Status>> {
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
  const disks = diskPlace(host, site, record.value.storage ?? plan.storage, dependencies.hosts);
  requireNetworks(record.value, host);
  const uuid = domainUuid(fuid);
  const at = `site ${host.site}, host ${host.host}`;
  const restart = await attempt('LibvirtFailed', at, () =>
    define(machine, fuid, plan, record, disks, host, connection, dependencies),
  );
  const domain = link.domains.get(uuid) ?? {
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
  const link = host?.qemu;
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
    if (hostKey(host) === hostKey(record) || !host.qemu?.isConnected) continue;
    const stray = host.qemu.domains.get(domainUuid(fuid));
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
  if (!result.ok || !written)
    throw new Transient('RecordChanged', 'the machine’s record changed meanwhile; it is read again');
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

/** Makes volumes and definition right. Returns what a restart would change in a running domain. */
async function define(
  machine: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  record: Versioned<VmRecord>,
  disks: DiskPlace,
  host: Host,
  connection: Connection,
  dependencies: MachineDependencies,
): Promise<string | undefined> {
  const uuid = domainUuid(fuid);
  const seen = host.qemu?.domains.get(uuid);
  let volumes = record.value.disk ? await findVolumes(fuid, disks) : undefined;
  if (!volumes) {
    if (record.value.disk)
      throw new Stalled(
        'DiskMissing',
        `pool ${disks.pool} of host ${hostKey(disks.via)}: the machine's disk or seed is gone; restore volume isth-${fuid}-root.qcow2, or delete the machine`,
      );
    await assertNoDisk(fuid, record.value, connection, dependencies);
    volumes = await provision(machine, fuid, plan, record.value, disks, dependencies);
    const definition = domainFor(machine, fuid, plan, record.value, volumes, host, await virtualisationOf(connection));
    await Promise.all([markDisk(fuid, record, dependencies), connection.defineDomain(definition)]);
    return undefined;
  }
  const definition = domainFor(machine, fuid, plan, record.value, volumes, host, await virtualisationOf(connection));
  if (!seen) {
    await connection.defineDomain(definition);
    return undefined;
  }
  const current = await definitionOf(uuid, connection);
  if (current === parseXml(definition)('domain', 'metadata', 'isthmus:machine', '@definition')) return undefined;
  if (current === 'transient') {
    // Undefined by hand while it runs: it would be gone with its next power-off.
    await connection.defineDomain(definition);
    return undefined;
  }
  if (phaseOf(seen) !== 'Stopped' && phaseOf(seen) !== 'Failed')
    return 'flavor, resources or networks changed; stop and start the machine (runStrategy) for it to take effect';
  await connection.defineDomain(definition);
  return undefined;
}

/** The definition's mark in the domain's persistent configuration; transient if it has none. */
async function definitionOf(uuid: string, connection: Connection): Promise<string | undefined> {
  let metadata: string | undefined;
  try {
    metadata = await connection.domainMetadata(uuid, metadataNamespace, constants.DOMAIN_AFFECT_CONFIG);
  } catch (error) {
    if (refusedWith(error, 'OPERATION_INVALID')) return 'transient';
    throw error;
  }
  if (metadata === undefined) return undefined;
  const at = parseXml(metadata);
  return at('machine', '@definition') ?? at('isthmus:machine', '@definition');
}

/** Volumes are made anew only for a machine that never ran: our copy of the record may be old, so Consul's leader and the daemon are asked. */
async function assertNoDisk(
  fuid: string,
  record: VmRecord,
  connection: Connection,
  { store }: MachineDependencies,
): Promise<void> {
  const [entry, state] = await Promise.all([
    consul('asking whether the machine has a disk', () => store.get(keys.vm(fuid))),
    tolerating(['NO_DOMAIN'], connection.domainState(domainUuid(fuid))),
  ]);
  const live = entry && parseRecord(vmRecord, entry).value;
  if (live?.phase !== 'Owned' || hostKey(live) !== hostKey(record) || live.disk)
    throw new Transient('RecordChanged', 'the machine’s record changed meanwhile; it is read again');
  if (state && phaseOf(state) !== 'Stopped')
    throw new Stalled(
      'DiskInUse',
      `host ${hostKey(record)}: the machine's domain is ${state.state} though no disk is on record; look at it before anything is made`,
    );
}

async function provision(
  machine: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  record: VmRecord,
  disks: DiskPlace,
  { readSecret }: MachineDependencies,
): Promise<MachineVolumes> {
  const seed = await buildSeed(machine, fuid, plan.cloudInit, plan.networks, record.interfaces, readSecret);
  return await createVolumes(
    { fuid, image: plan.image, storage: plan.storage, diskBytes: plan.size.diskBytes, seed },
    disks,
  );
}

function domainFor(
  machine: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  record: VmRecord,
  volumes: MachineVolumes,
  { spec }: Host,
  virtualisation: 'kvm' | 'qemu',
): string {
  const mtus = new Map(plan.networks.map((network) => [network.fuid, network.record.mtu]));
  return domainXml({
    fuid,
    namespace: machine.metadata.namespace,
    name: machine.metadata.name,
    size: plan.size,
    datapath: spec.ovs.datapathType ?? 'system',
    virtualisation,
    ...volumes,
    interfaces: record.interfaces.map((each) => ({ ...each, mtu: mtus.get(each.network) ?? 1500 })),
  });
}

const virtualisations = new WeakMap<Connection, Promise<'kvm' | 'qemu'>>();

/** What the host's daemon offers for x86-64 guests; asked once a connection. */
async function virtualisationOf(connection: Connection): Promise<'kvm' | 'qemu'> {
  let known = virtualisations.get(connection);
  if (!known) {
    known = connection.capabilities().then((xml) => (/<domain type='kvm'\/?>/.test(xml) ? 'kvm' : 'qemu'));
    virtualisations.set(connection, known);
    known.catch(() => virtualisations.delete(connection));
  }
  return await known;
}

/** From here on a missing disk is data loss to report. */
async function markDisk(
  fuid: string,
  { value, index }: Versioned<VmRecord>,
  { store }: MachineDependencies,
): Promise<void> {
  const record: VmRecord = { ...value, disk: true };
  const result = await consul('recording the disk', () =>
    store.transact([{ verb: 'cas', key: keys.vm(fuid), value: serialise(record), index }]),
  );
  if (!result.ok) throw new Transient('RecordChanged', 'the machine’s record changed meanwhile; it is read again');
}

interface Power {
  readonly domain: ObservedDomain;
  readonly waiting?: { readonly reason: string; readonly message: string; readonly afterMs?: number };
}

async function converge(
  machine: FederatedVM,
  fuid: string,
  domain: ObservedDomain,
  connection: Connection,
  record: Versioned<VmRecord>,
  dependencies: MachineDependencies,
): Promise<Power> {
  const { uuid } = domain;
  const wanted = machine.spec.runStrategy ?? 'Running';
  const action = powerAction(wanted, domain);
  if (action !== 'shutdown' && action !== 'wait') shutdownAsked.delete(uuid);
  switch (action) {
    case 'none':
      return { domain };
    case 'wait':
      return {
        domain,
        waiting: {
          reason: phaseOf(domain),
          message: `the domain is ${domain.state} (reason ${String(domain.reason)}), wanted ${wanted}`,
          afterMs: 5_000,
        },
      };
    case 'start':
    case 'startPaused': {
      await assertOwner(fuid, record.value, dependencies);
      const flags = action === 'startPaused' ? constants.DOMAIN_START_PAUSED : 0;
      await tolerating(['OPERATION_INVALID'], connection.startDomain(uuid, flags));
      return { domain: { ...domain, ...(await connection.domainState(uuid)) } };
    }
    case 'resume':
      await assertOwner(fuid, record.value, dependencies);
      await tolerating(['OPERATION_INVALID'], connection.resumeDomain(uuid));
      return { domain: { ...domain, ...(await connection.domainState(uuid)) } };
    case 'suspend':
      await tolerating(['OPERATION_INVALID'], connection.suspendDomain(uuid));
      return { domain: { ...domain, ...(await connection.domainState(uuid)) } };
    case 'shutdown': {
      const asked = shutdownAsked.get(uuid);
      const waiting = { reason: 'Stopping', message: 'the guest was asked to shut down', afterMs: 2_000 };
      if (asked === undefined) {
        shutdownAsked.set(uuid, dependencies.now());
        await tolerating(['OPERATION_INVALID'], connection.shutdownDomain(uuid));
        return { domain, waiting };
      }
      if (dependencies.now() - asked < shutdownGraceMs) return { domain, waiting };
      shutdownAsked.delete(uuid);
      await tolerating(['OPERATION_INVALID'], connection.destroyDomain(uuid));
      return { domain: { ...domain, ...(await connection.domainState(uuid)) } };
    }
  }
}

/** Asks Consul's leader, not our copy: nobody but the owner may start a machine. */
async function assertOwner(fuid: string, record: VmRecord, { store }: MachineDependencies): Promise<void> {
  const entry = await consul('asking who owns the machine', () => store.get(keys.vm(fuid)));
  const owner = entry && parseRecord(vmRecord, entry).value;
  if (owner?.phase !== 'Owned' || hostKey(owner) !== hostKey(record))
    throw new Transient(
      'OwnerChanged',
      `the machine now belongs to ${owner ? `${hostKey(owner)} (${owner.phase})` : 'nobody'}`,
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
  if (record.value.phase === 'Moving')
    return blocked('Migrating', 'a migration of the machine is being cancelled first');
  if (record.value.phase === 'Owned') await markDeleting(fuid, record, dependencies);
  const host = hosts.get(record.value);
  if (!host?.qemu?.isConnected && !isOff(record.value, dependencies))
    return blocked(
      'SiteUnreachable',
      `waiting for site ${record.value.site} to answer, to remove the machine from host ${record.value.host}`,
    );
  try {
    const holders = [...hosts.all()].filter((each) => each === host || each.qemu?.domains.has(domainUuid(fuid)));
    await Promise.all(holders.flatMap(({ qemu }) => (qemu ? [erase(domainUuid(fuid), qemu)] : [])));
    await removeVolumes(record.value.storage ?? machine.spec.storage, fuid, record.value.site, host, dependencies);
    const { left, source } = record.value.last ?? {};
    if (source) connected(source, dependencies);
    if (left) await removeVolumes(left.storage, fuid, left.site, connected(left, dependencies), dependencies);
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
  if (!result.ok) throw new Transient('RecordChanged', 'the machine’s record changed meanwhile; it is read again');
}

/** The host, to remove what a move has left there; undefined for one that is off for good. */
function connected(ref: HostRef, dependencies: MachineDependencies): Host | undefined {
  const { hosts } = dependencies;
  const host = hosts.get(ref);
  if (host?.qemu?.isConnected) return host;
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
  host: Host | undefined,
  { objects, hosts }: MachineDependencies,
): Promise<void> {
  const site = objects.site(siteName);
  if (!site) return;
  if (host && storage !== 'Shared') await deleteVolumes(fuid, diskPlace(host, site, 'Local', hosts));
  if (storage !== 'Local' && site.spec.storage?.shared) await deleteVolumes(fuid, sharePlace(site, hosts));
}
