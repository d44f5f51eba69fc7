import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { kinds, quantity, type FederatedVM, type Site } from '../../crds/index.js';
import { siteRecord } from '../../reconcilers/common/records.js';
import {
  apply,
  condition,
  consulDump,
  container,
  deleteObjects,
  edgeTargets,
  eventually,
  find,
  get,
  guest,
  inSite,
  kubectl,
  labHosts,
  machine,
  manifest,
  namespace,
  Operator,
  patchHost,
  project,
  remove,
  report,
  run,
  startOperator,
  stopOperator,
  waitReady,
  whereabouts,
  wire,
  world,
  type LabHost,
  type World,
} from '../support/lab.js';
import { Capture } from '../support/lab/attack.js';

/** A machine each, where the test wants it; `stranger` is another tenant's, with the address of `near`. */
const near = 'hosts/near';
const spare = 'hosts/spare';
const far = 'hosts/far';
const stranger = 'strangers/near';
const tenant = [near, spare, far] as const;
const places: Readonly<Record<string, { site: string; host: string; on: LabHost; address: string }>> = {
  [near]: { site: 'lisbon', host: 'a', on: 'lisbon', address: '172.16.0.11' },
  [spare]: { site: 'lisbon', host: 'b', on: 'lisbon-b', address: '172.16.0.12' },
  [far]: { site: 'valencia', host: 'a', on: 'valencia', address: '172.16.0.13' },
  [stranger]: { site: 'lisbon', host: 'b', on: 'lisbon-b', address: '172.16.0.11' },
};
const peerNames: Readonly<Record<LabHost, string>> = {
  valencia: 'valencia/a',
  saopaulo: 'saopaulo/a',
  lisbon: 'lisbon/a',
  'lisbon-b': 'lisbon/b',
};

let operator: Operator | undefined;
let before: World;
const macs = new Map<string, string>();

beforeAll(async () => {
  operator = await startOperator();
  before = await world();
}, 90_000);

afterAll(async () => {
  // Whatever failed: its daemon runs, its wire is plugged in, and no Site names it.
  await wire('lisbon-b', 'up');
  await run('lab/up', []);
  await deleteObjects().catch(() => undefined);
  if ((await lisbon()).spec.hosts.length > 1) await leave();
  await eventually('the spare host is forgotten', forgotten, 60_000).finally(async () => await stopOperator(operator));
}, 240_000);

const lisbon = async (): Promise<Site> => await get(kinds.Site, 'lisbon');

async function join(): Promise<void> {
  await kubectl('apply', '--server-side', '--field-manager=spare-host', '-f', 'lab/spare-host.yaml');
}

const leave = async (): Promise<void> => await patchHost('lisbon', 'b', null);

/** The Site as its status has it now: what `kubectl get fsite` shows. */
async function siteSays(hostsReady: string, reason: string): Promise<Site> {
  const site = await lisbon();
  expect({ hosts: site.status?.hostsReady, reason: condition(site, 'Ready')?.reason }).toEqual({
    hosts: hostsReady,
    reason,
  });
  expect(site.status?.observedGeneration).toBe(site.metadata.generation);
  return site;
}

async function recordedHosts(): Promise<string[]> {
  const value = (await consulDump('isthmus/site/lisbon')).get('isthmus/site/lisbon');
  return siteRecord.parse(JSON.parse(value ?? 'null')).hosts.map(({ name }) => name);
}

/** Nothing is left of the spare host, on it or elsewhere. */
async function forgotten(): Promise<void> {
  await siteSays('1/1', 'HostsReady');
  expect(await recordedHosts()).toEqual(['a']);
  expect(await world()).toEqual(before);
}

interface Tunnels {
  readonly peers: string[];
  readonly ports: number[];
}

