/**
 * libvirt's numbers and names that a manager of machines needs, as in libvirt 9.0 (https://libvirt.org/html/index.html), under
 * their C names without VIR_. Flags are combined with `|`.
 */

// virErrorNumber.
export const ERR_INTERNAL_ERROR = 1;
export const ERR_NO_MEMORY = 2;
export const ERR_NO_SUPPORT = 3;
export const ERR_UNKNOWN_HOST = 4;
export const ERR_NO_CONNECT = 5;
export const ERR_INVALID_CONN = 6;
export const ERR_INVALID_DOMAIN = 7;
export const ERR_INVALID_ARG = 8;
export const ERR_OPERATION_FAILED = 9;
export const ERR_OS_TYPE = 16;
export const ERR_DRIVER_FULL = 25;
export const ERR_CALL_FAILED = 26;
export const ERR_XML_ERROR = 27;
export const ERR_DOM_EXIST = 28;
export const ERR_OPERATION_DENIED = 29;
export const ERR_OPEN_FAILED = 30;
export const ERR_READ_FAILED = 31;
export const ERR_PARSE_FAILED = 32;
export const ERR_CONF_SYNTAX = 33;
export const ERR_WRITE_FAILED = 34;
export const ERR_XML_DETAIL = 35;
export const ERR_INVALID_NETWORK = 36;
export const ERR_NETWORK_EXIST = 37;
export const ERR_SYSTEM_ERROR = 38;
export const ERR_RPC = 39;
export const ERR_GNUTLS_ERROR = 40;
export const ERR_NO_DOMAIN = 42;
export const ERR_NO_NETWORK = 43;
export const ERR_INVALID_MAC = 44;
export const ERR_AUTH_FAILED = 45;
export const ERR_INVALID_STORAGE_POOL = 46;
export const ERR_INVALID_STORAGE_VOL = 47;
export const ERR_NO_STORAGE_POOL = 49;
export const ERR_NO_STORAGE_VOL = 50;
export const ERR_OPERATION_INVALID = 55;
export const ERR_BUILD_FIREWALL = 63;
export const ERR_CONFIG_UNSUPPORTED = 67;
export const ERR_OPERATION_TIMEOUT = 68;
export const ERR_MIGRATE_PERSIST_FAILED = 69;
export const ERR_HOOK_SCRIPT_FAILED = 70;
export const ERR_INVALID_STREAM = 73;
export const ERR_ARGUMENT_UNSUPPORTED = 74;
export const ERR_STORAGE_PROBE_FAILED = 75;
export const ERR_STORAGE_POOL_BUILT = 76;
export const ERR_OPERATION_ABORTED = 78;
export const ERR_AUTH_CANCELLED = 79;
export const ERR_NO_DOMAIN_METADATA = 80;
export const ERR_MIGRATE_UNSAFE = 81;
export const ERR_OVERFLOW = 82;
export const ERR_OPERATION_UNSUPPORTED = 84;
export const ERR_SSH = 85;
export const ERR_AGENT_UNRESPONSIVE = 86;
export const ERR_RESOURCE_BUSY = 87;
export const ERR_ACCESS_DENIED = 88;
export const ERR_DBUS_SERVICE = 89;
export const ERR_STORAGE_VOL_EXIST = 90;
export const ERR_CPU_INCOMPATIBLE = 91;
export const ERR_XML_INVALID_SCHEMA = 92;
export const ERR_MIGRATE_FINISH_OK = 93;
export const ERR_AUTH_UNAVAILABLE = 94;
export const ERR_NO_SERVER = 95;
export const ERR_NO_CLIENT = 96;
export const ERR_AGENT_UNSYNCED = 97;
export const ERR_DEVICE_MISSING = 99;
export const ERR_NO_HOSTNAME = 108;
export const ERR_MULTIPLE_DOMAINS = 110;

