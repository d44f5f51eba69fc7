import {
  array,
  double,
  fixedArray,
  fixedOpaque,
  flags,
  hyper,
  int,
  mapped,
  nothing,
  opaque,
  optional,
  string,
  struct,
  truth,
  uhyper,
  uint,
  type Codec,
  type XdrReader,
  type XdrWriter,
} from './xdr.js';
import { LibvirtProtocolError } from './errors.js';
import type { DomainRef, NetworkRef, PoolRef, TypedParameters, TypedValue, VolumeRef } from './types.js';

/**
 * The part of libvirt's protocol that this client speaks, as a table. Numbers and layouts are those of libvirt's
 * remote_protocol.x, qemu_protocol.x and virnetprotocol.x; a number never changes its layout.
 */

/** A program and the only version of it that there is. */
export interface Program {
  readonly id: number;
  readonly version: number;
}

export const remoteProgram: Program = { id: 0x2000_8086, version: 1 };
export const qemuProgram: Program = { id: 0x2000_8087, version: 1 };
export const keepaliveProgram: Program = { id: 0x6b65_6570, version: 1 };

export const keepalivePing = 1;
export const keepalivePong = 2;

export interface Procedure<A, R> {
  readonly name: string;
  /** Whether it only asks: what is there is the same afterwards. */
  readonly asks: boolean;
  readonly program: Program;
  readonly number: number;
  readonly args: Codec<A>;
  readonly result: Codec<R>;
}

/** A message that the daemon sends unasked once it is registered for. */
export interface EventMessage<T> {
  readonly program: Program;
  readonly number: number;
  readonly body: Codec<T>;
}

const MAX_STRING = 4_194_304;
const MAX_LIST = 16_384;
const MAX_STATS = 262_144;
const MAX_JOB_PARAMS = 64;
const MAX_COOKIE = 4_194_304;
const MAX_AUTH_TYPES = 20;

const text = string(MAX_STRING);
const optionalText = optional(text);

const UUID = /^([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})$/i;

/** The textual form, lower case with dashes. */
const uuid: Codec<string> = mapped(
  fixedOpaque(16),
  (value) => {
    if (!UUID.test(value)) throw new LibvirtProtocolError(`'${value}' is not a UUID`);
    return Buffer.from(value.replaceAll('-', ''), 'hex');
  },
  (bytes) => Buffer.from(bytes).toString('hex').replace(UUID, '$1-$2-$3-$4-$5'),
);

export const domainRef = struct<DomainRef>({ name: text, uuid, id: int });
const networkRef = struct<NetworkRef>({ name: text, uuid });
const poolRef = struct<PoolRef>({ name: text, uuid });
const volumeRef = struct<VolumeRef>({ pool: text, name: text, key: text });

const typedInt = 1;
const typedUint = 2;
const typedLlong = 3;
const typedUllong = 4;
const typedDouble = 5;
const typedBoolean = 6;
const typedString = 7;

const typedValue: Codec<TypedValue> = {
  encode(writer: XdrWriter, value: TypedValue): void {
    switch (value.type) {
      case 'int':
        int.encode(writer, typedInt);
        {
          int.encode(writer, value.value);
          return;
        }
      case 'uint':
        int.encode(writer, typedUint);
        {
          uint.encode(writer, value.value);
          return;
        }
      case 'llong':
        int.encode(writer, typedLlong);
        {
          hyper.encode(writer, value.value);
          return;
        }
      case 'ullong':
        int.encode(writer, typedUllong);
        {
          uhyper.encode(writer, value.value);
          return;
        }
      case 'double':
        int.encode(writer, typedDouble);
        {
          double.encode(writer, value.value);
          return;
        }
      case 'boolean':
        int.encode(writer, typedBoolean);
        {
          truth.encode(writer, value.value);
          return;
        }
      case 'string':
        int.encode(writer, typedString);
        {
          text.encode(writer, value.value);
          return;
        }
    }
  },
  decode(reader: XdrReader): TypedValue {
    const type = int.decode(reader);
    switch (type) {
      case typedInt:
        return { type: 'int', value: int.decode(reader) };
      case typedUint:
        return { type: 'uint', value: uint.decode(reader) };
      case typedLlong:
        return { type: 'llong', value: hyper.decode(reader) };
      case typedUllong:
        return { type: 'ullong', value: uhyper.decode(reader) };
      case typedDouble:
        return { type: 'double', value: double.decode(reader) };
      case typedBoolean:
        return { type: 'boolean', value: truth.decode(reader) };
      case typedString:
        return { type: 'string', value: text.decode(reader) };
      default:
        throw new LibvirtProtocolError(`unknown discriminant ${type} of a typed parameter`);
    }
  },
};

