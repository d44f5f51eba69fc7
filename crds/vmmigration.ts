import { z } from 'zod';
import { commonStatus, label, timestamp } from './common.js';
import { defineKind } from './kind.js';
import { immutable, rule, withRules, type TransitionRule } from './rule.js';

const policy = withRules(
  z.object({
    bandwidthMiBps: z
      .int()
      .min(1)
      .max(1048576)
      .optional()
      .describe('Most that the copy may send, in MiB per second. Left out: no limit.'),
    maxDowntimeMs: z
      .int()
      .min(1)
      .max(2000000)
      .optional()
      .describe(
        'How long the guest may stand still at the switch-over, in milliseconds; a quarter of it is tried first. Left out: 300.',
      ),
    autoConverge: z
      .boolean()
      .optional()
      .describe('Slow the guest down when it writes memory faster than it can be copied; true when left out.'),
    postCopy: z
      .enum(['Never', 'OnStall'])
      .optional()
      .describe(
        'Whether the machine may run at the target before its memory is all there; if the connection breaks then, the machine is lost. Never when left out.',
      ),
    compression: z
      .enum(['None', 'XBZRLE', 'Zstd'])
      .optional()
      .describe('Compression of the memory sent; None when left out. Zstd needs parallelConnections.'),
    parallelConnections: z
      .int()
      .min(1)
      .max(255)
      .optional()
      .describe('Connections to send memory over. Left out: one, without the parallel protocol.'),
    tls: z
      .boolean()
      .optional()
      .describe(
        "Encrypt memory and disks on their way; both hosts' QEMU need certificates for it (migrate_tls_x509_cert_dir in qemu.conf). Not when left out.",
      ),
    timeoutSeconds: z
      .int()
      .min(1)
      .max(604800)
      .optional()
      .describe('Deadline of the copy, in seconds; onStall says what follows.'),
    onStall: z
      .enum(['Abort', 'PostCopy', 'Pause'])
      .optional()
      .describe(
        'What to do at the deadline, or when no progress is made: give up, go on by post-copy, or pause the guest to finish (and give up at twice the deadline). Left out: PostCopy where postCopy is OnStall, else Abort.',
      ),
  }),
  rule({
    cel: "!has(self.onStall) || self.onStall != 'PostCopy' || (has(self.postCopy) && self.postCopy == 'OnStall')",
    check: ({ onStall, postCopy }) => onStall !== 'PostCopy' || postCopy === 'OnStall',
    message: 'policy.onStall: PostCopy needs policy.postCopy: OnStall',
    path: ['onStall'],
  }),
  rule({
    cel: "!has(self.compression) || self.compression != 'Zstd' || has(self.parallelConnections)",
    check: ({ compression, parallelConnections }) => compression !== 'Zstd' || parallelConnections !== undefined,
    message: 'policy.compression: Zstd needs policy.parallelConnections',
    path: ['compression'],
  }),
  rule({
    cel: "!has(self.compression) || self.compression != 'XBZRLE' || !has(self.parallelConnections)",
    check: ({ compression, parallelConnections }) => compression !== 'XBZRLE' || parallelConnections === undefined,
    message: 'policy.compression: XBZRLE excludes policy.parallelConnections: use Zstd, or one connection',
    path: ['compression'],
  }),
  rule({
    cel: "!has(self.postCopy) || self.postCopy != 'OnStall' || !has(self.parallelConnections)",
    check: ({ postCopy, parallelConnections }) => postCopy !== 'OnStall' || parallelConnections === undefined,
    message: 'policy.postCopy: OnStall excludes policy.parallelConnections: QEMU can do only one of them',
    path: ['postCopy'],
  }),
);
export type MigrationPolicy = z.infer<typeof policy>;

const liveOnly = [
  'maxDowntimeMs',
  'autoConverge',
  'postCopy',
  'compression',
  'parallelConnections',
  'tls',
  'onStall',
] as const;

const spec = withRules(
  z.object({
    vmName: label.describe('The FederatedVM to move, in the same namespace.'),
    target: z
      .object({
        site: label.describe('Name of the Site.'),
        host: label.optional().describe('Name of the host there. Left out: chosen by free capacity.'),
      })
      .describe('Where it goes.'),
    mode: z
      .enum(['Live', 'Offline'])
      .optional()
      .describe(
        'Live: the guest goes on running. Offline: a machine that is stopped moves with its disk, and stays stopped. Left out: as the machine is, Offline if it is stopped (runStrategy: Stopped), else Live. Containers move Offline only, while they are stopped.',
      ),
    storage: z
      .enum(['Auto', 'Copy'])
      .optional()
      .describe(
        "Auto (when left out): as the machine's storage asks. Copy: a Shared or Cached disk becomes Local at the target; a Cached one only while the machine runs.",
      ),
    policy: policy.optional().describe('Limits of the copy.'),
    priority: z
      .int()
      .min(-1000000)
      .max(1000000)
      .optional()
      .describe('Who goes first where migrations wait for a place: the higher, then the older. 0 when left out.'),
    cancel: z
      .boolean()
      .optional()
      .describe(
        'Stop the move and clean up both sites; works until the switch-over. The only field that can be changed.',
      ),
  }),
  rule({
    cel: `!has(self.mode) || self.mode != 'Offline' || !has(self.policy) || !(${liveOnly.map((field) => `has(self.policy.${field})`).join(' || ')})`,
    check: ({ mode, policy: limits = {} }) =>
      mode !== 'Offline' || liveOnly.every((field) => limits[field] === undefined),
    message: 'mode: Offline takes only bandwidthMiBps and timeoutSeconds of policy',
    path: ['policy'],
  }),
);
export type VMMigrationSpec = z.infer<typeof spec>;