// virDomainRunningReason.
export const DOMAIN_RUNNING_UNKNOWN = 0;
export const DOMAIN_RUNNING_BOOTED = 1;
export const DOMAIN_RUNNING_MIGRATED = 2;
export const DOMAIN_RUNNING_RESTORED = 3;
export const DOMAIN_RUNNING_FROM_SNAPSHOT = 4;
export const DOMAIN_RUNNING_UNPAUSED = 5;
export const DOMAIN_RUNNING_MIGRATION_CANCELED = 6;
export const DOMAIN_RUNNING_SAVE_CANCELED = 7;
export const DOMAIN_RUNNING_WAKEUP = 8;
export const DOMAIN_RUNNING_CRASHED = 9;
export const DOMAIN_RUNNING_POSTCOPY = 10;
export const DOMAIN_RUNNING_POSTCOPY_FAILED = 11;

// virDomainPausedReason.
export const DOMAIN_PAUSED_UNKNOWN = 0;
export const DOMAIN_PAUSED_USER = 1;
export const DOMAIN_PAUSED_MIGRATION = 2;
export const DOMAIN_PAUSED_SAVE = 3;
export const DOMAIN_PAUSED_DUMP = 4;
export const DOMAIN_PAUSED_IOERROR = 5;
export const DOMAIN_PAUSED_WATCHDOG = 6;
export const DOMAIN_PAUSED_FROM_SNAPSHOT = 7;
export const DOMAIN_PAUSED_SHUTTING_DOWN = 8;
export const DOMAIN_PAUSED_SNAPSHOT = 9;
export const DOMAIN_PAUSED_CRASHED = 10;
export const DOMAIN_PAUSED_STARTING_UP = 11;
export const DOMAIN_PAUSED_POSTCOPY = 12;
export const DOMAIN_PAUSED_POSTCOPY_FAILED = 13;

// virDomainShutdownReason.
export const DOMAIN_SHUTDOWN_UNKNOWN = 0;
export const DOMAIN_SHUTDOWN_USER = 1;

// virDomainShutoffReason.
export const DOMAIN_SHUTOFF_UNKNOWN = 0;
export const DOMAIN_SHUTOFF_SHUTDOWN = 1;
export const DOMAIN_SHUTOFF_DESTROYED = 2;
export const DOMAIN_SHUTOFF_CRASHED = 3;
export const DOMAIN_SHUTOFF_MIGRATED = 4;
export const DOMAIN_SHUTOFF_SAVED = 5;
export const DOMAIN_SHUTOFF_FAILED = 6;
export const DOMAIN_SHUTOFF_FROM_SNAPSHOT = 7;
export const DOMAIN_SHUTOFF_DAEMON = 8;

// virDomainCrashedReason.
export const DOMAIN_CRASHED_UNKNOWN = 0;
export const DOMAIN_CRASHED_PANICKED = 1;

// virDomainModificationImpact: what metadata calls change.
export const DOMAIN_AFFECT_CURRENT = 0;
export const DOMAIN_AFFECT_LIVE = 1;
export const DOMAIN_AFFECT_CONFIG = 2;

// virDomainCreateFlags: startDomain.
export const DOMAIN_START_PAUSED = 1;
export const DOMAIN_START_AUTODESTROY = 2;
export const DOMAIN_START_BYPASS_CACHE = 4;
export const DOMAIN_START_FORCE_BOOT = 8;
export const DOMAIN_START_VALIDATE = 16;
export const DOMAIN_START_RESET_NVRAM = 32;

// virDomainDefineFlags.
export const DOMAIN_DEFINE_VALIDATE = 1;

// virDomainShutdownFlagValues.
export const DOMAIN_SHUTDOWN_ACPI_POWER_BTN = 1;
export const DOMAIN_SHUTDOWN_GUEST_AGENT = 2;
export const DOMAIN_SHUTDOWN_INITCTL = 4;
export const DOMAIN_SHUTDOWN_SIGNAL = 8;

// virDomainDestroyFlagsValues.
export const DOMAIN_DESTROY_GRACEFUL = 1;
export const DOMAIN_DESTROY_REMOVE_LOGS = 2;

