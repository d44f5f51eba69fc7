import { map, mergeMap } from 'rxjs';
import type { RpcConnection, Deadline } from './connection.js';
import {
  ERR_NO_DOMAIN,
  ERR_NO_DOMAIN_METADATA,
  ERR_NO_NETWORK,
  ERR_NO_STORAGE_POOL,
  ERR_NO_STORAGE_VOL,
} from './constants.js';
import { LibvirtError, LibvirtProtocolError } from './errors.js';
import { domainEventId, events, lifecycleEventId, metadataElement, procedures, type Procedure } from './protocol.js';
import { consoleOf, type RpcStream } from './stream.js';
import type {
  BlockJob,
  CallOptions,
  Connection,
  ConsoleStream,
  DomainLifecycle,
  DomainRef,
  DomainState,
  DomainStats,
  DomainStatus,
  JobStats,
  LibvirtEvents,
  NetworkRef,
  NodeInfo,
  PoolInfo,
  PoolRef,
  TypedParameters,
  TypedValue,
  VolumeInfo,
  VolumeRef,
} from './types.js';
import type { Driver } from './uri.js';

const domainStates: readonly DomainState[] = [
  'nostate',
  'running',
  'blocked',
  'paused',
  'shutdown',
  'shutoff',
  'crashed',
  'pmsuspended',
];
const poolStates: readonly PoolInfo['state'][] = ['inactive', 'building', 'running', 'degraded', 'inaccessible'];
const volumeTypes: readonly VolumeInfo['type'][] = ['file', 'block', 'dir', 'network', 'netdir', 'ploop'];
const cpuComparisons = ['incompatible', 'identical', 'superset'] as const;
const jobTypes: readonly JobStats['type'][] = ['none', 'bounded', 'unbounded', 'completed', 'failed', 'cancelled'];
const blockJobTypes: readonly BlockJob['type'][] = ['unknown', 'pull', 'copy', 'commit', 'activeCommit', 'backup'];
const domainLifecycles: readonly DomainLifecycle[] = [
  'defined',
  'undefined',
  'started',
  'suspended',
  'resumed',
  'stopped',
  'shutdown',
  'pmsuspended',
  'crashed',
];
const networkLifecycles = ['defined', 'undefined', 'started', 'stopped'] as const;
const poolLifecycles = ['defined', 'undefined', 'started', 'stopped', 'created', 'deleted'] as const;

function nameOf<T>(names: readonly T[], value: number, what: string): T {
  const name = names[value];
  if (name === undefined) throw new LibvirtProtocolError(`unknown ${what} ${value}`);
  return name;
}

/** None if the number is not known: a newer daemon may tell of more than we have a word for. */
function known<T>(names: readonly T[], value: number): T[] {
  const name = names[value];
  return name === undefined ? [] : [name];
}

/** The types that libvirt demands of migration parameters, where a number has several (qemu_migration.h). */
const migrationTypes: ReadonlyMap<string, 'int' | 'ullong'> = new Map([
  ['bandwidth', 'ullong'],
  ['bandwidth.postcopy', 'ullong'],
  ['compression.xbzrle.cache', 'ullong'],
  ['disks_port', 'int'],
  ['compression.mt.level', 'int'],
  ['compression.mt.threads', 'int'],
  ['compression.mt.dthreads', 'int'],
  ['compression.zlib.level', 'int'],
  ['compression.zstd.level', 'int'],
  ['auto_converge.initial', 'int'],
  ['auto_converge.increment', 'int'],
  ['parallel.connections', 'int'],
]);

/** A number in the type that libvirt wants for that name; everything else as it is. */
function asLibvirtWants(name: string, value: TypedValue): TypedValue {
  const type = migrationTypes.get(name);
  switch (value.type) {
    case 'int':
    case 'uint':
    case 'llong':
    case 'ullong':
      if (type === 'int') return { type, value: Number(value.value) };
      if (type === 'ullong') return { type, value: BigInt(value.value) };
      return value;
    case 'double':
    case 'boolean':
    case 'string':
      return value;
  }
}

