import { describe, expect, it } from '@jest/globals';
import type { Flow as UserFlow } from '../../../crds/index.js';
import type { Frame } from './support/tables.js';
import { World, type WorldHost, type WorldMachine, type WorldNetwork } from './support/world.js';

const hosts: readonly WorldHost[] = [
  { site: 'valencia', name: 'v1' },
  { site: 'saopaulo', name: 's1' },
];
const machine = (tenant: string, last: number, host: string, more: Partial<WorldMachine> = {}): WorldMachine => ({
  name: `${tenant}/${last}`,
  network: `${tenant}/blue`,
  mac: `02:00:00:00:00:${last.toString(16).padStart(2, '0')}`,
  address: `172.16.0.${last}`,
  host,
  ...more,
});
// Both tenants have the same addresses on the same hosts.
const machines = ['acme', 'other'].flatMap((tenant) => [
  machine(tenant, 10, 'v1'),
  machine(tenant, 11, 'v1'),
  machine(tenant, 12, 's1'),
]);
const world = (flows: readonly UserFlow[]): World => {
  const network = (tenant: string, vlan: number, own: readonly UserFlow[]): WorldNetwork => ({
    name: `${tenant}/blue`,
    vlan,
    vni: 4900 + vlan,
    sites: ['valencia', 'saopaulo'],
    policy: { flows: [...own] },
  });
  return new World(hosts, [network('acme', 100, flows), network('other', 101, [])], machines);
};
const find = (name: string): WorldMachine => {
  const found = machines.find((each) => each.name === name);
  if (!found) throw new Error(`no machine ${name}`);
  return found;
};
const tcp = (from: string, to: string, dst: number): Frame => {
  const [sender, receiver] = [find(from), find(to)];
  return {
    ...{ vlans: [], ethSrc: sender.mac, ethDst: receiver.mac, ethType: 0x0800 },
    ip: { protocol: 6, src: sender.address, dst: receiver.address },
    tcp: { src: 4000, dst, flags: 0x10 },
  };
};
const reached = (in_: World, from: string, to: string, dst: number): string[] =>
  in_.send(from, tcp(from, to, dst)).map((delivery) => delivery.machine);

const telnet = { ethType: 'ipv4', ipProtocol: 'tcp', tcpDst: 23 } as const;
const flow = (more: Partial<UserFlow>): UserFlow => ({
  ...{ name: 'a-flow', at: 'Port', priority: 300, match: telnet, actions: [{ drop: {} }] },
  ...more,
});

describe('a flow at the port', () => {
  const cases: readonly { reason: string; flows: readonly UserFlow[]; to: string; dst: number; reaches: string[] }[] = [
    { reason: 'drops what it matches on the host', flows: [flow({})], to: 'acme/11', dst: 23, reaches: [] },
    { reason: 'drops it on its way to another site', flows: [flow({})], to: 'acme/12', dst: 23, reaches: [] },
    { reason: 'leaves alone what it does not match', flows: [flow({})], to: 'acme/11', dst: 24, reaches: ['acme/11'] },
    {
      reason: 'matches blocks of addresses',
      flows: [flow({ match: { ethType: 'ipv4', ipv4Src: '172.16.0.8/29', ipv4Dst: '172.16.0.11/32' } })],
      to: 'acme/11',
      dst: 1,
      reaches: [],
    },
    {
      reason: 'and no others',
      flows: [flow({ match: { ethType: 'ipv4', ipv4Src: '172.16.0.0/29', ipv4Dst: '0.0.0.0/0' } })],
      to: 'acme/11',
      dst: 1,
      reaches: ['acme/11'],
    },
    {
      reason: 'allows what a flow of lower priority would drop',
      flows: [
        flow({ match: {} }),
        flow({ priority: 301, actions: [{ allow: {} }], match: { ethDst: find('acme/11').mac } }),
      ],
      to: 'acme/11',
      dst: 23,
      reaches: ['acme/11'],
    },
    {
      reason: 'sends a frame to another machine of the network',
      flows: [
        flow({ actions: [{ setField: { ethDst: find('acme/12').mac } }, { setField: { ipv4Dst: '172.16.0.12' } }] }),
      ],
      to: 'acme/11',
      dst: 23,
      reaches: ['acme/12'],
    },
  ];
  it.each(cases)('$reason', ({ flows, to, dst, reaches }) => {
    expect(reached(world(flows), 'acme/10', to, dst)).toEqual(reaches);
  });
});

describe('a flow at the boundary', () => {
  const boundary = flow({ at: 'Boundary' });

  it('drops what leaves for another host, and only that', () => {
    expect(reached(world([boundary]), 'acme/10', 'acme/12', 23)).toEqual([]);
    expect(reached(world([boundary]), 'acme/10', 'acme/12', 24)).toEqual(['acme/12']);
    expect(reached(world([boundary]), 'acme/10', 'acme/11', 23)).toEqual(['acme/11']);
  });

  it('rewrites what goes on', () => {
    const rewrite = flow({ at: 'Boundary', actions: [{ setField: { ipv4Dst: '172.16.0.99' } }] });
    const [delivery] = world([rewrite]).send('acme/10', tcp('acme/10', 'acme/12', 23));
    expect(delivery).toMatchObject({ machine: 'acme/12', frame: { ip: { dst: '172.16.0.99' } } });
  });
});

