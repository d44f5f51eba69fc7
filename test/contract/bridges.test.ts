import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { openOvsdb, type Ovsdb } from '../../drivers/ovsdb/index.js';
import { patchPorts, tunnelPortName } from '../../reconcilers/common/identity.js';
import {
  diffBridges,
  monitoredTables,
  removeBridges,
  type BridgeChange,
  type WantedBridges,
} from '../../reconcilers/site/bridges.js';
import { OpenVSwitch } from '../support/openvswitch.js';

const saopaulo = { site: 'saopaulo', host: 'a', underlayAddress: '198.51.100.12' };
const tokyo = { site: 'tokyo', host: 'a', underlayAddress: '198.51.100.13' };
const wanted: WantedBridges = {
  datapathType: 'netdev',
  underlayAddress: '198.51.100.11',
  listeners: { int: 'ptcp:6654:127.0.0.1', edge: 'ptcp:6655:127.0.0.1' },
  peers: [saopaulo, tokyo],
};
const toSaopaulo = tunnelPortName('saopaulo', 'a');
const toTokyo = tunnelPortName('tokyo', 'a');

let ovs: OpenVSwitch;
let ovsdb: Ovsdb;

beforeAll(async () => {
  ovs = await OpenVSwitch.start();
  ovsdb = openOvsdb(ovs.ovsdbUnix, monitoredTables);
  await ovsdb.ready();
});
afterEach(async () => {
  for (const bridge of (await vsctl('list-br')).split('\n').filter(Boolean)) await vsctl('del-br', bridge);
});
afterAll(async () => {
  await ovsdb.close();
  await ovs.stop();
});

/** Resolves when the replica has seen what the command changed: its updates come before the answer to a later call. */
async function vsctl(...args: string[]): Promise<string> {
  const output = await ovs.vsctl('--no-wait', ...args);
  await ovsdb.transact([{ op: 'comment', comment: 'catch up' }]);
  return output.trim();
}

const diff = (want = wanted): BridgeChange[] => diffBridges(want, (table) => ovsdb.rows(table));

async function apply(changes: readonly BridgeChange[]): Promise<string[]> {
  for (const { operations } of changes) await ovsdb.transact(operations);
  return changes.map(({ reason }) => reason);
}

const get = (table: string, record: string, column: string): Promise<string> => vsctl('get', table, record, column);

