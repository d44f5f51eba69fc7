import type { VMMigration } from '../../crds/index.js';
import type { Directory } from '../common/directory.js';
import { Waiting } from '../common/errors.js';
import type { Objects } from '../objects.js';
import { isFilling, isFinal, isUnwanted } from './step.js';

/** A move that has a place, or wants one. */
export interface Travel {
  /** The machine's namespace/name. */
  readonly machine: string;
  readonly from: string;
  readonly to: string;
  /** It has arrived, and sends nothing between sites any more. */
  readonly isThere?: boolean;
}

export interface Waiter extends Travel {
  readonly uid: string;
  /** namespace/name of the VMMigration. */
  readonly name: string;
  readonly priority: number;
  /** creationTimestamp, RFC 3339 in UTC. */
  readonly created: string;
}

export interface Limits {
  readonly all: number;
  readonly ofSite: (site: string) => number;
}

/** full: site is the one whose limit stands in the way, undefined: that of all sites. ahead: how many wait for the same before it. */
export type Turn =
  | { readonly kind: 'go' }
  | { readonly kind: 'another' }
  | { readonly kind: 'full'; readonly site: string | undefined; readonly limit: number; readonly ahead: number };

const sitesOf = ({ from, to }: Travel): readonly string[] => (from === to ? [from] : [from, to]);

const before = (a: Waiter, b: Waiter): number =>
  b.priority - a.priority || compare(a.created, b.created) || compare(a.name, b.name);

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/**
 * Whether it is this one's turn. Pure. Who waits for its site's limit alone does not hold up the moves of other sites, but
 * a place is kept for it at each of its own: who comes later does not overtake it there for ever.
 */
export function turnOf(self: Waiter, others: readonly Waiter[], running: readonly Travel[], limits: Limits): Turn {
  const machines = new Set(running.map(({ machine }) => machine));
  const taken = new Map<string, number>();
  const occupy = (travel: Travel): void => {
    for (const site of sitesOf(travel)) taken.set(site, (taken.get(site) ?? 0) + 1);
  };
  const moving = running.filter(({ isThere = false }) => !isThere);
  for (const each of moving) occupy(each);
  let all = moving.length;
  const passed: Waiter[] = [];
  for (const each of [self, ...others].sort(before)) {
    const isSelf = each.uid === self.uid;
    // A machine's next move begins after the one before it, whatever the limits.
    if (machines.has(each.machine)) {
      if (isSelf) return { kind: 'another' };
      continue;
    }
    machines.add(each.machine);
    if (all >= limits.all) {
      if (isSelf) return { kind: 'full', site: undefined, limit: limits.all, ahead: passed.length };
    } else {
      const site = sitesOf(each).find((name) => (taken.get(name) ?? 0) >= limits.ofSite(name));
      if (isSelf && site === undefined) return { kind: 'go' };
      if (isSelf && site !== undefined) {
        const ahead = passed.filter((other) => sitesOf(other).includes(site)).length;
        return { kind: 'full', site, limit: limits.ofSite(site), ahead };
      }
      occupy(each);
      if (site === undefined) all++;
    }
    passed.push(each);
  }
  throw new TypeError('unreachable: self is among those that wait');
}

const defaultSiteLimit = 2;
/** What a place's becoming free would not tell, the resync does. */
const patienceMs = 300_000;

/** Counted so far only, or every move that ends would be a write for each that waits. */
const many = 10;

/** For people: which limit, and how many are before it. */
export function queuedMessage({ site, limit, ahead }: Extract<Turn, { kind: 'full' }>): string {
  const whose =
    site === undefined
      ? `all sites together move (--max-migrations ${String(limit)})`
      : `site ${site} moves (spec.maxMigrations ${String(limit)})`;
  const line = ahead === 0 ? 'it is the next' : `${ahead < many ? String(ahead) : `${String(many)} or more`} before it`;
  return `as many machines as ${whose} at a time are on their way; ${line}`;
}

const hasReason = ({ status }: VMMigration, ...reasons: (string | undefined)[]): boolean =>
  reasons.includes(status?.reason);

/** Where a migration stands as to places. none: it is over, unwanted, or waits for something else first. */
export function standing(migration: VMMigration | undefined): 'running' | 'waiting' | 'none' {
  if (!migration || isFinal(migration.status?.phase)) return 'none';
  if (migration.status?.attempt !== undefined) return 'running';
  return !isUnwanted(migration, undefined) && hasReason(migration, undefined, 'Queued') ? 'waiting' : 'none';
}

