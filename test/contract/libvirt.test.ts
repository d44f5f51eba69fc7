import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { firstValueFrom, take, toArray } from 'rxjs';
import {
  connect,
  constants,
  LibvirtConnectionError,
  LibvirtError,
  LibvirtTimeoutError,
  type Connection,
  type ConnectOptions,
} from '../../drivers/libvirt/index.js';
import { startLibvirtd, type Libvirtd } from '../support/libvirtd.js';

let daemon: Libvirtd;
const opened: Connection[] = [];

async function open(uri: string, options?: ConnectOptions): Promise<Connection> {
  const connection = await connect(uri, options);
  opened.push(connection);
  return connection;
}

beforeAll(async () => {
  daemon = await startLibvirtd();
});

afterEach(async () => {
  await Promise.all(opened.splice(0).map((connection) => connection.close()));
});

afterAll(async () => {
  await daemon.stop();
});

const testDomain = (name: string, uuid: string): string =>
  `<domain type='test'><name>${name}</name><uuid>${uuid}</uuid><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>`;

const unique = (): { name: string; uuid: string } => {
  const uuid = randomUUID();
  return { name: `t-${uuid.slice(0, 8)}`, uuid };
};

describe.each(['unix', 'tcp'] as const)('the test driver over %s', (transport) => {
  it('tells what the host is', async () => {
    const connection = await open(daemon.uri('test', transport));
    expect(await connection.libVersion()).toBeGreaterThanOrEqual(9_000_000);
    expect(await connection.hypervisorType()).toBe('TEST');
    expect(await connection.hypervisorVersion()).toBe(2);
    expect(await connection.hostname()).not.toBe('');
    expect(await connection.nodeInfo()).toEqual({ model: 'i686', memoryKiB: 3_145_728, cpus: 16 });
    expect(await connection.nodeFreeMemory()).toBeGreaterThan(0n);
    expect(await connection.capabilities()).toContain('<capabilities>');
  });

  it('takes a machine through its life, each step seen in its state', async () => {
    const connection = await open(daemon.uri('test', transport));
    const { name, uuid } = unique();
    const state = async (): Promise<string> => (await connection.domainState(uuid)).state;

    expect(await connection.defineDomain(testDomain(name, uuid))).toEqual({ name, uuid, id: -1 });
    expect(await connection.domainState(uuid)).toEqual({ state: 'shutoff', reason: constants.DOMAIN_SHUTOFF_UNKNOWN });
    await connection.startDomain(uuid);
    expect(await connection.domainState(uuid)).toEqual({ state: 'running', reason: constants.DOMAIN_RUNNING_BOOTED });
    expect((await connection.lookupDomain(uuid))?.id).toBeGreaterThan(0);
    await connection.suspendDomain(uuid);
    expect(await connection.domainState(uuid)).toEqual({ state: 'paused', reason: constants.DOMAIN_PAUSED_USER });
    await connection.resumeDomain(uuid);
    expect(await connection.domainState(uuid)).toEqual({ state: 'running', reason: constants.DOMAIN_RUNNING_UNPAUSED });
    await connection.rebootDomain(uuid);
    expect(await state()).toBe('running');
    await connection.shutdownDomain(uuid);
    expect(await state()).toBe('shutoff');
    await connection.startDomain(uuid);
    await connection.destroyDomain(uuid);
    expect(await state()).toBe('shutoff');
    expect(await connection.domainXml(uuid, constants.DOMAIN_XML_INACTIVE)).toContain(`<uuid>${uuid}</uuid>`);
    expect(await connection.lookupDomainByName(name)).toEqual({ name, uuid, id: -1 });
    await connection.undefineDomain(uuid);
    expect(await connection.lookupDomain(uuid)).toBeUndefined();
    expect(await connection.lookupDomainByName(name)).toBeUndefined();
  });

  it('keeps metadata apart by namespace', async () => {
    const connection = await open(daemon.uri('test', transport));
    const { name, uuid } = unique();
    const namespace = 'urn:example:mark';
    await connection.defineDomain(testDomain(name, uuid));
    expect(await connection.domainMetadata(uuid, namespace)).toBeUndefined();
    await connection.setDomainMetadata(uuid, "<vm fuid='é&amp;'/>", 'ex', namespace);
    expect(await connection.domainMetadata(uuid, namespace)).toBe('<vm fuid="&#xE9;&amp;"/>');
    expect(await connection.domainMetadata(uuid, 'urn:example:other')).toBeUndefined();
    await connection.undefineDomain(uuid);
  });

  it('takes a network through its life', async () => {
    const connection = await open(daemon.uri('test', transport));
    const { name, uuid } = unique();
    const xml = `<network><name>${name}</name><uuid>${uuid}</uuid><forward mode='bridge'/><bridge name='isth-int'/></network>`;
    expect(await connection.lookupNetwork(uuid)).toBeUndefined();
    expect(await connection.defineNetwork(xml)).toEqual({ name, uuid });
    expect(await connection.lookupNetworkByName(name)).toEqual({ name, uuid });
    expect(await connection.networkIsActive(uuid)).toBe(false);
    await connection.startNetwork(uuid);
    expect(await connection.networkIsActive(uuid)).toBe(true);
    expect(await connection.listNetworks(constants.CONNECT_LIST_NETWORKS_ACTIVE)).toContainEqual({ name, uuid });
    await connection.setNetworkAutostart(uuid, true);
    expect(await connection.networkAutostart(uuid)).toBe(true);
    expect(await connection.networkXml(uuid)).toContain("<bridge name='isth-int'");
    await connection.destroyNetwork(uuid);
    await connection.undefineNetwork(uuid);
    expect(await connection.lookupNetworkByName(name)).toBeUndefined();
  });

  it('takes a pool and its volumes through their lives', async () => {
    const connection = await open(daemon.uri('test', transport));
    const { name } = unique();
    const xml = `<pool type='dir'><name>${name}</name><target><path>/${name}</path></target></pool>`;
    const pool = await connection.definePool(xml);
    expect(await connection.lookupPool(name)).toEqual(pool);
    expect((await connection.poolInfo(name)).state).toBe('inactive');
    await connection.buildPool(name);
    await connection.startPool(name);
    await connection.refreshPool(name);
    expect((await connection.poolInfo(name)).state).toBe('running');
    const volume = await connection.createVolume(
      name,
      '<volume><name>a</name><capacity unit="MiB">2</capacity></volume>',
    );
    expect(volume).toEqual({ pool: name, name: 'a', key: `/${name}/a` });
    const copy = await connection.createVolumeFrom(
      name,
      '<volume><name>b</name><capacity unit="MiB">2</capacity></volume>',
      volume,
    );
    expect((await connection.listVolumes(name)).map(({ name }) => name).sort()).toEqual(['a', 'b']);
    expect(await connection.lookupVolume(name, 'b')).toEqual(copy);
    expect(await connection.volumeInfo(name, 'a')).toMatchObject({ type: 'file', capacityBytes: 2_097_152n });
    expect(await connection.volumeXml(name, 'a')).toContain(`<path>/${name}/a</path>`);
    await connection.deleteVolume(name, 'a');
    expect(await connection.lookupVolume(name, 'a')).toBeUndefined();
    await connection.deleteVolume(name, 'b');

    await connection.destroyPool(name);
    await connection.undefinePool(name);
    expect(await connection.lookupPool(name)).toBeUndefined();
    const again = await connection.definePool(xml);
    expect(again.uuid).not.toBe(pool.uuid);
    expect(await connection.poolXml(name)).toContain(again.uuid);
    await connection.undefinePool(name);
  });

  it('answers 100 calls at once, each with its own', async () => {
    const connection = await open(daemon.uri('test', transport));
    const wanted = Array.from({ length: 100 }, unique);
    const made = await Promise.all(wanted.map(({ name, uuid }) => connection.defineDomain(testDomain(name, uuid))));
    expect(made).toEqual(wanted.map((ref) => ({ ...ref, id: -1 })));
    const seen = await Promise.all(wanted.map(({ uuid }) => connection.lookupDomain(uuid)));
    expect(seen).toEqual(made);
    await Promise.all(wanted.map(({ uuid }) => connection.startDomain(uuid)));
    const stats = await connection.allDomainStats(constants.DOMAIN_STATS_STATE);
    const running = new Set(stats.filter(({ params }) => params.get('state.state') === 1).map((s) => s.domain.uuid));
    expect(wanted.filter(({ uuid }) => !running.has(uuid))).toEqual([]);
    await Promise.all(wanted.map(({ uuid }) => connection.destroyDomain(uuid)));
    await Promise.all(wanted.map(({ uuid }) => connection.undefineDomain(uuid)));
    const left = new Set((await connection.listDomains()).map(({ uuid }) => uuid));
    expect(wanted.filter(({ uuid }) => left.has(uuid))).toEqual([]);
  });
});

