/**
 * What a machine may try with raw frames, and whom each may reach. Who sends has root in its machine and knows every address.
 */
import {
  arp,
  broadcast,
  bytes,
  dhcpOffer,
  echo,
  ethernet,
  etherTypes,
  ipv4,
  ipv6,
  protocols,
  syn,
  udp,
  type Arp,
  type Ipv4,
  type Tag,
} from './frames.js';

export interface Identity {
  readonly mac: string;
  readonly address: string;
}

/** The attacker's tenant and its network. */
export const ours = ['acme/mallory', 'acme/near', 'acme/far', 'acme/router'] as const;
/** The other tenant's machines, with the same addresses. */
export const theirs = ['globex/mallory', 'globex/near', 'globex/far'] as const;
export type Ours = (typeof ours)[number];
export type Theirs = (typeof theirs)[number];

export interface Scene {
  readonly machines: Readonly<Record<Ours | Theirs, Identity>>;
  /** VLAN ids of the two tenants' networks. */
  readonly vlans: { readonly own: number; readonly other: number };
  /** MACs of the bridges on the attacker's host. */
  readonly bridges: readonly string[];
  /** Addresses of the hosts. */
  readonly underlay: readonly string[];
}

/** Beside its own, acme/near may use this address, and nobody else. */
export const virtualAddress = '172.16.0.100';
/** Belongs to nobody. */
const unused = '172.16.0.77';
/** TCP to this port is dropped by a flow of the user's. */
export const droppedPort = 23;

export interface Shot {
  readonly frame: Buffer;
  readonly reaches: readonly Ours[];
}

export interface Attack {
  readonly from?: Ours;
  readonly reason: string;
  readonly shots: (scene: Scene, me: Identity) => readonly Shot[];
}

const nobody = (...frames: readonly Buffer[]): Shot[] => frames.map((frame) => ({ frame, reaches: [] }));
const only = (reaches: readonly Ours[], ...frames: readonly Buffer[]): Shot[] =>
  frames.map((frame) => ({ frame, reaches }));
const everyoneBut = (from: Ours): Ours[] => ours.filter((each) => each !== from);

type Packet = Partial<Ipv4> & { readonly tags?: readonly Tag[] };

/** An echo request, but for what is said otherwise. */
const ip = (me: Identity, to: Identity, packet: Packet = {}, mac: { from?: string; to?: string } = {}): Buffer =>
  ethernet(
    mac.to ?? to.mac,
    mac.from ?? me.mac,
    etherTypes.ipv4,
    ipv4({ source: me.address, destination: to.address, protocol: protocols.icmp, payload: echo(), ...packet }),
    packet.tags,
  );

const arpFrom = (me: Identity, message: Partial<Arp> = {}, mac: { from?: string; to?: string } = {}): Buffer =>
  ethernet(
    mac.to ?? broadcast,
    mac.from ?? me.mac,
    etherTypes.arp,
    arp({ op: 1, sha: me.mac, spa: me.address, tpa: unused, ...message }),
  );

const rarpFrom = (me: Identity, message: Partial<Arp> = {}, from = me.mac): Buffer =>
  ethernet(
    broadcast,
    from,
    etherTypes.rarp,
    arp({ op: 3, sha: me.mac, spa: '0.0.0.0', tha: me.mac, tpa: '0.0.0.0', ...message }),
  );

const everybody: Identity = { mac: broadcast, address: '255.255.255.255' };

/** To a machine of this host, to one of another site, and to all. */
const ways = ({ machines }: Scene): readonly Identity[] => [machines['acme/near'], machines['acme/far'], everybody];

/** A datagram or segment in pieces that begin at these offsets, multiples of 8. */
export const fragments = (
  me: Identity,
  to: Identity,
  packet: Pick<Ipv4, 'protocol' | 'payload' | 'identification'>,
  starts: readonly number[],
): Buffer[] =>
  starts.map((start, index) =>
    ip(me, to, {
      ...packet,
      payload: packet.payload.subarray(start, starts[index + 1]),
      fragmentOffset: start / 8,
      moreFragments: index + 1 < starts.length,
    }),
  );

