import { z } from 'zod';
import {
  address,
  addressRange,
  commonStatus,
  gatewayRule,
  label,
  maxSites,
  networkCidr,
  rangesRule,
  vlanId,
} from './common.js';
import { defineKind } from './kind.js';
import { listMap, rule, withRules } from './rule.js';

const libvirtUri = z
  .string()
  .max(512)
  .regex(/^(qemu|lxc|test)(\+(tls|tcp|ssh|unix))?:\/\/([^/\s@:]+@)?[^/\s@]*\/[^\s]*$/);

/** `tcp:address:port`, `ssl:address:port` or `unix:/path`, as Open vSwitch writes them (ovsdb(7), "Active Connection Methods"). */
const ovsEndpoint = z
  .string()
  .max(256)
  .regex(
    /^((tcp|ssl):[A-Za-z0-9.-]+:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])|unix:\/[^\s]+)$/,
  );

const httpUrl = z
  .string()
  .max(2048)
  .regex(/^https?:\/\/[^\s/@?#]+(\/[^\s@?#]*)?$/);

const bridgeName = z
  .string()
  .min(1)
  .max(15)
  .regex(/^[A-Za-z0-9_.-]+$/);
const poolName = z
  .string()
  .min(1)
  .max(64)
  .regex(/^[A-Za-z0-9_.-]+$/);
const hostOrAddress = z
  .string()
  .min(1)
  .max(253)
  .regex(/^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$/);

const libvirt = withRules(
  z.object({
    qemu: libvirtUri
      .optional()
      .describe('URI of the QEMU driver, such as qemu+tls://198.51.100.11/system. Left out: no VirtualMachine here.'),
    lxc: libvirtUri
      .optional()
      .describe('URI of the LXC driver, such as lxc+tls://198.51.100.11/system. Left out: no Container here.'),
    peerURI: libvirtUri
      .optional()
      .describe(
        "URI by which other hosts' libvirt daemons reach this one for a live migration. Left out: the qemu URI.",
      ),
  }),
  rule({
    cel: 'has(self.qemu) || has(self.lxc)',
    check: (self) => self.qemu !== undefined || self.lxc !== undefined,
    message: 'a host needs libvirt.qemu or libvirt.lxc',
  }),
);

export const host = z.object({
  name: label.describe('Name of the host, unique at its site.'),
  underlayAddress: address.describe('IPv4 address of its VXLAN end point.'),
  libvirt: libvirt.describe('How to reach its libvirt daemon.'),
  migrationAddress: hostOrAddress
    .optional()
    .describe(
      "Address at which other hosts' QEMU sends a migrating machine; names need not resolve. Left out: underlayAddress.",
    ),
  ovs: z
    .object({
      ovsdb: ovsEndpoint.describe('The OVSDB server: ssl:198.51.100.11:6640, tcp:… or unix:/path.'),
      openflow: z
        .object({
          int: ovsEndpoint.describe('Passive OpenFlow listener of bridge isth-int: ssl:198.51.100.11:6654.'),
          edge: ovsEndpoint.describe(
            'Passive OpenFlow listener of bridge isth-edge: ssl:198.51.100.11:6655. Not the same as int.',
          ),
        })
        .describe('The listeners of the two bridges; each needs one of its own.'),
      datapathType: z
        .enum(['system', 'netdev'])
        .optional()
        .describe('Datapath of the bridges: system (kernel, when left out) or netdev (user space).'),
    })
    .describe('How to reach its Open vSwitch.'),
  fenced: z
    .boolean()
    .optional()
    .describe(
      'You vouch that this host is off and stays off. Its machines on shared or cached disks may then start elsewhere. Never set it for a host that may still run: a machine would run twice.',
    ),
  maintenance: z
    .boolean()
    .optional()
    .describe('No machine is placed on this host; those that run here are moved away (condition Evacuated).'),
});
export type SiteHost = z.infer<typeof host>;

const spec = withRules(
  z.object({
    hosts: listMap(host, 'name', maxSites).min(1).describe('The hosts of this site.'),
    tlsSecretRef: z
      .object({
        name: z
          .string()
          .min(1)
          .max(253)
          .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/)
          .describe("The Secret's name."),
      })
      .optional()
      .describe(
        "Secret of type kubernetes.io/tls with ca.crt, in the operator's namespace: our certificate towards libvirt and Open vSwitch.",
      ),
    underlayMTU: z
      .int()
      .min(626)
      .max(9266)
      .optional()
      .describe('Largest IP packet in bytes that the underlay carries between sites; 1500 when left out.'),
    vlanRange: withRules(
      z.object({ from: vlanId.describe('First VLAN id.'), to: vlanId.describe('Last VLAN id.') }),
      rule({
        cel: 'self.from <= self.to',
        check: ({ from, to }) => from <= to,
        message: 'vlanRange.from must not exceed vlanRange.to',
      }),
    )
      .optional()
      .describe('VLAN ids that networks may use at this site, both ends included; 100 to 3999 when left out.'),
    sdnController: withRules(
      z.object({
        type: z
          .enum(['BuiltIn', 'Floodlight'])
          .describe('BuiltIn: Isthmus programs the bridge itself. Floodlight: through its REST interface.'),
        url: httpUrl.optional().describe('Floodlight only: base URL of the REST interface, http://198.51.100.2:8080.'),
        openflow: ovsEndpoint
          .optional()
          .describe('Floodlight only: where isth-edge connects to it, tcp:198.51.100.2:6653.'),
      }),
      rule({
        cel: "self.type == 'Floodlight' ? has(self.url) && has(self.openflow) : !has(self.url) && !has(self.openflow)",
        check: (self) =>
          [self.url, self.openflow].every((field) => (field !== undefined) === (self.type === 'Floodlight')),
        message: 'sdnController: Floodlight needs url and openflow, BuiltIn takes neither',
      }),
    )
      .optional()
      .describe('Who programs the boundary switch isth-edge; BuiltIn when left out.'),
    storage: z
      .object({
        pool: poolName.optional().describe("libvirt storage pool for machines' local disks; `default` when left out."),
        imagePool: poolName.optional().describe('libvirt storage pool of the images; `images` when left out.'),
        shared: z
          .object({
            type: z.enum(['NFS']).describe('Protocol that QEMU speaks to the share.'),
            server: hostOrAddress.describe('Server of the share, as every host reaches it.'),
            path: z
              .string()
              .max(1024)
              .regex(/^\/[^\s]*$/)
              .describe('Exported path: /nfs.'),
            pool: poolName.describe('libvirt storage pool over the same directory, at the host named by via.'),
            via: z
              .string()
              .max(127)
              .regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?\/[a-z0-9]([-a-z0-9]*[a-z0-9])?$/)
              .describe('site/host whose libvirt creates and deletes the volumes of the share.'),
          })
          .optional()
          .describe(
            'A share that all sites naming the same server and path have in common. Needed for storage Shared and Cached.',
          ),
      })
      .optional()
      .describe('Storage pools of every host of this site.'),
    imageSources: z
      .array(
        withRules(
          httpUrl,
          rule({
            cel: "self.endsWith('/')",
            check: (url) => url.endsWith('/'),
            message: "must end in '/', or it would also allow hosts and folders that merely begin alike",
          }),
        ),
      )
      .max(32)
      .optional()
      .describe('Prefixes of the URLs that images may be fetched from; none when left out.'),
    externalNetwork: withRules(
      z.object({
        bridge: bridgeName.describe('Open vSwitch bridge of every host that leads outside.'),
        cidr: networkCidr.describe('The outside network: 198.18.200.0/24.'),
        gateway: address.describe('Its router.'),
        floatingIPs: z
          .array(addressRange)
          .min(1)
          .max(32)
          .describe('Addresses or ranges first-last that machines may be given.'),
      }),
      gatewayRule,
      rangesRule('floatingIPs'),
    )
      .optional()
      .describe('Where floating IPs come from. Left out: none here.'),
    maxMigrations: z
      .int()
      .min(1)
      .max(1000)
      .optional()
      .describe('Machines that may move into or out of this site at a time; 2 when left out. Others wait (Queued).'),
    maintenance: z
      .boolean()
      .optional()
      .describe('No machine is placed at this site; those that run here are moved away (condition Evacuated).'),
  }),
  rule({
    cel: "has(self.tlsSecretRef) || !self.hosts.exists(h, h.ovs.ovsdb.startsWith('ssl:') || h.ovs.openflow.int.startsWith('ssl:') || h.ovs.openflow.edge.startsWith('ssl:') || (has(h.libvirt.qemu) && h.libvirt.qemu.contains('+tls:')) || (has(h.libvirt.lxc) && h.libvirt.lxc.contains('+tls:')))",
    check: ({ tlsSecretRef, hosts }) =>
      tlsSecretRef !== undefined ||
      !hosts.some(
        ({ ovs, libvirt: { qemu = '', lxc = '' } }) =>
          [ovs.ovsdb, ovs.openflow.int, ovs.openflow.edge].some((endpoint) => endpoint.startsWith('ssl:')) ||
          [qemu, lxc].some((uri) => uri.includes('+tls:')),
      ),
    message: 'tlsSecretRef is needed for end points with ssl: or +tls:',
    path: ['tlsSecretRef'],
  }),
  rule({
    cel: 'self.hosts.all(h, h.ovs.openflow.int != h.ovs.openflow.edge)',
    check: ({ hosts }) => hosts.every(({ ovs: { openflow } }) => openflow.int !== openflow.edge),
    message: 'ovs.openflow.int and ovs.openflow.edge must differ: one port can’t serve two bridges',
    path: ['hosts'],
  }),
);
export type SiteSpec = z.infer<typeof spec>;

