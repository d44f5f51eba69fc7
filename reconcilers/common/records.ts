import { z } from 'zod';
import { flowSchema, hostSchema } from '../../crds/index.js';
import type { Entry } from '../../drivers/consul/types.js';
import { Stalled } from './errors.js';

/** What the operators share in Consul: keys, and values as JSON. Everything read back is parsed: others write there too. */
export const keys = {
  object: (fuid: string) => `isthmus/object/${fuid}`,
  vlan: (id: number) => `isthmus/vlan/${String(id)}`,
  vni: (id: number) => `isthmus/vni/${String(id)}`,
  ip: (networkFuid: string, address: string) => `isthmus/ip/${networkFuid}/${address}`,
  mac: (mac: string) => `isthmus/mac/${mac}`,
  network: (fuid: string) => `isthmus/network/${fuid}`,
  policy: (networkFuid: string) => `isthmus/policy/${networkFuid}`,
  owner: (fuid: string) => `isthmus/owner/${fuid}`,
  vm: (fuid: string) => `isthmus/vm/${fuid}`,
  site: (name: string) => `isthmus/site/${name}`,
} as const;

export const prefixes = {
  all: 'isthmus/',
  object: 'isthmus/object/',
  vlan: 'isthmus/vlan/',
  vni: 'isthmus/vni/',
  ip: 'isthmus/ip/',
  mac: 'isthmus/mac/',
  network: 'isthmus/network/',
  policy: 'isthmus/policy/',
  owner: 'isthmus/owner/',
  vm: 'isthmus/vm/',
  site: 'isthmus/site/',
} as const;

const hostRef = z.object({ site: z.string(), host: z.string() });
export type HostRef = z.infer<typeof hostRef>;

export const objectRecord = z.object({ kind: z.string(), namespace: z.string(), name: z.string() });

/** Fixed at creation, but for sites. The MTU is guest ABI: a machine refuses to move to another. */
export const networkRecord = z.object({
  namespace: z.string(),
  name: z.string(),
  cidr: z.string(),
  vlan: z.number().int(),
  vni: z.number().int(),
  mtu: z.number().int(),
  sites: z.array(z.string()).describe('sites that carry it'),
  leaving: z
    .array(z.string())
    .default([])
    .describe('sites that still have to be cleared; VLAN and VNI stay held until they are'),
});
export type NetworkRecord = z.infer<typeof networkRecord>;

const firewallPolicy = z.object({
  defaultAction: z.enum(['Allow', 'Deny']),
  rules: z.array(
    z.object({
      direction: z.enum(['Ingress', 'Egress']),
      action: z.enum(['Allow', 'Deny']),
      protocol: z.enum(['TCP', 'UDP', 'ICMP']).optional(),
      ports: z.array(z.string()).optional(),
      peers: z.array(z.string()).optional().describe('blocks; networks that a rule names are resolved to theirs'),
    }),
  ),
});
export type FirewallPolicy = z.infer<typeof firewallPolicy>;

/** What a network's frames meet on their way, as last accepted: a spec with a fault leaves it as it is. */
export const policyRecord = z.object({
  firewall: firewallPolicy.optional(),
  flows: z.array(flowSchema),
});
export type Policy = z.infer<typeof policyRecord>;

const storageKind = z.enum(['Local', 'Cached', 'Shared']);

const baseImage = z.object({
  name: z.string().describe('volume of the share'),
  format: z.enum(['qcow2', 'raw']),
});
export type BaseImage = z.infer<typeof baseImage>;

/** libvirt's driver that runs a machine: QEMU for virtual machines, LXC for containers. */
const driver = z.enum(['qemu', 'lxc']);
export type Driver = z.infer<typeof driver>;

const role = z.enum(['Router', 'DHCP', 'DNS', 'LoadBalancer']);
export type Role = z.infer<typeof role>;

