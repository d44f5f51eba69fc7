import { isDeepStrictEqual } from 'node:util';
import { Subject, type Observable } from 'rxjs';
import type { Ovsdb, Row, RowChange } from '../../drivers/ovsdb/types.js';
import { ovsdbMark } from '../common/identity.js';
import { entries } from '../common/rows.js';

export interface PortChange {
  /** The iface-ids whose port came, went or got another number. */
  readonly interfaceId?: string;
  /** A port of the bridges themselves changed (patch, tunnel): everything on the host depends on it. */
  readonly infrastructure?: true;
  /** A tunnel came, went, or its far end is heard of no more, or again. */
  readonly liveness?: true;
}

/** What BFD (RFC 5880) tells of a tunnel. */
export interface Liveness {
  readonly isUp: boolean;
  /** Why it went down last, in BFD's words. */
  readonly diagnostic: string;
}

interface Port {
  readonly ofport: number | undefined;
  readonly interfaceId: string | undefined;
  readonly peer: string | undefined;
  readonly name: string;
  readonly ours: boolean;
  readonly liveness: Liveness | undefined;
}

/** OpenFlow port numbers of one host's interfaces, by what they are for; kept current by the OVSDB monitor. */
export class Ports {
  readonly #rows = new Map<string, Port>();
  readonly #byInterfaceId = new Map<string, string>();
  readonly #byName = new Map<string, string>();
  readonly #byPeer = new Map<string, string>();
  readonly #changes = new Subject<PortChange>();
  readonly #subscription;

  constructor(ovsdb: Pick<Ovsdb, 'changes' | 'rows'>) {
    this.#subscription = ovsdb.changes.subscribe((change) => this.#take(change));
    for (const [uuid, row] of known(ovsdb)) this.#take({ table: 'Interface', uuid, new: row });
  }

  get changes(): Observable<PortChange> {
    return this.#changes;
  }

  /** The port of a machine's interface, once the switch has given it a number. */
  machine(interfaceId: string): number | undefined {
    return this.#number(this.#byInterfaceId.get(interfaceId));
  }

  named(name: string): number | undefined {
    return this.#number(this.#byName.get(name));
  }

  /** The tunnel to a peer host ("site/host"). */
  tunnel(peer: string): number | undefined {
    return this.#number(this.#byPeer.get(peer));
  }

  /** The tunnels to all hosts of a site. */
  tunnelsTo(site: string): number[] {
    return [...this.#byPeer].flatMap(([peer, uuid]) => (peer.startsWith(`${site}/`) ? (this.#number(uuid) ?? []) : []));
  }

  /** The tunnels that have a port, by peer host. */
  tunnels(): ReadonlyMap<string, number> {
    const numbered = [...this.#byPeer].map(([peer, uuid]) => [peer, this.#number(uuid)] as const);
    return new Map(numbered.flatMap(([peer, port]) => (port === undefined ? [] : [[peer, port]])));
  }

  /** What the tunnels' liveness is, by peer host; undefined: the switch does not say. */
  liveness(): ReadonlyMap<string, Liveness | undefined> {
    return new Map([...this.#byPeer].map(([peer, uuid]) => [peer, this.#rows.get(uuid)?.liveness]));
  }

  close(): void {
    this.#subscription.unsubscribe();
    this.#changes.complete();
  }

  #number(uuid: string | undefined): number | undefined {
    return uuid === undefined ? undefined : this.#rows.get(uuid)?.ofport;
  }

  #take(change: RowChange): void {
    if (change.table !== 'Interface') return;
    const before = this.#rows.get(change.uuid);
    const after = change.new && portOf(change.new);
    if (before) this.#unindex(change.uuid, before);
    if (after) this.#index(change.uuid, after);
    for (const interfaceId of new Set([before?.interfaceId, after?.interfaceId]))
      if (interfaceId !== undefined) this.#changes.next({ interfaceId });
    if (!before?.ours && !after?.ours) return;
    const sameTunnel = before?.name === after?.name && before?.peer === after?.peer;
    if (!sameTunnel || before?.ofport !== after?.ofport) this.#changes.next({ infrastructure: true });
    if (!sameTunnel || !isDeepStrictEqual(before?.liveness, after?.liveness)) this.#changes.next({ liveness: true });
  }

  #index(uuid: string, port: Port): void {
    this.#rows.set(uuid, port);
    this.#byName.set(port.name, uuid);
    if (port.peer !== undefined) this.#byPeer.set(port.peer, uuid);
    // A stale row of a crashed guest may carry the same iface-id: the one with a port number counts.
    if (port.interfaceId !== undefined && (port.ofport !== undefined || !this.#byInterfaceId.has(port.interfaceId)))
      this.#byInterfaceId.set(port.interfaceId, uuid);
  }

  #unindex(uuid: string, port: Port): void {
    this.#rows.delete(uuid);
    if (this.#byName.get(port.name) === uuid) this.#byName.delete(port.name);
    if (port.peer !== undefined && this.#byPeer.get(port.peer) === uuid) this.#byPeer.delete(port.peer);
    if (port.interfaceId !== undefined && this.#byInterfaceId.get(port.interfaceId) === uuid)
      this.#byInterfaceId.delete(port.interfaceId);
  }
}

/** What the replica holds already; nothing while it is not connected: it then comes as changes. */
function known(ovsdb: Pick<Ovsdb, 'rows'>): Iterable<[string, Row]> {
  try {
    return ovsdb.rows('Interface');
  } catch {
    return [];
  }
}

function portOf(row: Row): Port {
  const ids = entries(row, 'external_ids');
  const ofports = row['ofport'];
  const ofport: unknown = Array.isArray(ofports) ? ofports[0] : ofports;
  return {
    name: typeof row['name'] === 'string' ? row['name'] : '',
    // -1 says that the switch could not make the port.
    ofport: typeof ofport === 'number' && ofport > 0 ? ofport : undefined,
    interfaceId: ids.get('iface-id'),
    peer: ids.get(ovsdbMark) === 'tunnel' ? ids.get(`${ovsdbMark}-peer`) : undefined,
    ours: ids.has(ovsdbMark),
    liveness: livenessOf(entries(row, 'bfd_status')),
  };
}

function livenessOf(status: ReadonlyMap<string, string>): Liveness | undefined {
  const state = status.get('state');
  return state === undefined ? undefined : { isUp: state === 'up', diagnostic: status.get('diagnostic') ?? '' };
}
