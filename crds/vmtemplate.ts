import { z } from 'zod';
import { commonStatus } from './common.js';
import { defineKind } from './kind.js';
import { cloudInit, flavor, flavorRule, image, machineType, resources, storageKind } from './machine.js';
import { listMap, withRules } from './rule.js';

const parameter = z.object({
  name: z
    .string()
    .max(63)
    .regex(/^[a-zA-Z][a-zA-Z0-9]*$/)
    .describe('Name, as in spec.parameters of a FederatedVM and as {{name}} in files and commands.'),
  description: z.string().max(1024).optional().describe('What it means, with its unit.'),
  value: z
    .string()
    .max(4096)
    .optional()
    .describe('Used where a machine gives none. Left out: every machine has to give one.'),
});
export type TemplateParameter = z.infer<typeof parameter>;

const file = z.object({
  path: z
    .string()
    .max(1024)
    .regex(/^\/[^\s]+$/)
    .describe('Absolute path in the guest.'),
  content: z.string().max(65536).describe('Its text; {{name}} stands for a parameter.'),
  permissions: z
    .string()
    .max(4)
    .regex(/^0[0-7]{3}$/)
    .optional()
    .describe('Octal mode; 0644 when left out.'),
});
export type TemplateFile = z.infer<typeof file>;

const spec = withRules(
  z.object({
    description: z.string().max(1024).optional().describe('What machines of this template are for.'),
    role: z
      .enum(['Router', 'DHCP', 'DNS', 'LoadBalancer'])
      .optional()
      .describe(
        'What the network lets such a machine do beyond others: a Router forwards foreign addresses, DHCP answers DHCP requests.',
      ),
    type: machineType.optional().describe('Only machines of this type may use it. Left out: both.'),
    flavor: flavor.optional(),
    resources: resources.optional(),
    image: image.optional(),
    storage: storageKind.optional(),
    cloudInit: cloudInit
      .optional()
      .describe("How the guest sets itself up at its first start; Secrets are looked up in the machine's namespace."),
    parameters: listMap(parameter, 'name', 32).optional().describe('What a machine may fill in.'),
    files: listMap(file, 'path', 32).optional().describe('Files that the guest writes at its first start.'),
    commands: z
      .array(z.array(z.string().min(1).max(4096)).min(1).max(64))
      .max(64)
      .optional()
      .describe(
        'Commands that the guest runs at its first start, after packages and files: each a list of program and arguments. {{name}} stands for a parameter.',
      ),
  }),
  flavorRule,
);
export type VMTemplateSpec = z.infer<typeof spec>;

const status = z.object({ ...commonStatus });
export type VMTemplateStatus = z.infer<typeof status>;

export const vmTemplate = defineKind({
  kind: 'VMTemplate',
  plural: 'vmtemplates',
  shortNames: ['fvmt'],
  namespaced: false,
  description: 'What machines of one role have in common; explicit fields of a FederatedVM win over it.',
  spec,
  status,
  labelName: true,
  transitions: [],
  columns: [
    { name: 'Role', type: 'string', jsonPath: '.spec.role', description: 'What such a machine may do beyond others.' },
    { name: 'Description', type: 'string', jsonPath: '.spec.description', description: 'What it is for.' },
    'Ready',
    'Reason',
    'Age',
    'Message',
  ],
});
export type VMTemplate = z.infer<typeof vmTemplate.schema>;
