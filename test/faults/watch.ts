import { open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { constants, type Connection } from '../../drivers/libvirt/index.js';
import type { DomainRef } from '../../drivers/libvirt/types.js';
import { diskVolumeName, domainUuid, rootVolumeName } from '../../reconcilers/common/identity.js';
import { keys, prefixes } from '../../reconcilers/common/records.js';
import { labHosts, type LabHost } from '../support/lab/run.js';
import { insideOf, type Lab } from './lab.js';

const everyMs = 60;
/** Of two looks at a guest's processors whose daemon is away. */
const processorMs = 250;

/** Where machines' disks can be: a host, and a folder in it. */
const folders = [['valencia', '/nfs'], ...labHosts.map((host) => [host, '/var/lib/libvirt/images'] as const)] as const;

/** A file of a machine's disk. */
interface DiskFile {
  /** Which file it is, whatever it is called. */
  readonly id: string;
  readonly blocks: number;
  /** With those of the image that it stands on. */
  readonly wholeBlocks: number;
}

/** A machine that must be whole at every moment. */
interface Followed {
  readonly fuid: string;
  /** The file that was its disk when it was followed; another one is whole if it has about as much as that and its image. */
  readonly disk: DiskFile | undefined;
}

/** Copies leave out zeros, and what lies in disk and image both is counted twice. */
const wholeShare = 0.75;

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
    if (fuid === undefined) return;
    const [disk] = (await disksOf(fuid)).sort((one, other) => other.blocks - one.blocks);
    this.#followed = { fuid, disk };
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
      labHosts.map(async (host) => {
        for (const uuid of await this.#runningAt(host)) runs.set(uuid, [...(runs.get(uuid) ?? []), host]);
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
    for (const host of [...hosts, ...hosts]) if (!(await this.#runningAt(host, uuid)).includes(uuid)) return false;
    return true;
  }

  /** The UUIDs of what runs at a host, or this one if it does: as its daemon says or, while that is away, its guests' processors. */
  async #runningAt(host: LabHost, uuid?: string): Promise<string[]> {
    try {
      const [machines, containers] = await Promise.all([
        runningMachines(this.lab.daemons.get(host)),
        runningContainers(this.lab.containers.get(host)),
      ]);
      if (uuid === undefined) return [...machines.map((domain) => domain.uuid), ...containers];
      if (containers.includes(uuid)) return [uuid];
      // A daemon that comes back tells what it knew before, until it has looked for the guests' processes.
      return machines.some((domain) => domain.uuid === uuid) && (await processesOf(host)).has(uuid) ? [uuid] : [];
    } catch {
      const before = await processesOf(host);
      await sleep(processorMs);
      const after = await processesOf(host);
      return [...after].flatMap(([each, ticks]) => (ticks > (before.get(each) ?? ticks) ? [each] : []));
    }
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
    const { disk } = followed;
    const isWhole = ({ id, blocks }: DiskFile): boolean =>
      disk !== undefined && blocks >= (id === disk.id ? 0.9 * disk.blocks : wholeShare * disk.wholeBlocks);
    if (followed === this.#followed && !disks.some(isWhole))
      this.#violations.add(
        `no whole disk of machine ${followed.fuid}: ${disks.map(({ blocks }) => blocks).join(', ') || 'none'} blocks of ${disk?.wholeBlocks}`,
      );
  }
}

const runningMachines = async (daemon: Connection | undefined): Promise<DomainRef[]> =>
  ((await daemon?.allDomainStats(constants.DOMAIN_STATS_STATE)) ?? [])
    .filter(({ params }) => isRunning(Number(params.get('state.state'))))
    .map(({ domain }) => domain);

/** VIR_DOMAIN_RUNNING and VIR_DOMAIN_BLOCKED. */
const isRunning = (state: number): boolean => state === 1 || state === 2;

/** LXC has no statistics of all. */
const runningContainers = async (daemon: Connection | undefined): Promise<string[]> =>
  ((await daemon?.listDomains(constants.CONNECT_LIST_DOMAINS_RUNNING)) ?? []).map(({ uuid }) => uuid);

/** A host's QEMUs by their domains' UUIDs, with the time that their guests' processors have had, in ticks. */
async function processesOf(host: LabHost): Promise<Map<string, number>> {
  const folder = insideOf(host, '/run/libvirt/qemu');
  const names = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith('.pid'));
  const found = await Promise.all(
    names.map(async (name) => {
      try {
        const pid = (await readFile(join(folder, name), 'utf8')).trim();
        const [, uuid] = /\0-uuid\0([0-9a-f-]{36})/.exec(await readFile(`/proc/${pid}/cmdline`, 'utf8')) ?? [];
        return uuid === undefined ? [] : [[uuid, await ticksOf(pid)] as const];
      } catch {
        // It has ended, or was about to.
        return [];
      }
    }),
  );
  return new Map(found.flat());
}

async function ticksOf(pid: string): Promise<number> {
  let ticks = 0;
  for (const thread of await readdir(`/proc/${pid}/task`)) {
    const stat = await readFile(`/proc/${pid}/task/${thread}/stat`, 'utf8');
    const [, name = '', rest = ''] = /^\d+ \((.*)\) (.*)$/s.exec(stat) ?? [];
    const [utime, stime] = rest.split(' ').slice(11, 13).map(Number);
    if (name.startsWith('CPU ')) ticks += (utime ?? 0) + (stime ?? 0);
  }
  return ticks;
}

/** The files of a machine's disk. */
async function disksOf(fuid: string): Promise<DiskFile[]> {
  const files = await Promise.all(
    folders.flatMap(([host, folder]) =>
      [diskVolumeName, rootVolumeName].map(async (name) => {
        const path = join(insideOf(host, folder), name(fuid));
        const file = await stat(path).catch(() => undefined);
        if (!file) return [];
        const { blocks } = file;
        return [{ id: `${file.dev} ${file.ino}`, blocks, wholeBlocks: blocks + (await blocksBelow(host, path)) }];
      }),
    ),
  );
  return files.flat();
}

/** Of the image that a qcow2 file names in its header (docs/interop/qcow2.txt of QEMU), in blocks. */
async function blocksBelow(host: LabHost, path: string): Promise<number> {
  await using file = await open(path).catch(() => undefined);
  const { buffer } = (await file?.read(Buffer.alloc(4_096), 0, 4_096, 0)) ?? { buffer: Buffer.alloc(0) };
  if (buffer.length < 24 || buffer.toString('latin1', 0, 4) !== 'QFI\xfb') return 0;
  const at = Number(buffer.readBigUInt64BE(8));
  const name = buffer.toString('utf8', at, at + buffer.readUInt32BE(16));
  return at === 0 ? 0 : ((await stat(insideOf(host, name)).catch(() => undefined))?.blocks ?? 0);
}
