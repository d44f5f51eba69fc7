import type { Operation, Row } from '../../drivers/ovsdb/types.js';
import { Stalled } from '../common/errors.js';
import { edgeBridge, integrationBridge, ovsdbMark, patchPorts, tunnelPortName } from '../common/identity.js';
import { entries, text, texts, uuids } from '../common/rows.js';

/** Tables and columns of the Open_vSwitch database that the operator watches. */
export const monitoredTables = {
  Open_vSwitch: ['bridges', 'ovs_version'],
  Bridge: ['name', 'ports', 'controller', 'fail_mode', 'datapath_type', 'protocols', 'external_ids', 'other_config'],
  Port: ['name', 'interfaces', 'external_ids'],
  Interface: ['name', 'type', 'options', 'ofport', 'external_ids', 'error', 'mtu_request', 'bfd', 'bfd_status'],
  Controller: ['target'],
} as const;

/** A remote host that this one has a tunnel to. */
export interface Peer {
  readonly site: string;
  readonly host: string;
  readonly underlayAddress: string;
}

/** What a host's switch is to hold: two bridges, the pair that joins them, a tunnel to each peer. */
export interface WantedBridges {
  readonly datapathType: string;
  readonly underlayAddress: string;
  /** OpenFlow listeners as OVS names them: ptcp:PORT:ADDRESS or pssl:PORT:ADDRESS. */
  readonly listeners: { readonly int: string; readonly edge: string };
  /** Where isth-edge connects to, beside listening: the site's Floodlight. */
  readonly controller?: string | undefined;
  readonly peers: readonly Peer[];
}

/** One OVSDB replica's tables, by row UUID. */
export type Tables = (table: keyof typeof monitoredTables) => ReadonlyMap<string, Row>;

/** One change, with the reason that goes to log and event. */
export interface BridgeChange {
  readonly reason: string;
  readonly operations: readonly Operation[];
}

interface WantedPort {
  readonly name: string;
  readonly type: string;
  readonly options: Readonly<Record<string, string>>;
  /** Bidirectional Forwarding Detection (RFC 5880), as Open vSwitch is told of it; empty: none. */
  readonly bfd: Readonly<Record<string, string>>;
  readonly externalIds: Readonly<Record<string, string>>;
}

interface WantedBridge {
  readonly name: string;
  /** Targets as OVS names them. */
  readonly controllers: readonly string[];
  readonly ports: readonly WantedPort[];
}

/**
 * Both ends of a tunnel hear of each other every second; three seconds of silence are its end. Without check_tnl_key the
 * switch would take any frame to UDP port 3784 that comes by the tunnel for BFD's own, a tenant's too.
 */
const bfd = { enable: 'true', min_rx: '1000', min_tx: '1000', check_tnl_key: 'true' } as const;

/** The listener that a bridge needs so that we can connect to the given end point: tcp:HOST:PORT → ptcp:PORT:HOST. */
export function listenerOf(endpoint: string): string {
  const match = /^(tcp|ssl):(.+):(\d+)$/.exec(endpoint);
  if (!match)
    throw new Stalled(
      'InvalidEndpoint',
      `OpenFlow end point ${endpoint}: expected tcp:ADDRESS:PORT or ssl:ADDRESS:PORT`,
    );
  const [, transport = '', address = '', port = ''] = match;
  return `p${transport}:${port}:${address}`;
}

function wantedBridges(wanted: WantedBridges): WantedBridge[] {
  const patch = (name: string, peer: string): WantedPort => ({
    name,
    type: 'patch',
    options: { peer },
    bfd: {},
    externalIds: { [ovsdbMark]: 'patch' },
  });
  const tunnels = wanted.peers.map(({ site, host, underlayAddress }) => ({
    name: tunnelPortName(site, host),
    type: 'vxlan',
    options: { remote_ip: underlayAddress, local_ip: wanted.underlayAddress, key: 'flow' },
    bfd,
    externalIds: { [ovsdbMark]: 'tunnel', [`${ovsdbMark}-peer`]: `${site}/${host}` },
  }));
  return [
    { name: integrationBridge, controllers: [wanted.listeners.int], ports: [patch(patchPorts.int, patchPorts.edge)] },
    {
      name: edgeBridge,
      controllers: [wanted.listeners.edge, ...(wanted.controller === undefined ? [] : [wanted.controller])],
      ports: [patch(patchPorts.edge, patchPorts.int), ...tunnels],
    },
  ];
}