// virDomainUndefineFlagsValues.
export const DOMAIN_UNDEFINE_MANAGED_SAVE = 1;
export const DOMAIN_UNDEFINE_SNAPSHOTS_METADATA = 2;
export const DOMAIN_UNDEFINE_NVRAM = 4;
export const DOMAIN_UNDEFINE_KEEP_NVRAM = 8;
export const DOMAIN_UNDEFINE_CHECKPOINTS_METADATA = 16;
export const DOMAIN_UNDEFINE_TPM = 32;
export const DOMAIN_UNDEFINE_KEEP_TPM = 64;

// virDomainXMLFlags.
export const DOMAIN_XML_SECURE = 1;
export const DOMAIN_XML_INACTIVE = 2;
export const DOMAIN_XML_UPDATE_CPU = 4;
export const DOMAIN_XML_MIGRATABLE = 8;

// virConnectListAllDomainsFlags.
export const CONNECT_LIST_DOMAINS_ACTIVE = 1;
export const CONNECT_LIST_DOMAINS_INACTIVE = 2;
export const CONNECT_LIST_DOMAINS_PERSISTENT = 4;
export const CONNECT_LIST_DOMAINS_TRANSIENT = 8;
export const CONNECT_LIST_DOMAINS_RUNNING = 16;
export const CONNECT_LIST_DOMAINS_PAUSED = 32;
export const CONNECT_LIST_DOMAINS_SHUTOFF = 64;
export const CONNECT_LIST_DOMAINS_OTHER = 128;
export const CONNECT_LIST_DOMAINS_MANAGEDSAVE = 256;
export const CONNECT_LIST_DOMAINS_NO_MANAGEDSAVE = 512;
export const CONNECT_LIST_DOMAINS_AUTOSTART = 1024;
export const CONNECT_LIST_DOMAINS_NO_AUTOSTART = 2048;

// virDomainStatsTypes: 0 asks for all.
export const DOMAIN_STATS_STATE = 1;
export const DOMAIN_STATS_CPU_TOTAL = 2;
export const DOMAIN_STATS_BALLOON = 4;
export const DOMAIN_STATS_VCPU = 8;
export const DOMAIN_STATS_INTERFACE = 16;
export const DOMAIN_STATS_BLOCK = 32;
export const DOMAIN_STATS_PERF = 64;
export const DOMAIN_STATS_IOTHREAD = 128;
export const DOMAIN_STATS_MEMORY = 256;
export const DOMAIN_STATS_DIRTYRATE = 512;
export const DOMAIN_STATS_VM = 1024;

// virConnectGetAllDomainStatsFlags.
export const CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE = 1;
export const CONNECT_GET_ALL_DOMAINS_STATS_INACTIVE = 2;
export const CONNECT_GET_ALL_DOMAINS_STATS_PERSISTENT = 4;
export const CONNECT_GET_ALL_DOMAINS_STATS_TRANSIENT = 8;
export const CONNECT_GET_ALL_DOMAINS_STATS_RUNNING = 16;
export const CONNECT_GET_ALL_DOMAINS_STATS_PAUSED = 32;
export const CONNECT_GET_ALL_DOMAINS_STATS_SHUTOFF = 64;
export const CONNECT_GET_ALL_DOMAINS_STATS_OTHER = 128;
export const CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT = 536870912;
export const CONNECT_GET_ALL_DOMAINS_STATS_BACKING = 1073741824;
export const CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS = 2147483648;

// virDomainConsoleFlags.
export const DOMAIN_CONSOLE_FORCE = 1;
export const DOMAIN_CONSOLE_SAFE = 2;

// virDomainGetJobStatsFlags.
export const DOMAIN_JOB_STATS_COMPLETED = 1;
export const DOMAIN_JOB_STATS_KEEP_COMPLETED = 2;

