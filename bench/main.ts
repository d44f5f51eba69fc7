/** Measures Isthmus against the paper and against the same external calls made directly. `make bench`; see --help. */
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import type { Bench, Case } from './bench.js';
import { flows } from './cases/flows.js';
import { growth } from './cases/growth.js';
import { idle } from './cases/idle.js';
import { list } from './cases/list.js';
import { machine } from './cases/machine.js';
import { migration } from './cases/migration.js';
import { network } from './cases/network.js';
import { reprogram } from './cases/reprogram.js';
import { wan } from './cases/wan.js';
import { createNamespace, removeEverything } from './cleanup.js';
import { defineKinds } from './floor/kinds.js';
import { connectLab, project } from './lab.js';
import { namespace } from './objects.js';
import { Operator, refuseOther } from './operator.js';
import { table, toJson, type Row } from './row.js';

const cases: readonly Case[] = [list, network, flows, reprogram, machine, migration, wan, idle, growth];

const usage = `usage: npx tsx bench/main.ts [--only NAME]… [--quick]

  --only NAME   ${cases.map(({ name, about }) => `${name}: ${about}`).join('\n                ')}
  --quick       fewer rounds

Needs the lab (make lab) and no other operator. $ISTHMUS_OPERATOR: the operator's main.js (default dist/controllers/main.js);
$ISTHMUS_NODE_OPTIONS: options of its node, such as --cpu-prof. Writes .lab/bench.json.`;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string', multiple: true },
      quick: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const unknown = values.only?.find((name) => !cases.some((each) => each.name === name));
  if (unknown !== undefined) {
    console.error(`bench: no case ${unknown} (see --help)`);
    return 2;
  }
  const chosen = cases.filter(({ name }) => values.only?.includes(name) ?? true);
  const quick = values.quick ?? false;
  await refuseOther();
  await using lab = await connectLab();
  const stop = new AbortController();
  const bench: Bench = {
    lab,
    operator: new Operator(lab),
    rounds: quick ? { usual: 5, migrations: 2, idleSeconds: 10 } : { usual: 20, migrations: 20, idleSeconds: 60 },
    signal: stop.signal,
    say: (text) => console.log(`bench: ${text}`),
  };
  const release = onInterrupt(() => {
    bench.say('stopping: cleaning up');
    stop.abort();
  });
  try {
    const rows = await measure(chosen, bench);
    console.log(`\n${table(rows)}\n`);
    console.log(
      `Medians, by turns with the floor, on this machine${quick ? '; --quick: fewer rounds than usual' : ''}.`,
    );
    await writeFile(
      `${project}.lab/bench.json`,
      `${JSON.stringify({ quick, rows: rows.map(toJson) }, undefined, 2)}\n`,
    );
    return rows.every(({ target }) => target?.met ?? true) ? 0 : 1;
  } catch (error) {
    if (stop.signal.aborted) return 130;
    // Before the clean-up, which takes a while and may fail for the same reason.
    report(error);
    return 1;
  } finally {
    await removeEverything(lab, bench.operator).finally(() => bench.operator.stop());
    release();
  }
}

async function measure(chosen: readonly Case[], bench: Bench): Promise<Row[]> {
  await removeEverything(bench.lab, bench.operator);
  await createNamespace(bench.lab, namespace);
  await defineKinds(bench.lab);
  const rows: Row[] = [];
  for (const { name, about, run } of chosen) {
    bench.say(`${name}: ${about}`);
    const found = await run(bench);
    rows.push(...found);
    // A later case that fails does not take these along.
    console.log(`\n${table(found)}\n`);
  }
  return rows;
}

/** The first Ctrl-C ends the run after the current round, the second at once. */
function onInterrupt(act: () => void): () => void {
  const signals = ['SIGINT', 'SIGTERM'] as const;
  for (const signal of signals) process.once(signal, act);
  return () => {
    for (const signal of signals) process.off(signal, act);
  };
}

function report(error: unknown): void {
  console.error(`bench: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
}

process.exitCode = await main().catch((error: unknown) => {
  report(error);
  return 1;
});
