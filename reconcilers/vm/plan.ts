import {
  contains,
  parseAddress,
  parseCidr,
  parseRange,
  type CloudInit,
  type FederatedNetwork,
  type FederatedVM,
  type MachineType,
  type StorageKind,
  type VMTemplate,
} from '../../crds/index.js';
import { Stalled, Waiting } from '../common/errors.js';
import { usable, type Space } from '../common/ip.js';
import type { Driver, NetworkRecord, Role } from '../common/records.js';
import { machineSize, type MachineSize } from './size.js';

/** What a machine's spec comes to, with its template and its networks. */
export interface MachinePlan {
  /** What its template lets it do beyond others. */
  readonly role: Role | undefined;
  /** Of libvirt, that runs it. */
  readonly driver: Driver;
  readonly size: MachineSize;
  readonly image: string;
  readonly storage: StorageKind;
  readonly cloudInit: CloudInit;
  readonly networks: readonly PlannedInterface[];
  /** Sites that all of the machine's networks span. */
  readonly sites: readonly string[];
}

export interface PlannedInterface {
  readonly name: string;
  /** fuid of the network. */
  readonly fuid: string;
  readonly record: NetworkRecord;
  /** The pinned address. */
  readonly address: string | undefined;
  /** Addresses and blocks that it may speak for beside its own. */
  readonly allowed: readonly string[] | undefined;
  /** The addresses that may be given away. */
  readonly space: Space;
  readonly prefixLength: number;
  readonly gateway: string | undefined;
}

/** What a machine's spec refers to, as found. */
export interface References {
  /** It has a place already: what is only asked of newcomers does not concern it. */
  readonly placed: boolean;
  readonly template: VMTemplate | undefined;
  /** By name; one that is missing is not there. The record is missing until VLAN and VNI are allocated. */
  readonly networks: ReadonlyMap<string, { object: FederatedNetwork; fuid: string; record: NetworkRecord | undefined }>;
}

const drivers: Readonly<Record<MachineType, Driver>> = { VirtualMachine: 'qemu', Container: 'lxc' };

/** Pure. Throws Stalled or Waiting, naming the field and the remedy. */
export function planMachine(machine: FederatedVM, references: References): MachinePlan {
  const { spec } = machine;
  const { template } = references;
  if (spec.template !== undefined && !template)
    throw new Waiting(
      'UnknownTemplate',
      `spec.template: there is no VMTemplate ${spec.template}; create it or leave the field out`,
      30_000,
    );
  const image = spec.image ?? template?.spec.image;
  if (image?.name === undefined)
    throw new Stalled(
      'ImageNotSupported',
      'spec.image: url is not supported by this version; put the image into the imagePool of the sites and give its name',
    );
  const storage = spec.storage ?? template?.spec.storage ?? 'Local';
  if (spec.type === 'Container') refuseForContainer(machine, references);
  const networks = spec.networks.map((_, index) => planInterface(machine, index, references));
  return {
    role: template?.spec.role,
    driver: drivers[spec.type],
    size: machineSize(spec, template?.spec),
    image: image.name,
    storage,
    cloudInit: { ...template?.spec.cloudInit, ...spec.cloudInit },
    networks,
    sites: networks
      .map(({ record }) => record.sites)
      .reduce((shared, sites) => shared.filter((site) => sites.includes(site))),
  };
}

/** What LXC can't do. A container that has its place keeps it, whatever becomes of its template. */
function refuseForContainer({ spec }: FederatedVM, { placed, template: found }: References): void {
  const template = placed ? undefined : found?.spec;
  const named = `spec.template: VMTemplate ${spec.template ?? ''}`;
  if ((spec.storage ?? template?.storage ?? 'Local') !== 'Local')
    throw new Stalled(
      'StorageNotSupported',
      `${spec.storage === undefined ? `${named} says storage: ${template?.storage ?? ''}` : `spec.storage: ${spec.storage}`}, and a container’s root file system is at its host: LXC reads none of a share; make the machine anew with storage: Local`,
    );
  if (spec.cloudInit !== undefined || template?.cloudInit !== undefined)
    throw new Stalled(
      'CloudInitNotSupported',
      `${spec.cloudInit === undefined ? `${named} has cloudInit, which` : 'spec.cloudInit:'} a container is not given: libvirt sets its addresses, all else is its image’s; leave it out`,
    );
}

function planInterface(machine: FederatedVM, index: number, references: References): PlannedInterface {
  const { name = '', address, allowedAddressPairs } = machine.spec.networks[index] ?? {};
  const field = `spec.networks[${String(index)}]`;
  const found = references.networks.get(name);
  if (!found || (found.object.metadata.deletionTimestamp !== undefined && !references.placed))
    throw new Waiting(
      'UnknownNetwork',
      `${field}.name: ${found ? `FederatedNetwork ${name} is being deleted` : `there is no FederatedNetwork ${name} in namespace ${machine.metadata.namespace}`}; create it or name another`,
      30_000,
    );
  const { object: network, fuid, record } = found;
  const cidr = parseCidr(network.spec.cidr);
  if (!record || !cidr)
    throw new Waiting('NetworkNotReady', `${field}: FederatedNetwork ${name} has no VLAN and VNI yet`, 5_000);
  const reserved = (network.spec.reservedRanges ?? []).flatMap((range) => parseRange(range) ?? []);
  const gateway = network.spec.gateway === undefined ? undefined : parseAddress(network.spec.gateway);
  const isRouter = references.template?.spec.role === 'Router';
  if (address !== undefined) refuseAddress(`${field}.address`, address, network.spec, isRouter);
  return {
    name,
    fuid,
    record,
    address,
    allowed: allowedAddressPairs?.map((pair) => pair.address),
    space: {
      ...usable(cidr),
      exclude: gateway === undefined ? reserved : [...reserved, { first: gateway, last: gateway }],
    },
    prefixLength: cidr.prefix,
    gateway: network.spec.gateway,
  };
}

/** A pinned address may lie in a reserved range (that is what reserving is for), but not outside the network. */
function refuseAddress(
  field: string,
  address: string,
  { cidr: cidrText, gateway }: FederatedNetwork['spec'],
  isRouter: boolean,
): void {
  const [cidr, value] = [parseCidr(cidrText), parseAddress(address)];
  if (!cidr || value === undefined || !contains(cidr, value))
    throw new Stalled(
      'AddressOutsideNetwork',
      `${field}: ${address} is not in ${cidrText}; choose an address inside, or leave the field out`,
    );
  if (value === cidr.first || value === cidr.last)
    throw new Stalled(
      'AddressNotUsable',
      `${field}: ${address} is the network or broadcast address of ${cidrText}; choose another`,
    );
  if (address === gateway && !isRouter)
    throw new Stalled(
      'AddressNotUsable',
      `${field}: ${address} is the gateway of the network, which only a machine of a template with role Router may be; choose another`,
    );
}