// virDomainAbortJobFlagsValues.
export const DOMAIN_ABORT_JOB_POSTCOPY = 1;

// virDomainBlockJobAbortFlags.
export const DOMAIN_BLOCK_JOB_ABORT_ASYNC = 1;

// virDomainJobOperation: the job statistic `operation`.
export const DOMAIN_JOB_OPERATION_UNKNOWN = 0;
export const DOMAIN_JOB_OPERATION_START = 1;
export const DOMAIN_JOB_OPERATION_SAVE = 2;
export const DOMAIN_JOB_OPERATION_RESTORE = 3;
export const DOMAIN_JOB_OPERATION_MIGRATION_IN = 4;
export const DOMAIN_JOB_OPERATION_MIGRATION_OUT = 5;
export const DOMAIN_JOB_OPERATION_SNAPSHOT = 6;
export const DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT = 7;
export const DOMAIN_JOB_OPERATION_DUMP = 8;
export const DOMAIN_JOB_OPERATION_BACKUP = 9;
export const DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE = 10;

// virDomainMigrateFlags.
export const MIGRATE_LIVE = 1;
export const MIGRATE_PEER2PEER = 2;
export const MIGRATE_TUNNELLED = 4;
export const MIGRATE_PERSIST_DEST = 8;
export const MIGRATE_UNDEFINE_SOURCE = 16;
export const MIGRATE_PAUSED = 32;
export const MIGRATE_NON_SHARED_DISK = 64;
export const MIGRATE_NON_SHARED_INC = 128;
export const MIGRATE_CHANGE_PROTECTION = 256;
export const MIGRATE_UNSAFE = 512;
export const MIGRATE_OFFLINE = 1024;
export const MIGRATE_COMPRESSED = 2048;
export const MIGRATE_ABORT_ON_ERROR = 4096;
export const MIGRATE_AUTO_CONVERGE = 8192;
export const MIGRATE_RDMA_PIN_ALL = 16384;
export const MIGRATE_POSTCOPY = 32768;
export const MIGRATE_TLS = 65536;
export const MIGRATE_PARALLEL = 131072;
export const MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES = 262144;
export const MIGRATE_POSTCOPY_RESUME = 524288;
export const MIGRATE_ZEROCOPY = 1048576;

// VIR_MIGRATE_PARAM_*: bandwidth is MiB a second; migrate_disks and compression may be repeated.
export const MIGRATE_PARAM_URI = 'migrate_uri';
export const MIGRATE_PARAM_DEST_NAME = 'destination_name';
export const MIGRATE_PARAM_DEST_XML = 'destination_xml';
export const MIGRATE_PARAM_PERSIST_XML = 'persistent_xml';
export const MIGRATE_PARAM_BANDWIDTH = 'bandwidth';
export const MIGRATE_PARAM_BANDWIDTH_POSTCOPY = 'bandwidth.postcopy';
export const MIGRATE_PARAM_GRAPHICS_URI = 'graphics_uri';
export const MIGRATE_PARAM_LISTEN_ADDRESS = 'listen_address';
export const MIGRATE_PARAM_MIGRATE_DISKS = 'migrate_disks';
export const MIGRATE_PARAM_DISKS_PORT = 'disks_port';
export const MIGRATE_PARAM_DISKS_URI = 'disks_uri';
export const MIGRATE_PARAM_COMPRESSION = 'compression';
export const MIGRATE_PARAM_COMPRESSION_MT_LEVEL = 'compression.mt.level';
export const MIGRATE_PARAM_COMPRESSION_MT_THREADS = 'compression.mt.threads';
export const MIGRATE_PARAM_COMPRESSION_MT_DTHREADS = 'compression.mt.dthreads';
export const MIGRATE_PARAM_COMPRESSION_XBZRLE_CACHE = 'compression.xbzrle.cache';
export const MIGRATE_PARAM_AUTO_CONVERGE_INITIAL = 'auto_converge.initial';
export const MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT = 'auto_converge.increment';
export const MIGRATE_PARAM_PARALLEL_CONNECTIONS = 'parallel.connections';
export const MIGRATE_PARAM_TLS_DESTINATION = 'tls.destination';
export const MIGRATE_PARAM_COMPRESSION_ZLIB_LEVEL = 'compression.zlib.level';
export const MIGRATE_PARAM_COMPRESSION_ZSTD_LEVEL = 'compression.zstd.level';

