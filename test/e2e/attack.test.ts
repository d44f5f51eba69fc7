import { gzipSync } from 'node:zlib';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { kinds, type FederatedNetworkSpec } from '../../crds/index.js';
import { probeMacs } from '../../reconcilers/common/identity.js';
import { probes } from '../../reconcilers/dataplane/layout.js';
import {
  attacks,
  broadcast,
  Capture,
  claimOf,
  decapsulate,
  droppedPort,
  ethernet,
  etherTypes,
  fragments,
  marked,
  markOf,
  ours,
  protocols,
  syn,
  theirs,
  udp,
  virtualAddress,
  type Identity,
  type Ours,
  type Scene,
  type Shot,
  type Theirs,
} from '../support/lab/attack.js';
import {
  apply,
  condition,
  eventually,
  get,
  guest,
  inSite,
  kubectl,
  machine,
  manifest,
  namespace,
  Operator,
  Pings,
  report,
  sites,
  startOperator,
  stopOperator,
  waitReady,
  type SiteName,
} from '../support/lab.js';

type Key = Ours | Theirs;
const everyone: readonly Key[] = [...ours, ...theirs];
const attacker = 'acme/mallory';

/** Both tenants have the same network, addresses and names; each site has machines of both, valencia two of one. */
const places: Readonly<Record<Key, { readonly site: SiteName; readonly address: string }>> = {
  'acme/mallory': { site: 'valencia', address: '172.16.0.10' },
  'acme/near': { site: 'valencia', address: '172.16.0.11' },
  'acme/far': { site: 'saopaulo', address: '172.16.0.12' },
  'acme/router': { site: 'lisbon', address: '172.16.0.1' },
  'globex/mallory': { site: 'lisbon', address: '172.16.0.10' },
  'globex/near': { site: 'valencia', address: '172.16.0.11' },
  'globex/far': { site: 'saopaulo', address: '172.16.0.12' },
};

let operator: Operator | undefined;
let scene: Scene;
let vnis: { readonly own: number; readonly other: number };

const network = (tenant: string, policy: Partial<FederatedNetworkSpec> = {}) =>
  manifest('FederatedNetwork', `${tenant}/blue`, {
    ...{ cidr: '172.16.0.0/24', gateway: '172.16.0.1', sites: [...sites] },
    ...policy,
  });
const dropTelnet: Partial<FederatedNetworkSpec> = {
  flows: [
    {
      ...{ name: 'drop-telnet', at: 'Port', priority: 300, actions: [{ drop: {} }] },
      match: { ethType: 'ipv4', ipProtocol: 'tcp', tcpDst: droppedPort },
    },
  ],
};

const member = (key: Key, more: object = {}, interfaceMore: object = {}) => {
  const { site, address } = places[key];
  return machine(key, { placement: { site }, networks: [{ name: 'blue', address, ...interfaceMore }], ...more });
};

async function identity(key: Key): Promise<Identity> {
  return await eventually(`${key} has a MAC`, async () => {
    const { mac, address } = (await get(kinds.FederatedVM, key)).status?.interfaces?.[0] ?? {};
    if (mac === undefined || address === undefined) throw new Error('not yet');
    return { mac, address };
  });
}

const ready = async (key: Key): Promise<unknown> =>
  await eventually(`${key} is Ready`, async () =>
    expect(condition(await get(kinds.FederatedVM, key), 'Ready')?.status).toBe('True'),
  );

async function answers(from: Key, to: string): Promise<boolean> {
  return (await guest(from, `ping -c 2 -W 2 ${to}`, 60_000)).exitCode === 0;
}

async function expectHonestTraffic(): Promise<void> {
  expect(await answers('acme/mallory', places['acme/near'].address)).toBe(true);
  expect(await answers('acme/mallory', places['acme/far'].address)).toBe(true);
  expect(await answers('globex/near', places['globex/far'].address)).toBe(true);
}

// --- what is sent ---------------------------------------------------------------------------------------------------

interface Placed extends Shot {
  readonly from: Ours;
  readonly mark: string;
}

