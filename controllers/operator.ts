import { hostname } from 'node:os';
import { kinds, type Site, type VMMigration } from '../crds/index.js';
import { connectConsul } from '../drivers/consul/index.js';
import { Allocator } from '../reconcilers/common/allocation.js';
import { Directory } from '../reconcilers/common/directory.js';
import { messageOf } from '../reconcilers/common/errors.js';
import { Dataplane } from '../reconcilers/dataplane/dataplane.js';
import { Places, queued } from '../reconcilers/migration/queue.js';
import { reconcileMigration } from '../reconcilers/migration/reconciler.js';
import { endOrphaned } from '../reconcilers/migration/orphaned.js';
import type { MigrationDependencies } from '../reconcilers/migration/step.js';
import type { Move } from '../reconcilers/migration/move.js';
import type { Copying } from '../reconcilers/migration/copying.js';
import type { Course } from '../reconcilers/migration/policy.js';
import type { Filling } from '../reconcilers/migration/fill.js';
import type { Still } from '../reconcilers/migration/still.js';
import { reconcileNetwork } from '../reconcilers/network/reconciler.js';
import { reconcileSite } from '../reconcilers/site/reconciler.js';
import { Roster } from '../reconcilers/site/roster.js';
import { promisedMtu } from '../reconcilers/underlay/mtu.js';
import { Prober } from '../reconcilers/underlay/prober.js';
import { reconcileMachine } from '../reconcilers/vm/reconciler.js';
import { HostPool } from './hosts/pool.js';
import { connectKube } from './kube/client.js';
import { KindController } from './kind.js';
import { machineIndexes, migrationIndexes, objectsOf } from './objects.js';
import { dropMove, requestMove } from './moves.js';
import type { Options } from './options.js';
import { EventRecorder } from './runtime/events.js';
import type { Log } from './runtime/log.js';
import { Manager, type Cache, type Outcome, type Task } from './runtime/manager.js';
import { Metrics } from './runtime/metrics.js';
import { Reflector } from './runtime/reflector.js';
import { backoffMs, sleep } from './runtime/time.js';
import { wire } from './triggers.js';

const leaseName = 'isthmus';
/** A host that has neither connected nor failed by then is treated as away. */
const hostPatienceMs = 5_000;
const warmRetry = { baseMs: 500, maxMs: 5_000 } as const;

