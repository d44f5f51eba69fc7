import { describe, expect, it } from '@jest/globals';
import type { DomainState } from '../../../drivers/libvirt/types.js';
import type { End } from '../../../reconcilers/migration/assess.js';
import { assessFencedOffline, type FencedVerdict, type Rest } from '../../../reconcilers/migration/fenced.js';
import { chooseMode } from '../../../reconcilers/migration/mode.js';
import { assessOffline, type OfflineVerdict } from '../../../reconcilers/migration/offline.js';
import { copyProgress } from '../../../reconcilers/migration/progress.js';
import { machineObject, migrationObject } from './support/objects.js';

const at = (state: DomainState): { state: DomainState; reason: number } => ({ state, reason: 0 });

describe('assessOffline', () => {
  const cases: readonly { reason: string; source: End; target: End; copied: boolean; verdict: OfflineVerdict }[] = [
    { reason: 'off, and nothing is at the target', source: at('shutoff'), target: 'absent', copied: false, verdict: 'copy' },
    { reason: 'a definition without a disk is a leftover', source: at('shutoff'), target: at('shutoff'), copied: false, verdict: 'copy' },
    { reason: 'a guest that crashed is off, too', source: at('crashed'), target: 'absent', copied: false, verdict: 'copy' },
    { reason: 'the copy is complete', source: at('shutoff'), target: 'absent', copied: true, verdict: 'hand' },
    { reason: 'it was defined before the operator died', source: at('shutoff'), target: at('shutoff'), copied: true, verdict: 'hand' },
    { reason: 'somebody started it', source: at('running'), target: 'absent', copied: true, verdict: 'runs' },
    { reason: 'it may be just starting', source: at('paused'), target: at('shutoff'), copied: false, verdict: 'runs' },
    { reason: 'somebody undefined it', source: 'absent', target: 'absent', copied: false, verdict: 'gone' },
    { reason: 'and its copy is no machine', source: 'absent', target: at('shutoff'), copied: true, verdict: 'gone' },
    { reason: 'somebody started what is whole there', source: at('shutoff'), target: at('running'), copied: true, verdict: 'takeOver' },
    { reason: 'or what is not', source: at('shutoff'), target: at('running'), copied: false, verdict: 'occupied' },
    { reason: 'it runs twice', source: at('running'), target: at('running'), copied: true, verdict: 'occupied' },
    { reason: 'the source may run it', source: 'unknown', target: at('running'), copied: true, verdict: 'unknown' },
    { reason: 'the target may run it', source: at('shutoff'), target: 'unknown', copied: true, verdict: 'unknown' },
  ]; // prettier-ignore
  it.each(cases)('$verdict: $reason', ({ source, target, copied, verdict }) => {
    expect(assessOffline(source, target, copied)).toBe(verdict);
  });
});

describe('assessFencedOffline', () => {
  const cases: readonly { reason: string; end: 'source' | 'target'; rest: Rest; whole: boolean; verdict: FencedVerdict }[] = [
    { reason: 'all is at the target, and defined', end: 'source', rest: at('shutoff'), whole: true, verdict: 'takeOver' },
    { reason: 'a part of it is', end: 'source', rest: at('shutoff'), whole: false, verdict: 'giveBack' },
    { reason: 'nobody has defined it there', end: 'source', rest: 'absent', whole: true, verdict: 'giveBack' },
    { reason: 'the target may have it', end: 'source', rest: 'unknown', whole: true, verdict: 'unknown' },
    { reason: 'the source has it', end: 'target', rest: at('shutoff'), whole: true, verdict: 'giveBack' },
    { reason: 'the source has its disk', end: 'target', rest: 'absent', whole: true, verdict: 'giveBack' },
    { reason: 'the source’s disk is the machine’s until the record changes', end: 'source', rest: 'both', whole: true, verdict: 'giveBack' },
  ]; // prettier-ignore
  it.each(cases)('$end off: $verdict: $reason', ({ end, rest, whole, verdict }) => {
    expect(assessFencedOffline(end, rest, whole)).toBe(verdict);
  });
});