/** All shots of all attacks, each with its mark behind it. */
function shots(of: Scene = scene): Placed[] {
  return attacks.flatMap(({ from = attacker, shots: make }, attack) =>
    make(of, of.machines[from]).map(({ frame, reaches }, shot) => ({
      ...{ from, reaches, mark: `${attack}.${shot}`, frame: marked(frame, attack, shot) },
    })),
  );
}

const hex = (frames: readonly Buffer[]): string => frames.map((frame) => frame.toString('hex')).join('\n');

/** What the guest said of it: sent, refused. */
async function send(from: Ours, frames: readonly Buffer[], options = '-interval 500us'): Promise<[number, number]> {
  const packed = gzipSync(hex(frames)).toString('base64');
  const { stdout } = await guest(from, `echo ${packed} | base64 -d | gunzip | frames ${options} eth0`, 60_000);
  const [, sent, refused] = /(\d+) sent, (\d+) refused/.exec(stdout) ?? [];
  if (sent === undefined) throw new Error(`${from}: ${stdout}`);
  return [Number(sent), Number(refused)];
}

/** Stands for the attacker's own MAC, which is not known before it is made. */
const placeholder = '02:de:ad:be:ef:00';

/** The first shot of each attack, over and over from the moment that the guest has its interface. */
function flood(): { readonly script: string; readonly shots: readonly Placed[] } {
  const made = shots({
    ...scene,
    machines: { ...scene.machines, [attacker]: { ...places[attacker], mac: placeholder } },
  });
  const first = made.filter(({ from, mark }) => from === attacker && mark.endsWith('.0'));
  const lines = hex(first.map(({ frame }) => frame));
  const script = `#cloud-boothook
#!/bin/sh
ip link set eth0 up
mac=$(tr -d : </sys/class/net/eth0/address)
sed "s/${placeholder.replaceAll(':', '')}/$mac/g" <<'END' | frames -count 0 -interval 10ms eth0
${lines}
END
`;
  return { script, shots: first };
}

// --- what is seen ---------------------------------------------------------------------------------------------------

/** Everything that reaches a machine, at each port; what the attacker sends; what its host sends to the others. */
class Watch implements AsyncDisposable {
  private constructor(
    readonly reached: ReadonlyMap<Key, Capture>,
    readonly sent: ReadonlyMap<Ours, Capture>,
    readonly wire: Capture,
  ) {}

  static async start(victims: readonly Key[], senders: readonly Ours[]): Promise<Watch> {
    const at = (key: Key) => ({ site: places[key].site, mac: scene.machines[key].mac });
    const [reached, sent, wire] = await Promise.all([
      Promise.all(victims.map(async (key) => [key, await Capture.start(at(key), 'out')] as const)),
      Promise.all(senders.map(async (key) => [key, await Capture.start(at(key), 'in')] as const)),
      Capture.start({ wire: places[attacker].site }, 'in'),
    ]);
    return new Watch(new Map(reached), new Map(sent), wire);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const all = [...this.reached.values(), ...this.sent.values(), this.wire];
    await Promise.all(all.map((capture) => capture[Symbol.asyncDispose]()));
  }

  frames(key: Key): readonly Buffer[] {
    const frames = this.reached.get(key)?.frames ?? [];
    return frames.filter((frame) => !isFromHost(frame, scene.machines[key].mac));
  }

  marksSentBy(key: Ours): Set<string> {
    return marksIn(this.sent.get(key)?.frames ?? []);
  }

  /** Marks of the frames that reached somebody, as `0.1 acme/far`. */
  arrivals(): Set<string> {
    return new Set(
      [...this.reached].flatMap(([key, { frames }]) => [...marksIn(frames)].map((mark) => `${mark} ${key}`)),
    );
  }

  /** What the attacker's host has sent to others, but for the hosts' own: BFD packets and probes of the underlay. */
  tunnelled(): { readonly vni: number; readonly frame: Buffer }[] {
    return this.wire.frames
      .map(decapsulate)
      .filter(({ vni, frame }) => vni !== 0 || !frame.subarray(0, 6).equals(bfd))
      .filter(({ vni, frame }) => vni !== probes.vni || !probers.has(frame.subarray(6, 12).toString('hex')));
  }
}

