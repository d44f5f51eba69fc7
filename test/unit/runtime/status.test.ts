import { describe, expect, it } from '@jest/globals';

import { setCondition, StatusWriter, type Condition } from '../../../controllers/runtime/status.js';

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

describe('a change that is the echo of our own write', () => {
  const resource = { group: 'isthmus.dev', version: 'v1alpha1', plural: 'things', kind: 'Thing', namespaced: true };
  const metadata = { name: 'one', namespace: 'acme', uid: '1', resourceVersion: '7', generation: 1 };
  const before = { metadata, status: { figure: 1 } };
  const later = { ...metadata, resourceVersion: '8' };
  const cases: readonly { reason: string; after: object; isEcho: boolean }[] = [
    { reason: 'shows what we have sent', after: { metadata: later, status: { figure: 2 } }, isEcho: true },
    { reason: 'another writer’s status is news', after: { metadata: later, status: { figure: 3 } }, isEcho: false },
    { reason: 'so is that it is gone', after: { metadata: later }, isEcho: false },
    { reason: 'and a new spec, though the status is ours', after: { metadata: { ...later, generation: 2 }, status: { figure: 2 } }, isEcho: false },
    { reason: 'and that the user wants it gone', after: { metadata: { ...later, deletionTimestamp: OLD }, status: { figure: 2 } }, isEcho: false },
    { reason: 'and a finalizer that somebody took off', after: { metadata: { ...later, finalizers: [] }, status: { figure: 2 } }, isEcho: false },
    { reason: 'and a namesake', after: { metadata: { ...later, uid: '2' }, status: { figure: 2 } }, isEcho: false },
  ]; // prettier-ignore
  const answer = { apiVersion: 'isthmus.dev/v1alpha1', kind: 'Thing', metadata: later };

  it.each(cases)('$isEcho: $reason', async ({ after, isEcho }) => {
    const writer = new StatusWriter<object>({ applyStatus: () => Promise.resolve(answer) }, resource, 'isthmus');
    await writer.write(before, { figure: 2 });
    expect(writer.isEcho(before, after as typeof before)).toBe(isEcho);
  });

  it('is known before the answer is here', async () => {
    const seen: boolean[] = [];
    const after = { metadata: later, status: { figure: 2 } };
    const applyStatus = () => {
      seen.push(writer.isEcho(before, after));
      return Promise.resolve(answer);
    };
    const writer: StatusWriter<object> = new StatusWriter({ applyStatus }, resource, 'isthmus');
    await writer.write(before, { figure: 2 });
    expect(seen).toEqual([true]);
  });

  it('is none before anything was written', () => {
    const writer = new StatusWriter<object>({ applyStatus: () => Promise.resolve(answer) }, resource, 'isthmus');
    expect(writer.isEcho(before, { ...before, metadata: later })).toBe(false);
  });
});