describe('events', () => {
  it('tell of machines, networks and pools that another connection changes', async () => {
    const watcher = await open(daemon.uri('test', 'unix'));
    const actor = await open(daemon.uri('test', 'unix'));
    const { name, uuid } = unique();
    const domainEvents = firstValueFrom(watcher.events.domainLifecycle.pipe(take(4), toArray()));
    const networkEvents = firstValueFrom(watcher.events.networkLifecycle.pipe(take(3), toArray()));
    const poolEvents = firstValueFrom(watcher.events.poolLifecycle.pipe(take(2), toArray()));

    await actor.defineDomain(testDomain(name, uuid));
    await actor.startDomain(uuid);
    await actor.destroyDomain(uuid);
    await actor.undefineDomain(uuid);
    await actor.defineNetwork(`<network><name>${name}</name><uuid>${uuid}</uuid></network>`);
    await actor.startNetwork(uuid);
    await actor.destroyNetwork(uuid);
    await actor.definePool(
      `<pool type='dir'><name>${name}</name><uuid>${uuid}</uuid><target><path>/${name}</path></target></pool>`,
    );
    await actor.undefinePool(name);

    expect((await domainEvents).map(({ domain, event, detail }) => [domain.uuid, event, detail])).toEqual([
      [uuid, 'defined', constants.DOMAIN_EVENT_DEFINED_ADDED],
      [uuid, 'started', constants.DOMAIN_EVENT_STARTED_BOOTED],
      [uuid, 'stopped', constants.DOMAIN_EVENT_STOPPED_DESTROYED],
      [uuid, 'undefined', constants.DOMAIN_EVENT_UNDEFINED_REMOVED],
    ]);
    expect(await networkEvents).toEqual(
      ['defined', 'started', 'stopped'].map((event) => ({ network: { name, uuid }, event })),
    );
    expect(await poolEvents).toEqual(['defined', 'undefined'].map((event) => ({ pool: { name, uuid }, event })));
    await actor.undefineNetwork(uuid);
  });

  it('complete when the connection ends', async () => {
    const connection = await open(daemon.uri('test', 'unix'));
    const all = firstValueFrom(connection.events.domainLifecycle.pipe(toArray()));
    await connection.close();
    expect(await all).toEqual([]);
    expect(await connection.closed).toBeUndefined();
    expect(connection.isOpen).toBe(false);
    await expect(connection.listDomains()).rejects.toMatchObject({ code: 'LIBVIRT_CLOSED' });
  });
});

