import { z } from 'zod';
import { contains, parseAddress, parseCidr, parseRange, type Cidr } from './ipv4.js';
import { quantity } from './quantity.js';
import { rule, set, withRules } from './rule.js';

export const group = 'isthmus.dev';
export const version = 'v1alpha1';

/** The largest number of sites, and of hosts at a site: it bounds what the API server may spend on a rule. */
export const maxSites = 64;

// ---- metadata and conditions ----

const ownerReference = z.object({
  apiVersion: z.string(),
  kind: z.string(),
  name: z.string(),
  uid: z.string(),
  controller: z.boolean().optional(),
  blockOwnerDeletion: z.boolean().optional(),
});

/** Metadata as the API server gives it; what it has beyond this is left out. Times are RFC 3339. */
export const objectMeta = z.object({
  name: z.string(),
  namespace: z.string().optional(),
  uid: z.string(),
  resourceVersion: z.string(),
  generation: z.int(),
  creationTimestamp: z.string(),
  deletionTimestamp: z.string().optional(),
  deletionGracePeriodSeconds: z.int().optional(),
  finalizers: z.array(z.string()).optional(),
  labels: z.record(z.string(), z.string()).optional(),
  annotations: z.record(z.string(), z.string()).optional(),
  ownerReferences: z.array(ownerReference).optional(),
});
export type ObjectMeta = z.infer<typeof objectMeta>;

export const namespacedMeta = objectMeta.extend({ namespace: z.string() });
export type NamespacedMeta = z.infer<typeof namespacedMeta>;

/** RFC 3339. */
export const timestamp = z.iso.datetime({ offset: true });

/** metav1.Condition. */
const condition = z.object({
  type: z
    .string()
    .max(316)
    .regex(/^([a-z0-9]([-a-z0-9.]*[a-z0-9])?\/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/)
    .describe('What the condition is about, such as Ready, Reconciling or Stalled.'),
  status: z.enum(['True', 'False', 'Unknown']).describe('Whether it holds.'),
  reason: z
    .string()
    .min(1)
    .max(1024)
    .regex(/^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$/)
    .describe('One CamelCase word for programs: why it holds or not.'),
  message: z.string().max(32768).describe('For people: what is the matter, where, and what to do.'),
  lastTransitionTime: timestamp.describe('When status last changed.'),
  observedGeneration: z.int().min(0).optional().describe('The metadata.generation that this was concluded from.'),
});
export type Condition = z.infer<typeof condition>;

/** The part of a status that all kinds share. */
export const commonStatus = {
  observedGeneration: z.int().min(0).optional().describe('The metadata.generation that this status was made from.'),
  conditions: z
    .array(condition)
    .meta({ 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['type'] })
    .optional()
    .describe('Ready is always there; Reconciling and Stalled only while they hold (kstatus).'),
};

// ---- names ----

const labelPattern = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;

/** A name that may be a host name: RFC 1123 label. */
export const label = z.string().min(1).max(63).regex(labelPattern);

/** Of an object whose name becomes part of host names, Consul keys and names of domains. CEL sees it from the object only. */
export const labelNameRule = rule<string>({
  cel: "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
  check: (name) => name.length <= 63 && labelPattern.test(name),
  message: "metadata.name must be a DNS label: at most 63 lower-case letters, digits and '-'",
});

/** A Secret of the machine's own namespace: values never stand in a spec. */
export function secretKeyRef(what: string, defaultKey: string) {
  return z
    .object({
      name: z
        .string()
        .min(1)
        .max(253)
        .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/)
        .describe("The Secret's name."),
      key: z
        .string()
        .min(1)
        .max(253)
        .regex(/^[-._a-zA-Z0-9]+$/)
        .optional()
        .describe(`The key within the Secret; \`${defaultKey}\` when left out.`),
    })
    .describe(`${what}: a key of a Secret in the machine's namespace.`);
}

// ---- addresses ----

const isAddress = (cel: string) => `isIP(${cel}) && ip(${cel}).family() == 4`;

/** The CEL integer of an IPv4 address, which CEL's own ip() can't be compared by. */
const celInteger = (cel: string) =>
  `(${[16777216, 65536, 256, 1].map((weight, octet) => `int(${cel}.split('.')[${octet.toString()}]) * ${weight.toString()}`).join(' + ')})`;