/** What differs, in the order in which it is to be applied. Pure. Throws Stalled for a bridge of that name that is not ours. */
export function diffBridges(wanted: WantedBridges, tables: Tables): BridgeChange[] {
  return wantedBridges(wanted).flatMap((bridge) => {
    const found = [...tables('Bridge')].find(([, row]) => text(row, 'name') === bridge.name);
    if (!found) return [createBridge(bridge, wanted.datapathType, tables)];
    const [uuid, row] = found;
    if (!entries(row, 'external_ids').has(ovsdbMark))
      throw new Stalled(
        'ForeignBridge',
        `bridge ${bridge.name} exists but is not ours (no external_ids:${ovsdbMark}); rename or delete it`,
      );
    return [...repairBridge(bridge, wanted.datapathType, uuid, row, tables), ...diffPorts(bridge, uuid, row, tables)];
  });
}

/** Removes both bridges, if they are ours; their ports and listeners go with them. */
export function removeBridges(tables: Tables): BridgeChange[] {
  return [...tables('Bridge')]
    .filter(
      ([, row]) =>
        [integrationBridge, edgeBridge].includes(text(row, 'name') ?? '') &&
        entries(row, 'external_ids').has(ovsdbMark),
    )
    .map(([uuid, row]) => ({
      reason: `remove bridge ${text(row, 'name') ?? ''}`,
      operations: [
        { op: 'mutate', table: 'Open_vSwitch', where: [], mutations: [['bridges', 'delete', ['uuid', uuid]]] },
      ],
    }));
}

const ovsMap = (record: Readonly<Record<string, string>>): unknown => ['map', Object.entries(record)];
const ovsSet = (values: readonly unknown[]): unknown => ['set', values];
const symbol = (name: string): string => `new_${name.replace(/[^A-Za-z0-9_]/g, '_')}`;
const byUuid = (uuid: string): unknown => [['_uuid', '==', ['uuid', uuid]]];

const bridgeColumns = (bridge: WantedBridge, datapathType: string) => ({
  fail_mode: 'secure',
  datapath_type: datapathType,
  protocols: 'OpenFlow13',
  external_ids: ovsMap({ [ovsdbMark]: 'bridge' }),
  other_config: ovsMap({ 'disable-in-band': 'true' }),
});

function createBridge(bridge: WantedBridge, datapathType: string, tables: Tables): BridgeChange {
  const local: WantedPort = { name: bridge.name, type: 'internal', options: {}, bfd: {}, externalIds: {} };
  const ports = [local, ...bridge.ports];
  const [root] = tables('Open_vSwitch').keys();
  return {
    reason: `create bridge ${bridge.name}`,
    operations: [
      ...ports.flatMap(insertPort),
      ...bridge.controllers.map(insertController),
      {
        op: 'insert',
        table: 'Bridge',
        'uuid-name': symbol(`bridge_${bridge.name}`),
        row: {
          name: bridge.name,
          ...bridgeColumns(bridge, datapathType),
          ports: ovsSet(ports.map(({ name }) => ['named-uuid', symbol(`port_${name}`)])),
          controller: ovsSet(bridge.controllers.map(controllerRow)),
        },
      },
      {
        op: 'mutate',
        table: 'Open_vSwitch',
        where: root === undefined ? [] : byUuid(root),
        mutations: [['bridges', 'insert', ['named-uuid', symbol(`bridge_${bridge.name}`)]]],
      },
    ],
  };
}

const insertController = (target: string): Operation => ({
  op: 'insert',
  table: 'Controller',
  'uuid-name': symbol(`controller_${target}`),
  row: {
    target,
    connection_mode: 'out-of-band',
    external_ids: ovsMap({ [ovsdbMark]: target.startsWith('p') ? 'listener' : 'controller' }),
  },
});

const controllerRow = (target: string): unknown => ['named-uuid', symbol(`controller_${target}`)];

function insertPort(port: WantedPort): Operation[] {
  return [
    {
      op: 'insert',
      table: 'Interface',
      'uuid-name': symbol(`interface_${port.name}`),
      row: {
        name: port.name,
        type: port.type,
        options: ovsMap(port.options),
        bfd: ovsMap(port.bfd),
        external_ids: ovsMap(port.externalIds),
      },
    },
    {
      op: 'insert',
      table: 'Port',
      'uuid-name': symbol(`port_${port.name}`),
      row: {
        name: port.name,
        interfaces: ['named-uuid', symbol(`interface_${port.name}`)],
        external_ids: ovsMap(port.externalIds),
      },
    },
  ];
}

