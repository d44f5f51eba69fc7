import { isDeepStrictEqual } from 'node:util';
import { Subscription, type Observable } from 'rxjs';
import type { FederatedNetwork, Site, VMMigration } from '../crds/index.js';
import type { Directory } from '../reconcilers/common/directory.js';
import { ovsdbMark } from '../reconcilers/common/identity.js';
import type { HostRef } from '../reconcilers/common/records.js';
import { entries } from '../reconcilers/common/rows.js';
import type { Dataplane } from '../reconcilers/dataplane/dataplane.js';
import { hostKey, type Host, type Hosts } from '../reconcilers/host.js';
import { evacuates, isEmptied } from '../reconcilers/migration/evacuation.js';
import { queued, standing } from '../reconcilers/migration/queue.js';
import { isFilling } from '../reconcilers/migration/step.js';
import type { Objects } from '../reconcilers/objects.js';
import type { Prober } from '../reconcilers/underlay/prober.js';
import { parseKey } from './kube/api.js';
import type { Stores } from './objects.js';
import type { Change } from './runtime/store.js';

interface Key {
  readonly namespace?: string | undefined;
  readonly name: string;
}

/** Takes the keys of one kind that are to be looked at. */
type Enqueue = (key: Key) => void;

export interface TriggerTargets {
  readonly site: Enqueue;
  readonly network: Enqueue;
  readonly machine: Enqueue;
  readonly migration: Enqueue;
  readonly template: Enqueue;
}

export interface TriggerSources {
  readonly stores: Stores;
  readonly objects: Objects;
  readonly hosts: Hosts;
  readonly directory: Directory;
  readonly dataplane: Pick<Dataplane, 'drift' | 'boundaries'>;
  readonly underlay: Pick<Prober, 'changes' | 'refresh'>;
  /** Whether a migration shows nothing but the status that its reconcile has written. */
  readonly isEcho: (change: Change<VMMigration>) => boolean;
}

/** What wakes what: every change that somebody's reconcile depends on, as keys. No decisions are taken here. */
export function wire(sources: TriggerSources, targets: TriggerTargets): Subscription {
  const subscriptions = new Subscription();
  const on = <T>(source: Observable<T>, act: (event: T) => void): void => {
    subscriptions.add(source.subscribe(act));
  };
  wireObjects(sources, targets, on);
  const attempts = () => new Set([...sources.directory.moving()].map(({ attempt }) => attempt));
  let moving = attempts();
  on(sources.directory.changes, ({ networks, machines }) => {
    for (const fuid of networks) enqueueNetwork(sources, targets, fuid);
    for (const fuid of machines) enqueueMachine(sources, targets, fuid);
    // A place is free once the record says so, too, which may be heard after the migration's own word.
    const before = moving;
    moving = attempts();
    if ([...before].some((each) => !moving.has(each)))
      for (const { metadata } of queued(sources.objects)) targets.migration(metadata);
  });
  on(sources.dataplane.drift, ({ vni }) => {
    const fuid = sources.directory.networkOfVni(vni);
    if (fuid !== undefined) enqueueNetwork(sources, targets, fuid);
  });
  on(sources.dataplane.boundaries, ({ site }) => targets.site({ name: site }));
  on(sources.underlay.changes, ({ site }) => targets.site({ name: site }));
  const perHost = new Map<string, Subscription>();
  const follow = (host: Host): void => {
    perHost.get(hostKey(host))?.unsubscribe();
    perHost.set(hostKey(host), wireHost(host, sources, targets));
    targets.site({ name: host.site });
  };
  on(sources.hosts.added, follow);
  on(sources.hosts.removed, (host) => {
    perHost.get(hostKey(host))?.unsubscribe();
    perHost.delete(hostKey(host));
    targets.site({ name: host.site });
    // It may be fenced: its machines start elsewhere.
    enqueueAllAt(host, sources, targets);
  });
  for (const host of sources.hosts.all()) follow(host);
  subscriptions.add(() => {
    for (const subscription of perHost.values()) subscription.unsubscribe();
  });
  return subscriptions;
}

