/** Measures moves as the paper's Table 5 does, each beside bare libvirt's in the same run. `make bench-migration`; see --help. */
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import type { Bench } from '../bench.js';
import { removeEverything } from '../cleanup.js';
import { connectLab, project } from '../lab.js';
import { Operator, refuseOther } from '../operator.js';
import { writeDocs } from './docs.js';
import { measure, type Plan } from './measure.js';
import { cells, estimatedSeconds, flavors, loads, storages, unknownIn, usualCapSeconds, wans } from './plan.js';
import { tableOf, verdicts } from './result.js';

const caps = cells({ storage: ['Shared'], load: ['writing'], wan: ['shaped'] }, true)
  .map(usualCapSeconds)
  .join(', ');

const usage = `usage: bench/migration/run [--storage NAME]… [--flavor NAME]… [--wan NAME]… [--load NAME]… [--all] [--rounds N] [--cap SECONDS] [--docs]

  --storage   ${storages.join(', ')}
  --flavor    ${Object.entries(flavors).map(([name, { memoryMiB }]) => `${name} (${memoryMiB} MiB)`).join(', ')}
  --wan       ${Object.entries(wans).map(([name, rate]) => `${name}${rate === undefined ? '' : ` (${rate} Mbit/s)`}`).join(', ')}
  --load      ${loads.join(', ')}
  --all       every flavor with every storage; without any of these, other storages than Shared with tiny only
  --rounds    moves of each cell; the table has their medians (default 1)
  --cap       how many seconds a copy is given (default: by the flavor, ${caps})
  --docs      writes docs/migration-figures.md and its plots

Those in the first lines may be given several times. As root; starts the lab and ends it, unless it runs already. Writes
.cache/bench-migration.json; ends with 1 if something was not measured or is worse than wanted.`; // prettier-ignore

function options() {
  const many = { type: 'string', multiple: true } as const;
  const { values } = parseArgs({
    options: {
      ...{ storage: many, flavor: many, wan: many, load: many },
      all: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '1' },
      cap: { type: 'string' },
      docs: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  const { all, docs, help, rounds, cap, ...choice } = values;
  const capSecondsOf = cap === undefined ? usualCapSeconds : () => Number(cap);
  const plan: Plan = { cells: cells(choice, all), rounds: Number(rounds), capSecondsOf };
  const unknown = unknownIn(choice);
  if (!(plan.rounds >= 1)) unknown.push(`--rounds ${rounds}`);
  if (cap !== undefined && !(Number(cap) > 0)) unknown.push(`--cap ${cap}`);
  return { plan, unknown, docs, help };
}

async function main(): Promise<number> {
  const { plan, unknown, docs, help } = options();
  const say = (text: string): void => console.log(`bench-migration: ${text}`);
  if (help) {
    console.log(usage);
    return 0;
  }
  if (unknown.length > 0) {
    console.error(`bench-migration: no ${unknown.join(', ')} (see --help)`);
    return 2;
  }
  await refuseOther();
  await using lab = await connectLab();
  const stop = new AbortController();
  const interrupt = (): void => {
    say('stopping after this move: cleaning up');
    stop.abort();
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, interrupt);
  const bench: Bench = {
    ...{ lab, operator: new Operator(lab), signal: stop.signal, say },
    rounds: { usual: plan.rounds, migrations: plan.rounds, idleSeconds: 0 },
  };
  const minutes = Math.ceil(estimatedSeconds(plan.cells, plan.rounds, plan.capSecondsOf) / 60);
  say(`${plan.cells.length} cells, ${plan.rounds} of ours and of bare libvirt's each, about ${minutes} min`);
  try {
    const { results, isComplete } = await measure(bench, plan);
    const found = verdicts(results);
    console.log(`\n${tableOf(results)}\n`);
    for (const { text, isMet } of found) console.log(`${isMet ? 'met   ' : 'MISSED'}  ${text}`);
    // The lab may end with this, and all below .lab with it.
    await writeFile(
      `${project}.cache/bench-migration.json`,
      `${JSON.stringify({ rounds: plan.rounds, results }, undefined, 2)}\n`,
    );
    if (docs) await writeDocs(results, plan);
    return isComplete && found.every(({ isMet }) => isMet) ? 0 : 1;
  } catch (error) {
    if (stop.signal.aborted) return 130;
    // Before the clean-up, which takes a while and may fail for the same reason.
    report(error);
    return 1;
  } finally {
    await removeEverything(lab, bench.operator).finally(() => bench.operator.stop());
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, interrupt);
  }
}

function report(error: unknown): void {
  console.error(`bench-migration: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
}

process.exitCode = await main().catch((error: unknown) => {
  report(error);
  return 1;
});
