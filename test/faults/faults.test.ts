import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { rename } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { kinds } from '../../crds/index.js';
import { diskVolumeName } from '../../reconcilers/common/identity.js';
import { keys } from '../../reconcilers/common/records.js';
import { apply, eventually, manifest, namespace, report, waitReady } from '../support/lab.js';
import { faultsOf, Harness, sample, seeded, titleOf, type Results, type Scenario } from './harness.js';
import type { Fault } from './injector.js';
import { insideOf } from './lab.js';
import { MachineLife, Moving, MovingOffline, network, NetworkLife, ns, sites } from './scenarios.js';

/**
 * The operator dies before each of its effects and after it, and gets no reply to it. What a good run does outside is recorded, and the
 * run repeated with each of these. ISTHMUS_FAULTS=all does them all, ISTHMUS_FAULTS=replies
 * all lost replies and some deaths; else a sample of both, for make test has 25 minutes for everything.
 */
const which = process.env['ISTHMUS_FAULTS'] ?? 'sample';
const all = which === 'all';
const seed = Number(process.env['ISTHMUS_FAULTS_SEED'] ?? Date.now() % 1_000_000);
const random = seeded(seed);
/** A regular expression: only faults whose title it meets, to look at one closely. */
const only = new RegExp(process.env['ISTHMUS_FAULTS_ONLY'] ?? '');

let harness: Harness | undefined;
/** Effects whose lost replies have been tried. */
const tried = new Set<string>();

beforeAll(async () => {
  report(`seed ${seed} (ISTHMUS_FAULTS_SEED)`);
  harness = await Harness.start();
  await apply([namespace(ns), manifest('FederatedNetwork', network, { cidr: '172.16.0.0/16', sites: [...sites] })]);
  await waitReady(kinds.FederatedNetwork, `--namespace=${ns}`);
}, 120_000);

afterAll(async () => await harness?.[Symbol.asyncDispose](), 120_000);

/** In a sample, lost replies to effects that another scenario has too are not tried again, and those to statuses are sampled. */
async function survive(scenario: Scenario, sampled: number, sampledReplies: number): Promise<void> {
  if (!harness) throw new Error('there is no harness');
  await scenario.reset();
  const effects = await harness.record(scenario, all ? 2 : 1);
  report(`${scenario.name}: ${effects.size} effects`);
  const faults = faultsOf(effects).filter((each) => only.test(titleOf(each)));
  const isLost = ({ effect, way, afterMs }: Fault): boolean =>
    way === 'lose-reply' && afterMs === undefined && !effect.startsWith('kube applyStatus');
  const due = faults.filter((each) => isLost(each) && !tried.has(each.effect));
  const others = faults.filter((each) => !isLost(each));
  const replies = which === 'replies' ? due : sample(due, sampledReplies, random);
  const chosen = all ? faults : [...replies, ...sample(others, sampled, random)];
  for (const effect of effects.keys()) tried.add(effect);
  expectSurvived(await harness.replay(scenario, chosen), chosen.length);
}

function expectSurvived({ failures, missed, done }: Results, wanted: number): void {
  expect(failures).toEqual([]);
  expect(done).toBe(wanted);
  // Order and timing differ from run to run, but most of what happened once happens again.
  expect(missed.length).toBeLessThanOrEqual(Math.ceil(wanted / 4));
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
  it.each(['Shared', 'Local'] as const)(
    'in moving a running machine whose disk is %s',
    async (storage) => {
      if (!harness) throw new Error('there is no harness');
      const moving = new Moving(harness, storage);
      await survive(moving, storage === 'Shared' ? 3 : 2, storage === 'Shared' ? 6 : 3);
      await moving.end();
    },
    timeoutMs,
  );

  // make test has no time for it.
  (which === 'sample' ? it.skip : it)(
    'in moving a stopped machine whose disk is Local',
    async () => {
      if (!harness) throw new Error('there is no harness');
      const moving = new MovingOffline(harness);
      await survive(moving, 2, 3);
      await moving.end();
    },
    timeoutMs,
  );

  it(
    'in creating and deleting a network',
    async () => {
      if (harness) await survive(new NetworkLife(harness), 2, 4);
    },
    timeoutMs,
  );

  it.each(['Shared', 'Local'] as const)(
    'in creating and deleting a machine whose disk is %s',
    async (storage) => {
      if (harness) await survive(new MachineLife(harness, storage), 2, 3);
    },
    timeoutMs,
  );
});
