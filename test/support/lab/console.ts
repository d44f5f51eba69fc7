import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect, type Connection } from '../../../drivers/libvirt/index.js';
import { project, type SiteName } from './run.js';

const panic = /^.*(?:Kernel panic|Oops:|BUG: |general protection fault).*(?:\n.*RIP: .*)?/m;

/** What a panic of a guest's kernel printed first, if there was one. */
export const panicOf = (...texts: readonly string[]): string | undefined => panic.exec(texts.join('\n'))?.[0];

/** Collects what a machine writes to its console at a site, from the moment its domain appears there. */
export class ConsoleWatch implements AsyncDisposable {
  #text = '';
  #ended = false;
  readonly #watching: Promise<void>;

  private constructor(
    private readonly connection: Connection,
    private readonly uuid: string,
  ) {
    this.#watching = this.#watch();
  }

  static async start(site: SiteName, uuid: string): Promise<ConsoleWatch> {
    const [keeper = ''] = readFileSync(`${project}.lab/run/${site}-host.pid`, 'utf8').split(' ');
    const socket = `/proc/${keeper}/root/run/libvirt/libvirt-sock`;
    return new ConsoleWatch(await connect(`qemu+unix:///system?socket=${socket}`), uuid);
  }

  get text(): string {
    return this.#text;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    await this.connection.close();
    await this.#watching;
  }

  async #watch(): Promise<void> {
    while (!this.#ended) {
      // Refused until QEMU runs there.
      const stream = await this.connection.openConsole(this.uuid).catch(() => undefined);
      if (stream) {
        stream.setEncoding('utf8');
        stream.on('data', (text: string) => (this.#text += text));
        stream.on('error', () => undefined);
        return;
      }
      await sleep(50);
    }
  }
}
