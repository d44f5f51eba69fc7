import type { FederatedVM, Site, VMMigration } from '../../crds/index.js';
import type { Directory } from '../common/directory.js';
import { isInterruption } from '../common/errors.js';
import type { Outcome } from '../common/outcome.js';
import { driverOf, type HostRef, type VmRecord } from '../common/records.js';
import { hostKey } from '../host.js';
import { emptied, evacuates, evacuationLabel, isEmptied, maintenanceEnded } from '../migration/evacuation.js';
import { standing } from '../migration/queue.js';
import { isFilling, isFinal } from '../migration/step.js';
import { storageNow } from '../migration/transfer.js';
import type { MoveRequest, Objects } from '../objects.js';
import { schedule, spannedSites } from '../vm/schedule.js';
import { machineSize } from '../vm/size.js';

/** What is to be done so that the places of a site that are in maintenance become empty. */
export interface Evacuation {
  readonly asks: readonly MoveRequest[];
  /** Evacuations that came to nothing and that one of asks follows. */
  readonly drops: readonly VMMigration[];
  /** Machines that are on their way, or will be without anybody's doing. */
  readonly moving: number;
  /** Machines that can't move, and why. */
  readonly staying: readonly string[];
  /** When to look again, in milliseconds; undefined: there is nothing to wait for. */
  readonly againMs: number | undefined;
}

interface Resident {
  readonly record: VmRecord;
  readonly place: 'Site' | 'Host';
}

type Fate =
  | { readonly kind: 'moving' }
  | { readonly kind: 'asks'; readonly ask: MoveRequest; readonly after: VMMigration | undefined }
  | { readonly kind: 'stays'; readonly why: string; readonly againMs: number };

/** Room elsewhere is not told of. */
const lookAgainMs = 30_000;
const firstRetryMs = 30_000;
const longestRetryMs = 900_000;

/** What it takes to empty a site, or those of its hosts, in maintenance; undefined: none is. Pure. */
export function planEvacuation(site: Site, objects: Objects, directory: Directory, now: Date): Evacuation | undefined {
  if (!isEmptied(site)) return undefined;
  const residents = [...directory.machines()].flatMap(([, { value: record }]): Resident[] => {
    // One that is on its way here has not left either.
    const [place] = [record, record.target].flatMap((ref) =>
      ref?.site === site.metadata.name ? (emptied(site, ref.host) ?? []) : [],
    );
    return place ? [{ record, place }] : [];
  });
  const promised = promises(objects);
  const asks: MoveRequest[] = [];
  const drops: VMMigration[] = [];
  const staying: string[] = [];
  const waits: number[] = [];
  let moving = 0;
  for (const each of residents.sort((a, b) => (title(a) < title(b) ? -1 : 1))) {
    const fate = fateOf(each, site, objects, directory, promised, now);
    switch (fate.kind) {
      case 'moving':
        moving++;
        break;
      case 'asks':
        asks.push(fate.ask);
        if (fate.after) drops.push(fate.after);
        promise(promised, fate.ask, objects);
        break;
      case 'stays':
        staying.push(`${title(each)} (${hostKey(each.record)}): ${fate.why}`);
        waits.push(fate.againMs);
        break;
    }
  }
  return { asks, drops, moving, staying, againMs: waits.length > 0 ? Math.min(...waits) : undefined };
}

const title = ({ record }: Resident): string => `${record.namespace}/${record.name}`;

function fateOf(
  resident: Resident,
  site: Site,
  objects: Objects,
  directory: Directory,
  promised: ReadonlyMap<string, bigint>,
  now: Date,
): Fate {
  const { record } = resident;
  const stays = (why: string, againMs = lookAgainMs): Fate => ({ kind: 'stays', why, againMs });
  if (record.phase !== 'Owned') return { kind: 'moving' };
  const machine = objects.machine(record.namespace, record.name);
  if (!machine) return stays('there is no FederatedVM of that name; see isthmus audit');
  const migrations = objects.migrationsOf(record.namespace, record.name);
  const open = migrations.filter(({ status }) => !isFinal(status?.phase));
  const filling = open.find(isFilling);
  if (filling) return stays(`VMMigration ${filling.metadata.name} makes its disk whole before it can move`);
  if (open.some((each) => standing(each) !== 'none')) return { kind: 'moving' };
  const [first] = open;
  if (first) return stays(`VMMigration ${first.metadata.name} waits: ${first.status?.message ?? 'not looked at yet'}`);
  const immobile = immobility(machine, site, record);
  if (immobile !== undefined) return stays(immobile);
  const destinations = destinationsOf(machine.spec.placement, record, resident.place);
  if (destinations.length === 0)
    return stays(`spec.placement pins it to ${placementText(machine)}; change that, or move it with a VMMigration`);
  const last = lastTry(machine, record, migrations);
  const waitMs = last ? retryMs(last, now) : 0;
  if (last && waitMs > 0)
    return stays(
      `VMMigration ${last.migration.metadata.name} came to nothing: ${last.migration.status?.message ?? ''}; it is tried again`,
      waitMs,
    );
  const target = choose(machine, record, destinations, objects, directory, promised);
  if (typeof target === 'string') return stays(target);
  const name = evacuationName(machine, record, (last?.count ?? 0) + 1);
  const labels = { [evacuationLabel]: site.metadata.name };
  return { kind: 'asks', ask: { machine, name, target, labels }, after: last?.migration };
}

