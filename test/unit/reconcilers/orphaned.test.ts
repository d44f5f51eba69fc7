import { describe, expect, it } from '@jest/globals';
import { orphanedAttempt } from '../../../reconcilers/migration/orphaned.js';
import { alone } from '../../../reconcilers/migration/reconciler.js';
import type { VmRecord } from '../../../reconcilers/common/records.js';
import { machineObject, migrationObject, objectsOf } from './support/objects.js';

const attempt = '5f0c1a4e-8c3b-4a51-9d5e-0123456789ab';
const owned: VmRecord = {
  ...{ namespace: 'acme', name: 'web', site: 'valencia', host: 'a', generation: 1 },
  ...{ phase: 'Owned', disk: true, interfaces: [] },
};
const last = { attempt, moved: true, reason: 'Succeeded', message: '' };
const elsewhere = { site: 'lisbon', host: 'a' };

describe('a move that nobody ends', () => {
  const cases: readonly { reason: string; record: VmRecord; uid?: string; phase?: string; orphaned: boolean }[] = [
    { reason: 'its VMMigration is gone', record: { ...owned, phase: 'Moving', attempt, target: elsewhere }, orphaned: true },
    { reason: 'its VMMigration is gone, another of the machine waits for it', record: { ...owned, phase: 'Moving', attempt, target: elsewhere }, uid: 'another', orphaned: true },
    { reason: 'its VMMigration ends it', record: { ...owned, phase: 'Moving', attempt, target: elsewhere }, uid: attempt, orphaned: false },
    { reason: 'its VMMigration is over, and will not be looked at again', record: { ...owned, phase: 'Moving', attempt, target: elsewhere }, uid: attempt, phase: 'Failed', orphaned: true },
    { reason: 'the machine has moved, and its old domain is left', record: { ...owned, last: { ...last, source: elsewhere } }, orphaned: true },
    { reason: 'the machine has moved, and its old disk is left', record: { ...owned, last: { ...last, left: { ...elsewhere, storage: 'Local' } } }, orphaned: true },
    { reason: 'the machine has moved, and the VMMigration is still to delete the old disk', record: { ...owned, last: { ...last, left: { ...elsewhere, storage: 'Local' } } }, uid: attempt, orphaned: false },
    { reason: 'the machine has moved, and nothing is left', record: { ...owned, last }, orphaned: false },
    { reason: 'it never moved', record: owned, orphaned: false },
  ]; // prettier-ignore
  it.each(cases)('$orphaned: $reason', ({ record, uid, phase = 'Copying', orphaned }) => {
    const migrations = uid === undefined ? [] : [migrationObject('move', { vmName: 'web' }, { uid }, { phase })];
    const found = orphanedAttempt(machineObject('web'), record, objectsOf({ migrations }));
    expect(found).toBe(orphaned ? attempt : undefined);
  });
});

describe('an attempt', () => {
  const other = '00000000-0000-4000-8000-000000000001';

  it('is carried by one worker at a time: the machine’s own waits for the one that had its VMMigration in hand', async () => {
    const carried = new Set<string>();
    let finish = (): void => undefined;
    const first = alone(attempt, carried, async () => await new Promise<void>((resolve) => (finish = resolve)));
    const acted: string[] = [];
    const act = async (): Promise<void> => await Promise.resolve(void acted.push('second'));
    await expect(alone(attempt, carried, act)).rejects.toMatchObject({ reason: 'MoveWithoutMigration' });
    expect(acted).toEqual([]);
    await alone(other, carried, act);
    finish();
    await first;
    await alone(attempt, carried, act);
    expect(acted).toEqual(['second', 'second']);
  });

  it('is free again when a worker fails', async () => {
    const carried = new Set<string>();
    await expect(alone(attempt, carried, () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(carried.size).toBe(0);
  });
});
