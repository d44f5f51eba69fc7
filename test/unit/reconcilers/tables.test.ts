import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import type { Frame } from './support/tables.js';
import { World, type WorldHost, type WorldMachine, type WorldNetwork } from './support/world.js';

const broadcast = 'ff:ff:ff:ff:ff:ff';
const multicast = '01:00:5e:00:00:fb';
const nobody = '02:00:00:00:00:99';
const types = { ipv4: 0x0800, arp: 0x0806, rarp: 0x8035, ipv6: 0x86dd, lldp: 0x88cc } as const;

const hosts: readonly WorldHost[] = [
  { site: 'valencia', name: 'v1' },
  { site: 'valencia', name: 'v2' },
  { site: 'saopaulo', name: 's1' },
  { site: 'tokyo', name: 't1' },
];
const networks: readonly WorldNetwork[] = [
  { name: 'acme/blue', vlan: 100, vni: 5000, sites: ['valencia', 'saopaulo'] },
  { name: 'other/blue', vlan: 101, vni: 5001, sites: ['valencia', 'saopaulo', 'tokyo'] },
];
// Two tenants with the very same addresses, MACs even, on the same hosts.
const tenants = ['acme', 'other'] as const;
const machines: readonly WorldMachine[] = tenants.flatMap((tenant) => [
  { name: `${tenant}/a`, network: `${tenant}/blue`, mac: '02:00:00:00:00:0a', address: '172.16.0.10', host: 'v1' },
  { name: `${tenant}/b`, network: `${tenant}/blue`, mac: '02:00:00:00:00:0b', address: '172.16.0.11', host: 'v1' },
  { name: `${tenant}/c`, network: `${tenant}/blue`, mac: '02:00:00:00:00:0c', address: '172.16.0.12', host: 'v2' },
  { name: `${tenant}/d`, network: `${tenant}/blue`, mac: '02:00:00:00:00:0d', address: '172.16.0.13', host: 's1' },
]);
const world = new World(hosts, networks, machines);

const find = (name: string): WorldMachine => {
  const machine = machines.find((each) => each.name === name);
  if (!machine) throw new Error(`no machine ${name}`);
  return machine;
};
const a = find('acme/a');

const ip = (from: WorldMachine, ethDst: string, dst: string, over: Partial<Frame> = {}): Frame => ({
  vlans: [],
  ethSrc: from.mac,
  ethDst,
  ethType: types.ipv4,
  ip: { protocol: 1, src: from.address, dst },
  ...over,
});
const to = (from: WorldMachine, name: string): Frame => ip(from, find(name).mac, find(name).address);
const arp = (from: WorldMachine, over: Partial<NonNullable<Frame['arp']>> = {}, ethDst = broadcast): Frame => ({
  vlans: [],
  ethSrc: from.mac,
  ethDst,
  ethType: types.arp,
  arp: { op: 1, sha: from.mac, spa: from.address, tpa: '172.16.0.1', ...over },
});
/** As QEMU announces a migrated guest. */
const rarp = (from: WorldMachine, over: Partial<NonNullable<Frame['arp']>> = {}): Frame => ({
  vlans: [],
  ethSrc: from.mac,
  ethDst: broadcast,
  ethType: types.rarp,
  arp: { op: 3, sha: from.mac, spa: '0.0.0.0', tha: from.mac, tpa: '0.0.0.0', ...over },
});
const udp = (from: WorldMachine, src: string, dst: string, ports: { src: number; dst: number }): Frame =>
  ip(from, broadcast, dst, { ip: { protocol: 17, src, dst }, udp: ports });

const others = ['acme/b', 'acme/c', 'acme/d'];