function wireObjects(
  sources: TriggerSources,
  targets: TriggerTargets,
  on: <T>(source: Observable<T>, act: (event: T) => void) => void,
): void {
  const { stores, objects, directory, underlay } = sources;
  on(stores.sites.changes, (change) => {
    const { name } = parseKey(change.key);
    targets.site({ name });
    // What its links carry decides whether networks are ready there.
    if (!isDeepStrictEqual(linksOf(change.old), linksOf(change.new)))
      for (const [fuid, { value }] of directory.networks())
        if (value.sites.includes(name)) enqueueNetwork(sources, targets, fuid);
    // Status-only changes of a site (its capacity) are of no concern to others.
    if (
      change.old?.metadata.generation === change.new?.metadata.generation &&
      change.old?.metadata.deletionTimestamp === change.new?.metadata.deletionTimestamp
    )
      return;
    underlay.refresh();
    for (const { metadata } of objects.sites()) targets.site(metadata);
    for (const { metadata } of objects.networks()) targets.network(metadata);
    // The limits may be others, or there is no maintenance any more.
    for (const migration of objects.openMigrations())
      if (standing(migration) !== 'running') targets.migration(migration.metadata);
  });
  on(stores.networks.changes, ({ key, new: network, old }) => {
    targets.network(parseKey(key));
    const metadata = (network ?? old)?.metadata;
    if (!metadata) return;
    // Its figures change with every machine; only what a machine is made of concerns machines.
    if (
      !same(network, old, ({ metadata: { generation, deletionTimestamp }, status }) => [
        generation,
        deletionTimestamp,
        status?.vlanId,
      ])
    )
      for (const machine of objects.machinesOn(metadata.namespace, metadata.name)) targets.machine(machine.metadata);
    // One that comes or goes is what firewalls of others may name; one that goes may have held what others wait for.
    if (!network || !old)
      for (const other of objects.networks())
        if (
          (other.metadata.namespace === metadata.namespace && namesInFirewall(other, metadata.name)) ||
          (!network && other.status?.vlanId === undefined)
        )
          targets.network(other.metadata);
    // A deleted network may be what kept a site.
    if (!network)
      for (const site of objects.sites())
        if (site.metadata.deletionTimestamp !== undefined) targets.site(site.metadata);
  });
  on(stores.machines.changes, ({ key, new: machine, old }) => {
    targets.machine(parseKey(key));
    const { metadata, spec, status } = machine ?? old ?? {};
    if (!metadata || !spec) return;
    for (const migration of objects.migrationsOf(metadata.namespace, metadata.name))
      targets.migration(migration.metadata);
    // Whether it can be moved away may have changed.
    const home = status?.site === undefined ? undefined : objects.site(status.site);
    if (home && isEmptied(home)) targets.site(home.metadata);
    if (machine && old && old.status?.site === status?.site && old.status?.host === status?.host) return;
    for (const { name } of spec.networks) targets.network({ namespace: metadata.namespace, name });
    for (const name of new Set([old?.status?.site, status?.site])) if (name !== undefined) targets.site({ name });
  });
  on(stores.migrations.changes, (change) => {
    const { key, new: migration, old } = change;
    // A copy's figures are others at each look: looked at for its own status, the daemons would be asked without end.
    if (!sources.isEcho(change)) targets.migration(parseKey(key));
    const { metadata, spec } = migration ?? old ?? {};
    // One whose finalizer was taken off may leave a move behind that the machine's own reconcile ends.
    if (old && old.metadata.uid !== migration?.metadata.uid)
      targets.machine({ namespace: old.metadata.namespace, name: old.spec.vmName });
    // The next in line.
    if (metadata && spec && migration?.status?.phase !== old?.status?.phase)
      for (const other of objects.migrationsOf(metadata.namespace, spec.vmName)) targets.migration(other.metadata);
    const emptying = [migration, old].map((each) => each && evacuates(each)).find((name) => name !== undefined);
    if (emptying !== undefined && migration?.status?.phase !== old?.status?.phase) targets.site({ name: emptying });
    // A place may be free, or there are more or fewer before those that wait for one.
    const isThere = [migration, old].map((each) => each !== undefined && isFilling(each));
    if (standing(migration) !== standing(old) || isThere[0] !== isThere[1])
      for (const other of queued(objects)) targets.migration(other.metadata);
  });
  on(stores.templates.changes, ({ key, new: template, old }) => {
    targets.template(parseKey(key));
    const name = (template ?? old)?.metadata.name;
    if (name !== undefined && !same(template, old, ({ metadata }) => [metadata.generation]))
      for (const { metadata, spec } of objects.machines()) if (spec.template === name) targets.machine(metadata);
  });
}

