import { Subject, type Observable, type Subscription } from 'rxjs';
import type { Entry, KeyValueStore, View } from '../../drivers/consul/types.js';
import { Stalled, Transient } from './errors.js';
import { domainUuid, networkUuid } from './identity.js';
import {
  keys,
  networkRecord,
  parseRecord,
  policyRecord,
  prefixes,
  vmRecord,
  type InterfaceRecord,
  type NetworkRecord,
  type Policy,
  type Versioned,
  type VmRecord,
} from './records.js';

/** What changed in the directory. */
export interface DirectoryChange {
  /** Networks whose record or policy changed, or one of whose machines did, by fuid. */
  readonly networks: ReadonlySet<string>;
  /** The VNIs that those networks have or had. */
  readonly vnis: ReadonlySet<number>;
  readonly machines: ReadonlySet<string>;
}

type Change = { networks: Iterable<string>; vnis: Iterable<number>; machines: Iterable<string> };

/**
 * The federation's networks and machines as Consul tells, kept current and indexed, so that the cost of one change does
 * not grow with what exists. A site learns from here, and only from here, where the others' machines are.
 */
export class Directory {
  readonly #networks = new Map<string, Versioned<NetworkRecord>>();
  readonly #policies = new Map<string, Versioned<Policy>>();
  readonly #byVni = new Map<number, string>();
  readonly #machines = new Map<string, Versioned<VmRecord>>();
  readonly #machinesOf = new Map<string, Set<string>>();
  readonly #moving = new Map<string, VmRecord>();
  readonly #interfaces = new Map<string, InterfaceRecord>();
  readonly #byDomain = new Map<string, string>();
  readonly #byNetworkUuid = new Map<string, string>();
  /** Keys whose values can't be read: what they stood for exists, though nothing is known of it. */
  readonly #damaged = new Set<string>();
  readonly #changes = new Subject<DirectoryChange>();
  readonly #views: readonly { view: View; subscription: Subscription }[];

