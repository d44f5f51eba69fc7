import { expect } from '@jest/globals';
import { readdir } from 'node:fs/promises';
import { kinds, type StorageKind, type VMMigrationSpec } from '../../crds/index.js';
import { LibvirtError } from '../../drivers/libvirt/index.js';
import { runInGuest } from '../../lab/guest.js';
import {
  diskVolumeName,
  domainUuid,
  fuidOfVolume,
  networkUuid,
  rootVolumeName,
  seedVolumeName,
} from '../../reconcilers/common/identity.js';
import { keys, prefixes } from '../../reconcilers/common/records.js';
import { standsOnBase } from '../../reconcilers/vm/chain.js';
import {
  apply,
  condition,
  ConsoleWatch,
  edgeTargets,
  eventually,
  inSite,
  machine,
  manifest,
  ownership,
  panicOf,
  patchSpec,
  whereabouts as whereaboutsOf,
  type Conditioned,
  type SiteName,
} from '../support/lab.js';
import { GuestDied, type Harness, type Scenario } from './harness.js';
import { insideOf, keyOf, type Lab } from './lab.js';

export const ns = 'faults';
/** The network that machines plug in, and the sites that it spans. */
export const network = `${ns}/blue`;
export const sites = ['valencia', 'saopaulo'] as const satisfies readonly SiteName[];
type Site = (typeof sites)[number];

const addresses: Readonly<Record<SiteName, string>> = {
  valencia: '198.51.100.11',
  saopaulo: '198.51.100.12',
  lisbon: '198.51.100.13',
};

/** Each site's end points under one name, and the two bridges under theirs. */
function namesOf(roles: Readonly<Record<Site, string>>): Record<string, string> {
  const all: readonly (readonly [SiteName, string])[] = [
    ...sites.map((site) => [site, roles[site]] as const),
    ['lisbon', 'lisbon'],
  ];
  return Object.fromEntries(
    all.flatMap(([site, role]) => [
      [addresses[site], role],
      [`${addresses[site]}:6640`, role],
      [`${addresses[site]}:6654`, `${role} isth-int`],
      [`${addresses[site]}:6655`, `${role} isth-edge`],
    ]),
  );
}

const asTheyAre = namesOf({ valencia: 'valencia', saopaulo: 'saopaulo' });

/** A case's own patience: a lost reply costs a back-off, a death a start, and a disk's move taken up again 10 s more. */
const patienceMs = 60_000;

export async function whenReady<T extends Conditioned>(
  lab: Lab,
  kind: Parameters<typeof lab.find<T>>[0],
  title: string,
): Promise<T> {
  return await eventually(
    `${title} is Ready`,
    async () => {
      const object = await lab.find(kind, title);
      if (!object || condition(object, 'Ready')?.status !== 'True') throw new Error(JSON.stringify(object?.status));
      return object;
    },
    patienceMs,
  );
}

type OurKind = (typeof kinds)['FederatedNetwork' | 'FederatedVM' | 'VMMigration'];

export async function removed(lab: Lab, kind: OurKind, title: string): Promise<void> {
  await lab.api.delete(kind, keyOf(title));
  await eventually(
    `${title} is gone`,
    async () => {
      const object = await lab.api.get(kind, keyOf(title));
      if (object) throw new Error(JSON.stringify(object.status));
    },
    patienceMs,
  );
}

/** Hosts that have the domain, with its state. */
export async function whereabouts({ daemons }: Lab, uuid: string): Promise<string[]> {
  const found = await Promise.all(
    [...daemons].map(async ([host, daemon]) => {
      try {
        return [`${host} ${(await daemon.domainState(uuid)).state}`];
      } catch (error) {
        if (error instanceof LibvirtError && error.kind === 'NO_DOMAIN') return [];
        throw error;
      }
    }),
  );
  return found.flat();
}

export async function filesOf(fuid: string): Promise<string[]> {
  const places = [
    ['share', insideOf('valencia', '/nfs')],
    ...sites.map((site) => [site, insideOf(site, '/var/lib/libvirt/images')]),
  ] as const;
  const found = await Promise.all(
    places.map(async ([place = '', folder = '']) =>
      (await readdir(folder)).filter((name) => fuidOfVolume(name) === fuid).map((name) => `${place} ${name}`),
    ),
  );
  return found.flat().sort();
}

