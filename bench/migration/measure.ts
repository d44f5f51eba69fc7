import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { KubeObject } from '../../controllers/kube/api.js';
import { kinds, type MigrationPolicy } from '../../crds/index.js';
import { constants } from '../../drivers/libvirt/index.js';
import { runInGuest } from '../../lab/guest.js';
import { domainUuid } from '../../reconcilers/common/identity.js';
import type { Bench } from '../bench.js';
import { createNamespace, removeEverything } from '../cleanup.js';
import { mark } from '../floor/marks.js';
import { BareMover, baseImage, layBase, type Account } from '../floor/mover.js';
import { hostOf, type LabHost } from '../lab.js';
import { machineSpec, namespace, networkName, withNetwork } from '../objects.js';
import { isGone, isOver, isReady, Watched } from '../watch.js';
import { sentBytes, shaped } from './line.js';
import { WritingLoad } from './load.js';
import { joinNetwork } from './observer.js';
import { LearningOverlay } from './overlay.js';
import { Ping } from './ping.js';
import { estimatedSeconds, flavors, guestsOf, loadMiB, wans, type Cell } from './plan.js';
import { tableOf, type Moved, type Result } from './result.js';
import { CopyWatch } from './watcher.js';

const sites = ['valencia', 'saopaulo'] as const;
/** Where the echo requests come from. */
const observer = 'lisbon';
const mover = 'mover';
const titles = { ours: `${namespace}/${mover}`, bare: `${mark}/${mark}` } as const;
const address = { ours: '172.30.0.10', bare: '172.31.0.10' } as const;
const MiB = 2 ** 20;
const bootMs = 120_000;
/** What the network needs to follow is part of a move. */
const followMs = 1_500;

/**
 * On the WAN as it is, the settings of bare libvirt; on the slow one, what a VMMigration does that names no policy, but for the
 * deadline, which is bare libvirt's too.
 */
const policyOf = ({ wan }: Cell, capSeconds: number): MigrationPolicy =>
  wan === 'shaped' ? { timeoutSeconds: capSeconds } : { autoConverge: false, timeoutSeconds: capSeconds };

export interface Plan {
  readonly cells: readonly Cell[];
  readonly rounds: number;
  /** How long a copy is given. */
  readonly capSecondsOf: (cell: Cell) => number;
}

interface Stage extends Plan {
  readonly bench: Bench;
  readonly machines: Watched;
  readonly migrations: Watched;
  readonly results: Result[];
}

type Outcome = Pick<Moved, 'failure' | 'totalMs' | 'downtimeMs'>;

/** What both ways have in common: the load, the echo requests, and a look at the copy now and then. */
async function observed(
  cell: Cell,
  way: keyof typeof titles,
  from: LabHost,
  uuid: string,
  move: () => Promise<Outcome>,
): Promise<Moved> {
  const title = titles[way];
  const load = cell.load === 'writing' ? await WritingLoad.start(title, loadMiB(cell.flavor)) : undefined;
  const pings = await Ping.start(observer, address[way]);
  try {
    const before = await sentBytes(from.site);
    await using copy = new CopyWatch(from.libvirt, uuid);
    const moved = await move();
    const sentMiB = ((await sentBytes(from.site)) - before) / MiB;
    await sleep(followMs);
    const ping = await pings.stop();
    return { ...moved, sentMiB, ping, samples: copy.samples, writtenMiBPerSecond: load?.MiBPerSecond };
  } finally {
    pings.kill();
    // Also whether the guest is still alive.
    await (load ? load.stop() : runInGuest(title, 'true', bootMs));
  }
}

const siteOf = (machine: KubeObject | undefined): string | undefined => kinds.FederatedVM.parse(machine).status?.site;
const otherThan = (site: string) => sites.find((other) => other !== site) ?? sites[0];

async function moveOurs({ bench, capSecondsOf, machines, migrations }: Stage, cell: Cell): Promise<Moved> {
  const capSeconds = capSecondsOf(cell);
  const { lab } = bench;
  const machine = kinds.FederatedVM.parse(await machines.until(mover, isReady));
  const from = hostOf(lab, machine.status?.site ?? sites[0]);
  const site = otherThan(from.site);
  const key = { namespace, name: `to-${site}-${randomUUID().slice(0, 8)}` };
  const moved = await observed(cell, 'ours', from, domainUuid(machine.metadata.uid), async () => {
    const begin = performance.now();
    await lab.kube.create(kinds.VMMigration, {
      metadata: key,
      spec: { vmName: mover, target: { site }, policy: policyOf(cell, capSeconds) },
    });
    const done = await migrations.until(key.name, isOver, (capSeconds + 60) * 1_000);
    const { status = {} } = kinds.VMMigration.parse(done);
    return {
      totalMs: performance.now() - begin,
      downtimeMs: status.downtimeMs ?? NaN,
      ...(status.phase === 'Succeeded' ? {} : { failure: failureOf(status.reason, capSeconds) }),
    };
  });
  await lab.kube.delete(kinds.VMMigration, key);
  await migrations.until(key.name, isGone);
  const at = moved.failure === undefined ? site : from.site;
  await machines.until(mover, (object) => isReady(object) && siteOf(object) === at);
  return moved;
}

const failureOf = (reason: string | undefined, capSeconds: number): string =>
  reason === 'DeadlineExceeded' ? `not within ${capSeconds} s` : (reason ?? 'failed');