/** Who sends probes and answers them; a machine can't have such a MAC. */
const probers = new Set(
  sites.flatMap((site) => Object.values(probeMacs(`${site}/a`)).map((mac) => mac.replaceAll(':', ''))),
);

/** Where Open vSwitch sends BFD to. */
const bfd = Buffer.from('002320000001', 'hex');

const marksIn = (frames: readonly Buffer[]): Set<string> => new Set(frames.flatMap((frame) => markOf(frame) ?? []));

/** More than a frame needs from anywhere to anywhere. */
const settle = async (): Promise<void> => await sleep(500);

/** Frames at a tenant's port whose sender is not one of its machines under its own MAC and address. */
function impostures(watch: Watch): string[] {
  return ours.flatMap((key) =>
    watch.frames(key).flatMap((frame) => {
      const claim = claimOf(frame);
      const sender = ours.find((each) => each !== key && scene.machines[each].mac === claim.mac);
      return sender !== undefined && speaksForItself(sender, claim) ? [] : [`${key} got ${frame.toString('hex')}`];
    }),
  );
}

function speaksForItself(sender: Ours, { type, address = '', sha }: ReturnType<typeof claimOf>): boolean {
  const own = [scene.machines[sender].address, ...(sender === 'acme/near' ? [virtualAddress] : [])];
  switch (type) {
    case etherTypes.ipv4:
      return own.includes(address) || sender === 'acme/router';
    case etherTypes.arp:
      return sha === scene.machines[sender].mac && [...own, '0.0.0.0'].includes(address);
    case etherTypes.rarp:
      return sha === scene.machines[sender].mac && address === '0.0.0.0';
    default:
      return false;
  }
}

/** Anything at all that has reached the other tenant's machines, which have no reason to speak. */
const leaks = (watch: Watch): string[] =>
  theirs.flatMap((key) => watch.frames(key).map((frame) => `${key} got ${frame.toString('hex')}`));

/** The host's own IPv6 solicits routers on every device, a tap too: not through the switch, and with the tap's own MAC. */
const isFromHost = (frame: Buffer, mac: string): boolean => claimOf(frame).mac === `fe${mac.slice(2)}`;

async function localFrames(): Promise<string[]> {
  const script = `for bridge in isth-int isth-edge; do ovs-ofctl -O OpenFlow13 dump-ports $bridge LOCAL; done`;
  const text = await inSite(places[attacker].site, 'bash', '-c', script);
  return [...text.matchAll(/tx pkts=(\d+)/g)].map(([, count = '']) => count);
}

// --- the cases ------------------------------------------------------------------------------------------------------

beforeAll(async () => {
  operator = await startOperator();
  await apply([
    ...['acme', 'globex'].map(namespace),
    network('acme', dropTelnet),
    network('globex'),
    manifest('VMTemplate', 'attack-router', { role: 'Router', image: { name: 'tiny' } }),
    member('acme/near', {}, { allowedAddressPairs: [{ address: virtualAddress }] }),
    member('acme/far'),
    member('acme/router', { template: 'attack-router' }),
    ...theirs.map((key) => member(key)),
  ]);
  await waitReady(kinds.FederatedVM, '--all-namespaces');
  const others = everyone.filter((key) => key !== attacker);
  for (const key of others) expect((await guest(key, 'cat /run/ready', 60_000)).exitCode).toBe(0);
  const found = await Promise.all(others.map(async (key) => [key, await identity(key)] as const));
  const machines = Object.fromEntries(found) as Record<Key, Identity>;
  const [own, other] = await Promise.all(
    ['acme', 'globex'].map(async (tenant) => (await get(kinds.FederatedNetwork, `${tenant}/blue`)).status),
  );
  vnis = { own: own?.vni ?? NaN, other: other?.vni ?? NaN };
  const script = `for bridge in isth-int isth-edge br-wan; do ovs-vsctl get interface $bridge mac_in_use | tr -d '"'; done`;
  scene = {
    machines,
    vlans: { own: own?.vlanId ?? NaN, other: other?.vlanId ?? NaN },
    bridges: (await inSite(places[attacker].site, 'bash', '-c', script)).trim().split('\n'),
    underlay: ['198.51.100.11', '198.51.100.12'],
  };
  // The other tenant's machines have no reason to speak then, not even to ask for addresses.
  for (const key of theirs) {
    const known = theirs.filter((each) => each !== key);
    await guest(key, known.map((each) => `arp -s ${machines[each].address} ${machines[each].mac}`).join('; '));
  }
}, 180_000);

