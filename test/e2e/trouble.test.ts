import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { kinds } from '../../crds/index.js';
import {
  apply,
  condition,
  consulDump,
  container,
  deleteObjects,
  eventually,
  get,
  guest,
  inSite,
  machine,
  manifest,
  namespace,
  Operator,
  project,
  remove,
  report,
  run,
  sites,
  startOperator,
  stopOperator,
  waitReady,
  whereabouts,
  world,
  type Manifest,
  type World,
} from '../support/lab.js';

let operator: Operator | undefined;
let before: World;

beforeAll(async () => {
  operator = await startOperator();
  before = await world();
}, 90_000);

afterAll(async () => await stopOperator(operator), 120_000);

const keysOf = async (prefix: string): Promise<[string, string][]> => [...(await consulDump(`isthmus/${prefix}/`))];

describe('an operator that is killed while it creates five networks and five machines', () => {
  const ns = 'killed';
  const five = [0, 1, 2, 3, 4];
  const objects: Manifest[] = [
    namespace(ns),
    ...five.map((n) => manifest('FederatedNetwork', `${ns}/net-${String(n)}`, { cidr: `10.${String(n)}.0.0/24` })),
    ...five.map((n) =>
      machine(`${ns}/vm-${String(n)}`, {
        networks: [{ name: `net-${String(n)}` }],
        placement: { site: sites[n % sites.length] },
        storage: n === 0 ? 'Shared' : 'Local',
      }),
    ),
  ];
  const domains = async (): Promise<string[]> =>
    Object.entries(await world()).flatMap(([section, lines]) => (section.endsWith('qemu domains') ? lines : []));

  const moments = [
    {
      moment: 'after the first claim',
      reached: async () => expect((await keysOf('vlan')).length).toBeGreaterThan(0),
      reason: 'VLANs and addresses are claimed, little else is done',
    },
    {
      moment: 'after the first domain was defined',
      reached: async () =>
        expect((await domains()).length).toBeGreaterThan(
          Object.entries(before).flatMap(([section, lines]) => (section.endsWith('qemu domains') ? lines : [])).length,
        ),
      reason: 'volumes and definitions are half done',
    },
    {
      moment: 'when the first machines run',
      reached: async () => {
        const names = await Promise.all(five.map((n) => get(kinds.FederatedVM, `${ns}/vm-${String(n)}`)));
        expect(names.filter(({ status }) => status?.phase === 'Running').length).toBeGreaterThan(1);
      },
      reason: 'some are done, and must not be made again',
    },
  ];
  it.each(moments)(
    '$moment makes neither double nor leftover: $reason',
    async ({ moment, reached }) => {
      const from = performance.now();
      await apply(objects);
      await eventually(moment, reached, 30_000);
      await operator?.kill();
      const killed = performance.now();
      // The first successor waits for the Lease of the dead, as in a cluster; the others need not prove that again.
      operator = await Operator.start({ leaderElect: moment === moments[0]?.moment });
      await waitReady(kinds.FederatedNetwork, `--namespace=${ns}`);
      await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
      report(
        `killed after ${String(Math.round(killed - from))} ms, all Ready ${String(Math.round(performance.now() - killed))} ms later`,
      );
      // A line is `uuid name`: neither may be there twice, at whichever site.
      const found = (await domains()).map((line) => line.split(/\s+/)).filter(([, name]) => name?.startsWith('isth-'));
      expect(found).toHaveLength(five.length);
      for (const column of [0, 1]) expect(new Set(found.map((each) => each[column])).size).toBe(five.length);
      for (const space of ['vlan', 'vni', 'ip', 'mac']) {
        const claims = await keysOf(space);
        expect(claims).toHaveLength(five.length);
        expect(new Set(claims.map(([, owner]) => owner)).size).toBe(five.length);
      }
      expect(await keysOf('owner')).toHaveLength(2 * five.length);
      await deleteObjects();
      expect(await world()).toEqual(before);
    },
    150_000,
  );
});

