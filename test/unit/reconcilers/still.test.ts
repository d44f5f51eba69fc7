import { describe, expect, it } from '@jest/globals';
import { kinds } from '../../../crds/index.js';
import { constants as c } from '../../../drivers/libvirt/index.js';
import { describe as told, type Ends } from '../../../reconcilers/migration/ends.js';
import { awaitDaemons, isHeldOn, type Still, stillMs } from '../../../reconcilers/migration/still.js';

const migration = kinds.VMMigration.parse({
  apiVersion: 'isthmus.dev/v1alpha1',
  kind: 'VMMigration',
  metadata: {
    ...{ name: 'moves', namespace: 'acme', uid: 'one', resourceVersion: '1' },
    ...{ generation: 1, creationTimestamp: '2026-01-01T00:00:00Z' },
  },
  spec: { vmName: 'web', target: { site: 'saopaulo' } },
});
const places = [
  { site: 'valencia', host: 'a' },
  { site: 'saopaulo', host: 'b' },
] as const;
const paused: Ends = {
  source: { state: 'paused', reason: c.DOMAIN_PAUSED_MIGRATION },
  target: { state: 'paused', reason: c.DOMAIN_PAUSED_UNKNOWN },
  job: undefined,
  isAborted: false,
};

/** What is told at each of these moments, in seconds. */
function over(looks: readonly { at: number; ends: Ends }[]) {
  let nowMs = 0;
  const dependencies = { stills: new Map<string, Still>(), now: () => nowMs, clock: () => new Date(0) };
  return looks.map(({ at, ends }) => {
    nowMs = at * 1_000;
    return awaitDaemons(migration, ends, places, 'SwitchingOver', 'switching over', dependencies);
  });
}

describe('a switch-over', () => {
  const cases: readonly { reason: string; looks: readonly { at: number; ends: Ends }[]; overdue: boolean }[] = [
    { reason: 'may take a while', looks: [{ at: 0, ends: paused }, { at: 60, ends: paused }], overdue: false },
    { reason: 'does not end by itself any more when both ends look the same for too long', looks: [{ at: 0, ends: paused }, { at: 61, ends: paused }], overdue: true },
    { reason: 'goes on while an end changes', looks: [{ at: 0, ends: paused }, { at: 50, ends: { ...paused, source: { state: 'shutdown', reason: 0 } } }, { at: 100, ends: paused }], overdue: false },
    { reason: 'is waited for anew by who has just begun to look', looks: [{ at: 500, ends: paused }], overdue: false },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ looks, overdue }) => {
    const last = over(looks).at(-1);
    expect(last?.status.phase).toBe('SwitchingOver');
    expect(last?.ready.reason).toBe(overdue ? 'SwitchOverOverdue' : 'SwitchingOver');
    expect(last?.stalled?.reason).toBe(overdue ? 'SwitchOverOverdue' : undefined);
    expect(last?.requeueAfterMs).toBeGreaterThan(0);
  });

  it('that is overdue names both ends and what a person can do, in the same words each time', () => {
    const [, first, second] = over([0, 70, 90].map((at) => ({ at, ends: paused })));
    expect(first?.ready.message).toMatch(/paused \(migrating\) at valencia\/a and paused \(unknown\) at saopaulo\/b/);
    expect(first?.ready.message).toMatch(/virsh destroy.*virsh resume/);
    expect(second?.ready.message).toBe(first?.ready.message);
  });
});

describe('a copy that was given up', () => {
  const ends: Ends = { ...paused, source: { state: 'running', reason: c.DOMAIN_RUNNING_BOOTED }, isAborted: true };
  const cases: readonly { reason: string; looks: readonly { at: number; ends: Ends }[]; held: boolean }[] = [
    { reason: 'ends by itself', looks: [{ at: 0, ends }, { at: 15, ends }], held: false },
    { reason: 'is held on by a QEMU that can’t end it', looks: [{ at: 0, ends }, { at: 16, ends }], held: true },
    { reason: 'may be ending while an end changes', looks: [{ at: 0, ends }, { at: 16, ends: { ...ends, target: 'absent' } }], held: false },
    { reason: 'is told from one that goes on', looks: [{ at: 0, ends: { ...ends, isAborted: false } }, { at: 16, ends: { ...ends, isAborted: false } }], held: false },
    { reason: 'is not judged by how long it went on before', looks: [{ at: 0, ends: { ...ends, isAborted: false } }, { at: 100, ends }, { at: 101, ends }], held: false },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ looks, held }) => {
    const stills = new Map<string, Still>();
    const seen = looks.map(({ at, ends }) => isHeldOn(migration, ends, { stills, now: () => at * 1_000 }));
    expect(seen.at(-1)).toBe(held);
  });
});

it('waits again after it was forgotten', () => {
  const stills = new Map<string, Still>();
  let nowMs = 0;
  const look = () => stillMs(migration, 'same', { stills, now: () => nowMs });
  expect(look()).toBe(0);
  nowMs = 5;
  expect(look()).toBe(5);
  stills.delete('one');
  expect(look()).toBe(0);
});

describe('an end', () => {
  const cases = [
    ['unknown', 'not to be seen'],
    ['absent', 'not there'],
    [{ state: 'paused', reason: c.DOMAIN_PAUSED_POSTCOPY_FAILED }, 'paused (post-copy failed)'],
    [{ state: 'running', reason: c.DOMAIN_RUNNING_POSTCOPY_FAILED }, 'running (post-copy failed)'],
    [{ state: 'shutoff', reason: c.DOMAIN_SHUTOFF_DAEMON }, 'shutoff (daemon)'],
    [{ state: 'pmsuspended', reason: 0 }, 'pmsuspended'],
    [{ state: 'paused', reason: 99 }, 'paused'],
  ] as const;
  it.each(cases)('%j is told as virsh does', (end, text) => expect(told(end)).toBe(text));
});
