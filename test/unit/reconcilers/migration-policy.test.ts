import { describe, expect, it } from '@jest/globals';
import { constants as c } from '../../../drivers/libvirt/index.js';
import type { MigrationPolicy } from '../../../crds/index.js';
import { constants, LibvirtError } from '../../../drivers/libvirt/index.js';
import { misfit, needsOf } from '../../../reconcilers/migration/compatible.js';
import {
  deadlineMs,
  firstDowntimeMs,
  follow,
  isSilent,
  isStalled,
  onStall,
  policyFlags,
  policyParameters,
  type Course,
} from '../../../reconcilers/migration/policy.js';

describe('what libvirt is asked for', () => {
  const always = c.MIGRATE_AUTO_CONVERGE;
  const cases: readonly { reason: string; policy: MigrationPolicy; flags: number; parameters?: Record<string, string | bigint | number> }[] = [
    { reason: 'a guest that writes too fast is slowed down unless that is forbidden', policy: {}, flags: always },
    { reason: 'it is forbidden, and then nothing may be said of it', policy: { autoConverge: false }, flags: 0 },
    { reason: 'a limit is in MiB a second, as libvirt wants it', policy: { bandwidthMiBps: 7 }, flags: always, parameters: { bandwidth: 7n } },
    { reason: 'post-copy has to be enabled beforehand, and has a limit of its own', policy: { postCopy: 'OnStall', bandwidthMiBps: 7 }, flags: always | c.MIGRATE_POSTCOPY, parameters: { bandwidth: 7n, 'bandwidth.postcopy': 7n } },
    { reason: 'no post-copy is none', policy: { postCopy: 'Never' }, flags: always },
    { reason: 'compression has a flag and a name', policy: { compression: 'XBZRLE' }, flags: always | c.MIGRATE_COMPRESSED, parameters: { compression: 'xbzrle' } },
    { reason: 'no compression is none', policy: { compression: 'None' }, flags: always },
    { reason: 'Zstd goes over parallel connections', policy: { compression: 'Zstd', parallelConnections: 4 }, flags: always | c.MIGRATE_COMPRESSED | c.MIGRATE_PARALLEL, parameters: { compression: 'zstd', 'parallel.connections': 4 } },
    { reason: 'TLS is a flag; its certificates are the hosts’', policy: { tls: true }, flags: always | c.MIGRATE_TLS },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ policy, flags, parameters = {} }) => {
    expect(policyFlags(policy)).toBe(flags);
    const throttle =
      policy.autoConverge === false ? {} : { 'auto_converge.initial': 40, 'auto_converge.increment': 25 };
    expect(Object.fromEntries(policyParameters(policy).map(({ name, value }) => [name, value.value]))).toEqual({
      ...throttle,
      ...parameters,
    });
  });
});

describe('the deadline', () => {
  it('is what the policy says', () => expect(deadlineMs({ timeoutSeconds: 5 }, 1n << 40n)).toBe(5_000));
  it('grows with the memory where it says nothing', () => {
    expect(deadlineMs({}, 0n)).toBe(300_000);
    expect(deadlineMs({}, 4_000_000_000n)).toBe(4_300_000);
  });
});

describe('what follows a stall', () => {
  const cases: readonly [string, MigrationPolicy, string][] = [
    ['the move is given up where nothing is said: the guest runs on at the source', {}, 'Abort'],
    ['who allows post-copy on a stall wants it then', { postCopy: 'OnStall' }, 'PostCopy'],
    ['but may want something else at the deadline', { postCopy: 'OnStall', onStall: 'Pause' }, 'Pause'],
    ['a pause is asked for', { onStall: 'Pause' }, 'Pause'],
  ];
  it.each(cases)('%s', (_, policy, action) => expect(onStall(policy)).toBe(action));
});

