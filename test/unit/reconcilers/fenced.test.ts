import { describe, expect, it } from '@jest/globals';
import { constants as c } from '../../../drivers/libvirt/index.js';
import type { DomainState } from '../../../drivers/libvirt/types.js';
import type { VmRecord } from '../../../reconcilers/common/records.js';
import { abandoned, isFenced } from '../../../reconcilers/fenced.js';
import { brokenBy, startedAnewAt } from '../../../reconcilers/migration/anew.js';
import { assessFenced, type FencedVerdict, type Rest } from '../../../reconcilers/migration/fenced.js';
import { staysFenced } from '../../../reconcilers/vm/fence.js';
import { hostSpec, machineObject, migrationObject, objectsOf, siteObject } from './support/objects.js';

const at = (state: DomainState, reason = 0): Rest => ({ state, reason });
const paused = (reason: number): Rest => at('paused', reason);

interface Case {
  readonly reason: string;
  readonly rest: Rest;
  readonly job?: boolean;
  readonly copied?: boolean;
  readonly verdict: FencedVerdict;
}

describe('assessFenced', () => {
  const sourceOff: readonly Case[] = [
    { reason: 'the guest runs at the target', rest: at('running', c.DOMAIN_RUNNING_MIGRATED), verdict: 'takeOver' },
    { reason: 'or sleeps there', rest: at('pmsuspended'), verdict: 'takeOver' },
    { reason: 'or was paused by the user before', rest: paused(c.DOMAIN_PAUSED_USER), verdict: 'takeOver' },
    { reason: 'it ran there, and met a full disk', rest: paused(c.DOMAIN_PAUSED_IOERROR), verdict: 'takeOver' },
    { reason: 'it ran there and powered off: only what arrived is defined there', rest: at('shutoff', c.DOMAIN_SHUTOFF_SHUTDOWN), verdict: 'takeOver' },
    { reason: 'nothing came', rest: 'absent', verdict: 'giveBack' },
    { reason: 'a part of its memory came, the rest never will', rest: paused(c.DOMAIN_PAUSED_MIGRATION), verdict: 'giveBack' },
    { reason: 'so too', rest: paused(c.DOMAIN_PAUSED_STARTING_UP), verdict: 'giveBack' },
    { reason: 'it has run there and written to its disk, without all of its memory', rest: paused(c.DOMAIN_PAUSED_POSTCOPY_FAILED), verdict: 'takeOver' },
    { reason: 'it runs there until it asks for memory that is lost', rest: at('running', c.DOMAIN_RUNNING_POSTCOPY), verdict: 'takeOver' },
    { reason: 'it is being taken down', rest: at('shutdown'), verdict: 'wait' },
    { reason: 'it may run there', rest: 'unknown', verdict: 'unknown' },
  ]; // prettier-ignore
  it.each(sourceOff)('source off: $verdict: $reason', ({ rest, verdict }) => {
    for (const [job, copied] of [
      [false, false],
      [true, true],
    ] as const)
      // prettier-ignore
      expect(assessFenced('source', rest, job, copied)).toBe(verdict);
  });

  const targetOff: readonly Case[] = [
    { reason: 'it runs at the source', rest: at('running', 1), verdict: 'giveBack' },
    { reason: 'it runs at the source, which still sends', rest: at('running', 1), job: true, verdict: 'abort' },
    { reason: 'the source waits for an answer that will not come', rest: paused(c.DOMAIN_PAUSED_MIGRATION), job: true, verdict: 'abort' },
    { reason: 'the move paused it, and the target is proven off', rest: paused(c.DOMAIN_PAUSED_MIGRATION), verdict: 'resumeSource' },
    { reason: 'the user paused it', rest: paused(c.DOMAIN_PAUSED_USER), verdict: 'giveBack' },
    { reason: 'the guest powered off', rest: at('shutoff', c.DOMAIN_SHUTOFF_SHUTDOWN), verdict: 'giveBack' },
    { reason: 'the source had handed over', rest: at('shutoff', c.DOMAIN_SHUTOFF_MIGRATED), verdict: 'takeOver' },
    { reason: 'and forgotten it', rest: 'absent', verdict: 'takeOver' },
    { reason: 'it has run on at the target: this is its past', rest: paused(c.DOMAIN_PAUSED_POSTCOPY), job: true, verdict: 'takeOver' },
    { reason: 'it is being taken down', rest: at('shutdown'), verdict: 'wait' },
    { reason: 'it may run at the source', rest: 'unknown', verdict: 'unknown' },
  ]; // prettier-ignore
  it.each(targetOff)('target off: $verdict: $reason', ({ rest, job = false, verdict }) => {
    expect(assessFenced('target', rest, job, false)).toBe(verdict);
  });

  it('both off: one disk on the share can go on anywhere, of two disks nobody can tell the latest', () => {
    expect(assessFenced('source', 'both', false, false)).toBe('giveBack');
    expect(assessFenced('source', 'both', false, true)).toBe('unknown');
  });
});

