import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { kinds, type StorageKind, type VMMigration } from '../../crds/index.js';
import { runInGuest } from '../../lab/guest.js';
import { diskVolumeName, domainUuid, seedVolumeName } from '../../reconcilers/common/identity.js';
import { consulUrl } from '../support/lab/consul.js';
import {
  apply,
  eventually,
  machine,
  manifest,
  namespace,
  Operator,
  ownership,
  project,
  report,
  run,
  sites as allSites,
  startOperator,
  stopOperator,
  waitReady,
} from '../support/lab.js';
import { sample, seeded } from './harness.js';
import { Lab } from './lab.js';
import { filesOf, removed, whereabouts } from './scenarios.js';
import { Watch } from './watch.js';

/**
 * What happens to a move from outside while it copies, or as it switches over: lines, daemons, hosts, guests and users. ISTHMUS_FAULTS=all
 * does them all, else a few of them.
 */
const isAll = process.env['ISTHMUS_FAULTS'] === 'all';
const sampled = 1;
const seed = Number(process.env['ISTHMUS_FAULTS_SEED'] ?? Date.now() % 1_000_000);
const only = new RegExp(process.env['ISTHMUS_FAULTS_ONLY'] ?? '');

const ns = 'world';
const name = 'walker';
const title = `${ns}/${name}`;
const watcher = `${ns}/watcher`;
const address = '172.16.0.20';
const places = ['valencia', 'saopaulo'] as const;
type Place = (typeof places)[number];

/** About ten seconds for this guest's memory: time to act in. */
const slowly = { bandwidthMiBps: 10 };

let operator: Operator | undefined;
let lab: Lab | undefined;
let watch: Watch | undefined;
let runs = 0;
let madeWith: StorageKind | undefined;

const given = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Error('the lab is not set up');
  return value;
};

beforeAll(async () => {
  operator = await startOperator();
  lab = await Lab.open();
  watch = new Watch(lab);
  await apply([
    namespace(ns),
    manifest('FederatedNetwork', `${ns}/blue`, { cidr: '172.16.0.0/16', sites: [...allSites] }),
    machine(watcher, { placement: { site: 'lisbon' }, networks: [{ name: 'blue' }] }),
  ]);
  await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
}, 120_000);

afterAll(async () => {
  for (const site of places) await inWan('up', site);
  await run('lab/up', []);
  await watch?.[Symbol.asyncDispose]();
  await lab?.[Symbol.asyncDispose]();
  await stopOperator(operator);
}, 180_000);

// --- what can be done to the lab --------------------------------------------------------------------------------------

const inWan = async (state: 'up' | 'down', site: Place): Promise<string> =>
  await run('lab/in', ['wan', 'ip', 'link', 'set', site, state]);

async function cut(site: Place, ms: number): Promise<void> {
  await inWan('down', site);
  await sleep(ms);
  await inWan('up', site);
}

async function pidOf(daemon: string): Promise<number> {
  const [pid = ''] = (await readFile(`${project}.lab/run/${daemon}.pid`, 'utf8')).split(' ');
  return Number(pid);
}

async function restart(site: Place): Promise<void> {
  process.kill(await pidOf(`${site}-libvirtd`), 'SIGKILL');
  await sleep(1_000);
  await run('lab/up', []);
  await given(lab).reconnect(site);
}

async function killLeaderOfConsul(): Promise<void> {
  const text = await (await fetch(`${consulUrl}/v1/status/leader`)).text();
  const leader = allSites[Number(/198\.51\.100\.(\d+):/.exec(text)?.[1]) - 11] ?? 'valencia';
  report(`the leader of Consul is at ${leader}`);
  process.kill(await pidOf(`${leader}-consul`), 'SIGKILL');
  await sleep(1_000);
  await run('lab/up', []);
}

/** Until another leads; then it wakes, and finds that it no longer does. */
async function pauseOperator(): Promise<void> {
  const first = given(operator);
  first.child.kill('SIGSTOP');
  operator = await Operator.start({ besides: first });
  first.child.kill('SIGCONT');
  await first.ended;
}

// --- the cases --------------------------------------------------------------------------------------------------------

interface Move {
  readonly from: Place;
  readonly to: Place;
  readonly name: string;
}

