import { runInGuest } from '../../lab/guest.js';

/** In steps so small that the guest's CPU is what limits it: to a little more than the slow WAN carries, on the machine it was tried on. */
const blockBytes = 64;
const trialMiB = 4;
const MiB = 2 ** 20;
const patienceMs = 120_000;

/** A file system of its own: the guest's root holds no more than half of its memory. */
const fill = (sizeMiB: number): string => `
  mkdir -p /load && mount -t tmpfs -o size=${sizeMiB}m load /load &&
  dd if=/dev/urandom of=/load/data bs=1M count=${sizeMiB} 2>/dev/null || exit 1
  now() { cut -d' ' -f1 /proc/uptime; }
  began=$(now)
  dd if=/dev/urandom of=/load/data bs=${blockBytes} count=${(trialMiB * MiB) / blockBytes} conv=notrunc 2>/dev/null
  echo "$began $(now)"`;

/** A session of its own: whoever opens the console next may interrupt what runs in the shell's. */
const again = (sizeMiB: number): string =>
  `setsid sh -c 'while :; do dd if=/dev/urandom of=/load/data bs=${blockBytes} count=${(sizeMiB * MiB) / blockBytes} conv=notrunc; done' >/dev/null 2>&1 &
  echo $! >/run/load.pid`;

const end = `kill -KILL -- -$(cat /run/load.pid); until umount /load; do usleep 100000; done 2>/dev/null`;

/** A guest that writes random bytes to so much of its memory, again and again, once the whole of it is filled. */
export class WritingLoad {
  private constructor(
    private readonly title: string,
    /** How fast it wrote when nothing else was going on. */
    readonly MiBPerSecond: number,
  ) {}

  static async start(title: string, sizeMiB: number): Promise<WritingLoad> {
    const { output } = await runInGuest(title, `${fill(sizeMiB)}\n${again(sizeMiB)}`, patienceMs);
    const [, began, ended] = /^([\d.]+) ([\d.]+)$/m.exec(output) ?? [];
    const rate = trialMiB / (Number(ended) - Number(began));
    if (!(rate > 0)) throw new Error(`${title} can't hold ${sizeMiB} MiB: ${output}`);
    return new WritingLoad(title, rate);
  }

  async stop(): Promise<void> {
    await runInGuest(this.title, end, patienceMs);
  }
}