function repairBridge(
  bridge: WantedBridge,
  datapathType: string,
  uuid: string,
  row: Row,
  tables: Tables,
): BridgeChange[] {
  const changes: BridgeChange[] = [];
  if (
    text(row, 'fail_mode') !== 'secure' ||
    (text(row, 'datapath_type') ?? 'system') !== datapathType ||
    texts(row, 'protocols').join() !== 'OpenFlow13'
  )
    changes.push({
      reason: `repair settings of bridge ${bridge.name}`,
      operations: [{ op: 'update', table: 'Bridge', where: byUuid(uuid), row: bridgeColumns(bridge, datapathType) }],
    });
  const targets = uuids(row, 'controller').map((each) => text(tables('Controller').get(each), 'target'));
  // What stays keeps its row: a listener that is replaced drops the connection that we have to it.
  const staying = uuids(row, 'controller').filter((each) =>
    bridge.controllers.includes(text(tables('Controller').get(each), 'target') ?? ''),
  );
  const missing = bridge.controllers.filter((target) => !targets.includes(target));
  if (missing.length > 0 || staying.length !== targets.length)
    changes.push({
      reason: `set OpenFlow controllers of bridge ${bridge.name} to ${bridge.controllers.join(', ')}`,
      operations: [
        ...missing.map(insertController),
        {
          op: 'update',
          table: 'Bridge',
          where: byUuid(uuid),
          row: { controller: ovsSet([...staying.map((each) => ['uuid', each]), ...missing.map(controllerRow)]) },
        },
      ],
    });
  return changes;
}

function diffPorts(bridge: WantedBridge, bridgeUuid: string, row: Row, tables: Tables): BridgeChange[] {
  const present = new Map<string, { port: string; interface: Row | undefined; marked: boolean }>();
  for (const port of uuids(row, 'ports')) {
    const portRow = tables('Port').get(port);
    const name = text(portRow, 'name');
    if (name === undefined) continue;
    const [interfaceUuid = ''] = uuids(portRow, 'interfaces');
    present.set(name, {
      port,
      interface: tables('Interface').get(interfaceUuid),
      marked: entries(portRow, 'external_ids').has(ovsdbMark),
    });
  }
  const detach = (port: string): Operation => ({
    op: 'mutate',
    table: 'Bridge',
    where: byUuid(bridgeUuid),
    mutations: [['ports', 'delete', ['uuid', port]]],
  });
  const attach = (port: WantedPort): Operation[] => [
    ...insertPort(port),
    {
      op: 'mutate',
      table: 'Bridge',
      where: byUuid(bridgeUuid),
      mutations: [['ports', 'insert', ['named-uuid', symbol(`port_${port.name}`)]]],
    },
  ];
  const wantedNames = new Set(bridge.ports.map(({ name }) => name));
  const stale = [...present]
    .filter(([name, { marked }]) => marked && !wantedNames.has(name))
    .map(([name, { port }]) => ({
      reason: `remove port ${name} of bridge ${bridge.name}`,
      operations: [detach(port)],
    }));
  const wanted = bridge.ports.flatMap((port): BridgeChange[] => {
    const found = present.get(port.name);
    if (!found) return [{ reason: `add port ${port.name} to bridge ${bridge.name}`, operations: attach(port) }];
    if (portMatches(port, found.interface))
      return same(entries(found.interface, 'bfd'), port.bfd) ? [] : [setLiveness(port, bridge.name)];
    return [
      {
        reason: `replace port ${port.name} of bridge ${bridge.name}`,
        operations: [detach(found.port), ...attach(port)],
      },
    ];
  });
  return [...stale, ...wanted];
}

/** In place: a tunnel that is replaced loses what is under way. */
const setLiveness = (port: WantedPort, bridge: string): BridgeChange => ({
  reason: `set BFD of port ${port.name} of bridge ${bridge}`,
  operations: [
    { op: 'update', table: 'Interface', where: [['name', '==', port.name]], row: { bfd: ovsMap(port.bfd) } },
  ],
});

const same = (found: ReadonlyMap<string, string>, wanted: Readonly<Record<string, string>>): boolean =>
  found.size === Object.keys(wanted).length && Object.entries(wanted).every(([key, value]) => found.get(key) === value);

function portMatches(port: WantedPort, row: Row | undefined): boolean {
  const ids = entries(row, 'external_ids');
  return (
    text(row, 'type') === port.type &&
    same(entries(row, 'options'), port.options) &&
    Object.entries(port.externalIds).every(([key, value]) => ids.get(key) === value)
  );
}
