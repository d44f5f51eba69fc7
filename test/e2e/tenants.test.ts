import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { kinds, type FederatedVM } from '../../crds/index.js';
import {
  broadcastsOf,
  condition,
  framesSentTo,
  get,
  guest,
  kubectl,
  run,
  sites,
  startOperator,
  stopOperator,
  waitReady,
  type Operator,
  type SiteName,
  applySamples,
} from '../support/lab.js';
import { Capture } from '../support/lab/attack.js';

const machines = ['acme/web-1', 'acme/db-1', 'acme/app-1', 'globex/web-1', 'globex/db-1'] as const;
type MachineKey = (typeof machines)[number];

let operator: Operator | undefined;
const found = new Map<string, FederatedVM>();

beforeAll(async () => {
  operator = await startOperator();
  await applySamples();
}, 90_000);

afterAll(async () => await stopOperator(operator), 90_000);

function machineOf(key: MachineKey): { site: SiteName; mac: string; address: string } {
  const { status } = found.get(key) ?? {};
  const { mac, address } = status?.interfaces?.[0] ?? {};
  const site = sites.find((name) => name === status?.site);
  if (!site || mac === undefined || address === undefined) throw new Error(`${key} has no place, MAC or address`);
  return { site, mac, address };
}

describe('the samples', () => {
  it('become Ready, as kubectl wait sees it', async () => {
    for (const tenant of ['acme', 'globex']) {
      await waitReady(kinds.FederatedNetwork, '--namespace', tenant);
      await waitReady(kinds.FederatedVM, '--namespace', tenant);
    }
    for (const key of machines) found.set(key, await get(kinds.FederatedVM, key));
    for (const key of machines) expect((await guest(key, 'cat /run/ready', 60_000)).exitCode).toBe(0);
  }, 120_000);

  it('run where spec.placement says', () => {
    const places = Object.fromEntries(machines.map((key) => [key, machineOf(key).site]));
    expect(places).toEqual({
      'acme/web-1': 'valencia',
      'acme/db-1': 'saopaulo',
      'acme/app-1': 'lisbon',
      'globex/web-1': 'saopaulo',
      'globex/db-1': 'valencia',
    });
  });

  it('give two networks of one name and CIDR a VLAN and a VNI each', async () => {
    const [acme, globex] = await Promise.all(
      ['acme/blue', 'globex/blue'].map((key) => get(kinds.FederatedNetwork, key)),
    );
    expect(acme?.spec.cidr).toBe(globex?.spec.cidr);
    expect(acme?.status?.vlanId).toEqual(expect.any(Number));
    expect(acme?.status?.vlanId).not.toBe(globex?.status?.vlanId);
    expect(acme?.status?.vni).not.toBe(globex?.status?.vni);
  });

  it('have every flow that they should have at every site', async () => {
    for (const key of ['acme/blue', 'globex/blue']) {
      const { status } = await get(kinds.FederatedNetwork, key);
      expect(status?.sites?.map(({ name, ready }) => ({ name, ready }))).toEqual(
        expect.arrayContaining(sites.map((name) => ({ name, ready: true }))),
      );
      for (const { flows } of status?.sites ?? []) {
        expect(flows?.wanted).toBeGreaterThan(0);
        expect(flows?.present).toBe(flows?.wanted);
      }
    }
  });
});