/** The tunnels of a host that its switch could make, by what they lead to. */
async function tunnels(host: LabHost): Promise<Tunnels> {
  const text = await inSite(
    host,
    ...['ovs-vsctl', '--format=csv', '--no-headings', '--columns=ofport,external_ids', 'find', 'interface'],
    'external_ids:isthmus=tunnel',
  );
  const rows = text.split('\n').flatMap((line) => {
    const [, port, peer] = /^(\d+),.*isthmus-peer="*([^,}"]+)/.exec(line) ?? [];
    return port === undefined || peer === undefined ? [] : [{ port: Number(port), peer }];
  });
  return { peers: rows.map(({ peer }) => peer).toSorted(), ports: rows.map(({ port }) => port) };
}

/** Flows of the boundary switch that take a frame from a tunnel and put one out by a tunnel. */
async function reflections(host: LabHost, { ports }: Tunnels): Promise<string[]> {
  const text = await inSite(
    host,
    ...['ovs-ofctl', '-O', 'OpenFlow13', '--no-names', '--no-stats', 'dump-flows', 'isth-edge'],
  );
  const flows = text.split('\n').filter((line) => line.includes('actions='));
  expect(flows.length).toBeGreaterThan(0);
  return flows.filter((flow) => {
    const [match = '', actions = ''] = flow.split('actions=');
    const [, from] = /in_port=(\d+)/.exec(match) ?? [];
    const outputs = [...actions.matchAll(/output:(\d+)|IN_PORT|FLOOD|ALL|NORMAL/g)];
    const fromTunnel = from === undefined || ports.includes(Number(from));
    return fromTunnel && outputs.some(([, port]) => port === undefined || ports.includes(Number(port)));
  });
}

async function expectMesh(hosts: readonly LabHost[]): Promise<void> {
  for (const host of hosts) {
    const found = await tunnels(host);
    expect({ host, peers: found.peers }).toEqual({
      host,
      peers: hosts
        .filter((other) => other !== host)
        .map((other) => peerNames[other])
        .toSorted(),
    });
  }
}

async function pings(from: string, targets: readonly string[], payload = 56): Promise<void> {
  const command = targets.map((to) => `ping -c 1 -W 3 -s ${String(payload)} ${places[to]?.address ?? ''}`).join(';');
  const { stdout } = await guest(from, command, 60_000);
  expect(`${from}: ${stdout}`).toMatch(new RegExp('1 packets received[^]*'.repeat(targets.length)));
}

async function allPing(payload?: number): Promise<void> {
  for (const from of tenant) {
    const others = tenant.filter((to) => to !== from);
    await eventually(`${from} reaches ${others.join(', ')}`, () => pings(from, others, payload), 15_000);
  }
}

const isBroadcastArp = (frame: Buffer): boolean =>
  frame.toString('hex', 0, 6) === 'ffffffffffff' && frame.toString('hex', 12, 14) === '0806';

const macOf = (key: string): string => macs.get(key) ?? '';

const placeOf = ({ status }: FederatedVM): string => `${status?.site ?? ''}/${status?.host ?? ''}`;

/** A machine of the given size that is given a place and stays off. */
async function placed(name: string, memoryBytes: bigint, placement: object): Promise<void> {
  await apply([
    machine(`hosts/${name}`, {
      resources: { vcpus: 1, memory: quantity.format(memoryBytes), disk: '1Gi' },
      runStrategy: 'Stopped',
      networks: [{ name: 'blue' }],
      placement,
    }),
  ]);
}

const untilPlaced = async (name: string): Promise<string> =>
  await eventually(`${name} has a place`, async () => {
    const object = await get(kinds.FederatedVM, `hosts/${name}`);
    expect(condition(object, 'Ready')?.status).toBe('True');
    return placeOf(object);
  });

async function untilGone(...names: string[]): Promise<void> {
  await remove(kinds.FederatedVM, ...names.map((name) => `hosts/${name}`));
  await eventually('they are gone', async () => {
    for (const name of names) expect(await find(kinds.FederatedVM, `hosts/${name}`)).toBeUndefined();
  });
}

