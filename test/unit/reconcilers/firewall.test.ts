import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import type { FirewallPolicy, Policy } from '../../../reconcilers/common/records.js';
import { portMasks } from '../../../reconcilers/dataplane/firewall.js';
import type { Frame } from './support/tables.js';
import { World, type WorldHost, type WorldMachine } from './support/world.js';

const hosts: readonly WorldHost[] = [
  { site: 'valencia', name: 'v1' },
  { site: 'saopaulo', name: 's1' },
];
const machine = (name: string, last: number, host: string, more: Partial<WorldMachine> = {}): WorldMachine => ({
  name,
  network: 'blue',
  mac: `02:00:00:00:00:${last.toString(16).padStart(2, '0')}`,
  address: `172.16.0.${last}`,
  host,
  ...more,
});
// Two on one host, one at another site.
const client = machine('client', 10, 'v1');
const server = machine('server', 11, 'v1');
const away = machine('away', 12, 's1');
const world = (policy: Policy, machines: readonly WorldMachine[] = [client, server, away]): World =>
  new World(hosts, [{ name: 'blue', vlan: 100, vni: 5000, sites: ['valencia', 'saopaulo'], policy }], machines);

const syn = 0x002;
const synAck = 0x012;
const ack = 0x010;

interface Ends {
  readonly from: WorldMachine;
  readonly to: WorldMachine;
}
const packet = ({ from, to }: Ends, protocol: number, over: Partial<Frame>): Frame => ({
  vlans: [],
  ethSrc: from.mac,
  ethDst: to.mac,
  ethType: 0x0800,
  ip: { protocol, src: from.address, dst: to.address },
  ...over,
});
const tcp = (ends: Ends, src: number, dst: number, flags = ack): Frame => packet(ends, 6, { tcp: { src, dst, flags } });
const udp = (ends: Ends, src: number, dst: number): Frame => packet(ends, 17, { udp: { src, dst } });
const ping = (ends: Ends, type: number): Frame => packet(ends, 1, { icmp: { type, code: 0 } });
const arrives = (in_: World, { from, to }: Ends, frame: Frame): boolean =>
  in_.send(from.name, frame).some(({ machine: name }) => name === to.name);

const out = (from: WorldMachine, to: WorldMachine): Ends => ({ from, to });
const firewall = (defaultAction: 'Allow' | 'Deny', ...rules: FirewallPolicy['rules']): Policy => ({
  firewall: { defaultAction, rules },
  flows: [],
});

const web = firewall(
  'Deny',
  { direction: 'Ingress', action: 'Deny', protocol: 'TCP', ports: ['80'], peers: ['172.16.0.12/32'] },
  { direction: 'Ingress', action: 'Allow', protocol: 'TCP', ports: ['80', '8000-8100'], peers: ['172.16.0.0/24'] },
  { direction: 'Ingress', action: 'Allow', protocol: 'ICMP' },
  { direction: 'Egress', action: 'Allow' },
);