describe('the bridges of a host', () => {
  it('are made on a fresh host, with all that they need', async () => {
    expect(await apply(diff())).toEqual(['create bridge isth-int', 'create bridge isth-edge']);
    expect((await vsctl('list-ports', 'isth-int')).split('\n')).toEqual([patchPorts.int]);
    expect((await vsctl('list-ports', 'isth-edge')).split('\n').sort()).toEqual(
      [patchPorts.edge, toSaopaulo, toTokyo].sort(),
    );
    for (const bridge of ['isth-int', 'isth-edge']) {
      // Without secure, a switch without its controller would forward as it likes.
      expect(await get('Bridge', bridge, 'fail_mode')).toBe('secure');
      expect(await get('Bridge', bridge, 'protocols')).toBe('[OpenFlow13]');
      expect(await get('Bridge', bridge, 'datapath_type')).toBe('netdev');
    }
    expect(await vsctl('get-controller', 'isth-int')).toBe('ptcp:6654:127.0.0.1');
    expect(await vsctl('get-controller', 'isth-edge')).toBe('ptcp:6655:127.0.0.1');
    expect(await get('Interface', patchPorts.int, 'options')).toBe(`{peer=${patchPorts.edge}}`);
    expect(await get('Interface', patchPorts.edge, 'options')).toBe(`{peer=${patchPorts.int}}`);
    expect(await get('Interface', toTokyo, 'options')).toBe(
      '{key=flow, local_ip="198.51.100.11", remote_ip="198.51.100.13"}',
    );
    expect(await get('Interface', toTokyo, 'external_ids')).toBe('{isthmus=tunnel, isthmus-peer="tokyo/a"}');
  });

  interface Case {
    readonly reason: string;
    /** What somebody does to bridges that were as wanted. */
    readonly given: readonly (readonly string[])[];
    readonly want?: WantedBridges;
    readonly changes: readonly string[];
  }
  const cases: readonly Case[] = [
    { reason: 'where nothing differs, nothing is done', given: [], changes: [] },
    {
      reason: 'a missing end of the patch is put back',
      given: [['del-port', patchPorts.edge]],
      changes: [`add port ${patchPorts.edge} to bridge isth-edge`],
    },
    {
      reason: 'a patch that leads elsewhere is replaced',
      given: [['set', 'Interface', patchPorts.int, 'options:peer=elsewhere']],
      changes: [`replace port ${patchPorts.int} of bridge isth-int`],
    },
    {
      reason: 'a tunnel with another end is replaced',
      given: [['set', 'Interface', toSaopaulo, 'options:remote_ip=198.51.100.99']],
      changes: [`replace port ${toSaopaulo} of bridge isth-edge`],
    },
    {
      reason: 'a tunnel of one fixed key would mix the networks',
      given: [['set', 'Interface', toSaopaulo, 'options:key=5']],
      changes: [`replace port ${toSaopaulo} of bridge isth-edge`],
    },
    {
      reason: 'an option that was added is no longer what was asked for',
      given: [['set', 'Interface', toSaopaulo, 'options:csum=true']],
      changes: [`replace port ${toSaopaulo} of bridge isth-edge`],
    },
    {
      reason: 'a tunnel that lost its peer’s name would get no flows',
      given: [['remove', 'Interface', toSaopaulo, 'external_ids', 'isthmus-peer']],
      changes: [`replace port ${toSaopaulo} of bridge isth-edge`],
    },
    {
      reason: 'a tunnel from before liveness was asked for gets it, and stays',
      given: [['clear', 'Interface', toSaopaulo, 'bfd']],
      changes: [`set BFD of port ${toSaopaulo} of bridge isth-edge`],
    },
    {
      reason: 'BFD that takes frames of every VNI for its own would swallow a tenant’s UDP to port 3784',
      given: [['remove', 'Interface', toTokyo, 'bfd', 'check_tnl_key']],
      changes: [`set BFD of port ${toTokyo} of bridge isth-edge`],
    },
    {
      reason: 'a peer that moved has another address',
      given: [],
      want: { ...wanted, peers: [{ ...saopaulo, underlayAddress: '198.51.100.22' }, tokyo] },
      changes: [`replace port ${toSaopaulo} of bridge isth-edge`],
    },
    {
      reason: 'a host that moved has another address at all its tunnels',
      given: [],
      want: { ...wanted, underlayAddress: '198.51.100.33' },
      changes: [toSaopaulo, toTokyo].map((port) => `replace port ${port} of bridge isth-edge`),
    },
    {
      reason: 'a peer that is gone loses its tunnel',
      given: [],
      want: { ...wanted, peers: [saopaulo] },
      changes: [`remove port ${toTokyo} of bridge isth-edge`],
    },
    {
      reason: 'a new peer gets one, and the others keep theirs',
      given: [],
      want: { ...wanted, peers: [saopaulo, tokyo, { site: 'oslo', host: 'a', underlayAddress: '198.51.100.14' }] },
      changes: [`add port ${tunnelPortName('oslo', 'a')} to bridge isth-edge`],
    },
    {
      reason: 'a bridge that forwards without its controller is made secure',
      given: [['set-fail-mode', 'isth-int', 'standalone']],
      changes: ['repair settings of bridge isth-int'],
    },
    {
      reason: 'a bridge that speaks other versions of OpenFlow is set right',
      given: [['set', 'Bridge', 'isth-edge', 'protocols=OpenFlow10,OpenFlow13']],
      changes: ['repair settings of bridge isth-edge'],
    },
    {
      reason: 'another datapath type is set right',
      given: [],
      want: { ...wanted, datapathType: 'system' },
      changes: ['repair settings of bridge isth-int', 'repair settings of bridge isth-edge'],
    },
    {
      reason: 'a listener that was removed is put back',
      given: [['del-controller', 'isth-int']],
      changes: ['set OpenFlow controllers of bridge isth-int to ptcp:6654:127.0.0.1'],
    },
    {
      reason: 'a controller that was added would program the bridge too',
      given: [['set-controller', 'isth-edge', 'ptcp:6655:127.0.0.1', 'tcp:127.0.0.1:6653']],
      changes: ['set OpenFlow controllers of bridge isth-edge to ptcp:6655:127.0.0.1'],
    },
    {
      reason: 'a site that chose another end point gets its listener there',
      given: [],
      want: { ...wanted, listeners: { ...wanted.listeners, int: 'ptcp:6664:127.0.0.1' } },
      changes: ['set OpenFlow controllers of bridge isth-int to ptcp:6664:127.0.0.1'],
    },
    {
      reason: 'a bridge that is gone is made anew, and the other stays',
      given: [['del-br', 'isth-edge']],
      changes: ['create bridge isth-edge'],
    },
    {
      reason: 'bridges that are not ours stay',
      given: [
        ['add-br', 'br-ext'],
        ['add-port', 'br-ext', 'vnet1', '--', 'set', 'Interface', 'vnet1', 'type=dummy'],
      ],
      changes: [],
    },
  ];
  it.each(cases)('$reason', async ({ given, want = wanted, changes }) => {
    await apply(diff());
    // A machine's port and somebody's own, which are none of our business.
    for (const [bridge, port] of [
      ['isth-int', 'vnet0'],
      ['isth-edge', 'mirror0'],
    ] as const)
      await vsctl('add-port', bridge, port, '--', 'set', 'Interface', port, 'type=dummy');
    for (const command of given) await vsctl(...command);
    // By row, for a port that was taken away and put back had its guest cut off.
    const foreign = () =>
      [...ovsdb.rows('Interface')]
        .filter(([, row]) => row['external_ids'] instanceof Map && row['external_ids'].size === 0)
        .map(([uuid, row]) => ({ uuid, name: row['name'] }));
    const before = foreign();
    expect(await apply(diff(want))).toEqual(changes);
    expect(diff(want)).toEqual([]);
    if (!changes.some((change) => change.startsWith('create'))) expect(new Set(foreign())).toEqual(new Set(before));
  });

  it('that bear our name but not our mark are the user’s to move out of the way', async () => {
    await vsctl('add-br', 'isth-int');
    expect(() => diff()).toThrow(expect.objectContaining({ code: 'ISTHMUS_STALLED', reason: 'ForeignBridge' }));
    expect(removeBridges((table) => ovsdb.rows(table))).toEqual([]);
  });

  it('are removed with all that is in them, and nothing else is', async () => {
    await apply(diff());
    await vsctl('add-br', 'br-ext');
    const remove = () => removeBridges((table) => ovsdb.rows(table));
    expect((await apply(remove())).sort()).toEqual(['remove bridge isth-edge', 'remove bridge isth-int']);
    expect(await vsctl('list-br')).toBe('br-ext');
    expect([...ovsdb.rows('Port').values()].map((row) => row['name'])).toEqual(['br-ext']);
    expect(ovsdb.rows('Controller').size).toBe(0);
    expect(remove()).toEqual([]);
  });
});
