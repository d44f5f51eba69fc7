import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import { kinds, migrationPhases, type StorageKind, type VMMigration } from '../../crds/index.js';
import {
  apply,
  condition,
  ConsoleWatch,
  container,
  edgeTargets,
  eventsOf,
  eventually,
  find,
  get,
  guest,
  inSite,
  kubectl,
  machine,
  manifest,
  namespace,
  Operator,
  ownership,
  panicOf,
  patchSpec,
  Pings,
  remove,
  report,
  setRunStrategy,
  sites,
  startOperator,
  stopOperator,
  volumesOf,
  waitReady,
  whereabouts,
  type Manifest,
  type PingResult,
  type SiteName,
} from '../support/lab.js';

const ns = 'moving';
const mover = `${ns}/web-1`;
/** At a site that no move here touches. */
const watcher = `${ns}/app-1`;
const address = '172.16.0.20';

let operator: Operator | undefined;
/** Of the machine that the next case begins with. */
let storage: StorageKind = 'Shared';
/** Of the machine that is there. */
let madeWith: StorageKind | undefined;

const moverManifest = (): Manifest =>
  machine(mover, { storage, placement: { site: 'valencia' }, networks: [{ name: 'blue', address }] });

beforeAll(async () => {
  operator = await startOperator();
  await apply([
    namespace(ns),
    manifest('FederatedNetwork', `${ns}/blue`, { cidr: '172.16.0.0/16', sites: [...sites] }),
    container(watcher, { placement: { site: 'lisbon' }, networks: [{ name: 'blue' }] }),
  ]);
}, 90_000);

afterAll(async () => await stopOperator(operator), 90_000);

/** Every case begins with the machine at valencia, its disk where it was made. */
beforeEach(async () => {
  const { status } = (await find(kinds.FederatedVM, mover)) ?? {};
  if (status?.site !== 'valencia' || status.phase !== 'Running' || madeWith !== storage) await freshMachine();
}, 120_000);

afterEach(async () => {
  for (const { metadata } of await migrations()) await remove(kinds.VMMigration, `${ns}/${metadata.name}`);
}, 60_000);

async function freshMachine(): Promise<void> {
  await remove(kinds.FederatedVM, mover);
  await eventually('the last machine is gone', async () =>
    expect(await find(kinds.FederatedVM, mover)).toBeUndefined(),
  );
  await apply([moverManifest()]);
  madeWith = storage;
  await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
  await guest(mover, 'cat /run/ready', 60_000);
  const { status } = await get(kinds.FederatedVM, watcher);
  // The last machine had this address and another MAC: one word from the new one tells the watcher, which then reaches it.
  await guest(mover, `ping -c 1 -W 5 ${status?.interfaces?.[0]?.address ?? ''}`, 60_000);
  expect((await guest(watcher, `ping -c 1 -W 5 ${address}`)).stdout).toContain('1 packets received');
}