/** An IPv4 address. */
export const address = withRules(
  z.string().max(15),
  rule({
    cel: isAddress('self'),
    check: (text) => parseAddress(text) !== undefined,
    message: 'must be an IPv4 address, such as 172.16.0.20',
  }),
);

const isBlock = (cel: string) =>
  `isCIDR(${cel}) && cidr(${cel}).ip().family() == 4 && cidr(${cel}) == cidr(${cel}).masked()`;
const isCanonical = (text: string): boolean => {
  const cidr = parseCidr(text);
  return cidr !== undefined && cidr.address === cidr.first;
};

/** Any IPv4 block in canonical form, 0.0.0.0/0 included. */
const block = withRules(
  z.string().max(18),
  rule({
    cel: isBlock('self'),
    check: isCanonical,
    message: 'must be an IPv4 block without host bits, such as 172.16.0.0/16 or 0.0.0.0/0',
  }),
);

/** An IPv4 address, or a block in canonical form. */
export const addressOrBlock = withRules(
  z.string().max(18),
  rule({
    cel: `self.contains('/') ? ${isBlock('self')} : ${isAddress('self')}`,
    check: (text) => (text.includes('/') ? isCanonical(text) : parseAddress(text) !== undefined),
    message: 'must be an IPv4 address or a block without host bits, such as 172.16.0.20 or 10.9.0.0/16',
  }),
);

/** An IPv4 network that machines live in. */
export const networkCidr = withRules(
  z.string().max(18),
  rule({
    cel: 'isCIDR(self) && cidr(self).ip().family() == 4',
    check: (text) => parseCidr(text) !== undefined,
    message: 'must be an IPv4 CIDR, such as 172.16.0.0/16',
  }),
  rule({
    cel: '!isCIDR(self) || cidr(self) == cidr(self).masked()',
    check: (text) => {
      const cidr = parseCidr(text);
      return cidr === undefined || cidr.address === cidr.first;
    },
    message: 'must be the network address: clear the host bits, such as 172.16.0.0/16 for 172.16.5.0/16',
  }),
  rule({
    cel: '!isCIDR(self) || (cidr(self).prefixLength() >= 8 && cidr(self).prefixLength() <= 29)',
    check: (text) => {
      const cidr = parseCidr(text);
      return cidr === undefined || (cidr.prefix >= 8 && cidr.prefix <= 29);
    },
    message: 'must have a prefix length from 8 to 29',
  }),
);

const celFirst = (range: string) => `${range}.split('-')[0]`;
const celLast = (range: string) => `${range}.split('-')[${range}.split('-').size() - 1]`;
const celIsRange = (range: string) =>
  `${range}.split('-').size() <= 2 && ${range}.split('-').all(a, ${isAddress('a')})`;

/** `a` or `a-b`. */
export const addressRange = withRules(
  z.string().max(31),
  rule({
    cel: `${celIsRange('self')} && ${celInteger(celFirst('self'))} <= ${celInteger(celLast('self'))}`,
    check: (text) => parseRange(text) !== undefined,
    message: 'must be an IPv4 address or a range first-last with first ≤ last, such as 172.16.0.1-172.16.0.9',
  }),
);

/** Host bits of an address that are neither all 0 nor all 1 in a network of this size. Prefixes 8 to 29, as networkCidr has it. */
const celBlockSizes = `[${Array.from({ length: 22 }, (_, index) => 2 ** (24 - index)).join(', ')}]`;
const celUsable = (cidr: string, host: string) => {
  const size = `${celBlockSizes}[cidr(${cidr}).prefixLength() - 8]`;
  return `cidr(${cidr}).containsIP(${host}) && ${celInteger(host)} % ${size} != 0 && (${celInteger(host)} + 1) % ${size} != 0`;
};
/** Only a network that passes its own rules is worth comparing with. */
const celSound = (cidr: string) =>
  `isCIDR(${cidr}) && cidr(${cidr}).ip().family() == 4 && cidr(${cidr}).prefixLength() >= 8 && cidr(${cidr}).prefixLength() <= 29`;
const soundCidr = (text: string): Cidr | undefined => {
  const cidr = parseCidr(text);
  return cidr !== undefined && cidr.prefix >= 8 && cidr.prefix <= 29 ? cidr : undefined;
};

