import { mkdir, writeFile } from 'node:fs/promises';
import { format, resolveConfig } from 'prettier';
import { project } from '../lab.js';
import type { Plan } from './measure.js';
import { intervalMs } from './ping.js';
import { flavors, wans } from './plan.js';
import { pingPlot, remainingPlot } from './plot.js';
import { tableOf, verdicts, type Result } from './result.js';

const page = `${project}docs/migration-figures.md`;
const figures = `${project}docs/figures`;

const sizes = Object.entries(flavors)
  .map(([name, { memoryMiB, full }]) => `${name} ${memoryMiB} MiB (for ${full})`)
  .join(', ');

const textOf = (results: readonly Result[], { rounds }: Plan): string => `# What a move costs

Written by \`make bench-migration ARGS=--docs\`. Ours is a VMMigration, from its creation until \`Succeeded\`; bare is one call of libvirt's
peer-to-peer migration (as \`virsh migrate --live --p2p\` makes it) of another guest just like it, by turns in the same run.
${rounds === 1 ? 'One move each.' : `Medians of ${rounds} moves each.`}

- **Guests** are emulated, on a machine whose two cores also run all three sites. They have less memory than their flavor: ${sizes}.
- **Writing** guests rewrite three quarters of their memory with random bytes again and again, as fast as their CPU can in small steps; or as much of it
  as their kernel leaves (it takes 80 MiB).
- **WAN as it is**: what the machine carries between two namespaces; both with the same settings (no auto-converge; the copy may
  stop the guest for 300 ms, of which ours tries a quarter first). **${wans.shaped} Mbit/s**
  (tbf): each with its defaults, ours those of [ADR 0007](adr/0007-how-a-machine-moves-by-default.md). A copy that has not ended after 20 s and
  thrice what the slow WAN needs for all of the guest is given up.
- **Downtime** is the daemon's own account; the **ping gap** is the longest time in which no answer came to echo requests from the third site, one each ${intervalMs} ms, beyond those ${intervalMs} ms. What was **sent**
  is all that left the source's site for the WAN meanwhile.

${tableOf(results)}

${verdicts(results)
  .map(({ text, isMet }) => `- ${text}: ${isMet ? 'met' : '**missed**'}`)
  .join('\n')}

The paper reports, of flavors in full size on its own machines: 40-60 s idle and 53-207 s loaded; a downtime of 1-12 s idle and 31-588 s loaded;
408-623 MB sent idle and 515-2,040 MB loaded.

## Memory left over time

![MiB left to be sent, of ours and of bare libvirt's](figures/migration-remaining.svg)

## Pings around the switch-over

![Round trips around the switch-over, of ours and of bare libvirt's](figures/migration-pings.svg)
`;

/** The page and its two plots; formatted as \`make verify\` wants it. */
export async function writeDocs(results: readonly Result[], plan: Plan): Promise<void> {
  await mkdir(figures, { recursive: true });
  await writeFile(`${figures}/migration-remaining.svg`, remainingPlot(results));
  await writeFile(`${figures}/migration-pings.svg`, pingPlot(results));
  const style = { ...(await resolveConfig(page)), filepath: page };
  await writeFile(page, await format(textOf(results, plan), style));
}
