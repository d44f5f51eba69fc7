import type { Entry, KeyValueStore, TxnOperation, View } from '../../drivers/consul/types.js';
import { Stalled, Transient, Waiting, attempt } from './errors.js';
import { keys, objectRecord, ownerRecord, parseRecord, prefixes, serialise } from './records.js';

/** One value wanted of a space: the key that stands for it, and how the next candidate is found. */
export interface Claim {
  /** What it is, for messages: "VLAN 120", "address 172.16.0.20". */
  readonly what: string;
  /** The spec field that a user would change. */
  readonly field: string;
  readonly key: string;
  /** A pin is the user's: another value won't do. */
  readonly pinned: boolean;
}

/** What an owner is to get: its claims, and the records that are written in the same transaction. */
export interface Grant {
  readonly claims: readonly Claim[];
  readonly records: Readonly<Record<string, object>>;
}

const rounds = 32;

/**
 * Picks free values by a local view and lets a CAS decide. All that an owner gets is created in one transaction with its
 * owner record, so that a crash leaves either nothing or everything, and release is exact.
 */
export class Allocator {
  readonly #taken: readonly View[];

  constructor(private readonly store: KeyValueStore) {
    this.#taken = [prefixes.vlan, prefixes.vni, prefixes.ip, prefixes.mac].map((prefix) => store.watch(prefix));
  }

  async ready(timeoutMs?: number): Promise<void> {
    await Promise.all(this.#taken.map((view) => view.ready(timeoutMs)));
  }

  /** Whether the view shows a key as held. A stale answer costs a round, never a double grant. */
  isTaken(key: string): boolean {
    return this.#taken.some((view) => view.get(key) !== undefined);
  }

  /**
   * Grants what plan proposes; plan is asked again, with the keys that turned out to be taken, when a CAS is lost.
   * Resolves false if the owner already holds a grant (an earlier try whose answer was lost): read it and go on.
   * Throws Stalled for a taken pin, naming the holder; Transient while Consul is away.
   */
  async grant(
    fuid: string,
    object: { kind: string; namespace: string; name: string },
    plan: (lost: ReadonlySet<string>) => Grant,
  ): Promise<boolean> {
    const lost = new Set<string>();
    for (let round = 0; round < rounds; round++) {
      const { claims, records } = plan(lost);
      const owner = { keys: [...claims.map(({ key }) => key), ...Object.keys(records), keys.object(fuid)] };
      const operations: TxnOperation[] = [
        ...claims.map(({ key }): TxnOperation => ({ verb: 'cas', key, value: fuid, index: 0 })),
        ...Object.entries(records).map(([key, record]): TxnOperation => ({
          verb: 'cas',
          key,
          value: serialise(record),
          index: 0,
        })),
        { verb: 'cas', key: keys.owner(fuid), value: serialise(owner), index: 0 },
        { verb: 'set', key: keys.object(fuid), value: serialise(object) },
      ];
      const result = await consul('claiming', () => this.store.transact(operations));
      if (result.ok) return true;
      const failed = result.failed.map(({ operation }) => claims[operation]).filter((claim) => claim !== undefined);
      if (failed.length === 0 || (await this.#held(keys.owner(fuid)))) return false;
      for (const claim of failed) {
        if (claim.pinned) await this.#refuse(claim);
        lost.add(claim.key);
      }
    }
    throw new Transient('AllocationContended', `no claim won in ${String(rounds)} rounds; it is tried again`);
  }

  /** Gives an owner one more record, to be freed with the rest. */
  async hold(fuid: string, key: string, record: object): Promise<void> {
    const entry = await consul('reading', () => this.store.get(keys.owner(fuid)));
    const owner = entry && parseRecord(ownerRecord, entry);
    if (!owner) throw new Transient('AllocationUnseen', 'what was allocated is not visible yet');
    const held = { keys: [...new Set([...owner.value.keys, key])] };
    const result = await consul('claiming', () =>
      this.store.transact([
        { verb: 'cas', key, value: serialise(record), index: 0 },
        { verb: 'cas', key: keys.owner(fuid), value: serialise(held), index: owner.index },
      ]),
    );
    if (!result.ok) throw new Transient('RecordChanged', 'what is held changed meanwhile; it is read again');
  }

  /** Frees exactly what the owner holds, and nothing that has since been given to another. */
  async release(fuid: string): Promise<void> {
    const entry = await consul('releasing', () => this.store.get(keys.owner(fuid)));
    if (!entry) return;
    const owner = parseRecord(ownerRecord, entry);
    const held = await consul('releasing', () => Promise.all(owner.value.keys.map((key) => this.store.get(key))));
    const ours = held.filter((each) => each !== undefined).filter((each) => belongsTo(each, fuid));
    const result = await consul('releasing', () =>
      this.store.transact([...ours, entry].map(({ key, index }): TxnOperation => ({ verb: 'delete-cas', key, index }))),
    );
    if (!result.ok)
      throw new Transient('ReleaseContended', 'what is held changed while it was being released; it is tried again');
  }

  close(): void {
    for (const view of this.#taken) view.close();
  }

  async #held(key: string): Promise<boolean> {
    return (await consul('reading', () => this.store.get(key))) !== undefined;
  }

  async #refuse(claim: Claim): Promise<never> {
    const entry = await consul('reading', () => this.store.get(claim.key));
    const holder = entry ? await this.holder(entry.value) : 'another object';
    // The holder may let go at any time, so this is looked at again.
    throw new Waiting(
      'AlreadyTaken',
      `${claim.field}: ${claim.what} is held by ${holder}; choose another or leave the field out`,
      30_000,
    );
  }

  /** An owner as people know it: "FederatedNetwork acme/blue". */
  async holder(fuid: string): Promise<string> {
    const entry = await consul('reading', () => this.store.get(keys.object(fuid)));
    if (!entry) return `an unregistered object (uid ${fuid})`;
    const { kind, namespace, name } = parseRecord(objectRecord, entry).value;
    return `${kind} ${namespace}/${name}`;
  }
}

/** Claims hold the bare fuid; records are keyed by it. */
function belongsTo({ key, value }: Entry, fuid: string): boolean {
  return value === fuid || key.endsWith(`/${fuid}`);
}

/**
 * The fuid of an object: its own uid, or, for a replica of an object first created elsewhere, the annotation, which
 * counts only if the registry agrees, so that a tenant can't adopt another's things by writing an annotation.
 */
export async function federatedUid(
  store: KeyValueStore,
  object: {
    kind: string;
    metadata: {
      uid: string;
      namespace?: string | undefined;
      name: string;
      annotations?: Record<string, string> | undefined;
    };
  },
): Promise<string> {
  const claimed = object.metadata.annotations?.[uidAnnotation];
  if (claimed === undefined || claimed === object.metadata.uid) return object.metadata.uid;
  const entry = await consul('reading', () => store.get(keys.object(claimed)));
  const record = entry && parseRecord(objectRecord, entry).value;
  if (
    record?.kind !== object.kind ||
    record.namespace !== object.metadata.namespace ||
    record.name !== object.metadata.name
  )
    throw new Stalled(
      'IdentityMismatch',
      `metadata.annotations[${uidAnnotation}]: ${claimed} is not registered for ${object.kind} ${object.metadata.namespace ?? ''}/${object.metadata.name}; remove the annotation`,
    );
  return claimed;
}

export const uidAnnotation = 'isthmus.dev/uid';

export function consul<T>(doing: string, call: () => Promise<T>): Promise<T> {
  return attempt('ConsulUnavailable', `Consul, ${doing}`, call);
}