describe('columns of kubectl get', () => {
  const tables = [
    {
      resource: 'fnet',
      args: ['--namespace', 'acme'],
      columns: 'NAME VLAN VNI CIDR MTU SITES READY REASON AGE',
      row: /^blue \d+ \d+ 172\.16\.0\.0\/16 1450 3\/3 True SitesReady \S+$/m,
      reason: 'a network shows what it was given and how many sites carry it',
    },
    {
      resource: 'fnet',
      args: ['--namespace', 'acme', '--output', 'wide'],
      columns: 'NAME VLAN VNI CIDR MTU SITES READY REASON AGE MACHINES ENDPOINT BRIDGE BY-SITE MESSAGE',
      row: /^blue .* 3 isth-blue-[0-9a-f]{8} isth-int lisbon BuiltIn (\d+)\/\1 flows 1 machine, saopaulo BuiltIn (\d+)\/\2 flows 1 machine, valencia BuiltIn (\d+)\/\3 flows 1 machine /m,
      reason: 'wide, also who programs it, with how many flows, for how many machines at each site',
    },
    {
      resource: 'fvm',
      args: ['--namespace', 'acme'],
      columns: 'NAME SITE HOST FLAVOR IP FLOATING-IP STATUS READY AGE',
      row: /^web-1 valencia a 1\/128Mi 172\.16\.0\.20 Running True \S+$/m,
      reason: 'a machine shows where it is and how to reach it',
    },
    {
      resource: 'fsite',
      args: [],
      columns: 'NAME HOSTS VMS CONTROLLER READY REASON AGE',
      row: /^valencia 1\/1 2 BuiltIn True HostsReady \S+$/m,
      reason: 'a site shows its hosts and what runs there',
    },
  ];
  it.each(tables)('$resource: $reason', async ({ resource, args, columns, row }) => {
    const text = (await kubectl('get', resource, ...args)).replaceAll(/ +/g, ' ').replaceAll(/ $/gm, '');
    expect(text.split('\n')[0]).toBe(columns);
    expect(text).toMatch(row);
  });
});

describe('a tenant’s machines', () => {
  const ways: { from: MachineKey; to: MachineKey; reason: string }[] = [
    { from: 'acme/web-1', to: 'acme/db-1', reason: 'valencia reaches saopaulo' },
    { from: 'acme/db-1', to: 'acme/app-1', reason: 'saopaulo reaches lisbon' },
    { from: 'acme/app-1', to: 'acme/web-1', reason: 'lisbon reaches valencia, at an address that was allocated' },
    { from: 'globex/db-1', to: 'globex/web-1', reason: 'the other tenant has the same names and addresses' },
  ];
  it.each(ways)('$from answers to $to: $reason', async ({ from, to }) => {
    expect(await run('lab/guest', [from, `ping -c 1 -W 3 ${machineOf(to).address}`])).toContain('1 packets received');
  });

  const sizes = [
    { payload: 1422, fragments: 0, reason: '1450 bytes with its headers is the network’s MTU: one packet' },
    { payload: 1423, fragments: 2, reason: 'one byte more has to be cut in two, so 1450 was the limit' },
  ];
  it.each(sizes)('carry a ping of $payload bytes across sites: $reason', async ({ payload, fragments }) => {
    const command = `grep ^Ip: /proc/net/snmp; ping -c 1 -W 3 -s ${String(payload)} ${machineOf('acme/app-1').address}; grep ^Ip: /proc/net/snmp`;
    // Another packet of the same size first: what waits for an address to be resolved counts differently.
    await guest('acme/web-1', `ping -c 1 -W 3 ${machineOf('acme/app-1').address}`);
    const { stdout } = await guest('acme/web-1', command);
    expect(stdout).toContain(`${String(payload + 8)} bytes from`);
    const [before = NaN, after = NaN] = counters(stdout, 'FragCreates');
    expect(after - before).toBe(fragments);
  });
});

/** A counter's values, from `grep ^Ip: /proc/net/snmp` run several times: a line of names, then one of numbers. */
function counters(text: string, name: string): number[] {
  const lines = text.split('\n').filter((line) => line.startsWith('Ip: '));
  const column = lines[0]?.split(' ').indexOf(name) ?? -1;
  if (column < 0) throw new Error(`no column ${name} in ${text}`);
  return lines.filter((_, index) => index % 2 === 1).map((line) => Number(line.split(' ')[column]));
}

