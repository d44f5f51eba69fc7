import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { execFile } from 'node:child_process';
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { filter, firstValueFrom, take, toArray } from 'rxjs';
import { connect, constants, LibvirtError, type Connection } from '../../drivers/libvirt/index.js';
import { startLibvirtd, type Libvirtd } from '../support/libvirtd.js';

let daemon: Libvirtd;
let connection: Connection;

beforeAll(async () => {
  daemon = await startLibvirtd();
  connection = await connect(daemon.uri('qemu', 'unix'));
});

afterAll(async () => {
  await connection.close();
  await daemon.stop();
});

/** Boots nothing; its firmware says so on the serial port. */
const guest = (name: string, uuid: string): string => `
<domain type='qemu'><name>${name}</name><uuid>${uuid}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><bios useserial='yes'/></os>
<devices><controller type='usb' model='none'/><serial type='pty'/><memballoon model='none'/><video><model type='none'/></video></devices>
</domain>`;

async function define(on: Connection): Promise<string> {
  const uuid = randomUUID();
  await on.defineDomain(guest(`q-${uuid.slice(0, 8)}`, uuid));
  return uuid;
}

async function remove(on: Connection, uuid: string): Promise<void> {
  const domain = await on.lookupDomain(uuid);
  if (domain === undefined) return;
  if (domain.id >= 0) await on.destroyDomain(uuid);
  await on.undefineDomain(uuid);
}

describe('a machine of the qemu driver', () => {
  let uuid: string;

  beforeAll(async () => {
    uuid = await define(connection);
  });

  afterAll(() => remove(connection, uuid));

  it('runs, pauses and stops, with the reason kept', async () => {
    await connection.startDomain(uuid, constants.DOMAIN_START_PAUSED);
    expect(await connection.domainState(uuid)).toEqual({ state: 'paused', reason: constants.DOMAIN_PAUSED_USER });
    await connection.resumeDomain(uuid);
    expect(await connection.domainState(uuid)).toEqual({ state: 'running', reason: constants.DOMAIN_RUNNING_UNPAUSED });
    await connection.suspendDomain(uuid);
    expect((await connection.domainState(uuid)).state).toBe('paused');
    await connection.destroyDomain(uuid);
    expect(await connection.domainState(uuid)).toEqual({
      state: 'shutoff',
      reason: constants.DOMAIN_SHUTOFF_DESTROYED,
    });
    await connection.startDomain(uuid);
    expect(await connection.domainState(uuid)).toEqual({ state: 'running', reason: constants.DOMAIN_RUNNING_BOOTED });
  });

  it('speaks on its console, which ends when it does', async () => {
    await connection.destroyDomain(uuid);
    await connection.startDomain(uuid, constants.DOMAIN_START_PAUSED);
    const console = await connection.openConsole(uuid);
    const seen = new Promise<string>((resolve) => {
      let text = '';
      console.on('data', (chunk: Buffer) => {
        text += chunk.toString();
        if (text.includes('SeaBIOS')) resolve(text);
      });
    });
    const closed = new Promise<void>((resolve) => console.once('close', () => resolve()));
    await connection.resumeDomain(uuid);
    expect(await seen).toContain('SeaBIOS');
    await connection.destroyDomain(uuid);
    await closed;
    expect(console.readableEnded).toBe(true);
    await connection.startDomain(uuid);
  });

  it('lends its console to another after destroy()', async () => {
    const first = await connection.openConsole(uuid);
    await expect(connection.openConsole(uuid, undefined, constants.DOMAIN_CONSOLE_SAFE)).rejects.toBeInstanceOf(
      LibvirtError,
    );
    const closed = new Promise<void>((resolve) => first.once('close', () => resolve()));
    first.write('x');
    first.destroy();
    await closed;
    const second = await connection.openConsole(uuid, undefined, constants.DOMAIN_CONSOLE_SAFE);
    const ended = new Promise<void>((resolve) => second.once('close', () => resolve()));
    second.resume().end();
    await ended;
  });

  it('is in the statistics of all machines', async () => {
    const all = await connection.allDomainStats(
      constants.DOMAIN_STATS_STATE | constants.DOMAIN_STATS_BALLOON | constants.DOMAIN_STATS_VCPU,
      constants.CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | constants.CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS,
    );
    const own = all.find(({ domain }) => domain.uuid === uuid);
    expect(own?.params.get('state.state')).toBe(1);
    expect(own?.params.get('balloon.maximum')).toBe(65_536n);
    expect(own?.params.get('vcpu.current')).toBe(1);
  });

  it('keeps metadata in what runs and in what is defined', async () => {
    const both = constants.DOMAIN_AFFECT_LIVE | constants.DOMAIN_AFFECT_CONFIG;
    await connection.setDomainMetadata(uuid, '<vm a="1"/>', 'ex', 'urn:example', both);
    expect(await connection.domainMetadata(uuid, 'urn:example', constants.DOMAIN_AFFECT_CONFIG)).toBe('<vm a="1"/>');
    expect(await connection.domainMetadata(uuid, 'urn:example', constants.DOMAIN_AFFECT_LIVE)).toBe('<vm a="1"/>');
    expect(await connection.domainXml(uuid)).toContain('urn:example');
  });

  it('tells that its memory was saved, until it goes on with that', async () => {
    expect(await connection.hasManagedSave(uuid)).toBe(false);
    await promisify(execFile)('virsh', ['-q', '-c', daemon.uri('qemu', 'unix'), 'managedsave', uuid]);
    expect(await connection.hasManagedSave(uuid)).toBe(true);
    expect(await connection.domainState(uuid)).toEqual({ state: 'shutoff', reason: constants.DOMAIN_SHUTOFF_SAVED });
    await connection.startDomain(uuid);
    expect(await connection.hasManagedSave(uuid)).toBe(false);
    expect(await connection.domainState(uuid)).toEqual({ state: 'running', reason: constants.DOMAIN_RUNNING_RESTORED });
  });

  it('has no job while nothing moves it', async () => {
    expect(await connection.jobStats(uuid)).toEqual({ type: 'none', params: new Map() });
  });

  const refusals: readonly { reason: string; code: number; act: () => Promise<unknown> }[] = [
    { reason: 'it runs already', code: constants.ERR_OPERATION_INVALID, act: () => connection.startDomain(uuid) },
    { reason: 'no job to abort', code: constants.ERR_OPERATION_INVALID, act: () => connection.abortJob(uuid) },
    { reason: 'not in post-copy', code: constants.ERR_OPERATION_INVALID, act: () => connection.startPostCopy(uuid) },
    {
      reason: 'no guest agent in it',
      code: constants.ERR_ARGUMENT_UNSUPPORTED,
      act: () => connection.qemuAgentCommand(uuid, '{"execute":"guest-ping"}', 1),
    },
    {
      reason: 'a move to where it is',
      code: constants.ERR_INTERNAL_ERROR,
      act: () => connection.migrateToUri(uuid, daemon.uri('qemu', 'tcp'), [], constants.MIGRATE_PEER2PEER),
    },
    {
      reason: 'a move to nowhere',
      code: constants.ERR_SYSTEM_ERROR,
      act: () => connection.migrateToUri(uuid, 'qemu+tcp://127.0.0.1:1/system', [], constants.MIGRATE_PEER2PEER),
    },
  ];

  it.each(refusals)('refuses with a code: $reason', async ({ code, act }) => {
    await expect(act()).rejects.toMatchObject({ name: 'LibvirtError', code });
    expect((await connection.domainState(uuid)).state).toBe('running');
  });
});