afterAll(async () => {
  await kubectl('delete', 'vmtemplate', 'attack-router', '--ignore-not-found', '--wait=false');
  await stopOperator(operator);
}, 120_000);

describe('a machine that floods from the moment it has an interface', () => {
  it('reaches with its boot’s frames whom it may, and nobody else', async () => {
    const { script, shots: sent } = flood();
    const victims = everyone.filter((key) => key !== attacker);
    await using watch = await Watch.start(victims, []);
    await apply([
      { apiVersion: 'v1', kind: 'Secret', metadata: { namespace: 'acme', name: 'flood' }, stringData: { script } },
      member(attacker, {
        storage: 'Shared',
        cloudInit: { userDataSecretRef: { name: 'flood', key: 'script' } },
      }),
    ]);
    scene = { ...scene, machines: { ...scene.machines, [attacker]: await identity(attacker) } };
    await using own = Capture.expect({ site: places[attacker].site, mac: scene.machines[attacker].mac }, 'in');
    await own.begun();
    await allSent(own, sent);
    // The flood began before the network did, and goes on.
    await guest(attacker, 'cat /run/ready', 60_000);
    await ready(attacker);
    await goesOn(own, sent);
    await guest(attacker, 'killall frames');
    await settle();
    expect(leaks(watch)).toEqual([]);
    expect(impostures(watch)).toEqual([]);
    expect([...watch.arrivals()].sort()).toEqual(expectedArrivals(sent));
  }, 120_000);
});

const seen = (what: string, check: () => void, withinMs?: number): Promise<void> =>
  eventually(
    what,
    async () => {
      check();
      await Promise.resolve();
    },
    withinMs,
  );

const allSent = async (own: Capture, shots: readonly Placed[]): Promise<void> =>
  await seen('each frame has been sent', () => {
    expect([...marksIn(own.frames)].sort()).toEqual(shots.map(({ mark }) => mark).sort());
  });

/** Twice around. */
async function goesOn(own: Capture, shots: readonly Placed[]): Promise<void> {
  const before = own.frames.length;
  await seen('the flood goes on', () => {
    expect(own.frames.length).toBeGreaterThan(before + 2 * shots.length);
  });
}

const expectedArrivals = (sent: readonly Placed[]): string[] =>
  sent.flatMap(({ mark, reaches }) => reaches.map((key) => `${mark} ${key}`)).sort();

