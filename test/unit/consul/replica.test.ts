import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { backoffMs } from '../../../drivers/consul/backoff.js';
import { Replica } from '../../../drivers/consul/replica.js';
import type { OwnWrite } from '../../../drivers/consul/replica.js';

const entry = (key: string, index: number) => ({ key, value: `${key}@${index}`, index });
const seen = (replica: Replica) => [...replica.entries()].map(({ key, index }) => `${key}@${index}`).sort();

describe('Replica', () => {
  interface Step {
    /** An answer: its index, what it has, and whether its request began before all own writes (else just now). */
    readonly answer?: readonly [index: number, entries: readonly ReturnType<typeof entry>[], begun?: 'before'];
    readonly wrote?: readonly OwnWrite[];
    readonly changed: readonly string[];
    readonly after: readonly string[];
  }
  const cases: readonly { reason: string; steps: readonly Step[] }[] = [
    {
      reason: 'an answer tells what is new, changed and gone, and nothing of the rest',
      steps: [
        {
          answer: [5, [entry('a', 1), entry('b', 2), entry('c', 5)]],
          changed: ['a', 'b', 'c'],
          after: ['a@1', 'b@2', 'c@5'],
        },
        {
          answer: [9, [entry('a', 1), entry('b', 8), entry('d', 9)]],
          changed: ['b', 'd', 'c'],
          after: ['a@1', 'b@8', 'd@9'],
        },
        { answer: [9, [entry('a', 1), entry('b', 8), entry('d', 9)]], changed: [], after: ['a@1', 'b@8', 'd@9'] },
      ],
    },
    {
      reason: 'an own write is not undone by an answer that was read before it',
      steps: [
        { answer: [5, [entry('a', 5)]], changed: ['a'], after: ['a@5'] },
        { wrote: [{ entry: entry('a', 7) }, { entry: entry('b', 7) }], changed: ['a', 'b'], after: ['a@7', 'b@7'] },
        { answer: [6, [entry('a', 5), entry('c', 6)], 'before'], changed: ['c'], after: ['a@7', 'b@7', 'c@6'] },
        {
          answer: [7, [entry('a', 7), entry('b', 7), entry('c', 6)], 'before'],
          changed: [],
          after: ['a@7', 'b@7', 'c@6'],
        },
      ],
    },
    {
      reason: 'an answer with a later index than an own write is believed, also that the key is gone',
      steps: [
        { wrote: [{ entry: entry('a', 7) }], changed: ['a'], after: ['a@7'] },
        { answer: [8, [], 'before'], changed: ['a'], after: [] },
      ],
    },
    {
      reason: 'an answer that has what came after an own write is believed for that key',
      steps: [
        { wrote: [{ key: 'a', deletedIndex: 3 }], changed: [], after: [] },
        { answer: [9, [entry('a', 9)], 'before'], changed: ['a'], after: ['a@9'] },
      ],
    },
    {
      reason: 'an own delete is not undone by an answer that was read before it',
      steps: [
        { answer: [5, [entry('a', 5)]], changed: ['a'], after: ['a@5'] },
        { wrote: [{ key: 'a', deletedIndex: 5 }], changed: ['a'], after: [] },
        { answer: [6, [entry('a', 5), entry('b', 6)], 'before'], changed: ['b'], after: ['b@6'] },
        { answer: [6, [entry('b', 6)]], changed: [], after: ['b@6'] },
      ],
    },
    {
      reason: 'an acknowledgement that comes after the answer that already has it changes nothing',
      steps: [
        { answer: [9, [entry('a', 9)]], changed: ['a'], after: ['a@9'] },
        {
          wrote: [{ entry: entry('a', 7) }, { key: 'a', deletedIndex: 7 }, { entry: entry('b', 8) }],
          changed: [],
          after: ['a@9'],
        },
      ],
    },
    {
      reason: 'acknowledgements may overtake each other',
      steps: [
        { wrote: [{ key: 'a', deletedIndex: 7 }], changed: [], after: [] },
        { wrote: [{ entry: entry('a', 7) }], changed: [], after: [] },
        { wrote: [{ entry: entry('b', 9) }], changed: ['b'], after: ['b@9'] },
        { wrote: [{ entry: entry('b', 8) }], changed: [], after: ['b@9'] },
      ],
    },
    {
      reason:
        'a request sent after the acknowledgement has the last word, also of a server that began anew at a lower index',
      steps: [
        { answer: [90, [entry('a', 90)]], changed: ['a'], after: ['a@90'] },
        { wrote: [{ entry: entry('b', 95) }, { key: 'a', deletedIndex: 90 }], changed: ['b', 'a'], after: ['b@95'] },
        { answer: [3, [entry('c', 3)]], changed: ['c', 'b'], after: ['c@3'] },
      ],
    },
  ];

  it.each(cases)('$reason', ({ steps }) => {
    const replica = new Replica();
    const before = replica.begin();
    for (const { answer, wrote, changed, after } of steps) {
      if (answer !== undefined) {
        const [index, entries, begun] = answer;
        expect(replica.answer(begun === 'before' ? before : replica.begin(), index, entries)).toEqual(changed);
      }
      if (wrote !== undefined) expect(replica.wrote(wrote)).toEqual(changed);
      expect(seen(replica)).toEqual(after);
    }
  });

  // A model of Consul: writes of ours and of others are applied in order; answers are read at some moment after their
  // request, and acknowledgements and answers arrive at any time later.
  it('never shows a key older than it was shown, and ends as the server is', () => {
    const key = fc.constantFrom('a', 'b', 'c');
    const step = fc.oneof(
      fc.record({ do: fc.constantFrom('set' as const, 'delete' as const), key, own: fc.boolean() }),
      fc.record({ do: fc.constantFrom('read' as const, 'arrive' as const, 'acknowledge' as const) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const replica = new Replica();
        const server = new Map<string, number>();
        let index = 1;
        const acknowledgements: OwnWrite[] = [];
        let begun = replica.begin();
        let answer: { index: number; entries: ReturnType<typeof entry>[] } | undefined;
        const newest = new Map<string, number>();
        const read = () => ({ index, entries: [...server].map(([name, at]) => entry(name, at)) });
        const arrive = (arrived: ReturnType<typeof read>) => {
          replica.answer(begun, arrived.index, arrived.entries);
          begun = replica.begin();
        };
        for (const each of steps) {
          switch (each.do) {
            case 'set':
              server.set(each.key, ++index);
              if (each.own) acknowledgements.push({ entry: entry(each.key, index) });
              break;
            case 'delete': {
              const deletedIndex = server.get(each.key);
              if (deletedIndex === undefined) break;
              server.delete(each.key);
              index++;
              if (each.own) acknowledgements.push({ key: each.key, deletedIndex });
              break;
            }
            case 'read':
              answer ??= read();
              break;
            case 'arrive':
              if (answer !== undefined) arrive(answer);
              answer = undefined;
              break;
            case 'acknowledge':
              replica.wrote(acknowledgements.splice(0, 1));
              break;
          }
          for (const { key: name, index: shown } of replica.entries()) {
            expect(shown).toBeGreaterThanOrEqual(newest.get(name) ?? 0);
            newest.set(name, shown);
          }
        }
        replica.wrote(acknowledgements);
        if (answer !== undefined) arrive(answer);
        begun = replica.begin();
        arrive(read());
        expect(seen(replica)).toEqual(
          read()
            .entries.map(({ key: name, index: at }) => `${name}@${at}`)
            .sort(),
        );
      }),
      { numRuns: 2000 },
    );
  });
});

describe('backoffMs', () => {
  const cases = [
    { reason: 'begins at a tenth of a second', failures: 1, random: 0, expected: 100 },
    { reason: 'doubles', failures: 3, random: 0, expected: 400 },
    { reason: 'a random half is taken off', failures: 3, random: 1, expected: 200 },
    { reason: 'ends at 5 s', failures: 1000, random: 0, expected: 5000 },
  ];
  it.each(cases)('$reason', ({ failures, random, expected }) => {
    expect(backoffMs(failures, () => random)).toBe(expected);
  });
});
