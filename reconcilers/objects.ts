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

/** A VMMigration to be made for a machine. One of that name is taken to be this one. */
export interface MoveRequest {
  readonly machine: FederatedVM;
  readonly name: string;
  readonly target: VMMigration['spec']['target'];
  readonly labels?: Readonly<Record<string, string>>;
}

export type RequestMove = (request: MoveRequest) => Promise<void>;

/** Reads Secrets of a tenant's namespace, or of the operator's own. */
export type ReadSecret = (namespace: string, name: string) => Promise<Readonly<Record<string, Buffer>> | undefined>;
