import { describe, expect, it } from '@jest/globals';
import { constants as c } from '../../../drivers/libvirt/index.js';
import type { DomainState } from '../../../drivers/libvirt/types.js';
import {
  assess,
  assessPostCopy,
  type End,
  isLeftOver,
  isPast,
  type PostCopy,
  type Verdict,
} from '../../../reconcilers/migration/assess.js';

const at = (state: DomainState, reason = 0): End => ({ state, reason });
const paused = (reason: number): End => at('paused', reason);

/** Every way an end may look, each state with each reason that means something of its own. */
const ends = {
  unknown: 'unknown',
  absent: 'absent',
  running: at('running', c.DOMAIN_RUNNING_UNPAUSED),
  'running (booted)': at('running', c.DOMAIN_RUNNING_BOOTED),
  'running (migrated)': at('running', c.DOMAIN_RUNNING_MIGRATED),
  'running (post-copy)': at('running', c.DOMAIN_RUNNING_POSTCOPY),
  'running (post-copy failed)': at('running', c.DOMAIN_RUNNING_POSTCOPY_FAILED),
  blocked: at('blocked'),
  'paused (unknown)': paused(c.DOMAIN_PAUSED_UNKNOWN),
  'paused (user)': paused(c.DOMAIN_PAUSED_USER),
  'paused (migration)': paused(c.DOMAIN_PAUSED_MIGRATION),
  'paused (save)': paused(c.DOMAIN_PAUSED_SAVE),
  'paused (I/O error)': paused(c.DOMAIN_PAUSED_IOERROR),
  'paused (crashed)': paused(c.DOMAIN_PAUSED_CRASHED),
  'paused (starting up)': paused(c.DOMAIN_PAUSED_STARTING_UP),
  'paused (post-copy)': paused(c.DOMAIN_PAUSED_POSTCOPY),
  'paused (post-copy failed)': paused(c.DOMAIN_PAUSED_POSTCOPY_FAILED),
  'shutting down': at('shutdown'),
  'shut off': at('shutoff', c.DOMAIN_SHUTOFF_SHUTDOWN),
  'shut off (destroyed)': at('shutoff', c.DOMAIN_SHUTOFF_DESTROYED),
  'shut off (migrated)': at('shutoff', c.DOMAIN_SHUTOFF_MIGRATED),
  'shut off (failed)': at('shutoff', c.DOMAIN_SHUTOFF_FAILED),
  // VIR_DOMAIN_CRASHED_PANICKED has no number in common with a reason for being shut off that matters.
  crashed: at('crashed', 1),
  asleep: at('pmsuspended'),
  'no state': at('nostate'),
} as const satisfies Record<string, End>;
type Name = keyof typeof ends;
const isName = (name: string): name is Name => name in ends;
const names = Object.keys(ends).filter(isName);
const where = (test: (name: Name) => boolean): Name[] => names.filter(test);

const running = where((name) => name.startsWith('running') || name === 'blocked');
const off = where((name) => name.startsWith('shut off') || name === 'crashed');
const gone: Name[] = ['absent', ...off];
const handedOver: Name[] = ['absent', 'shut off (migrated)'];
const postCopy: Name[] = ['paused (post-copy)', 'paused (post-copy failed)'];

interface Case {
  readonly reason: string;
  readonly source: readonly Name[];
  readonly target: readonly Name[];
  /** Default: both. */
  readonly job?: boolean;
  readonly verdict: Verdict;
}

