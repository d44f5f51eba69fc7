import { guest } from './run.js';

export interface PingResult {
  readonly sent: number;
  readonly lost: number;
  /** Longest run of lost ones, as time. */
  readonly longestGapMs: number;
}

/** A ping that goes on in a guest while something else happens. */
export class Pings {
  private constructor(
    private readonly from: string,
    private readonly intervalMs: number,
    private readonly pid: number,
  ) {}

  static async start(from: string, to: string, intervalMs = 50): Promise<Pings> {
    // A session of its own: whoever opens the console next interrupts what runs in the shell's.
    const { stdout } = await guest(
      from,
      `setsid ping -i ${String(intervalMs / 1_000)} ${to} >/tmp/pings 2>&1 & echo $!`,
    );
    return new Pings(from, intervalMs, Number(stdout.trim()));
  }

  async stop(): Promise<PingResult> {
    const command = `kill -INT ${String(this.pid)}; sleep 0.3
      sed -n 's/.*seq=\\([0-9]*\\) .*/\\1/p' /tmp/pings | tr '\\n' ' '; echo; grep transmitted /tmp/pings`;
    const { stdout } = await guest(this.from, command);
    const [received = '', summary = ''] = stdout.split('\n');
    const sent = Number(/^(\d+) packets transmitted/.exec(summary)?.[1]);
    if (!(sent > 0)) throw new Error(`ping left no summary: ${stdout}`);
    const answered = new Set(received.trim().split(' ').map(Number));
    let [longest, current, lost] = [0, 0, 0];
    // The last one may still be under way.
    for (let sequence = 0; sequence < sent - 1; sequence++) {
      if (answered.has(sequence)) current = 0;
      else {
        lost++;
        current++;
        longest = Math.max(longest, current);
      }
    }
    return { sent, lost, longestGapMs: longest * this.intervalMs };
  }
}