export const typedParameters = (max: number): Codec<TypedParameters> =>
  array(struct({ name: text, value: typedValue }), max);

/** virNetMessageError: the payload of a reply with status error. */
export const errorBody = struct({
  code: int,
  domain: int,
  message: optionalText,
  level: int,
  dom: optional(domainRef),
  str1: optionalText,
  str2: optionalText,
  str3: optionalText,
  int1: int,
  int2: int,
  net: optional(networkRef),
});

/** How libvirt names what only asks; a name that is not among these is taken for a change. */
const asking = /^(AUTH|CONNECT|NODE)_|_(GET|LOOKUP|LIST|IS|HAS)_|^STORAGE_POOL_REFRESH$|^STORAGE_VOL_DOWNLOAD$/;

const remote = <A, R>(number: number, name: string, args: Codec<A>, result: Codec<R>): Procedure<A, R> => ({
  name,
  asks: asking.test(name),
  program: remoteProgram,
  number,
  args,
  result,
});

const event = <T>(number: number, body: Codec<T>): EventMessage<T> => ({ program: remoteProgram, number, body });

const domain = struct({ dom: domainRef });
const domainFlags = struct({ dom: domainRef, flags });
const network = struct({ net: networkRef });
const pool = struct({ pool: poolRef });
const poolFlags = struct({ pool: poolRef, flags });
const volumeFlags = struct({ vol: volumeRef, flags });
const xmlFlags = struct({ xml: text, flags });
const listing = struct({ needResults: int, flags });
const transfer = struct({ vol: volumeRef, offset: uhyper, length: uhyper, flags });