describe('a frame that a machine sends', () => {
  const cases: readonly { reason: string; frame: Frame; reaches: readonly string[] }[] = [
    { reason: 'unicast reaches a machine of the same host', frame: to(a, 'acme/b'), reaches: ['acme/b'] },
    { reason: 'unicast reaches a machine of the same site’s other host', frame: to(a, 'acme/c'), reaches: ['acme/c'] },
    { reason: 'unicast reaches a machine of another site', frame: to(a, 'acme/d'), reaches: ['acme/d'] },
    { reason: 'unknown unicast is not flooded', frame: ip(a, nobody, '172.16.0.99'), reaches: [] },
    { reason: 'a frame to oneself does not come back', frame: ip(a, a.mac, a.address), reaches: [] },
    { reason: 'broadcast reaches each other machine once, wherever it is', frame: arp(a), reaches: others },
    { reason: 'multicast goes the way of broadcast', frame: ip(a, multicast, '224.0.0.251'), reaches: others },
    {
      reason: 'an ARP reply goes to who asked',
      frame: arp(a, { op: 2 }, find('acme/d').mac),
      reaches: ['acme/d'],
    },
    { reason: 'an ARP probe (RFC 5227) has no sender address yet', frame: arp(a, { spa: '0.0.0.0' }), reaches: others },
    {
      reason: 'a DHCP client asks before it has an address',
      frame: udp(a, '0.0.0.0', '255.255.255.255', { src: 68, dst: 67 }),
      reaches: others,
    },
    {
      reason: 'QEMU announces a migrated guest by RARP',
      frame: rarp(a),
      reaches: others,
    },
    { reason: 'another’s MAC as source is spoofed', frame: { ...to(a, 'acme/d'), ethSrc: nobody }, reaches: [] },
    {
      reason: 'the receiver’s own MAC as source is spoofed',
      frame: { ...arp(a), ethSrc: find('acme/b').mac },
      reaches: [],
    },
    {
      reason: 'another’s address as source is spoofed',
      frame: ip(a, find('acme/d').mac, '172.16.0.13', { ip: { protocol: 1, src: '172.16.0.11', dst: '172.16.0.13' } }),
      reaches: [],
    },
    { reason: 'ARP that speaks for another address is spoofed', frame: arp(a, { spa: '172.16.0.1' }), reaches: [] },
    { reason: 'ARP that names another MAC is spoofed', frame: arp(a, { sha: nobody }), reaches: [] },
    {
      reason: 'a probe that names another MAC is spoofed too',
      frame: arp(a, { sha: nobody, spa: '0.0.0.0' }),
      reaches: [],
    },
    {
      reason: 'RARP with another’s MAC would move that machine away',
      frame: rarp(find('acme/b')),
      reaches: [],
    },
    {
      reason: 'RARP that names another inside would too, for whoever reads that',
      frame: rarp(a, { sha: find('acme/b').mac, tha: find('acme/b').mac }),
      reaches: [],
    },
    {
      reason: 'RARP that asks for another is not an announcement',
      frame: rarp(a, { tha: find('acme/b').mac }),
      reaches: [],
    },
    {
      reason: 'a RARP server tells machines what their address is',
      frame: rarp(a, { op: 4, tha: find('acme/b').mac, tpa: '172.16.0.66' }),
      reaches: [],
    },
    {
      reason: 'no address as source is only for DHCP',
      frame: udp(a, '0.0.0.0', '255.255.255.255', { src: 68, dst: 53 }),
      reaches: [],
    },
    {
      reason: 'no address as source is only for DHCP’s own port',
      frame: udp(a, '0.0.0.0', '255.255.255.255', { src: 53, dst: 67 }),
      reaches: [],
    },
    {
      reason: 'no address as source to one host is not for DHCP',
      frame: udp(a, '0.0.0.0', '172.16.0.13', { src: 68, dst: 67 }),
      reaches: [],
    },
    {
      reason: 'a machine is no DHCP server, whatever its address',
      frame: udp(a, a.address, '255.255.255.255', { src: 67, dst: 68 }),
      reaches: [],
    },
    {
      reason: 'a DHCP server’s answer does not pass in fragments either',
      frame: { ...udp(a, a.address, '255.255.255.255', { src: 67, dst: 68 }), fragment: 'first' },
      reaches: [],
    },
    {
      reason: 'a DHCP client takes an answer from whichever port it comes',
      frame: udp(a, a.address, '255.255.255.255', { src: 1067, dst: 68 }),
      reaches: [],
    },
    {
      reason: 'a first fragment too short for UDP’s ports would get round every rule on them',
      frame: { ...udp(a, a.address, '255.255.255.255', { src: 0, dst: 0 }), fragment: 'first' },
      reaches: [],
    },
    {
      reason: 'a first fragment too short for TCP’s header would too (RFC 1858)',
      frame: {
        ...ip(a, find('acme/d').mac, '172.16.0.13', { ip: { protocol: 6, src: a.address, dst: '172.16.0.13' } }),
        ...{ tcp: { src: 0, dst: 0, flags: 0 }, fragment: 'first' },
      },
      reaches: [],
    },
    {
      reason: 'a first fragment with its ports passes, and so do the later ones',
      frame: {
        ...ip(a, find('acme/d').mac, '172.16.0.13', { ip: { protocol: 6, src: a.address, dst: '172.16.0.13' } }),
        ...{ tcp: { src: 4000, dst: 80, flags: 2 }, fragment: 'first' },
      },
      reaches: ['acme/d'],
    },
    { reason: 'a tag of the own network is not the machine’s to set', frame: { ...arp(a), vlans: [100] }, reaches: [] },
    { reason: 'a tag of another’s network leads nowhere', frame: { ...arp(a), vlans: [101] }, reaches: [] },
    { reason: 'two tags lead nowhere', frame: { ...arp(a), vlans: [100, 101] }, reaches: [] },
    { reason: 'a priority tag (id 0) is a tag', frame: { ...arp(a), vlans: [0] }, reaches: [] },
    {
      reason: 'IPv6 does not pass in v1alpha1',
      frame: { vlans: [], ethSrc: a.mac, ethDst: '33:33:00:00:00:01', ethType: types.ipv6 },
      reaches: [],
    },
    {
      reason: 'LLDP stays on its link',
      frame: { vlans: [], ethSrc: a.mac, ethDst: '01:80:c2:00:00:0e', ethType: types.lldp },
      reaches: [],
    },
  ];
  it.each(cases)('$reason', ({ frame, reaches }) => {
    const deliveries = world.send('acme/a', frame);
    expect(deliveries.map(({ machine }) => machine).sort()).toEqual(reaches);
    for (const delivery of deliveries) expect(delivery.frame).toEqual(frame);
  });

  it('is replicated to each host that may have machines of the network, and to no other', () => {
    world.send('acme/a', arp(a));
    // Tunnels are numbered by host: v2 = 11, s1 = 12, t1 = 13.
    expect(world.hops.filter((hop) => hop.startsWith('v1: edge'))).toEqual(['v1: edge 2 → 11', 'v1: edge 2 → 12']);
    world.send('other/a', arp(find('other/a')));
    expect(world.hops.filter((hop) => hop.startsWith('v1: edge'))).toEqual([
      'v1: edge 2 → 11',
      'v1: edge 2 → 12',
      'v1: edge 2 → 13',
    ]);
  });
});