async function refusal(name: string): Promise<string> {
  return await eventually(`${name} is told why it has no place`, async () => {
    const ready = condition(await get(kinds.FederatedVM, `hosts/${name}`), 'Ready');
    expect(ready).toMatchObject({ status: 'False', reason: 'NoRoom' });
    return ready?.message ?? '';
  });
}

async function memoryOf(host: string): Promise<bigint> {
  const found = (await lisbon()).status?.hosts?.find(({ name }) => name === host);
  return quantity.parse(found?.capacity?.memory ?? '');
}

async function move(name: string, host: string): Promise<void> {
  await apply([manifest('VMMigration', `hosts/${name}`, { vmName: 'near', target: { site: 'lisbon', host } })]);
  await eventually(
    `${name} is over`,
    async () => {
      const { status } = await get(kinds.VMMigration, `hosts/${name}`);
      expect(status).toMatchObject({ phase: 'Succeeded', target: { site: 'lisbon', host } });
    },
    60_000,
  );
  await remove(kinds.VMMigration, `hosts/${name}`);
}

describe('a host that joins a site', () => {
  it('is taken into use beside the first', async () => {
    const from = performance.now();
    await join();
    await eventually('both hosts are ready', async () => await siteSays('2/2', 'HostsReady'), 20_000);
    report(`HOSTS 2/2 after ${String(Math.round(performance.now() - from))} ms`);
    expect(await recordedHosts()).toEqual(['a', 'b']);
    await eventually('every host has a tunnel to every other', () => expectMesh(labHosts));
  }, 40_000);

  it('carries networks and machines', async () => {
    await apply([
      ...['hosts', 'strangers'].flatMap((ns) => [
        namespace(ns),
        manifest('FederatedNetwork', `${ns}/blue`, { cidr: '172.16.0.0/16' }),
      ]),
      ...Object.entries(places).map(([key, { site, host, address }]) =>
        (key === far ? container : machine)(key, {
          placement: { site, host },
          storage: key === near || key === spare ? 'Shared' : 'Local',
          networks: [{ name: 'blue', address }],
        }),
      ),
    ]);
    for (const ns of ['hosts', 'strangers']) {
      await waitReady(kinds.FederatedNetwork, `--namespace=${ns}`);
      await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
    }
    for (const [key, { site, host, on }] of Object.entries(places)) {
      const object = await get(kinds.FederatedVM, key);
      expect(placeOf(object)).toBe(`${site}/${host}`);
      expect(await whereabouts(object.status?.uuid ?? '', key === far ? 'lxc' : 'qemu')).toEqual([`${on} running`]);
      macs.set(key, object.status?.interfaces?.[0]?.mac ?? '');
      expect((await guest(key, 'cat /run/ready', 60_000)).exitCode).toBe(0);
    }
  }, 120_000);

  it('no boundary switch puts a tunnel’s frame into a tunnel', async () => {
    for (const host of labHosts) {
      const found = await tunnels(host);
      expect(found.ports).toHaveLength(labHosts.length - 1);
      expect(await reflections(host, found)).toEqual([]);
    }
  });
});

