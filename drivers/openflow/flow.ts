import { writeInstructions } from './actions.js';
import { Writer } from './bytes.js';
import { writeMatch } from './match.js';
import type { Flow } from './types.js';

const scratch = new Writer();

/** What identifies a flow in a switch: table, priority and match. Equal for a wanted flow and the same flow read back. */
export function flowKey({ table, priority, match }: Pick<Flow, 'table' | 'priority' | 'match'>): string {
  scratch.clear();
  writeMatch(scratch, match);
  return `${table}/${priority}/${scratch.done().toString('hex')}`;
}

/** What a flow does, and whose it is: cookie, instructions and whether it lasts. Equal for a wanted flow and the same flow read back. */
export function flowBody({
  cookie,
  instructions,
  timeouts,
}: Pick<Flow, 'cookie' | 'instructions' | 'timeouts'>): string {
  scratch.clear();
  writeInstructions(scratch, instructions);
  const lasts = timeouts === undefined ? '' : `/${timeouts.idleSeconds}/${timeouts.hardSeconds}`;
  return `${cookie.toString(16)}/${scratch.done().toString('hex')}${lasts}`;
}