/** The first row that fits counts: together they say something of every combination there is. */
const table: readonly Case[] = [
  { reason: 'what runs at the target is the machine, whatever the source says', source: names, target: running, verdict: 'target' },
  { reason: 'a source that does not answer may be running it', source: ['unknown'], target: names, verdict: 'unknown' },
  { reason: 'a target that does not answer may be running it', source: names, target: ['unknown'], verdict: 'unknown' },
  { reason: 'a job means that the daemons are still at it', source: names, target: names, job: true, verdict: 'moving' },

  { reason: 'it runs at the source and nothing is at the target', source: running, target: gone, verdict: 'source' },
  { reason: 'it runs at the source, and the target is about to be taken down', source: running, target: names, verdict: 'moving' },
  { reason: 'only what the move paused is resumed', source: ['paused (migration)'], target: gone, verdict: 'resumeSource' },
  { reason: 'after post-copy began, the source is the guest’s past and never runs again', source: postCopy, target: gone, verdict: 'lost' },
  { reason: 'a source that is going off will be off at the next look', source: ['shutting down', 'no state'], target: gone, verdict: 'moving' },
  { reason: 'a pause of the user’s or the guest’s own is not the move’s to end', source: where((name) => name.startsWith('paused')), target: gone, verdict: 'source' },
  { reason: 'a guest that sleeps at the source stays there', source: ['asleep'], target: gone, verdict: 'source' },
  { reason: 'both are there and neither runs: libvirt is switching over', source: where((name) => !gone.includes(name)), target: names, verdict: 'moving' },

  { reason: 'nothing anywhere', source: ['absent'], target: ['absent'], verdict: 'lost' },
  { reason: 'the source let go because the target had everything: a target that has lost track of it may still run it', source: handedOver, target: ['absent'], verdict: 'lost' },
  { reason: 'the source is off, the target never came', source: off, target: ['absent'], verdict: 'off' },
  { reason: 'the guest powered off or crashed midway', source: where((name) => off.includes(name) && !handedOver.includes(name)), target: off, verdict: 'off' },
  { reason: 'half a guest must not be resumed: the source ended before it had sent everything', source: where((name) => off.includes(name) && !handedOver.includes(name)), target: names, verdict: 'moving' },
  { reason: 'it moved, then powered off at the target', source: handedOver, target: off, verdict: 'target' },
  { reason: 'everything has arrived and nobody resumed it', source: handedOver, target: ['paused (migration)', 'paused (unknown)', 'paused (starting up)'], verdict: 'resumeTarget' },
  { reason: 'a failed post-copy can only be recovered', source: handedOver, target: postCopy, verdict: 'moving' },
  { reason: 'no state tells nothing yet', source: handedOver, target: ['no state'], verdict: 'moving' },
  { reason: 'a machine that was paused before arrives paused, and stays so', source: handedOver, target: ['paused (user)'], verdict: 'target' },
  { reason: 'it has arrived, and has troubles or plans of its own', source: handedOver, target: names, verdict: 'target' },
]; // prettier-ignore

const fits = (row: Case, source: Name, target: Name, job: boolean): boolean =>
  row.source.includes(source) && row.target.includes(target) && (row.job === undefined || row.job === job);

const combinations = names.flatMap((source) =>
  names.flatMap((target) => [true, false].map((job) => ({ source, target, job }))),
);

describe('of a move that was given up', () => {
  const waiting: readonly Name[] = ['paused (unknown)', 'paused (migration)', 'paused (starting up)'];
  const found = names.flatMap((source) =>
    names.filter((target) => isLeftOver(ends[source], ends[target])).map((target) => ({ source, target })),
  );
  it('what the target has is ended only where it never ran, and the guest is the source’s', () => {
    expect(new Set(found.map(({ target }) => target))).toEqual(new Set(waiting));
    const wrong = found.filter(({ source }) => assess(ends[source], 'absent', false) !== 'source');
    expect(wrong).toEqual([]);
    expect(found).toContainEqual({ source: 'running', target: 'paused (migration)' });
  });
});

describe('assess', () => {
  it.each(table)('says $verdict: $reason', (row) => {
    const mine = combinations.filter(
      ({ source, target, job }) => table.find((each) => fits(each, source, target, job)) === row,
    );
    // A row that no combination comes to proves nothing.
    expect(mine.length).toBeGreaterThan(0);
    const wrong = mine
      .map(({ source, target, job }) => ({ source, target, job, verdict: assess(ends[source], ends[target], job) }))
      .filter(({ verdict }) => verdict !== row.verdict);
    expect(wrong).toEqual([]);
  });

  it('has a row for every combination', () => {
    const left = combinations.filter(({ source, target, job }) => !table.some((row) => fits(row, source, target, job)));
    expect(left).toEqual([]);
  });

  const verdicts = (test: (source: Name, target: Name, job: boolean) => boolean): Set<Verdict> =>
    new Set(
      combinations
        .filter(({ source, target, job }) => test(source, target, job))
        .map(({ source, target, job }) => assess(ends[source], ends[target], job)),
    );
  const never: readonly { reason: string; when: (source: Name, target: Name, job: boolean) => boolean; verdicts: Verdict[] }[] = [
    {
      reason: 'the source is given back only when the target is proven gone',
      when: (_, target) => !gone.includes(target),
      verdicts: ['source', 'resumeSource', 'off'],
    },
    {
      reason: 'the target takes over only when it runs or the source has let go',
      when: (source, target) => !running.includes(target) && !handedOver.includes(source),
      verdicts: ['target', 'resumeTarget'],
    },
    {
      reason: 'nothing is concluded of an end that does not answer, but that the other runs it',
      when: (source, target) => (source === 'unknown' || target === 'unknown') && !running.includes(target),
      verdicts: ['target', 'source', 'resumeTarget', 'resumeSource', 'off', 'lost', 'moving'],
    },
    {
      reason: 'nothing is resumed while a job runs',
      when: (_source, _target, job) => job,
      verdicts: ['resumeTarget', 'resumeSource', 'source', 'off', 'lost'],
    },
  ]; // prettier-ignore
  it.each(never)('$reason', ({ when, verdicts: forbidden }) => {
    const found = verdicts(when);
    expect(found.size).toBeGreaterThan(0);
    expect(forbidden.filter((verdict) => found.has(verdict))).toEqual([]);
  });
});

