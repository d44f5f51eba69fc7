import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { project } from '../lab.js';

const execute = promisify(execFile);

/** A command inside a host of the lab, or inside the WAN between them. */
export async function labIn(where: string, ...command: string[]): Promise<string> {
  return (await execute(`${project}lab/in`, [where, ...command], { maxBuffer: 1 << 26 })).stdout;
}

/** The line to each of the sites carries no more than so much, until it is disposed of. undefined: as it is. */
export async function shaped(sites: readonly string[], rateMbit: number | undefined): Promise<AsyncDisposable> {
  const each = async (action: string, ...parameters: string[]): Promise<void> => {
    for (const site of sites) await labIn('wan', 'tc', 'qdisc', action, 'dev', site, 'root', ...parameters);
  };
  if (rateMbit === undefined) return { [Symbol.asyncDispose]: () => Promise.resolve() };
  await each('replace', 'tbf', 'rate', `${rateMbit}mbit`, 'burst', '256kb', 'latency', '50ms');
  return { [Symbol.asyncDispose]: async () => await each('delete') };
}

/** What a site has sent into the WAN so far. */
export const sentBytes = async (site: string): Promise<number> =>
  Number(await labIn('wan', 'cat', `/sys/class/net/${site}/statistics/rx_bytes`));