const macs: readonly Attack[] = [
  {
    reason: 'a neighbour’s MAC as source would make switches and machines believe that it is here',
    shots: (scene, me) =>
      (['acme/near', 'acme/far', 'acme/router'] as const).flatMap((name) =>
        ways(scene).flatMap((to) => {
          const from = scene.machines[name].mac;
          return nobody(ip(me, to, {}, { from }), arpFrom(me, {}, { from, to: to.mac }));
        }),
      ),
  },
  {
    reason: 'a neighbour’s whole identity, address and all, is no better',
    shots: (scene, me) => {
      const near = scene.machines['acme/near'];
      return ways(scene).flatMap((to) =>
        nobody(ip(near, to), arpFrom(near, {}, { to: to.mac }), arpFrom(near, { op: 2 }, { from: me.mac, to: to.mac })),
      );
    },
  },
  {
    reason: 'a MAC of the other tenant as source does not make it one of theirs',
    shots: (scene, me) =>
      theirs.flatMap((name) => {
        const they = scene.machines[name];
        return ways(scene).flatMap((to) =>
          nobody(ip(me, to, {}, { from: they.mac }), ip(they, to), arpFrom(they, {}, { to: to.mac })),
        );
      }),
  },
  {
    reason: 'a group address or none at all is nobody’s MAC',
    shots: (scene, me) =>
      ['01:00:5e:00:00:01', broadcast, '00:00:00:00:00:00', me.mac.replace(/^.2/, '53')].flatMap((from) =>
        ways(scene).flatMap((to) => nobody(ip(me, to, {}, { from }), arpFrom(me, {}, { from, to: to.mac }))),
      ),
  },
  {
    reason: 'the other tenant’s machines can’t be addressed, by MAC and address, on this host or another',
    shots: ({ machines }, me) =>
      theirs.flatMap((name) =>
        nobody(
          ip(me, machines[name]),
          arpFrom(me, { tpa: machines[name].address }, { to: machines[name].mac }),
          ip(me, machines[name], { protocol: protocols.udp, payload: udp(9, 9) }),
        ),
      ),
  },
  {
    reason: 'the bridges themselves take nothing from a machine',
    shots: ({ bridges, underlay }, me) =>
      bridges.flatMap((mac) =>
        underlay.flatMap((address) => nobody(ip(me, { mac, address }), arpFrom(me, { tpa: address }, { to: mac }))),
      ),
  },
];

const addresses: readonly Attack[] = [
  {
    reason: 'another’s address as source, of this network or any, would be believed by whoever goes by addresses',
    shots: (scene, me) =>
      [
        ...(['acme/near', 'acme/far', 'acme/router'] as const).map((name) => scene.machines[name].address),
        ...[unused, virtualAddress, '10.9.9.9', ...scene.underlay],
      ].flatMap((source) => ways(scene).flatMap((to) => nobody(ip(me, to, { source })))),
  },
  {
    reason: 'an address that no host has as source may make one answer itself, or everybody',
    shots: (scene, me) =>
      ['0.0.0.0', '255.255.255.255', '127.0.0.1', '224.0.0.1', '172.16.0.255', '172.16.0.0'].flatMap((source) =>
        ways(scene).flatMap((to) => nobody(ip(me, to, { source }))),
      ),
  },
];