describe('what a host can do', () => {
  it('is told for qemu', async () => {
    expect(await connection.domainCapabilities('x86_64', 'pc', 'qemu')).toContain('<domain>qemu</domain>');
    expect(await connection.hypervisorType()).toBe('QEMU');
    expect(await connection.hypervisorVersion()).toBeGreaterThan(1_000_000);
  });

  const cpus = [
    ['qemu64', '', 'superset'],
    ['qemu64', "<feature policy='require' name='amx-tile'/>", 'incompatible'],
  ] as const;
  it.each(cpus)('is compared with what a guest has: %s %s is %s', async (model, feature, result) => {
    const cpu = `<cpu mode='custom' match='exact'><model fallback='forbid'>${model}</model>${feature}</cpu>`;
    expect(await connection.compareHypervisorCpu(cpu, 'x86_64', 'pc', 'qemu')).toBe(result);
  });

  it('is refused for a machine type that its QEMU does not have', async () => {
    const unknown = connection.domainCapabilities('x86_64', 'pc-q35-99.9', 'qemu');
    await expect(unknown).rejects.toMatchObject({ kind: 'INVALID_ARG' });
  });
});

describe('a network of the real driver', () => {
  it('lives its life, found by UUID alone', async () => {
    const uuid = randomUUID();
    const name = `n-${uuid.slice(0, 8)}`;
    const events = firstValueFrom(connection.events.networkLifecycle.pipe(take(4), toArray()));
    const xml = (vlan: number): string =>
      `<network><name>${name}</name><uuid>${uuid}</uuid><forward mode='bridge'/><bridge name='isth-int'/>` +
      `<virtualport type='openvswitch'/><vlan><tag id='${vlan}'/></vlan></network>`;
    expect(await connection.defineNetwork(xml(120))).toEqual({ name, uuid });
    await connection.startNetwork(uuid);
    expect(await connection.networkIsActive(uuid)).toBe(true);
    await connection.setNetworkAutostart(uuid, true);
    expect(await connection.networkAutostart(uuid)).toBe(true);
    await connection.defineNetwork(xml(121));
    expect(await connection.networkXml(uuid)).toContain("<tag id='120'/>");
    expect(await connection.networkXml(uuid, constants.NETWORK_XML_INACTIVE)).toContain("<tag id='121'/>");
    await connection.destroyNetwork(uuid);
    await connection.undefineNetwork(uuid);
    expect(await connection.lookupNetwork(uuid)).toBeUndefined();
    expect((await events).map(({ event }) => event)).toEqual(['defined', 'started', 'defined', 'stopped']);
  });
});