describe('who may open a connection', () => {
  const cases: readonly { reason: string; policy: Policy; frame: Frame; ends: Ends; passes: boolean }[] = [
    {
      reason: 'a port that a rule allows',
      policy: web,
      ends: out(client, server),
      frame: tcp(out(client, server), 4000, 80, syn),
      passes: true,
    },
    {
      reason: 'a port within an allowed range',
      policy: web,
      ends: out(client, server),
      frame: tcp(out(client, server), 4000, 8050, syn),
      passes: true,
    },
    {
      reason: 'a port just beyond the range meets the default',
      policy: web,
      ends: out(client, server),
      frame: tcp(out(client, server), 4000, 8101, syn),
      passes: false,
    },
    {
      reason: 'the first rule that matches decides: a peer that is refused before all are allowed',
      policy: web,
      ends: out(away, server),
      frame: tcp(out(away, server), 4000, 80, syn),
      passes: false,
    },
    {
      reason: 'a rule for TCP says nothing of UDP',
      policy: web,
      ends: out(client, server),
      frame: udp(out(client, server), 4000, 80),
      passes: false,
    },
    {
      reason: 'ICMP, from another site too',
      policy: web,
      ends: out(away, server),
      frame: ping(out(away, server), 8),
      passes: true,
    },
    {
      reason: 'an allowed source port opens nothing',
      policy: web,
      ends: out(client, server),
      frame: tcp(out(client, server), 80, 22, syn),
      passes: false,
    },
    {
      reason: 'without rules the default allows',
      policy: firewall('Allow'),
      ends: out(client, away),
      frame: udp(out(client, away), 1, 2),
      passes: true,
    },
    {
      reason: 'without rules the default denies',
      policy: firewall('Deny'),
      ends: out(client, away),
      frame: udp(out(client, away), 1, 2),
      passes: false,
    },
    {
      reason: 'what may not leave does not reach a machine that would take it',
      policy: firewall('Allow', { direction: 'Egress', action: 'Deny', protocol: 'UDP', ports: ['53'] }),
      ends: out(client, server),
      frame: udp(out(client, server), 4000, 53),
      passes: false,
    },
    {
      reason: 'a beginning that claims to be an answer is none',
      policy: firewall('Deny', { direction: 'Egress', action: 'Allow' }),
      ends: out(client, server),
      frame: tcp(out(client, server), 80, 4000, synAck),
      passes: false,
    },
    {
      reason: 'UDP that nobody asked for is no answer, whatever its source port',
      policy: firewall('Deny', { direction: 'Egress', action: 'Allow' }),
      ends: out(client, server),
      frame: udp(out(client, server), 53, 4000),
      passes: false,
    },
    {
      reason: 'the rest of a fragmented datagram that a rule allows by its port',
      policy: firewall(
        'Deny',
        { direction: 'Egress', action: 'Allow' },
        { direction: 'Ingress', action: 'Allow', protocol: 'UDP', ports: ['53'] },
      ),
      ends: out(client, server),
      frame: packet(out(client, server), 17, { fragment: 'later' }),
      passes: true,
    },
    {
      reason: 'not the rest of what no rule allows by its protocol',
      policy: firewall(
        'Deny',
        { direction: 'Egress', action: 'Allow' },
        { direction: 'Ingress', action: 'Allow', protocol: 'TCP', ports: ['53'] },
      ),
      ends: out(client, server),
      frame: packet(out(client, server), 17, { fragment: 'later' }),
      passes: false,
    },
    {
      reason: 'without a firewall everything of the network passes',
      policy: { flows: [] },
      ends: out(client, away),
      frame: tcp(out(client, away), 80, 4000),
      passes: true,
    },
  ];
  it.each(cases)('$reason', ({ policy, frame, ends, passes }) => {
    expect(arrives(world(policy), ends, frame)).toBe(passes);
  });
});

describe('ARP', () => {
  it('passes whatever the firewall says: without it no rule could be of use', () => {
    const frame: Frame = {
      ...{ vlans: [], ethSrc: client.mac, ethDst: 'ff:ff:ff:ff:ff:ff', ethType: 0x0806 },
      arp: { op: 1, sha: client.mac, spa: client.address, tpa: server.address },
    };
    expect(world(firewall('Deny')).send('client', frame)).toHaveLength(2);
  });
});