  constructor(
    store: KeyValueStore,
    private readonly onDamage: (key: string, error: unknown) => void,
  ) {
    const follow = (prefix: string, take: (key: string, entry: Entry | undefined) => Change) => {
      const view = store.watch(prefix);
      const subscription = view.changes.subscribe((changed) => {
        const networks = new Set<string>();
        const vnis = new Set<number>();
        const machines = new Set<string>();
        for (const key of changed) {
          const change = this.#guarded(key, () => take(key.slice(prefix.length), view.get(key)));
          for (const fuid of change?.networks ?? []) networks.add(fuid);
          for (const vni of change?.vnis ?? []) vnis.add(vni);
          for (const fuid of change?.machines ?? []) machines.add(fuid);
        }
        this.#changes.next({ networks, vnis, machines });
      });
      return { view, subscription };
    };
    this.#views = [
      follow(prefixes.network, (fuid, entry) => this.#takeNetwork(fuid, entry)),
      follow(prefixes.vm, (fuid, entry) => this.#takeMachine(fuid, entry)),
      follow(prefixes.policy, (fuid, entry) => this.#takePolicy(fuid, entry)),
    ];
  }

  get changes(): Observable<DirectoryChange> {
    return this.#changes;
  }

  /** False while Consul is away: what is not seen here may then exist, so nothing is removed for its absence. */
  get current(): boolean {
    return this.#views.every(({ view }) => view.current);
  }

  async ready(timeoutMs?: number): Promise<void> {
    await Promise.all(this.#views.map(({ view }) => view.ready(timeoutMs)));
  }

  network(fuid: string): Versioned<NetworkRecord> | undefined {
    return this.#networks.get(fuid);
  }

  networks(): IterableIterator<[string, Versioned<NetworkRecord>]> {
    return this.#networks.entries();
  }

  /** A network's firewall and flows; undefined: it has none. */
  policy(fuid: string): Versioned<Policy> | undefined {
    return this.#policies.get(fuid);
  }

  networkOfVni(vni: number): string | undefined {
    return this.#byVni.get(vni);
  }

  machine(fuid: string): Versioned<VmRecord> | undefined {
    return this.#machines.get(fuid);
  }

  machines(): IterableIterator<[string, Versioned<VmRecord>]> {
    return this.#machines.entries();
  }

  /** The records of the machines that are being moved. */
  moving(): IterableIterator<VmRecord> {
    return this.#moving.values();
  }

  /** The machine of a libvirt domain, and the network of a libvirt network, by UUID. */
  machineOfDomain(uuid: string): string | undefined {
    return this.#byDomain.get(uuid);
  }

  networkOfUuid(uuid: string): string | undefined {
    return this.#byNetworkUuid.get(uuid);
  }

  /** The machine's interface that an OVS port's iface-id names. */
  interface(id: string): InterfaceRecord | undefined {
    return this.#interfaces.get(id);
  }

  /** The machines with an interface on a network, by fuid. */
  *machinesOf(networkFuid: string): IterableIterator<[string, VmRecord]> {
    for (const fuid of this.#machinesOf.get(networkFuid) ?? []) {
      const machine = this.#machines.get(fuid);
      if (machine) yield [fuid, machine.value];
    }
  }

  /** The VNIs of a machine's networks. */
  vnisOf(fuid: string): number[] {
    return (this.#machines.get(fuid)?.value.interfaces ?? []).flatMap(
      ({ network }) => this.#networks.get(network)?.value.vni ?? [],
    );
  }

  /** Whether every record could be read; while one could not, what is not known of may exist. */
  get isSound(): boolean {
    return this.#damaged.size === 0;
  }

  /** Throws Stalled if the record of that object can't be read: it must not be taken for one that does not exist. */
  assertSound(fuid: string): void {
    const key = [keys.network(fuid), keys.policy(fuid), keys.vm(fuid)].find((each) => this.#damaged.has(each));
    if (key !== undefined)
      throw new Stalled(
        'RecordDamaged',
        `Consul key ${key} does not hold what it should; restore it from a backup of Consul`,
      );
  }

  /** Throws while what is seen may be stale, for decisions that a stale view would make wrongly. */
  assertCurrent(): void {
    if (!this.current)
      throw new Transient('ConsulUnavailable', 'Consul does not answer: nothing is allocated or removed until it does');
  }

  close(): void {
    for (const { view, subscription } of this.#views) {
      subscription.unsubscribe();
      view.close();
    }
    this.#changes.complete();
  }

  #takeNetwork(fuid: string, entry: Entry | undefined): Change {
    const record = entry && parseRecord(networkRecord, entry);
    const before = this.#networks.get(fuid);
    const vnis: number[] = [];
    if (before) {
      vnis.push(before.value.vni);
      if (this.#byVni.get(before.value.vni) === fuid) this.#byVni.delete(before.value.vni);
      this.#networks.delete(fuid);
      this.#byNetworkUuid.delete(networkUuid(fuid));
    }
    if (record) {
      this.#byNetworkUuid.set(networkUuid(fuid), fuid);
      vnis.push(record.value.vni);
      this.#networks.set(fuid, record);
      this.#byVni.set(record.value.vni, fuid);
    }
    return { networks: [fuid], vnis, machines: [] };
  }

  #takePolicy(fuid: string, entry: Entry | undefined): Change {
    const record = entry && parseRecord(policyRecord, entry);
    if (record) this.#policies.set(fuid, record);
    else this.#policies.delete(fuid);
    const vni = this.#networks.get(fuid)?.value.vni;
    return { networks: [fuid], vnis: vni === undefined ? [] : [vni], machines: [] };
  }

  #takeMachine(fuid: string, entry: Entry | undefined): Change {
    const record = entry && parseRecord(vmRecord, entry);
    const networks = new Set<string>();
    for (const { network, id } of this.#machines.get(fuid)?.value.interfaces ?? []) {
      networks.add(network);
      this.#interfaces.delete(id);
      const machines = this.#machinesOf.get(network);
      machines?.delete(fuid);
      if (machines?.size === 0) this.#machinesOf.delete(network);
    }
    this.#machines.delete(fuid);
    this.#moving.delete(fuid);
    this.#byDomain.delete(domainUuid(fuid));
    if (record) {
      this.#byDomain.set(domainUuid(fuid), fuid);
      this.#machines.set(fuid, record);
      if (record.value.phase === 'Moving') this.#moving.set(fuid, record.value);
      for (const each of record.value.interfaces) {
        networks.add(each.network);
        this.#interfaces.set(each.id, each);
        this.#machinesOf.set(each.network, (this.#machinesOf.get(each.network) ?? new Set()).add(fuid));
      }
    }
    const vnis = [...networks].flatMap((network) => this.#networks.get(network)?.value.vni ?? []);
    return { networks, vnis, machines: [fuid] };
  }

  /** A damaged record is reported and leaves what was known before. */
  #guarded(key: string, take: () => Change): Change | undefined {
    this.#damaged.delete(key);
    try {
      return take();
    } catch (error) {
      this.#damaged.add(key);
      this.onDamage(key, error);
      return undefined;
    }
  }
}
