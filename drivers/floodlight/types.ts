import type { Flow } from '../openflow/index.js';

export interface FloodlightOptions {
  /** Deadline of a call, from when it is sent to the end of its answer. Default 5 s. */
  readonly callTimeoutMs?: number;
  /** Calls under way at a time; more wait their turn. Default 4. */
  readonly maxConcurrency?: number;
  /** A larger answer is a FLOODLIGHT_PROTOCOL error. Default 64 MiB: some 170 000 flows. */
  readonly maxAnswerBytes?: number;
}

/** A switch that is connected to Floodlight. */
export interface ConnectedSwitch {
  readonly datapathId: bigint;
  /** Milliseconds since 1970 by Floodlight's clock. Another value than before: it has reconnected, and its entries may be gone. */
  readonly connectedSince: number;
  /**
   * MASTER, SLAVE, EQUAL or whatever Floodlight calls it; undefined while the connection is not ready. As anything but
   * MASTER it takes entries in that never reach the switch. For a second or so after MASTER appears, what was pushed may
   * still be wiped: push, wait, read, and push again what is missing.
   */
  readonly role: string | undefined;
}

/** A reason why Floodlight, as it is configured, is not fit to hold the boundary. */
export interface Problem {
  /** Class name of the module, e.g. net.floodlightcontroller.forwarding.Forwarding. */
  readonly module: string;
  readonly problem: 'OpensPaths' | 'NotLoaded';
}

/**
 * A Floodlight controller's static entries, through its REST interface. What it does and doesn't was measured with
 * floodlight master 71fe8a7e ("1.2-SNAPSHOT") and Open vSwitch 3.1.
 *
 * Floodlight's "Entry pushed" means no more than that it has stored a row, and its list tells only what it means to be on
 * the switch. So after a change read `flows`, and take for installed what is there with the same flowKey and flowBody
 * as the wanted flow under the entry's cookie: `flowBody({ ...flow, cookie: entryCookie(name) })`.
 *
 * What is not as wanted is healed so, then read again. Between a `remove` and a `push` of the same flow, read it gone: the
 * switch's report of the removal, come late, would take the new entry with it.
 * - Not on the switch and not in the list: `push`.
 * - On the list but not on the switch (the switch had refused it, or lost it while away): `remove`, then `push`. A push
 *   alone changes flows that are there, and makes none.
 * - On the switch but not in the list (Floodlight was restarted): `push` adopts it.
 * - Back after a `remove` while the switch was away (the list has it again, and neither remove nor clear ends it):
 *   `push`, then `remove`. So is a flow removed whose entry nobody knows, under any name, by its own table, priority and match.
 * - The same name with another table: `remove`, then `push`; a push alone leaves the old flow on the switch for good.
 *   Another match, priority or switch needs no such care (there is a gap, though), nor do other actions.
 * - Two names with the same table, priority and match: don't. The last one wins on the switch, and removing either removes both.
 *
 * Don't push or remove while the switch is not in `switches`: both succeed, and leave an entry as in the fourth case.
 *
 * Whether Floodlight clears a switch's tables when it connects (it does, unless both clearTables settings of
 * OFSwitchManager are NO) can't be asked. It shows: entries that were listed are gone once `connectedSince` is another.
 *
 * Calls fail with FloodlightError and nothing else. A call that times out or finds nobody fails those that wait for their
 * turn behind it too. Nothing is retried, except once on a kept connection that turns out to be closed.
 */
export interface Floodlight extends AsyncDisposable {
  readonly url: string;
  switches(): Promise<ConnectedSwitch[]>;
  /** Empty if all is well. Reactive flows of a module that was loaded until a restart may live on for some seconds. */
  problems(): Promise<Problem[]>;
  /**
   * The names of the switch's static entries; empty for a switch that Floodlight never heard of. Somebody else's
   * entry with write actions makes Floodlight's answer invalid JSON: FLOODLIGHT_PROTOCOL.
   */
  entries(datapathId: bigint): Promise<ReadonlySet<string>>;
  /**
   * All flows on the switch, by whomever, read from it now. What Flow can't express is in `other`, as a digest: such a
   * flow equals none that is wanted. Rejects with FLOODLIGHT_NO_SWITCH.
   */
  flows(datapathId: bigint): Promise<Flow[]>;
  /**
   * Stores the entry, replacing whole what the name stood for on whatever switch: names are global. The flow's cookie is
   * not sent. Rejects with FLOODLIGHT_UNSUPPORTED, before anything is sent, if a static entry can't say it: connection
   * tracking, registers, resubmit, fragments, time-outs, masks other than of Ethernet and IPv4 addresses, metadata in
   * part; a field whose protocol the match does not fix (it would wedge Floodlight, or the switch would refuse it);
   * a match-all of priority 0 (it would replace Floodlight's own rule); a name with quotes, backslashes or control characters.
   */
  push(datapathId: bigint, name: string, flow: Flow): Promise<void>;
  /** Succeeds whether or not there is such an entry. */
  remove(name: string): Promise<void>;
  /** Ends every call under way (FLOODLIGHT_CLOSED) and every connection. */
  close(): Promise<void>;
}
