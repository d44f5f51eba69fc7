import { expect } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { kinds, type StorageKind, type VMMigration } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import { runInGuest } from '../../lab/guest.js';
import { consulUrl } from '../support/lab/consul.js';
import {
  apply,
  eventually,
  manifest,
  Operator,
  patchHost,
  patchSpec,
  project,
  report,
  run,
  sites as allSites,
  wire,
} from '../support/lab.js';
import type { Lab } from './lab.js';
import { removed, whereabouts } from './scenarios.js';

export const ns = 'world';
export const name = 'walker';
export const title = `${ns}/${name}`;
export const watcher = `${ns}/watcher`;
export const address = '172.16.0.20';
export const places = ['valencia', 'saopaulo'] as const;
export type Place = (typeof places)[number];

/** What the faults are done to. */
export interface Stage {
  readonly lab: Lab;
  /** Whoever works now. */
  operator: Operator;
}

export const moveOf = async (lab: Lab, title: string): Promise<VMMigration | undefined> =>
  await lab.find(kinds.VMMigration, title);

const given = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Error('the lab has no such host');
  return value;
};

// --- what can be done to the lab --------------------------------------------------------------------------------------

async function cut(site: Place, ms: number): Promise<void> {
  await wire(site, 'down');
  await sleep(ms);
  await wire(site, 'up');
}

async function pidOf(daemon: string): Promise<number> {
  const [pid = ''] = (await readFile(`${project}.lab/run/${daemon}.pid`, 'utf8')).split(' ');
  return Number(pid);
}

async function restart(site: Place, stage: Stage): Promise<void> {
  process.kill(await pidOf(`${site}-libvirtd`), 'SIGKILL');
  await sleep(1_000);
  await revive(site, stage);
}

async function killLeaderOfConsul(): Promise<void> {
  const text = await (await fetch(`${consulUrl}/v1/status/leader`)).text();
  const leader = allSites[Number(/198\.51\.100\.(\d+):/.exec(text)?.[1]) - 11] ?? 'valencia';
  report(`the leader of Consul is at ${leader}`);
  process.kill(await pidOf(`${leader}-consul`), 'SIGKILL');
  await sleep(1_000);
  await run('lab/up', []);
}

/**
 * The line between them fails for longer than TCP waits for, which is a quarter of an hour, and comes back. Not that to valencia, through
 * which an operator asks Consul.
 */
async function fail(
  { from, to, uuid }: Move,
  stage: Stage,
  ms: number,
  meanwhile?: () => Promise<void>,
): Promise<void> {
  const ports = '( sport >= :49152 and sport <= :49215 ) or ( dport >= :49152 and dport <= :49215 )';
  await wire('saopaulo', 'down');
  try {
    await eventually('both ends have noticed', async () => {
      for (const site of [from, to]) await run('lab/in', [site, 'ss', '--kill', '--tcp', ports]);
      const states = await Promise.all(
        [from, to].map(async (site) => given(stage.lab.daemons.get(site)).domainState(uuid)),
      );
      expect(states).toEqual([
        { state: 'paused', reason: constants.DOMAIN_PAUSED_POSTCOPY_FAILED },
        { state: 'running', reason: constants.DOMAIN_RUNNING_POSTCOPY_FAILED },
      ]);
    });
    await Promise.all([sleep(ms), meanwhile?.()]);
  } finally {
    await wire('saopaulo', 'up');
  }
}

async function killOperator(stage: Stage): Promise<void> {
  await stage.operator.kill();
  stage.operator = await Operator.start();
}

/** Until another leads; then it wakes, and finds that it no longer does. */
async function pauseOperator(stage: Stage): Promise<void> {
  const first = stage.operator;
  first.child.kill('SIGSTOP');
  stage.operator = await Operator.start({ besides: first });
  first.child.kill('SIGCONT');
  await first.ended;
}

const pool = '/var/lib/libvirt/images';

const untilItRuns = async ({ to, uuid }: Move, { lab }: Stage): Promise<void> =>
  await eventually(`it runs at ${to}`, async () => expect(await whereabouts(lab, uuid)).toContain(`${to} running`));

/** The machine's host stops at once, guests and all, the moment the machine runs at the other; after a while it is back. */
async function dieOnceItRuns(move: Move, stage: Stage): Promise<void> {
  const { from } = move;
  await untilItRuns(move, stage);
  await wire(from, 'down');
  await die(from);
  await sleep(10_000);
  await wire(from, 'up');
  await revive(from, stage);
}