/** The gateway lies inside the network and is neither its first nor its last address. */
export const gatewayRule = rule<{ cidr: string; gateway?: string | undefined }>({
  cel: `!has(self.gateway) || !(${isAddress('self.gateway')}) || !(${celSound('self.cidr')}) || (${celUsable('self.cidr', 'self.gateway')})`,
  check: ({ cidr, gateway }) => {
    const [network, host] = [soundCidr(cidr), parseAddress(gateway ?? '')];
    if (network === undefined || host === undefined) return true;
    return contains(network, host) && host !== network.first && host !== network.last;
  },
  message:
    'gateway must be a machine address of cidr: inside it, and neither its first (network) nor its last (broadcast)',
  path: ['gateway'],
});

/** The ranges lie inside the network. */
export function rangesRule<K extends string>(field: K) {
  return rule<{ cidr: string } & Partial<Record<K, string[] | undefined>>>({
    cel: `!has(self.${field}) || !(${celSound('self.cidr')}) || self.${field}.all(r, !(${celIsRange('r')}) || r.split('-').all(a, cidr(self.cidr).containsIP(a)))`,
    check: (self) => {
      const network = soundCidr(self.cidr);
      if (network === undefined) return true;
      return (self[field] ?? []).every((text) => {
        const range = parseRange(text);
        return range === undefined || (contains(network, range.first) && contains(network, range.last));
      });
    },
    message: `every range of ${field} must lie inside cidr`,
    path: [field],
  });
}

/** An Ethernet address in lower case. */
export const mac = z
  .string()
  .max(17)
  .regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/);

const port = z.int().min(1).max(65535);

export const vlanId = z.int().min(1).max(4094);
export const vni = z.int().min(4096).max(16777215);
export const mtu = z.int().min(576).max(9216);

// ---- quantities ----

/** Memory or disk size in bytes, as Kubernetes writes it; `minimum` and `maximum` are quantities too. */
export function bytes(minimum: string, maximum: string) {
  const parsed = (value: string | number): bigint | undefined => {
    try {
      return quantity.parse(value);
    } catch {
      return undefined;
    }
  };
  return withRules(
    z.union([z.int(), z.string().max(32)]),
    rule({
      cel: `isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('${minimum}')) >= 0 && quantity(string(self)).compareTo(quantity('${maximum}')) <= 0`,
      check: (value) => {
        const size = parsed(value);
        return size !== undefined && size >= quantity.parse(minimum) && size <= quantity.parse(maximum);
      },
      message: `must be a quantity from ${minimum} to ${maximum}, such as 512Mi or 2Gi`,
    }),
  );
}

// ---- firewall ----

const ports = z
  .array(
    withRules(
      z.string().max(11),
      rule({
        cel: `self.matches('^[0-9]{1,5}(-[0-9]{1,5})?$') && self.split('-').all(n, int(n) >= 1 && int(n) <= 65535) && int(${celFirst('self')}) <= int(${celLast('self')})`,
        check: (text) => {
          const match = /^([0-9]{1,5})(?:-([0-9]{1,5}))?$/.exec(text);
          const [first, last] = [Number(match?.[1]), Number(match?.[2] ?? match?.[1])];
          return first >= 1 && first <= last && last <= 65535;
        },
        message: 'must be a port or a range of ports in quotes, from 1 to 65535, such as "22" or "8000-8100"',
      }),
    ),
  )
  .min(1)
  .max(16);

const peers = z
  .array(
    withRules(
      z.object({
        cidr: block.optional().describe('IPv4 block; 0.0.0.0/0 is everyone.'),
        network: label
          .optional()
          .describe('Another FederatedNetwork of this namespace: all its addresses, as a router passes them on.'),
      }),
      exactlyOne(['cidr', 'network'], 'a peer is exactly one of cidr and network'),
    ),
  )
  .min(1)
  .max(16);