describe('a frame that a tunnel brings', () => {
  const d = find('acme/d');
  const cases: readonly { reason: string; host: string; from: string; vni: number; frame: Frame; reaches: readonly string[] }[] = [
    { reason: 'unicast reaches its machine', host: 'v1', from: 's1', vni: 5000, frame: to(d, 'acme/a'), reaches: ['acme/a'] },
    { reason: 'broadcast reaches the machines of this host', host: 'v1', from: 's1', vni: 5000, frame: arp(d), reaches: ['acme/a', 'acme/b'] },
    { reason: 'the VNI alone tells the tenant', host: 'v1', from: 's1', vni: 5001, frame: arp(d), reaches: ['other/a', 'other/b'] },
    { reason: 'a host without machines takes it and drops it', host: 't1', from: 's1', vni: 5001, frame: arp(d), reaches: [] },
    { reason: 'an unknown VNI is dropped', host: 'v1', from: 's1', vni: 5002, frame: arp(d), reaches: [] },
    { reason: 'no VNI is dropped', host: 'v1', from: 's1', vni: 0, frame: arp(d), reaches: [] },
    { reason: 'a tag inside the tunnel is no way in, nor on', host: 'v1', from: 's1', vni: 0, frame: { ...arp(d), vlans: [100] }, reaches: [] },
    { reason: 'a VNI from a site that is not in the network is dropped', host: 'v1', from: 't1', vni: 5000, frame: arp(d), reaches: [] },
    { reason: 'a VNI at a site that is not in the network is dropped', host: 't1', from: 'v1', vni: 5000, frame: arp(d), reaches: [] },
    { reason: 'for a machine elsewhere it is not sent on', host: 'v1', from: 's1', vni: 5000, frame: to(d, 'acme/c'), reaches: [] },
    { reason: 'unknown unicast is dropped', host: 'v1', from: 's1', vni: 5000, frame: ip(d, nobody, '172.16.0.99'), reaches: [] },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ host, from, vni, frame, reaches }) => {
    expect(world.arrive(host, from, vni, frame).map(({ machine }) => machine)).toEqual(reaches);
    // Only ever to the patch: not to another tunnel, nor back.
    expect(world.hops.filter((hop) => hop.includes('edge') && !hop.endsWith('→ 2'))).toEqual([]);
  });
});