describe.each([
  { reason: 'on one host', peer: server },
  { reason: 'across sites', peer: away },
])('an open connection $reason', ({ peer }) => {
  const [there, back] = [out(client, peer), out(peer, client)];
  // Nobody may open a connection to anyone but the web server's port, which is everybody's.
  const closed = firewall(
    'Deny',
    { direction: 'Egress', action: 'Allow', protocol: 'TCP', ports: ['80'] },
    { direction: 'Egress', action: 'Allow', protocol: 'UDP', ports: ['53'] },
    { direction: 'Ingress', action: 'Allow', protocol: 'TCP', ports: ['80'] },
    { direction: 'Ingress', action: 'Allow', protocol: 'UDP', ports: ['53'] },
  );

  it('gets its answers, of TCP and UDP', () => {
    const in_ = world(closed);
    expect(arrives(in_, there, tcp(there, 4000, 80, syn))).toBe(true);
    expect(arrives(in_, back, tcp(back, 80, 4000, synAck))).toBe(true);
    expect(arrives(in_, there, tcp(there, 4000, 80))).toBe(true);
    expect(arrives(in_, there, udp(there, 4000, 53))).toBe(true);
    expect(arrives(in_, back, udp(back, 53, 4000))).toBe(true);
  });

  it('lets nothing else in', () => {
    const in_ = world(closed);
    expect(arrives(in_, there, udp(there, 4000, 53))).toBe(true);
    expect(arrives(in_, back, udp(back, 53, 4001))).toBe(false);
    expect(arrives(in_, back, udp(back, 54, 4000))).toBe(false);
  });

  it('outlives a firewall that is new and would allow it, whoever speaks first', () => {
    const in_ = world(closed);
    expect(arrives(in_, back, tcp(back, 80, 4000))).toBe(true);
    expect(arrives(in_, there, tcp(there, 4000, 80))).toBe(true);
    const other = world(closed);
    expect(arrives(other, there, tcp(there, 4000, 80))).toBe(true);
    expect(arrives(other, back, tcp(back, 80, 4000))).toBe(true);
  });

  it('that a new firewall would not allow ends with it', () => {
    const in_ = world(closed);
    expect(arrives(in_, there, tcp(there, 4000, 22))).toBe(false);
    expect(arrives(in_, back, tcp(back, 22, 4000))).toBe(false);
  });

  it('ends when a rule that denies it comes, answers too', () => {
    const before = world(closed);
    expect(arrives(before, there, udp(there, 4000, 53))).toBe(true);
    expect(arrives(before, back, udp(back, 53, 4000))).toBe(true);
    const after = world(firewall('Deny')).remember(before.connections);
    expect(arrives(after, there, udp(there, 4000, 53))).toBe(false);
    expect(arrives(after, back, udp(back, 53, 4000))).toBe(false);
    // And lives again when the rule is taken back.
    const again = world(closed).remember(after.connections);
    expect(arrives(again, there, udp(there, 4000, 53))).toBe(true);
    expect(arrives(again, back, udp(back, 53, 4000))).toBe(true);
  });
});

describe('a connection of a machine that moves', () => {
  const open = firewall('Deny', { direction: 'Egress', action: 'Allow' });
  // Only the client filters: the peer's answers are what its new host has not seen asked for.
  const moved = { ...client, host: 's1' };

  it.each([{ reason: 'that it opened goes on though only the peer sends', dst: 80 }])('$reason', () => {
    const policy = firewall(
      'Deny',
      { direction: 'Egress', action: 'Allow' },
      { direction: 'Ingress', action: 'Allow', protocol: 'TCP', ports: ['80'], peers: ['172.16.0.10/32'] },
    );
    const before = world(policy);
    expect(arrives(before, out(client, server), tcp(out(client, server), 4000, 80, syn))).toBe(true);
    expect(arrives(before, out(server, client), tcp(out(server, client), 80, 4000, synAck))).toBe(true);
    const after = world(policy, [moved, server, away]).remember(before.connections);
    expect(arrives(after, out(server, moved), tcp(out(server, moved), 80, 4000))).toBe(true);
    expect(arrives(after, out(moved, server), tcp(out(moved, server), 4000, 80))).toBe(true);
  });

  it('does not open the machine to others', () => {
    const after = world(open, [moved, server, away]);
    expect(arrives(after, out(server, moved), tcp(out(server, moved), 80, 4000, syn))).toBe(false);
    expect(arrives(after, out(server, moved), udp(out(server, moved), 53, 4000))).toBe(false);
  });
});

describe('a range of ports', () => {
  it('comes to masks that hold exactly its ports, each once', () => {
    const range = fc
      .tuple(fc.integer({ min: 1, max: 65_535 }), fc.integer({ min: 1, max: 65_535 }))
      .map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const);
    fc.assert(
      fc.property(range, fc.integer({ min: 0, max: 65_535 }), ([from, to], port) => {
        const masks = portMasks(`${from}-${to}`);
        const hits = (each: number): number => masks.filter(({ value, mask }) => (each & mask) === value).length;
        expect(hits(port)).toBe(port >= from && port <= to ? 1 : 0);
        expect([hits(from), hits(to), hits(from - 1), hits(to + 1 > 65_535 ? 0 : to + 1)]).toEqual([1, 1, 0, 0]);
        expect(masks.length).toBeLessThanOrEqual(30);
      }),
    );
  });

  it.each([
    { reason: 'one port', range: '22', masks: [{ value: 22, mask: 0xffff }] },
    { reason: 'an aligned block', range: '8000-8031', masks: [{ value: 8000, mask: 0xffe0 }] },
  ])('is as few as possible: $reason', ({ range, masks }) => {
    expect(portMasks(range)).toEqual(masks);
  });
});