const firewallRule = withRules(
  z.object({
    direction: z
      .enum(['Ingress', 'Egress'])
      .describe('Seen from the machine: Ingress is what reaches it, Egress what it sends.'),
    action: z.enum(['Allow', 'Deny']).describe('What happens to a packet that this rule matches.'),
    protocol: z.enum(['TCP', 'UDP', 'ICMP']).optional().describe('Left out: any protocol.'),
    ports: ports.optional().describe('Destination ports of TCP or UDP: "22" or "8000-8100". Left out: any port.'),
    from: peers.optional().describe('Ingress only: source addresses. Left out: anyone.'),
    to: peers.optional().describe('Egress only: destination addresses. Left out: anyone.'),
  }),
  rule({
    cel: "!has(self.ports) || (has(self.protocol) && self.protocol in ['TCP', 'UDP'])",
    check: (self) => self.ports === undefined || self.protocol === 'TCP' || self.protocol === 'UDP',
    message: 'ports need protocol TCP or UDP: set protocol, or leave ports out',
    path: ['ports'],
  }),
  rule({
    cel: "!has(self.from) || self.direction == 'Ingress'",
    check: (self) => self.from === undefined || self.direction === 'Ingress',
    message: 'from belongs to direction Ingress: use to for Egress',
    path: ['from'],
  }),
  rule({
    cel: "!has(self.to) || self.direction == 'Egress'",
    check: (self) => self.to === undefined || self.direction === 'Egress',
    message: 'to belongs to direction Egress: use from for Ingress',
    path: ['to'],
  }),
);
export type FirewallRule = z.infer<typeof firewallRule>;

export const firewall = z.object({
  defaultAction: z
    .enum(['Allow', 'Deny'])
    .optional()
    .describe('For connections that no rule matches; Allow when left out.'),
  rules: z
    .array(firewallRule)
    .max(64)
    .optional()
    .describe(
      'Who may open connections: of the rules of its direction, the first that matches decides. Answers on an open connection pass by themselves.',
    ),
});
export type Firewall = z.infer<typeof firewall>;

// ---- flows ----

const flowMatch = withRules(
  z.object({
    ethType: z.enum(['ipv4', 'arp']).optional().describe('Left out: both (other types never enter a network).'),
    ethSrc: mac.optional().describe('Source MAC, aa:bb:cc:dd:ee:ff.'),
    ethDst: mac.optional().describe('Destination MAC, aa:bb:cc:dd:ee:ff.'),
    ipProtocol: z.enum(['tcp', 'udp', 'icmp']).optional().describe('Needs ethType ipv4.'),
    ipv4Src: block.optional().describe('Source block, a.b.c.d/prefix. Needs ethType ipv4.'),
    ipv4Dst: block.optional().describe('Destination block, a.b.c.d/prefix. Needs ethType ipv4.'),
    tcpSrc: port.optional().describe('Needs ipProtocol tcp.'),
    tcpDst: port.optional().describe('Needs ipProtocol tcp.'),
    udpSrc: port.optional().describe('Needs ipProtocol udp.'),
    udpDst: port.optional().describe('Needs ipProtocol udp.'),
    icmpType: z.int().min(0).max(255).optional().describe('Needs ipProtocol icmp.'),
    icmpCode: z.int().min(0).max(255).optional().describe('Needs ipProtocol icmp.'),
  }),
  needs(['ipProtocol', 'ipv4Src', 'ipv4Dst'], 'ethType', 'ipv4'),
  needs(['tcpSrc', 'tcpDst'], 'ipProtocol', 'tcp'),
  needs(['udpSrc', 'udpDst'], 'ipProtocol', 'udp'),
  needs(['icmpType', 'icmpCode'], 'ipProtocol', 'icmp'),
);
export type FlowMatch = z.infer<typeof flowMatch>;

/** OpenFlow 1.3.5 §7.2.3.6: a field may be matched only where its prerequisite is matched too. */
function needs(fields: readonly string[], prerequisite: string, value: string) {
  return rule<Readonly<Record<string, unknown>>>({
    cel: `!(${fields.map((field) => `has(self.${field})`).join(' || ')}) || (has(self.${prerequisite}) && self.${prerequisite} == '${value}')`,
    check: (self) => fields.every((field) => self[field] === undefined) || self[prerequisite] === value,
    message: `${fields.join(', ')} need ${prerequisite}: ${value}`,
  });
}

