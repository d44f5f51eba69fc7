import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { entryCookie, type Floodlight, FloodlightError, openFloodlight } from '../../drivers/floodlight/index.js';
import { type Flow, flowBody, flowKey, openSwitch, type Switch } from '../../drivers/openflow/index.js';
import { FloodlightStandIn } from '../support/floodlight/index.js';
import { type Exchange, haveRecordings, readExchange, recordingNames } from '../support/floodlight/recordings.js';
import { OpenVSwitch } from '../support/openvswitch.js';

/**
 * Against the stand-in, or against a Floodlight that somebody else runs, without Forwarding and with both clearTables
 * settings NO: ISTHMUS_FLOODLIGHT_REST=http://127.0.0.1:8080 ISTHMUS_FLOODLIGHT_OPENFLOW=tcp:127.0.0.1:6653.
 */
const { ISTHMUS_FLOODLIGHT_REST: realRest, ISTHMUS_FLOODLIGHT_OPENFLOW: realOpenflow } = process.env;
const isReal = realRest !== undefined && realOpenflow !== undefined;
const ifStandIn = isReal ? describe.skip : describe;

const EDGE = 0x0a01n;
const OTHER = 0x0a02n;
const STRANGER = 0xffffn;
const PREFIX = 'isthmus-contract/';
const SETTLE_MS = isReal ? 2000 : 50;

let ovs: OpenVSwitch;
let standIn: FloodlightStandIn | undefined;
let floodlight: Floodlight;
let url: string;
let openflow: string;
/** The bridges, seen past Floodlight. */
const bridges = new Map<bigint, { readonly name: string; readonly listener: string; readonly client: Switch }>();

beforeAll(async () => {
  ovs = await OpenVSwitch.start();
  if (!isReal) standIn = await FloodlightStandIn.start({ settleMs: SETTLE_MS });
  url = realRest ?? standIn?.url ?? '';
  openflow = realOpenflow ?? standIn?.openflow ?? '';
  floodlight = openFloodlight(url);
  for (const [datapathId, name] of [
    [EDGE, 'br0'],
    [OTHER, 'br1'],
  ] as const) {
    const listener = await ovs.addBridge(name);
    for (const port of [1, 2, 3]) await ovs.addPort(name, `${name}p${port}`, port);
    await ovs.vsctl('set', 'bridge', name, `other-config:datapath-id=${datapathId.toString(16).padStart(16, '0')}`);
    const client = openSwitch(listener);
    bridges.set(datapathId, { name, listener, client });
    await attach(datapathId);
    await client.ready();
  }
  await ready(EDGE);
  await ready(OTHER);
});

afterAll(async () => {
  await floodlight.close();
  for (const { client } of bridges.values()) await client.close();
  await ovs.stop();
  await standIn?.stop();
});

/** Removes what a test left, also what a removal of the entry alone does not. */
afterEach(async () => {
  standIn?.behave({});
  if (!isReal) await fetch(`${url}/wm/staticentrypusher/clear/all/json`);
  for (const datapathId of [EDGE, OTHER]) {
    await ready(datapathId);
    for (const name of await floodlight.entries(datapathId)) if (name.startsWith(PREFIX)) await floodlight.remove(name);
    await bridge(datapathId).client.bundle([
      { kind: 'removeAll', filter: { cookie: 10n << 52n, cookieMask: 0xfffn << 52n } },
    ]);
    await until(async () => (await ours(datapathId)).length === 0 && (await floodlight.entries(datapathId)).size === 0);
    // The reports of what was removed come before this answer; later they would take the next test's entries with them.
    await floodlight.flows(datapathId);
  }
});

function bridge(datapathId: bigint) {
  const found = bridges.get(datapathId);
  if (found === undefined) throw new Error(`no bridge ${datapathId.toString(16)}`);
  return found;
}