export const migrationPhases = [
  'Pending',
  'Preparing',
  'Copying',
  'SwitchingOver',
  'Finalizing',
  'Succeeded',
  'Failed',
  'Cancelled',
] as const;
const phase = z.enum(migrationPhases);
export type MigrationPhase = z.infer<typeof phase>;

const place = z.object({
  site: z.string().describe('Name of the Site.'),
  host: z.string().optional().describe('Name of the host there.'),
});

const phaseTimestamp = z.object({
  phase: phase.describe('Phase that began.'),
  time: timestamp.describe('When.'),
});

const count = z.int().min(0);

const status = z.object({
  ...commonStatus,
  phase: phase.optional().describe('How far it is.'),
  attempt: z.string().optional().describe('UUID of the attempt, also in the metadata of the domain while it moves.'),
  source: place.optional().describe('Where the machine was.'),
  target: place.optional().describe('Where it goes.'),
  mode: z.enum(['Live', 'Offline']).optional().describe('How the machine moves: what spec.mode says, or came to.'),
  storage: z.enum(['Local', 'Cached', 'Shared', 'Copy']).optional().describe('How the disk is moved.'),
  progressPercent: z
    .int()
    .min(0)
    .max(100)
    .optional()
    .describe('How much of memory and disk is there, in percent; never runs backwards.'),
  totalTimeMs: count
    .optional()
    .describe(
      'How long the move took, in milliseconds: what the daemon says of the copy and the switch-over; of an offline move, from its beginning to its end.',
    ),
  downtimeMs: count.optional().describe('How long the guest stood still, in milliseconds.'),
  networkDowntimeMs: count
    .optional()
    .describe(
      'How long nothing was forwarded for the machine, in milliseconds: from its stop at the source until every switch that knows its networks sends to the target. Left out where the operator did not see both.',
    ),
  transferredBytes: count.optional().describe('Sent so far, in bytes.'),
  remainingBytes: count.optional().describe('Still to be sent, in bytes; grows when the guest writes.'),
  dirtyRateBytesPerSecond: count.optional().describe('How fast the guest writes memory, in bytes per second.'),
  estimatedSecondsRemaining: count
    .optional()
    .describe('At the present rate; left out while the guest writes as fast as it is copied.'),
  iteration: count.optional().describe('Rounds of copying so far.'),
  phaseTimestamps: z
    .array(phaseTimestamp)
    .meta({ 'x-kubernetes-list-type': 'atomic' })
    .optional()
    .describe('When each phase began, in order.'),
  reason: z.string().optional().describe('One word: why it is in this phase.'),
  message: z.string().optional().describe('For people: what is the matter and what to do.'),
  startTime: timestamp.optional().describe('When it left Pending.'),
  completionTime: timestamp.optional().describe('When it succeeded, failed or was cancelled.'),
});
export type VMMigrationStatus = z.infer<typeof status>;

const cancelStays: TransitionRule<VMMigrationSpec> = {
  cel: '!has(oldSelf.cancel) || !oldSelf.cancel || (has(self.cancel) && self.cancel)',
  check: (self, oldSelf) => oldSelf.cancel !== true || self.cancel === true,
  message: "cancel can't be taken back: make a new VMMigration",
  path: ['cancel'],
};

export const vmMigration = defineKind({
  kind: 'VMMigration',
  plural: 'vmmigrations',
  shortNames: ['vmig'],
  namespaced: true,
  description:
    'One move of a machine to another site or host. Done once, like a Job; deleting a running one cancels it first.',
  spec,
  status,
  labelName: false,
  transitions: [
    ...(['vmName', 'target', 'mode', 'storage', 'policy', 'priority'] as const).map((field) =>
      immutable(field, 'make a new VMMigration'),
    ),
    cancelStays,
  ],
  columns: [
    { name: 'VM', type: 'string', jsonPath: '.spec.vmName', description: 'The machine that moves.' },
    { name: 'From', type: 'string', jsonPath: '.status.source.site', description: 'Site where it was.' },
    { name: 'To', type: 'string', jsonPath: '.spec.target.site', description: 'Site where it goes.' },
    { name: 'Phase', type: 'string', jsonPath: '.status.phase', description: 'How far it is.' },
    { name: 'Progress', type: 'integer', jsonPath: '.status.progressPercent', description: 'In percent.' },
    {
      name: 'Downtime',
      type: 'integer',
      jsonPath: '.status.downtimeMs',
      description: 'How long the guest stood still, in milliseconds.',
    },
    'Age',
    'WideReady',
    'WideReason',
    'Message',
  ],
});
export type VMMigration = z.infer<typeof vmMigration.schema>;