/** Why a machine can't move as it is now. */
function immobility({ metadata, spec, status }: FederatedVM, site: Site, { host }: VmRecord): string | undefined {
  if (metadata.deletionTimestamp !== undefined) return 'it is being deleted';
  if (site.spec.hosts.find(({ name }) => name === host)?.fenced) return 'its host is fenced';
  // One that is stopped moves offline.
  if (spec.runStrategy === 'Stopped' && (status?.phase === 'Stopped' || status?.phase === 'Failed')) return undefined;
  if (status?.phase !== 'Running' && status?.phase !== 'Paused') return `it is ${status?.phase ?? 'not looked at yet'}`;
  if (spec.type === 'Container')
    return 'it is a container, which moves only while it is stopped (runStrategy: Stopped)';
  return undefined;
}

interface Destination {
  readonly site: string | undefined;
}

/** Where to look for room, the nearest first; empty: spec.placement pins the machine to what is emptied. Pure. */
export function destinationsOf(
  placement: FederatedVM['spec']['placement'],
  at: HostRef,
  place: 'Site' | 'Host',
): readonly Destination[] {
  const isPinned = placement?.site === at.site && (placement.host === undefined || placement.host === at.host);
  if (!isPinned) return place === 'Host' ? [{ site: at.site }, { site: undefined }] : [{ site: undefined }];
  return place === 'Host' && placement.host === undefined ? [{ site: at.site }] : [];
}

const placementText = ({ spec: { placement } }: FederatedVM): string =>
  [placement?.site, placement?.host].filter((part) => part !== undefined).join('/');

/** A host, or why there is none. */
function choose(
  machine: FederatedVM,
  record: VmRecord,
  destinations: readonly Destination[],
  objects: Objects,
  directory: Directory,
  promised: ReadonlyMap<string, bigint>,
): HostRef | string {
  const isLocal = (record.storage ?? storageNow(machine, record, { objects })) === 'Local';
  let why = '';
  for (const { site } of destinations)
    try {
      return schedule(
        {
          ...{ size: sizeOf(machine, objects), driver: driverOf(record) },
          ...{ sites: spannedSites(record, directory), site, host: undefined },
          ...{ needsShare: !isLocal, sharedWith: isLocal ? undefined : record.site, promised, field: 'spec.placement' },
        },
        objects,
        directory,
      );
    } catch (error) {
      if (!isInterruption(error)) throw error;
      why = error.message;
    }
  return why;
}

const sizeOf = ({ spec }: FederatedVM, objects: Objects) =>
  machineSize(spec, spec.template === undefined ? undefined : objects.template(spec.template)?.spec);

/** By machine and by its record's generation, so that asking again makes no second one. */
const evacuationName = ({ metadata }: FederatedVM, { generation }: VmRecord, count: number): string =>
  `${metadata.name}-evacuation-${String(generation)}-${String(count)}`;

interface Try {
  readonly migration: VMMigration;
  readonly count: number;
}

/** The latest evacuation of the machine from where it is; all of them are over. */
function lastTry(machine: FederatedVM, record: VmRecord, migrations: readonly VMMigration[]): Try | undefined {
  const prefix = evacuationName(machine, record, 0).slice(0, -1);
  return migrations
    .filter((migration) => evacuates(migration) !== undefined && migration.metadata.name.startsWith(prefix))
    .map((migration) => ({ migration, count: Number(migration.metadata.name.slice(prefix.length)) }))
    .sort((a, b) => b.count - a.count)[0];
}

/** How long to wait with the next; twice as long each time. What the end of maintenance has stopped is no failure. */
function retryMs({ migration: { status }, count }: Try, now: Date): number {
  if (status?.reason === maintenanceEnded || status?.completionTime === undefined) return 0;
  const delayMs = Math.min(firstRetryMs * 2 ** (count - 1), longestRetryMs);
  return Date.parse(status.completionTime) + delayMs - now.getTime();
}

/** The memory that moves will take that are asked for and have not begun. */
function promises(objects: Objects): Map<string, bigint> {
  const promised = new Map<string, bigint>();
  for (const migration of objects.openMigrations()) {
    const { metadata, spec, status } = migration;
    const machine = objects.machine(metadata.namespace, spec.vmName);
    if (machine && (status?.phase ?? 'Pending') === 'Pending')
      promise(promised, { machine, target: spec.target }, objects);
  }
  return promised;
}

function promise(
  promised: Map<string, bigint>,
  { machine, target }: Pick<MoveRequest, 'machine' | 'target'>,
  objects: Objects,
): void {
  if (target.host === undefined) return;
  const key = hostKey({ site: target.site, host: target.host });
  promised.set(key, (promised.get(key) ?? 0n) + sizeOf(machine, objects).memoryBytes);
}

/** Above that many a message counts instead of naming. */
const named = 10;

/** Pure. */
export function evacuated({ asks, moving, staying }: Evacuation): NonNullable<Outcome<unknown>['conditions']>[number] {
  const type = 'Evacuated';
  const under = moving + asks.length;
  if (under + staying.length === 0)
    return { type, status: 'True', reason: 'Empty', message: 'no machine is left where there is maintenance' };
  const rest = staying.length > named ? `; and ${String(staying.length - named)} more` : '';
  const parts = [
    ...(under > 0 ? [`${String(under)} on their way (VMMigrations with the label ${evacuationLabel})`] : []),
    ...(staying.length > 0
      ? [`${String(staying.length)} can't move: ${staying.slice(0, named).join('; ')}${rest}`]
      : []),
  ];
  const reason = under > 0 ? 'Evacuating' : 'MachinesStay';
  return { type, status: 'False', reason, message: `machines still here: ${parts.join('; ')}` };
}
