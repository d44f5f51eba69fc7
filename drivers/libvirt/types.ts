import type { Duplex } from 'node:stream';
import type { Observable } from 'rxjs';

/** Client certificate, its key and the CA that signed the daemon's certificate, PEM. */
export interface TlsMaterial {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

export interface ConnectOptions {
  readonly tls?: TlsMaterial;
  /** Until the connection is open (TCP, TLS, authentication, CONNECT_OPEN). Default 10 s. */
  readonly connectTimeoutMs?: number;
  /** The deadline of a call that names none. Default 30 s. */
  readonly callTimeoutMs?: number;
  /** The daemon is pinged when silent for intervalMs and given up after count unanswered pings. Default 5 s, 2. */
  readonly keepalive?: { readonly intervalMs: number; readonly count: number };
  /**
   * Calls that the daemon holds at a time, the rest waits here in order. Default 4: one less than libvirtd's
   * max_client_requests, for at that many it reads no further and our pings would go unanswered.
   */
  readonly maxCallsInFlight?: number;
  /** Ends the attempt to connect, and later the connection. */
  readonly signal?: AbortSignal;
  /** Asked right before a call is sent that changes something; what it throws, the call fails with, unsent. */
  readonly assertMayChange?: () => void;
}

export interface CallOptions {
  readonly timeoutMs?: number;
  /** Takes the call back while it waits here; once it was sent, this does nothing. */
  readonly signal?: AbortSignal;
}

/** virDomainState. */
export type DomainState =
  'nostate' | 'running' | 'blocked' | 'paused' | 'shutdown' | 'shutoff' | 'crashed' | 'pmsuspended';

/** State with libvirt's reason code (virDomainRunningReason, virDomainPausedReason, virDomainShutoffReason …). */
export interface DomainStatus {
  readonly state: DomainState;
  readonly reason: number;
}

/** What libvirt calls a domain handle. id is -1 while it does not run. */
export interface DomainRef {
  readonly name: string;
  readonly uuid: string;
  readonly id: number;
}

export interface NetworkRef {
  readonly name: string;
  readonly uuid: string;
}

export interface PoolRef {
  readonly name: string;
  readonly uuid: string;
}

export interface VolumeRef {
  readonly pool: string;
  readonly name: string;
  /** The volume's path on the host. */
  readonly key: string;
}

export interface NodeInfo {
  readonly model: string;
  readonly memoryKiB: number;
  readonly cpus: number;
}

export interface PoolInfo {
  readonly state: 'inactive' | 'building' | 'running' | 'degraded' | 'inaccessible';
  readonly capacityBytes: bigint;
  readonly allocationBytes: bigint;
  readonly availableBytes: bigint;
}

export interface VolumeInfo {
  readonly type: 'file' | 'block' | 'dir' | 'network' | 'netdir' | 'ploop';
  readonly capacityBytes: bigint;
  readonly allocationBytes: bigint;
}

/** A typed parameter's value; the type on the wire is chosen by the parameter's name where libvirt fixes it. */
export type TypedValue =
  | { readonly type: 'int' | 'uint' | 'double'; readonly value: number }
  | { readonly type: 'llong' | 'ullong'; readonly value: bigint }
  | { readonly type: 'boolean'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string };

/** Name to value(s); a name may repeat (migrate_disks), hence the list. */
export type TypedParameters = readonly { readonly name: string; readonly value: TypedValue }[];

/** One domain of CONNECT_GET_ALL_DOMAIN_STATS: e.g. state.state, balloon.current, vcpu.current. */
export interface DomainStats {
  readonly domain: DomainRef;
  readonly params: ReadonlyMap<string, number | bigint | boolean | string>;
}

/** virDomainGetJobStats. type none means: no job (or, with completed, none on record). */
export interface JobStats {
  readonly type: 'none' | 'bounded' | 'unbounded' | 'completed' | 'failed' | 'cancelled';
  readonly params: ReadonlyMap<string, number | bigint | boolean | string>;
}

/** virDomainGetBlockJobInfo: what QEMU does with a disk beside the guest's own reads and writes; current and end are in bytes, and end may grow. */
export interface BlockJob {
  readonly type: 'unknown' | 'pull' | 'copy' | 'commit' | 'activeCommit' | 'backup';
  readonly current: bigint;
  readonly end: bigint;
}

/** What changes between reads; a lost event is made good by the next read, a lost connection ends the streams. */
export interface LibvirtEvents {
  /** VIR_DOMAIN_EVENT_ID_LIFECYCLE: event defined|undefined|started|suspended|resumed|stopped|shutdown|pmsuspended|crashed. */
  readonly domainLifecycle: Observable<{ domain: DomainRef; event: DomainLifecycle; detail: number }>;
  /** VIR_DOMAIN_EVENT_ID_JOB_COMPLETED. */
  readonly jobCompleted: Observable<{ domain: DomainRef; params: JobStats['params'] }>;
  /** VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION. */
  readonly migrationIteration: Observable<{ domain: DomainRef; iteration: number }>;
  /** VIR_NETWORK_EVENT_ID_LIFECYCLE. */
  readonly networkLifecycle: Observable<{
    network: NetworkRef;
    event: 'defined' | 'undefined' | 'started' | 'stopped';
  }>;
  /** VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE. */
  readonly poolLifecycle: Observable<{ pool: PoolRef; event: string }>;
}

export type DomainLifecycle =
  'defined' | 'undefined' | 'started' | 'suspended' | 'resumed' | 'stopped' | 'shutdown' | 'pmsuspended' | 'crashed';

/** A bidirectional byte stream (a console). Ends when the guest does; destroy() aborts it. */
export type ConsoleStream = Duplex;

/**
 * One connection to one libvirt daemon. Calls are pipelined; a call fails with LibvirtError (the daemon's own error, code
 * and domain kept), LibvirtTimeoutError or LibvirtConnectionError (closed; every waiter gets it). Nothing is retried.
 * Objects are looked up by UUID or name in each call, so no handle outlives what it names.
 * Names follow libvirt's C API (https://libvirt.org/html/index.html), the flags are its numbers (see constants.ts).
 */
export interface Connection extends AsyncDisposable {
  readonly uri: string;
  readonly isOpen: boolean;
  /** Resolves once, when the connection has ended: with the cause, or undefined after close(). Never rejects. */
  readonly closed: Promise<Error | undefined>;
  readonly events: LibvirtEvents;
  close(): Promise<void>;