const record: VmRecord = {
  ...{ namespace: 'acme', name: 'web', site: 'lisbon', host: 'b', generation: 1, phase: 'Owned', disk: true },
  interfaces: [],
};

describe('staysFenced', () => {
  const cases = [
    { reason: 'a disk on the share is everywhere', storage: 'Shared', disk: true, spec: {}, why: undefined },
    { reason: 'a local disk is not', storage: 'Local', disk: true, spec: {}, why: 'disk' },
    { reason: 'what was written over an image of the share is not either', storage: 'Cached', disk: true, spec: {}, why: 'Cached' },
    { reason: 'one that is not made yet can be made elsewhere', storage: 'Local', disk: false, spec: {}, why: undefined },
    { reason: 'a stopped machine has time', storage: 'Shared', disk: true, spec: { runStrategy: 'Stopped' }, why: 'Stopped' },
    { reason: 'the memory of a paused one is gone; the user decides', storage: 'Shared', disk: true, spec: { runStrategy: 'Paused' }, why: 'Paused' },
  ] as const; // prettier-ignore
  it.each(cases)('$reason', ({ storage, disk, spec, why }) => {
    const found = staysFenced(machineObject('web', spec), { ...record, disk }, storage);
    if (why === undefined) expect(found).toBeUndefined();
    else expect(found).toContain(why);
  });
});

describe('isFenced', () => {
  const fenced = siteObject('lisbon', { hosts: [hostSpec('a'), hostSpec('b', { fenced: true })] });
  const cases = [
    { reason: 'the user’s word, and nobody is connected', site: fenced, host: 'b', inUse: ['a'], expected: true },
    { reason: 'somebody may still be connected', site: fenced, host: 'b', inUse: ['a', 'b'], expected: false },
    { reason: 'it is not known yet who is', site: fenced, host: 'b', inUse: undefined, expected: false },
    { reason: 'a host that is in use', site: fenced, host: 'a', inUse: ['a'], expected: false },
    { reason: 'one that the Site does not name: nobody vouches for it', site: fenced, host: 'c', inUse: ['a'], expected: false },
    { reason: 'one that waits for another’s address runs', site: siteObject('lisbon', { hosts: [hostSpec('a'), hostSpec('b')] }), host: 'b', inUse: ['a'], expected: false },
  ]; // prettier-ignore
  it.each(cases)('$expected: $reason', ({ site, host, inUse, expected }) => {
    const known = { objects: objectsOf({ sites: [site] }), hosts: { inUse: () => inUse } };
    expect(isFenced({ site: 'lisbon', host }, known)).toBe(expected);
  });
});

describe('abandoned', () => {
  it('names each host once', () => {
    const [a, b] = [
      { site: 'lisbon', host: 'a' },
      { site: 'lisbon', host: 'b' },
    ];
    expect(abandoned(record, b)).toEqual([b]);
    expect(abandoned({ ...record, leftAt: [b, a] }, b)).toEqual([a, b]);
  });
});

describe('a move that is over, of a machine', () => {
  const uid = '5f0c1a4e-8c3b-4a51-9d5e-0123456789ab';
  const last = { attempt: uid, moved: true, reason: 'Succeeded', message: '' };
  const moved: VmRecord = { ...record, site: 'valencia', host: 'a', last };
  const cases = [
    { reason: 'that is where it went', record: moved, anew: undefined, broken: undefined },
    { reason: 'whose memory was lost with the source', record: { ...moved, last: { ...last, reason: 'SourceFenced', message: 'why' } }, anew: undefined, broken: 'SourceFenced' },
    { reason: 'that was given another host, the target being fenced', record: { ...moved, host: 'b' }, anew: { site: 'valencia', host: 'b' }, broken: 'TargetFenced' },
    { reason: 'that starts anew where it came from', record, anew: { site: 'lisbon', host: 'b' }, broken: 'TargetFenced' },
  ] as const; // prettier-ignore
  it.each(cases)('$reason', ({ record: found, anew, broken }) => {
    const status = { phase: 'Finalizing', attempt: uid, target: { site: 'valencia', host: 'a' } };
    const migration = migrationObject('web', {}, { uid }, status);
    expect(startedAnewAt(migration, found)).toEqual(anew);
    expect(brokenBy(migration, { last, ...found })?.reason).toBe(broken);
  });
});