describe('a machine on its way from s1 to v1', () => {
  const moving = (host: string): World =>
    new World(
      hosts,
      networks,
      machines.map((each) => (each.name === 'acme/d' ? { ...each, host, portsAt: ['s1', 'v1'] } : each)),
    );
  const reached = (at: World, from: string, frame: Frame, by?: string) =>
    at.send(from, frame, by).map(({ machine, at: host }) => `${machine}@${host}`);
  const d = find('acme/d');

  it('gets its frames at the source, from everywhere, while the record says so', () => {
    const before = moving('s1');
    for (const from of ['acme/a', 'acme/c'])
      expect(reached(before, from, to(find(from), 'acme/d'))).toEqual(['acme/d@s1']);
  });

  it('gets them at the target, from everywhere, once the record has changed', () => {
    const after = moving('v1');
    for (const from of ['acme/a', 'acme/c'])
      expect(reached(after, from, to(find(from), 'acme/d'))).toEqual(['acme/d@v1']);
  });

  it('may speak at the target the moment it resumes, and its port security is there', () => {
    const before = moving('s1');
    expect(reached(before, 'acme/d', to(d, 'acme/a'), 'v1')).toEqual(['acme/a@v1']);
    expect(reached(before, 'acme/d', to(d, 'acme/c'), 'v1')).toEqual(['acme/c@v2']);
    expect(reached(before, 'acme/d', { ...to(d, 'acme/a'), ethSrc: nobody }, 'v1')).toEqual([]);
    expect(reached(before, 'acme/d', { ...to(d, 'acme/a'), vlans: [101] }, 'v1')).toEqual([]);
  });

  it('hears broadcast at both ends, so that none is missed at the switch-over', () => {
    for (const owner of ['s1', 'v1'])
      expect(reached(moving(owner), 'acme/a', arp(a)).sort()).toEqual([
        'acme/b@v1',
        'acme/c@v2',
        'acme/d@s1',
        'acme/d@v1',
      ]);
  });
});