describe('a site whose libvirtd is away', () => {
  const ns = 'away';
  let libvirtdIsAway = false;
  const bringBack = async (): Promise<void> => {
    if (libvirtdIsAway) await run('lab/up', []);
    libvirtdIsAway = false;
  };
  afterAll(bringBack, 60_000);

  it('says so within ten seconds, keeps no other site from working, and is served when it returns', async () => {
    await apply([
      namespace(ns),
      manifest('FederatedNetwork', `${ns}/old`, { cidr: '10.1.0.0/24', sites: ['lisbon'] }),
      machine(`${ns}/stays`, { networks: [{ name: 'old' }], placement: { site: 'lisbon' } }),
    ]);
    await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
    const counted = async (): Promise<number> =>
      Number((await guest(`${ns}/stays`, 'cat /run/seconds', 60_000)).stdout.trim());
    const secondsBefore = await counted();
    const [pid = ''] = (await readFile(`${project}.lab/run/lisbon-libvirtd.pid`, 'utf8')).split(' ');
    process.kill(Number(pid), 'SIGKILL');
    libvirtdIsAway = true;
    await eventually(
      'the Site says that libvirt is away',
      async () => {
        const ready = condition(await get(kinds.Site, 'lisbon'), 'Ready');
        expect(ready).toMatchObject({ status: 'False', reason: 'LibvirtUnreachable' });
        expect(ready?.message).toContain('198.51.100.13');
      },
      10_000,
    );
    // What needs lisbon waits and says for whom; what does not is made.
    await apply([
      manifest('FederatedNetwork', `${ns}/near`, { cidr: '10.2.0.0/24', sites: ['valencia', 'saopaulo'] }),
      manifest('FederatedNetwork', `${ns}/far`, { cidr: '10.3.0.0/24', sites: [...sites] }),
      machine(`${ns}/near`, { networks: [{ name: 'near' }], placement: { site: 'valencia' } }),
    ]);
    await eventually('a network without lisbon is Ready, and so is its machine', async () => {
      expect(condition(await get(kinds.FederatedNetwork, `${ns}/near`), 'Ready')?.status).toBe('True');
      expect(condition(await get(kinds.FederatedVM, `${ns}/near`), 'Ready')?.status).toBe('True');
    });
    await eventually('a network with lisbon tells what it waits for', async () => {
      const far = await get(kinds.FederatedNetwork, `${ns}/far`);
      expect(condition(far, 'Ready')).toMatchObject({ status: 'False' });
      expect(condition(far, 'Ready')?.message).toContain('lisbon');
      expect(far.status?.sitesReady).toBe('2/3');
      expect(
        far.status?.sites
          ?.filter(({ ready }) => ready)
          .map(({ name }) => name)
          .toSorted(),
      ).toEqual(['saopaulo', 'valencia']);
    });
    for (const name of ['valencia', 'saopaulo'])
      expect(condition(await get(kinds.Site, name), 'Ready')?.status).toBe('True');
    // A deletion that needs lisbon waits for it, visibly.
    await remove(kinds.FederatedNetwork, `${ns}/far`);
    await eventually('the deletion of the network waits and names the site', async () => {
      const blocked = condition(await get(kinds.FederatedNetwork, `${ns}/far`), 'DeletionBlocked');
      expect(blocked).toMatchObject({ status: 'True', reason: 'SiteUnreachable' });
      expect(blocked?.message).toContain('lisbon');
    });
    await apply([manifest('FederatedNetwork', `${ns}/later`, { cidr: '10.4.0.0/24', sites: ['lisbon'] })]);
    await bringBack();
    const returned = performance.now();
    await eventually(
      'the Site is Ready again, and has what was asked for meanwhile',
      async () => {
        expect(condition(await get(kinds.Site, 'lisbon'), 'Ready')?.status).toBe('True');
        expect(condition(await get(kinds.FederatedNetwork, `${ns}/later`), 'Ready')?.status).toBe('True');
        expect(condition(await get(kinds.FederatedVM, `${ns}/stays`), 'Ready')?.status).toBe('True');
        expect(await inSite('lisbon', 'virsh', '-q', 'net-list', '--name')).toContain('isth-later-');
        expect(await inSite('lisbon', 'virsh', '-q', 'net-list', '--all', '--name')).not.toContain('isth-far-');
      },
      20_000,
    );
    report(`lisbon is served ${String(Math.round(performance.now() - returned))} ms after lab/up`);
    expect(await counted()).toBeGreaterThan(secondsBefore);
    await deleteObjects();
    expect(await world()).toEqual(before);
  }, 180_000);
});

