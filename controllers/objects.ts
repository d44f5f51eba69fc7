import type { FederatedNetwork, FederatedVM, Site, VMMigration, VMTemplate } from '../crds/index.js';
import type { Objects } from '../reconcilers/objects.js';
import { isFinal } from '../reconcilers/migration/step.js';
import { keyString } from './kube/api.js';
import type { Indexes, Store } from './runtime/store.js';

export interface Stores {
  readonly sites: Store<Site>;
  readonly networks: Store<FederatedNetwork>;
  readonly machines: Store<FederatedVM>;
  readonly templates: Store<VMTemplate>;
  readonly migrations: Store<VMMigration>;
}

const under = (namespace: string, name: string): string => keyString({ namespace, name });

/** Machines by the networks that they name. */
export const machineIndexes: Indexes<FederatedVM> = {
  network: ({ metadata, spec }) => spec.networks.map(({ name }) => under(metadata.namespace, name)),
};

export const migrationIndexes: Indexes<VMMigration> = {
  machine: ({ metadata, spec }) => [under(metadata.namespace, spec.vmName)],
  state: ({ status }) => (isFinal(status?.phase) ? [] : ['open']),
};

export function objectsOf(stores: Stores): Objects {
  return {
    site: (name) => stores.sites.get(name),
    sites: () => stores.sites.list(),
    network: (namespace, name) => stores.networks.get(under(namespace, name)),
    networks: () => stores.networks.list(),
    machine: (namespace, name) => stores.machines.get(under(namespace, name)),
    machines: () => stores.machines.list(),
    machinesOn: (namespace, network) => stores.machines.listByIndex('network', under(namespace, network)),
    template: (name) => stores.templates.get(name),
    migrationsOf: (namespace, machine) => stores.migrations.listByIndex('machine', under(namespace, machine)),
    openMigrations: () => stores.migrations.listByIndex('state', 'open'),
  };
}
