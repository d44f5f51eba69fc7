import { z } from 'zod';
import {
  address,
  addressRange,
  commonStatus,
  firewall,
  flow,
  gatewayRule,
  networkCidr,
  mtu,
  rangesRule,
  siteNames,
  vlanId,
  vni,
} from './common.js';
import { defineKind } from './kind.js';
import { immutable, listMap, withRules } from './rule.js';

const spec = withRules(
  z.object({
    cidr: networkCidr.describe('IPv4 network of its machines: 172.16.0.0/16. Can’t be changed later.'),
    sites: siteNames
      .min(1)
      .optional()
      .describe(
        'Sites it spans; every Site when left out. A site leaves only when no machine of this network is there.',
      ),
    gateway: address.optional().describe('Default route given to machines. Left out: none.'),
    reservedRanges: z
      .array(addressRange)
      .max(64)
      .optional()
      .describe(
        'Addresses or ranges first-last that are never allocated to a machine by itself: 172.16.0.1-172.16.0.9.',
      ),
    mtu: mtu
      .optional()
      .describe(
        'Largest IP packet of its machines, in bytes. Left out: the smallest underlay MTU of its sites minus the encapsulation. Can’t be changed later.',
      ),
    vlanId: vlanId
      .optional()
      .describe(
        'Pins the VLAN id, 1 to 4094. Left out: allocated from what the VLAN ranges of its sites share. Can’t be changed later.',
      ),
    vni: vni
      .optional()
      .describe('Pins the VXLAN network identifier, 4096 to 16777215. Left out: allocated. Can’t be changed later.'),
    sdnController: z
      .enum(['BuiltIn', 'Floodlight'])
      .optional()
      .describe(
        'Requires this SDN controller: a site with another one is not Ready for this network (ControllerMismatch). Left out: any.',
      ),
    firewall: firewall
      .optional()
      .describe('What its machines may send and receive. Left out: everything within the network.'),
    flows: listMap(flow, 'name', 128)
      .optional()
      .describe('OpenFlow flows of your own, for frames of this network only.'),
  }),
  gatewayRule,
  rangesRule('reservedRanges'),
);
export type FederatedNetworkSpec = z.infer<typeof spec>;

const siteStatus = z.object({
  name: z.string().describe('Name of the site.'),
  ready: z.boolean().describe('Machines there can use the network.'),
  reason: z.string().optional().describe('One word: why it is ready or not.'),
  message: z.string().optional().describe('For people: what is the matter and what to do.'),
  endpoint: z.string().optional().describe('libvirt network that machines plug into there.'),
  bridge: z.string().optional().describe('Open vSwitch bridge that machines plug into.'),
  controller: z.string().optional().describe('Who programs the boundary switch there: BuiltIn or Floodlight.'),
  vlanId: z.int().optional().describe('VLAN id of the network there.'),
  vni: z.int().optional().describe('VXLAN network identifier of the network there.'),
  machines: z.int().optional().describe('Machines of the network there.'),
  flows: z
    .object({
      wanted: z.int().describe('Flows that should be there.'),
      present: z.int().describe('Flows of those that were read back from the switches.'),
    })
    .optional()
    .describe('Flows of this network on the bridges of the site.'),
});
export type FederatedNetworkSite = z.infer<typeof siteStatus>;

const status = z.object({
  ...commonStatus,
  vlanId: z.int().optional().describe('VLAN id in force.'),
  vni: z.int().optional().describe('VXLAN network identifier in force.'),
  mtu: z.int().optional().describe('Largest IP packet of its machines, in bytes.'),
  sites: listMap(siteStatus, 'name').optional().describe('The network as each site has it.'),
  sitesReady: z.string().optional().describe('Ready sites of all its sites: 2/2.'),
  bySite: z
    .string()
    .optional()
    .describe('The sites in a line: valencia BuiltIn 12/12 flows 2 machines, saopaulo BuiltIn 9/9 flows 1 machine.'),
  machines: z.int().optional().describe('Machines attached to it.'),
});
export type FederatedNetworkStatus = z.infer<typeof status>;

export const federatedNetwork = defineKind({
  kind: 'FederatedNetwork',
  plural: 'federatednetworks',
  shortNames: ['fnet'],
  namespaced: true,
  description: "A tenant's layer 2 network that spans sites.",
  spec,
  status,
  labelName: true,
  transitions: [
    immutable('cidr', 'make a new network'),
    immutable('vlanId', 'make a new network'),
    immutable('vni', 'make a new network'),
    immutable('mtu', 'make a new network'),
  ],
  columns: [
    { name: 'VLAN', type: 'integer', jsonPath: '.status.vlanId', description: 'VLAN id in force.' },
    { name: 'VNI', type: 'integer', jsonPath: '.status.vni', description: 'VXLAN network identifier in force.' },
    { name: 'CIDR', type: 'string', jsonPath: '.spec.cidr', description: 'IPv4 network.' },
    { name: 'MTU', type: 'integer', jsonPath: '.status.mtu', description: 'Largest IP packet, in bytes.' },
    { name: 'Sites', type: 'string', jsonPath: '.status.sitesReady', description: 'Ready sites of all its sites.' },
    'Ready',
    'Reason',
    'Age',
    {
      name: 'Machines',
      type: 'integer',
      jsonPath: '.status.machines',
      description: 'Machines attached to it.',
      priority: 1,
    },
    {
      name: 'Endpoint',
      type: 'string',
      jsonPath: '.status.sites[0].endpoint',
      description: 'libvirt network that machines plug into, of one name at all sites.',
      priority: 1,
    },
    {
      name: 'Bridge',
      type: 'string',
      jsonPath: '.status.sites[0].bridge',
      description: 'Open vSwitch bridge that machines plug into.',
      priority: 1,
    },
    {
      name: 'By-Site',
      type: 'string',
      jsonPath: '.status.bySite',
      description: 'Controller, flows present of those wanted, and machines at each site.',
      priority: 1,
    },
    'Message',
  ],
});
export type FederatedNetwork = z.infer<typeof federatedNetwork.schema>;