const amounts = (what: string) => ({
  cpus: z.int().optional().describe(`CPUs ${what}.`),
  memory: z.string().optional().describe(`Memory ${what}, as a quantity: 64Gi.`),
  disk: z.string().optional().describe(`Size of the disk pool ${what}, as a quantity: 500Gi.`),
});

const hostStatus = z.object({
  name: z.string().describe('Name of the host in spec.hosts.'),
  ready: z.boolean().describe('All that a machine needs here answers and is set up.'),
  reason: z.string().optional().describe('One word: why it is ready or not.'),
  message: z.string().optional().describe('For people: what is the matter and what to do.'),
  versions: z
    .object({
      libvirt: z.string().optional().describe('Version of the libvirt daemon: 9.0.0.'),
      qemu: z.string().optional().describe('Version of QEMU: 7.2.0.'),
      openvswitch: z.string().optional().describe('Version of Open vSwitch: 3.1.0.'),
    })
    .optional()
    .describe('Versions of what runs there.'),
  capacity: z.object(amounts('of the host')).optional().describe('What the host has.'),
  allocated: z.object(amounts('promised to machines')).optional().describe('What machines of Isthmus hold.'),
  foreignNetworks: z
    .array(z.string())
    .max(50)
    .optional()
    .describe('libvirt networks there that are not of Isthmus, and are left alone; at most 50.'),
});
export type SiteHostStatus = z.infer<typeof hostStatus>;

