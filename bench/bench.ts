import type { Lab } from './lab.js';
import type { Operator } from './operator.js';
import type { Row } from './row.js';

/** What a case works with. */
export interface Bench {
  readonly lab: Lab;
  readonly operator: Operator;
  readonly rounds: { readonly usual: number; readonly migrations: number; readonly idleSeconds: number };
  /** Aborted by Ctrl-C: a case ends before its next round. */
  readonly signal: AbortSignal;
  readonly say: (text: string) => void;
}

export interface Case {
  readonly name: string;
  readonly about: string;
  readonly run: (bench: Bench) => Promise<Row[]>;
}