// VIR_DOMAIN_JOB_*, names of job statistics: times are milliseconds, data are bytes, bps is bytes a second, dirty rate is pages a second.
export const DOMAIN_JOB_OPERATION = 'operation';
export const DOMAIN_JOB_TIME_ELAPSED = 'time_elapsed';
export const DOMAIN_JOB_TIME_REMAINING = 'time_remaining';
export const DOMAIN_JOB_DOWNTIME = 'downtime';
export const DOMAIN_JOB_SETUP_TIME = 'setup_time';
export const DOMAIN_JOB_DATA_TOTAL = 'data_total';
export const DOMAIN_JOB_DATA_PROCESSED = 'data_processed';
export const DOMAIN_JOB_DATA_REMAINING = 'data_remaining';
export const DOMAIN_JOB_MEMORY_TOTAL = 'memory_total';
export const DOMAIN_JOB_MEMORY_PROCESSED = 'memory_processed';
export const DOMAIN_JOB_MEMORY_REMAINING = 'memory_remaining';
export const DOMAIN_JOB_MEMORY_BPS = 'memory_bps';
export const DOMAIN_JOB_MEMORY_DIRTY_RATE = 'memory_dirty_rate';
export const DOMAIN_JOB_MEMORY_PAGE_SIZE = 'memory_page_size';
export const DOMAIN_JOB_MEMORY_ITERATION = 'memory_iteration';
export const DOMAIN_JOB_MEMORY_POSTCOPY_REQS = 'memory_postcopy_requests';
export const DOMAIN_JOB_DISK_TOTAL = 'disk_total';
export const DOMAIN_JOB_DISK_PROCESSED = 'disk_processed';
export const DOMAIN_JOB_DISK_REMAINING = 'disk_remaining';
export const DOMAIN_JOB_DISK_BPS = 'disk_bps';
export const DOMAIN_JOB_AUTO_CONVERGE_THROTTLE = 'auto_converge_throttle';
export const DOMAIN_JOB_SUCCESS = 'success';
export const DOMAIN_JOB_ERRMSG = 'errmsg';

// virDomainEventDefinedDetailType.
export const DOMAIN_EVENT_DEFINED_ADDED = 0;
export const DOMAIN_EVENT_DEFINED_UPDATED = 1;
export const DOMAIN_EVENT_DEFINED_RENAMED = 2;
export const DOMAIN_EVENT_DEFINED_FROM_SNAPSHOT = 3;

// virDomainEventUndefinedDetailType.
export const DOMAIN_EVENT_UNDEFINED_REMOVED = 0;
export const DOMAIN_EVENT_UNDEFINED_RENAMED = 1;

// virDomainEventStartedDetailType.
export const DOMAIN_EVENT_STARTED_BOOTED = 0;
export const DOMAIN_EVENT_STARTED_MIGRATED = 1;
export const DOMAIN_EVENT_STARTED_RESTORED = 2;
export const DOMAIN_EVENT_STARTED_FROM_SNAPSHOT = 3;
export const DOMAIN_EVENT_STARTED_WAKEUP = 4;

// virDomainEventSuspendedDetailType.
export const DOMAIN_EVENT_SUSPENDED_PAUSED = 0;
export const DOMAIN_EVENT_SUSPENDED_MIGRATED = 1;
export const DOMAIN_EVENT_SUSPENDED_IOERROR = 2;
export const DOMAIN_EVENT_SUSPENDED_WATCHDOG = 3;
export const DOMAIN_EVENT_SUSPENDED_RESTORED = 4;
export const DOMAIN_EVENT_SUSPENDED_FROM_SNAPSHOT = 5;
export const DOMAIN_EVENT_SUSPENDED_API_ERROR = 6;
export const DOMAIN_EVENT_SUSPENDED_POSTCOPY = 7;
export const DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED = 8;

