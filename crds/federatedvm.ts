import { z } from 'zod';
import { address, addressOrBlock, commonStatus, label } from './common.js';
import { defineKind } from './kind.js';
import { cloudInit, flavor, flavorRule, image, machineType, resources, storageKind } from './machine.js';
import { immutable, listMap, rule, withRules, type TransitionRule } from './rule.js';

const network = z.object({
  name: label.describe("A FederatedNetwork of the machine's namespace."),
  address: address.optional().describe('IPv4 address in it. Left out: allocated. Can’t be changed later.'),
  allowedAddressPairs: z
    .array(
      z.object({
        address: addressOrBlock.describe(
          'IPv4 address or block that the machine may speak for, with its own MAC, beside its own address: 172.16.0.100 or 10.9.0.0/16.',
        ),
      }),
    )
    .min(1)
    .max(16)
    .optional()
    .describe(
      'What port security lets pass beyond its own address, such as a virtual address that machines share. Never another machine’s address: it could then speak as that machine.',
    ),
});

const spec = withRules(
  z.object({
    type: machineType.describe('VirtualMachine (QEMU) or Container (LXC). Can’t be changed later.'),
    template: label.optional().describe('A VMTemplate that gives what is left out here.'),
    flavor: flavor
      .optional()
      .describe(
        'Size of the machine: tiny 1 CPU/512Mi/2Gi disk, small 1/2Gi/20Gi (when left out), medium 2/4Gi/40Gi, large 4/8Gi/80Gi.',
      ),
    resources: resources.optional(),
    image: image.optional(),
    storage: storageKind.optional(),
    placement: z
      .object({
        site: label.describe('Name of the Site.'),
        host: label.optional().describe('Name of the host there. Left out: chosen by free capacity.'),
      })
      .optional()
      .describe('Where it starts. Left out: chosen by free capacity. Changing it later asks for a live migration.'),
    runStrategy: z
      .enum(['Running', 'Stopped', 'Paused'])
      .optional()
      .describe('What the machine should be doing; Running when left out.'),
    networks: listMap(network, 'name', 8).min(1).describe('Its network interfaces, in order.'),
    cloudInit: cloudInit.optional().describe('How the guest sets itself up at its first start. Not for containers.'),
    parameters: withRules(
      z.record(z.string(), z.string().max(4096)),
      rule({
        cel: 'self.size() <= 32',
        check: (self) => Object.keys(self).length <= 32,
        message: 'parameters takes at most 32 entries',
      }),
    )
      .optional()
      .describe('Values of the parameters that the template declares.'),
    floatingIP: z
      .object({ site: label.describe('Site whose externalNetwork gives the address.') })
      .optional()
      .describe('An address outside that leads to the machine. Left out: none.'),
  }),
  flavorRule,
  rule({
    cel: 'has(self.image) || has(self.template)',
    check: (self) => self.image !== undefined || self.template !== undefined,
    message: 'image is needed, or a template that has one',
    path: ['image'],
  }),
  rule({
    cel: '!has(self.cloudInit) || !has(self.cloudInit.passwordSecretRef) || has(self.cloudInit.user) || has(self.template)',
    check: ({ cloudInit: { passwordSecretRef, user } = {}, template }) =>
      passwordSecretRef === undefined || user !== undefined || template !== undefined,
    message: 'cloudInit.passwordSecretRef needs cloudInit.user, whose password it is',
    path: ['cloudInit', 'passwordSecretRef'],
  }),
);
export type FederatedVMSpec = z.infer<typeof spec>;

const phases = [
  'Pending',
  'Scheduling',
  'Provisioning',
  'Starting',
  'Running',
  'Stopped',
  'Paused',
  'Migrating',
  'Stopping',
  'Deleting',
  'Failed',
  'Unknown',
] as const;
const phase = z.enum(phases);
export type VMPhase = z.infer<typeof phase>;

const networkInterface = z.object({
  network: z.string().describe('FederatedNetwork that it is plugged into.'),
  mac: z.string().optional().describe('Its MAC.'),
  address: z.string().optional().describe('Its IPv4 address.'),
});
export type VMInterface = z.infer<typeof networkInterface>;

const status = z.object({
  ...commonStatus,
  phase: phase.optional().describe('What the machine is doing; Unknown while its site does not answer.'),
  site: z.string().optional().describe('Site that owns it.'),
  host: z.string().optional().describe('Host that it is at.'),
  flavor: z.string().optional().describe("Its size: the flavor's name, or CPUs/memory such as 2/4Gi."),
  uuid: z.string().optional().describe('UUID of its libvirt domain, the same at all sites.'),
  interfaces: listMap(networkInterface, 'network').optional().describe('Its network interfaces, in order.'),
  floatingIP: z.string().optional().describe('Address outside that leads to it.'),
});
export type FederatedVMStatus = z.infer<typeof status>;

const keptAddresses: TransitionRule<FederatedVMSpec> = {
  cel: 'self.networks.all(n, oldSelf.networks.filter(o, o.name == n.name).all(o, has(n.address) == has(o.address) && (!has(n.address) || n.address == o.address)))',
  check: (self, oldSelf) =>
    self.networks.every(({ name, address }) =>
      oldSelf.networks.every((old) => old.name !== name || old.address === address),
    ),
  message:
    "networks[].address can't be changed, added or removed later: detach the network first, or make a new machine",
  path: ['networks'],
};

export const federatedVM = defineKind({
  kind: 'FederatedVM',
  plural: 'federatedvms',
  shortNames: ['fvm'],
  namespaced: true,
  description: 'A machine, virtual or container, that runs at one site and can move to another.',
  spec,
  status,
  labelName: true,
  transitions: [
    immutable('type', 'make a new machine'),
    immutable('image', 'make a new machine'),
    immutable('storage', 'make a new machine, or a VMMigration with storage: Copy'),
    keptAddresses,
  ],
  columns: [
    { name: 'Site', type: 'string', jsonPath: '.status.site', description: 'Site that owns it.' },
    { name: 'Host', type: 'string', jsonPath: '.status.host', description: 'Host that it is at.' },
    { name: 'Flavor', type: 'string', jsonPath: '.status.flavor', description: 'Its size.' },
    {
      name: 'IP',
      type: 'string',
      jsonPath: '.status.interfaces[0].address',
      description: 'Address of its first interface.',
    },
    {
      name: 'Floating-IP',
      type: 'string',
      jsonPath: '.status.floatingIP',
      description: 'Address outside that leads to it.',
    },
    { name: 'Status', type: 'string', jsonPath: '.status.phase', description: 'What it is doing.' },
    'Ready',
    'Age',
    'WideReason',
    'Message',
  ],
});
export type FederatedVM = z.infer<typeof federatedVM.schema>;