async function die(site: Place): Promise<void> {
  process.kill(await pidOf(`${site}-libvirtd`), 'SIGKILL');
  const guests = await run('lab/in', [site, 'sh', '-c', `cat /run/libvirt/qemu/*.pid 2>/dev/null || true`]);
  for (const pid of guests.split(/\s+/).filter((each) => each !== '')) killed(Number(pid));
}

async function revive(site: Place, stage: Stage): Promise<void> {
  await run('lab/up', []);
  await stage.lab.reconnect(site);
}

/** An end stops for good, as somebody states; the machine may then be at the other alone. */
const fencing = (end: 'from' | 'to'): Pick<Fault, 'act' | 'circumstances'> => ({
  act: async (move) => {
    await die(move[end]);
    await patchHost(move[end], 'a', { fenced: true });
    await patchSpec(kinds.FederatedVM, title, { placement: { site: move[end === 'from' ? 'to' : 'from'] } });
  },
  circumstances: async (move, stage) =>
    await Promise.resolve({
      [Symbol.asyncDispose]: async () => {
        await patchHost(move[end], 'a', { fenced: null });
        await revive(move[end], stage);
      },
    }),
});

function killed(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It had ended, as the source of a move does.
  }
}

/** A disk for the pool that is too small as soon as another has taken some of it. */
async function smallDisk({ to }: Move): Promise<AsyncDisposable> {
  await run('lab/in', [to, 'mount', '-t', 'tmpfs', '-o', 'size=48m', 'small', pool]);
  await run('lab/in', [to, 'virsh', '-q', 'pool-refresh', 'default']);
  return {
    [Symbol.asyncDispose]: async () => {
      await run('lab/in', [to, 'umount', '--lazy', pool]);
      await run('lab/in', [to, 'virsh', '-q', 'pool-refresh', 'default']);
    },
  };
}

const fill = async ({ to }: Move): Promise<string> =>
  await run('lab/in', [to, 'sh', '-c', `dd if=/dev/zero of=${pool}/another bs=1M 2>/dev/null || true`]);

/** A tenth of what the WAN of this lab's cases is meant to carry. */
async function narrowLine(): Promise<AsyncDisposable> {
  const each = async (action: string, ...more: string[]): Promise<void> => {
    for (const site of places) await run('lab/in', ['wan', 'tc', 'qdisc', action, 'dev', site, 'root', ...more]);
  };
  await each('replace', 'tbf', 'rate', '10mbit', 'burst', '256kb', 'latency', '50ms');
  return { [Symbol.asyncDispose]: async () => await each('delete') };
}

/** All the memory that the guest can spare, again and again; the root file system of its own would end at half of it. */
const write = `mkdir -p /load && mount -t tmpfs -o size=48m load /load
  setsid sh -c 'while :; do dd if=/dev/urandom of=/load/data bs=64k count=768 conv=notrunc; done' </dev/null >/dev/null 2>&1 &
  echo $! >/run/load.pid`;
const stopWriting = 'kill -KILL -- -$(cat /run/load.pid); sleep 1; umount /load';

// --- the cases --------------------------------------------------------------------------------------------------------

export interface Move {
  readonly from: Place;
  readonly to: Place;
  readonly name: string;
  /** The machine's. */
  readonly fuid: string;
  /** The domain's. */
  readonly uuid: string;
}

export interface Fault {
  readonly what: string;
  readonly reason: string;
  readonly storage?: StorageKind;
  /** When it happens: as the copy begins, as the guest stops at the source, or when it runs at the target before its memory is there. */
  readonly when?: 'Copying' | 'SwitchingOver' | 'PostCopy';
  readonly act: (move: Move, stage: Stage) => Promise<unknown>;
  /** What is so from before the move until it is over. */
  readonly circumstances?: (move: Move, stage: Stage) => Promise<AsyncDisposable>;
  readonly policy?: VMMigration['spec']['policy'];
  /** Where the machine is then; either: whether the copy survived is a matter of time. */
  readonly ends: 'moved' | 'stayed' | 'either' | 'gone';
  /** Whether the guest goes on; else it was started anew. */
  readonly sameBoot?: boolean;
  /** The move's, if it matters. */
  readonly result?: string;
}