/** A repeated name keeps its last value; statistics have none. */
const asMap = (params: TypedParameters): ReadonlyMap<string, number | bigint | boolean | string> =>
  new Map(params.map(({ name, value }) => [name, value.value]));

/** LIST calls with need_results 0 would only count. */
const withResults = 1;

const CREATE_TIMEOUT_MS = 600_000;
const COPY_TIMEOUT_MS = 3_600_000;
/** Libvirt's own margin on top of what the guest agent is given. */
const AGENT_GRACE_MS = 10_000;

/**
 * A download is asked for in pieces of that size, the next when the last was taken: the daemon has no flow control and would
 * otherwise fill our memory. Bytes.
 */
const DOWNLOAD_SEGMENT = 16n * 1024n * 1024n;

async function unlessMissing<T>(missing: number, lookup: Promise<T>): Promise<T | undefined> {
  try {
    return await lookup;
  } catch (error) {
    if (error instanceof LibvirtError && error.code === missing) return undefined;
    throw error;
  }
}

/** libvirt's API over an open RPC connection. */
export class LibvirtClient implements Connection {
  readonly closed: Promise<Error | undefined>;
  readonly events: LibvirtEvents;
  /** The daemon finds pools by UUID, its callers know names. */
  readonly #pools = new Map<string, PoolRef>();

  constructor(
    readonly uri: string,
    private readonly driver: Driver,
    private readonly rpc: RpcConnection,
  ) {
    this.closed = rpc.ended;
    this.events = {
      domainLifecycle: rpc
        .on(events.domainLifecycle)
        .pipe(
          mergeMap(({ dom, event: number, detail }) =>
            known(domainLifecycles, number).map((event) => ({ domain: dom, event, detail })),
          ),
        ),
      jobCompleted: rpc
        .on(events.jobCompleted)
        .pipe(map(({ dom, params }) => ({ domain: dom, params: asMap(params) }))),
      migrationIteration: rpc
        .on(events.migrationIteration)
        .pipe(map(({ dom, iteration }) => ({ domain: dom, iteration }))),
      networkLifecycle: rpc
        .on(events.networkLifecycle)
        .pipe(
          mergeMap(({ net, event: number }) =>
            known(networkLifecycles, number).map((event) => ({ network: net, event })),
          ),
        ),
      poolLifecycle: rpc
        .on(events.poolLifecycle)
        .pipe(mergeMap(({ pool, event: number }) => known(poolLifecycles, number).map((event) => ({ pool, event })))),
    };
  }

  get isOpen(): boolean {
    return this.rpc.isOpen;
  }