/** One machine's interface, as every site needs it to forward to it. */
export const interfaceRecord = z.object({
  network: z.string().describe('fuid of the network'),
  name: z.string().describe('name of the network'),
  id: z.string().describe('iface-id of the OVS port'),
  mac: z.string(),
  address: z.string(),
  role: role.optional().describe('what it may say beyond others'),
  allowed: z.array(z.string()).optional().describe('addresses and blocks that it may speak for beside its own'),
});
export type InterfaceRecord = z.infer<typeof interfaceRecord>;

/** All that an owner holds: its release deletes exactly these keys. */
export const ownerRecord = z.object({ keys: z.array(z.string()) });

/**
 * Who may run a machine. While phase is Moving nobody starts or defines from this record; attempt names the migration,
 * site and host stay the source until the target owns it.
 */
export const vmRecord = z.object({
  namespace: z.string(),
  name: z.string(),
  site: z.string(),
  host: z.string(),
  generation: z.number().int().describe('counts the changes of owner'),
  phase: z.enum(['Owned', 'Moving', 'Deleting']),
  /** True from the moment its disk exists: a missing disk is then data loss to report, never one to make anew. */
  disk: z.boolean(),
  driver: driver.optional().describe('left out: qemu'),
  storage: storageKind.optional().describe('what its disk is now; a move may have made it Local'),
  base: baseImage.optional().describe('what a Cached disk stands on'),
  attempt: z.string().optional(),
  mode: z.enum(['Live', 'Offline']).optional().describe('how it is being moved; left out: Live'),
  target: hostRef.extend({ storage: storageKind.optional().describe('what a disk that is copied becomes') }).optional(),
  copy: z
    .object({
      id: z.string().describe('whose try this is: a process that was overtaken can’t call its copy complete'),
      stamp: z.string().optional().describe('set once the copy is complete: when the disk was last written to'),
    })
    .optional()
    .describe('what an offline move makes of the disk at the target; without a stamp it is worth nothing'),
  last: z
    .object({
      attempt: z.string(),
      moved: z.boolean(),
      reason: z.string(),
      message: z.string(),
      left: hostRef.extend({ storage: storageKind }).optional().describe('where a disk that was copied was before'),
      source: hostRef
        .optional()
        .describe('where the domain is still defined after an offline move: nobody starts the machine until it is not'),
    })
    .optional()
    .describe('how the latest move ended: written with the change of owner, so that it is concluded once'),
  leftAt: z
    .array(hostRef)
    .optional()
    .describe('hosts that were fenced when the machine was there: its domain is removed when they are back'),
  placedFor: z.string().optional().describe('the placement last served, as site/host'),
  interfaces: z.array(interfaceRecord),
});
export type VmRecord = z.infer<typeof vmRecord>;

/** Which of a host's drivers has the machine's domain: as its type says, which never changes. */
export const driverOf = ({ driver = 'qemu' }: Pick<VmRecord, 'driver'>): Driver => driver;

/** The hosts that a site has taken into use: one that its spec no longer names stays here until nothing is left on it. */
export const siteRecord = z.object({ hosts: z.array(hostSchema) });
export type SiteRecord = z.infer<typeof siteRecord>;

/** A record with the index that a CAS compares. */
export interface Versioned<T> {
  readonly value: T;
  readonly index: number;
}

/** Parses an entry; a value that is not of the shape is somebody's damage, to be named rather than guessed around. */
export function parseRecord<T>(schema: z.ZodType<T>, entry: Entry): Versioned<T> {
  let json: unknown;
  try {
    json = JSON.parse(entry.value);
  } catch {
    json = undefined;
  }
  const parsed = schema.safeParse(json);
  if (!parsed.success)
    throw new Stalled(
      'RecordDamaged',
      `Consul key ${entry.key} does not hold what it should; restore it from a backup of Consul`,
    );
  return { value: parsed.data, index: entry.index };
}

export const serialise = (record: object): string => JSON.stringify(record);