describe('errors of the daemon', () => {
  const nowhere = randomUUID();
  const cases: readonly { reason: string; code: number; act: (connection: Connection) => Promise<unknown> }[] = [
    { reason: 'a machine that is not there', code: constants.ERR_NO_DOMAIN, act: (c) => c.startDomain(nowhere) },
    { reason: 'a network that is not there', code: constants.ERR_NO_NETWORK, act: (c) => c.startNetwork(nowhere) },
    { reason: 'a pool that is not there', code: constants.ERR_NO_STORAGE_POOL, act: (c) => c.startPool('none') },
    {
      reason: 'a volume that is not there',
      code: constants.ERR_NO_STORAGE_VOL,
      act: (c) => c.volumeInfo('default-pool', 'none'),
    },
    {
      reason: 'a start of what runs',
      code: constants.ERR_OPERATION_INVALID,
      act: async (c) => c.startNetwork((await c.lookupNetworkByName('default'))?.uuid ?? ''),
    },
    { reason: 'XML that is none', code: constants.ERR_XML_DETAIL, act: (c) => c.defineDomain('<domain') },
    { reason: 'a driver without consoles', code: constants.ERR_NO_SUPPORT, act: (c) => c.openConsole(nowhere) },
    {
      reason: 'a driver without transfers',
      code: constants.ERR_NO_SUPPORT,
      act: (c) => c.uploadVolume('default-pool', 'none', one(new Uint8Array(3))),
    },
    {
      reason: 'a driver without a guest agent',
      code: constants.ERR_NO_SUPPORT,
      act: (c) => c.qemuAgentCommand(nowhere, '{}', 1),
    },
  ];

  it.each(cases)('keep their code: $reason', async ({ code, act }) => {
    const connection = await open(daemon.uri('test', 'unix'));
    const error: unknown = await act(connection).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(LibvirtError);
    expect(error).toMatchObject({ code, level: 2 });
    expect(await connection.hypervisorType()).toBe('TEST');
  });

  it('carry a name too', () => {
    expect(new LibvirtError('gone', constants.ERR_NO_DOMAIN, 0, 2).kind).toBe('NO_DOMAIN');
    expect(new LibvirtError('?', 9999, 0, 2).kind).toBe('UNKNOWN');
  });

  it('end an attempt to open a driver that the daemon has not', async () => {
    const uri = daemon.uri('qemu', 'unix').replace('/system', '/nonsense');
    await expect(connect(uri)).rejects.toBeInstanceOf(LibvirtError);
  });
});