describe('raw frames', () => {
  let sent: ReadonlySet<string> = new Set();
  let arrived: readonly string[] = [];
  let crossed: { readonly vni: number; readonly mark: string }[] = [];

  it('are sent, and the other tenant’s ports stay silent', async () => {
    await expectHonestTraffic();
    await using watch = await Watch.start(everyone, ['acme/mallory', 'acme/near', 'acme/router']);
    const before = await localFrames();
    const all = shots();
    for (const from of ['acme/mallory', 'acme/near', 'acme/router'] as const) {
      const frames = all.filter((each) => each.from === from).map(({ frame }) => frame);
      expect(await send(from, frames)).toEqual([frames.length, 0]);
    }
    await settle();
    sent = new Set(
      (['acme/mallory', 'acme/near', 'acme/router'] as const).flatMap((key) => [...watch.marksSentBy(key)]),
    );
    arrived = [...watch.arrivals()];
    crossed = watch.tunnelled().flatMap(({ vni, frame }) => {
      const mark = markOf(frame);
      return mark === undefined ? [] : [{ vni, mark }];
    });
    report(`${all.length} frames sent, ${arrived.length} arrivals`);
    expect(leaks(watch)).toEqual([]);
    expect(impostures(watch)).toEqual([]);
    expect(await localFrames()).toEqual(before);
  }, 120_000);

  const cases = attacks.map((attack, index) => ({ ...attack, from: attack.from ?? attacker, index }));
  it.each(cases)('$from: $reason', ({ from, index }) => {
    const own = shots().filter(({ mark }) => mark.startsWith(`${index}.`));
    expect(own.length).toBeGreaterThan(0);
    expect(own.filter(({ mark }) => !sent.has(mark)).map(({ mark }) => mark)).toEqual([]);
    const arrivals = arrived.filter((each) => each.startsWith(`${index}.`));
    expect(arrivals.toSorted().map((each) => describeShot(own, each))).toEqual(
      expectedArrivals(own).map((each) => describeShot(own, each)),
    );
    if (from !== attacker) return;
    // What no other site may have does not leave the host, and what does, says whose it is.
    const abroad = own.filter(({ reaches }) => reaches.some((key) => places[key].site !== places[from].site));
    const left = crossed.filter(({ mark }) => mark.startsWith(`${index}.`));
    expect([...new Set(left.map(({ mark }) => mark))].sort()).toEqual(abroad.map(({ mark }) => mark).sort());
    expect(left.filter(({ vni }) => vni !== vnis.own)).toEqual([]);
  });

  it('longer than the network’s MTU are refused by the machine’s own interface', async () => {
    const { mac } = scene.machines[attacker];
    const frames = [1_451, 1_500, 9_000].map((length) =>
      ethernet(broadcast, mac, etherTypes.ipv4, Buffer.alloc(length)),
    );
    const grow = await guest(attacker, 'ip link set eth0 mtu 9000');
    expect(grow.exitCode).not.toBe(0);
    expect(await send(attacker, frames)).toEqual([0, frames.length]);
  });

  it('leave the neighbours with no wrong idea of who is where', async () => {
    for (const key of ours.filter((each) => each !== attacker)) {
      const { stdout } = await guest(key, 'ip neigh');
      const wrong = stdout
        .split('\n')
        .filter(
          (line) => line.includes(scene.machines[attacker].mac) && !line.startsWith(`${places[attacker].address} `),
        );
      expect(wrong).toEqual([]);
    }
    await expectHonestTraffic();
  }, 30_000);
});

/** A mark and place with the frame, which says more when it is where it should not be. */
function describeShot(own: readonly Placed[], arrival: string): string {
  const [mark = ''] = arrival.split(' ');
  return `${arrival} ${own.find((each) => each.mark === mark)?.frame.toString('hex') ?? ''}`;
}

describe('random faults', () => {
  const count = 4_000;

  it('make no frame that reaches the other tenant, or a neighbour under a name that is not the sender’s', async () => {
    const seed = Number(process.env['FUZZ_SEED'] ?? 1 + Math.floor(Math.random() * 1e9));
    report(`seed of the faults: FUZZ_SEED=${seed}`);
    const made = attacks.flatMap(({ from = attacker, shots: make }) =>
      from === attacker ? make(scene, scene.machines[attacker]) : [],
    );
    // Those that may pass several times, so that enough of their variations do.
    const bases = made.flatMap(({ frame, reaches }) =>
      Array.from({ length: reaches.length > 0 ? 10 : 1 }, () => frame),
    );
    await using watch = await Watch.start(everyone, [attacker]);
    const [sent] = await send(attacker, bases, `-fuzz ${seed} -count ${count} -interval 200us`);
    await settle();
    const passed = ours.map((key) =>
      watch.frames(key).filter((frame) => claimOf(frame).mac === scene.machines[attacker].mac),
    );
    report(`${sent} sent, ${passed.flat().length} passed to neighbours`);
    expect(sent).toBe(count);
    // The host takes none whose tag is cut off.
    expect(watch.sent.get(attacker)?.frames.length).toBeGreaterThan(0.95 * sent);
    expect(leaks(watch)).toEqual([]);
    expect(impostures(watch)).toEqual([]);
    expect(watch.tunnelled().filter(({ vni }) => vni !== vnis.own)).toEqual([]);
    // Tables that drop everything would hold too.
    expect(passed.flat().length).toBeGreaterThan(100);
  }, 90_000);
});