const addressResolution: readonly Attack[] = [
  {
    reason: 'ARP that says a neighbour’s, the gateway’s or a virtual address is here takes their frames',
    shots: (scene, me) =>
      [scene.machines['acme/near'].address, scene.machines['acme/router'].address, unused, virtualAddress].flatMap(
        (spa) =>
          [1, 2].flatMap((op) =>
            nobody(
              ...ways(scene).map((to) => arpFrom(me, { op, spa, tha: to.mac }, { to: to.mac })),
              arpFrom(me, { op, spa, tpa: spa }),
            ),
          ),
      ),
  },
  {
    reason: 'ARP and Ethernet header that name two senders: receivers believe the former, switches the latter',
    shots: ({ machines }, me) =>
      [1, 2].flatMap((op) =>
        nobody(
          arpFrom(me, { op, sha: machines['acme/near'].mac }),
          arpFrom(me, { op, sha: machines['globex/near'].mac }, { to: machines['acme/far'].mac }),
          arpFrom(me, { op }, { from: machines['acme/near'].mac }),
          arpFrom(me, { op, sha: broadcast }),
        ),
      ),
  },
  {
    reason: 'a probe for an address in another’s name makes its owner give it up (RFC 5227)',
    shots: ({ machines }, me) =>
      nobody(
        arpFrom(me, { sha: machines['acme/far'].mac, spa: '0.0.0.0', tpa: machines['acme/near'].address }),
        arpFrom(me, { sha: '00:00:00:00:00:00', spa: '0.0.0.0', tpa: machines['acme/near'].address }),
      ),
  },
  {
    reason: 'other operations (reverse, dynamic, inverse, NAK) can’t say more',
    shots: ({ machines }, me) =>
      [0, 3, 4, 5, 6, 7, 8, 9, 10, 25, 0x0101, 0x0102, 0xffff].flatMap((op) =>
        nobody(
          arpFrom(me, { op, spa: machines['acme/router'].address }),
          arpFrom(me, { op, sha: machines['acme/near'].mac }),
        ),
      ),
  },
  {
    reason: 'ARP of another form is read in another way by each receiver',
    shots: ({ machines: { 'acme/near': near } }, me) =>
      ['0006080006 04', '0001080008 04', '0001080006 10', '000186dd06 04', '0001080000 00'].flatMap((header) =>
        nobody(arpFrom(me, { header }), arpFrom(me, { header, spa: near.address })),
      ),
  },
  {
    reason: 'ARP that ends too early says nothing',
    shots: ({ machines }, me) =>
      nobody(arpFrom(me).subarray(0, 14 + 8), arpFrom(me, { spa: machines['acme/near'].address }).subarray(0, 14 + 18)),
  },
  {
    reason: 'RARP in another’s name would move that machine here',
    shots: ({ machines }, me) =>
      (['acme/near', 'acme/router', 'globex/near'] as const).flatMap((name) =>
        nobody(
          rarpFrom(machines[name]),
          rarpFrom(me, {}, machines[name].mac),
          rarpFrom(machines[name], {}, me.mac),
          rarpFrom(me, { tha: machines[name].mac }),
        ),
      ),
  },
  {
    reason: 'a RARP server tells machines what their address is',
    shots: ({ machines: { 'acme/near': near } }, me) =>
      nobody(
        rarpFrom(me, { op: 4, spa: me.address, tha: near.mac, tpa: unused }),
        rarpFrom(me, { op: 4 }),
        rarpFrom(me, { spa: near.address }),
        rarpFrom(me, { tpa: near.address }),
      ),
  },
];

const tags: readonly Attack[] = [
  {
    reason: 'a tag, two or three, of whatever type and id: a machine’s frames have none',
    shots: ({ vlans: { own, other }, machines }, me) =>
      [etherTypes.vlan, etherTypes.serviceVlan, etherTypes.oldServiceVlan].flatMap((type) =>
        [
          ...[[own], [other], [0], [1], [4095]],
          ...[
            [own, other],
            [other, own],
            [0, other],
            [own, own],
            [other, other],
            [0, 0],
            [0, own, other],
          ],
        ].flatMap((ids) => {
          const tagged = ids.map((id) => ({ type, id }));
          return nobody(
            ip(me, machines['acme/far'], { tags: tagged }),
            ip(me, machines['globex/near'], { tags: tagged }),
            ip(machines['globex/mallory'], machines['globex/far'], { tags: tagged }),
            ip(me, everybody, { tags: tagged }),
          );
        }),
      ),
  },
  {
    reason: 'an inner tag of another type than the outer one may be seen by the second switch alone',
    shots: ({ vlans: { own, other } }, me) =>
      [etherTypes.serviceVlan, etherTypes.oldServiceVlan].flatMap((type) =>
        nobody(
          ip(me, everybody, { tags: [{ type, id: own }, { id: other }] }),
          ip(me, everybody, { tags: [{ id: own }, { type, id: other }] }),
          ip(me, everybody, { tags: [{ id: 0 }, { type, id: other }] }),
        ),
      ),
  },
  {
    reason: 'a tag with nothing in it, or cut in two',
    shots: (_, me) =>
      nobody(ethernet(broadcast, me.mac, 0x8100, Buffer.alloc(0)), ethernet(broadcast, me.mac, 0x8100, bytes('00'))),
  },
];