describe('what somebody removes by hand', () => {
  const ns = 'vandals';
  const here = `${ns}/here`;
  const there = `${ns}/there`;
  let address = '';
  let uuid = '';

  beforeAll(async () => {
    await apply([
      namespace(ns),
      manifest('FederatedNetwork', `${ns}/blue`, { cidr: '10.1.0.0/24', sites: ['valencia', 'lisbon'] }),
      machine(here, { networks: [{ name: 'blue' }], placement: { site: 'valencia' } }),
      container(there, { networks: [{ name: 'blue' }], placement: { site: 'lisbon' } }),
    ]);
    await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
    const { status } = await get(kinds.FederatedVM, here);
    address = status?.interfaces?.[0]?.address ?? '';
    uuid = status?.uuid ?? '';
  }, 90_000);

  /** Frames pass in both directions. */
  const connected = async (): Promise<void> =>
    expect((await guest(there, `ping -c 1 -W 1 ${address}`, 60_000)).stdout).toContain('1 packets received');

  beforeEach(async () => await eventually('the machines reach each other', connected, 60_000), 90_000);

  const running = async (): Promise<void> => expect(await whereabouts(uuid)).toEqual(['valencia running']);
  const network = async (): Promise<string> => await inSite('valencia', 'virsh', '-q', 'net-list', '--all');
  const flows = async (bridge: string): Promise<string> =>
    await inSite('valencia', 'ovs-ofctl', '-O', 'OpenFlow13', '--no-names', '--no-stats', 'dump-flows', bridge);

  const vandalism = [
    {
      what: 'a machine that was switched off',
      command: () => `virsh -q destroy ${uuid}`,
      returned: running,
      reason: 'runStrategy says Running',
    },
    {
      what: 'a domain that was undefined',
      command: () => `virsh -q destroy ${uuid} && virsh -q undefine ${uuid}`,
      returned: running,
      reason: 'the same UUID on the same disk',
    },
    {
      what: 'a domain that was paused',
      command: () => `virsh -q suspend ${uuid}`,
      returned: running,
      reason: 'runStrategy says Running',
    },
    {
      what: 'a libvirt network',
      command: () =>
        'name=$(virsh -q net-list --name | grep isth-blue); virsh -q net-destroy $name; virsh -q net-undefine $name',
      returned: async () => expect(await network()).toMatch(/isth-blue-\S+ +active +yes +yes/),
      reason: 'defined, active, and started with the daemon',
    },
    {
      what: 'a libvirt network that was stopped',
      command: () => 'virsh -q net-destroy $(virsh -q net-list --name | grep isth-blue)',
      returned: async () => expect(await network()).toMatch(/isth-blue-\S+ +active +yes +yes/),
      reason: 'the next machine could not start on it',
    },
    {
      what: 'the patch port',
      command: () => 'ovs-vsctl del-port isth-int isth-patch-edge',
      returned: connected,
      reason: 'the new one has another number, which the flows must follow',
    },
    {
      what: 'the tunnels',
      command: () =>
        'for port in $(ovs-vsctl --bare --columns=name find interface type=vxlan); do ovs-vsctl del-port isth-edge $port; done',
      returned: connected,
      reason: 'the new ones have other numbers, which the flows must follow',
    },
    {
      what: 'the listener of the boundary switch',
      command: () => 'ovs-vsctl del-controller isth-edge; ovs-ofctl -O OpenFlow13 del-flows isth-edge',
      returned: connected,
      reason: 'without it the switch can’t be programmed; its flows are set anew once it is there',
    },
    {
      what: 'a bridge with everything on it',
      command: () => 'ovs-vsctl del-br isth-edge',
      returned: connected,
      reason: 'bridge, patch, tunnels, listener and flows',
    },
  ];
  it.each(vandalism)(
    '$what returns: $reason',
    async ({ what, command, returned }) => {
      await inSite('valencia', 'env', 'LIBVIRT_DEFAULT_URI=qemu:///system', 'bash', '-c', command());
      const from = performance.now();
      await eventually(`${what} is back`, returned, 12_000);
      report(`${what}: back after ${String(Math.round(performance.now() - from))} ms`);
    },
    100_000,
  );

  const bridges = [
    { bridge: 'isth-int', command: 'del-flows', reason: 'every flow, those of no network too' },
    { bridge: 'isth-edge', command: 'del-flows', reason: 'every flow' },
    { bridge: 'isth-int', command: '--strict del-flows', reason: 'a single one' },
  ];
  it.each(bridges)(
    'flows of $bridge return ($command): $reason',
    async ({ bridge, command }) => {
      const wanted = await flows(bridge);
      const one = command.startsWith('--strict') ? ["'table=1,priority=0'"] : [];
      await inSite('valencia', 'bash', '-c', `ovs-ofctl -O OpenFlow13 ${command} ${bridge} ${one.join('')}`);
      expect(wanted.trim()).not.toBe('');
      await eventually(
        'the flows are what they were',
        async () => expect((await flows(bridge)).split('\n').toSorted()).toEqual(wanted.split('\n').toSorted()),
        5_000,
      );
      await connected();
    },
    100_000,
  );
});