const linkStatus = z.object({
  host: z.string().describe('Host of this site at this end.'),
  peer: z.string().describe('Site and host at the other end: saopaulo/a.'),
  state: z
    .enum(['Up', 'Down', 'Unknown'])
    .describe('Up: frames come and go. Down: the other end is not heard of. Unknown: it can’t be told.'),
  mtu: z
    .int()
    .optional()
    .describe('Largest IP packet of a machine that passes, in bytes, as measured last; left out: not measured yet.'),
  latencyMs: z
    .int()
    .optional()
    .describe('Round trip of a small frame in ms, at least 1 and of two digits; told anew when it is quite another.'),
  message: z.string().optional().describe('For people: what is the matter and what to do.'),
});
export type SiteLink = z.infer<typeof linkStatus>;

const status = z.object({
  ...commonStatus,
  links: listMap(linkStatus, ['host', 'peer'])
    .optional()
    .describe('The way to each host of each site, and what it carries.'),
  hosts: listMap(hostStatus, 'name').optional().describe('Each host as last seen.'),
  hostsReady: z.string().optional().describe('Ready hosts of all hosts: 1/1.'),
  vms: z.int().optional().describe('Machines at this site.'),
  controller: z.string().optional().describe('Who programs the boundary switch: BuiltIn or Floodlight.'),
});
export type SiteStatus = z.infer<typeof status>;

export const site = defineKind({
  kind: 'Site',
  plural: 'sites',
  shortNames: ['fsite'],
  namespaced: false,
  description: 'A place where machines run: one or more hosts with libvirt, Open vSwitch and an SDN controller.',
  spec,
  status,
  labelName: true,
  transitions: [],
  columns: [
    { name: 'Hosts', type: 'string', jsonPath: '.status.hostsReady', description: 'Ready hosts of all hosts.' },
    { name: 'VMs', type: 'integer', jsonPath: '.status.vms', description: 'Machines at this site.' },
    {
      name: 'Controller',
      type: 'string',
      jsonPath: '.status.controller',
      description: 'Who programs the boundary switch.',
    },
    'Ready',
    'Reason',
    'Age',
    'Message',
  ],
});
export type Site = z.infer<typeof site.schema>;