describe('any world', () => {
  const letters = ['a', 'b', 'c'] as const;
  const macOf = (index: number): string => `02:00:00:00:00:${(0x10 + index).toString(16)}`;
  const addressOf = (index: number): string => `10.0.0.${10 + index}`;

  const worlds: fc.Arbitrary<World> = fc
    .record({
      hostSites: fc.array(fc.constantFrom(...letters), { minLength: 1, maxLength: 4 }),
      members: fc.array(fc.uniqueArray(fc.constantFrom(...letters), { minLength: 1 }), { minLength: 1, maxLength: 3 }),
      // Few MACs and addresses, so that tenants share them; within a network they are unique.
      placed: fc.array(fc.record({ network: fc.nat(2), id: fc.nat(3), at: fc.nat(3), alsoAt: fc.option(fc.nat(3)) }), {
        maxLength: 8,
      }),
    })
    .map(({ hostSites, members, placed }) => {
      const all = hostSites.map((site, index) => ({ site, name: `h${index}` }));
      const nets = members.map((sites, index) => ({ name: `n${index}`, vlan: 100 + index, vni: 5000 + index, sites }));
      const inhabitants = new Map<string, WorldMachine>();
      for (const { network, id, at, alsoAt } of placed) {
        const net = nets[network % nets.length];
        const possible = all.filter(({ site }) => net?.sites.includes(site));
        const [host, other] = [possible[at % possible.length], possible[(alsoAt ?? at) % possible.length]];
        if (!net || !host || !other) continue;
        const name = `${net.name}/${id}`;
        inhabitants.set(name, {
          name,
          network: net.name,
          mac: macOf(id),
          address: addressOf(id),
          host: host.name,
          portsAt: [...new Set([host.name, other.name])],
        });
      }
      return new World(all, nets, [...inhabitants.values()]);
    });

  const someMac = fc.oneof(fc.nat(4).map(macOf), fc.constantFrom(broadcast, multicast, '33:33:00:00:00:01'));
  const someAddress = fc.oneof(fc.nat(4).map(addressOf), fc.constantFrom('0.0.0.0', '255.255.255.255'));
  const somePort = fc.constantFrom(53, 67, 68);
  const frames: fc.Arbitrary<Frame> = fc
    .record({
      vlans: fc.oneof(
        { weight: 4, arbitrary: fc.constant([]) },
        fc.array(fc.integer({ min: 99, max: 103 }), { maxLength: 2 }),
      ),
      ethSrc: someMac,
      ethDst: someMac,
      ethType: fc.constantFrom(...Object.values(types), 0x1234),
      addresses: fc.tuple(someAddress, someAddress),
      sha: someMac,
      op: fc.constantFrom(1, 2, 3, 4),
      protocol: fc.constantFrom(1, 6, 17),
      ports: fc.tuple(somePort, somePort),
      fragment: fc.constantFrom(undefined, undefined, 'first' as const, 'later' as const),
    })
    .map(({ vlans, ethSrc, ethDst, ethType, addresses: [src, dst], sha, op, protocol, ports, fragment }): Frame => ({
      vlans,
      ethSrc,
      ethDst,
      ethType,
      ...(ethType === types.arp || ethType === types.rarp ? { arp: { op, sha, spa: src, tha: sha, tpa: dst } } : {}),
      ...(ethType === types.ipv4 ? { ip: { protocol, src, dst } } : {}),
      ...(ethType === types.ipv4 && protocol === 17 && fragment !== 'later'
        ? { udp: { src: ports[0], dst: ports[1] } }
        : {}),
      ...(ethType === types.ipv4 && fragment ? { fragment } : {}),
    }));

  /** The frame with this MAC as its source, and in all that ARP says. */
  const under = (frame: Frame, mac: string): Frame[] => [
    { ...frame, ethSrc: mac },
    ...(frame.arp ? [{ ...frame, ethSrc: mac, arp: { ...frame.arp, sha: mac, tha: mac } }] : []),
  ];

  it('never brings a machine’s frame to another tenant, whatever the frame, and only as its own', () => {
    let delivered = 0;
    fc.assert(
      fc.property(worlds, fc.array(frames, { minLength: 1, maxLength: 8 }), (random, some) => {
        for (const sender of random.machines)
          for (const at of sender.portsAt ?? [])
            for (const frame of some.flatMap((each) => [each, ...under(each, sender.mac)])) {
              const deliveries = random.send(sender.name, frame, at);
              delivered += deliveries.length;
              for (const { machine, frame: received } of deliveries) {
                expect(machine.split('/')[0]).toBe(sender.network);
                expect(received).toEqual(frame);
                expect(received.ethSrc).toBe(sender.mac);
                expect(received.vlans).toEqual([]);
                expect([sender.mac, undefined]).toContain(received.arp?.sha);
                expect([sender.address, '0.0.0.0', undefined]).toContain(received.ip?.src ?? received.arp?.spa);
              }
            }
      }),
      { numRuns: 150 },
    );
    // Else the property would hold of tables that drop everything.
    expect(delivered).toBeGreaterThan(100);
  });

  it('never sends on by a tunnel what came by a tunnel, nor to a network that spans not both sites', () => {
    fc.assert(
      fc.property(worlds, frames, fc.integer({ min: 4999, max: 5003 }), (random, frame, vni) => {
        for (const host of random.hosts)
          for (const peer of random.hosts.filter((each) => each !== host)) {
            const network = random.networks.find((each) => each.vni === vni);
            const isMember = [host, peer].every(({ site }) => network?.sites.includes(site));
            // World throws when a tunnel's frame leaves by a tunnel.
            const deliveries = random.arrive(host.name, peer.name, vni, frame);
            if (!isMember) expect(deliveries).toEqual([]);
            for (const { machine, at } of deliveries) {
              expect(machine.split('/')[0]).toBe(network?.name);
              expect(at).toBe(host.name);
            }
          }
      }),
      { numRuns: 150 },
    );
  });

  it('lets every machine reach every other of its network, at its owner, by unicast and by broadcast', () => {
    let pairs = 0;
    fc.assert(
      fc.property(worlds, (random) => {
        for (const sender of random.machines) {
          const peers = random.machines.filter((each) => each.network === sender.network && each !== sender);
          for (const peer of peers) {
            pairs++;
            const frame = ip(sender, peer.mac, peer.address);
            expect(random.send(sender.name, frame)).toEqual([{ machine: peer.name, at: peer.host, frame }]);
          }
          const heard = random.send(sender.name, arp(sender)).map(({ machine, at }) => `${machine}@${at}`);
          const all = [...peers, sender].flatMap(({ name, portsAt = [] }) => portsAt.map((at) => `${name}@${at}`));
          // All ports but the one it spoke from: each once.
          expect(heard.sort()).toEqual(all.filter((each) => each !== `${sender.name}@${sender.host}`).sort());
        }
      }),
      { numRuns: 150 },
    );
    expect(pairs).toBeGreaterThan(50);
  });
});