  /** e.g. 9000000 for 9.0.0 */
  libVersion(): Promise<number>;
  hypervisorVersion(): Promise<number>;
  hypervisorType(): Promise<string>;
  hostname(): Promise<string>;
  capabilities(): Promise<string>;
  domainCapabilities(arch?: string, machine?: string, virtType?: string): Promise<string>;
  /** virConnectCompareHypervisorCPU: what this host can offer a guest, compared with a <cpu> element. */
  compareHypervisorCpu(
    cpu: string,
    arch?: string,
    machine?: string,
    virtType?: string,
  ): Promise<'incompatible' | 'identical' | 'superset'>;
  nodeInfo(): Promise<NodeInfo>;
  /** Bytes. */
  nodeFreeMemory(): Promise<bigint>;

  listDomains(flags?: number): Promise<DomainRef[]>;
  lookupDomain(uuid: string): Promise<DomainRef | undefined>;
  lookupDomainByName(name: string): Promise<DomainRef | undefined>;
  defineDomain(xml: string, flags?: number): Promise<DomainRef>;
  startDomain(uuid: string, flags?: number): Promise<void>;
  /** virDomainShutdownFlagValues; 0 leaves the way to the driver. */
  shutdownDomain(uuid: string, flags?: number): Promise<void>;
  rebootDomain(uuid: string): Promise<void>;
  destroyDomain(uuid: string, flags?: number): Promise<void>;
  suspendDomain(uuid: string): Promise<void>;
  resumeDomain(uuid: string): Promise<void>;
  undefineDomain(uuid: string, flags?: number): Promise<void>;
  domainXml(uuid: string, flags?: number): Promise<string>;
  domainState(uuid: string): Promise<DomainStatus>;
  /** Whether its next start goes on with memory that was saved (virsh managedsave). */
  hasManagedSave(uuid: string): Promise<boolean>;
  /** The <metadata> element of that namespace, or undefined. */
  domainMetadata(uuid: string, namespaceUri: string, flags?: number): Promise<string | undefined>;
  setDomainMetadata(uuid: string, xml: string, prefix: string, namespaceUri: string, flags?: number): Promise<void>;
  /** All domains with their statistics in one call (virDomainStatsTypes mask, virConnectGetAllDomainStatsFlags). */
  allDomainStats(stats: number, flags?: number): Promise<DomainStats[]>;
  qemuAgentCommand(uuid: string, command: string, timeoutSeconds: number): Promise<string>;
  openConsole(uuid: string, device?: string, flags?: number): Promise<ConsoleStream>;