async function migrations(): Promise<{ metadata: { name: string } }[]> {
  const names = await kubectl('get', 'vmmigrations.isthmus.dev', `--namespace=${ns}`, '--output=name');
  return names
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => ({ metadata: { name: line.replace(/^.*\//, '') } }));
}

const migration = (name: string, site: SiteName, more: Manifest = {}): Manifest =>
  manifest('VMMigration', `${ns}/${name}`, { vmName: 'web-1', target: { site }, ...more });

/** Slow enough that there is time to act in the middle of it. */
const slowly = { policy: { bandwidthMiBps: 1 } };

const isOver = ({ status }: VMMigration): boolean =>
  status?.phase === 'Succeeded' || status?.phase === 'Failed' || status?.phase === 'Cancelled';

async function untilOver(name: string, timeoutMs = 60_000): Promise<VMMigration> {
  return await eventually(
    `${name} is over`,
    async () => {
      const object = await get(kinds.VMMigration, `${ns}/${name}`);
      if (!isOver(object)) throw new Error(JSON.stringify(object.status));
      return object;
    },
    timeoutMs,
  );
}

async function untilCopying(name: string): Promise<VMMigration> {
  return await eventually(`${name} copies`, async () => {
    const object = await get(kinds.VMMigration, `${ns}/${name}`);
    expect(object.status).toMatchObject({ phase: 'Copying', transferredBytes: expect.any(Number) });
    expect(object.status?.transferredBytes).toBeGreaterThan(0);
    return object;
  });
}

/** One boot of a guest: an id that a restart changes, and seconds that it counts. */
async function boot(): Promise<{ id: string; seconds: number; addresses: string }> {
  const { stdout } = await guest(
    mover,
    'cat /proc/sys/kernel/random/boot_id /run/seconds; ip -4 -o address | grep -v " lo "',
    15_000,
  );
  const [id = '', seconds, addresses = ''] = stdout.trim().split('\n');
  return { id, seconds: Number(seconds), addresses };
}

async function identity(): Promise<{ uid: string; uuid: string; mac: string }> {
  const { metadata, status } = await get(kinds.FederatedVM, mover);
  const mac = status?.interfaces?.[0]?.mac;
  if (status?.uuid === undefined || mac === undefined) throw new Error('the machine has no place yet');
  return { uid: metadata.uid, uuid: status.uuid, mac };
}

/**
 * Emulated guests sometimes die of a live migration: a kernel panic in virtio code, with libvirt alone too. Only a panic
 * on the guest's own console counts as that; then the case is repeated with a fresh machine.
 */
class GuestPanic extends Error {}

async function despitePanics(attempt: () => Promise<void>): Promise<void> {
  for (let panics = 0; ; panics++) {
    try {
      await attempt();
      return;
    } catch (error) {
      if (!(error instanceof GuestPanic) || panics === 4) throw error;
      report(
        `the emulated guest panicked during the move (${String(panics + 1)}), repeated with a fresh one: ${error.message}`,
      );
      for (const { metadata } of await migrations()) await remove(kinds.VMMigration, `${ns}/${metadata.name}`);
      await freshMachine();
    }
  }
}

interface Moved {
  readonly vmig: VMMigration;
  readonly pings: PingResult;
  readonly before: Awaited<ReturnType<typeof boot>>;
  readonly after: Awaited<ReturnType<typeof boot>>;
}

/** Moves the machine while another one pings it. */
async function move(
  name: string,
  site: SiteName,
  { during, ...more }: Manifest & { during?: () => Promise<void> } = {},
): Promise<Moved> {
  const { uuid } = await identity();
  await using console = await ConsoleWatch.start(site, uuid);
  const before = await boot();
  const pings = await Pings.start(watcher, address);
  await apply([migration(name, site, more)]);
  await during?.();
  const vmig = await untilOver(name);
  const failure = (error: unknown): string => (error instanceof Error ? error.message : String(error));
  let after;
  try {
    after = await boot();
  } catch (error) {
    await pings.stop();
    const fault = panicOf(console.text, failure(error));
    throw fault === undefined ? error : new GuestPanic(fault, { cause: error });
  }
  const result = await pings.stop();
  const fault = panicOf(console.text);
  if (after.id !== before.id && fault !== undefined) throw new GuestPanic(fault);
  const { downtimeMs = NaN, networkDowntimeMs = NaN, totalTimeMs = NaN, transferredBytes = NaN } = vmig.status ?? {};
  report(
    `${name}: ${String(result.lost)} of ${String(result.sent)} pings lost, longest gap ${String(result.longestGapMs)} ms; ` +
      `downtime ${String(downtimeMs)} ms, of the network ${String(networkDowntimeMs)} ms, total ${String(totalTimeMs)} ms, ${String(transferredBytes >> 20)} MiB`,
  );
  return { vmig, pings: result, before, after };
}

/** In the middle of the move; its successor leads at once. */
async function killOperator(name: string): Promise<void> {
  await eventually('it has begun', async () => {
    const { status } = await get(kinds.VMMigration, `${ns}/${name}`);
    expect(status?.phase).toBe('Copying');
  });
  await operator?.kill();
  operator = await Operator.start({ leaderElect: false });
}

const cancel = async (name: string): Promise<void> =>
  await patchSpec(kinds.VMMigration, `${ns}/${name}`, { cancel: true });

async function removeByForce(name: string): Promise<void> {
  await remove(kinds.VMMigration, `${ns}/${name}`);
  const none = '--patch={"metadata":{"finalizers":null}}';
  // An operator that is there may be done with it before.
  const patched = kubectl('patch', 'vmmigration', name, `--namespace=${ns}`, '--type=merge', none);
  await patched.catch((error: unknown) => expect(String(error)).toContain('NotFound'));
  expect(await find(kinds.VMMigration, `${ns}/${name}`)).toBeUndefined();
}

function expectSucceeded({ vmig, pings, before, after }: Moved, from: SiteName, to: SiteName): void {
  const { status } = vmig;
  expect(status).toMatchObject({
    phase: 'Succeeded',
    progressPercent: 100,
    remainingBytes: 0,
    source: { site: from, host: 'a' },
    target: { site: to, host: 'a' },
  });
  expect(condition(vmig, 'Ready')?.status).toBe('True');
  expect(status?.transferredBytes).toBeGreaterThan(1 << 20);
  expect(status?.downtimeMs).toBeGreaterThan(0);
  expect(status?.totalTimeMs).toBeGreaterThan(status?.downtimeMs ?? NaN);
  expect(status?.networkDowntimeMs).toBeLessThan((status?.downtimeMs ?? NaN) + 500);
  const phases = status?.phaseTimestamps?.map(({ phase }) => phase) ?? [];
  expect(phases).toEqual(migrationPhases.filter((phase) => phases.includes(phase)));
  expect(phases).toEqual(expect.arrayContaining(['Preparing', 'Copying', 'SwitchingOver', 'Succeeded']));
  const times = status?.phaseTimestamps?.map(({ time }) => Date.parse(time)) ?? [];
  expect(times).toEqual(times.toSorted((a, b) => a - b));
  // The same boot, which went on counting, with the same address.
  expect(after.id).toBe(before.id);
  expect(after.seconds).toBeGreaterThan(before.seconds);
  expect(after.addresses).toBe(before.addresses);
  // Stale paths would cost as long as ARP and learning take to age: a minute.
  expect(pings.longestGapMs).toBeLessThan(4_000);
}

/** The machine is at one site, and everything that says where it is agrees. */
async function expectOnlyAt(site: SiteName): Promise<void> {
  const { uid, uuid, mac } = await identity();
  expect(await whereabouts(uuid)).toEqual([`${site} running`]);
  const record = await ownership(uid);
  expect(record).toMatchObject({ site, host: 'a', phase: 'Owned' });
  expect(record.attempt).toBeUndefined();
  expect(record.target).toBeUndefined();
  await eventually(
    'the machine’s status and every boundary switch point at it',
    async () => {
      const object = await get(kinds.FederatedVM, mover);
      expect(object.status).toMatchObject({ site, host: 'a', phase: 'Running' });
      expect(condition(object, 'Ready')?.status).toBe('True');
      for (const each of sites) expect(await edgeTargets(each, mac)).toEqual(each === site ? [] : [`${site}/a`]);
    },
    10_000,
  );
}

describe('a live migration', () => {
  it('takes the running guest to another site and back, with its address, its boot and its connections', async () => {
    await despitePanics(async () => {
      const there = await move('web-1-to-saopaulo', 'saopaulo');
      expectSucceeded(there, 'valencia', 'saopaulo');
      await expectOnlyAt('saopaulo');
      const back = await move('web-1-to-valencia', 'valencia');
      expectSucceeded(back, 'saopaulo', 'valencia');
      await expectOnlyAt('valencia');
      const table = (await kubectl('get', 'vmig', `--namespace=${ns}`)).replaceAll(/ +/g, ' ').replaceAll(/ $/gm, '');
      expect(table.split('\n')[0]).toBe('NAME VM FROM TO PHASE PROGRESS DOWNTIME AGE');
      expect(table).toMatch(/^web-1-to-saopaulo web-1 valencia saopaulo Succeeded 100 \d+ \S+$/m);
      await eventually('its events tell of each phase', async () => {
        for (const reason of ['Preparing', 'Copying', 'SwitchingOver', 'Succeeded'])
          expect(await eventsOf('VMMigration', 'web-1-to-saopaulo', reason)).not.toEqual([]);
        const [copying] = await eventsOf('VMMigration', 'web-1-to-saopaulo', 'Copying');
        expect(copying).toMatch(/^copying memory \(the disk stays on the share\)/);
      });
    });
  }, 300_000);

  it('goes on when the operator is killed in the middle of it, and its successor concludes it', async () => {
    await despitePanics(async () => {
      const moved = await move('orphaned', 'saopaulo', { during: async () => await killOperator('orphaned') });
      expect(moved.vmig.status).toMatchObject({ phase: 'Succeeded', progressPercent: 100 });
      expect(moved.after.id).toBe(moved.before.id);
      await expectOnlyAt('saopaulo');
    });
  }, 200_000);
});

describe('a migration that is not wanted any more', () => {
  const ways = [
    {
      how: 'spec.cancel',
      reason: 'the object stays, Cancelled, and tells where the machine is',
      end: async (name: string): Promise<void> => {
        await cancel(name);
        const vmig = await untilOver(name, 20_000);
        expect(vmig.status?.phase).toBe('Cancelled');
        expect(vmig.status?.message).toContain('valencia/a');
      },
    },
    {
      how: 'kubectl delete',
      reason: 'deleting cancels first, then the object goes',
      end: async (name: string): Promise<void> => {
        await remove(kinds.VMMigration, `${ns}/${name}`);
        await eventually(
          'the object is gone',
          async () => expect(await find(kinds.VMMigration, `${ns}/${name}`)).toBeUndefined(),
          20_000,
        );
      },
    },
    {
      how: 'taking its finalizer off',
      reason: 'who carries it sees that it is gone, though no daemon tells anything',
      end: async (name: string): Promise<void> => {
        operator?.child.kill('SIGSTOP');
        await removeByForce(name);
        operator?.child.kill('SIGCONT');
      },
    },
    {
      how: 'taking its finalizer off while there is no operator',
      reason: 'the machine’s own controller ends the move, or nobody could',
      end: async (name: string): Promise<void> => {
        await operator?.kill();
        operator = undefined;
        await removeByForce(name);
        operator = await Operator.start({ leaderElect: false });
      },
    },
  ];
  it.each(ways)(
    '$how leaves the machine at the source and nothing at the target: $reason',
    async ({ end }) => {
      await despitePanics(async () => {
        const { uuid } = await identity();
        await using console = await ConsoleWatch.start('valencia', uuid);
        const before = await boot();
        await apply([migration('unwanted', 'saopaulo', slowly)]);
        await untilCopying('unwanted');
        // A second one has to wait for the first, and may be cancelled while it waits.
        await apply([migration('next', 'lisbon')]);
        await eventually('the second one waits', async () => {
          const next = await get(kinds.VMMigration, `${ns}/next`);
          expect(condition(next, 'Ready')).toMatchObject({ status: 'False', reason: 'AnotherMigration' });
        });
        await cancel('next');
        expect((await untilOver('next', 10_000)).status?.phase).toBe('Cancelled');
        await end('unwanted');
        await eventually('the move is over', async () =>
          expect((await ownership((await identity()).uid)).phase).toBe('Owned'),
        );
        await expectOnlyAt('valencia');
        const after = await boot();
        const fault = panicOf(console.text);
        if (after.id !== before.id && fault !== undefined) throw new GuestPanic(fault);
        expect(after.id).toBe(before.id);
        expect((await guest(watcher, `ping -c 2 -W 2 ${address}`)).exitCode).toBe(0);
      });
    },
    150_000,
  );
});

/** Words of the guest's on its disk, beyond what its file system has. */
const sector = 120_000;
async function write(words: string): Promise<void> {
  await guest(mover, `echo ${words} | dd of=/dev/vda bs=512 seek=${String(sector)} conv=fsync,notrunc`, 20_000);
}
async function written(): Promise<string> {
  const read = `dd if=/dev/vda bs=512 skip=${String(sector)} count=1 2>/dev/null | head -n 1`;
  return (await guest(mover, `echo 3 >/proc/sys/vm/drop_caches; ${read}`, 20_000)).stdout.trim();
}

const volumes = async (): Promise<string[]> => await volumesOf((await identity()).uid);
const diskAt = (pool: string, site: SiteName): string[] => [`root ${pool} ${site}`, `seed ${pool} ${site}`];

async function powerCycle(): Promise<void> {
  await setRunStrategy(mover, 'Stopped');
  await setRunStrategy(mover, 'Running');
  await guest(mover, 'cat /run/ready', 60_000);
}

describe('a machine with a disk of its own', () => {
  beforeAll(() => {
    storage = 'Local';
  });
  afterAll(() => {
    storage = 'Shared';
  });

  it('takes the disk along, leaves nothing behind, and starts from it there', async () => {
    await despitePanics(async () => {
      await write('before');
      const there = await move('with-disk', 'saopaulo');
      expectSucceeded(there, 'valencia', 'saopaulo');
      expect(there.vmig.status?.storage).toBe('Local');
      await expectOnlyAt('saopaulo');
      expect(await written()).toBe('before');
      expect(await volumes()).toEqual(diskAt('default', 'saopaulo'));
      await write('there');
      await powerCycle();
      expect(await written()).toBe('there');
      const { status } = await get(kinds.FederatedVM, mover);
      expect(status?.conditions?.map(({ type }) => type)).not.toContain('RestartRequired');
      const back = await move('with-disk-back', 'valencia');
      expectSucceeded(back, 'saopaulo', 'valencia');
      expect(await written()).toBe('there');
      expect(await volumes()).toEqual(diskAt('default', 'valencia'));
    });
  }, 300_000);

  it('stays where the target has no room for it, and nothing is touched', async () => {
    const pool = '/var/lib/libvirt/images';
    await inSite('saopaulo', 'mount', '-t', 'tmpfs', '-o', 'size=2m', 'small', pool);
    try {
      await inSite('saopaulo', 'virsh', '-q', 'pool-refresh', 'default');
      await apply([migration('no-room', 'saopaulo')]);
      const { status } = await untilOver('no-room', 20_000);
      expect(status).toMatchObject({ phase: 'Failed', reason: 'NoSpace' });
      expect(status?.message).toMatch(
        /target saopaulo\/a: pool default has 2 MiB free, the disk takes \d+ MiB; make room/,
      );
      expect(status?.phaseTimestamps?.map(({ phase }) => phase)).toEqual(['Failed']);
      expect(await inSite('saopaulo', 'ls', pool)).toBe('');
    } finally {
      await inSite('saopaulo', 'umount', '--lazy', pool);
      await inSite('saopaulo', 'virsh', '-q', 'pool-refresh', 'default');
    }
    expect(await volumes()).toEqual(diskAt('default', 'valencia'));
  }, 60_000);

  it('keeps it, and nothing at the target, when the move is cancelled', async () => {
    await despitePanics(async () => {
      await write('kept');
      await apply([migration('unwanted', 'saopaulo', slowly)]);
      await untilCopying('unwanted');
      await cancel('unwanted');
      expect((await untilOver('unwanted', 30_000)).status?.phase).toBe('Cancelled');
      await expectOnlyAt('valencia');
      expect(await written()).toBe('kept');
      expect(await volumes()).toEqual(diskAt('default', 'valencia'));
    });
  }, 200_000);

  it('goes on with it when the operator is killed in the middle of it', async () => {
    await despitePanics(async () => {
      await write('orphaned');
      const moved = await move('disk-orphaned', 'saopaulo', {
        during: async () => await killOperator('disk-orphaned'),
      });
      expect(moved.vmig.status).toMatchObject({ phase: 'Succeeded', progressPercent: 100 });
      expect(moved.after.id).toBe(moved.before.id);
      await expectOnlyAt('saopaulo');
      expect(await written()).toBe('orphaned');
      expect(await volumes()).toEqual(diskAt('default', 'saopaulo'));
    });
  }, 200_000);
});

describe('a machine on the share', () => {
  it('leaves it when that is asked for', async () => {
    await despitePanics(async () => {
      await write('shared');
      expect(await volumes()).toEqual(diskAt('shared', 'valencia'));
      const moved = await move('off-the-share', 'saopaulo', { storage: 'Copy' });
      expectSucceeded(moved, 'valencia', 'saopaulo');
      expect(moved.vmig.status?.storage).toBe('Copy');
      await expectOnlyAt('saopaulo');
      expect(await written()).toBe('shared');
      expect(await volumes()).toEqual(diskAt('default', 'saopaulo'));
      await remove(kinds.FederatedVM, mover);
      await eventually('it is gone', async () => expect(await find(kinds.FederatedVM, mover)).toBeUndefined());
    });
  }, 200_000);
});

describe('a migration by a policy', () => {
  beforeAll(async () => await freshMachine(), 120_000);

  /** Moves the machine; it must have gone on, and be nowhere else. */
  async function moveBy(
    name: string,
    site: SiteName,
    policy: Manifest,
    during?: () => Promise<void>,
  ): Promise<VMMigration> {
    const { uuid } = await identity();
    await using console = await ConsoleWatch.start(site, uuid);
    const before = await boot();
    await apply([migration(name, site, { policy })]);
    await during?.();
    const vmig = await untilOver(name);
    expect(vmig.status?.message).toMatch(/^moved to /);
    try {
      const after = await boot();
      const fault = panicOf(console.text);
      if (after.id !== before.id && fault !== undefined) throw new GuestPanic(fault);
      expect(after.id).toBe(before.id);
    } catch (error) {
      const fault = panicOf(console.text, String(error));
      throw fault === undefined ? error : new GuestPanic(fault, { cause: error });
    }
    await expectOnlyAt(site);
    return vmig;
  }

  const elsewhere = async (): Promise<[SiteName, SiteName]> =>
    (await get(kinds.FederatedVM, mover)).status?.site === 'valencia'
      ? ['valencia', 'saopaulo']
      : ['saopaulo', 'valencia'];
  const received = async (site: SiteName): Promise<number> =>
    Number(await inSite(site, 'cat', '/sys/class/net/br-wan/statistics/rx_bytes'));

  it('sends no more than it may', async () => {
    await despitePanics(async () => {
      const [, to] = await elsewhere();
      const limit = 25;
      const before = await received(to);
      const { status } = await moveBy('slow', to, { bandwidthMiBps: limit });
      const bytes = (await received(to)) - before;
      const seconds = (status?.totalTimeMs ?? NaN) / 1_000;
      const rate = bytes / 2 ** 20 / seconds;
      report(
        `${String(bytes >> 20)} MiB over the wire in ${seconds.toFixed(1)} s: ${rate.toFixed(1)} MiB/s of ${String(limit)}`,
      );
      expect(rate).toBeLessThan(limit * 1.15);
      expect(rate).toBeGreaterThan(limit * 0.5);
    });
  }, 120_000);

  const tooLate = { bandwidthMiBps: 12, timeoutSeconds: 2 };
  it('pauses the guest where that is to end it', async () => {
    await despitePanics(async () => {
      const [from, to] = await elsewhere();
      const { uuid } = await identity();
      // It pauses after 4 s and gives up after 8; the copy takes 6 to 7.
      await moveBy('paused', to, { bandwidthMiBps: 15, timeoutSeconds: 4, onStall: 'Pause' }, async () => {
        await eventually('the guest waits', async () => expect(await whereabouts(uuid)).toContain(`${from} paused`));
      });
      expect(await whereabouts(uuid)).toEqual([`${to} running`]);
    });
  }, 120_000);

  it('gives up where it is to, and the guest runs on', async () => {
    const [from, to] = await elsewhere();
    const before = await boot();
    await apply([migration('late', to, { policy: tooLate })]);
    const { status } = await untilOver('late');
    expect(status).toMatchObject({ phase: 'Failed', reason: 'DeadlineExceeded' });
    expect(status?.message).toMatch(/spec\.policy\.timeoutSeconds/);
    await expectOnlyAt(from);
    expect((await boot()).id).toBe(before.id);
  }, 60_000);

  it('lets the guest run on at the target before its memory is there', async () => {
    await despitePanics(async () => {
      const [, to] = await elsewhere();
      const { status } = await moveBy('ahead', to, { ...tooLate, postCopy: 'OnStall' }, async () => {
        await eventually('it is in post-copy', async () =>
          expect((await get(kinds.VMMigration, `${ns}/ahead`)).status).toMatchObject({ reason: 'PostCopy' }),
        );
      });
      report(`post-copy: downtime ${String(status?.downtimeMs)} ms, total ${String(status?.totalTimeMs)} ms`);
    });
  }, 120_000);

  it('shows nobody on the way what the guest has in mind', async () => {
    await despitePanics(async () => {
      const secret = 'what-the-guest-has-in-mind';
      await guest(mover, `yes ${secret.split('').reverse().join('')} | rev | head -n 4000 >/run/secret`, 20_000);
      const seen: number[] = [];
      for (const policy of [{ tls: true, parallelConnections: 2 }, { tls: false }]) {
        const [from, to] = await elsewhere();
        const capture = `timeout 60 tcpdump -q -i br-wan -s 0 -w /run/wire.pcap tcp dst portrange 49152-49215 2>/dev/null &
          echo $! >/run/wire.pid; wait`;
        const wire = inSite(to, 'sh', '-c', capture);
        await sleep(1_500); // it begins to see frames a moment after it was asked to
        const { parallelConnections = 0 } = policy;
        await moveBy(policy.tls ? 'veiled' : 'bare', to, { ...policy, bandwidthMiBps: 40 }, async () => {
          await eventually('it sends over as many connections', async () => {
            const sending = ['ss', '-Htn', 'state', 'established', '( dport >= :49152 and dport <= :49215 )'];
            const connections = (await inSite(from, ...sending)).trim().split('\n');
            // And one for what is not memory.
            expect(connections).toHaveLength(parallelConnections + 1);
          });
        });
        await inSite(to, 'sh', '-c', 'kill "$(cat /run/wire.pid)"');
        await wire;
        const count = `grep -a -c ${secret} /run/wire.pcap || true; rm /run/wire.pcap /run/wire.pid`;
        seen.push(Number(await inSite(to, 'sh', '-c', count)));
      }
      expect(seen[0]).toBe(0);
      expect(seen[1]).toBeGreaterThan(0);
    });
  }, 180_000);

  it('compresses, and refuses beforehand what the hosts can’t do', async () => {
    await despitePanics(async () => {
      const [from, to] = await elsewhere();
      await apply([migration('zstd', to, { policy: { compression: 'Zstd', parallelConnections: 2 } })]);
      const { status } = await untilOver('zstd');
      expect(status).toMatchObject({ phase: 'Failed', reason: 'CompressionNotSupported' });
      await expectOnlyAt(from);
      const { uuid } = await identity();
      await moveBy('xbzrle', to, { compression: 'XBZRLE', bandwidthMiBps: 40 }, async () => {
        await eventually('it compresses', async () =>
          expect(await inSite(from, 'virsh', 'domjobinfo', '--rawstats', uuid)).toMatch(/^compression_cache: [1-9]/m),
        );
      });
    });
  }, 120_000);
});