describe('machines of one network on two hosts of a site and at another site', () => {
  it('all reach each other', async () => await allPing(), 60_000);

  it('with packets of the network’s full size too', async () => {
    await allPing(1422);
  }, 60_000);

  it('a broadcast arrives once at each, and never at the other tenant’s', async () => {
    const all = [...tenant, stranger];
    const captures = await Promise.all(
      all.map(async (to) => await Capture.start({ site: places[to]?.on ?? 'lisbon', mac: macOf(to) }, 'out')),
    );
    try {
      const command = 'device=$(ls /sys/class/net | grep -v lo); arping -c 3 -w 3 -I $device 172.16.77.77';
      const sent = new Map(
        await Promise.all(
          tenant.map(async (from) => {
            const [, probes] = /Sent (\d+) probe/.exec((await guest(from, command)).stdout) ?? [];
            return [from, Number(probes)] as const;
          }),
        ),
      );
      for (const probes of sent.values()) expect(probes).toBeGreaterThanOrEqual(3);
      const ways = all.flatMap((to, index) =>
        tenant.filter((from) => from !== to).map((from) => ({ from, to, capture: captures[index] })),
      );
      const seen = ways.map(async ({ from, to, capture }) => {
        const frames = (await capture?.from([macOf(from)])) ?? [];
        return { from, to, frames: frames.filter((frame) => isBroadcastArp(frame)).length };
      });
      expect(await Promise.all(seen)).toEqual(
        ways.map(({ from, to }) => ({ from, to, frames: to === stranger ? 0 : sent.get(from) })),
      );
    } finally {
      await Promise.all(captures.map((capture) => capture[Symbol.asyncDispose]()));
    }
  }, 30_000);

  it('only the tenant’s own machine answers to an address that both have', async () => {
    await using capture = await Capture.start({ site: 'lisbon-b', mac: macOf(stranger) }, 'out');
    for (const from of [spare, far]) {
      await guest(from, `arp -d ${places[near]?.address ?? ''}`);
      await pings(from, [near]);
      const { stdout } = await guest(from, `arp -n ${places[near]?.address ?? ''}`);
      expect(stdout.toLowerCase()).toContain(macOf(near));
    }
    expect(await capture.from(tenant.map(macOf))).toEqual([]);
  }, 30_000);
});

describe('a machine that moves between the hosts of a site', () => {
  const ways = [
    { to: 'b', on: 'lisbon-b', reason: 'to the host that joined' },
    { to: 'a', on: 'lisbon', reason: 'and back' },
  ] as const;
  it.each(ways)(
    'runs on, once, and is reached by all: $reason',
    async ({ to, on }) => {
      const { status } = await get(kinds.FederatedVM, near);
      const seconds = Number((await guest(near, 'cat /run/seconds')).stdout);
      await move(`near-to-${to}`, to);
      expect(await whereabouts(status?.uuid ?? '')).toEqual([`${on} running`]);
      const after = Number((await guest(near, 'cat /run/seconds', 60_000)).stdout);
      expect(after).toBeGreaterThan(seconds);
      await allPing();
      // Of the two hosts, the one that it left sends its frames to the other.
      const [other, tunnel] = to === 'b' ? (['lisbon', 'lisbon/b'] as const) : (['lisbon-b', 'lisbon/a'] as const);
      expect(await edgeTargets(other, macOf(near))).toEqual([tunnel]);
      expect(await edgeTargets('valencia', macOf(near))).toEqual([`lisbon/${to}`]);
    },
    120_000,
  );
});

describe('the choice of a host', () => {
  it('falls on the one where there is room', async () => {
    const most = ((await memoryOf('a')) * 6n) / 10n;
    await placed('first', most, { site: 'lisbon' });
    const first = await untilPlaced('first');
    await placed('second', most, { site: 'lisbon' });
    expect([first, await untilPlaced('second')].toSorted()).toEqual(['lisbon/a', 'lisbon/b']);
    await placed('third', most, { site: 'lisbon' });
    const message = await refusal('third');
    for (const host of ['lisbon/a', 'lisbon/b']) expect(message).toMatch(new RegExp(`${host}: \\S+ of memory short`));
    await untilGone('first', 'second', 'third');
  }, 60_000);

  it('passes over a host in maintenance, and leaves the machines there alone', async () => {
    await patchHost('lisbon', 'b', { maintenance: true });
    await eventually('the Site has seen it', async () => await siteSays('2/2', 'HostsReady'));
    // More than a has left beside it, so that only maintenance speaks against b.
    await placed('weight', ((await memoryOf('a')) * 5n) / 10n, { site: 'lisbon', host: 'a' });
    await untilPlaced('weight');
    await placed('anywhere', 1n << 27n, { site: 'lisbon' });
    expect(await untilPlaced('anywhere')).toBe('lisbon/a');
    await placed('pinned', 1n << 27n, { site: 'lisbon', host: 'b' });
    expect(await refusal('pinned')).toContain('lisbon/b: in maintenance');
    await pings(near, [spare]);
    await patchHost('lisbon', 'b', { maintenance: null });
    expect(await untilPlaced('pinned')).toBe('lisbon/b');
    await untilGone('weight', 'anywhere', 'pinned');
  }, 60_000);
});

