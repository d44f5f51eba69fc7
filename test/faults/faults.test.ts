import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { kinds } from '../../crds/index.js';
import { diskVolumeName } from '../../reconcilers/common/identity.js';
import { keys } from '../../reconcilers/common/records.js';
import { apply, eventually, manifest, namespace, report, waitReady } from '../support/lab.js';
import { faultsOf, Harness, sample, seeded, spread, titleOf, type Scenario } from './harness.js';
import type { Fault } from './injector.js';
import { insideOf } from './lab.js';
import { Filling, MachineLife, Moving, MovingOffline, network, NetworkLife, ns, sites } from './scenarios.js';

/**
 * The operator dies before each of its effects and after it, and gets no reply to it. What a good run does outside is recorded, and the
 * run repeated with each of these. make test, which has 25 minutes for everything, loses every reply, several in a run, and samples the deaths;
 * ISTHMUS_FAULTS=all does each of them by itself.
 */
const all = process.env['ISTHMUS_FAULTS'] === 'all';
const seed = Number(process.env['ISTHMUS_FAULTS_SEED'] ?? Date.now() % 1_000_000);
const random = seeded(seed);
/** A regular expression: only faults whose title it meets, to look at one closely. */
const only = new RegExp(process.env['ISTHMUS_FAULTS_ONLY'] ?? '');

let harness: Harness | undefined;

beforeAll(async () => {
  report(`seed ${seed} (ISTHMUS_FAULTS_SEED)`);
  harness = await Harness.start();
  await apply([namespace(ns), manifest('FederatedNetwork', network, { cidr: '172.16.0.0/16', sites: [...sites] })]);
  await waitReady(kinds.FederatedNetwork, `--namespace=${ns}`);
}, 120_000);

afterAll(async () => await harness?.[Symbol.asyncDispose](), 120_000);

async function survive(scenario: Scenario, repliesPerRun: number, deaths: number): Promise<void> {
  if (!harness) throw new Error('there is no harness');
  await scenario.reset();
  const effects = await harness.record(scenario, all ? 2 : 1);
  report(`${scenario.name}: ${effects.size} effects`);
  const names = [...effects.keys()];
  const first = names.findIndex((name) => scenario.from?.test(name) ?? true);
  const concerned = new Set(names.slice(first));
  const faults = faultsOf(effects).filter(
    (each) => concerned.has(each.effect) && only.test(titleOf(each)) && !isOneOfMany(each.effect),
  );
  const oneByOne = (some: readonly Fault[]): Fault[][] => some.map((each) => [each]);
  // What did not come about in its run may in another.
  const insist = async (some: readonly Fault[]): Promise<readonly Fault[]> => await survived(scenario, oneByOne(some));
  if (all) {
    expectReached(await insist(await insist(faults)), faults.length);
    return;
  }
  const replies = faults.filter(({ way, afterMs }) => way === 'lose-reply' && afterMs === undefined);
  const others = sample(
    faults.filter((each) => !replies.includes(each)),
    deaths,
    random,
  );
  // Without the reply to one effect, another may not have come about.
  const again = await survived(scenario, spread(replies, repliesPerRun));
  const missed = await insist([...again, ...others]);
  expectReached(missed, replies.length + others.length);
}

/** How often the same status is written anew, as figures change, is a matter of time. */
const isOneOfMany = (effect: string): boolean => /^kube applyStatus .* #([3-9]|\d\d+)$/.test(effect);

/** Those whose effect did not happen in their run. */
async function survived(scenario: Scenario, runs: readonly (readonly Fault[])[]): Promise<readonly Fault[]> {
  if (!harness) throw new Error('there is no harness');
  const { failures, missed, done } = await harness.replay(scenario, runs);
  expect(failures).toEqual([]);
  expect(done).toBe(runs.flat().length);
  return missed;
}

/** Order and timing differ from run to run, but most of what happened once happens again. */
function expectReached(missed: readonly Fault[], wanted: number): void {
  expect(missed.map(titleOf).slice(Math.ceil(wanted / 10))).toEqual([]);
}