/** Those that wait for a place. */
export const queued = (objects: Objects): VMMigration[] =>
  objects.openMigrations().filter((migration) => hasReason(migration, 'Queued'));

const keyOf = ({ namespace, name }: { readonly namespace: string; readonly name: string }): string =>
  `${namespace}/${name}`;

const machineOf = ({ metadata, spec }: VMMigration): string =>
  keyOf({ namespace: metadata.namespace, name: spec.vmName });

/**
 * Who may move just now, by the intents in the VMMigrations and by the records in Consul. Asking and taking wait for nothing
 * in between, so that no two workers take one place; the place is held here until the intent is seen in the API.
 */
export class Places {
  readonly #taken = new Map<string, Travel>();

  constructor(
    private readonly objects: Objects,
    private readonly directory: Directory,
    private readonly maxMigrations: number,
    private readonly wake: () => void,
  ) {}

  /** Throws Waiting while it is not this one's turn. */
  check(migration: VMMigration, from: string): void {
    const self = waiter(migration, from);
    const running = this.#running();
    // Its own, taken by an earlier try whose answer was lost.
    running.delete(self.uid);
    const turn = turnOf(self, this.#waiters(self.uid, running), [...running.values()], {
      all: this.maxMigrations,
      ofSite: (site) => this.objects.site(site)?.spec.maxMigrations ?? defaultSiteLimit,
    });
    switch (turn.kind) {
      case 'go':
        return;
      case 'another':
        throw new Waiting(
          'AnotherMigration',
          `FederatedVM ${migration.spec.vmName} is being moved by another VMMigration; this one follows`,
          5_000,
        );
      case 'full':
        throw new Waiting('Queued', queuedMessage(turn), patienceMs);
    }
  }

  /** Takes a place. Throws Waiting if there is none for it. */
  take(migration: VMMigration, from: string): void {
    this.check(migration, from);
    this.#taken.set(migration.metadata.uid, waiter(migration, from));
  }

  /** Gives back a place that no intent was written for. */
  release({ metadata }: VMMigration): void {
    if (this.#taken.delete(metadata.uid)) this.wake();
  }

  #running(): Map<string, Travel> {
    const running = new Map<string, Travel>();
    const open = new Set(this.objects.openMigrations().map(({ metadata }) => metadata.uid));
    for (const { namespace, name, site, attempt, target } of this.directory.moving()) {
      // One of which neither object is there is nobody's: it must not hold its place for ever.
      if (!(attempt !== undefined && open.has(attempt)) && !this.objects.machine(namespace, name)) continue;
      const machine = keyOf({ namespace, name });
      running.set(attempt ?? machine, { machine, from: site, to: target?.site ?? site });
    }
    const unseen = new Set<string>();
    for (const migration of this.objects.openMigrations()) {
      const { metadata, status, spec } = migration;
      const to = status?.target?.site ?? spec.target.site;
      if (standing(migration) === 'running')
        running.set(metadata.uid, {
          ...{ machine: machineOf(migration), from: status?.source?.site ?? to, to },
          isThere: isFilling(migration),
        });
      else unseen.add(metadata.uid);
    }
    for (const [uid, travel] of this.#taken)
      if (unseen.has(uid)) running.set(uid, travel);
      else this.#taken.delete(uid);
    return running;
  }

  #waiters(self: string, running: ReadonlyMap<string, Travel>): Waiter[] {
    return this.objects.openMigrations().flatMap((migration): Waiter[] => {
      const { metadata, spec } = migration;
      if (metadata.uid === self || running.has(metadata.uid) || standing(migration) !== 'waiting') return [];
      const machine = this.objects.machine(metadata.namespace, spec.vmName);
      const from = machine?.metadata.deletionTimestamp === undefined ? machine?.status?.site : undefined;
      return from === undefined ? [] : [waiter(migration, from)];
    });
  }
}

const waiter = (migration: VMMigration, from: string): Waiter => ({
  uid: migration.metadata.uid,
  name: keyOf(migration.metadata),
  priority: migration.spec.priority ?? 0,
  created: migration.metadata.creationTimestamp,
  machine: machineOf(migration),
  from,
  to: migration.spec.target.site,
});