describe('fragments at a firewall', () => {
  const open = 5_000;
  const closed = 5_001;
  const long = (port: number): Buffer => udp(4_000, port, Buffer.alloc(1_800));

  /** Each packet has its own identification, by which it is known behind the firewall too. */
  const packets: readonly {
    readonly reason: string;
    readonly packet: { readonly protocol: number; readonly payload: Buffer };
    readonly starts: readonly number[];
    readonly arrive: number;
  }[] = [
    { reason: 'a datagram that a rule allows', packet: { protocol: protocols.udp, payload: udp(4_000, open) }, starts: [0], arrive: 1 },
    { reason: 'one that none allows', packet: { protocol: protocols.udp, payload: udp(4_000, closed) }, starts: [0], arrive: 0 },
    { reason: 'a datagram that a rule allows, in two', packet: { protocol: protocols.udp, payload: long(open) }, starts: [0, 1_208], arrive: 2 },
    { reason: 'one that none allows, in two: its end, which has no port and is of no use alone', packet: { protocol: protocols.udp, payload: long(closed) }, starts: [0, 1_208], arrive: 1 },
    { reason: 'its end without its beginning', packet: { protocol: protocols.udp, payload: long(open) }, starts: [1_208], arrive: 0 },
    { reason: 'in pieces of 8 bytes', packet: { protocol: protocols.udp, payload: udp(4_000, closed) }, starts: [0, 8], arrive: 0 },
    { reason: 'a connection’s beginning', packet: { protocol: protocols.tcp, payload: syn(4_000, 24) }, starts: [0], arrive: 0 },
    { reason: 'the same, cut before its flags', packet: { protocol: protocols.tcp, payload: syn(4_000, 24) }, starts: [0, 8], arrive: 0 },
    { reason: 'one that a rule allows, after all that', packet: { protocol: protocols.udp, payload: udp(4_000, open) }, starts: [0], arrive: 1 },
  ]; // prettier-ignore

  it('pass if the whole would, and not to get round it', async () => {
    await apply([
      network('acme', {
        ...dropTelnet,
        firewall: {
          defaultAction: 'Deny',
          rules: [
            { direction: 'Egress', action: 'Allow' },
            { direction: 'Ingress', action: 'Allow', protocol: 'UDP', ports: [String(open)] },
          ],
        },
      }),
    ]);
    await inForce();
    const me = scene.machines[attacker];
    const identified = packets.map((each, index) => ({ ...each, identification: 0x5000 + index }));
    const targets = ['acme/near', 'acme/far'] as const;
    await using watch = await Watch.start([...targets, ...theirs], []);
    await send(
      attacker,
      targets.flatMap((key) =>
        identified.flatMap(({ packet, identification, starts }) =>
          fragments(me, scene.machines[key], { ...packet, identification }, starts),
        ),
      ),
      '-interval 20ms',
    );
    await settle();
    for (const key of targets) {
      const frames = watch.frames(key).filter((frame) => claimOf(frame).mac === me.mac);
      const arrived = identified.map(({ reason, identification }) => ({
        reason,
        arrive: frames.filter((frame) => frame.readUInt16BE(18) === identification).length,
      }));
      expect(arrived).toEqual(packets.map(({ reason, arrive }) => ({ reason, arrive })));
    }
    expect(leaks(watch)).toEqual([]);
  }, 60_000);

  afterAll(async () => {
    await apply([network('acme', dropTelnet)]);
    await inForce();
  }, 30_000);
});

async function inForce(): Promise<void> {
  const { metadata } = await get(kinds.FederatedNetwork, 'acme/blue');
  await eventually('the network’s policy is in force', async () => {
    const { status } = await get(kinds.FederatedNetwork, 'acme/blue');
    expect(status?.observedGeneration).toBe(metadata.generation);
    expect(condition({ status }, 'Ready')?.status).toBe('True');
  });
}

