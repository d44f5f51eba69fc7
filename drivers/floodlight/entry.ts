import { type Flow, flowBody, flowKey, OpenFlowValueError } from '../openflow/index.js';
import { readInstructions, writeInstructions } from './actions.js';
import { unsupported } from './errors.js';
import { readMatch, writeMatch } from './match.js';
import { formatDatapathId, isWithin, readLong, readNumber } from './notation.js';

/**
 * A static entry as the pusher takes it, all of it text. Numbers are plain decimals where others were seen to install
 * half of the entry, which is a flow that drops.
 */
export type Entry = Readonly<Record<string, string>>;

/** A flow as `/wm/core/switch/<dpid>/flow/json` tells it. */
export interface FlowAnswer {
  readonly cookie: string;
  readonly table_id: string;
  readonly priority: string;
  readonly idle_timeout_s: string;
  readonly hard_timeout_s: string;
  readonly match: Readonly<Record<string, unknown>>;
  readonly instructions: Readonly<Record<string, unknown>>;
}

const MAX_TABLE = 254;
const APPLICATION_SHIFT = 52n;
const STATIC_ENTRIES = 10n;

/** The cookie that Floodlight gives an entry's flow: the number of its static entries and a hash of the name (a Java int, over UTF-16). */
export function entryCookie(name: string): bigint {
  let hash = 2311;
  for (let i = 0; i < name.length; i++) hash = (Math.imul(hash, 211) + name.charCodeAt(i)) | 0;
  return (STATIC_ENTRIES << APPLICATION_SHIFT) | BigInt.asUintN(Number(APPLICATION_SHIFT), BigInt(hash));
}

/** Whether a flow with that cookie comes from a static entry, whoever's. */
export const isEntryCookie = (cookie: bigint): boolean => cookie >> APPLICATION_SHIFT === STATIC_ENTRIES;

/** Throws FLOODLIGHT_UNSUPPORTED. */
export function checkName(name: string): void {
  // Some of Floodlight's answers have the name in them as it is.
  if (!/^[^"\\\p{Cc}]{1,300}$/u.test(name))
    throw unsupported(
      `an entry named ${JSON.stringify(name)}: 1 to 300 characters, no quote, backslash or control character`,
    );
}

/** Throws FLOODLIGHT_UNSUPPORTED. */
export function writeEntry(datapathId: bigint, name: string, flow: Flow): Entry {
  checkName(name);
  const { table, priority, match, instructions } = flow;
  if (flow.timeouts !== undefined) throw unsupported('a flow that goes away by itself');
  if (!isWithin(table, MAX_TABLE)) throw unsupported(`${table} is not a table`);
  if (!isWithin(priority, 0xffff)) throw unsupported(`${priority} is not a priority`);
  checkValues(flow);
  const fields = writeMatch(match);
  if (priority === 0 && Object.keys(fields).length === 0)
    throw unsupported("a flow of priority 0 for all packets: it would replace Floodlight's own");
  return {
    switch: formatDatapathId(datapathId),
    name,
    ...(table === 0 ? {} : { table: String(table) }),
    priority: String(priority),
    ...fields,
    ...writeInstructions(instructions, match),
  };
}

/** Numbers in range, addresses addresses: what can be written as OpenFlow. */
function checkValues(flow: Flow): void {
  try {
    flowKey(flow);
    flowBody(flow);
  } catch (error) {
    if (error instanceof OpenFlowValueError) throw unsupported(error.message, error);
    throw error;
  }
}

/** Undefined if it is no flow; what of it isn't understood is in `other`. */
export function readFlow(answer: FlowAnswer): Flow | undefined {
  const table = readNumber(answer.table_id, MAX_TABLE);
  const priority = readNumber(answer.priority, 0xffff);
  const idleSeconds = readNumber(answer.idle_timeout_s, 0xffff);
  const hardSeconds = readNumber(answer.hard_timeout_s, 0xffff);
  const cookie = readLong(answer.cookie);
  if (table === undefined || priority === undefined || cookie === undefined) return undefined;
  if (idleSeconds === undefined || hardSeconds === undefined) return undefined;
  const match = readMatch(answer.match);
  const flow: Flow = { table, priority, cookie, match, instructions: readInstructions(answer.instructions) };
  return idleSeconds === 0 && hardSeconds === 0 ? flow : { ...flow, timeouts: { idleSeconds, hardSeconds } };
}