async function* one(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield await Promise.resolve(bytes);
}

describe('the LXC driver', () => {
  it('defines a container and finds it by UUID alone', async () => {
    const connection = await open(daemon.uri('lxc', 'unix'));
    const { name, uuid } = unique();
    await connection.defineDomain(
      `<domain type='lxc'><name>${name}</name><uuid>${uuid}</uuid><memory unit='MiB'>64</memory>` +
        `<os><type>exe</type><init>/bin/sh</init></os><devices><console type='pty'/></devices></domain>`,
    );
    await connection.setDomainMetadata(uuid, '<a/>', 'ex', 'urn:example', constants.DOMAIN_AFFECT_CONFIG);
    expect(await connection.domainMetadata(uuid, 'urn:example')).toBe('<a/>');
    expect((await connection.domainState(uuid)).state).toBe('shutoff');
    await connection.undefineDomain(uuid);
    expect(await connection.listDomains()).toEqual([]);
  });
});

describe('SSH', () => {
  /** Runs the remote command where the daemon is, as sshd's shell would. */
  async function fakeSsh(): Promise<string> {
    const path = join(daemon.directory, 'ssh');
    const script = `#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift 2\nexec ${daemon.inside.join(' ')} sh -c "$*"\n`;
    await writeFile(path, script);
    await chmod(path, 0o755);
    return path;
  }

  it("reaches the daemon through libvirt's own helper", async () => {
    const connection = await open(`qemu+ssh://root@site.example/system?command=${await fakeSsh()}`);
    expect(await connection.hypervisorType()).toBe('QEMU');
    expect(await connection.listDomains()).toEqual([]);
  });

  it('says what ssh said when that fails', async () => {
    await expect(connect('qemu+ssh://no-such-host.invalid/system')).rejects.toMatchObject({
      code: 'LIBVIRT_UNREACHABLE',
      message: expect.stringContaining('no-such-host.invalid'),
    });
  });
});

