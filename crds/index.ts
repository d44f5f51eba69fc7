import { federatedNetwork } from './federatednetwork.js';
import { federatedVM } from './federatedvm.js';
import { site } from './site.js';
import { vmMigration } from './vmmigration.js';
import { vmTemplate } from './vmtemplate.js';

/** The kinds of isthmus.dev/v1alpha1, by their names. */
export const kinds = {
  Site: site,
  FederatedNetwork: federatedNetwork,
  FederatedVM: federatedVM,
  VMTemplate: vmTemplate,
  VMMigration: vmMigration,
} as const;
export type Kind = keyof typeof kinds;

export { flavors, flow as flowSchema, group, version } from './common.js';
export type {
  Condition,
  Firewall,
  FirewallRule,
  Flavor,
  Flow,
  FlowAction,
  FlowMatch,
  NamespacedMeta,
  ObjectMeta,
} from './common.js';
export type {
  FederatedNetwork,
  FederatedNetworkSite,
  FederatedNetworkSpec,
  FederatedNetworkStatus,
} from './federatednetwork.js';
export type { FederatedVM, FederatedVMSpec, FederatedVMStatus, VMInterface, VMPhase } from './federatedvm.js';
export * from './ipv4.js';
export { InvalidObjectError } from './kind.js';
export type { CloudInit, Image, MachineType, Resources, StorageKind } from './machine.js';
export { QuantityError, quantity } from './quantity.js';
export { host as hostSchema } from './site.js';
export type { Site, SiteHost, SiteHostStatus, SiteLink, SiteSpec, SiteStatus } from './site.js';
export { migrationPhases } from './vmmigration.js';
export type {
  MigrationPhase,
  MigrationPolicy,
  VMMigration,
  VMMigrationSpec,
  VMMigrationStatus,
} from './vmmigration.js';
export type { TemplateFile, TemplateParameter, VMTemplate, VMTemplateSpec, VMTemplateStatus } from './vmtemplate.js';