const setField = withRules(
  z.object({
    ethSrc: mac.optional().describe('New source MAC.'),
    ethDst: mac.optional().describe('New destination MAC.'),
    ipv4Src: address.optional().describe('New source address.'),
    ipv4Dst: address.optional().describe('New destination address.'),
    tcpDst: port.optional().describe('New TCP destination port.'),
    udpDst: port.optional().describe('New UDP destination port.'),
  }),
  exactlyOne(
    ['ethSrc', 'ethDst', 'ipv4Src', 'ipv4Dst', 'tcpDst', 'udpDst'],
    'setField takes exactly one field: write one action a field',
  ),
);

const flowAction = withRules(
  z.object({
    drop: z.object({}).optional().describe('The frame ends here.'),
    allow: z.object({}).optional().describe('The frame goes on; flows of lower priority no longer see it.'),
    setField: setField.optional().describe('Rewrites one field, then the frame goes on.'),
  }),
  exactlyOne(['drop', 'allow', 'setField'], 'an action is exactly one of drop, allow, setField'),
);
export type FlowAction = z.infer<typeof flowAction>;

/** Of these optional fields of an object, one and only one is there. */
export function exactlyOne(fields: readonly string[], message: string) {
  return rule<Readonly<Record<string, unknown>>>({
    cel: `[${fields.map((field) => `has(self.${field})`).join(', ')}].filter(given, given).size() == 1`,
    check: (self) => fields.filter((field) => self[field] !== undefined).length === 1,
    message,
  });
}

export const flow = withRules(
  z.object({
    name: label.describe('Name of the flow, unique in this network.'),
    at: z
      .enum(['Port', 'Boundary'])
      .describe(
        "Port: what a machine sends, at its port. Boundary: what leaves a host for other hosts, at the boundary switch that the site's SDN controller programs.",
      ),
    priority: z.int().min(1).max(1000).describe('The highest priority that matches wins.'),
    match: flowMatch.describe('Which frames of this network; {} is all of them.'),
    actions: z.array(flowAction).min(1).max(8).describe('In order. drop and allow stand alone.'),
  }),
  rule({
    cel: 'self.actions.size() == 1 || self.actions.all(a, has(a.setField))',
    check: ({ actions }) => actions.length === 1 || actions.every((action) => action.setField !== undefined),
    message: 'drop and allow stand alone: leave the other actions of this flow out',
    path: ['actions'],
  }),
  rewriteNeeds(['ipv4Src', 'ipv4Dst'], 'ethType', 'ipv4'),
  rewriteNeeds(['tcpDst'], 'ipProtocol', 'tcp'),
  rewriteNeeds(['udpDst'], 'ipProtocol', 'udp'),
);
export type Flow = z.infer<typeof flow>;

/** OpenFlow 1.3.5 §7.2.5: a field may be set only in frames that are known to have it. */
function rewriteNeeds(
  fields: readonly ('ipv4Src' | 'ipv4Dst' | 'tcpDst' | 'udpDst')[],
  prerequisite: 'ethType' | 'ipProtocol',
  value: string,
) {
  const sets = fields.map((field) => `has(a.setField.${field})`).join(' || ');
  return rule<{ match: FlowMatch; actions: FlowAction[] }>({
    cel: `!self.actions.exists(a, has(a.setField) && (${sets})) || (has(self.match.${prerequisite}) && self.match.${prerequisite} == '${value}')`,
    check: ({ match, actions }) =>
      !actions.some((action) => fields.some((field) => action.setField?.[field] !== undefined)) ||
      match[prerequisite] === value,
    message: `setField ${fields.join(', ')} needs match.${prerequisite}: ${value}`,
    path: ['actions'],
  });
}

// ---- parts of more than one kind ----

/** List of site names without repetition. */
export const siteNames = set(label, maxSites);

export const flavorNames = ['tiny', 'small', 'medium', 'large'] as const;
export type Flavor = (typeof flavorNames)[number];

export const flavors = {
  tiny: { vcpus: 1, memoryMiB: 512, diskGiB: 2 },
  small: { vcpus: 1, memoryMiB: 2048, diskGiB: 20 },
  medium: { vcpus: 2, memoryMiB: 4096, diskGiB: 40 },
  large: { vcpus: 4, memoryMiB: 8192, diskGiB: 80 },
} as const satisfies Record<Flavor, unknown>;