interface PostCopyCase {
  readonly reason: string;
  readonly source: readonly Name[];
  readonly target: readonly Name[];
  readonly verdict: PostCopy | undefined;
}

/** The first row that fits counts. */
const postCopies: readonly PostCopyCase[] = [
  { reason: 'a source that does not answer, or is not paused for it, shows no post-copy', source: where((name) => !postCopy.includes(name)), target: names, verdict: undefined },
  { reason: 'nobody knows what the target has', source: postCopy, target: ['unknown'], verdict: 'unknown' },
  { reason: 'that guest went off at the target, or was forgotten there', source: postCopy, target: gone, verdict: 'ended' },
  { reason: 'it was started anew at the target: another guest, to which this memory is nothing', source: postCopy, target: ['running (booted)'], verdict: 'ended' },
  { reason: 'the target’s daemon says so when it has everything', source: postCopy, target: ['running (migrated)'], verdict: 'complete' },
  { reason: 'both ends have given up', source: ['paused (post-copy failed)'], target: ['running (post-copy failed)', 'paused (post-copy failed)'], verdict: 'broken' },
  { reason: 'the target has noticed first', source: ['paused (post-copy)'], target: ['running (post-copy failed)', 'paused (post-copy failed)'], verdict: 'brokenAtTarget' },
  { reason: 'the source has noticed first, or its daemon has lost the other, and QEMU has not', source: ['paused (post-copy failed)'], target: ['running (post-copy)', 'paused (post-copy)', 'shutting down', 'no state'], verdict: 'brokenAtSource' },
  { reason: 'memory is on its way', source: ['paused (post-copy)'], target: names, verdict: 'sending' },
  { reason: 'the guest paused at the target since, or was resumed: whether it has given up shows when it is asked', source: ['paused (post-copy failed)'], target: names, verdict: 'broken' },
]; // prettier-ignore

describe('assessPostCopy', () => {
  const pairs = names.flatMap((source) => names.map((target) => ({ source, target })));
  const rowOf = (source: Name, target: Name): PostCopyCase | undefined =>
    postCopies.find((row) => row.source.includes(source) && row.target.includes(target));

  it.each(postCopies)('says $verdict: $reason', (row) => {
    const mine = pairs.filter(({ source, target }) => rowOf(source, target) === row);
    expect(mine.length).toBeGreaterThan(0);
    const wrong = mine
      .map(({ source, target }) => ({ source, target, verdict: assessPostCopy(ends[source], ends[target]) }))
      .filter(({ verdict }) => verdict !== row.verdict);
    expect(wrong).toEqual([]);
  });

  it('has a row for every pair', () => {
    expect(pairs.filter(({ source, target }) => !rowOf(source, target))).toEqual([]);
  });

  it('is asked wherever a post-copy keeps a move from its end', () => {
    const left = pairs.filter(
      ({ source, target }) =>
        postCopy.includes(source) &&
        ['moving', 'target'].includes(assess(ends[source], ends[target], false)) &&
        assessPostCopy(ends[source], ends[target]) === undefined,
    );
    expect(left).toEqual([]);
  });
});

describe('what a source has that its daemon did not conclude', () => {
  const all = names.flatMap((source) => names.map((target) => ({ source, target })));
  const past = all.filter(({ source, target }) => isPast(ends[source], ends[target]));

  it('is past where the target has all of the guest and runs it, whatever happened to it since', () => {
    const sources = [
      'running',
      'running (booted)',
      'running (migrated)',
      'blocked',
      'paused (user)',
      'paused (migration)',
    ];
    const targets = ['running', 'running (booted)', 'running (migrated)', 'blocked'];
    expect(past).toEqual(sources.flatMap((source) => targets.map((target) => ({ source, target }))));
  });
});
