import type { Controller } from './controller.js';
import { HealthServer } from './health.js';
import { acquireLease, type Leadership, LeadershipLostError, type LeaseOptions } from './lease.js';
import type { Log } from './log.js';
import { addProcessMetrics, type Metrics } from './metrics.js';
import { aborted, sharedAbortController } from './time.js';

/** A Reflector of any type. */
export interface Cache {
  readonly resource: { readonly plural: string };
  readonly synced: boolean;
  start(): void;
  stop(): Promise<void>;
  whenSynced(): Promise<void>;
}

/** Work beside the controllers, such as a sweep or a heartbeat, done only while leading. */
export interface Task {
  readonly name: string;
  /** Ends soon after the signal is aborted. Ending before, or failing, stops the process. */
  readonly run: (signal: AbortSignal, assertLeading: () => void) => Promise<void>;
}

export interface ManagerOptions {
  readonly log: Log;
  readonly metrics: Metrics;
  /** `host:port` of the health server. */
  readonly healthAddress: string;
  /** Absent: there is only one process, which leads at once. */
  readonly lease?: LeaseOptions | undefined;
  readonly reflectors: readonly Cache[];
  readonly controllers: readonly Controller[];
  readonly tasks?: readonly Task[];
  /** For what is under way when told to stop. Default 20 s (Kubernetes kills after 30 s). */
  readonly stopTimeoutMs?: number;
  /** A start that takes longer says each time what it waits for. Default 10 s. */
  readonly slowStartMs?: number;
}

export type Outcome =
  | 'Stopped'
  /** Exit at once, and not with 0: what is still under way may collide with the next leader's work. */
  | 'LeadershipLost'
  /** Something still ran at the deadline; the lease is then left to expire. */
  | 'StopTimedOut'
  | 'TaskFailed';

/** Runs the parts of a process: started in order, stopped in reverse. */
export class Manager {
  readonly #stop = new AbortController();
  readonly #tasks = sharedAbortController();
  readonly #health: HealthServer;
  #leadership: Leadership | undefined;

  constructor(private readonly options: ManagerOptions) {
    addProcessMetrics(options.metrics);
    this.#health = new HealthServer({
      address: options.healthAddress,
      metrics: options.metrics,
      notReady: () => this.#notReady(),
    });
  }

  /** Throws LeadershipLostError unless this process leads: nothing outside may be changed then. */
  assertLeading(): void {
    if (!this.options.lease) return;
    if (!this.#leadership) throw new LeadershipLostError();
    this.#leadership.assertLeading();
  }

  /** As SIGTERM and SIGINT do; run then ends. */
  stop(): void {
    this.#stop.abort();
  }

  /**
   * health → caches begin to fill, so that a standby takes over warm → lease → caches synced → controllers and tasks.
   * Afterwards nothing of these is left open.
   */
  async run(): Promise<Outcome> {
    const onSignal = () => {
      this.stop();
    };
    process.once('SIGTERM', onSignal);
    process.once('SIGINT', onSignal);
    const { lease, reflectors } = this.options;
    try {
      await this.#health.start();
      for (const reflector of reflectors) reflector.start();
      const leadership = lease && (await acquireLease(lease, this.#stop.signal));
      if (lease && !leadership) return 'Stopped';
      return await this.#lead(leadership);
    } finally {
      await Promise.all(reflectors.map((reflector) => reflector.stop()));
      await this.#health.stop();
      process.off('SIGTERM', onSignal);
      process.off('SIGINT', onSignal);
    }
  }

  async #lead(leadership: Leadership | undefined): Promise<Outcome> {
    const {
      log,
      reflectors,
      controllers,
      tasks = [],
      lease,
      stopTimeoutMs = 20_000,
      slowStartMs = 10_000,
    } = this.options;
    const ends = [aborted(this.#stop.signal), ...(leadership ? [aborted(leadership.lost)] : [])];
    this.#leadership = leadership;
    const assertLeading = () => this.assertLeading();
    const synced = Promise.all(reflectors.map((reflector) => reflector.whenSynced()));
    const telling = setInterval(() => log.warn('waiting to start', { missing: this.#notReady() }), slowStartMs);
    await Promise.race([synced, ...ends]).finally(() => clearInterval(telling));
    const running: Promise<unknown>[] = [];
    let failed = false;
    if (!this.#stop.signal.aborted && !leadership?.lost.aborted) {
      log.info('controllers start', { controllers: controllers.map(({ name }) => name) });
      for (const controller of controllers) controller.start(assertLeading);
      running.push(...tasks.map((task) => this.#runTask(task, assertLeading)));
      failed = await Promise.race([
        ...ends.map((end) => end.then(() => false)),
        ...running.map((task) => task.then(() => true)),
      ]);
    }
    const lost = leadership?.lost.aborted ?? false;
    log.info('stopping', { lost });
    this.#tasks.abort();
    running.push(...controllers.map((controller) => controller.stop()));
    // After a loss there is only what is left of the lease.
    const { durationMs = 15_000, renewDeadlineMs = 10_000 } = lease ?? {};
    const inTime = await within(lost ? (durationMs - renewDeadlineMs) / 2 : stopTimeoutMs, Promise.all(running));
    if (!inTime) log.error('still running', { objects: controllers.flatMap(({ active }) => active) });
    await (inTime ? leadership?.release() : leadership?.abandon());
    if (lost) return 'LeadershipLost';
    if (!inTime) return 'StopTimedOut';
    return failed ? 'TaskFailed' : 'Stopped';
  }

  async #runTask({ name, run }: Task, assertLeading: () => void): Promise<void> {
    const { log } = this.options;
    try {
      await run(this.#tasks.signal, assertLeading);
      if (!this.#tasks.signal.aborted) log.error('task ended', { task: name });
    } catch (error) {
      if (!this.#tasks.signal.aborted) log.error('task failed', { task: name, error });
    }
  }

  /** A standby is ready too, or a roll-out would wait for it for ever. */
  #notReady(): string[] {
    if (this.#stop.signal.aborted) return ['stopping'];
    return this.options.reflectors
      .filter((reflector) => !reflector.synced)
      .map((reflector) => `${reflector.resource.plural}: cache not synced`);
  }
}

/** Whether the work ended in time. */
async function within(ms: number, work: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  try {
    return await Promise.race([work.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