const namesInFirewall = ({ spec }: FederatedNetwork, name: string): boolean =>
  spec.firewall?.rules?.some(({ from, to }) => (from ?? to)?.some(({ network }) => network === name)) ?? false;

const linksOf = (site: Site | undefined) =>
  site?.status?.links?.map(({ host, peer, state, mtu }) => [host, peer, state, mtu]);

/** Whether both are there and agree in what is looked at. */
function same<T>(a: T | undefined, b: T | undefined, look: (object: T) => readonly unknown[]): boolean {
  if (a === undefined || b === undefined) return a === b;
  const [left, right] = [look(a), look(b)];
  return left.every((value, index) => value === right[index]);
}

function wireHost(host: Host, sources: TriggerSources, targets: TriggerTargets): Subscription {
  const subscription = new Subscription();
  const site = { name: host.site };
  const { directory } = sources;
  for (const link of new Set([host.libvirt, host.qemu, host.lxc])) {
    if (!link) continue;
    subscription.add(
      link.connected.subscribe(() => {
        targets.site(site);
        enqueueAllAt(host, sources, targets);
      }),
    );
    subscription.add(
      link.changes.subscribe(({ domains, networks }) => {
        for (const uuid of domains) enqueueMachine(sources, targets, directory.machineOfDomain(uuid));
        for (const uuid of networks) {
          const fuid = directory.networkOfUuid(uuid);
          enqueueNetwork(sources, targets, fuid);
          // Machines that wait for their network to come up here.
          if (fuid !== undefined)
            for (const [machine, record] of directory.machinesOf(fuid))
              if (hostKey(record) === hostKey(host)) enqueueMachine(sources, targets, machine);
        }
      }),
    );
  }
  subscription.add(host.ovsdb.state.subscribe(() => targets.site(site)));
  subscription.add(
    host.ovsdb.changes.subscribe(({ table, old, new: row }) => {
      // Machines' ports are the data plane's; of the rest only what carries our mark, or hangs on it, matters.
      if (table === 'Interface' && !isOurs(old) && !isOurs(row)) return;
      if (table === 'Port' && !isOurs(old) && !isOurs(row)) return;
      targets.site(site);
    }),
  );
  for (const bridge of [host.int, host.edge])
    subscription.add(
      bridge.state.subscribe(() => {
        targets.site(site);
        for (const [fuid, { value }] of directory.networks())
          if (value.sites.includes(host.site)) enqueueNetwork(sources, targets, fuid);
      }),
    );
  return subscription;
}

const isOurs = (row: Parameters<typeof entries>[0]): boolean => entries(row, 'external_ids').has(ovsdbMark);

/** A daemon that comes or goes concerns all that should be there, also what it no longer names. */
function enqueueAllAt(host: HostRef, sources: TriggerSources, targets: TriggerTargets): void {
  const { directory } = sources;
  for (const [fuid, { value }] of directory.networks())
    if (value.sites.includes(host.site)) enqueueNetwork(sources, targets, fuid);
  for (const [fuid, { value }] of directory.machines())
    if ([value, value.target, ...(value.leftAt ?? [])].some((ref) => ref && hostKey(ref) === hostKey(host)))
      enqueueMachine(sources, targets, fuid);
}

function enqueueNetwork({ directory }: TriggerSources, targets: TriggerTargets, fuid: string | undefined): void {
  const record = fuid === undefined ? undefined : directory.network(fuid)?.value;
  if (record) targets.network(record);
}

function enqueueMachine(
  { directory, objects }: TriggerSources,
  targets: TriggerTargets,
  fuid: string | undefined,
): void {
  const record = fuid === undefined ? undefined : directory.machine(fuid)?.value;
  if (!record) return;
  targets.machine(record);
  for (const { metadata } of objects.migrationsOf(record.namespace, record.name)) targets.migration(metadata);
}