  async close(): Promise<void> {
    await this.rpc.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Asks for all events. A driver that has none of a kind is no failure: that stream is silent. */
  async registerEvents(): Promise<void> {
    const { connectDomainEventCallbackRegisterAny: domain } = procedures;
    const { connectNetworkEventRegisterAny: network, connectStoragePoolEventRegisterAny: pool } = procedures;
    const registrations = [
      ...Object.values(domainEventId).map((event) => this.rpc.call(domain, { event, dom: undefined })),
      this.rpc.call(network, { event: lifecycleEventId, net: undefined }),
      this.rpc.call(pool, { event: lifecycleEventId, pool: undefined }),
    ];
    for (const result of await Promise.allSettled(registrations)) {
      if (result.status === 'rejected' && !(result.reason instanceof LibvirtError)) throw result.reason;
    }
  }

  async libVersion(): Promise<number> {
    const { version } = await this.rpc.call(procedures.connectGetLibVersion, undefined);
    return Number(version);
  }

  async hypervisorVersion(): Promise<number> {
    const { version } = await this.rpc.call(procedures.connectGetVersion, undefined);
    return Number(version);
  }

  async hypervisorType(): Promise<string> {
    const { type } = await this.rpc.call(procedures.connectGetType, undefined);
    return type;
  }

  async hostname(): Promise<string> {
    const { hostname } = await this.rpc.call(procedures.connectGetHostname, undefined);
    return hostname;
  }

  async capabilities(): Promise<string> {
    const { capabilities } = await this.rpc.call(procedures.connectGetCapabilities, undefined);
    return capabilities;
  }

  async domainCapabilities(arch?: string, machine?: string, virtType?: string): Promise<string> {
    const args = { emulator: undefined, arch, machine, virtType, flags: 0 };
    const { capabilities } = await this.rpc.call(procedures.connectGetDomainCapabilities, args);
    return capabilities;
  }

  async compareHypervisorCpu(
    cpu: string,
    arch?: string,
    machine?: string,
    virtType?: string,
  ): Promise<'incompatible' | 'identical' | 'superset'> {
    const args = { emulator: undefined, arch, machine, virtType, cpu, flags: 0 };
    const { result } = await this.rpc.call(procedures.connectCompareHypervisorCpu, args);
    return nameOf(cpuComparisons, result, 'comparison of CPUs');
  }

  async nodeInfo(): Promise<NodeInfo> {
    const { model, memoryKiB, cpus } = await this.rpc.call(procedures.nodeGetInfo, undefined);
    const end = model.indexOf(0);
    const name = Buffer.from(end < 0 ? model : model.slice(0, end)).toString('utf8');
    return { model: name, memoryKiB: Number(memoryKiB), cpus };
  }

  async nodeFreeMemory(): Promise<bigint> {
    const { bytes } = await this.rpc.call(procedures.nodeGetFreeMemory, undefined);
    return bytes;
  }

  async listDomains(flags = 0): Promise<DomainRef[]> {
    const { domains } = await this.rpc.call(procedures.connectListAllDomains, { needResults: withResults, flags });
    return [...domains];
  }

  async lookupDomain(uuid: string): Promise<DomainRef | undefined> {
    const found = await unlessMissing(ERR_NO_DOMAIN, this.rpc.call(procedures.domainLookupByUuid, { uuid }));
    return found?.dom;
  }

  async lookupDomainByName(name: string): Promise<DomainRef | undefined> {
    const found = await unlessMissing(ERR_NO_DOMAIN, this.rpc.call(procedures.domainLookupByName, { name }));
    return found?.dom;
  }

  async defineDomain(xml: string, flags = 0): Promise<DomainRef> {
    const { dom } = await this.rpc.call(procedures.domainDefineXmlFlags, { xml, flags });
    return dom;
  }

  async startDomain(uuid: string, flags = 0): Promise<void> {
    await this.#onDomain(procedures.domainCreateWithFlags, uuid, flags);
  }

  async shutdownDomain(uuid: string, flags = 0): Promise<void> {
    await this.#onDomain(procedures.domainShutdownFlags, uuid, flags);
  }

  async rebootDomain(uuid: string): Promise<void> {
    await this.#onDomain(procedures.domainReboot, uuid, 0);
  }

  async destroyDomain(uuid: string, flags = 0): Promise<void> {
    await this.#onDomain(procedures.domainDestroyFlags, uuid, flags);
  }

  async suspendDomain(uuid: string): Promise<void> {
    await this.rpc.call(procedures.domainSuspend, { dom: this.#domain(uuid) });
  }

  async resumeDomain(uuid: string): Promise<void> {
    await this.rpc.call(procedures.domainResume, { dom: this.#domain(uuid) });
  }

  async undefineDomain(uuid: string, flags = 0): Promise<void> {
    await this.#onDomain(procedures.domainUndefineFlags, uuid, flags);
  }

  async domainXml(uuid: string, flags = 0): Promise<string> {
    const { xml } = await this.#onDomain(procedures.domainGetXmlDesc, uuid, flags);
    return xml;
  }

  async domainState(uuid: string): Promise<DomainStatus> {
    const { state, reason } = await this.#onDomain(procedures.domainGetState, uuid, 0);
    return { state: nameOf(domainStates, state, 'domain state'), reason };
  }

  async hasManagedSave(uuid: string): Promise<boolean> {
    return (await this.#onDomain(procedures.domainHasManagedSaveImage, uuid, 0)).result;
  }

  async domainMetadata(uuid: string, namespaceUri: string, flags = 0): Promise<string | undefined> {
    const args = { dom: this.#domain(uuid), type: metadataElement, uri: namespaceUri, flags };
    const found = await unlessMissing(ERR_NO_DOMAIN_METADATA, this.rpc.call(procedures.domainGetMetadata, args));
    return found?.metadata;
  }

  async setDomainMetadata(uuid: string, xml: string, prefix: string, namespaceUri: string, flags = 0): Promise<void> {
    await this.rpc.call(procedures.domainSetMetadata, {
      dom: this.#domain(uuid),
      type: metadataElement,
      metadata: xml,
      key: prefix,
      uri: namespaceUri,
      flags,
    });
  }

  async allDomainStats(stats: number, flags = 0): Promise<DomainStats[]> {
    const { records } = await this.rpc.call(procedures.connectGetAllDomainStats, { domains: [], stats, flags });
    return records.map(({ domain, params }) => ({ domain, params: asMap(params) }));
  }

  async qemuAgentCommand(uuid: string, command: string, timeoutSeconds: number): Promise<string> {
    // -2 blocks until the guest answers, -1 is libvirt's default, 0 does not wait.
    const deadline = timeoutSeconds > 0 ? timeoutSeconds * 1000 + AGENT_GRACE_MS : undefined;
    const args = { dom: this.#domain(uuid), command, timeoutSeconds, flags: 0 };
    const { result } = await this.rpc.call(procedures.qemuDomainAgentCommand, args, deadline);
    return result ?? '';
  }

  async openConsole(uuid: string, device?: string, flags = 0): Promise<ConsoleStream> {
    return consoleOf(
      await this.rpc.openStream(procedures.domainOpenConsole, { dom: this.#domain(uuid), device, flags }),
    );
  }

  async jobStats(uuid: string, flags = 0): Promise<JobStats> {
    const { type, params } = await this.#onDomain(procedures.domainGetJobStats, uuid, flags);
    return { type: nameOf(jobTypes, type, 'job type'), params: asMap(params) };
  }

  async abortJob(uuid: string, flags = 0): Promise<void> {
    await this.#onDomain(procedures.domainAbortJobFlags, uuid, flags);
  }

  async migrateToUri(
    uuid: string,
    destinationUri: string | undefined,
    params: TypedParameters,
    flags: number,
    options: CallOptions = {},
  ): Promise<void> {
    const args = {
      dom: this.#domain(uuid),
      destinationUri,
      params: params.map(({ name, value }) => ({ name, value: asLibvirtWants(name, value) })),
      cookie: new Uint8Array(),
      flags,
    };
    await this.rpc.call(procedures.domainMigratePerform3Params, args, options.timeoutMs ?? 'none', options.signal);
  }

  async setMigrationSpeed(uuid: string, mibPerSecond: number): Promise<void> {
    const args = { dom: this.#domain(uuid), mibPerSecond: BigInt(mibPerSecond), flags: 0 };
    await this.rpc.call(procedures.domainMigrateSetMaxSpeed, args);
  }

  async setMigrationMaxDowntime(uuid: string, milliseconds: number): Promise<void> {
    const args = { dom: this.#domain(uuid), milliseconds: BigInt(milliseconds), flags: 0 };
    await this.rpc.call(procedures.domainMigrateSetMaxDowntime, args);
  }

  async startPostCopy(uuid: string): Promise<void> {
    await this.#onDomain(procedures.domainMigrateStartPostCopy, uuid, 0);
  }

  async blockJob(uuid: string, disk: string): Promise<BlockJob | undefined> {
    const args = { dom: this.#domain(uuid), path: disk, flags: 0 };
    const { found, type, current, end } = await this.rpc.call(procedures.domainGetBlockJobInfo, args);
    return found ? { type: nameOf(blockJobTypes, type, 'block job type'), current, end } : undefined;
  }

  async pullBlocks(uuid: string, disk: string, mibPerSecond: number): Promise<void> {
    const args = { dom: this.#domain(uuid), path: disk, bandwidth: BigInt(mibPerSecond), flags: 0 };
    await this.rpc.call(procedures.domainBlockPull, args);
  }

  async abortBlockJob(uuid: string, disk: string, flags = 0): Promise<void> {
    await this.rpc.call(procedures.domainBlockJobAbort, { dom: this.#domain(uuid), path: disk, flags });
  }

  async listNetworks(flags = 0): Promise<NetworkRef[]> {
    const { networks } = await this.rpc.call(procedures.connectListAllNetworks, { needResults: withResults, flags });
    return [...networks];
  }

  async lookupNetworkByName(name: string): Promise<NetworkRef | undefined> {
    const found = await unlessMissing(ERR_NO_NETWORK, this.rpc.call(procedures.networkLookupByName, { name }));
    return found?.net;
  }

  async lookupNetwork(uuid: string): Promise<NetworkRef | undefined> {
    const found = await unlessMissing(ERR_NO_NETWORK, this.rpc.call(procedures.networkLookupByUuid, { uuid }));
    return found?.net;
  }

  async defineNetwork(xml: string): Promise<NetworkRef> {
    const { net } = await this.rpc.call(procedures.networkDefineXml, { xml });
    return net;
  }

  async startNetwork(uuid: string): Promise<void> {
    await this.rpc.call(procedures.networkCreate, { net: await this.#network(uuid) });
  }

  async destroyNetwork(uuid: string): Promise<void> {
    await this.rpc.call(procedures.networkDestroy, { net: await this.#network(uuid) });
  }

  async undefineNetwork(uuid: string): Promise<void> {
    await this.rpc.call(procedures.networkUndefine, { net: await this.#network(uuid) });
  }

  async networkXml(uuid: string, flags = 0): Promise<string> {
    const { xml } = await this.rpc.call(procedures.networkGetXmlDesc, { net: await this.#network(uuid), flags });
    return xml;
  }

  async networkIsActive(uuid: string): Promise<boolean> {
    const { active } = await this.rpc.call(procedures.networkIsActive, { net: await this.#network(uuid) });
    return active;
  }

  async networkAutostart(uuid: string): Promise<boolean> {
    const { autostart } = await this.rpc.call(procedures.networkGetAutostart, { net: await this.#network(uuid) });
    return autostart;
  }

  async setNetworkAutostart(uuid: string, on: boolean): Promise<void> {
    await this.rpc.call(procedures.networkSetAutostart, { net: await this.#network(uuid), autostart: on });
  }

  async listPools(flags = 0): Promise<PoolRef[]> {
    const { pools } = await this.rpc.call(procedures.connectListAllStoragePools, { needResults: withResults, flags });
    for (const pool of pools) this.#pools.set(pool.name, pool);
    return [...pools];
  }

  async lookupPool(name: string): Promise<PoolRef | undefined> {
    return unlessMissing(ERR_NO_STORAGE_POOL, this.#findPool(name));
  }

  async definePool(xml: string): Promise<PoolRef> {
    const { pool } = await this.rpc.call(procedures.storagePoolDefineXml, { xml, flags: 0 });
    this.#pools.set(pool.name, pool);
    return pool;
  }

  async buildPool(name: string, flags = 0): Promise<void> {
    await this.#onPool(name, (pool) => this.rpc.call(procedures.storagePoolBuild, { pool, flags }));
  }

  async startPool(name: string): Promise<void> {
    await this.#onPool(name, (pool) => this.rpc.call(procedures.storagePoolCreate, { pool, flags: 0 }));
  }

  async destroyPool(name: string): Promise<void> {
    await this.#onPool(name, (pool) => this.rpc.call(procedures.storagePoolDestroy, { pool }));
  }

  async undefinePool(name: string): Promise<void> {
    await this.#onPool(name, (pool) => this.rpc.call(procedures.storagePoolUndefine, { pool }));
    this.#pools.delete(name);
  }

  async refreshPool(name: string): Promise<void> {
    await this.#onPool(name, (pool) => this.rpc.call(procedures.storagePoolRefresh, { pool, flags: 0 }));
  }

  async poolInfo(name: string): Promise<PoolInfo> {
    const { state, capacity, allocation, available } = await this.#onPool(name, (pool) =>
      this.rpc.call(procedures.storagePoolGetInfo, { pool }),
    );
    return {
      state: nameOf(poolStates, state, 'pool state'),
      capacityBytes: capacity,
      allocationBytes: allocation,
      availableBytes: available,
    };
  }

  async poolXml(name: string): Promise<string> {
    const { xml } = await this.#onPool(name, (pool) =>
      this.rpc.call(procedures.storagePoolGetXmlDesc, { pool, flags: 0 }),
    );
    return xml;
  }

  async listVolumes(name: string): Promise<VolumeRef[]> {
    const { volumes } = await this.#onPool(name, (pool) =>
      this.rpc.call(procedures.storagePoolListAllVolumes, { pool, needResults: withResults, flags: 0 }),
    );
    return [...volumes];
  }

  async lookupVolume(poolName: string, name: string): Promise<VolumeRef | undefined> {
    const found = await unlessMissing(
      ERR_NO_STORAGE_VOL,
      this.#onPool(poolName, (pool) => this.rpc.call(procedures.storageVolLookupByName, { pool, name })),
    );
    return found?.vol;
  }

  async createVolume(name: string, xml: string, flags = 0, options: CallOptions = {}): Promise<VolumeRef> {
    const { vol } = await this.#onPool(name, (pool) =>
      this.rpc.call(procedures.storageVolCreateXml, { pool, xml, flags }, options.timeoutMs ?? CREATE_TIMEOUT_MS),
    );
    return vol;
  }

  async createVolumeFrom(
    name: string,
    xml: string,
    source: VolumeRef,
    flags = 0,
    options: CallOptions = {},
  ): Promise<VolumeRef> {
    const deadline: Deadline = options.timeoutMs ?? COPY_TIMEOUT_MS;
    const { vol } = await this.#onPool(name, (pool) =>
      this.rpc.call(procedures.storageVolCreateXmlFrom, { pool, xml, source, flags }, deadline),
    );
    return vol;
  }

  async deleteVolume(pool: string, name: string, flags = 0): Promise<void> {
    await this.rpc.call(procedures.storageVolDelete, { vol: volume(pool, name), flags });
  }

  async resizeVolume(pool: string, name: string, capacityBytes: bigint, flags = 0): Promise<void> {
    const args = { vol: volume(pool, name), capacity: capacityBytes, flags };
    await this.rpc.call(procedures.storageVolResize, args);
  }

  async volumeInfo(pool: string, name: string): Promise<VolumeInfo> {
    const { type, capacity, allocation } = await this.rpc.call(procedures.storageVolGetInfo, {
      vol: volume(pool, name),
    });
    return {
      type: nameOf(volumeTypes, type, 'volume type'),
      capacityBytes: capacity,
      allocationBytes: allocation,
    };
  }

  async volumeXml(pool: string, name: string): Promise<string> {
    const { xml } = await this.rpc.call(procedures.storageVolGetXmlDesc, { vol: volume(pool, name), flags: 0 });
    return xml;
  }

  async uploadVolume(
    pool: string,
    name: string,
    source: AsyncIterable<Uint8Array>,
    range: { offset?: bigint; length?: bigint } = {},
  ): Promise<void> {
    const { offset = 0n, length = 0n } = range;
    await withStream(
      this.rpc.openStream(procedures.storageVolUpload, { vol: volume(pool, name), offset, length, flags: 0 }),
      async (stream) => {
        for await (const bytes of source) await stream.write(bytes);
      },
    );
  }

  async *downloadVolume(
    pool: string,
    name: string,
    range: { offset?: bigint; length?: bigint } = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    let offset = range.offset ?? 0n;
    // 0 or none: to the end, as in libvirt.
    const end = range.length === undefined || range.length === 0n ? undefined : offset + range.length;
    while (end === undefined || offset < end) {
      const wanted = end === undefined || end - offset > DOWNLOAD_SEGMENT ? DOWNLOAD_SEGMENT : end - offset;
      let got = 0n;
      for await (const bytes of this.#segment(pool, name, offset, wanted)) {
        got += BigInt(bytes.length);
        yield bytes;
      }
      if (got < wanted) return;
      offset += got;
    }
  }

  async *#segment(pool: string, name: string, offset: bigint, length: bigint): AsyncGenerator<Buffer, void, undefined> {
    const args = { vol: volume(pool, name), offset, length, flags: 0 };
    const stream = await this.rpc.openStream(procedures.storageVolDownload, args);
    let ended = false;
    try {
      for (let bytes = await stream.read(this.rpc.callTimeoutMs); bytes !== undefined;) {
        yield bytes;
        bytes = await stream.read(this.rpc.callTimeoutMs);
      }
      ended = true;
      await stream.finish();
    } finally {
      if (!ended) await stream.abort();
    }
  }

  /** The daemon finds machines by UUID alone; the name only shows up in its messages, the id is never looked at. */
  #domain(uuid: string): DomainRef {
    return { name: uuid, uuid, id: -1 };
  }

  #onDomain<R>(procedure: Procedure<{ dom: DomainRef; flags: number }, R>, uuid: string, flags: number): Promise<R> {
    return this.rpc.call(procedure, { dom: this.#domain(uuid), flags });
  }

  /** The daemon finds networks by UUID alone, but for the test driver, which goes by name. */
  async #network(uuid: string): Promise<NetworkRef> {
    if (this.driver !== 'test') return { name: uuid, uuid };
    const { net } = await this.rpc.call(procedures.networkLookupByUuid, { uuid });
    return net;
  }

  async #findPool(name: string): Promise<PoolRef> {
    const { pool } = await this.rpc.call(procedures.storagePoolLookupByName, { name });
    this.#pools.set(name, pool);
    return pool;
  }

  /** A remembered pool may have been made anew under another UUID; then nothing was done yet and it is looked up again. */
  async #onPool<R>(name: string, work: (pool: PoolRef) => Promise<R>): Promise<R> {
    const known = this.#pools.get(name);
    if (known === undefined) return work(await this.#findPool(name));
    try {
      return await work(known);
    } catch (error) {
      if (!(error instanceof LibvirtError) || error.code !== ERR_NO_STORAGE_POOL) throw error;
      this.#pools.delete(name);
      return work(await this.#findPool(name));
    }
  }
}

/** Volumes are found by the names of pool and volume; the key only has to be there. */
const volume = (pool: string, name: string): VolumeRef => ({ pool, name, key: name });

/** Finishes the stream after the work, or aborts it when that fails. */
async function withStream(opening: Promise<RpcStream>, work: (stream: RpcStream) => Promise<void>): Promise<void> {
  const stream = await opening;
  try {
    await work(stream);
  } catch (error) {
    await stream.abort();
    throw error;
  }
  await stream.finish();
}
