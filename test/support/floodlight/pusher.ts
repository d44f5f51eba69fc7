import { flowKey } from '../../../drivers/openflow/flow.js';
import type { Flow } from '../../../drivers/openflow/types.js';
import type { SwitchConnection } from './controller.js';
import { BadMatch, EndlessMatch, type ParsedRow, parseRow, printEntry, type Row } from './language.js';

interface Entry extends ParsedRow {
  /** Also how it is sent again when its switch returns. */
  readonly command: 'ADD' | 'MODIFY';
}

/** The static entry pusher: what it has stored, and what it believes to be on the switches. They differ. */
export class Pusher {
  /** It is in an endless loop, with the lock that every change needs. Only a restart helps. */
  wedged = false;
  /** By switch and name, with those that a removal has missed. A switch is known from its first entry on. */
  readonly #entries = new Map<string, Map<string, Entry>>();
  /** Where the entry of that name is. Names are global. */
  readonly #owner = new Map<string, string>();

  /** By the text of the datapath id, in small letters. */
  constructor(private readonly connection: (dpid: string) => SwitchConnection | undefined) {}

  store(row: Row): void {
    const name = row.get('name');
    const dpid = row.get('switch')?.toLowerCase();
    if (name === undefined || dpid === undefined) return;
    const entries = this.#entries.get(dpid) ?? new Map<string, Entry>();
    this.#entries.set(dpid, entries);
    const connection = this.connection(dpid);
    if (connection === undefined) {
      this.remove(name);
      return;
    }
    // So a real one ignores groups' keys too: nothing here speaks of groups.
    const parsed = this.#parse(row);
    if (parsed === undefined) return;
    const oldDpid = this.#owner.get(name);
    const old = oldDpid === undefined ? undefined : this.#entries.get(oldDpid)?.get(name);
    if (oldDpid !== undefined) this.#entries.get(oldDpid)?.delete(name);
    this.#owner.set(name, dpid);
    // The table is not compared.
    const isSame = (a: Entry) => a.priority === parsed.priority && sameMatch(a.flow, parsed.flow) && oldDpid === dpid;
    if (old !== undefined && isSame(old)) {
      entries.set(name, { ...parsed, command: 'MODIFY' });
      connection.write({ command: 'MODIFY_STRICT', flow: parsed.flow, sendFlowRemoved: true });
      return;
    }
    if (old !== undefined && oldDpid !== undefined)
      this.connection(oldDpid)?.write({ command: 'DELETE_STRICT', flow: old.flow, sendFlowRemoved: false });
    entries.set(name, { ...parsed, command: 'ADD' });
    connection.write({ command: 'ADD', flow: parsed.flow, sendFlowRemoved: true });
  }

  remove(name: string): void {
    const dpid = this.#owner.get(name);
    this.#owner.delete(name);
    const connection = dpid === undefined ? undefined : this.connection(dpid);
    if (dpid === undefined || connection === undefined) return;
    const entry = this.#entries.get(dpid)?.get(name);
    this.#entries.get(dpid)?.delete(name);
    if (entry !== undefined) connection.write({ command: 'DELETE_STRICT', flow: entry.flow, sendFlowRemoved: false });
  }

  clear(dpid?: string): void {
    for (const [name, owner] of [...this.#owner]) if (dpid === undefined || owner === dpid) this.remove(name);
  }

  /** The switch is back. */
  resend(dpid: string): void {
    const entries = [...(this.#entries.get(dpid)?.values() ?? [])];
    for (const { command, flow } of entries.sort((a, b) => a.priority - b.priority))
      this.connection(dpid)?.write({ command, flow, sendFlowRemoved: true });
  }

  /** Whatever the reason, the entry is taken for removed. */
  flowRemoved(dpid: string, removed: Pick<Flow, 'table' | 'priority' | 'cookie' | 'match'>): void {
    const key = flowKey(removed);
    for (const [name, { flow }] of this.#entries.get(dpid) ?? [])
      if (flow.cookie === removed.cookie && flowKey(flow) === key) {
        this.remove(name);
        return;
      }
  }

  /** The entries of each switch, or of the one, as the list tells them. */
  list(dpid?: string): Record<string, object[]> {
    const print = (of: string) =>
      [...(this.#entries.get(of.toLowerCase()) ?? [])].map(([name, entry]) => ({
        [name]: printEntry(entry.command, entry),
      }));
    const dpids = dpid === undefined ? [...this.#entries.keys()] : [dpid];
    return Object.fromEntries(dpids.map((each) => [each, print(each)]));
  }

  #parse(row: Row): ParsedRow | undefined {
    try {
      return parseRow(row);
    } catch (error) {
      if (error instanceof EndlessMatch) this.wedged = true;
      if (error instanceof EndlessMatch || error instanceof BadMatch) return undefined;
      throw error;
    }
  }
}

const sameMatch = (a: Flow, b: Flow) =>
  flowKey({ ...a, table: 0, priority: 0 }) === flowKey({ ...b, table: 0, priority: 0 });