/** IEEE 802.1D, 802.1AB, 802.3x and so on: what bridges say to each other. */
const control: readonly Attack[] = [
  {
    reason: 'what switches and controllers say to each other is not for machines to say',
    shots: ({ machines }, me) =>
      [
        ...[etherTypes.lldp, etherTypes.bddp, 0x888e, 0x88e5, 0x8808, 0x8809, 0x8902, 0x88f7, 0x22f3, 0x88f5],
        ...[0x8847, 0x8848, 0x8863, 0x8864, 0x6558, 0x894f, 0x9000, 0x88a2, 0x8906, 0x8915, 0x1234, 0xffff],
      ].flatMap((type) =>
        nobody(
          ...['01:80:c2:00:00:00', '01:80:c2:00:00:01', '01:80:c2:00:00:02', '01:80:c2:00:00:03', '01:80:c2:00:00:0e']
            .concat('01:23:20:00:00:01', broadcast, machines['acme/far'].mac)
            .map((to) => ethernet(to, me.mac, type, Buffer.alloc(46, 2))),
        ),
      ),
  },
  {
    reason: 'a length in place of a type: spanning tree, and LLC or SNAP that hide what they carry',
    shots: ({ machines }, me) => {
      const spoofed = ipv4({
        ...{ source: machines['acme/router'].address, destination: machines['acme/far'].address },
        ...{ protocol: protocols.icmp, payload: echo() },
      });
      const bpdu = Buffer.concat([bytes('424203'), Buffer.alloc(35)]);
      const inLlc = (to: string, llc: Buffer): Buffer => ethernet(to, me.mac, llc.length, llc);
      return nobody(
        ...['01:80:c2:00:00:00', '01:00:0c:cc:cc:cd', broadcast].map((to) => inLlc(to, bpdu)),
        ...[machines['acme/far'].mac, broadcast].flatMap((to) => [
          inLlc(to, Buffer.concat([bytes('aaaa03 000000 0800'), spoofed])),
          inLlc(to, Buffer.concat([bytes('aaaa03 0000f8 0800'), spoofed])),
          inLlc(to, Buffer.concat([bytes('060603'), spoofed])),
          inLlc(to, Buffer.concat([bytes('aaaa03 00000c 2000'), Buffer.alloc(20)])),
          ethernet(to, me.mac, 0, spoofed),
        ]),
      );
    },
  },
  {
    reason: 'an honest packet to a bridge’s group address goes to the own tenant as any multicast, and to no bridge',
    shots: (_, me) =>
      only(
        everyoneBut('acme/mallory'),
        ip(me, { mac: '01:80:c2:00:00:00', address: '224.0.0.1' }),
        ip(me, { mac: '01:80:c2:00:00:0e', address: '224.0.0.1' }),
        ip(me, { mac: '33:33:00:00:00:01', address: '224.0.0.1' }),
      ),
  },
];