describe('a host whose libvirtd is away', () => {
  it('is told by its Site within ten seconds; the other hosts work on, and it is used again when it returns', async () => {
    const [pid = ''] = (await readFile(`${project}.lab/run/lisbon-b-libvirtd.pid`, 'utf8')).split(' ');
    process.kill(Number(pid), 'SIGKILL');
    await eventually(
      'the Site tells',
      async () => {
        const site = await siteSays('1/2', 'LibvirtUnreachable');
        expect(condition(site, 'Ready')?.message).toContain('host b');
        expect(condition(site, 'Ready')?.message).toContain('198.51.100.14');
      },
      10_000,
    );
    // The console of a machine there goes through its libvirtd; the machine itself goes on.
    await pings(near, [spare, far]);
    await pings(far, [spare]);
    await apply([machine('hosts/new', { placement: { site: 'lisbon' }, networks: [{ name: 'blue' }] })]);
    await eventually('a new machine runs on the other host', async () => {
      const object = await get(kinds.FederatedVM, 'hosts/new');
      expect(condition(object, 'Ready')?.status).toBe('True');
      expect(placeOf(object)).toBe('lisbon/a');
    });
    expect(condition(await get(kinds.FederatedVM, near), 'Ready')?.status).toBe('True');
    await run('lab/up', []);
    await eventually('the Site is whole again', async () => await siteSays('2/2', 'HostsReady'), 20_000);
    await eventually('so is its machine', async () =>
      expect(condition(await get(kinds.FederatedVM, spare), 'Ready')?.status).toBe('True'),
    );
    await untilGone('new');
  }, 120_000);
});

describe('a host that is lost and fenced', () => {
  it('is waited for by nobody, and is used again when it is no longer fenced', async () => {
    await placed('lost', 1n << 27n, { site: 'lisbon', host: 'b' });
    expect(await untilPlaced('lost')).toBe('lisbon/b');
    await wire('lisbon-b', 'down');
    await eventually('the Site tells', async () => await siteSays('1/2', 'LibvirtUnreachable'), 30_000);
    await remove(kinds.FederatedVM, 'hosts/lost');
    await eventually('the deletion of a machine there waits', async () => {
      const lost = await get(kinds.FederatedVM, 'hosts/lost');
      expect(condition(lost, 'DeletionBlocked')?.message).toContain('host b');
    });
    await patchHost('lisbon', 'b', { fenced: true });
    await eventually('the deletion is done', async () =>
      expect(await find(kinds.FederatedVM, 'hosts/lost')).toBeUndefined(),
    );
    await eventually('the Site does without it', async () => {
      const site = await siteSays('1/2', 'HostsReady');
      expect(site.status?.hosts?.find(({ name }) => name === 'b')).toMatchObject({ ready: false, reason: 'Fenced' });
    });
    await eventually('no host has a tunnel to it', () => expectMesh(labHosts.filter((host) => host !== 'lisbon-b')));
    await apply([manifest('FederatedNetwork', 'hosts/short', { cidr: '10.1.0.0/24' })]);
    await waitReady(kinds.FederatedNetwork, '--namespace=hosts');
    await remove(kinds.FederatedNetwork, 'hosts/short');
    await eventually('a network is removed without it', async () =>
      expect(await find(kinds.FederatedNetwork, 'hosts/short')).toBeUndefined(),
    );
    await eventually('a machine there says what is the matter', async () =>
      expect(condition(await get(kinds.FederatedVM, spare), 'Ready')).toMatchObject({
        status: 'False',
        reason: 'HostFenced',
      }),
    );
    await placed('pinned', 1n << 27n, { site: 'lisbon', host: 'b' });
    expect(await refusal('pinned')).toContain('lisbon/b: fenced');
    await pings(near, [far]);
    await wire('lisbon-b', 'up');
    await patchHost('lisbon', 'b', { fenced: null });
    await eventually('the host is back', async () => await siteSays('2/2', 'HostsReady'), 30_000);
    await eventually('so are the tunnels', () => expectMesh(labHosts));
    await eventually('and its machines', allPing, 30_000);
    expect(await untilPlaced('pinned')).toBe('lisbon/b');
    // Nobody could remove it there.
    const leftover = (await inSite('lisbon-b', 'virsh', '-q', 'list', '--all', '--name'))
      .split('\n')
      .filter((name) => name.startsWith('isth-lost-'));
    expect(leftover).toHaveLength(1);
    for (const name of leftover) await inSite('lisbon-b', 'virsh', '-q', 'undefine', name, '--remove-all-storage');
    await untilGone('pinned');
  }, 180_000);
});