export const procedures = {
  connectOpen: remote(1, 'CONNECT_OPEN', struct({ name: optionalText, flags }), nothing),
  connectClose: remote(2, 'CONNECT_CLOSE', nothing, nothing),
  connectGetType: remote(3, 'CONNECT_GET_TYPE', nothing, struct({ type: text })),
  connectGetVersion: remote(4, 'CONNECT_GET_VERSION', nothing, struct({ version: uhyper })),
  nodeGetInfo: remote(
    6,
    'NODE_GET_INFO',
    nothing,
    struct({
      // char[32]: XDR gives each char four bytes.
      model: fixedArray(int, 32),
      memoryKiB: uhyper,
      cpus: int,
      mhz: int,
      nodes: int,
      sockets: int,
      cores: int,
      threads: int,
    }),
  ),
  connectGetCapabilities: remote(7, 'CONNECT_GET_CAPABILITIES', nothing, struct({ capabilities: text })),
  domainGetXmlDesc: remote(14, 'DOMAIN_GET_XML_DESC', domainFlags, struct({ xml: text })),
  domainLookupByName: remote(23, 'DOMAIN_LOOKUP_BY_NAME', struct({ name: text }), domain),
  domainLookupByUuid: remote(24, 'DOMAIN_LOOKUP_BY_UUID', struct({ uuid }), domain),
  domainReboot: remote(27, 'DOMAIN_REBOOT', domainFlags, nothing),
  domainResume: remote(28, 'DOMAIN_RESUME', domain, nothing),
  domainSuspend: remote(34, 'DOMAIN_SUSPEND', domain, nothing),
  networkCreate: remote(39, 'NETWORK_CREATE', network, nothing),
  networkDefineXml: remote(41, 'NETWORK_DEFINE_XML', struct({ xml: text }), network),
  networkDestroy: remote(42, 'NETWORK_DESTROY', network, nothing),
  networkGetXmlDesc: remote(43, 'NETWORK_GET_XML_DESC', struct({ net: networkRef, flags }), struct({ xml: text })),
  networkGetAutostart: remote(44, 'NETWORK_GET_AUTOSTART', network, struct({ autostart: truth })),
  networkLookupByName: remote(46, 'NETWORK_LOOKUP_BY_NAME', struct({ name: text }), network),
  networkLookupByUuid: remote(47, 'NETWORK_LOOKUP_BY_UUID', struct({ uuid }), network),
  networkSetAutostart: remote(48, 'NETWORK_SET_AUTOSTART', struct({ net: networkRef, autostart: truth }), nothing),
  networkUndefine: remote(49, 'NETWORK_UNDEFINE', network, nothing),
  connectGetHostname: remote(59, 'CONNECT_GET_HOSTNAME', nothing, struct({ hostname: text })),
  connectSupportsFeature: remote(
    60,
    'CONNECT_SUPPORTS_FEATURE',
    struct({ feature: int }),
    struct({ supported: truth }),
  ),
  authList: remote(66, 'AUTH_LIST', nothing, struct({ types: array(int, MAX_AUTH_TYPES) })),
  storagePoolDefineXml: remote(77, 'STORAGE_POOL_DEFINE_XML', xmlFlags, pool),
  storagePoolCreate: remote(78, 'STORAGE_POOL_CREATE', poolFlags, nothing),
  storagePoolBuild: remote(79, 'STORAGE_POOL_BUILD', poolFlags, nothing),
  storagePoolDestroy: remote(80, 'STORAGE_POOL_DESTROY', pool, nothing),
  storagePoolUndefine: remote(82, 'STORAGE_POOL_UNDEFINE', pool, nothing),
  storagePoolRefresh: remote(83, 'STORAGE_POOL_REFRESH', poolFlags, nothing),
  storagePoolLookupByName: remote(84, 'STORAGE_POOL_LOOKUP_BY_NAME', struct({ name: text }), pool),
  storagePoolGetInfo: remote(
    87,
    'STORAGE_POOL_GET_INFO',
    pool,
    struct({ state: int, capacity: uhyper, allocation: uhyper, available: uhyper }),
  ),
  storagePoolGetXmlDesc: remote(88, 'STORAGE_POOL_GET_XML_DESC', poolFlags, struct({ xml: text })),
  storageVolCreateXml: remote(
    93,
    'STORAGE_VOL_CREATE_XML',
    struct({ pool: poolRef, xml: text, flags }),
    struct({ vol: volumeRef }),
  ),
  storageVolDelete: remote(94, 'STORAGE_VOL_DELETE', volumeFlags, nothing),
  storageVolLookupByName: remote(
    95,
    'STORAGE_VOL_LOOKUP_BY_NAME',
    struct({ pool: poolRef, name: text }),
    struct({ vol: volumeRef }),
  ),
  storageVolGetInfo: remote(
    98,
    'STORAGE_VOL_GET_INFO',
    struct({ vol: volumeRef }),
    struct({ type: int, capacity: uhyper, allocation: uhyper }),
  ),
  storageVolGetXmlDesc: remote(99, 'STORAGE_VOL_GET_XML_DESC', volumeFlags, struct({ xml: text })),
  nodeGetFreeMemory: remote(102, 'NODE_GET_FREE_MEMORY', nothing, struct({ bytes: uhyper })),
  storageVolCreateXmlFrom: remote(
    125,
    'STORAGE_VOL_CREATE_XML_FROM',
    struct({ pool: poolRef, xml: text, source: volumeRef, flags }),
    struct({ vol: volumeRef }),
  ),
  networkIsActive: remote(152, 'NETWORK_IS_ACTIVE', network, struct({ active: truth })),
  connectGetLibVersion: remote(157, 'CONNECT_GET_LIB_VERSION', nothing, struct({ version: uhyper })),
  domainMigrateSetMaxDowntime: remote(
    166,
    'DOMAIN_MIGRATE_SET_MAX_DOWNTIME',
    struct({ dom: domainRef, milliseconds: uhyper, flags }),
    nothing,
  ),
  domainHasManagedSaveImage: remote(183, 'DOMAIN_HAS_MANAGED_SAVE_IMAGE', domainFlags, struct({ result: truth })),
  domainCreateWithFlags: remote(196, 'DOMAIN_CREATE_WITH_FLAGS', domainFlags, domain),
  domainOpenConsole: remote(
    201,
    'DOMAIN_OPEN_CONSOLE',
    struct({ dom: domainRef, device: optionalText, flags }),
    nothing,
  ),
  domainMigrateSetMaxSpeed: remote(
    207,
    'DOMAIN_MIGRATE_SET_MAX_SPEED',
    struct({ dom: domainRef, mibPerSecond: uhyper, flags }),
    nothing,
  ),
  storageVolUpload: remote(208, 'STORAGE_VOL_UPLOAD', transfer, nothing),
  storageVolDownload: remote(209, 'STORAGE_VOL_DOWNLOAD', transfer, nothing),
  domainGetState: remote(212, 'DOMAIN_GET_STATE', domainFlags, struct({ state: int, reason: int })),
  domainUndefineFlags: remote(231, 'DOMAIN_UNDEFINE_FLAGS', domainFlags, nothing),
  domainDestroyFlags: remote(234, 'DOMAIN_DESTROY_FLAGS', domainFlags, nothing),
  domainBlockJobAbort: remote(237, 'DOMAIN_BLOCK_JOB_ABORT', struct({ dom: domainRef, path: text, flags }), nothing),
  domainGetBlockJobInfo: remote(
    238,
    'DOMAIN_GET_BLOCK_JOB_INFO',
    struct({ dom: domainRef, path: text, flags }),
    struct({ found: truth, type: int, bandwidth: uhyper, current: uhyper, end: uhyper }),
  ),
  domainBlockPull: remote(
    240,
    'DOMAIN_BLOCK_PULL',
    struct({ dom: domainRef, path: text, bandwidth: uhyper, flags }),
    nothing,
  ),
  domainShutdownFlags: remote(258, 'DOMAIN_SHUTDOWN_FLAGS', domainFlags, nothing),
  storageVolResize: remote(260, 'STORAGE_VOL_RESIZE', struct({ vol: volumeRef, capacity: uhyper, flags }), nothing),
  domainSetMetadata: remote(
    264,
    'DOMAIN_SET_METADATA',
    struct({ dom: domainRef, type: int, metadata: optionalText, key: optionalText, uri: optionalText, flags }),
    nothing,
  ),
  domainGetMetadata: remote(
    265,
    'DOMAIN_GET_METADATA',
    struct({ dom: domainRef, type: int, uri: optionalText, flags }),
    struct({ metadata: text }),
  ),
  connectListAllDomains: remote(
    273,
    'CONNECT_LIST_ALL_DOMAINS',
    listing,
    struct({ domains: array(domainRef, MAX_LIST), count: uint }),
  ),
  connectListAllStoragePools: remote(
    281,
    'CONNECT_LIST_ALL_STORAGE_POOLS',
    listing,
    struct({ pools: array(poolRef, MAX_LIST), count: uint }),
  ),
  storagePoolListAllVolumes: remote(
    282,
    'STORAGE_POOL_LIST_ALL_VOLUMES',
    struct({ pool: poolRef, needResults: int, flags }),
    struct({ volumes: array(volumeRef, MAX_LIST), count: uint }),
  ),
  connectListAllNetworks: remote(
    283,
    'CONNECT_LIST_ALL_NETWORKS',
    listing,
    struct({ networks: array(networkRef, MAX_LIST), count: uint }),
  ),
  domainGetJobStats: remote(
    298,
    'DOMAIN_GET_JOB_STATS',
    domainFlags,
    struct({ type: int, params: typedParameters(MAX_JOB_PARAMS) }),
  ),
  domainMigratePerform3Params: remote(
    305,
    'DOMAIN_MIGRATE_PERFORM3_PARAMS',
    struct({
      dom: domainRef,
      destinationUri: optionalText,
      params: typedParameters(64),
      cookie: opaque(MAX_COOKIE),
      flags,
    }),
    struct({ cookie: opaque(MAX_COOKIE) }),
  ),
  connectNetworkEventRegisterAny: remote(
    313,
    'CONNECT_NETWORK_EVENT_REGISTER_ANY',
    struct({ event: int, net: optional(networkRef) }),
    struct({ callback: int }),
  ),
  connectDomainEventCallbackRegisterAny: remote(
    316,
    'CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY',
    struct({ event: int, dom: optional(domainRef) }),
    struct({ callback: int }),
  ),
  connectGetDomainCapabilities: remote(
    342,
    'CONNECT_GET_DOMAIN_CAPABILITIES',
    struct({
      emulator: optionalText,
      arch: optionalText,
      machine: optionalText,
      virtType: optionalText,
      flags,
    }),
    struct({ capabilities: text }),
  ),
  connectGetAllDomainStats: remote(
    344,
    'CONNECT_GET_ALL_DOMAIN_STATS',
    struct({ domains: array(domainRef, MAX_LIST), stats: flags, flags }),
    struct({ records: array(struct({ domain: domainRef, params: typedParameters(MAX_STATS) }), MAX_LIST) }),
  ),
  domainDefineXmlFlags: remote(350, 'DOMAIN_DEFINE_XML_FLAGS', xmlFlags, domain),
  domainMigrateStartPostCopy: remote(364, 'DOMAIN_MIGRATE_START_POST_COPY', domainFlags, nothing),
  connectStoragePoolEventRegisterAny: remote(
    368,
    'CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY',
    struct({ event: int, pool: optional(poolRef) }),
    struct({ callback: int }),
  ),
  connectCompareHypervisorCpu: remote(
    393,
    'CONNECT_COMPARE_HYPERVISOR_CPU',
    struct({
      emulator: optionalText,
      arch: optionalText,
      machine: optionalText,
      virtType: optionalText,
      cpu: text,
      flags,
    }),
    struct({ result: int }),
  ),
  // Since libvirt 8.5.0.
  domainAbortJobFlags: remote(442, 'DOMAIN_ABORT_JOB_FLAGS', domainFlags, nothing),
  qemuDomainAgentCommand: {
    name: 'QEMU_DOMAIN_AGENT_COMMAND',
    asks: false,
    program: qemuProgram,
    number: 3,
    args: struct({ dom: domainRef, command: text, timeoutSeconds: int, flags }),
    result: struct({ result: optionalText }),
  },
} as const;

export const events = {
  networkLifecycle: event(315, struct({ callback: int, net: networkRef, event: int, detail: int })),
  domainLifecycle: event(318, struct({ callback: int, dom: domainRef, event: int, detail: int })),
  migrationIteration: event(359, struct({ callback: int, dom: domainRef, iteration: int })),
  jobCompleted: event(363, struct({ callback: int, dom: domainRef, params: typedParameters(MAX_JOB_PARAMS) })),
  poolLifecycle: event(370, struct({ callback: int, pool: poolRef, event: int, detail: int })),
} as const;

/** virDrvFeature: asking for it makes the daemon watch us with keepalive pings too. */
export const featureKeepalive = 10;

/** remote_auth_type. */
export const authNone = 0;
export const authNames: Readonly<Record<number, string>> = { 1: 'SASL', 2: 'polkit' };

/** virDomainMetadataType: an element in a namespace. */
export const metadataElement = 2;

/** virDomainEventID. */
export const domainEventId = { lifecycle: 0, migrationIteration: 20, jobCompleted: 21 } as const;
/** virNetworkEventID and virStoragePoolEventID. */
export const lifecycleEventId = 0;