export const faults: readonly Fault[] = [
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
    what: 'the line to the source is cut the moment the machine runs at the target',
    reason: 'the target owns it, and the source is cleared when it is back',
    when: 'SwitchingOver',
    act: async (move, stage) => {
      await untilItRuns(move, stage);
      await cut(move.from, 20_000);
    },
    ends: 'moved',
  },
  {
    what: 'the line is cut for twenty seconds in post-copy',
    reason: 'TCP survives that, and the guest waits for its memory',
    when: 'PostCopy',
    act: async ({ to }) => await cut(to, 20_000),
    ends: 'moved',
  },
  {
    what: 'the line fails in post-copy and comes back',
    reason: 'neither end has all of the guest: the rest is asked for again when that is possible',
    when: 'PostCopy',
    act: async (move, stage) => await fail(move, stage, 15_000),
    ends: 'moved',
  },
  {
    what: 'the line fails in post-copy, and another operator finds it so',
    reason: 'what both ends show is all that it needs',
    when: 'PostCopy',
    act: async (move, stage) => await fail(move, stage, 15_000, async () => await killOperator(stage)),
    ends: 'moved',
  },
  {
    what: 'the source dies in copying, and is fenced',
    reason: 'what the target has of it never ran; from the one disk it starts anew where it may',
    ...fencing('from'),
    ends: 'moved',
    sameBoot: false,
    result: 'SourceFenced',
  },
  {
    what: 'the target dies in copying, and is fenced',
    reason: 'the machine has not left the source',
    ...fencing('to'),
    ends: 'stayed',
    result: 'TargetFenced',
  },
  {
    what: 'the source dies in post-copy, and is fenced',
    reason: 'a guest without the rest of its memory can’t go on: it starts anew where it is',
    when: 'PostCopy',
    ...fencing('from'),
    ends: 'moved',
    sameBoot: false,
    result: 'SourceFenced',
  },
  {
    what: 'the target dies in post-copy, and is fenced',
    reason: 'what the source still holds is the guest’s past: it starts anew from its disk, and goes on from there',
    when: 'PostCopy',
    ...fencing('to'),
    ends: 'stayed',
    sameBoot: false,
    result: 'TargetFenced',
  },
  {
    what: 'libvirtd at the target is killed and comes back',
    reason: 'what it received is worth nothing without it',
    act: async ({ to }, stage) => await restart(to, stage),
    ends: 'stayed',
  },
  {
    what: 'libvirtd at the target hears nothing while the guest is handed over, and for long after',
    reason:
      'the source’s resumes the guest then, and the target’s may yet: it runs where both are heard of, and there alone',
    act: async ({ to }, { lab }) => {
      const pid = await pidOf(`${to}-libvirtd`);
      process.kill(pid, 'SIGSTOP');
      try {
        await sleep(45_000);
      } finally {
        process.kill(pid, 'SIGCONT');
      }
      // It has closed the connections that were silent for so long.
      await lab.reconnect(to);
    },
    ends: 'either',
  },
  {
    what: 'libvirtd at the target is killed as the guest stops',
    reason: 'both ends are read once it is back',
    when: 'SwitchingOver',
    act: async ({ to }, stage) => await restart(to, stage),
    ends: 'either',
  },
  {
    what: 'libvirtd at the source is killed and comes back',
    reason: 'it takes back what nobody watched over; the move is begun again, or given up',
    act: async ({ from }, stage) => await restart(from, stage),
    ends: 'either',
  },
  {
    what: 'libvirtd at the source is killed as the guest stops',
    reason: 'both ends are read once it is back',
    when: 'SwitchingOver',
    act: async ({ from }, stage) => await restart(from, stage),
    ends: 'either',
  },
  {
    what: 'libvirtd at the source is killed the moment the machine runs at the target',
    reason: 'the target owns it; what the source still shows of it goes',
    when: 'SwitchingOver',
    act: async (move, stage) => {
      await untilItRuns(move, stage);
      await restart(move.from, stage);
    },
    ends: 'moved',
  },
  {
    what: 'libvirtd at the target is killed the moment the machine runs there',
    reason: 'a guest that runs goes on without its daemon, and is seen again when that is back',
    when: 'SwitchingOver',
    act: async (move, stage) => {
      await untilItRuns(move, stage);
      await restart(move.to, stage);
    },
    ends: 'moved',
  },
  {
    what: 'libvirtd at the source is killed in post-copy',
    reason: 'the two QEMUs need no daemon for what is left',
    when: 'PostCopy',
    act: async ({ from }, stage) => await restart(from, stage),
    ends: 'moved',
  },
  {
    what: 'libvirtd at the target is killed in post-copy',
    reason: 'the two QEMUs need no daemon for what is left',
    when: 'PostCopy',
    act: async ({ to }, stage) => await restart(to, stage),
    ends: 'moved',
  },
  {
    what: 'libvirtd at the source is killed in copying a disk too',
    reason: 'the copy at the target has to go, the disk at the source to stay',
    storage: 'Local',
    act: async ({ from }, stage) => await restart(from, stage),
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
    result: 'GuestStopped',
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
    act: async (_, stage) => await pauseOperator(stage),
    ends: 'moved',
  },
  {
    what: 'the source dies the moment the machine runs at the target',
    reason: 'the target owns it, whatever the source can still say; what is left there goes when it is back',
    when: 'SwitchingOver',
    act: dieOnceItRuns,
    ends: 'either',
  },
  {
    what: 'the disk of the target runs full',
    reason: 'a copy without its last part is worth nothing, and goes',
    storage: 'Local',
    circumstances: smallDisk,
    act: fill,
    ends: 'stayed',
  },
  {
    what: 'the guest panics and boots anew',
    reason: 'a boot is the guest’s own affair: its memory is copied all the same',
    act: async () => {
      // It has no time to answer.
      await runInGuest(title, 'echo c >/proc/sysrq-trigger', 2_000).catch(() => undefined);
    },
    ends: 'moved',
    sameBoot: false,
  },
  {
    what: 'the guest writes faster than the line carries',
    reason: 'a copy that does not end by its deadline is given up, and the guest runs on where it is',
    circumstances: async () => {
      await runInGuest(title, write, 30_000);
      const line = await narrowLine();
      return {
        [Symbol.asyncDispose]: async () => {
          await line[Symbol.asyncDispose]();
          await runInGuest(title, stopWriting, 60_000);
        },
      };
    },
    policy: { timeoutSeconds: 45 },
    act: async () => Promise.resolve(),
    ends: 'stayed',
    result: 'DeadlineExceeded',
  },
  {
    what: 'it is asked for once more, and once to go elsewhere',
    reason: 'a machine moves once at a time: the others wait, and then find it there, or are cancelled',
    act: async ({ to, name: first }, { lab }) => {
      const again = (more: string, site: string) =>
        manifest('VMMigration', `${ns}/${first}-${more}`, { vmName: name, target: { site } });
      await apply([again('again', to), again('else', 'lisbon')]);
      await patchSpec(kinds.VMMigration, `${ns}/${first}-else`, { cancel: true });
      for (const [more, outcome] of [
        ['again', 'AlreadyThere'],
        ['else', 'Cancelled'],
      ] as const)
        // prettier-ignore
        await eventually(
          `${more} has ended`,
          async () => expect((await moveOf(lab, `${ns}/${first}-${more}`))?.status?.reason).toBe(outcome),
          60_000,
        );
      for (const more of ['again', 'else']) await removed(lab, kinds.VMMigration, `${ns}/${first}-${more}`);
    },
    ends: 'moved',
  },
  {
    what: 'it is cancelled as the guest stops',
    reason: 'that comes in time or too late, and the machine runs where the move has it',
    when: 'SwitchingOver',
    act: async ({ name: vmig }) => await patchSpec(kinds.VMMigration, `${ns}/${vmig}`, { cancel: true }),
    ends: 'either',
  },
  {
    what: 'it is cancelled in post-copy',
    reason: 'neither end has all of the guest any more: it goes on, and says so',
    when: 'PostCopy',
    act: async ({ name: vmig }) => await patchSpec(kinds.VMMigration, `${ns}/${vmig}`, { cancel: true }),
    ends: 'moved',
  },
  {
    what: 'its VMMigration is deleted',
    reason: 'that cancels it: nothing of the move is left, and the guest has not noticed',
    act: async ({ name: vmig }, { lab }) => await lab.api.delete(kinds.VMMigration, { namespace: ns, name: vmig }),
    ends: 'stayed',
  },
  {
    what: 'the machine is deleted',
    reason: 'its move is cancelled, and nothing of it is left at either end',
    act: async (_, { lab }) => await lab.api.delete(kinds.FederatedVM, { namespace: ns, name }),
    ends: 'gone',
  },
];
