import { writeInstructions } from './actions.js';
import { Reader, Writer } from './bytes.js';
import { readMatch, writeMatch } from './match.js';
import type { Flow, FlowIdentity } from './types.js';

const scratch = new Writer();

/**
 * What identifies a flow in a switch: table, priority and match. Equal for a wanted flow and the same flow read back. One
 * character a byte, so that many can be kept; flowOfKey reads it.
 */
export function flowKey({ table, priority, match }: Omit<FlowIdentity, 'cookie'>): string {
  scratch.clear();
  scratch.u8(table);
  scratch.u16(priority);
  writeMatch(scratch, match);
  return scratch.done().toString('latin1');
}

/** The table, priority and match that flowKey was made of. */
export function flowOfKey(key: string): Omit<FlowIdentity, 'cookie'> {
  const r = new Reader(Buffer.from(key, 'latin1'));
  return { table: r.u8(), priority: r.u16(), match: readMatch(r) };
}

/**
 * What a flow does, and whose it is: cookie, instructions and whether it lasts. Equal for a wanted flow and the same flow read
 * back. One character a byte.
 */
export function flowBody({
  cookie,
  instructions,
  timeouts,
}: Pick<Flow, 'cookie' | 'instructions' | 'timeouts'>): string {
  scratch.clear();
  scratch.u64(cookie);
  scratch.u16(timeouts?.idleSeconds ?? 0);
  scratch.u16(timeouts?.hardSeconds ?? 0);
  writeInstructions(scratch, instructions);
  return scratch.done().toString('latin1');
}