const timeoutMs = 3_600_000;

describe('the watch', () => {
  it('sees what must not be', async () => {
    if (!harness) throw new Error('there is no harness');
    const { lab, watch } = harness;
    const moving = new Moving(harness, 'Local');
    await moving.reset();
    watch.take();
    const uuid = randomUUID();
    const mac = keys.mac('02:00:00:00:00:01');
    const disk = insideOf('valencia', `/var/lib/libvirt/images/${diskVolumeName(moving.fuid)}`);
    const xml = `<domain type='qemu'><name>twice</name><uuid>${uuid}</uuid><memory unit='MiB'>16</memory><os><type>hvm</type></os></domain>`;
    const twice = sites.flatMap((site) => lab.daemons.get(site) ?? []);
    const seen: string[] = [];
    try {
      for (const daemon of twice) {
        await daemon.defineDomain(xml);
        await daemon.startDomain(uuid);
      }
      await lab.store.transact([{ verb: 'set', key: mac, value: moving.fuid }]);
      await rename(disk, `${disk}-away`);
      // As much of it as a copy has that is under way.
      const bytes = await readFile(`${disk}-away`);
      await writeFile(disk, bytes.subarray(0, bytes.length / 3));
      await eventually('it sees all three', () => {
        seen.push(...watch.take());
        expect([...new Set(seen)].sort()).toEqual([
          `domain ${uuid} runs on ${[...sites].sort().join(' and ')}`,
          `machine ${moving.fuid} has 2 MACs`,
          expect.stringContaining(`no whole disk of machine ${moving.fuid}`),
        ]);
        return Promise.resolve();
      });
    } finally {
      await rename(`${disk}-away`, disk);
      await lab.store.transact([{ verb: 'delete', key: mac }]);
      for (const daemon of twice) {
        await daemon.destroyDomain(uuid);
        await daemon.undefineDomain(uuid);
      }
      await moving.end();
      // A look that was under way may tell late.
      await sleep(500);
      watch.take();
    }
  }, 120_000);
});

describe('whatever effect fails, the operator or its successor brings it to its end', () => {
  // What is done for a Cached disk is done for a Local one too.
  it.each(all ? (['Shared', 'Local', 'Cached'] as const) : (['Shared', 'Local'] as const))(
    'in moving a running machine whose disk is %s',
    async (storage) => {
      if (!harness) throw new Error('there is no harness');
      const moving = new Moving(harness, storage);
      await survive(moving, 11, 2);
      await moving.end();
    },
    timeoutMs,
  );

  const onlyWhereAllAre = all ? it : it.skip;

  onlyWhereAllAre(
    'in cancelling a move',
    async () => {
      if (!harness) throw new Error('there is no harness');
      const cancelling = new Moving(harness, 'Local', { isCancelled: true });
      await survive(cancelling, 0, 0);
      await cancelling.end();
    },
    timeoutMs,
  );

  onlyWhereAllAre(
    'in making a Cached disk whole where it has arrived',
    async () => {
      if (!harness) throw new Error('there is no harness');
      const filling = new Filling(harness);
      await survive(filling, 0, 0);
      await filling.end();
    },
    timeoutMs,
  );

  // The steps of a container are a machine's; only the calls to the daemon differ.
  const containers = all ? (['Container'] as const) : [];

  it.each(['Local' as const, ...containers])(
    'in moving a stopped machine: %s',
    async (is) => {
      if (!harness) throw new Error('there is no harness');
      const moving = new MovingOffline(harness, is);
      await survive(moving, 10, 2);
      await moving.end();
    },
    timeoutMs,
  );

  it(
    'in creating and deleting a network',
    async () => {
      if (harness) await survive(new NetworkLife(harness), 9, 2);
    },
    timeoutMs,
  );

  it.each(['Shared' as const, 'Local' as const, ...containers])(
    'in creating and deleting a machine: %s',
    async (is) => {
      if (harness) await survive(new MachineLife(harness, is), 8, 2);
    },
    timeoutMs,
  );
});
