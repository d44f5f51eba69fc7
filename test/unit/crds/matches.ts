import { expect } from '@jest/globals';
import type { Case, Violation } from './cases.js';

/** What a judge, the schemas or the API server, has to say against an object: each at its field, where it names one. */
export type Verdict = readonly Violation[];

/** The judge says what the case expects, all of it, and nothing else. */
export function expectVerdict({ refused = [] }: Case, verdict: Verdict): void {
  const unexpected = verdict.filter((said) => !refused.some((wanted) => meets(said, wanted)));
  const unsaid = refused.filter((wanted) => !verdict.some((said) => meets(said, wanted)));
  expect({ unexpected, unsaid }).toEqual({ unexpected: [], unsaid: [] });
}

function meets(said: Violation, wanted: Violation): boolean {
  return (wanted.at === undefined || said.at === wanted.at) && said.says.includes(wanted.says);
}