/** Puts the parts together and runs them until told to stop. */
export async function runOperator(options: Options, log: Log): Promise<Outcome> {
  const api = connectKube({ kubeconfigPath: options.kubeconfig });
  const store = connectConsul(options.consul, options.consulToken === undefined ? {} : { token: options.consulToken });
  const metrics = new Metrics();
  const recorder = new EventRecorder({ api, log });
  const reflectors = {
    sites: new Reflector(api, kinds.Site, (object) => kinds.Site.parse(object), { log }),
    networks: new Reflector(api, kinds.FederatedNetwork, (object) => kinds.FederatedNetwork.parse(object), { log }),
    machines: new Reflector(api, kinds.FederatedVM, (object) => kinds.FederatedVM.parse(object), {
      log,
      indexes: machineIndexes,
    }),
    templates: new Reflector(api, kinds.VMTemplate, (object) => kinds.VMTemplate.parse(object), { log }),
    migrations: new Reflector(api, kinds.VMMigration, (object) => kinds.VMMigration.parse(object), {
      log,
      indexes: migrationIndexes,
    }),
  };
  const stores = {
    sites: reflectors.sites.store,
    networks: reflectors.networks.store,
    machines: reflectors.machines.store,
    templates: reflectors.templates.store,
    migrations: reflectors.migrations.store,
  };
  const objects = objectsOf(stores);
  const readSecret = (namespace: string, name: string) => api.secret(namespace, name);
  // A process that slept past its lease goes on where it stood: what it was about to change may be its successor's by now.
  const hosts = new HostPool(readSecret, options.namespace, () => manager.assertLeading());
  const directory = new Directory(store, (key, error) =>
    log.error('damaged record', { key, problem: messageOf(error) }),
  );
  const roster = new Roster(store, objects);
  const allocator = new Allocator(store);
  const dataplane = new Dataplane(hosts, directory, (message, fields) => log.warn(message, fields));
  const underlay = new Prober(
    hosts,
    (from, to) => {
      const [near, far] = [objects.site(from), objects.site(to)];
      return near && far && promisedMtu(near.spec, far.spec);
    },
    { intervalMs: options.probeMs },
  );
  const moves = new Map<string, Move>();
  const copies = new Map<string, Copying>();
  const courses = new Map<string, Course>();
  const stills = new Map<string, Still>();
  const fills = new Map<string, Filling>();
  const carried = new Set<string>();
  const clearing = new Map<string, Promise<void>>();
  const placing = oneAtATime();
  const places = new Places(objects, directory, options.maxMigrations, () => {
    for (const { metadata } of queued(objects)) migrations.enqueue(metadata);
  });

  const shared = { api, recorder, log, metrics, concurrency: options.concurrency, holdsEffects: true };
  const say = (message: string, fields: Record<string, unknown>) => log.info(message, fields);
  const sites = new KindController({
    ...shared,
    resource: kinds.Site,
    store: stores.sites,
    reconcile: async (site) => {
      const members = await roster.take(site);
      await hosts.update(site.metadata.name, site, [...members.staying, ...members.leaving]);
      return await reconcileSite(site, members, {
        ...{ hosts, dataplane, objects, directory, roster, underlay, log: say },
        requestMove: async (move) => await requestMove(api, move),
        dropMove: async (migration) => await dropMove(api, migration),
        clock: () => new Date(),
      });
    },
  });
  const networks = new KindController({
    ...shared,
    resource: kinds.FederatedNetwork,
    store: stores.networks,
    reconcile: async (network) =>
      await reconcileNetwork(network, { objects, hosts, directory, dataplane, allocator, store }),
  });
  const moving: MigrationDependencies = {
    objects,
    hosts,
    directory,
    dataplane,
    store,
    moves,
    copies,
    courses,
    stills,
    fills,
    places,
    carried,
    clearing,
    enqueue: (each: VMMigration) => migrations.enqueue(each.metadata),
    log: (message, fields) => log.warn(message, fields),
    clock: () => new Date(),
    now: () => performance.now(),
  };
  const machines = new KindController({
    ...shared,
    resource: kinds.FederatedVM,
    store: stores.machines,
    reconcile: async (machine) =>
      await reconcileMachine(machine, {
        objects,
        hosts,
        directory,
        dataplane,
        allocator,
        store,
        readSecret,
        readSite: async (name) => {
          const object = await api.get(kinds.Site, { name });
          return object && kinds.Site.parse(object);
        },
        requestMove: async (move) => await requestMove(api, move),
        endOrphaned: async (...of) => await endOrphaned(...of, moving),
        placing,
        now: () => performance.now(),
      }),
  });
  const migrations = new KindController({
    ...shared,
    resource: kinds.VMMigration,
    store: stores.migrations,
    reconcile: async (migration) => await reconcileMigration(migration, moving),
  });
  const templates = new KindController({
    ...shared,
    holdsEffects: false,
    resource: kinds.VMTemplate,
    store: stores.templates,
    // Nothing is made of a template until a machine names it.
    reconcile: async () =>
      await Promise.resolve({ status: {}, ready: { value: true, reason: 'Accepted', message: '' } }),
  });
  const all = [sites, networks, machines, migrations, templates];

  const wiring = wire(
    { stores, objects, hosts, directory, dataplane, underlay, isEcho: (change) => migrations.isEcho(change) },
    {
      site: (key) => sites.enqueue(key),
      network: (key) => networks.enqueue(key),
      machine: (key) => machines.enqueue(key),
      migration: (key) => migrations.enqueue(key),
      template: (key) => templates.enqueue(key),
    },
  );
  const followRoster = roster.changes.subscribe(() => sites.enqueueAll());
  const followSites = stores.sites.changes.subscribe(({ key, new: site }) => {
    if (site) return;
    hosts
      .update(key, undefined)
      .catch((error: unknown) => log.warn('site not disconnected', { site: key, problem: messageOf(error) }));
  });

  const resync: Task = {
    name: 'resync',
    run: async (signal) => {
      dataplane.start();
      underlay.start();
      while (!signal.aborted) {
        await sleep(options.resyncMs, signal);
        await dataplane.audit();
        for (const each of all) each.enqueueAll();
      }
    },
  };
  const manager: Manager = new Manager({
    log,
    metrics,
    healthAddress: options.healthAddress,
    reflectors: [
      ...Object.values(reflectors),
      warm('consul', async () => {
        await Promise.all([directory.ready(), allocator.ready()]);
      }),
      warm('hosts', async () => await hostsSettled(reflectors.sites, roster, hosts)),
    ],
    controllers: all.map(({ controller }) => controller),
    tasks: [resync],
    lease: options.leaderElect
      ? { api, log, namespace: options.namespace, name: leaseName, identity: `${hostname()}-${String(process.pid)}` }
      : undefined,
  });
  try {
    return await manager.run();
  } finally {
    wiring.unsubscribe();
    followSites.unsubscribe();
    followRoster.unsubscribe();
    for (const each of [...moves.values(), ...copies.values()]) each.close();
    underlay.close();
    dataplane.close();
    directory.close();
    roster.close();
    allocator.close();
    await recorder.close();
    await hosts.close();
    await store.close();
    api.close();
  }
}

/** Runs what it is given one after the other. */
function oneAtATime(): <T>(act: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return async <T>(act: () => Promise<T>): Promise<T> => {
    const turn = last.then(act);
    last = turn.catch(() => undefined);
    return await turn;
  };
}

/** Something that must have been read once before controllers start, or they would act on half of the truth. */
function warm(plural: string, ready: () => Promise<void>): Cache {
  let synced = false;
  const stop = new AbortController();
  let reading: Promise<void> | undefined;
  const read = async (): Promise<void> => {
    // An outage at the start is waited for, however long it takes.
    for (let failures = 0; !synced && !stop.signal.aborted; failures++) {
      try {
        await ready();
        synced = true;
      } catch {
        await sleep(backoffMs(failures, warmRetry.baseMs, warmRetry.maxMs), stop.signal);
      }
    }
  };
  return {
    resource: { plural },
    get synced() {
      return synced;
    },
    start: () => {
      reading ??= read();
    },
    stop: async () => {
      stop.abort();
      await reading;
    },
    whenSynced: async () => await (reading ??= read()),
  };
}

/** Every host that was in use has connected, or failed to, once; those that join do so when the controllers work. */
async function hostsSettled(sites: Reflector<Site>, roster: Roster, hosts: HostPool): Promise<void> {
  await Promise.all([sites.whenSynced(), roster.ready()]);
  const open = async (site: Site): Promise<void> => {
    const inUse = roster.recorded(site);
    if (inUse) await hosts.update(site.metadata.name, site, inUse);
  };
  await Promise.all(sites.store.list().map((site) => open(site).catch(() => undefined)));
  // A host that is new to us has no bridges yet, so nobody waits long for their listeners.
  await hosts.settled({ hostMs: hostPatienceMs, bridgeMs: 500 });
}