describe('chooseMode', () => {
  const cases: readonly {
    reason: string;
    mode?: string;
    run?: string;
    type?: 'Container';
    state: DomainState | undefined;
    is: string;
  }[] = [
    { reason: 'one that runs moves live by itself', state: 'running', is: 'Live' },
    { reason: 'one that is paused, too', run: 'Paused', state: 'paused', is: 'Live' },
    { reason: 'one that is stopped moves offline by itself', run: 'Stopped', state: 'shutoff', is: 'Offline' },
    { reason: 'one that is being stopped is waited for', run: 'Stopped', state: 'running', is: 'MachineStopping' },
    { reason: 'one that is meant to run and does not', state: 'shutoff', is: 'MachineNotRunning' },
    { reason: 'asked for live, a stopped one', mode: 'Live', run: 'Stopped', state: 'shutoff', is: 'MachineNotRunning' },
    { reason: 'asked for offline, one that runs', mode: 'Offline', state: 'running', is: 'MachineRunning' },
    { reason: 'asked for offline, one that is paused', mode: 'Offline', run: 'Paused', state: 'paused', is: 'MachineRunning' },
    { reason: 'asked for offline, one that is off though it should run', mode: 'Offline', state: 'shutoff', is: 'Offline' },
    { reason: 'nobody has defined it yet', mode: 'Offline', run: 'Stopped', state: undefined, is: 'MachineNotDefined' },
    { reason: 'a container that is stopped moves offline by itself', type: 'Container', run: 'Stopped', state: 'shutoff', is: 'Offline' },
    { reason: 'one that is off though it should run, too', type: 'Container', state: 'shutoff', is: 'Offline' },
    { reason: 'one that runs moves neither by itself', type: 'Container', state: 'running', is: 'MachineRunning' },
    { reason: 'nor as it is asked for', type: 'Container', mode: 'Offline', state: 'running', is: 'MachineRunning' },
    { reason: 'nor live, which LXC can’t do', type: 'Container', mode: 'Live', state: 'running', is: 'LiveNotSupported' },
    { reason: 'nor live when it is off', type: 'Container', mode: 'Live', run: 'Stopped', state: 'shutoff', is: 'LiveNotSupported' },
    { reason: 'a container that is being stopped is waited for', type: 'Container', run: 'Stopped', state: 'running', is: 'MachineStopping' },
  ]; // prettier-ignore
  it.each(cases)('$is: $reason', ({ mode, run, type, state, is }) => {
    const choose = (): string =>
      chooseMode(
        migrationObject('web', mode === undefined ? {} : { mode }),
        machineObject('web', { ...(type ? { type } : {}), ...(run === undefined ? {} : { runStrategy: run }) }),
        state,
        'lisbon/a',
      );
    if (is === 'Live' || is === 'Offline') expect(choose()).toBe(is);
    else expect(choose).toThrow(expect.objectContaining({ reason: is }));
  });
});

describe('copyProgress', () => {
  it('never runs backwards, also when the copy is begun anew, and is 100 only at the end', () => {
    const before = { progressPercent: 40, transferredBytes: 400 };
    expect(copyProgress({ sentBytes: 100, totalBytes: 1_000 }, before, 1_000)).toEqual({
      progressPercent: 40,
      transferredBytes: 400,
      remainingBytes: 900,
      estimatedSecondsRemaining: 9,
    });
    expect(copyProgress({ sentBytes: 1_000, totalBytes: 1_000 }, {}, 1_000).progressPercent).toBe(99);
    expect(copyProgress({ sentBytes: 0, totalBytes: undefined }, {}, 0)).toEqual({
      progressPercent: 0,
      transferredBytes: 0,
    });
  });
});
