import type { FederatedNetwork, FederatedVM, Site, VMMigration, VMTemplate } from '../crds/index.js';

/** The API objects as last seen. Reconcilers look here for what their own object refers to. */
export interface Objects {
  site(name: string): Site | undefined;
  sites(): Iterable<Site>;
  network(namespace: string, name: string): FederatedNetwork | undefined;
  networks(): Iterable<FederatedNetwork>;
  machine(namespace: string, name: string): FederatedVM | undefined;
  machines(): Iterable<FederatedVM>;
  /** The machines of a namespace that have an interface on a network of it. */
  machinesOn(namespace: string, network: string): readonly FederatedVM[];
  template(name: string): VMTemplate | undefined;
  /** The migrations of a machine. */
  migrationsOf(namespace: string, machine: string): readonly VMMigration[];
  /** The migrations that are not over. */
  openMigrations(): readonly VMMigration[];
}

/** Reads Secrets of a tenant's namespace, or of the operator's own. */
export type ReadSecret = (namespace: string, name: string) => Promise<Readonly<Record<string, Buffer>> | undefined>;