describe('a dir pool', () => {
  const pool = 'files';
  const size = 8 * 1024 * 1024;
  const content = randomBytes(size);
  let path: string;

  const hash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
  const volume = (name: string, format: string, backing = ''): string =>
    `<volume><name>${name}</name><capacity unit='B'>${size}</capacity><target><format type='${format}'/></target>${backing}</volume>`;

  async function* inChunks(bytes: Uint8Array, chunk: number): AsyncGenerator<Uint8Array> {
    for (let offset = 0; offset < bytes.length; offset += chunk) {
      yield await Promise.resolve(bytes.subarray(offset, offset + chunk));
    }
  }

  async function download(name: string, range?: { offset?: bigint; length?: bigint }): Promise<Buffer> {
    const chunks: Uint8Array[] = [];
    for await (const chunk of connection.downloadVolume(pool, name, range)) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  beforeAll(async () => {
    path = join(daemon.directory, pool);
    await mkdir(path);
    await connection.definePool(`<pool type='dir'><name>${pool}</name><target><path>${path}</path></target></pool>`);
    await connection.startPool(pool);
    await connection.createVolume(pool, volume('base', 'raw'));
    await connection.uploadVolume(pool, 'base', inChunks(content, 300_001));
  });

  it('says how full it is', async () => {
    const info = await connection.poolInfo(pool);
    expect(info.state).toBe('running');
    expect(info.capacityBytes).toBeGreaterThan(info.availableBytes);
  });

  it('has what was uploaded, on disk and when downloaded', async () => {
    expect(hash(await readFile(join(path, 'base')))).toBe(hash(content));
    expect(hash(await download('base'))).toBe(hash(content));
  });

  const ranges: readonly { reason: string; range: { offset?: bigint; length?: bigint }; from: number; to: number }[] = [
    { reason: 'a piece', range: { offset: 1000n, length: 5n }, from: 1000, to: 1005 },
    { reason: 'from somewhere on', range: { offset: 8_000_000n }, from: 8_000_000, to: size },
    { reason: 'more than there is', range: { offset: 8_388_600n, length: 100n }, from: 8_388_600, to: size },
  ];

  it.each(ranges)('gives a range: $reason', async ({ range, from, to }) => {
    expect(hash(await download('base', range))).toBe(hash(content.subarray(from, to)));
  });

  it('takes a range', async () => {
    await connection.createVolume(pool, volume('patched', 'raw'));
    await connection.uploadVolume(pool, 'patched', inChunks(Buffer.from('hello'), 2), { offset: 4096n, length: 5n });
    expect((await download('patched', { offset: 4095n, length: 7n })).toString('latin1')).toBe('\0hello\0');
  });

  it('goes on after a download that was broken off', async () => {
    for await (const chunk of connection.downloadVolume(pool, 'base')) {
      expect(chunk.length).toBeGreaterThan(0);
      break;
    }
    expect((await connection.volumeInfo(pool, 'base')).capacityBytes).toBe(BigInt(size));
  });

  it('downloads more than one segment', async () => {
    await connection.createVolume(
      pool,
      `<volume><name>big</name><capacity unit='MiB'>33</capacity><target><format type='raw'/></target></volume>`,
    );
    await connection.uploadVolume(pool, 'big', inChunks(content, size), { offset: 25n * 1024n * 1024n });
    const all = await download('big');
    expect(all.length).toBe(33 * 1024 * 1024);
    expect(hash(all.subarray(25 * 1024 * 1024))).toBe(hash(content));
    await connection.deleteVolume(pool, 'big');
  });

  it('fails an upload that is longer than it said, and the connection lives on', async () => {
    await connection.createVolume(pool, volume('short', 'raw'));
    const upload = connection.uploadVolume(pool, 'short', inChunks(content, 65_536), { length: 100n });
    await expect(upload).rejects.toBeInstanceOf(LibvirtError);
    expect((await connection.listVolumes(pool)).map(({ name }) => name)).toContain('short');
  });

  it("fails an upload with its source's error", async () => {
    // eslint-disable-next-line require-yield
    async function* broken(): AsyncGenerator<Uint8Array> {
      await Promise.resolve();
      throw new RangeError('source failed');
    }
    await expect(connection.uploadVolume(pool, 'short', broken())).rejects.toBeInstanceOf(RangeError);
    expect(connection.isOpen).toBe(true);
  });

  it('makes overlays, grows them, copies and deletes', async () => {
    const backing = `<backingStore><path>${path}/base</path><format type='raw'/></backingStore>`;
    const overlay = await connection.createVolume(pool, volume('overlay', 'qcow2', backing));
    expect(overlay).toEqual({ pool, name: 'overlay', key: `${path}/overlay` });
    expect(await connection.volumeXml(pool, 'overlay')).toContain(`<path>${path}/base</path>`);
    await connection.resizeVolume(pool, 'overlay', BigInt(2 * size));
    expect(await connection.volumeInfo(pool, 'overlay')).toMatchObject({
      type: 'file',
      capacityBytes: BigInt(2 * size),
    });
    const base = await connection.lookupVolume(pool, 'base');
    if (base === undefined) throw new Error('base is gone');
    const flags = constants.STORAGE_VOL_CREATE_PREALLOC_METADATA;
    await connection.createVolumeFrom(pool, volume('copy', 'qcow2'), base, flags);
    expect((await stat(join(path, 'copy'))).size).toBeGreaterThan(size);
    await connection.deleteVolume(pool, 'overlay');
    await expect(stat(join(path, 'overlay'))).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(connection.deleteVolume(pool, 'overlay')).rejects.toMatchObject({
      code: constants.ERR_NO_STORAGE_VOL,
    });
  });

  it('fills an overlay from what it stands on, under a machine that runs', async () => {
    const uuid = randomUUID();
    const file = join(path, 'filled');
    await connection.createVolume(
      pool,
      volume('filled', 'qcow2', `<backingStore><path>${path}/base</path><format type='raw'/></backingStore>`),
    );
    const disk = `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${file}'/><target dev='vda' bus='virtio'/></disk>`;
    await connection.defineDomain(guest('filled', uuid).replace('<devices>', `<devices>${disk}`));
    await connection.startDomain(uuid, constants.DOMAIN_START_PAUSED);
    try {
      expect(await connection.blockJob(uuid, 'vda')).toBeUndefined();
      // A megabyte a second, so that it is met at work.
      await connection.pullBlocks(uuid, 'vda', 1);
      expect(await connection.blockJob(uuid, 'vda')).toMatchObject({ type: 'pull', end: BigInt(size) });
      await expect(connection.pullBlocks(uuid, 'vda', 0)).rejects.toBeInstanceOf(LibvirtError);
      await connection.abortBlockJob(uuid, 'vda');
      expect(await connection.blockJob(uuid, 'vda')).toBeUndefined();
      await expect(connection.abortBlockJob(uuid, 'vda')).rejects.toMatchObject({ code: constants.ERR_INVALID_ARG });
      await connection.pullBlocks(uuid, 'vda', 0);
      while (await connection.blockJob(uuid, 'vda')) await sleep(20);
      expect(await connection.domainXml(uuid)).not.toContain(`${path}/base`);
    } finally {
      await connection.destroyDomain(uuid);
      await connection.undefineDomain(uuid);
    }
    // The pool keeps what it read of the file's header when that was made.
    await connection.refreshPool(pool);
    expect(await connection.volumeXml(pool, 'filled')).not.toContain('backingStore');
    expect((await connection.volumeInfo(pool, 'filled')).allocationBytes).toBeGreaterThanOrEqual(BigInt(size));
  });

  it('is found again when another made it anew', async () => {
    const other = await connect(daemon.uri('qemu', 'tcp'));
    await other.destroyPool(pool);
    await other.undefinePool(pool);
    await expect(connection.listVolumes(pool)).rejects.toMatchObject({ code: constants.ERR_NO_STORAGE_POOL });
    await other.definePool(`<pool type='dir'><name>${pool}</name><target><path>${path}</path></target></pool>`);
    await connection.startPool(pool);
    expect((await connection.listVolumes(pool)).map(({ name }) => name)).toContain('base');
    await other.close();
  });
});

describe('a move from one daemon to another', () => {
  let target: Libvirtd;
  let there: Connection;
  let uuid: string;

  const live =
    constants.MIGRATE_LIVE |
    constants.MIGRATE_PEER2PEER |
    constants.MIGRATE_PERSIST_DEST |
    constants.MIGRATE_UNDEFINE_SOURCE;
  const text = (name: string, value: string) => ({ name, value: { type: 'string', value } as const });
  const slowly = [
    text(constants.MIGRATE_PARAM_URI, 'tcp:127.0.0.1'),
    text(constants.MIGRATE_PARAM_LISTEN_ADDRESS, '127.0.0.1'),
    // As a plain number: the client gives it the type that libvirt wants.
    { name: constants.MIGRATE_PARAM_BANDWIDTH, value: { type: 'int', value: 1 } as const },
  ];

  beforeAll(async () => {
    target = await startLibvirtd();
    there = await connect(target.uri('qemu', 'tcp'));
  });

  afterAll(async () => {
    await there.close();
    await target.stop();
  });

  beforeEach(async () => {
    uuid = await define(connection);
    await connection.startDomain(uuid);
  });

  afterEach(async () => {
    await Promise.all([remove(connection, uuid), remove(there, uuid)]);
  });

  /** The first statistics of the move's job. */
  async function jobStarted(): Promise<string> {
    for (;;) {
      const { type } = await connection.jobStats(uuid);
      if (type !== 'none') return type;
      await sleep(10);
    }
  }

  it('is one call; the machine is there and no longer here', async () => {
    const completed = firstValueFrom(connection.events.jobCompleted.pipe(filter((e) => e.domain.uuid === uuid)));
    const resumed = firstValueFrom(
      there.events.domainLifecycle.pipe(filter((e) => e.domain.uuid === uuid && e.event === 'resumed')),
    );
    const move = connection.migrateToUri(uuid, target.uri('qemu', 'tcp'), slowly, live);
    expect(await jobStarted()).toBe('unbounded');
    await connection.setMigrationMaxDowntime(uuid, 300);
    await connection.setMigrationSpeed(uuid, 1000);
    await move;
    expect((await completed).params.get(constants.DOMAIN_JOB_OPERATION)).toBe(
      constants.DOMAIN_JOB_OPERATION_MIGRATION_OUT,
    );
    expect((await resumed).detail).toBe(constants.DOMAIN_EVENT_RESUMED_MIGRATED);
    expect(await there.domainState(uuid)).toEqual({ state: 'running', reason: constants.DOMAIN_RUNNING_MIGRATED });
    expect(await connection.lookupDomain(uuid)).toBeUndefined();
    const stats = await there.jobStats(uuid, constants.DOMAIN_JOB_STATS_COMPLETED);
    expect(stats.type).toBe('completed');
    expect(stats.params.get(constants.DOMAIN_JOB_DOWNTIME)).toBeGreaterThan(0n);
    expect(await there.domainXml(uuid, constants.DOMAIN_XML_INACTIVE)).toContain(uuid);
  });

  it('can be called off; the machine runs here as before', async () => {
    const move = connection.migrateToUri(uuid, target.uri('qemu', 'tcp'), slowly, live);
    const outcome = move.catch((error: unknown) => error);
    await jobStarted();
    await connection.abortJob(uuid);
    expect(await outcome).toMatchObject({ code: constants.ERR_OPERATION_ABORTED });
    expect((await connection.domainState(uuid)).state).toBe('running');
    expect(await there.lookupDomain(uuid)).toBeUndefined();
  });

  it('goes on when its client is gone', async () => {
    const client = await connect(daemon.uri('qemu', 'unix'));
    const left = firstValueFrom(client.events.domainLifecycle.pipe(toArray()));
    const outcome = client.migrateToUri(uuid, target.uri('qemu', 'tcp'), slowly, live).catch((error: unknown) => error);
    await jobStarted();
    await client.close();
    expect(await outcome).toMatchObject({ code: 'LIBVIRT_CLOSED' });
    await left;
    await connection.setMigrationSpeed(uuid, 1000);
    while ((await connection.lookupDomain(uuid)) !== undefined) await sleep(20);
    expect((await there.domainState(uuid)).state).toBe('running');
  });
});
