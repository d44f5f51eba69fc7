import { describe, expect, it } from '@jest/globals';
import { constants as c } from '../../../drivers/libvirt/index.js';
import type { DomainState } from '../../../drivers/libvirt/types.js';
import {
  endedSoonMs,
  phaseOf,
  powerAction,
  type PowerAction,
  type RunStrategy,
} from '../../../reconcilers/vm/power.js';

describe('powerAction', () => {
  type Row = readonly [reason: string, state: DomainState, pause: number, Record<RunStrategy, PowerAction>];
  const act = (Running: PowerAction, Stopped: PowerAction, Paused: PowerAction) => ({ Running, Stopped, Paused });
  const rows: readonly Row[] = [
    ['it runs', 'running', 1, act('none', 'shutdown', 'suspend')],
    ['it runs, waiting for something', 'blocked', 0, act('none', 'shutdown', 'suspend')],
    ['it is off', 'shutoff', c.DOMAIN_SHUTOFF_SHUTDOWN, act('start', 'none', 'startPaused')],
    ['it has crashed', 'crashed', 1, act('start', 'none', 'startPaused')],
    ['it is going off: another word would be lost', 'shutdown', 1, act('wait', 'wait', 'none')],
    ['a user’s pause is ended on demand', 'paused', c.DOMAIN_PAUSED_USER, act('resume', 'shutdown', 'none')],
    ['a pause without a cause is ended', 'paused', c.DOMAIN_PAUSED_UNKNOWN, act('resume', 'shutdown', 'none')],
    ['a start that was left half done is finished', 'paused', c.DOMAIN_PAUSED_STARTING_UP, act('resume', 'shutdown', 'none')],
    ['a migration’s pause is the migration’s', 'paused', c.DOMAIN_PAUSED_MIGRATION, act('wait', 'shutdown', 'none')],
    ['post-copy’s pause is the migration’s', 'paused', c.DOMAIN_PAUSED_POSTCOPY, act('wait', 'shutdown', 'none')],
    ['a failed post-copy is to be recovered, not resumed', 'paused', c.DOMAIN_PAUSED_POSTCOPY_FAILED, act('wait', 'shutdown', 'none')],
    ['an I/O error remains', 'paused', c.DOMAIN_PAUSED_IOERROR, act('wait', 'shutdown', 'none')],
    ['a guest that panicked remains so', 'paused', c.DOMAIN_PAUSED_CRASHED, act('wait', 'shutdown', 'none')],
  ]; // prettier-ignore
  const cases = rows.flatMap(([reason, state, pause, actions]) =>
    (['Running', 'Stopped', 'Paused'] as const).map((wanted) => ({
      reason,
      wanted,
      status: { state, reason: pause },
      action: actions[wanted],
    })),
  );
  it.each(cases)('where $wanted is wanted: $reason, so $action', ({ wanted, status, action }) => {
    expect(powerAction(wanted, status)).toBe(action);
  });

  it('has nothing to do where the phase is as wanted', () => {
    for (const [wanted, state] of [
      ['Running', 'running'],
      ['Stopped', 'shutoff'],
      ['Paused', 'paused'],
    ] as const) {
      expect(powerAction(wanted, { state, reason: c.DOMAIN_PAUSED_USER })).toBe('none');
      expect(phaseOf({ state, reason: c.DOMAIN_PAUSED_USER })).toBe(wanted);
    }
  });
});

describe('phaseOf', () => {
  const cases = [
    { reason: 'a blocked vCPU waits for I/O, the machine runs', state: 'blocked', phase: 'Running' },
    { reason: 'asleep is not running', state: 'pmsuspended', phase: 'Paused' },
    { reason: 'on its way off', state: 'shutdown', phase: 'Stopping' },
    { reason: 'a crash is not a stop', state: 'crashed', phase: 'Failed' },
    { reason: 'a driver without states says nothing of what it runs', state: 'nostate', phase: 'Running' },
  ] as const;
  it.each(cases)('$state is $phase: $reason', ({ state, phase }) => {
    expect(phaseOf({ state, reason: 0 })).toBe(phase);
  });
});

describe('endedSoonMs', () => {
  const { DOMAIN_SHUTOFF_SHUTDOWN: byItself, DOMAIN_SHUTOFF_DESTROYED: byHand } = c;
  const cases: readonly { reason: string; state: DomainState; why: number; started: number | undefined; leftMs: number | undefined }[] = [
    { reason: 'an init that ends at once is not started over and over', state: 'shutoff', why: byItself, started: 99_000, leftMs: 9_000 },
    { reason: 'one that ran for a while has done its work', state: 'shutoff', why: byItself, started: 90_000, leftMs: undefined },
    { reason: 'what somebody destroyed comes back at once', state: 'shutoff', why: byHand, started: 99_000, leftMs: undefined },
    { reason: 'we have not started it', state: 'shutoff', why: byItself, started: undefined, leftMs: undefined },
  ]; // prettier-ignore
  it.each(cases)('$leftMs: $reason', ({ state, why, started, leftMs }) => {
    expect(endedSoonMs({ state, reason: why }, started, 100_000)).toBe(leftMs);
  });
});