async function keysOf({ store }: Lab, fuid: string): Promise<string[]> {
  const entries = await store.list(prefixes.all);
  return (
    entries
      .filter(({ key, value }) => key.includes(fuid) || value.includes(fuid))
      .map(({ key }) => key)
      // That it was, and who it was, stays on record.
      .filter((key) => key !== keys.object(fuid))
  );
}

/** One guest goes to the other site and back, a move a run; it never boots again. */
export class Moving implements Scenario {
  readonly #title: string;
  readonly #name: string;
  #at: Site = 'valencia';
  #fuid = '';
  #bootId = '';
  #seconds = 0;

  constructor(
    private readonly harness: Harness,
    private readonly storage: StorageKind,
    private readonly how: { readonly asked?: Pick<VMMigrationSpec, 'storage'>; readonly isCancelled?: boolean } = {},
  ) {
    this.#name = `walker-${storage.toLowerCase()}`;
    this.#title = `${ns}/${this.#name}`;
  }

  get fuid(): string {
    return this.#fuid;
  }

  get name(): string {
    return `${this.how.isCancelled ? 'cancelling a move' : 'moving a machine'}, ${this.storage}`;
  }

  get #other(): Site {
    return this.#at === 'valencia' ? 'saopaulo' : 'valencia';
  }

  names(): Record<string, string> {
    return namesOf(
      this.#at === 'valencia' ? { valencia: 'source', saopaulo: 'target' } : { valencia: 'target', saopaulo: 'source' },
    );
  }

  async reset(): Promise<void> {
    const { lab, watch } = this.harness;
    await this.end();
    if (this.storage === 'Cached') await inSite('valencia', 'sh', '-c', putImage);
    await apply([
      machine(this.#title, { storage: this.storage, placement: { site: 'valencia' }, networks: [{ name: 'blue' }] }),
    ]);
    this.#fuid = (await whenReady(lab, kinds.FederatedVM, this.#title)).metadata.uid;
    await runInGuest(this.#title, 'cat /run/ready', 60_000);
    await runInGuest(this.#title, `echo ${this.#fuid} | dd of=/dev/vda bs=512 seek=${wordsAt} conv=fsync,notrunc`);
    this.#at = 'valencia';
    this.#seconds = 0;
    this.#bootId = (await this.#look()).bootId;
    await watch.follow(this.#fuid);
  }

  async end(): Promise<void> {
    const { lab, watch } = this.harness;
    await watch.follow(undefined);
    for (const { metadata } of (await lab.api.list(kinds.VMMigration, { namespace: ns })).items)
      await removed(lab, kinds.VMMigration, `${ns}/${metadata.name}`);
    await removed(lab, kinds.FederatedVM, this.#title);
    await inSite('valencia', 'sh', '-c', takeImage);
  }

  async act(run: number): Promise<void> {
    const { lab, watch } = this.harness;
    const title = `${ns}/move-${run}`;
    await watch.follow(this.#fuid);
    const { isCancelled = false } = this.how;
    // So slow that it would still copy after an operator's death.
    const policy = isCancelled ? { policy: { bandwidthMiBps: 3 } } : {};
    await using console = await ConsoleWatch.start(this.#other, domainUuid(this.#fuid));
    try {
      await apply([
        manifest('VMMigration', title, {
          vmName: this.#name,
          target: { site: this.#other },
          ...this.how.asked,
          ...policy,
        }),
      ]);
      if (isCancelled) await this.#cancel(title);
      const { status } = await eventually(
        'the move is over',
        async () => {
          const object = await lab.find(kinds.VMMigration, title);
          if (!object?.status?.completionTime) throw new Error(JSON.stringify(object?.status));
          return object;
        },
        patienceMs,
      );
      const result = isCancelled
        ? { phase: 'Cancelled' }
        : { phase: 'Succeeded', message: expect.stringMatching(/^moved to /) };
      expect(status).toMatchObject(result);
      await removed(lab, kinds.VMMigration, title);
      if (!isCancelled) this.#at = this.#other;
      const { bootId, seconds, words } = await this.#look();
      expect({ bootId, words }).toEqual({ bootId: this.#bootId, words: this.#fuid });
      expect(seconds).toBeGreaterThan(this.#seconds);
      this.#seconds = seconds;
    } catch (error) {
      const died = panicOf(console.text, error instanceof Error ? error.message : '');
      throw died === undefined ? error : new GuestDied(died, { cause: error });
    }
  }

  async check(): Promise<void> {
    const { lab } = this.harness;
    expect(await whereabouts(lab, domainUuid(this.#fuid))).toEqual([`${this.#at} running`]);
    const record = await ownership(this.#fuid);
    expect(record).toMatchObject({ site: this.#at, host: 'a', phase: 'Owned' });
    expect([record.attempt, record.target, record.last?.left]).toEqual([undefined, undefined, undefined]);
    const place = this.storage === 'Shared' ? 'share' : this.#at;
    expect(await filesOf(this.#fuid)).toEqual(
      [diskVolumeName(this.#fuid), seedVolumeName(this.#fuid)].map((name) => `${place} ${name}`),
    );
    const { status } = await eventually('its status follows', async () => {
      const object = await whenReady(lab, kinds.FederatedVM, this.#title);
      expect(object.status).toMatchObject({ site: this.#at, phase: 'Running' });
      return object;
    });
    const mac = status?.interfaces?.[0]?.mac ?? '';
    for (const site of sites)
      await eventually(`the switches of ${site} point at it`, async () =>
        expect(await edgeTargets(site, mac)).toEqual(site === this.#at ? [] : [`${this.#at}/a`]),
      );
  }

  async #cancel(title: string): Promise<void> {
    await eventually('it copies', async () => {
      const object = await this.harness.lab.find(kinds.VMMigration, title);
      if (!object?.status?.transferredBytes) throw new Error(JSON.stringify(object?.status));
    });
    await patchSpec(kinds.VMMigration, title, { cancel: true });
  }

  /** The guest's own account: which boot it is, how long it ran, and what it reads from its disk. */
  async #look(): Promise<{ bootId: string; seconds: number; words: string }> {
    const read = `dd if=/dev/vda bs=512 skip=${wordsAt} count=1 2>/dev/null | head -n 1`;
    const command = `echo 3 >/proc/sys/vm/drop_caches; cat /proc/sys/kernel/random/boot_id /run/seconds; ${read}`;
    const { output } = await runInGuest(this.#title, command, 20_000);
    const [bootId = '', seconds, words = ''] = output.trim().split('\n');
    return { bootId, seconds: Number(seconds), words };
  }
}

/** A Cached disk becomes Local where it arrives, of a machine made anew for each run. */
export class Filling extends Moving {
  readonly from = /pullBlocks/;

  constructor(private readonly stage: Harness) {
    super(stage, 'Cached', { asked: { storage: 'Copy' } });
  }

  override get name(): string {
    return 'making a Cached disk whole';
  }

  override names(): Record<string, string> {
    return namesOf({ valencia: 'source', saopaulo: 'target' });
  }

  override async act(run: number): Promise<void> {
    await this.reset();
    await super.act(run);
  }

  override async check(): Promise<void> {
    await super.check();
    const record = await ownership(this.fuid);
    expect([record.storage, record.base]).toEqual(['Local', undefined]);
    for (const daemon of this.stage.lab.daemons.values())
      for (const { uuid } of await daemon.listDomains())
        if (uuid === domainUuid(this.fuid)) expect(standsOnBase(await daemon.domainXml(uuid))).toBe(false);
  }
}

/** What a Cached disk stands on. */
const putImage = 'cp /var/lib/libvirt/isthmus-images/tiny.qcow2 /nfs && virsh -q pool-refresh shared';
const takeImage = 'rm -f /nfs/tiny.qcow2 && virsh -q pool-refresh shared';

/** The sector of a guest's disk where the test's words are, beyond its file system. */
const wordsAt = 120_000;

/** A machine that is stopped goes to the other site and back, a move a run. Its disk stands on an image at the begin of each. */
export class MovingOffline implements Scenario {
  readonly #title = `${ns}/sleeper`;
  #at: Site = 'valencia';
  #fuid = '';

  constructor(
    private readonly harness: Harness,
    private readonly is: 'Local' | 'Container',
  ) {}

  get name(): string {
    return `moving a stopped machine, ${this.is}`;
  }

  get #disk(): { readonly path: string; readonly format: string } {
    return this.is === 'Local'
      ? { path: folder + diskVolumeName(this.#fuid), format: 'qcow2' }
      : { path: folder + rootVolumeName(this.#fuid), format: 'raw' };
  }

  get #other(): Site {
    return this.#at === 'valencia' ? 'saopaulo' : 'valencia';
  }

  names(): Record<string, string> {
    return namesOf(
      this.#at === 'valencia' ? { valencia: 'source', saopaulo: 'target' } : { valencia: 'target', saopaulo: 'source' },
    );
  }

  async reset(): Promise<void> {
    const { lab, watch } = this.harness;
    await this.end();
    const is = this.is === 'Local' ? { storage: this.is } : { type: this.is, image: { name: 'tiny-ct' } };
    const spec = { ...is, placement: { site: 'valencia' }, networks: [{ name: 'blue' }] };
    await apply([machine(this.#title, { ...spec, runStrategy: 'Stopped' })]);
    this.#fuid = (await whenReady(lab, kinds.FederatedVM, this.#title)).metadata.uid;
    this.#at = 'valencia';
    const words = ['-f', this.#disk.format, '-c', `write -P 0x5a ${wordsAt * 512} 512`, this.#disk.path];
    await inSite(this.#at, 'qemu-io', ...words);
    await watch.follow(this.#fuid);
  }

  async end(): Promise<void> {
    const { lab, watch } = this.harness;
    await watch.follow(undefined);
    for (const { metadata } of (await lab.api.list(kinds.VMMigration, { namespace: ns })).items)
      await removed(lab, kinds.VMMigration, `${ns}/${metadata.name}`);
    await removed(lab, kinds.FederatedVM, this.#title);
    for (const site of sites) await inSite(site, 'rm', '-f', base);
  }

  async act(run: number): Promise<void> {
    const { lab } = this.harness;
    const title = `${ns}/move-${run}`;
    await apply([
      manifest('VMMigration', title, { vmName: 'sleeper', target: { site: this.#other }, mode: 'Offline' }),
    ]);
    const { status } = await eventually(
      'the move is over',
      async () => {
        const object = await lab.find(kinds.VMMigration, title);
        if (!object?.status?.completionTime) throw new Error(JSON.stringify(object?.status));
        return object;
      },
      patienceMs,
    );
    expect(status).toMatchObject({ phase: 'Succeeded', message: expect.stringMatching(/^moved to /) });
    await removed(lab, kinds.VMMigration, title);
    this.#at = this.#other;
  }

  async check(): Promise<void> {
    const { lab, watch } = this.harness;
    const driver = this.is === 'Local' ? 'qemu' : 'lxc';
    expect(await whereaboutsOf(domainUuid(this.#fuid), driver)).toEqual([`${this.#at} shut off`]);
    const record = await ownership(this.#fuid);
    expect(record).toMatchObject({ site: this.#at, host: 'a', phase: 'Owned' });
    const { attempt, target, copy, last } = record;
    expect([attempt, target, copy, last?.left, last?.source]).toEqual(Array<undefined>(5).fill(undefined));
    const { path: disk, format } = this.#disk;
    const files = this.is === 'Local' ? [diskVolumeName, seedVolumeName] : [rootVolumeName];
    expect(await filesOf(this.#fuid)).toEqual(files.map((name) => `${this.#at} ${name(this.#fuid)}`));
    if (this.is === 'Local') expect(await inSite(this.#at, 'qemu-img', 'check', disk)).toContain('No errors');
    const read = await inSite(this.#at, 'qemu-io', '-r', '-f', format, '-c', `read -P 0x5a ${wordsAt * 512} 512`, disk);
    expect(read).not.toContain('Pattern verification failed');
    await eventually('its status follows', async () => {
      const object = await whenReady(lab, kinds.FederatedVM, this.#title);
      expect(object.status).toMatchObject({ site: this.#at, phase: 'Stopped' });
    });
    if (this.is === 'Container') return;
    // The next run, too, is to make it whole first.
    await watch.follow(undefined);
    const onImage = `rm -f ${base}; mv ${disk} ${base} && qemu-img create -q -f qcow2 -b ${base} -F qcow2 ${disk}`;
    await inSite(this.#at, 'sh', '-c', onImage);
    await watch.follow(this.#fuid);
  }
}

/** Of the sites' pools; and an image that no pool has. */
const folder = '/var/lib/libvirt/images/';
const base = '/var/lib/libvirt/faults-base.qcow2';

/** A network comes and goes, one a run. */
export class NetworkLife implements Scenario {
  readonly name = 'creating and deleting a network';

  constructor(private readonly harness: Harness) {}

  names(): Record<string, string> {
    return asTheyAre;
  }

  async reset(): Promise<void> {
    const { lab } = this.harness;
    for (const { metadata } of (await lab.api.list(kinds.FederatedNetwork, { namespace: ns })).items)
      if (metadata.name.startsWith('brief')) await removed(lab, kinds.FederatedNetwork, `${ns}/${metadata.name}`);
  }

  async act(run: number): Promise<void> {
    const { lab } = this.harness;
    const title = `${ns}/brief-${run}`;
    await apply([manifest('FederatedNetwork', title, { cidr: '172.20.0.0/24', sites: [...sites] })]);
    const { metadata } = await whenReady(lab, kinds.FederatedNetwork, title);
    const uuid = networkUuid(metadata.uid);
    for (const site of sites) expect(await lab.daemons.get(site)?.networkIsActive(uuid)).toBe(true);
    await removed(lab, kinds.FederatedNetwork, title);
    for (const site of sites) expect(await lab.daemons.get(site)?.lookupNetwork(uuid)).toBeUndefined();
    expect(await keysOf(lab, metadata.uid)).toEqual([]);
  }

  async check(): Promise<void> {
    // What is left over is the audit's to find.
  }
}

/** A machine comes and goes, one a run. */
export class MachineLife implements Scenario {
  constructor(
    private readonly harness: Harness,
    private readonly is: StorageKind | 'Container',
  ) {}

  get name(): string {
    return `creating and deleting a machine, ${this.is}`;
  }

  names(): Record<string, string> {
    return asTheyAre;
  }

  async reset(): Promise<void> {
    const { lab } = this.harness;
    for (const { metadata } of (await lab.api.list(kinds.FederatedVM, { namespace: ns })).items)
      if (metadata.name.startsWith('brief')) await removed(lab, kinds.FederatedVM, `${ns}/${metadata.name}`);
  }

  async act(run: number): Promise<void> {
    const { lab } = this.harness;
    const title = `${ns}/brief-${run}`;
    const is = this.is === 'Container' ? { type: this.is, image: { name: 'tiny-ct' } } : { storage: this.is };
    await apply([machine(title, { ...is, placement: { site: 'saopaulo' }, networks: [{ name: 'blue' }] })]);
    const { metadata } = await whenReady(lab, kinds.FederatedVM, title);
    const uuid = domainUuid(metadata.uid);
    const places = (): Promise<string[]> =>
      this.is === 'Container' ? whereaboutsOf(uuid, 'lxc') : whereabouts(lab, uuid);
    expect(await places()).toEqual(['saopaulo running']);
    await removed(lab, kinds.FederatedVM, title);
    expect(await places()).toEqual([]);
    expect(await filesOf(metadata.uid)).toEqual([]);
    expect(await keysOf(lab, metadata.uid)).toEqual([]);
  }

  async check(): Promise<void> {
    // What is left over is the audit's to find.
  }
}