async function moveBare(bare: BareMover, { capSecondsOf }: Stage, cell: Cell): Promise<Moved> {
  const capSeconds = capSecondsOf(cell);
  const from = bare.source;
  const site = otherThan(from.site);
  await bare.prepare(site);
  const moved = await observed(cell, 'bare', from, bare.uuid, async () => {
    const begin = performance.now();
    let isGivenUp = false;
    // It knows no deadline itself.
    const cap = setTimeout(() => {
      isGivenUp = true;
      from.libvirt.abortJob(bare.uuid).catch(() => undefined);
    }, capSeconds * 1_000);
    const account: Account | undefined = await bare
      .move(site)
      .catch((error: unknown) => {
        if (!isGivenUp) throw error;
        return undefined;
      })
      .finally(() => clearTimeout(cap));
    return {
      totalMs: performance.now() - begin,
      downtimeMs: Number(account?.get(constants.DOMAIN_JOB_DOWNTIME)),
      ...(account ? {} : { failure: failureOf('DeadlineExceeded', capSeconds) }),
    };
  });
  for (const each of sites) await bare.clear(each);
  return moved;
}

/** One cell: ours and bare libvirt's guest move by turns, as whoever comes second finds the hosts a little busier. */
async function measureCell(stage: Stage, bare: BareMover, cell: Cell): Promise<Result> {
  const ours: Moved[] = [];
  const theirs: Moved[] = [];
  const moveUs = async () => ours.push(await moveOurs(stage, cell));
  const moveThem = async () => theirs.push(await moveBare(bare, stage, cell));
  const wan = await shaped(sites, wans[cell.wan]);
  try {
    for (let round = 0; round < stage.rounds; round++) {
      stage.bench.signal.throwIfAborted();
      for (const move of (stage.results.length + round) % 2 === 0 ? [moveUs, moveThem] : [moveThem, moveUs])
        await move();
    }
  } finally {
    await wan[Symbol.asyncDispose]();
  }
  return { cell, ours, bare: theirs };
}

/** All cells of one guest, and of another just like it that bare libvirt moves. */
async function measureGuest(stage: Stage, cells: readonly [Cell, ...Cell[]]): Promise<void> {
  const [{ storage, flavor }] = cells;
  const { bench, machines, results, rounds, capSecondsOf } = stage;
  const { lab, say } = bench;
  const { memoryMiB } = flavors[flavor];
  const resources = { vcpus: 1, memory: `${memoryMiB}Mi`, disk: '1Gi' };
  const networks = [{ name: networkName, address: address.ours }];
  const metadata = { namespace, name: mover };
  const image = storage === 'Cached' ? { image: { name: baseImage } } : {};
  const spec = { ...machineSpec(sites[0], { storage, resources }), ...image, networks };
  const base = storage === 'Cached' ? await layBase(lab, sites[0]) : undefined;
  await using overlay = await LearningOverlay.create(lab, randomUUID(), observer, '172.31.0.1/16');
  await lab.kube.create(kinds.FederatedVM, { metadata, spec });
  const bare = await BareMover.create(lab, randomUUID(), {
    ...{ site: sites[0], network: overlay.fuid, storage },
    memoryBytes: BigInt(memoryMiB * MiB),
  });
  try {
    await machines.until(mover, isReady);
    await Promise.all(Object.values(titles).map((title) => runInGuest(title, 'true', bootMs)));
    for (const cell of cells) {
      const left = stage.cells.slice(stage.cells.indexOf(cell));
      const minutes = Math.ceil(estimatedSeconds(left, rounds, capSecondsOf) / 60);
      say(`${stage.cells.indexOf(cell) + 1} of ${stage.cells.length}, about ${minutes} min left`);
      results.push(await measureCell(stage, bare, cell));
      console.log(tableOf(results.slice(-1)));
    }
  } finally {
    await bare.remove();
    await lab.kube.delete(kinds.FederatedVM, metadata);
    await machines.until(mover, isGone);
    await base?.[Symbol.asyncDispose]();
  }
}

/** Results of what could be measured, and whether that is all. */
export async function measure(bench: Bench, plan: Plan): Promise<{ results: Result[]; isComplete: boolean }> {
  const { lab, signal, say } = bench;
  await removeEverything(lab, bench.operator);
  await createNamespace(lab, namespace);
  await bench.operator.start();
  const results: Result[] = [];
  let isComplete = true;
  await withNetwork(bench, async () => {
    await using machines = await Watched.open(lab.kube, kinds.FederatedVM, namespace);
    await using migrations = await Watched.open(lab.kube, kinds.VMMigration, namespace);
    const network = await lab.kube.get(kinds.FederatedNetwork, { namespace, name: networkName });
    const joined = await joinNetwork(lab, observer, network?.metadata.uid ?? '', '172.30.0.1');
    const stage: Stage = { ...plan, bench, machines, migrations, results };
    try {
      for (const cells of guestsOf(plan.cells))
        await measureGuest(stage, cells).catch((error: unknown) => {
          if (signal.aborted) throw error;
          // The other guests are worth their while.
          isComplete = false;
          say(`given up: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
        });
    } finally {
      await joined[Symbol.asyncDispose]();
    }
  });
  return { results, isComplete };
}