// virDomainEventResumedDetailType.
export const DOMAIN_EVENT_RESUMED_UNPAUSED = 0;
export const DOMAIN_EVENT_RESUMED_MIGRATED = 1;
export const DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT = 2;
export const DOMAIN_EVENT_RESUMED_POSTCOPY = 3;
export const DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED = 4;

// virDomainEventStoppedDetailType.
export const DOMAIN_EVENT_STOPPED_SHUTDOWN = 0;
export const DOMAIN_EVENT_STOPPED_DESTROYED = 1;
export const DOMAIN_EVENT_STOPPED_CRASHED = 2;
export const DOMAIN_EVENT_STOPPED_MIGRATED = 3;
export const DOMAIN_EVENT_STOPPED_SAVED = 4;
export const DOMAIN_EVENT_STOPPED_FAILED = 5;
export const DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT = 6;

// virDomainEventShutdownDetailType.
export const DOMAIN_EVENT_SHUTDOWN_FINISHED = 0;
export const DOMAIN_EVENT_SHUTDOWN_GUEST = 1;
export const DOMAIN_EVENT_SHUTDOWN_HOST = 2;

// virConnectListAllNetworksFlags.
export const CONNECT_LIST_NETWORKS_INACTIVE = 1;
export const CONNECT_LIST_NETWORKS_ACTIVE = 2;
export const CONNECT_LIST_NETWORKS_PERSISTENT = 4;
export const CONNECT_LIST_NETWORKS_TRANSIENT = 8;
export const CONNECT_LIST_NETWORKS_AUTOSTART = 16;
export const CONNECT_LIST_NETWORKS_NO_AUTOSTART = 32;

// virNetworkXMLFlags.
export const NETWORK_XML_INACTIVE = 1;

// virConnectListAllStoragePoolsFlags.
export const CONNECT_LIST_STORAGE_POOLS_INACTIVE = 1;
export const CONNECT_LIST_STORAGE_POOLS_ACTIVE = 2;
export const CONNECT_LIST_STORAGE_POOLS_PERSISTENT = 4;
export const CONNECT_LIST_STORAGE_POOLS_TRANSIENT = 8;
export const CONNECT_LIST_STORAGE_POOLS_AUTOSTART = 16;
export const CONNECT_LIST_STORAGE_POOLS_NO_AUTOSTART = 32;

// virStoragePoolBuildFlags.
export const STORAGE_POOL_BUILD_REPAIR = 1;
export const STORAGE_POOL_BUILD_RESIZE = 2;
export const STORAGE_POOL_BUILD_NO_OVERWRITE = 4;
export const STORAGE_POOL_BUILD_OVERWRITE = 8;

// virStorageVolCreateFlags.
export const STORAGE_VOL_CREATE_PREALLOC_METADATA = 1;
export const STORAGE_VOL_CREATE_REFLINK = 2;
export const STORAGE_VOL_CREATE_VALIDATE = 4;

// virStorageVolDeleteFlags.
export const STORAGE_VOL_DELETE_ZEROED = 1;
export const STORAGE_VOL_DELETE_WITH_SNAPSHOTS = 2;

// virStorageVolResizeFlags.
export const STORAGE_VOL_RESIZE_ALLOCATE = 1;
export const STORAGE_VOL_RESIZE_DELTA = 2;
export const STORAGE_VOL_RESIZE_SHRINK = 4;

// virStorageVolUploadFlags: this client's transfers are plain, holes travel as zeros.
export const STORAGE_VOL_UPLOAD_SPARSE_STREAM = 1;

// virStorageVolDownloadFlags.
export const STORAGE_VOL_DOWNLOAD_SPARSE_STREAM = 1;