async function attach(datapathId: bigint): Promise<void> {
  const { name, listener } = bridge(datapathId);
  const [, host = '', port = ''] = listener.split(':');
  await ovs.vsctl('set-controller', name, `ptcp:${port}:${host}`, openflow);
  for (const row of (await ovs.vsctl('--bare', '--columns=_uuid', 'find', 'controller', `target="${openflow}"`)).split(
    '\n',
  ))
    if (row !== '') await ovs.vsctl('set', 'controller', row, 'max_backoff=1000');
}

async function detach(datapathId: bigint): Promise<void> {
  const { name, listener } = bridge(datapathId);
  const [, host = '', port = ''] = listener.split(':');
  await ovs.vsctl('set-controller', name, `ptcp:${port}:${host}`);
  await until(async () => (await connected(datapathId)) === undefined);
}

async function until(condition: () => Promise<boolean>, timeoutMs = 15_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${condition.toString()}`);
    await sleep(20);
  }
}

async function connected(datapathId: bigint) {
  return (await floodlight.switches()).find((each) => each.datapathId === datapathId);
}

/** MASTER, and past the time in which what is pushed may be wiped. */
async function ready(datapathId: bigint): Promise<void> {
  const isMaster = async () => (await connected(datapathId))?.role === 'MASTER';
  if (await isMaster()) return;
  await until(isMaster);
  await sleep(2 * SETTLE_MS);
}

const name = (text: string) => PREFIX + text;

/** All static entries' flows, as the bridge itself tells them. */
const ours = (datapathId: bigint): Promise<Flow[]> =>
  bridge(datapathId).client.dumpFlows({ cookie: 10n << 52n, cookieMask: 0xfffn << 52n });

const identity = (flow: Flow) => `${flowKey(flow)} ${flowBody(flow)}`;
const identities = (flows: readonly Flow[]) => flows.map(identity).sort();
/** The flow as it comes out of an entry of that name. */
const under = (entry: string, flow: Flow): Flow => ({ ...flow, cookie: entryCookie(entry) });

/** The flows of all entries are these, on the bridge and in what Floodlight reads from it. */
async function expectInstalled(datapathId: bigint, flows: readonly Flow[]): Promise<void> {
  await until(async () => identities(await ours(datapathId)).join() === identities(flows).join(), 2000).catch(
    async () => expect(identities(await ours(datapathId))).toEqual(identities(flows)),
  );
  const read = (await floodlight.flows(datapathId)).filter(({ cookie }) => cookie >> 52n === 10n);
  expect(identities(read)).toEqual(identities(flows));
}

const flow = (rest: Partial<Flow>): Flow => ({
  table: 0,
  priority: 100,
  cookie: 0n,
  match: {},
  instructions: { apply: [{ type: 'output', port: 2 }] },
  ...rest,
});

const MAC = '52:54:00:00:00:05';
const IPV4 = { ethType: 0x0800 };
const TCP = { ...IPV4, ipProtocol: 6 };

const flows: { reason: string; flow: Flow }[] = [
  {
    reason: 'of the boundary: a machine on another host',
    flow: flow({
      match: { inPort: 1, vlanId: 100, ethDst: MAC },
      instructions: {
        apply: [{ type: 'popVlan' }, { type: 'setField', field: { tunnelId: 70120n } }, { type: 'output', port: 2 }],
      },
    }),
  },
  {
    reason: 'of the boundary: broadcast and multicast into every tunnel',
    flow: flow({
      priority: 90,
      match: { inPort: 1, vlanId: 100, ethDst: '01:00:00:00:00:00/01:00:00:00:00:00' },
      instructions: {
        apply: [
          { type: 'popVlan' },
          { type: 'setField', field: { tunnelId: 70120n } },
          { type: 'output', port: 2 },
          { type: 'output', port: 3 },
        ],
      },
    }),
  },
  {
    reason: 'of the boundary: what comes by a tunnel',
    flow: flow({
      match: { inPort: 2, tunnelId: 70120n },
      instructions: {
        apply: [{ type: 'pushVlan' }, { type: 'setField', field: { vlanId: 100 } }, { type: 'output', port: 1 }],
      },
    }),
  },
  { reason: 'a drop', flow: flow({ match: { inPort: 3 }, instructions: {} }) },
  { reason: 'a drop of all, above the miss', flow: flow({ priority: 1, instructions: {} }) },
  { reason: 'the highest priority', flow: flow({ priority: 65535, match: { inPort: 1 } }) },
  { reason: 'an untagged frame', flow: flow({ match: { vlanId: 'none' } }) },
  { reason: 'whatever tag', flow: flow({ match: { vlanId: 'any' } }) },
  {
    reason: 'subnets, their host bits to be cleared',
    flow: flow({ match: { ...IPV4, ipv4Src: '10.0.0.9/255.255.255.0', ipv4Dst: '10.0.1.5' } }),
  },
  { reason: 'a mask that meets all is no condition', flow: flow({ match: { ...IPV4, ipv4Src: '0.0.0.0/0.0.0.0' } }) },
  { reason: 'senders of one maker', flow: flow({ match: { ethSrc: '02:00:00:12:34:56/ff:ff:ff:00:00:00' } }) },
  { reason: 'TCP ports', flow: flow({ match: { ...TCP, tcpSrc: 1024, tcpDst: 80 } }) },
  { reason: 'UDP ports', flow: flow({ match: { ...IPV4, ipProtocol: 17, udpSrc: 68, udpDst: 67 } }) },
  { reason: 'ICMP', flow: flow({ match: { ...IPV4, ipProtocol: 1, icmpv4Type: 8, icmpv4Code: 0 } }) },
  {
    reason: 'all of ARP',
    flow: flow({
      match: { ethType: 0x0806, arpOp: 1, arpSpa: '10.0.0.1', arpTpa: '10.0.0.2', arpSha: MAC, arpTha: MAC },
    }),
  },
  { reason: 'the bridge itself as a port', flow: flow({ match: { inPort: 0xffff_fffe } }) },
  ...(['in_port', 'controller', 'local', 'normal'] as const).map((port) => ({
    reason: `out by ${port}`,
    flow: flow({ match: { inPort: 1 }, instructions: { apply: [{ type: 'output', port }] } }),
  })),
  {
    reason: 'addresses rewritten',
    flow: flow({
      match: TCP,
      instructions: {
        apply: [
          { type: 'setField', field: { ethSrc: MAC } },
          { type: 'setField', field: { ethDst: MAC } },
          { type: 'setField', field: { ipv4Src: '10.0.0.9' } },
          { type: 'setField', field: { ipv4Dst: '10.0.0.8' } },
          { type: 'setField', field: { tcpDst: 8080 } },
          { type: 'output', port: 2 },
        ],
      },
    }),
  },
  {
    reason: 'a UDP port rewritten',
    flow: flow({
      match: { ...IPV4, ipProtocol: 17 },
      instructions: {
        apply: [
          { type: 'setField', field: { udpDst: 53 } },
          { type: 'output', port: 2 },
        ],
      },
    }),
  },
  {
    reason: 'metadata written, and the next table',
    flow: flow({
      match: { inPort: 1 },
      instructions: { writeMetadata: { value: 100n, mask: 2n ** 64n - 1n }, goto: 1 },
    }),
  },
  { reason: 'metadata matched in another table', flow: flow({ table: 1, match: { metadata: 100n } }) },
  {
    reason: 'actions and the next table',
    flow: flow({
      match: { inPort: 1 },
      instructions: { apply: [{ type: 'pushVlan' }, { type: 'setField', field: { vlanId: 7 } }], goto: 1 },
    }),
  },
];

describe('what is pushed is on the switch as it was meant, and read back so', () => {
  it.each(flows)('$reason', async ({ reason, flow }) => {
    await floodlight.push(EDGE, name(reason), flow);
    await expectInstalled(EDGE, [under(name(reason), flow)]);
    expect(await floodlight.entries(EDGE)).toEqual(new Set([name(reason)]));
    await floodlight.remove(name(reason));
    await expectInstalled(EDGE, []);
    expect(await floodlight.entries(EDGE)).toEqual(new Set());
  });
});

describe('an entry pushed again', () => {
  const entry = name('again');
  const first = flow({ match: { inPort: 1 } });
  const out3 = { apply: [{ type: 'output', port: 3 }] } as const;
  const changes: { reason: string; to: Flow; datapathId?: bigint }[] = [
    { reason: 'as it was', to: first },
    { reason: 'with other actions', to: flow({ match: { inPort: 1 }, instructions: out3 }) },
    { reason: 'with another match', to: flow({ match: { inPort: 2 } }) },
    { reason: 'with another priority', to: flow({ match: { inPort: 1 }, priority: 101 }) },
    { reason: 'on another switch', to: first, datapathId: OTHER },
  ];
  it.each(changes)('$reason', async ({ to, datapathId = EDGE }) => {
    await floodlight.push(EDGE, entry, first);
    await expectInstalled(EDGE, [under(entry, first)]);
    await floodlight.push(datapathId, entry, to);
    await expectInstalled(datapathId, [under(entry, to)]);
    if (datapathId !== EDGE) await expectInstalled(EDGE, []);
  });
});

describe('what a push does not heal, and what does', () => {
  it('a flow that the switch had refused is listed: remove, then push', async () => {
    const entry = name('refused');
    const refused = flow({ table: 1, match: { inPort: 1 }, instructions: { goto: 0 } });
    const right = flow({ ...refused, instructions: { goto: 2 } });
    await floodlight.push(EDGE, entry, refused);
    await until(async () => (await floodlight.entries(EDGE)).has(entry));
    await floodlight.push(EDGE, entry, right);
    await expectInstalled(EDGE, []);
    await floodlight.remove(entry);
    await floodlight.push(EDGE, entry, right);
    await expectInstalled(EDGE, [under(entry, right)]);
  });

  it('a flow whose table changed stays in both: remove, then push', async () => {
    const entry = name('table');
    const [first, second] = [flow({ match: { inPort: 1 } }), flow({ table: 1, match: { inPort: 1 } })];
    await floodlight.push(EDGE, entry, first);
    await expectInstalled(EDGE, [under(entry, first)]);
    await floodlight.push(EDGE, entry, second);
    await floodlight.remove(entry);
    await expectInstalled(EDGE, [under(entry, first)]);
    await floodlight.push(EDGE, entry, first);
    await floodlight.remove(entry);
    await expectInstalled(EDGE, []);
    await floodlight.push(EDGE, entry, second);
    await expectInstalled(EDGE, [under(entry, second)]);
  });

  it('an entry removed while the switch was away is back with it: push, then remove', async () => {
    const entry = name('away');
    await floodlight.push(EDGE, entry, flow({ match: { inPort: 1 } }));
    await expectInstalled(EDGE, [under(entry, flow({ match: { inPort: 1 } }))]);
    await detach(EDGE);
    await floodlight.remove(entry);
    await attach(EDGE);
    await ready(EDGE);
    await floodlight.remove(entry);
    await expectInstalled(EDGE, [under(entry, flow({ match: { inPort: 1 } }))]);
    expect(await floodlight.entries(EDGE)).toEqual(new Set([entry]));
    await floodlight.push(EDGE, entry, flow({ match: { inPort: 1 } }));
    await floodlight.remove(entry);
    await expectInstalled(EDGE, []);
    expect(await floodlight.entries(EDGE)).toEqual(new Set());
  });

  it('a flow that somebody removed is no longer listed: push', async () => {
    const entry = name('stolen');
    const wanted = flow({ match: { inPort: 1 } });
    await floodlight.push(EDGE, entry, wanted);
    await expectInstalled(EDGE, [under(entry, wanted)]);
    await bridge(EDGE).client.bundle([{ kind: 'removeAll', filter: { cookie: entryCookie(entry) } }]);
    await until(async () => !(await floodlight.entries(EDGE)).has(entry));
    await floodlight.push(EDGE, entry, wanted);
    await expectInstalled(EDGE, [under(entry, wanted)]);
  });

  it('two names of one flow: the last one wins, and removing the first takes both', async () => {
    const [a, b] = [name('twin/a'), name('twin/b')];
    const wanted = flow({ match: { inPort: 1 } });
    await floodlight.push(EDGE, a, wanted);
    await floodlight.push(EDGE, b, wanted);
    await expectInstalled(EDGE, [under(b, wanted)]);
    await floodlight.remove(a);
    await expectInstalled(EDGE, []);
    await until(async () => (await floodlight.entries(EDGE)).size === 0);
  });
});

describe('a switch that Floodlight does not have', () => {
  it('is said so when its flows are read', async () => {
    await expect(floodlight.flows(STRANGER)).rejects.toMatchObject({ code: 'FLOODLIGHT_NO_SWITCH' });
  });

  it('takes entries in, and keeps none', async () => {
    await floodlight.push(STRANGER, name('ghost'), flow({ match: { inPort: 1 } }));
    expect(await floodlight.entries(STRANGER)).toEqual(new Set());
  });
});

it('tells the switches, since when they are connected, and their role', async () => {
  const [edge, other] = [await connected(EDGE), await connected(OTHER)];
  for (const each of [edge, other]) {
    expect(each?.role).toBe('MASTER');
    expect(Math.abs((each?.connectedSince ?? 0) - Date.now())).toBeLessThan(600_000);
  }
});

it('finds no fault with a Floodlight that is configured as it must be', async () => {
  expect(await floodlight.problems()).toEqual([]);
});

it('removes what is not there', async () => {
  await expect(floodlight.remove(name('nobody'))).resolves.toBeUndefined();
});

ifStandIn('a Floodlight in trouble', () => {
  const entry = name('trouble');
  const wanted = flow({ match: { inPort: 1 } });
  const stand = () => {
    if (standIn === undefined) throw new Error('only with the stand-in');
    return standIn;
  };

  /** The error, and that it came in time. */
  async function failure(call: Promise<unknown>, withinMs = 2000): Promise<FloodlightError> {
    const started = performance.now();
    const error: unknown = await call.then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(performance.now() - started).toBeLessThan(withinMs);
    if (error instanceof FloodlightError) return error;
    throw new Error(`not a FloodlightError: ${String(error)}`);
  }

  it('restarted: nothing is listed, the flows live on, and a push adopts them', async () => {
    await floodlight.push(EDGE, entry, wanted);
    await expectInstalled(EDGE, [under(entry, wanted)]);
    await stand().restart();
    await ready(EDGE);
    expect(await floodlight.entries(EDGE)).toEqual(new Set());
    await expectInstalled(EDGE, [under(entry, wanted)]);
    await floodlight.push(EDGE, entry, wanted);
    await expectInstalled(EDGE, [under(entry, wanted)]);
    expect(await floodlight.entries(EDGE)).toEqual(new Set([entry]));
    await floodlight.remove(entry);
    await expectInstalled(EDGE, []);
  });

  it('clearing tables: entries are lost with the connection, which shows by its time', async () => {
    await floodlight.push(EDGE, entry, wanted);
    await expectInstalled(EDGE, [under(entry, wanted)]);
    const before = await connected(EDGE);
    stand().behave({ clearTables: true });
    stand().disconnect(EDGE);
    await until(async () => (await floodlight.entries(EDGE)).size === 0);
    await expectInstalled(EDGE, []);
    expect((await connected(EDGE))?.connectedSince).not.toBe(before?.connectedSince);
  });

  it('clearing tables: what is pushed before the switch is ready is wiped', async () => {
    stand().behave({ clearTables: true });
    stand().disconnect(EDGE);
    await until(async () => (await connected(EDGE)) === undefined);
    await until(async () => (await connected(EDGE)) !== undefined);
    expect((await connected(EDGE))?.role).toBeUndefined();
    await floodlight.push(EDGE, entry, wanted);
    await ready(EDGE);
    await until(async () => (await floodlight.entries(EDGE)).size === 0);
    await expectInstalled(EDGE, []);
  });

  it('not clearing tables: entries outlive the connection', async () => {
    await floodlight.push(EDGE, entry, wanted);
    await expectInstalled(EDGE, [under(entry, wanted)]);
    stand().disconnect(EDGE);
    await until(async () => (await connected(EDGE)) === undefined);
    await ready(EDGE);
    await expectInstalled(EDGE, [under(entry, wanted)]);
    expect(await floodlight.entries(EDGE)).toEqual(new Set([entry]));
  });

  it('a SLAVE lists what never reaches the switch', async () => {
    const role = (word: string) =>
      fetch(`${url}/wm/core/switch/00:00:00:00:00:00:0a:01/role/json`, { method: 'POST', body: `{"role":"${word}"}` });
    await role('SLAVE');
    expect((await connected(EDGE))?.role).toBe('SLAVE');
    await floodlight.push(EDGE, entry, wanted);
    expect(await floodlight.entries(EDGE)).toEqual(new Set([entry]));
    await expectInstalled(EDGE, []);
    await role('MASTER');
    await expectInstalled(EDGE, []);
  });

  it('with Forwarding: it is told, and its flows are read as the passing ones they are', async () => {
    stand().behave({ forwarding: true });
    expect(await floodlight.problems()).toEqual([
      { module: 'net.floodlightcontroller.forwarding.Forwarding', problem: 'OpensPaths' },
    ]);
    const frame = (to: string, from: string) => `${to}${from}88b5${'00'.repeat(46)}`;
    const [one, two] = ['020000000001', '020000000002'];
    await ovs.appctl('netdev-dummy/receive', 'br0p1', frame(two, one));
    await ovs.appctl('netdev-dummy/receive', 'br0p2', frame(one, two));
    const reactive = async () => (await floodlight.flows(EDGE)).find(({ priority }) => priority === 1);
    await until(async () => (await reactive()) !== undefined);
    expect(await reactive()).toMatchObject({
      timeouts: { idleSeconds: 5, hardSeconds: 0 },
      match: { inPort: 2, ethDst: '02:00:00:00:00:01', ethSrc: '02:00:00:00:00:02' },
      instructions: { apply: [{ type: 'output', port: 1 }] },
    });
    await bridge(EDGE).client.bundle([{ kind: 'removeAll', filter: { cookie: 2n << 52n, cookieMask: 0xfffn << 52n } }]);
  });

  it('wedged: changes time out, reads are answered, and a restart helps', async () => {
    await using impatient = openFloodlight(url, { callTimeoutMs: 300 });
    const body = JSON.stringify(readTcpWithoutProtocol());
    void fetch(`${url}/wm/staticentrypusher/json`, { method: 'POST', body }).catch(() => undefined);
    await until(async () => (await failureCode(impatient.remove(entry))) === 'FLOODLIGHT_TIMEOUT');
    expect(await failure(impatient.push(EDGE, entry, wanted))).toMatchObject({ code: 'FLOODLIGHT_TIMEOUT' });
    expect(await impatient.entries(EDGE)).toEqual(new Set());
    expect((await impatient.switches()).length).toBe(2);
    await stand().restart();
    await ready(EDGE);
    await impatient.push(EDGE, entry, wanted);
    await expectInstalled(EDGE, [under(entry, wanted)]);
  });

  const failureCode = (call: Promise<unknown>) =>
    call.then(
      () => undefined,
      (error: unknown) => (error instanceof FloodlightError ? error.code : undefined),
    );
  const readTcpWithoutProtocol = () => ({
    switch: '00:00:00:00:00:00:0a:01',
    name: 'wedge',
    eth_type: '0x0800',
    tcp_dst: '80',
    actions: 'output=2',
  });

  it('silent: each call ends at its deadline, those behind it at once with it', async () => {
    await using impatient = openFloodlight(url, { callTimeoutMs: 300, maxConcurrency: 1 });
    stand().behave({ hang: true });
    const calls = Array.from({ length: 20 }, () => failure(impatient.switches(), 1000));
    for (const error of await Promise.all(calls)) expect(error.code).toBe('FLOODLIGHT_TIMEOUT');
    stand().behave({});
    await expect(impatient.switches()).resolves.toHaveLength(2);
  });

  it('slow, but in time', async () => {
    stand().behave({ delayMs: 200 });
    await expect(floodlight.switches()).resolves.toHaveLength(2);
  });

  it('dead: it is unreachable at once, and reached again once it is back', async () => {
    await stand().stop();
    expect(await failure(floodlight.push(EDGE, entry, wanted))).toMatchObject({ code: 'FLOODLIGHT_UNREACHABLE' });
    await stand().resume();
    await ready(EDGE);
    await expect(floodlight.switches()).resolves.toHaveLength(2);
  });

  it('dead while a call waits for its answer', async () => {
    stand().behave({ hang: true });
    const call = failure(floodlight.entries(EDGE));
    await sleep(50);
    await stand().stop();
    expect(await call).toMatchObject({ code: 'FLOODLIGHT_UNREACHABLE' });
    await stand().resume();
  });

  it.each([
    'Warning! Switch DPID invalid! The flow has been discarded.',
    'Error! Could not parse flow mod, see log for details.',
  ])('HTTP 200 and %j is a refusal', async (status) => {
    stand().behave({ refuseWith: status });
    const error = await failure(floodlight.push(EDGE, entry, wanted));
    expect(error).toMatchObject({ code: 'FLOODLIGHT_REFUSED' });
    expect(error.message).toContain(status);
    expect(await failure(floodlight.remove(entry))).toMatchObject({ code: 'FLOODLIGHT_REFUSED' });
  });

  it('closed: the call under way ends, and none begins', async () => {
    const closing = openFloodlight(url);
    stand().behave({ hang: true });
    const call = failure(closing.switches());
    await sleep(50);
    await closing.close();
    expect(await call).toMatchObject({ code: 'FLOODLIGHT_CLOSED' });
    expect(await failure(closing.switches())).toMatchObject({ code: 'FLOODLIGHT_CLOSED' });
  });
});

/** The stand-in is asked what the real one was asked. */
const ifRecorded = isReal || !haveRecordings ? describe.skip : describe;
ifRecorded('the stand-in does as was recorded', () => {
  if (!haveRecordings) return;

  const ask = async ({ request }: Exchange) => {
    const { method, path, body } = request;
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    const response = await fetch(url + path, {
      method,
      ...(body === null || body === undefined ? {} : { body: text }),
      signal: AbortSignal.timeout(2000),
    });
    return {
      status: response.status,
      contentType: response.headers.get('content-type'),
      body: parse(await response.text()),
    };
  };

  const parse = (text: string): unknown => {
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  };

  /** What NOTES says differs from run to run. */
  const comparable = ({
    status,
    contentType,
    body,
  }: {
    status: number | null;
    contentType: string | null;
    body?: unknown;
  }) => ({
    status,
    contentType,
    body: JSON.parse(
      JSON.stringify(body ?? null, (key, value: unknown) => {
        if (['stackTrace', 'inetAddress', 'connectedSince', 'depends', 'provides'].includes(key)) return undefined;
        return /^(duration|packet_count|byte_count)/.test(key) ? '0' : value;
      }),
    ) as unknown,
  });

  const stateless = [
    ...recordingNames('staticentrypusher-clear'),
    ...recordingNames('staticentrypusher-json'),
    ...recordingNames('staticentrypusher-delete').filter((name) => !name.includes('group')),
    ...['core-controller-switches', 'core-modules-loaded', 'core-health', 'core-unknown-path', 'http-trailing-slash'],
    ...['core-switch-role', 'core-switch-role--unknown-dpid', 'core-switch-role-all', 'core-switch-all-role'],
    ...['core-switch-role-post--bad', 'core-switch-role-post--unknown-dpid', 'http-query-ignored'],
    ...[
      'core-switch-flow',
      'core-switch-flow--bad-dpid',
      'core-switch-flow--dpid-number',
      'core-switch-flow--dpid-uppercase',
    ],
    ...['core-switch-flow--unknown-dpid', 'staticentrypusher-list--empty', 'staticentrypusher-list--bad-dpid'],
    ...['staticentrypusher-list--unknown-dpid', 'staticentrypusher-list--dpid-uppercase'],
    ...['staticflowpusher-legacy-alias', 'staticflowentrypusher-legacy-alias', 'staticentrypusher-list--after-clear'],
  ];

  it.each(stateless)('%s', async (name) => {
    if (name === 'core-modules-loaded') standIn?.behave({ forwarding: true });
    const recorded = readExchange(name);
    const answer = comparable(await ask(recorded));
    const byDpid = (body: unknown) => (Array.isArray(body) ? new Set(body as unknown[]) : body);
    const expected = comparable(recorded.response);
    expect({ ...answer, body: byDpid(answer.body) }).toEqual({ ...expected, body: byDpid(expected.body) });
  });

  const unspoken = /--(group|flow-to|flow-same-name|as-slave|ipv6|vlan-pcp|set-queue|write-actions|big-body|pipeline)/;
  const posts = recordingNames('staticentrypusher-post').filter(
    (name) => !unspoken.test(name) && !name.endsWith('HANGS'),
  );

  /** The lines of the entry's flow in a dump, without counters. */
  const dumped = (lines: readonly string[], cookie: bigint) =>
    lines
      .filter((line) => line.includes(`cookie=0x${cookie.toString(16)},`))
      .map((line) => line.trim().replaceAll(/(duration|n_packets|n_bytes)=[^ ]+ /g, ''));

  const named = z.object({ name: z.string().optional() }).optional().catch(undefined);
  const list = z.record(z.string(), z.array(z.record(z.string(), z.looseObject({}))));
  const listedEntries = async () => {
    const response = await fetch(`${url}/wm/staticentrypusher/list/all/json`);
    return Object.assign({}, ...Object.values(list.parse(await response.json())).flat()) as Record<string, object>;
  };
  /** What the recorded lists say of the entries that were pushed once. */
  const lists = new Map<string, object>(
    ['many', 'spaces', 'dup-match'].flatMap((which) => {
      const { response } = readExchange(`staticentrypusher-list--${which}`);
      return Object.values(list.parse(response.body)).flatMap((entries) =>
        entries.flatMap((each) => Object.entries(each)),
      );
    }),
  );

  it.each(posts)('%s', async (name) => {
    const recorded = readExchange(name);
    const { name: entry } = named.parse(recorded.request.body) ?? {};
    // Of an entry that is pushed again the first push was recorded too.
    const before = name.includes('--repush') ? readExchange('staticentrypusher-post--repush-first') : undefined;
    if (before !== undefined) await ask(before);
    const answer = comparable(await ask(recorded));
    const expected = comparable(recorded.response);
    // The answer to a wish for text or XML is JSON all the same, only called otherwise.
    expect(answer).toEqual({
      ...expected,
      contentType: name.includes('--accept-') ? answer.contentType : expected.contentType,
    });
    await bridge(EDGE).client.barrier();
    await floodlight.flows(EDGE);
    const cookie = entryCookie(entry ?? '');
    for (const [name, lines] of Object.entries(recorded.switchFlowsAfter ?? {})) {
      const { listener } = [...bridges.values()].find((each) => each.name === name) ?? bridge(EDGE);
      const dump = (await ovs.ofctl('dump-flows', listener)).split('\n');
      expect(dumped(dump, cookie)).toEqual(dumped(lines, cookie));
    }
    const listed = (await listedEntries())[entry ?? ''];
    const command = before !== undefined && listed !== undefined ? { command: expect.any(String) } : {};
    // The list was read after the next exchange, which pushed that name again.
    const isOverwritten = name === 'staticentrypusher-post--actions-spaces';
    if (entry !== undefined && lists.has(entry) && !isOverwritten)
      expect(listed).toEqual({ ...lists.get(entry), ...command });
  });
});
