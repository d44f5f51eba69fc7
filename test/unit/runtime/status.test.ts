import { describe, expect, it } from '@jest/globals';

import { setCondition, type Condition } from '../../../controllers/runtime/status.js';

const OLD = '2026-01-01T00:00:00Z';
const NOW = new Date('2026-02-02T02:02:02.345Z');
const ready = (over: Partial<Condition> = {}): Condition => ({
  type: 'Ready',
  status: 'True',
  reason: 'Ready',
  message: '',
  lastTransitionTime: OLD,
  ...over,
});
const other = ready({ type: 'Reconciling' });

interface Case {
  readonly reason: string;
  readonly before: readonly Condition[];
  readonly set: Omit<Condition, 'lastTransitionTime'>;
  readonly after: readonly Condition[];
}

const CASES: readonly Case[] = [
  {
    reason: 'a new condition began now, in whole seconds as metav1.Time has them',
    before: [other],
    set: { type: 'Ready', status: 'True', reason: 'Ready', message: '', observedGeneration: 2 },
    after: [other, ready({ lastTransitionTime: '2026-02-02T02:02:02Z', observedGeneration: 2 })],
  },
  {
    reason: 'a changed status is a transition',
    before: [ready(), other],
    set: { type: 'Ready', status: 'False', reason: 'Broken', message: 'm' },
    after: [
      ready({ status: 'False', reason: 'Broken', message: 'm', lastTransitionTime: '2026-02-02T02:02:02Z' }),
      other,
    ],
  },
  {
    reason: 'another reason, message or generation is none',
    before: [ready()],
    set: { type: 'Ready', status: 'True', reason: 'StillReady', message: 'm', observedGeneration: 3 },
    after: [ready({ reason: 'StillReady', message: 'm', observedGeneration: 3 })],
  },
];

describe('setCondition', () => {
  it.each(CASES)('$reason', ({ before, set, after }) => {
    expect(setCondition(before, set, NOW)).toEqual(after);
  });
});