const packets: readonly Attack[] = [
  {
    reason: 'a header whose lengths are wrong hides where things are',
    shots: (scene, me) =>
      ways(scene).flatMap((to) =>
        nobody(
          ip(me, to, { headerWords: 4 }),
          ip(me, to, { headerWords: 0 }),
          ip(me, to, { headerWords: 15 }),
          ip(me, to, { totalLength: 19 }),
          ip(me, to, { totalLength: 400 }),
          ip(me, to).subarray(0, 14 + 10),
          ip(me, to, { totalLength: 20, source: scene.machines['acme/router'].address }),
        ),
      ),
  },
  {
    reason: 'options don’t hide another’s address',
    shots: (scene, me) => {
      const source = scene.machines['acme/router'].address;
      return ways(scene).flatMap((to) =>
        nobody(
          ip(me, to, { source, options: bytes('01010101') }),
          ip(me, to, { source, options: bytes('830704 ac10000a 00') }),
          ip(me, to, { source, options: Buffer.alloc(40, 1) }),
        ),
      );
    },
  },
  {
    reason: 'with its own address a machine may use options, or say too little: the receiver is of its own tenant',
    shots: ({ machines: { 'acme/near': near, 'acme/far': far } }, me) => [
      ...only(['acme/near'], ip(me, near, { options: bytes('830704 ac100001 00') }), ip(me, near, { totalLength: 20 })),
      ...only(['acme/far'], ip(me, far, { options: Buffer.alloc(40, 1) })),
    ],
  },
  {
    reason: 'what a tunnel of its own carries is the receiver’s business, and the receiver is of its own tenant',
    shots: ({ machines }, me) => {
      const near = machines['acme/near'];
      const inner = ip(machines['globex/mallory'], machines['globex/near']);
      const packet = inner.subarray(14);
      const vxlan = udp(50_000, 4789, Buffer.concat([bytes('08000000 001234 00'), inner]));
      const each = [
        { protocol: protocols.ipip, payload: packet },
        { protocol: protocols.gre, payload: Buffer.concat([bytes('0000 0800'), packet]) },
        { protocol: protocols.gre, payload: Buffer.concat([bytes('0000 6558'), inner]) },
        { protocol: protocols.esp, payload: Buffer.alloc(40, 7) },
        { protocol: protocols.udp, payload: vxlan },
      ];
      return each.flatMap((tunnelled) => [
        ...only(['acme/near'], ip(me, near, tunnelled)),
        ...nobody(ip(me, machines['globex/near'], tunnelled), ip(near, machines['acme/far'], tunnelled)),
      ]);
    },
  },
  {
    reason:
      'VXLAN to a host’s underlay address is a packet of the tenant’s like any other, and no host is in its network',
    shots: ({ machines, underlay, bridges }, me) => {
      const inner = ip(machines['globex/mallory'], machines['globex/near']);
      return underlay.flatMap((address) =>
        [4096, 0x001234].flatMap((vni) => {
          const header = Buffer.from([8, 0, 0, 0, vni >> 16, (vni >> 8) & 0xff, vni & 0xff, 0]);
          const packet = { protocol: protocols.udp, payload: udp(50_000, 4789, Buffer.concat([header, inner])) };
          return [
            ...nobody(...bridges.map((mac) => ip(me, { mac, address }, packet))),
            ...nobody(ip(me, { mac: broadcast, address }, { ...packet, source: underlay[1] ?? '' })),
            ...only(everyoneBut('acme/mallory'), ip(me, { mac: broadcast, address }, packet)),
          ];
        }),
      );
    },
  },
  {
    reason: 'frames that are shorter than a header, or than Ethernet allows',
    shots: ({ machines }, me) =>
      [broadcast, machines['acme/far'].mac].flatMap((to) =>
        nobody(
          ...[etherTypes.ipv4, etherTypes.arp, etherTypes.rarp, etherTypes.ipv6].flatMap((type) => [
            ethernet(to, me.mac, type, Buffer.alloc(0)),
            ethernet(to, me.mac, type, bytes('45')),
          ]),
        ),
      ),
  },
];