  jobStats(uuid: string, flags?: number): Promise<JobStats>;
  /**
   * virDomainAbortJobFlags. A migration in post-copy can't be aborted (OPERATION_INVALID); DOMAIN_ABORT_JOB_POSTCOPY breaks it off, at its
   * source, so that it can be resumed over another connection.
   */
  abortJob(uuid: string, flags?: number): Promise<void>;
  /**
   * virDomainMigrateToURI3: with VIR_MIGRATE_PEER2PEER the daemon moves the machine itself and this one call lasts as long
   * as the move (no deadline unless given).
   */
  migrateToUri(
    uuid: string,
    destinationUri: string | undefined,
    params: TypedParameters,
    flags: number,
    options?: CallOptions,
  ): Promise<void>;
  setMigrationSpeed(uuid: string, mibPerSecond: number): Promise<void>;
  setMigrationMaxDowntime(uuid: string, milliseconds: number): Promise<void>;
  startPostCopy(uuid: string): Promise<void>;

  /** Of a running domain's disk, by its target's name; undefined: none. */
  blockJob(uuid: string, disk: string): Promise<BlockJob | undefined>;
  /** virDomainBlockPull: begins to read into the disk what it lacks of all that it stands on. mibPerSecond 0: no limit. */
  pullBlocks(uuid: string, disk: string, mibPerSecond: number): Promise<void>;
  /** virDomainBlockJobAbort; what a pull has read stays. With DOMAIN_BLOCK_JOB_ABORT_ASYNC it is not waited for. */
  abortBlockJob(uuid: string, disk: string, flags?: number): Promise<void>;

  listNetworks(flags?: number): Promise<NetworkRef[]>;
  lookupNetworkByName(name: string): Promise<NetworkRef | undefined>;
  lookupNetwork(uuid: string): Promise<NetworkRef | undefined>;
  defineNetwork(xml: string): Promise<NetworkRef>;
  startNetwork(uuid: string): Promise<void>;
  destroyNetwork(uuid: string): Promise<void>;
  undefineNetwork(uuid: string): Promise<void>;
  networkXml(uuid: string, flags?: number): Promise<string>;
  networkIsActive(uuid: string): Promise<boolean>;
  networkAutostart(uuid: string): Promise<boolean>;
  setNetworkAutostart(uuid: string, on: boolean): Promise<void>;

  listPools(flags?: number): Promise<PoolRef[]>;
  lookupPool(name: string): Promise<PoolRef | undefined>;
  definePool(xml: string): Promise<PoolRef>;
  buildPool(name: string, flags?: number): Promise<void>;
  startPool(name: string): Promise<void>;
  destroyPool(name: string): Promise<void>;
  undefinePool(name: string): Promise<void>;
  refreshPool(name: string): Promise<void>;
  poolInfo(name: string): Promise<PoolInfo>;
  poolXml(name: string): Promise<string>;

  listVolumes(pool: string): Promise<VolumeRef[]>;
  lookupVolume(pool: string, name: string): Promise<VolumeRef | undefined>;
  /** May write the whole volume (preallocation): 10 min unless given. */
  createVolume(pool: string, xml: string, flags?: number, options?: CallOptions): Promise<VolumeRef>;
  /** Copies the source: 1 h unless given. */
  createVolumeFrom(
    pool: string,
    xml: string,
    source: VolumeRef,
    flags?: number,
    options?: CallOptions,
  ): Promise<VolumeRef>;
  deleteVolume(pool: string, name: string, flags?: number): Promise<void>;
  resizeVolume(pool: string, name: string, capacityBytes: bigint, flags?: number): Promise<void>;
  volumeInfo(pool: string, name: string): Promise<VolumeInfo>;
  volumeXml(pool: string, name: string): Promise<string>;
  /** Writes the source into the volume from offset; resolves when the daemon has it all. Back-pressure is kept. */
  uploadVolume(
    pool: string,
    name: string,
    source: AsyncIterable<Uint8Array>,
    range?: { offset?: bigint; length?: bigint },
  ): Promise<void>;
  downloadVolume(pool: string, name: string, range?: { offset?: bigint; length?: bigint }): AsyncIterable<Uint8Array>;
}