describe('a port without flows', () => {
  it('is closed: what a guest floods from its boot on reaches nobody until an operator has been there', async () => {
    const { shots: sent } = flood();
    const { uuid = '' } = (await get(kinds.FederatedVM, attacker)).status ?? {};
    const virsh = (verb: string) => inSite(places[attacker].site, 'virsh', '-c', 'qemu:///system', verb, uuid);
    await operator?.kill();
    await virsh('destroy');
    const victims = everyone.filter((key) => key !== attacker);
    await using watch = await Watch.start(victims, []);
    await using own = Capture.expect({ site: places[attacker].site, mac: scene.machines[attacker].mac }, 'in');
    await virsh('start');
    await own.begun();
    await allSent(own, sent);
    await goesOn(own, sent);
    await settle();
    expect([...watch.arrivals()]).toEqual([]);
    operator = await Operator.start({ leaderElect: false });
    await seen('what may pass does', () => {
      expect([...watch.arrivals()].sort()).toEqual(expectedArrivals(sent));
    });
    await goesOn(own, sent);
    expect([...watch.arrivals()].sort()).toEqual(expectedArrivals(sent));
    expect(leaks(watch)).toEqual([]);
    expect(impostures(watch)).toEqual([]);
  }, 120_000);
});

/** Frames that do not even claim to be from one of these. */
function strangers(frames: readonly Buffer[], known: readonly Key[]): string[] {
  const macs = new Set(known.map((key) => scene.machines[key].mac));
  return frames.filter((frame) => !macs.has(claimOf(frame).mac)).map((frame) => frame.toString('hex'));
}

describe('a live migration of a machine that floods', () => {
  it('opens no door at either end', async () => {
    const { shots: sent } = flood();
    const { mac } = scene.machines[attacker];
    const victims = everyone.filter((key) => key !== attacker);
    await using watch = await Watch.start(victims, []);
    await using oldPort = await Capture.start({ site: 'valencia', mac }, 'out');
    await using newPort = Capture.expect({ site: 'lisbon', mac }, 'out');
    await using own = Capture.expect({ site: 'lisbon', mac }, 'in');
    // The other tenant speaks meanwhile, on the host that it leaves and on the one that it comes to.
    const pings = await Pings.start('globex/near', places['globex/mallory'].address);
    await apply([manifest('VMMigration', 'acme/with-a-flood', { vmName: 'mallory', target: { site: 'lisbon' } })]);
    await eventually(
      'it has moved',
      async () => expect((await get(kinds.VMMigration, 'acme/with-a-flood')).status?.phase).toBe('Succeeded'),
      60_000,
    );
    await goesOn(own, sent);
    await using after = await Watch.start(victims, []);
    await seen('it reaches from there whom it may', () => {
      expect([...after.arrivals()].sort()).toEqual(expectedArrivals(sent));
    });
    const { sent: asked, lost } = await pings.stop();
    report(`the other tenant lost ${lost} of ${asked} pings meanwhile`);
    await guest(attacker, 'killall frames', 60_000);
    await settle();
    expect([...watch.arrivals()].sort()).toEqual(expectedArrivals(sent));
    expect(impostures(watch)).toEqual([]);
    // At its own two ports it hears its tenant, and at the other end what it says to all itself.
    for (const frames of theirs.map((key) => watch.frames(key))) {
      expect(strangers(frames, theirs)).toEqual([]);
      expect([...marksIn(frames)]).toEqual([]);
    }
    for (const { frames } of [oldPort, newPort])
      expect(
        strangers(
          frames.filter((frame) => !isFromHost(frame, mac)),
          ours,
        ),
      ).toEqual([]);
    // As it came to, QEMU said where it is now.
    const announced = watch
      .frames('acme/near')
      .filter(
        (frame) => claimOf(frame).mac === mac && claimOf(frame).type === etherTypes.rarp && markOf(frame) === undefined,
      );
    expect(announced.length).toBeGreaterThan(0);
    await expectHonestTraffic();
  }, 180_000);
});