const servers: readonly Attack[] = [
  {
    reason: 'a DHCP server’s answer would make this machine the others’ router, from whichever port it comes',
    shots: (scene, me) => {
      const offer = dhcpOffer(me.address, unused, scene.machines['acme/near'].mac);
      return ways(scene).flatMap((to) =>
        [udp(67, 68, offer), udp(67, 67, offer), udp(67, 1068, offer), udp(1067, 68, offer), udp(0, 68, offer)].flatMap(
          (payload) =>
            nobody(
              ip(me, to, { protocol: protocols.udp, payload }),
              ip(me, to, { protocol: protocols.udp, payload, source: '0.0.0.0' }),
              ip(me, to, { protocol: protocols.udp, payload, options: bytes('01010101') }),
            ),
        ),
      );
    },
  },
  {
    reason: 'in fragments it lacks its beginning, however it is cut; the rest makes no datagram without it',
    shots: ({ machines: { 'acme/near': near, 'acme/far': far } }, me) => {
      const payload = udp(67, 68, dhcpOffer(me.address, unused, near.mac));
      const packet = { protocol: protocols.udp, payload };
      return [near, far].flatMap((to) => {
        const reaches: Ours[] = to === near ? ['acme/near'] : ['acme/far'];
        return [
          [0, 8],
          [0, 8, 16, 24],
          [0, 64, 128],
        ].flatMap((starts) => {
          const [first = Buffer.alloc(0), ...rest] = fragments(me, to, packet, starts);
          return [...nobody(first), ...only(reaches, ...rest)];
        });
      });
    },
  },
  {
    reason: 'a first fragment that ends before the ports are over, or a second first one over it',
    shots: ({ machines: { 'acme/near': near } }, me) => {
      const payload = udp(67, 68, dhcpOffer(me.address, unused, near.mac));
      const piece = (length: number, more: Packet = {}): Buffer =>
        ip(me, near, { protocol: protocols.udp, moreFragments: true, payload: payload.subarray(0, length), ...more });
      return [
        ...nobody(piece(0), piece(2), piece(4), piece(7), piece(8), piece(9), piece(64)),
        ...nobody(piece(16, { moreFragments: false })),
      ];
    },
  },
  {
    reason: 'IPv6 does not pass: no router advertisement, no neighbour’s, no DHCPv6 server, tagged or not',
    shots: ({ vlans, machines }, me) => {
      const icmp = (hex: string): Buffer => Buffer.concat([bytes(hex), Buffer.alloc(32)]);
      const messages = [
        ipv6(58, icmp('86000000 40080708')), // router advertisement
        ipv6(58, icmp('88000000 a0000000')), // neighbour advertisement
        ipv6(58, icmp('87000000')), // neighbour solicitation
        ipv6(58, icmp('89000000')), // redirect
        ipv6(17, udp(547, 546, Buffer.alloc(40))), // a DHCPv6 server
        ipv6(0, icmp('3a00050200000000 8f000000')), // a listener report, after a hop-by-hop option
        ipv6(44, icmp('3a000001 00000001 86000000')), // in a fragment
      ];
      const to = ['33:33:00:00:00:01', '33:33:ff:00:00:01', '33:33:00:01:00:02', broadcast, machines['acme/far'].mac];
      return messages.flatMap((message) =>
        to.flatMap((mac) =>
          nobody(
            ethernet(mac, me.mac, etherTypes.ipv6, message),
            ethernet(mac, me.mac, etherTypes.ipv6, message, [{ id: vlans.own }]),
            ethernet(mac, me.mac, etherTypes.ipv6, message, [{ id: vlans.other }]),
            ethernet(mac, me.mac, etherTypes.ipv4, message),
          ),
        ),
      );
    },
  },
];

const policies: readonly Attack[] = [
  {
    reason:
      'a flow that drops a port is not got round by fragments: the ports come with the first, or it does not pass',
    shots: ({ machines: { 'acme/near': near, 'acme/far': far } }, me) =>
      [near, far].flatMap((to) => {
        const reaches: Ours[] = to === near ? ['acme/near'] : ['acme/far'];
        const segment = (port: number) => ({
          protocol: protocols.tcp,
          payload: Buffer.concat([syn(40_000, port), Buffer.alloc(12)]),
        });
        const cut = (port: number, starts: readonly number[]) => fragments(me, to, segment(port), starts);
        const [open = Buffer.alloc(0), ...openRest] = cut(droppedPort + 1, [0, 24]);
        return [
          ...only(reaches, ip(me, to, segment(droppedPort + 1)), open, ...openRest),
          ...nobody(ip(me, to, segment(droppedPort)), ip(me, to, { ...segment(droppedPort), moreFragments: true })),
          ...[
            [0, 24],
            [0, 16],
            [0, 8],
            [0, 8, 16],
          ].flatMap((starts) => {
            const [first = Buffer.alloc(0), ...rest] = cut(droppedPort, starts);
            return [...nobody(first), ...only(reaches, ...rest)];
          }),
        ];
      }),
  },
];

const honest: readonly Attack[] = [
  {
    reason: 'what is its own to say passes, to one and to all: else nothing here would prove anything',
    shots: ({ machines: { 'acme/near': near, 'acme/far': far, 'acme/router': router } }, me) => [
      ...only(everyoneBut('acme/mallory'), arpFrom(me), arpFrom(me, { spa: '0.0.0.0' }), rarpFrom(me)),
      ...only(everyoneBut('acme/mallory'), ip(me, everybody, { protocol: protocols.udp, payload: udp(9, 9) })),
      ...only(['acme/near'], ip(me, near), arpFrom(me, { op: 2, tha: near.mac, tpa: near.address }, { to: near.mac })),
      ...only(['acme/far'], ip(me, far), ip(me, far, { payload: Buffer.concat([echo(), Buffer.alloc(1_400)]) })),
      ...only(['acme/router'], ip(me, router)),
    ],
  },
];