describe('two tenants', () => {
  const device = 'device=$(ls /sys/class/net | grep -v lo)';
  const strangers: MachineKey[] = ['globex/web-1', 'globex/db-1'];
  const seen = async (): Promise<number[]> =>
    await Promise.all(
      strangers.map(async (key) => {
        const { site, mac } = machineOf(key);
        return await framesSentTo(site, mac);
      }),
    );

  it('the counters of a port see the tenant’s own frames', async () => {
    const before = await seen();
    await guest('globex/db-1', `ping -c 1 -W 3 ${machineOf('globex/web-1').address}`);
    const after = await seen();
    expect(after[0]).toBeGreaterThan(before[0] ?? NaN);
    expect(after[1]).toBeGreaterThan(before[1] ?? NaN);
  });

  it('a capture on a port sees the tenant’s own frames', async () => {
    await using capture = await Capture.start(machineOf('globex/web-1'), 'out');
    await guest('globex/db-1', `ping -c 2 -W 3 ${machineOf('globex/web-1').address}`);
    expect((await capture.from([machineOf('globex/db-1').mac])).length).toBeGreaterThanOrEqual(2);
  });

  /** `sent` is what the guest says when the frames have left it; `spreads`, how many its own tenant gets as broadcasts. */
  const attempts: { from: MachineKey; command: () => string; sent: string; spreads?: number; reason: string }[] = [
    {
      from: 'acme/db-1',
      command: () => `ping -c 2 -W 1 172.16.0.20`,
      sent: '2 packets received',
      reason: 'the address that both have is answered by the tenant’s own machine alone',
    },
    {
      from: 'acme/web-1',
      command: () => `${device}; arping -c 2 -w 2 -I $device 172.16.77.77`,
      sent: 'Sent 2 probe(s)',
      spreads: 2,
      reason: 'a broadcast ends at the border of the tenant, on the same switch too',
    },
    {
      from: 'acme/app-1',
      command: () => `${device}; arping -c 2 -w 2 -I $device 172.16.77.77`,
      sent: 'Sent 2 probe(s)',
      spreads: 2,
      reason: 'a broadcast from another site does too',
    },
    {
      from: 'acme/db-1',
      command: () => `arp -s 172.16.77.78 ${machineOf('globex/web-1').mac}; ping -c 2 -W 1 172.16.77.78`,
      sent: '2 packets transmitted, 0 packets received',
      reason: 'a frame addressed to the other tenant’s MAC on the same switch is dropped',
    },
    {
      from: 'acme/app-1',
      command: () => `arp -s 172.16.77.78 ${machineOf('globex/db-1').mac}; ping -c 2 -W 1 172.16.77.78`,
      sent: '2 packets transmitted, 0 packets received',
      reason: 'a frame addressed to the other tenant’s MAC at another site is dropped',
    },
    {
      from: 'acme/web-1',
      command: () =>
        `${device}; ip address add 172.16.0.99/16 dev $device; arping -c 2 -w 2 -U -I $device -s 172.16.0.99 172.16.0.99; ip address del 172.16.0.99/16 dev $device`,
      sent: 'Sent 2 probe(s)',
      spreads: 0,
      reason: 'an address that is not the sender’s does not leave it at all',
    },
  ];
  it.each(attempts)('see nothing of each other: $reason', async ({ from, command, sent, spreads }) => {
    const { vni = NaN } = (await get(kinds.FederatedNetwork, 'acme/blue')).status ?? {};
    const before = await broadcastsOf('valencia', vni);
    // What the other tenant's machines say to each other is theirs, so it is the sender that counts.
    const senders = machines.filter((key) => key.startsWith('acme/')).map((key) => machineOf(key).mac);
    await using atWeb = await Capture.start(machineOf('globex/web-1'), 'out');
    await using atDb = await Capture.start(machineOf('globex/db-1'), 'out');
    expect((await guest(from, command())).stdout).toContain(sent);
    expect(await atWeb.from(senders)).toEqual([]);
    expect(await atDb.from(senders)).toEqual([]);
    const spread = (await broadcastsOf('valencia', vni)) - before;
    if (spreads === 0) expect(spread).toBe(0);
    else expect(spread).toBeGreaterThanOrEqual(spreads ?? 0);
  });

  it('an address that only the other tenant has is answered by nobody', async () => {
    const { address } = machineOf('acme/app-1');
    const { exitCode, stdout } = await guest('globex/web-1', `ping -c 2 -W 1 ${address}`);
    expect(stdout).toContain(' 0 packets received');
    expect(exitCode).not.toBe(0);
  });

  it('all are still Ready after that', async () => {
    for (const key of machines) expect(condition(await get(kinds.FederatedVM, key), 'Ready')?.status).toBe('True');
  });
});
