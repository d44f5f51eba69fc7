import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually, Operator, project, report, startOperator, stopOperator } from '../support/lab.js';
import { effectsFile, firedFile, linesOf, planFile, ways, type Fault, type Plan } from './injector.js';
import { Lab } from './lab.js';
import { Watch } from './watch.js';

/** Something to do with the operator, over and over, during which faults happen. */
export interface Scenario {
  readonly name: string;
  /** Only this effect and what follows it are to go wrong: what comes before is another scenario's. */
  readonly from?: RegExp;
  /** What the ends of connections are in the next run, so that its effects have the names of the last one's. */
  names(): Plan['names'];
  /** Lets the operator do it, and waits until it is done. Fails if it is not. */
  act(run: number): Promise<void>;
  /** Whether the world is as it should be then, beyond what Watch and audit see. */
  check(): Promise<void>;
  /** After a run that failed: a fresh start. */
  reset(): Promise<void>;
}

/** The guest died of its emulator: the run says nothing and is repeated. */
export class GuestDied extends Error {}

/** Names, with milliseconds. */
export type Effects = ReadonlyMap<string, number>;

export interface Results {
  readonly done: number;
  readonly failures: readonly string[];
  /** Whose effect did not happen in their run. */
  readonly missed: readonly Fault[];
}

const folder = `${project}.lab/faults`;
const quietMs = 150;
/** One that fails so often has one cause, and each failure takes long. */
const mostFailures = 4;
const mostDeaths = 3;

const options = {
  program: ['--import', 'tsx', 'test/faults/operator.ts'],
  env: { ISTHMUS_FAULTS: folder },
  leaderElect: false,
};

/** An operator that is told which effect goes wrong, and has a successor as soon as it dies of that. */
export class Harness implements AsyncDisposable {
  #run = 0;
  #ended = false;
  #unable: unknown;
  readonly #keeping: Promise<void>;

  private constructor(
    readonly lab: Lab,
    readonly watch: Watch,
    private operator: Operator,
  ) {
    this.#keeping = this.#keep();
  }

  static async start(): Promise<Harness> {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    const operator = await startOperator(options);
    try {
      const lab = await Lab.open();
      return new Harness(lab, new Watch(lab), operator);
    } catch (error) {
      await operator.kill();
      throw error;
    }
  }

  /** The effects of a scenario that all goes well in, and their times, of several runs: what only one of them had may happen again. */
  async record(scenario: Scenario, runs: number): Promise<Effects> {
    const effects = new Map<string, number>();
    for (let run = 0; run < runs; run++) {
      await this.#despiteDeaths(scenario, []);
      for (const [name, ms] of this.#effects()) effects.set(name, ms);
    }
    return effects;
  }

  /** Does the scenario once with each of these: some faults that come about in one run. */
  async replay(scenario: Scenario, runs: readonly (readonly Fault[])[]): Promise<Results> {
    const failures: string[] = [];
    const missed: Fault[] = [];
    const from = performance.now();
    let done = 0;
    for (const faults of runs) {
      const title = `${scenario.name}: ${faults.map(titleOf).join(', ')}`;
      const begun = performance.now();
      try {
        const fired = await this.#despiteDeaths(scenario, faults);
        const spent = `${((performance.now() - begun) / 1_000).toFixed(1)} s`;
        const without = faults.filter(({ effect }) => !fired.includes(effect));
        missed.push(...without);
        report(
          `${title}: ${without
            .map(titleOf)
            .map((each) => `not reached ${each}, `)
            .join('')}${spent}`,
        );
      } catch (error) {
        failures.push(`${title}: ${error instanceof Error ? error.message : String(error)}`);
        report(`FAILED ${failures.at(-1) ?? ''}`);
        if (failures.length >= mostFailures) break;
        await this.#reset(scenario);
      }
      done += faults.length;
    }
    const seconds = Math.round((performance.now() - from) / 1_000);
    report(
      `${scenario.name}: ${done} of ${runs.flat().length} faults in ${seconds} s, ${missed.length} not reached, ${failures.length} failed; ` +
        `${this.watch.looks} looks at the invariants so far`,
    );
    return { done, failures, missed };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The last fault may come late, and its successor be on its way.
    this.#arm({});
    await this.#quiet().catch(() => undefined);
    this.#ended = true;
    await this.watch[Symbol.asyncDispose]();
    await this.lab[Symbol.asyncDispose]();
    await stopOperator(this.operator);
    await this.#keeping;
  }

  async #despiteDeaths(scenario: Scenario, faults: readonly Fault[]): Promise<string[]> {
    for (let deaths = 0; ; deaths++) {
      try {
        return await this.#once(scenario, faults);
      } catch (error) {
        const dead = await this.lab.revive();
        if (!(error instanceof GuestDied || dead.length > 0) || deaths === mostDeaths) throw error;
        const who = dead.length > 0 ? `libvirtd of ${dead.join(', ')}` : 'the emulated guest';
        report(`${who} died by itself (${deaths + 1}), repeated: ${String(error)}`);
        await this.#reset(scenario);
      }
    }
  }