const permitted: readonly Attack[] = [
  {
    from: 'acme/near',
    reason: 'a listed pair is an address of this machine’s too, with its own MAC',
    shots: ({ machines: { 'acme/far': far } }, me) => {
      const also = { ...me, address: virtualAddress };
      return [
        ...only(everyoneBut('acme/near'), arpFrom(also), arpFrom(also, { op: 2, tpa: virtualAddress })),
        ...only(['acme/far'], ip(also, far)),
      ];
    },
  },
  {
    from: 'acme/near',
    reason: 'a pair is that address and no other, under no other MAC, and makes no server',
    shots: ({ machines }, me) => {
      const [far, stranger] = [machines['acme/far'], machines['globex/far']];
      const also = { ...me, address: virtualAddress };
      return nobody(
        ...[unused, '172.16.0.101', machines['acme/router'].address].flatMap((address) => [
          ip({ ...me, address }, far),
          arpFrom({ ...me, address }),
        ]),
        ip({ ...also, mac: machines['acme/mallory'].mac }, far),
        arpFrom(also, { sha: '00:00:5e:00:01:01' }, { from: '00:00:5e:00:01:01' }),
        ip(also, far, { protocol: protocols.udp, payload: udp(67, 68, dhcpOffer(also.address, unused, far.mac)) }),
        ip(also, stranger),
      );
    },
  },
  {
    from: 'acme/router',
    reason: 'a router passes on what comes from elsewhere',
    shots: ({ machines: { 'acme/far': far, 'acme/near': near } }, me) => [
      ...only(['acme/far'], ip(me, far, { source: '10.9.9.9' }), ip(me, far, { source: '198.18.0.7' })),
      ...only(['acme/near'], ip(me, near, { source: '10.9.9.9' })),
    ],
  },
  {
    from: 'acme/router',
    reason:
      'a router speaks for no machine of the network that it passes packets to, nor for addresses that no host has',
    shots: ({ machines }, me) => {
      const { 'acme/far': far, 'acme/near': near } = machines;
      return nobody(
        ...[near.address, machines['acme/mallory'].address, virtualAddress, unused].flatMap((source) => [
          ip(me, far, { source }),
          arpFrom(me, { spa: source }),
          arpFrom(me, { op: 2, spa: source, tha: far.mac }, { to: far.mac }),
        ]),
        ...['0.0.0.0', '127.0.0.1', '224.0.0.1', '255.255.255.255'].map((source) => ip(me, far, { source })),
        arpFrom(me, { spa: '10.9.9.9' }),
        ip(me, far, { source: '10.9.9.9' }, { from: near.mac }),
        ip(me, far, { protocol: protocols.udp, payload: udp(67, 68, dhcpOffer(me.address, unused, far.mac)) }),
        ip(me, machines['globex/far'], { source: '10.9.9.9' }),
        ethernet('33:33:00:00:00:01', me.mac, etherTypes.ipv6, ipv6(58, bytes('86000000 40080708 0000 0000'))),
      );
    },
  },
];

export const attacks: readonly Attack[] = [
  ...[honest, macs, addresses, addressResolution, tags, control, packets, servers, policies, permitted].flat(),
];

const word = 'ISTH';
const markLength = 8;

/** Behind what the headers say that there is, so that a frame is known wherever it turns up, whatever became of its headers. */
export function marked(frame: Buffer, attack: number, shot: number): Buffer {
  const mark = Buffer.alloc(markLength);
  mark.write(word);
  mark.writeUInt16BE(attack, 4);
  mark.writeUInt16BE(shot, 6);
  return Buffer.concat([frame, mark]);
}

/** `attack.shot` of a frame that was marked. */
export function markOf(frame: Buffer): string | undefined {
  const mark = frame.subarray(-markLength);
  if (mark.length < markLength || mark.toString('latin1', 0, 4) !== word) return undefined;
  return `${mark.readUInt16BE(4)}.${mark.readUInt16BE(6)}`;
}
