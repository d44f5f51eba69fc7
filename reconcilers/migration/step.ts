import type { FederatedVM, MigrationPhase, VMMigration, VMMigrationStatus } from '../../crds/index.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import type { Directory } from '../common/directory.js';
import { type Interruption, Waiting } from '../common/errors.js';
import { interrupted, type Outcome } from '../common/outcome.js';
import type { HostRef, VmRecord } from '../common/records.js';
import type { Dataplane } from '../dataplane/dataplane.js';
import { type Host, hostKey, type Hosts, machineLink } from '../host.js';
import type { Objects } from '../objects.js';
import type { Copying } from './copying.js';
import type { Filling } from './fill.js';
import type { Move } from './move.js';
import type { Course } from './policy.js';
import type { Places } from './queue.js';
import type { Still } from './still.js';

export interface MigrationDependencies {
  readonly objects: Objects;
  readonly hosts: Hosts;
  readonly directory: Directory;
  readonly dataplane: Dataplane;
  readonly store: KeyValueStore;
  /** The moves that this process started, by attempt. Losing it loses nothing: the daemons and Consul tell the rest. */
  readonly moves: Map<string, Move>;
  /** The copies that this process makes for offline moves, by attempt. */
  readonly copies: Map<string, Copying>;
  /** How copies that are under way get on, as this process has seen it, by attempt. */
  readonly courses: Map<string, Course>;
  /** What moves that wait for the daemons show, as this process has seen it, by attempt. */
  readonly stills: Map<string, Still>;
  /** How disks that are made whole get on, as this process has seen it, by attempt. */
  readonly fills: Map<string, Filling>;
  /** Who may move just now. */
  readonly places: Places;
  /** Attempts that a worker of this process has in hand: two queues may carry one whose VMMigration goes. */
  readonly carried: Set<string>;
  /** Disks that this process deletes just now, after a move, by fuid. */
  readonly clearing: Map<string, Promise<void>>;
  /** Asks for a reconcile of the migration. */
  readonly enqueue: (migration: VMMigration) => void;
  readonly log: (message: string, fields: Record<string, unknown>) => void;
  /** Wall clock, for timestamps only. */
  readonly clock: () => Date;
  /** Monotonic, in milliseconds. */
  readonly now: () => number;
}

export type Status = Omit<VMMigrationStatus, 'conditions' | 'observedGeneration'>;

/** How often the figures of a running copy are read. */
export const pollMs = 1_000;

/** It will never succeed: one-shot, like a Job. */
export class Failure extends Error {
  constructor(
    readonly reason: string,
    message: string,
  ) {
    super(message);
  }
}

export const isFinal = (phase: MigrationPhase | undefined): boolean =>
  phase === 'Succeeded' || phase === 'Failed' || phase === 'Cancelled';

/** Whether the machine has moved, which its figures tell, and only its disk still lacks something of its image. */
export const isFilling = ({ spec, status }: VMMigration): boolean =>
  spec.storage === 'Copy' && status?.phase === 'Finalizing' && status.totalTimeMs !== undefined;

export function isUnwanted({ metadata, spec }: VMMigration, machine: FederatedVM | undefined): boolean {
  return (
    metadata.deletionTimestamp !== undefined ||
    spec.cancel === true ||
    machine?.metadata.deletionTimestamp !== undefined
  );
}

export function concluded(migration: VMMigration, status: Status): Outcome<Status> {
  const ready = {
    value: status.phase === 'Succeeded',
    reason: status.reason ?? status.phase ?? 'Pending',
    message: status.message ?? '',
  };
  return {
    status,
    ready,
    ...(status.phase === 'Failed' ? { stalled: { reason: ready.reason, message: ready.message } } : {}),
    finished: migration.metadata.deletionTimestamp !== undefined,
  };
}

/** The status one step on; a phase that is entered gets its time. */
export function advance(
  migration: VMMigration,
  phase: MigrationPhase,
  reason: string,
  message: string,
  { clock }: Pick<MigrationDependencies, 'clock'>,
  more: Status = {},
): Status {
  // An estimate is of the moment.
  const { estimatedSecondsRemaining: _, ...before }: Status = migration.status ?? {};
  const time = clock().toISOString();
  const entered = before.phase !== phase;
  return {
    ...before,
    ...more,
    phase,
    reason,
    message,
    ...(before.startTime === undefined && phase !== 'Pending' ? { startTime: time } : {}),
    ...(entered ? { phaseTimestamps: [...(before.phaseTimestamps ?? []), { phase, time }] } : {}),
    ...(isFinal(phase) ? { completionTime: time } : {}),
  };
}

export function underWay(status: Status, requeueAfterMs: number): Outcome<Status> {
  const reason = status.phase ?? 'Pending';
  const message = status.message ?? '';
  return { status, ready: { value: false, reason, message }, reconciling: { reason, message }, requeueAfterMs };
}

export function pending(
  migration: VMMigration,
  error: Interruption,
  dependencies: MigrationDependencies,
): Outcome<Status> {
  const phase = migration.status?.phase ?? 'Pending';
  return interrupted(advance(migration, phase, error.reason, error.message, dependencies), error);
}

export function finish(
  migration: VMMigration,
  phase: 'Succeeded' | 'Failed' | 'Cancelled',
  reason: string,
  message: string,
  dependencies: MigrationDependencies,
  more: Status = {},
): Outcome<Status> {
  dependencies.moves.get(migration.metadata.uid)?.close();
  dependencies.moves.delete(migration.metadata.uid);
  dependencies.copies.get(migration.metadata.uid)?.close();
  dependencies.copies.delete(migration.metadata.uid);
  dependencies.courses.delete(migration.metadata.uid);
  dependencies.stills.delete(migration.metadata.uid);
  dependencies.fills.delete(migration.metadata.uid);
  return concluded(migration, advance(migration, phase, reason, message, dependencies, more));
}

export const place = ({ site, host }: HostRef): HostRef => ({ site, host });

/** What of the machine is sent, and why so much. */
export function what({ storage, target, mode }: VmRecord): string {
  if (mode === 'Offline') return 'the disk';
  switch (target?.storage) {
    case undefined:
    case 'Shared':
      return 'memory (the disk stays on the share)';
    case 'Cached':
      return 'memory and what the disk has beyond its image (it is Cached)';
    case 'Local':
      return `memory and all of the disk (${storage === 'Shared' ? 'it leaves the share: storage: Copy' : 'it is Local'})`;
  }
}

/** An end of a move. Throws Waiting while the driver that is to hold the machine there does not answer. */
export function reachable(
  ref: HostRef,
  record: Pick<VmRecord, 'driver'>,
  { hosts }: MigrationDependencies,
  end: 'source' | 'target',
): Host {
  const host = hosts.get(ref);
  const link = machineLink(host, record);
  if (!host || !link?.isConnected)
    throw new Waiting(
      'SiteUnreachable',
      `${end} ${hostKey(ref)}: ${link?.lastError?.message ?? 'not connected'}; nothing is moved until it answers`,
      5_000,
    );
  return host;
}