describe('a connection that does not come about', () => {
  const cases: readonly { reason: string; uri: () => string; code: string }[] = [
    { reason: 'nobody listens', uri: () => 'qemu+tcp://127.0.0.1:1/system', code: 'LIBVIRT_UNREACHABLE' },
    { reason: 'no such socket', uri: () => 'qemu+unix:///system?socket=/nowhere', code: 'LIBVIRT_UNREACHABLE' },
    { reason: 'TLS without certificates', uri: () => daemon.uri('qemu', 'tls'), code: 'LIBVIRT_TLS_CLIENT' },
    { reason: 'another driver', uri: () => 'xen:///system', code: 'LIBVIRT_URI' },
  ];

  it.each(cases)('says why: $reason', async ({ uri, code }) => {
    const error: unknown = await connect(uri()).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(LibvirtConnectionError);
    expect(error).toMatchObject({ code });
  });

  it('gives up at its deadline', async () => {
    daemon.pause();
    try {
      await expect(connect(daemon.uri('test', 'unix'), { connectTimeoutMs: 100 })).rejects.toBeInstanceOf(
        LibvirtTimeoutError,
      );
    } finally {
      daemon.resume();
    }
  });

  it('gives up when told to', async () => {
    daemon.pause();
    try {
      const attempt = connect(daemon.uri('test', 'unix'), { signal: AbortSignal.timeout(50) });
      await expect(attempt).rejects.toMatchObject({ code: 'LIBVIRT_ABORTED' });
    } finally {
      daemon.resume();
    }
  });

  it('ends later, too, when told to', async () => {
    const control = new AbortController();
    const connection = await open(daemon.uri('test', 'unix'), { signal: control.signal });
    control.abort();
    expect(await connection.closed).toMatchObject({ code: 'LIBVIRT_ABORTED' });
    await expect(connection.listDomains()).rejects.toMatchObject({ code: 'LIBVIRT_ABORTED' });
  });

  it('names the authentication that the daemon wants', async () => {
    const strict = await startLibvirtd({ tcpAuthentication: 'sasl' });
    try {
      const error: unknown = await connect(strict.uri('test', 'tcp')).catch((error: unknown) => error);
      expect(error).toMatchObject({ code: 'LIBVIRT_AUTH', message: expect.stringContaining('SASL') });
    } finally {
      await strict.stop();
    }
  });
});

describe('a daemon in trouble', () => {
  // Each has its own: libvirtd 9.0 may itself fall over a client that leaves while events are being registered.
  let victim: Libvirtd;

  beforeEach(async () => {
    victim = await startLibvirtd();
  });

  afterEach(async () => {
    await victim.stop();
  });

  it('fails every waiting call at once when it is killed', async () => {
    const connection = await open(victim.uri('test', 'unix'));
    const events = firstValueFrom(connection.events.domainLifecycle.pipe(toArray()));
    victim.pause();
    const calls = Array.from({ length: 20 }, () => connection.listDomains().catch((error: unknown) => error));
    victim.kill();
    const errors = await Promise.all(calls);
    expect(errors.every((error) => error instanceof LibvirtConnectionError)).toBe(true);
    expect(await connection.closed).toMatchObject({ code: 'LIBVIRT_CLOSED' });
    expect(await events).toEqual([]);
  });

  it('is given up when it leaves pings unanswered', async () => {
    const connection = await open(victim.uri('test', 'unix'), { keepalive: { intervalMs: 50, count: 2 } });
    victim.pause();
    try {
      await expect(connection.listDomains()).rejects.toMatchObject({ code: 'LIBVIRT_UNRESPONSIVE' });
    } finally {
      victim.resume();
    }
  });

  it('is kept while it answers pings, however long nobody calls', async () => {
    const connection = await open(victim.uri('test', 'unix'), { keepalive: { intervalMs: 100, count: 2 } });
    await sleep(600);
    expect(connection.isOpen).toBe(true);
    expect(await connection.hypervisorType()).toBe('TEST');
  });

  it('costs a call no more than its deadline, and the connection lives on', async () => {
    const connection = await open(victim.uri('test', 'unix'), { callTimeoutMs: 100 });
    victim.pause();
    await expect(connection.listDomains()).rejects.toBeInstanceOf(LibvirtTimeoutError);
    victim.resume();
    expect(await connection.hypervisorType()).toBe('TEST');
  });
});