describe('a host that leaves its site', () => {
  const says = async (...words: string[]): Promise<void> => {
    const site = await siteSays('1/2', 'HostLeaving');
    for (const word of ['host b', ...words]) expect(condition(site, 'Ready')?.message).toContain(word);
  };

  it('stays in the data plane, and its Site names what it holds, also after a restart', async () => {
    await leave();
    const holdings = [spare, stranger].map((key) => `FederatedVM ${key}`);
    await eventually('the Site tells', async () => await says(...holdings, 'move or delete'));
    await allPing();
    await operator?.kill();
    operator = await Operator.start({ leaderElect: false });
    await eventually('the Site still tells', async () => await says(...holdings));
    await allPing();
    await expectMesh(labHosts);
    await placed('pinned', 1n << 27n, { site: 'lisbon', host: 'b' });
    await eventually('nothing new is placed there', async () =>
      expect(condition(await get(kinds.FederatedVM, 'hosts/pinned'), 'Ready')).toMatchObject({ reason: 'UnknownHost' }),
    );
    await untilGone('pinned');
    // A machine there can still be moved, and the Site counts what is left.
    await apply([manifest('VMMigration', 'hosts/away', { vmName: 'spare', target: { site: 'lisbon', host: 'a' } })]);
    await eventually(
      'its machine is moved away',
      async () => expect((await get(kinds.VMMigration, 'hosts/away')).status?.phase).toBe('Succeeded'),
      60_000,
    );
    await eventually('the Site names the other one alone', async () => {
      await says(`FederatedVM ${stranger}`);
      expect(condition(await lisbon(), 'Ready')?.message).not.toContain(spare);
    });
    await allPing();
  }, 180_000);

  it('is cleared and forgotten once it holds no machine', async () => {
    const from = performance.now();
    await remove(kinds.FederatedVM, stranger);
    await eventually('the Site is whole without it', async () => await siteSays('1/1', 'HostsReady'), 30_000);
    report(`forgotten ${String(Math.round(performance.now() - from))} ms after its last machine was deleted`);
    expect(await recordedHosts()).toEqual(['a']);
    expect(await inSite('lisbon-b', 'ovs-vsctl', 'list-br')).toBe('br-wan\n');
    expect((await inSite('lisbon-b', 'virsh', '-q', 'net-list', '--all', '--name')).includes('isth-')).toBe(false);
    await eventually('no host has a tunnel to it', () => expectMesh(labHosts.filter((host) => host !== 'lisbon-b')));
    await allPing();
    for (const ns of ['hosts', 'strangers']) await waitReady(kinds.FederatedNetwork, `--namespace=${ns}`);
  }, 60_000);

  it('leaves nothing behind', async () => {
    await deleteObjects();
    await eventually('the world is as it was', forgotten);
  }, 90_000);
});
