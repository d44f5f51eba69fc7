import { spawn, type ChildProcess } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { project } from '../lab.js';
import { labIn } from './line.js';

export const intervalMs = 20;
/** By when a guest has to answer at all. */
const answerSeconds = 20;
/** Echo requests are under way for so long before something happens. */
const leadMs = 500;

/** Echo requests each 20 ms while something else happens: who of them was answered. */
export interface PingTrace {
  /** By sequence number: round trip in milliseconds, undefined if lost. */
  readonly answers: readonly (number | undefined)[];
  /** The longest time in which no answer came, beyond that between two requests; one that waited for the guest came when it came. */
  readonly gapMs: number;
}

export class Ping {
  private constructor(
    private readonly process: ChildProcess,
    private readonly output: Promise<string>,
  ) {}

  /** From a host's own interface, so that asking costs none of the emulated CPUs. Ends with this process, if not before. */
  static async start(host: string, to: string): Promise<Ping> {
    // Another guest may have had this address a minute ago.
    await labIn(host, 'ip', 'neigh', 'flush', 'to', to);
    await labIn(host, 'ping', '-n', '-c', '1', '-w', String(answerSeconds), to);
    const child = spawn(`${project}lab/in`, [host, 'ping', '-n', '-i', String(intervalMs / 1_000), to], {
      ...{ stdio: ['ignore', 'pipe', 'ignore'], detached: true },
    });
    const ping = new Ping(child, text(child.stdout));
    await sleep(leadMs);
    return ping;
  }

  async stop(): Promise<PingTrace> {
    this.process.kill('SIGINT');
    return traceOf(await this.output);
  }

  kill(): void {
    this.process.kill('SIGKILL');
  }
}

/** What iputils ping says: a line for each answer, the number of requests at its end. */
export function traceOf(said: string): PingTrace {
  const sent = Number(/^(\d+) packets transmitted/m.exec(said)?.[1]);
  if (!(sent > 0)) throw new Error(`ping left no summary: ${said.slice(-400)}`);
  const times = new Map(
    [...said.matchAll(/icmp_seq=(\d+) .*time=([\d.]+)/g)].map(([, at, ms]) => [Number(at), Number(ms)]),
  );
  // The last one may still be under way. iputils counts from 1.
  const answers = Array.from({ length: sent - 1 }, (_, index) => times.get(index + 1));
  return { answers, gapMs: longestGapMs(answers) };
}

function longestGapMs(answers: PingTrace['answers']): number {
  const arrivals = answers.flatMap((ms, index) => (ms === undefined ? [] : [index * intervalMs + ms]));
  const moments = [0, ...arrivals.sort((a, b) => a - b), answers.length * intervalMs];
  const waits = moments.slice(1).map((at, index) => at - (moments[index] ?? 0) - intervalMs);
  return Math.round(Math.max(0, ...waits));
}
