import { z } from 'zod';
import { bytes, exactlyOne, firewall, flavorNames, label, secretKeyRef } from './common.js';
import { rule, withRules } from './rule.js';

/** What a FederatedVM and a VMTemplate may both say. */

export const machineType = z.enum(['VirtualMachine', 'Container']);
export type MachineType = z.infer<typeof machineType>;

export const storageKind = z
  .enum(['Local', 'Cached', 'Shared'])
  .describe(
    'Where the disk is. Local (when left out): at the host. Cached: the base on the share, changes at the host. Shared: on the share. A container’s is Local. Can’t be changed later.',
  );
export type StorageKind = z.infer<typeof storageKind>;

export const resources = z
  .object({
    vcpus: z.int().min(1).max(256).describe('Virtual CPUs.'),
    memory: bytes('32Mi', '16Ti').describe('Memory in bytes, as a quantity: 128Mi, 2Gi.'),
    disk: bytes('1Mi', '64Ti').describe('Size of the disk in bytes, as a quantity: 1Gi.'),
  })
  .describe('Size of the machine; instead of a flavor.');
export type Resources = z.infer<typeof resources>;

export const flavor = z
  .enum(flavorNames)
  .describe('Size of the machine: tiny 1 CPU/512Mi/2Gi disk, small 1/2Gi/20Gi, medium 2/4Gi/40Gi, large 4/8Gi/80Gi.');

export const flavorRule = rule<{ flavor?: unknown; resources?: unknown }>({
  cel: '!has(self.flavor) || !has(self.resources)',
  check: (self) => self.flavor === undefined || self.resources === undefined,
  message: 'flavor and resources exclude each other: leave one out',
  path: ['flavor'],
});

export const image = withRules(
  z.object({
    name: z
      .string()
      .min(1)
      .max(128)
      .regex(/^[A-Za-z0-9][A-Za-z0-9._-]*$/)
      .optional()
      .describe("A volume of the site's imagePool; for a container, a file system without partitions."),
    url: z
      .string()
      .max(2048)
      .regex(/^https?:\/\/[^\s/@?#]+\/[^\s@?#]+$/)
      .optional()
      .describe("Where to fetch it from: below one of the site's imageSources. Without user, password or query."),
    sha256: z
      .string()
      .max(64)
      .regex(/^[0-9a-f]{64}$/)
      .optional()
      .describe('Checksum of what url gives: 64 hexadecimal digits.'),
    format: z.enum(['qcow2', 'raw']).optional().describe('Format of what url gives; qcow2 when left out.'),
  }),
  exactlyOne(['name', 'url'], 'image is exactly one of name and url'),
  rule({
    cel: '!has(self.url) || has(self.sha256)',
    check: (self) => self.url === undefined || self.sha256 !== undefined,
    message: 'image.url needs image.sha256, the checksum of the file',
    path: ['sha256'],
  }),
  rule({
    cel: '!has(self.name) || (!has(self.sha256) && !has(self.format))',
    check: (self) => self.name === undefined || (self.sha256 === undefined && self.format === undefined),
    message: 'image.sha256 and image.format belong to image.url: leave them out with image.name',
  }),
).describe('What the disk starts as. Can’t be changed later.');
export type Image = z.infer<typeof image>;

const packageName = z
  .string()
  .min(1)
  .max(128)
  .regex(/^[A-Za-z0-9][A-Za-z0-9+._:~=-]*$/);

export const packages = z.array(packageName).max(64).describe('Packages that the guest installs at its first start.');

const builtByUs = [
  'user',
  'passwordSecretRef',
  'sshAuthorizedKeys',
  'sshKeysSecretRef',
  'packages',
  'firewall',
] as const;

export const cloudInit = withRules(
  z.object({
    hostname: label.optional().describe("Host name of the guest; the machine's name when left out."),
    user: z
      .string()
      .max(32)
      .regex(/^[a-z_][a-z0-9_-]*$/)
      .optional()
      .describe("The guest's login; the image's own default when left out."),
    passwordSecretRef: secretKeyRef('Password of the user, in plain text', 'password').optional(),
    sshAuthorizedKeys: z
      .array(
        z
          .string()
          .max(4096)
          .regex(/^(ssh-(ed25519|rsa)|ecdsa-sha2-[a-z0-9-]+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+( [^\n\r]*)?$/),
      )
      .max(32)
      .optional()
      .describe('Public SSH keys that may log in as the user, one line each.'),
    sshKeysSecretRef: secretKeyRef('More public SSH keys, one a line', 'authorized_keys').optional(),
    packages: packages.optional(),
    firewall: firewall.optional().describe('Firewall inside the guest, on top of that of its networks.'),
    userDataSecretRef: secretKeyRef(
      'User data of your own (cloud-config or script) in place of all that follows from the other fields',
      'userdata',
    ).optional(),
  }),
  rule({
    cel: `!has(self.userDataSecretRef) || !(${builtByUs.map((field) => `has(self.${field})`).join(' || ')})`,
    check: (self) => self.userDataSecretRef === undefined || builtByUs.every((field) => self[field] === undefined),
    message:
      'cloudInit.userDataSecretRef replaces all user data: of the other fields only hostname may stand beside it',
    path: ['userDataSecretRef'],
  }),
);
export type CloudInit = z.infer<typeof cloudInit>;