interface Fault {
  readonly what: string;
  readonly reason: string;
  readonly storage?: StorageKind;
  /** When it happens: as the copy begins, or as the guest stops at the source. */
  readonly when?: 'Copying' | 'SwitchingOver';
  readonly act: (move: Move) => Promise<void>;
  /** Where the machine is then; either: whether the copy survived is a matter of time. */
  readonly ends: 'moved' | 'stayed' | 'either' | 'gone';
  /** Whether the guest goes on; else it was started anew. */
  readonly sameBoot?: boolean;
}

const faults: readonly Fault[] = [
  {
    what: 'the line to the target is cut for three seconds',
    reason: 'TCP survives that, and so does the copy',
    act: async ({ to }) => await cut(to, 3_000),
    ends: 'moved',
  },
  {
    what: 'the line to the target is cut for forty seconds',
    reason: 'the daemons give each other up, and the guest runs on where it is',
    act: async ({ to }) => await cut(to, 40_000),
    ends: 'either',
  },
  {
    what: 'the line to the source is cut for forty seconds',
    reason: 'the daemons give each other up, and nobody else takes the machine for lost',
    act: async ({ from }) => await cut(from, 40_000),
    ends: 'either',
  },
  {
    what: 'the line to the target is cut as the guest stops',
    reason: 'whichever end has it, it runs there alone',
    when: 'SwitchingOver',
    act: async ({ to }) => await cut(to, 8_000),
    ends: 'either',
  },
  {
    what: 'libvirtd at the target is killed and comes back',
    reason: 'what it received is worth nothing without it',
    act: async ({ to }) => await restart(to),
    ends: 'stayed',
  },
  {
    what: 'libvirtd at the target is killed as the guest stops',
    reason: 'both ends are read once it is back',
    when: 'SwitchingOver',
    act: async ({ to }) => await restart(to),
    ends: 'either',
  },
  {
    what: 'libvirtd at the source is killed and comes back',
    reason: 'it takes back what nobody watched over; the move is begun again, or given up',
    act: async ({ from }) => await restart(from),
    ends: 'either',
  },
  {
    what: 'libvirtd at the source is killed in copying a disk too',
    reason: 'the copy at the target has to go, the disk at the source to stay',
    storage: 'Local',
    act: async ({ from }) => await restart(from),
    ends: 'stayed',
  },
  {
    what: 'the guest powers itself off',
    reason: 'a machine that is off has not been moved; it is started again where it is',
    act: async () => {
      // It has no time to say that it does.
      await runInGuest(title, 'poweroff -f', 2_000).catch(() => undefined);
    },
    ends: 'stayed',
    sameBoot: false,
  },
  {
    what: 'the leader of Consul is killed',
    reason: 'who owns the machine is on record at the others too',
    act: killLeaderOfConsul,
    ends: 'moved',
  },
  {
    what: 'the operator is paused past its lease, and woken when another leads',
    reason: 'the daemons carry the move on, the other concludes it, and the first one does nothing any more',
    act: pauseOperator,
    ends: 'moved',
  },
  {
    what: 'the machine is deleted',
    reason: 'its move is cancelled, and nothing of it is left at either end',
    act: async () => await given(lab).api.delete(kinds.FederatedVM, { namespace: ns, name }),
    ends: 'gone',
  },
];

const chosen = (isAll ? faults : sample(faults, sampled, seeded(seed))).filter(({ what }) => only.test(what));

async function whereIsIt(): Promise<{ site: Place; fuid: string }> {
  const found = await eventually(
    'the machine is Ready',
    async () => {
      const object = await given(lab).find(kinds.FederatedVM, title);
      const ready = object?.status?.conditions?.find(({ type }) => type === 'Ready');
      if (!object || ready?.status !== 'True') throw new Error(JSON.stringify(object?.status));
      return object;
    },
    90_000,
  );
  return { site: found.status?.site === 'saopaulo' ? 'saopaulo' : 'valencia', fuid: found.metadata.uid };
}

async function boot(): Promise<{ id: string; seconds: number }> {
  const { output } = await runInGuest(title, 'cat /proc/sys/kernel/random/boot_id /run/seconds', 60_000);
  const [id = '', seconds] = output.trim().split('\n');
  return { id, seconds: Number(seconds) };
}

