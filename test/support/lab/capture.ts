import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually, project, type LabHost } from './run.js';

/** The port of the machine with this MAC at a site, or the wire from a site's host to the others, seen from their middle. */
export type Tap = { readonly site: LabHost; readonly mac: string } | { readonly wire: LabHost };

/** A frame crosses two switches and the way to this process in less. */
const underWayMs = 500;

const macPattern = /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/;

/** Of a machine that is yet to come, its port is taken up within moments of its appearance. */
function command(tap: Tap, options: readonly string[]): string[] {
  if ('wire' in tap) return ['wan', 'tcpdump', '-i', tap.wire, ...options, 'udp port 4789'];
  if (!macPattern.test(tap.mac)) throw new Error(`not a MAC: ${tap.mac}`);
  const script = `until name=$(ovs-vsctl --bare --columns=name find interface 'external_ids:attached-mac="${tap.mac}"' 'ofport>0'); [ -n "$name" ]; do sleep 0.05; done
    exec tcpdump -i "$name" ${options.join(' ')}`;
  return [tap.site, 'bash', '-c', script];
}

/**
 * What passes a tap in one direction, as the host sees it: `out` of the switch to the machine, `in` to it from the machine;
 * `in` of a wire is what its host sends. Whole frames, in the order they came.
 */
export class Capture implements AsyncDisposable {
  readonly #frames: Buffer[] = [];
  readonly #closed: Promise<unknown>;
  #pending = Buffer.alloc(0);
  #started = false;
  #words = '';

  private constructor(private readonly child: ChildProcess) {
    this.#closed = once(child, 'close');
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.#words += text));
    child.stdout?.on('data', (bytes: Buffer) => this.#take(bytes));
  }

  /** Of a port that exists; resolves when nothing can be missed any more. */
  static async start(tap: Tap, direction: 'in' | 'out'): Promise<Capture> {
    const capture = Capture.expect(tap, direction);
    await capture.begun();
    return capture;
  }

  static expect(tap: Tap, direction: 'in' | 'out'): Capture {
    const options = ['-Q', direction, '-U', '--immediate-mode', '-B', '8192', '-w', '-'];
    // It dies with the test, however that ends.
    const args = ['--pdeathsig', 'KILL', 'lab/in', ...command(tap, options)];
    return new Capture(spawn('setpriv', args, { cwd: project, stdio: ['ignore', 'pipe', 'pipe'] }));
  }

  async begun(): Promise<void> {
    await eventually('the capture begins', () =>
      this.#words.includes('listening on') ? Promise.resolve() : Promise.reject(new Error(this.#words)),
    );
  }

  get frames(): readonly Buffer[] {
    return this.#frames;
  }

  /** What these senders' frames are, of all that were on their way when it is called. */
  async from(senders: readonly string[]): Promise<readonly Buffer[]> {
    await sleep(underWayMs);
    const macs = new Set(senders.map((mac) => mac.replaceAll(':', '')));
    return this.#frames.filter((frame) => macs.has(frame.toString('hex', 6, 12)));
  }

  /** Fails if the kernel could not keep up: an empty capture would prove nothing then. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill('SIGINT');
    await this.#closed;
    const dropped = /(\d+) packets dropped by kernel/.exec(this.#words)?.[1];
    if (dropped !== undefined && dropped !== '0') throw new Error(`a capture has lost frames: ${this.#words}`);
  }

  /** A savefile of the machine's own byte order: https://www.tcpdump.org/manpages/pcap-savefile.5.txt */
  #take(bytes: Buffer): void {
    this.#pending = Buffer.concat([this.#pending, bytes]);
    if (!this.#started) {
      if (this.#pending.length < fileHeaderLength) return;
      this.#pending = this.#pending.subarray(fileHeaderLength);
      this.#started = true;
    }
    while (this.#pending.length >= recordHeaderLength) {
      const end = recordHeaderLength + this.#pending.readUInt32LE(8);
      if (this.#pending.length < end) return;
      this.#frames.push(this.#pending.subarray(recordHeaderLength, end));
      this.#pending = this.#pending.subarray(end);
    }
  }
}

const fileHeaderLength = 24;
const recordHeaderLength = 16;

/** The frame and the VNI in what a wire carries (RFC 7348 §5). */
export function decapsulate(frame: Buffer): { readonly vni: number; readonly frame: Buffer } {
  const vxlan = 14 + 4 * (frame.readUInt8(14) & 0xf) + 8;
  return { vni: frame.readUIntBE(vxlan + 4, 3), frame: frame.subarray(vxlan + 8) };
}