  /** Answers the effects whose faults came about. */
  async #once(scenario: Scenario, faults: readonly Fault[]): Promise<string[]> {
    this.#arm(scenario.names(), faults);
    const { operator } = this;
    await scenario.act(this.#run);
    await this.#quiet();
    const seen = this.watch.take();
    if (seen.length > 0) throw new Error(seen.join('\n'));
    await scenario.check();
    const findings = await this.lab.audit(2_000);
    if (findings.length > 0) throw new Error(`audit: ${findings.join('\n')}`);
    const fired = this.#linesOf(firedFile).map(([, name = '']) => name);
    const isKilled = faults.some(({ way, effect }) => way !== 'lose-reply' && fired.includes(effect));
    // What was its last word may be seen before it dies.
    if (isKilled) await operator.ended;
    if (isKilled) await this.#quiet();
    else if (operator !== this.operator) throw new Error('the operator ended by itself');
    return fired;
  }

  async #reset(scenario: Scenario): Promise<void> {
    this.#arm({});
    await scenario.reset();
    await this.#quiet();
    this.watch.take();
  }

  #arm(names: Plan['names'], faults: readonly Fault[] = []): void {
    const plan: Plan = { run: ++this.#run, names, faults: [...faults] };
    // An operator may be reading it.
    writeFileSync(join(folder, `${planFile}.new`), JSON.stringify(plan));
    renameSync(join(folder, `${planFile}.new`), join(folder, planFile));
  }

  #effects(): Effects {
    return new Map(this.#linesOf(effectsFile).map(([, name = '', ms = '0']) => [name, Number(ms)]));
  }

  /** Of the present run. */
  #linesOf(file: string): string[][] {
    const lines = linesOf(folder, file).map((line) => line.split('\t'));
    return lines.filter(([run]) => run === String(this.#run));
  }

  /** An operator works, and for a while nothing was written. */
  async #quiet(): Promise<void> {
    await eventually('an operator works', () => {
      if (this.#unable !== undefined) throw new Error('it does not start', { cause: this.#unable });
      if (this.operator.child.exitCode !== null || this.operator.child.signalCode !== null) throw new Error('none');
      return Promise.resolve();
    });
    const written = (): number => linesOf(folder, effectsFile).length;
    for (let before = -1, now = written(); now !== before; now = written()) {
      before = now;
      await sleep(quietMs);
    }
  }

  /** One operator after the other. */
  async #keep(): Promise<void> {
    for (;;) {
      await this.operator.ended;
      if (this.#ended) return;
      await this.operator.kill();
      try {
        this.operator = await startAgain();
      } catch (error) {
        this.#unable = error;
        report(`FAILED no successor starts: ${String(error)}`);
        return;
      }
    }
  }
}

/** One that said nothing for 40 s was seen, once in some hundred starts; what it waited for is not known. */
async function startAgain(): Promise<Operator> {
  try {
    return await Operator.start(options);
  } catch (error) {
    report(`a successor did not start, another is: ${String(error)}`);
    return await Operator.start(options);
  }
}

/** Longer ones are also interrupted: early, in their middle, and about when they end. */
const longMs = 200;
const moments = [0.05, 0.5, 0.9, 1];

/** What can become of these effects. */
export const faultsOf = (effects: Effects): Fault[] =>
  [...effects].flatMap(([effect, ms]) => [
    ...ways.map((way) => ({ effect, way })),
    ...(ms < longMs ? [] : moments).flatMap((moment) =>
      (['kill-after', 'lose-reply'] as const).map((way) => ({ effect, way, afterMs: Math.round(moment * ms) })),
    ),
  ]);

export const titleOf = ({ effect, way, afterMs }: Fault): string =>
  [way, ...(afterMs === undefined ? [] : [`${afterMs} ms`]), effect].join(' ');

/** Some runs for all of these, each with about as many, which are far apart in their order. */
export function spread(faults: readonly Fault[], perRun: number): Fault[][] {
  const runs = Math.ceil(faults.length / perRun);
  return Array.from({ length: runs }, (_, run) => faults.filter((_, at) => at % runs === run));
}

/** A generator of numbers below 1 that begins anew with its seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function sample<T>(all: readonly T[], count: number, random: () => number): T[] {
  return all
    .map((each) => ({ each, at: random() }))
    .sort((a, b) => a.at - b.at)
    .slice(0, count)
    .map(({ each }) => each);
}