describe('another tenant', () => {
  const everything: readonly UserFlow[] = (['Port', 'Boundary'] as const).map((at) =>
    flow({ name: at.toLowerCase(), at, priority: 1000, match: {} }),
  );

  it('is not touched by a flow that matches everything', () => {
    for (const to of ['other/11', 'other/12']) expect(reached(world(everything), 'other/10', to, 23)).toEqual([to]);
    for (const to of ['acme/11', 'acme/12']) expect(reached(world(everything), 'acme/10', to, 23)).toEqual([]);
  });

  it('gets no frame that a flow would send it: its MACs lead nowhere in this network', () => {
    const foreign: WorldMachine = machine('other', 77, 'v1', { name: 'other/77' });
    const steer = flow({ match: {}, actions: [{ setField: { ethDst: foreign.mac } }] });
    const in_ = new World(
      hosts,
      [
        { name: 'acme/blue', vlan: 100, vni: 5000, sites: ['valencia'], policy: { flows: [steer] } },
        { name: 'other/blue', vlan: 101, vni: 5001, sites: ['valencia'] },
      ],
      [machine('acme', 10, 'v1'), machine('acme', 11, 'v1'), foreign],
    );
    expect(in_.send('acme/10', tcp('acme/10', 'acme/11', 23))).toEqual([]);
  });
});

describe('what a machine may say beyond its own address', () => {
  const speaker = (more: Partial<WorldMachine>): World =>
    new World(
      hosts,
      [{ name: 'acme/blue', vlan: 100, vni: 5000, sites: ['valencia', 'saopaulo'] }],
      [{ ...find('acme/10'), ...more }, find('acme/11'), find('acme/12')],
    );
  const from = (src: string, over: Partial<Frame> = {}): Frame => ({
    ...tcp('acme/10', 'acme/12', 80),
    ip: { protocol: 6, src, dst: '172.16.0.12' },
    ...over,
  });
  const arp = (spa: string): Frame => ({
    ...{ vlans: [], ethSrc: find('acme/10').mac, ethDst: find('acme/12').mac, ethType: 0x0806 },
    arp: { op: 2, sha: find('acme/10').mac, spa, tpa: '172.16.0.12' },
  });
  const offer: Frame = {
    ...from('172.16.0.10'),
    ...{ ip: { protocol: 17, src: '172.16.0.10', dst: '172.16.0.12' }, udp: { src: 67, dst: 68 } },
  };
  const cases: readonly { reason: string; who: Partial<WorldMachine>; frame: Frame; passes: boolean }[] = [
    {
      reason: 'an address of its pairs',
      who: { allowed: ['172.16.0.100'] },
      frame: from('172.16.0.100'),
      passes: true,
    },
    { reason: 'ARP for it', who: { allowed: ['172.16.0.100'] }, frame: arp('172.16.0.100'), passes: true },
    { reason: 'a block of its pairs', who: { allowed: ['10.9.0.0/16'] }, frame: from('10.9.7.7'), passes: true },
    { reason: 'its own still', who: { allowed: ['10.9.0.0/16'] }, frame: from('172.16.0.10'), passes: true },
    {
      reason: 'not what is beside the pairs',
      who: { allowed: ['10.9.0.0/16'] },
      frame: from('10.8.0.1'),
      passes: false,
    },
    {
      reason: 'not with another’s MAC',
      who: { allowed: ['10.9.0.0/16'] },
      frame: from('10.9.7.7', { ethSrc: find('acme/11').mac }),
      passes: false,
    },
    { reason: 'a router, for other networks', who: { role: 'Router' }, frame: from('192.0.2.7'), passes: true },
    { reason: 'a router, for itself', who: { role: 'Router' }, frame: from('172.16.0.10'), passes: true },
    {
      reason: 'a router, never for a machine of this one',
      who: { role: 'Router' },
      frame: from('172.16.0.11'),
      passes: false,
    },
    {
      reason: 'a router, never what no host has sent',
      who: { role: 'Router' },
      frame: from('127.0.0.1'),
      passes: false,
    },
    { reason: 'a router, never a group’s', who: { role: 'Router' }, frame: from('224.0.0.1'), passes: false },
    { reason: 'a router, never by ARP', who: { role: 'Router' }, frame: arp('192.0.2.7'), passes: false },
    {
      reason: 'a router with a pair of this network',
      who: { role: 'Router', allowed: ['172.16.0.100'] },
      frame: from('172.16.0.100'),
      passes: true,
    },
    { reason: 'a DHCP server, its offers', who: { role: 'DHCP' }, frame: offer, passes: true },
    { reason: 'nobody else, offers', who: { role: 'Router' }, frame: offer, passes: false },
    { reason: 'a DHCP server, no foreign address', who: { role: 'DHCP' }, frame: from('192.0.2.7'), passes: false },
  ];
  it.each(cases)('$reason: $passes', ({ who, frame, passes }) => {
    expect(speaker(who).send('acme/10', frame)).toHaveLength(passes ? 1 : 0);
  });
});