describe('a copy on its course', () => {
  interface Seen {
    at: number;
    remaining: number;
    round: number;
    sent?: number;
    throttle?: number;
  }
  const seen = (looks: readonly Seen[], policy: MigrationPolicy = {}): Course =>
    looks.reduce<Course | undefined>(
      (course, { at, remaining, round, sent = at, throttle = 0 }) =>
        follow(course, { remainingBytes: remaining, iteration: round, transferredBytes: sent, throttlePercent: throttle }, policy, at * 1_000),
      undefined,
    ) ?? follow(undefined, {}, policy, 0); // prettier-ignore

  it('begins with a quarter of the time at the switch-over', () => {
    expect(firstDowntimeMs({})).toBe(75);
    expect(firstDowntimeMs({ maxDowntimeMs: 1 })).toBe(1);
    expect(seen([]).downtimeMs).toBe(75);
  });

  it('gets more with each round that did not suffice, up to the limit', () => {
    const rounds = [1, 2, 3, 4, 5, 6].map((round) => ({ at: round, remaining: 100, round }));
    const downtimes = rounds.map((_, n) => seen(rounds.slice(0, n + 1)).downtimeMs);
    expect(downtimes).toEqual([75, 75, 150, 300, 300, 300]);
  });

  it('gets no more while a round lasts, however often it is looked at', () => {
    const looks = [1, 2, 3, 4, 5].map((at) => ({ at, remaining: 100, round: 3 }));
    expect(seen(looks).downtimeMs).toBe(75);
  });

  /** Round after round with as much to send: what the guest writes is what the line carries. */
  const rounds = (count: number, seconds: number, throttle: (at: number) => number = () => 0): Seen[] =>
    Array.from({ length: count * seconds }, (_, at) => ({
      ...{ at, round: 1 + Math.floor(at / seconds), throttle: throttle(at) },
      remaining: 100 * (1 - (at % seconds) / seconds),
    }));
  const stalls: readonly { reason: string; looks: readonly Seen[]; at: number; stalled: boolean }[] = [
    { reason: 'less remains than ever: it gets on', looks: rounds(1, 300), at: 300, stalled: false },
    { reason: 'nothing is sent for a minute: the connection is gone', looks: [{ at: 0, remaining: 100, round: 1 }, { at: 1, remaining: 90, round: 1 }], at: 62, stalled: true },
    { reason: 'though the last round was nearly done, it comes to nothing: the guest writes as fast as we copy', looks: rounds(13, 6), at: 78, stalled: true },
    { reason: 'the same guest, slowed down more and more: that is a gain', looks: rounds(13, 6, (at) => Math.floor(at / 12) * 10), at: 78, stalled: false },
    { reason: 'and none any more once it can’t be slowed down further', looks: rounds(30, 6, (at) => Math.min(99, Math.floor(at / 12) * 30)), at: 180, stalled: true },
    { reason: 'a round over a narrow line takes minutes: it may have some of them', looks: rounds(4, 100), at: 400, stalled: false },
    { reason: 'and no more than some', looks: rounds(6, 100), at: 600, stalled: true },
    { reason: 'each round has less to send', looks: [1, 2, 3, 4, 5, 6].map((round) => ({ at: round * 30, round, remaining: 100 - round })), at: 200, stalled: false },
  ]; // prettier-ignore
  it.each(stalls)('$reason', ({ looks, at, stalled }) => expect(isStalled(seen(looks), at * 1_000)).toBe(stalled));

  it('is silent only when nothing is sent, not when nothing is gained', () => {
    expect(isSilent(seen(rounds(13, 6)), 78_000)).toBe(false);
    expect(isSilent(seen([{ at: 0, remaining: 100, round: 1 }]), 62_000)).toBe(true);
  });
});

describe('what a guest needs of a target', () => {
  const cpu = "<cpu mode='custom' match='exact' check='full'><model fallback='forbid'>Skylake</model></cpu>";
  const domain = (type: string, inner: string): string =>
    `<domain type='${type}'><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>${inner}</domain>`;
  const all = { arch: 'x86_64', machine: 'pc-q35-7.2' };
  it('is its machine type and, with KVM, its CPU', () =>
    expect(needsOf(domain('kvm', cpu))).toEqual({ ...all, virtualisation: 'kvm', cpu }));
  it('is no CPU that QEMU emulates: it does so everywhere', () =>
    expect(needsOf(domain('qemu', cpu))).toEqual({ ...all, virtualisation: 'qemu', cpu: undefined }));

  const refused = new LibvirtError('no such machine', constants.ERR_INVALID_ARG, 0, 2);
  const fits: readonly {
    reason: string;
    type: 'kvm' | 'qemu';
    isRunning?: boolean;
    hasMachine?: boolean;
    compared?: 'incompatible' | 'superset';
    misfit?: string;
  }[] = [
    { reason: 'the target has the machine type and more than the CPU', type: 'kvm' },
    { reason: 'its QEMU does not know the machine type', type: 'qemu', hasMachine: false, misfit: 'MachineTypeNotSupported' },
    { reason: 'its CPU lacks what the guest uses', type: 'kvm', compared: 'incompatible', misfit: 'CPUIncompatible' },
    { reason: 'a guest that is off gets a CPU when it starts', type: 'kvm', compared: 'incompatible', isRunning: false },
    { reason: 'an emulated CPU is the same everywhere', type: 'qemu', compared: 'incompatible' },
  ]; // prettier-ignore
  it.each(fits)('$misfit: $reason', async ({ type, isRunning = true, hasMachine = true, compared = 'superset', misfit: wanted }) => {
    const source = { domainXml: () => Promise.resolve(domain(type, cpu)) };
    const target = {
      domainCapabilities: () => (hasMachine ? Promise.resolve('') : Promise.reject(refused)),
      compareHypervisorCpu: () => Promise.resolve(compared),
    };
    expect((await misfit('x', isRunning, source, target))?.reason).toBe(wanted);
  }); // prettier-ignore

  it('is not judged by a target that answers something else', async () => {
    const source = { domainXml: () => Promise.resolve(domain('kvm', cpu)) };
    const away = () => Promise.reject(new Error('away'));
    const target = { domainCapabilities: away, compareHypervisorCpu: away };
    await expect(misfit('x', true, source, target)).rejects.toThrow('away');
  });
});
