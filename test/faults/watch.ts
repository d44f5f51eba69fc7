import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { constants, type Connection } from '../../drivers/libvirt/index.js';
import type { DomainStats } from '../../drivers/libvirt/types.js';
import { diskVolumeName, domainUuid, rootVolumeName } from '../../reconcilers/common/identity.js';
import { keys, prefixes } from '../../reconcilers/common/records.js';
import { labHosts, type LabHost } from '../support/lab/run.js';
import { insideOf, type Lab } from './lab.js';

const everyMs = 60;

/** Where machines' disks can be, as this machine sees it. */
const folders = (): string[] => [
  insideOf('valencia', '/nfs'),
  ...labHosts.map((host) => insideOf(host, '/var/lib/libvirt/images')),
];

/** libvirt's numbers for a guest whose processors run. */
const running = new Set([1, 2]);

const isRunning = ({ params }: DomainStats): boolean => running.has(Number(params.get('state.state')));

/** A machine that must be whole at every moment. */
interface Followed {
  readonly fuid: string;
  /** What its disk took when it was followed; a copy that takes much less is not whole. */
  readonly blocks: number;
}

/**
 * Looks at all hosts and at Consul all the time, with nothing of the operator's: what must hold at every moment is not told by it.
 * - A domain runs on one host at most.
 * - A domain that runs has an owner record: what it holds is not given to another.
 * - A machine has one owner record, one address and one MAC; followed ones have them and a whole disk at every moment.
 */
export class Watch implements AsyncDisposable {
  readonly #violations = new Set<string>();
  #followed: Followed | undefined;
  #known = new Map<string, string>();
  #looks = 0;
  #ended = false;
  readonly #watching: Promise<unknown>;

  constructor(private readonly lab: Lab) {
    this.#watching = Promise.all([
      this.#repeat(() => this.#lookAtDomains()),
      this.#repeat(() => this.#lookAtRecords()),
      this.#repeat(() => this.#lookAtDisk()),
    ]);
  }

  /** How often each was looked at, of three. */
  get looks(): number {
    return Math.floor(this.#looks / 3);
  }

  /** From now on, until another is followed or none. */
  async follow(fuid: string | undefined): Promise<void> {
    this.#followed = undefined;
    if (fuid !== undefined) this.#followed = { fuid, blocks: Math.max(...(await disksOf(fuid)), 0) };
  }

  /** What was seen since the last call. */
  take(): string[] {
    const seen = [...this.#violations];
    this.#violations.clear();
    return seen;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    await this.#watching;
  }

  async #repeat(look: () => Promise<void>): Promise<void> {
    while (!this.#ended) {
      await look().catch((error: unknown) => this.#violations.add(`could not look: ${String(error)}`));
      this.#looks++;
      await sleep(everyMs);
    }
  }

  async #lookAtDomains(): Promise<void> {
    const runs = new Map<string, LabHost[]>();
    await Promise.all(
      [...this.lab.daemons].map(async ([host, daemon]) => {
        for (const stats of (await daemon.allDomainStats(constants.DOMAIN_STATS_STATE)).filter(isRunning))
          runs.set(stats.domain.uuid, [...(runs.get(stats.domain.uuid) ?? []), host]);
      }),
    );
    for (const [uuid, hosts] of runs) {
      if (hosts.length > 1 && (await this.#runsOnAll(uuid, hosts)))
        this.#violations.add(`domain ${uuid} runs on ${hosts.sort().join(' and ')}`);
      const fuid = this.#known.get(uuid);
      if (fuid === undefined || (await this.lab.store.get(keys.owner(fuid)))) continue;
      const [host = 'valencia'] = hosts;
      if (await this.#runsOnAll(uuid, [host]))
        this.#violations.add(`domain ${uuid} runs on ${host} without an owner record`);
    }
  }

  /** Looks do not happen at once: it runs on all if the first still does after the others were seen to, and they after that. */
  async #runsOnAll(uuid: string, hosts: readonly LabHost[]): Promise<boolean> {
    for (const host of [...hosts, ...hosts]) {
      const daemon = this.lab.daemons.get(host);
      if (!daemon || !(await runsAt(host, daemon, uuid))) return false;
    }
    return true;
  }

  async #lookAtRecords(): Promise<void> {
    const followed = this.#followed;
    const entries = await this.lab.store.list(prefixes.all);
    if (followed !== this.#followed) return;
    const held = (prefix: string, fuid: string): number =>
      entries.filter(({ key, value }) => key.startsWith(prefix) && value === fuid).length;
    const machines = entries
      .filter(({ key }) => key.startsWith(prefixes.vm))
      .map(({ key }) => key.slice(prefixes.vm.length));
    for (const fuid of machines) this.#known.set(domainUuid(fuid), fuid);
    for (const fuid of new Set([...machines, ...(followed ? [followed.fuid] : [])])) {
      const counts = {
        'owner records': entries.filter(({ key }) => key === keys.owner(fuid)).length,
        addresses: held(prefixes.ip, fuid),
        MACs: held(prefixes.mac, fuid),
      };
      for (const [what, count] of Object.entries(counts))
        if (count !== 1) this.#violations.add(`machine ${fuid} has ${count} ${what}`);
    }
  }

  async #lookAtDisk(): Promise<void> {
    const followed = this.#followed;
    if (!followed) return;
    const disks = await disksOf(followed.fuid);
    if (followed === this.#followed && !disks.some((blocks) => blocks >= 0.9 * followed.blocks))
      this.#violations.add(
        `no whole disk of machine ${followed.fuid}: ${disks.join(', ') || 'none'} blocks of ${followed.blocks}`,
      );
  }
}

async function runsAt(host: LabHost, daemon: Connection, uuid: string): Promise<boolean> {
  const all = await daemon.allDomainStats(constants.DOMAIN_STATS_STATE);
  const found = all.find((stats) => stats.domain.uuid === uuid && isRunning(stats));
  return found !== undefined && !(await hasDied(host, found.domain.name));
}

/** A daemon that comes back tells what it knew before, until it has looked for the guests' processes. */
async function hasDied(host: LabHost, name: string): Promise<boolean> {
  const pid = await readFile(insideOf(host, `/run/libvirt/qemu/${name}.pid`), 'utf8').catch(() => undefined);
  if (pid === undefined) return false;
  const process = await readFile(`/proc/${pid.trim()}/stat`, 'utf8').catch(() => undefined);
  return process === undefined || process.includes(') Z ');
}

/** What the files of a machine's disk take, in blocks. */
async function disksOf(fuid: string): Promise<number[]> {
  const files = await Promise.all(
    folders().flatMap((folder) =>
      [diskVolumeName, rootVolumeName].map((name) => stat(join(folder, name(fuid))).catch(() => undefined)),
    ),
  );
  return files.flatMap((file) => (file ? [file.blocks] : []));
}