async function make(storage: StorageKind): Promise<void> {
  await given(watch).follow(undefined);
  await removed(given(lab), kinds.FederatedVM, title);
  const networks = [{ name: 'blue', address }];
  await apply([machine(title, { storage, placement: { site: 'valencia' }, networks })]);
  await whereIsIt();
  await runInGuest(title, 'cat /run/ready', 90_000);
  // The last one had this address and another MAC: one word from the new one tells the watcher, which then reaches it.
  const { status } = (await given(lab).find(kinds.FederatedVM, watcher)) ?? {};
  await runInGuest(title, `ping -c 1 -W 5 ${status?.interfaces?.[0]?.address ?? ''}`, 30_000);
  madeWith = storage;
}

const moveOf = async (title: string): Promise<VMMigration | undefined> =>
  await given(lab).find(kinds.VMMigration, title);

/** What the watch saw, but for what it could not see while a daemon was away. */
const violations = (): string[] =>
  given(watch)
    .take()
    .filter((each) => !each.startsWith('could not look'));

describe(`a move during which (seed ${seed})`, () => {
  it.each(chosen)(
    '$what: $reason',
    async ({ storage = 'Shared', when = 'Copying', act, ends, sameBoot = true }) => {
      const there = given(lab);
      if (madeWith !== storage) await make(storage);
      const { site: from, fuid } = await whereIsIt();
      const to = from === 'valencia' ? 'saopaulo' : 'valencia';
      const before = await boot();
      violations();
      await given(watch).follow(fuid);
      const move = { from, to, name: `move-${String(++runs)}` } as const;
      const vmig = `${ns}/${move.name}`;
      const policy = when === 'Copying' ? slowly : {};
      await apply([manifest('VMMigration', vmig, { vmName: name, target: { site: to }, policy })]);
      await eventually(`it is ${when}`, async () => {
        const { status } = (await moveOf(vmig)) ?? {};
        if (when === 'Copying') expect(status?.transferredBytes).toBeGreaterThan(0);
        else if (!(status?.remainingBytes !== undefined && status.remainingBytes < 2 ** 22))
          throw new Error(JSON.stringify(status));
      });
      await act(move);
      if (ends === 'gone') {
        await given(watch).follow(undefined);
        await eventually(
          'nothing of it is left',
          async () => {
            expect(await there.find(kinds.FederatedVM, title)).toBeUndefined();
            expect(await whereabouts(there, domainUuid(fuid))).toEqual([]);
            expect(await filesOf(fuid)).toEqual([]);
          },
          60_000,
        );
        madeWith = undefined;
      }
      const over = await eventually(
        'the move is over',
        async () => {
          const object = await moveOf(vmig);
          if (!object?.status?.completionTime) throw new Error(JSON.stringify(object?.status));
          return object;
        },
        120_000,
      );
      const { phase, reason, message } = over.status ?? {};
      report(`${phase ?? ''}, ${reason ?? ''}: ${message ?? ''}`);
      if (ends !== 'gone') {
        const at = phase === 'Succeeded' ? to : from;
        if (ends !== 'either') expect(at).toBe(ends === 'moved' ? to : from);
        const now = await whereIsIt();
        expect(now).toEqual({ site: at, fuid });
        expect(await whereabouts(there, domainUuid(fuid))).toEqual([`${at} running`]);
        expect(await ownership(fuid)).toMatchObject({ site: at, host: 'a', phase: 'Owned' });
        const disks = madeWith === 'Local' ? at : 'share';
        expect(await filesOf(fuid)).toEqual(
          [diskVolumeName(fuid), seedVolumeName(fuid)].map((file) => `${disks} ${file}`),
        );
        const after = await boot();
        expect(after.id === before.id).toBe(sameBoot);
        if (sameBoot) expect(after.seconds).toBeGreaterThan(before.seconds);
        await eventually('it is reached', async () => {
          expect((await runInGuest(watcher, `ping -c 1 -W 2 ${address}`, 30_000)).output).toContain(
            '1 packets received',
          );
        });
      }
      expect(violations()).toEqual([]);
      await removed(there, kinds.VMMigration, vmig);
      await eventually('an audit finds nothing', async () => expect(await there.audit(1_000)).toEqual([]), 60_000);
    },
    300_000,
  );
});
