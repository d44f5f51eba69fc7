import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';

/** What becomes of an effect. The process dies by SIGKILL; a lost reply is the end of the connection. */
export const ways = ['kill-before', 'kill-after', 'lose-reply'] as const;

const fault = z.object({
  effect: z.string(),
  way: z.enum(ways),
  afterMs: z.number().optional().describe('while it goes on, this long after its beginning; else when it is done'),
});
export type Fault = z.infer<typeof fault>;

/** What the harness tells an operator, in plan.json of their folder. Effects are counted anew in each run. */
const plan = z.object({
  run: z.number(),
  /** What this run calls the ends of connections, by `host` or `host:port`: `198.51.100.11` is `source` in one, `target` in the next. */
  names: z.record(z.string(), z.string()),
  /** Each comes about once, though its effect be repeated by a successor. */
  faults: z.array(fault),
});
export type Plan = z.infer<typeof plan>;

export const planFile = 'plan.json';
/** A line for each fault that has come about: run and name of the effect. */
export const firedFile = 'fired.log';
/** A line for each effect, before it: run and name; another after it, with its milliseconds. */
export const effectsFile = 'effects.log';

/** A call that changes something outside, as a wrapper of a driver hands it on. */
interface Call {
  /** Kind of driver, end point (undefined: there is but one), and what is done. Not who it is for: that is new in each run. */
  readonly driver: string;
  readonly endpoint?: string | undefined;
  readonly what: string;
  /** Ends the connection; answers the error that the driver's callers then get. */
  readonly disconnect: () => Error;
}

/** Notes each effect under a name that the next run knows it by, and lets the planned one go wrong. */
export class Injector {
  #run = -1;
  readonly #counts = new Map<string, number>();

  constructor(private readonly folder: string) {}

  async carryOut<T>(call: Call, effect: () => Promise<T>): Promise<T> {
    const { run, names, faults } = this.#plan();
    if (run !== this.#run) this.#counts.clear();
    this.#run = run;
    const where = call.endpoint === undefined ? [] : [names[call.endpoint] ?? call.endpoint];
    const kind = [call.driver, ...where, call.what].join(' ');
    const count = (this.#counts.get(kind) ?? 0) + 1;
    this.#counts.set(kind, count);
    const name = `${kind} #${String(count)}`;
    const id = [run, name].join('\t');
    const note = (...more: number[]): void =>
      appendFileSync(join(this.folder, effectsFile), `${[id, ...more].join('\t')}\n`);
    note();
    const fault = faults.find((each) => each.effect === name);
    if (!fault || linesOf(this.folder, firedFile).includes(id)) {
      const from = performance.now();
      return await effect().finally(() => note(Math.round(performance.now() - from)));
    }
    appendFileSync(join(this.folder, firedFile), `${id}\n`);
    if (fault.way === 'kill-before') die();
    const done = effect().catch(() => undefined);
    await (fault.afterMs === undefined ? done : Promise.race([done, sleep(fault.afterMs)]));
    if (fault.way === 'kill-after') die();
    throw call.disconnect();
  }

  #plan(): Plan {
    const [line] = linesOf(this.folder, planFile);
    return line === undefined ? { run: 0, names: {}, faults: [] } : plan.parse(JSON.parse(line));
  }
}

/** Of one of the files by which harness and operator meet; none, if there is no such file yet. */
export function linesOf(folder: string, file: string): string[] {
  const path = join(folder, file);
  const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
  return text.split('\n').filter((line) => line !== '');
}

function die(): never {
  process.kill(process.pid, 'SIGKILL');
  throw new Error('unreachable: the signal can’t be caught');
}

type Effect = (this: object, ...args: never[]) => Promise<unknown>;

/**
 * Puts an injector between the driver's callers and its methods. `describe` says what a call of the method does; undefined: nothing
 * that counts.
 */
export function wrap<D extends object>(
  prototype: D,
  methods: readonly (keyof D & string)[],
  injector: Injector,
  describe: (driver: D, method: string, args: readonly unknown[]) => Call | undefined,
): void {
  for (const method of methods) {
    const original = prototype[method] as Effect;
    const wrapped = async function (this: D, ...args: never[]): Promise<unknown> {
      const call = describe(this, method, args);
      const effect = () => original.apply(this, args);
      return await (call ? injector.carryOut(call, effect) : effect());
    };
    Object.defineProperty(prototype, method, { value: wrapped });
  }
}
