import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { kinds, type FederatedNetworkSpec, type Flow } from '../../crds/index.js';
import {
  apply,
  applyFails,
  condition,
  consulDump,
  container,
  eventually,
  get,
  guest,
  inSite,
  kubectl,
  machine,
  manifest,
  namespace,
  remove,
  report,
  sites,
  startOperator,
  stopOperator,
  waitReady,
  type Operator,
} from '../support/lab.js';

const tenant = 'guarded';
const addresses = { a: '172.20.0.10', b: '172.20.0.11', c: '172.20.0.12', far: '172.21.0.10' } as const;
type Name = keyof typeof addresses;
const title = (name: string): string => `${tenant}/${name}`;

let operator: Operator | undefined;

type Policy = Pick<FederatedNetworkSpec, 'firewall' | 'flows'>;
const blue = (policy: Policy = {}) =>
  manifest('FederatedNetwork', title('blue'), { cidr: '172.20.0.0/24', gateway: '172.20.0.1', ...policy });

const member = (name: Name, site: string, network = 'blue') =>
  container(title(name), { placement: { site }, networks: [{ name: network, address: addresses[name] }] });

beforeAll(async () => {
  operator = await startOperator();
  await apply([
    namespace(tenant),
    blue(),
    manifest('FederatedNetwork', title('red'), { cidr: '172.21.0.0/24', gateway: '172.21.0.1' }),
    manifest('VMTemplate', 'plain-router', { role: 'Router', image: { name: 'tiny' } }),
    // It moves.
    machine(title('a'), {
      storage: 'Shared',
      placement: { site: 'valencia' },
      networks: [{ name: 'blue', address: addresses.a }],
    }),
    member('b', 'saopaulo'),
    member('c', 'valencia'),
    member('far', 'saopaulo', 'red'),
    machine(title('router'), {
      template: 'plain-router',
      placement: { site: 'lisbon' },
      networks: [
        { name: 'blue', address: '172.20.0.1' },
        { name: 'red', address: '172.21.0.1' },
      ],
    }),
  ]);
  await waitReady(kinds.FederatedVM, '--namespace', tenant);
  for (const name of [...Object.keys(addresses), 'router'])
    expect((await guest(title(name), 'cat /run/ready', 60_000)).exitCode).toBe(0);
}, 180_000);

afterAll(async () => {
  await kubectl('delete', 'vmtemplate', 'plain-router', '--ignore-not-found', '--wait=false');
  await stopOperator(operator);
}, 120_000);

/** The network with this policy, in force at every site. */
async function impose(policy: Policy): Promise<void> {
  await apply([blue(policy)]);
  const { metadata } = await get(kinds.FederatedNetwork, title('blue'));
  await eventually('the network is Ready with its new policy', async () => {
    const { status } = await get(kinds.FederatedNetwork, title('blue'));
    expect(status?.observedGeneration).toBe(metadata.generation);
    expect(condition({ status }, 'Ready')).toMatchObject({ status: 'True' });
    for (const { flows } of status?.sites ?? []) expect(flows?.present).toBe(flows?.wanted);
  });
}

/** Whether a connection from one machine to a port of another can be opened. */
async function opens(from: Name, to: Name, port: number): Promise<boolean> {
  // Until one connection has been served; killed if none comes.
  await guest(title(to), `setsid timeout 4 nc -l -p ${String(port)} </dev/null >/dev/null 2>&1 & sleep 0.2`);
  const { exitCode } = await guest(title(from), `nc -w 2 ${addresses[to]} ${String(port)} </dev/null >/dev/null 2>&1`);
  return exitCode === 0;
}

async function pings(from: Name, to: string): Promise<boolean> {
  const { exitCode } = await guest(title(from), `ping -c 2 -W 1 ${to} >/dev/null`);
  return exitCode === 0;
}

/** A connection that `to` opened to `from` and on which only `from` sends; lines that have arrived. */
class Stream {
  private constructor(
    private readonly to: Name,
    private readonly file: string,
  ) {}

  static async open(from: Name, to: Name, port: number): Promise<Stream> {
    const file = `/tmp/stream-${String(port)}`;
    const talk = 'i=0; while :; do echo $i; i=$((i+1)); usleep 50000; done';
    await guest(title(from), `setsid sh -c '(${talk}) | nc -l -p ${String(port)}' >/dev/null 2>&1 & sleep 0.3`);
    await guest(
      title(to),
      `setsid sh -c 'sleep 600 | nc ${addresses[from]} ${String(port)} >${file}' >/dev/null 2>&1 & sleep 0.5`,
    );
    const stream = new Stream(to, file);
    await stream.flows();
    return stream;
  }

  async lines(): Promise<number> {
    return Number((await guest(title(this.to), `wc -l <${this.file}`)).stdout.trim());
  }

  /** Waits until more has come than there is now. */
  async flows(withinMs = 5_000): Promise<void> {
    const before = await this.lines();
    await eventually(
      'more arrives',
      async () => {
        expect(await this.lines()).toBeGreaterThan(before);
      },
      withinMs,
    );
  }

  async isStill(): Promise<boolean> {
    const before = await this.lines();
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    return (await this.lines()) === before;
  }
}

describe('flows of a network', () => {
  const drop = (at: Flow['at'], tcpDst: number): Flow => ({
    ...{ name: `drop-${at.toLowerCase()}`, at, priority: 300, actions: [{ drop: {} }] },
    match: { ethType: 'ipv4', ipProtocol: 'tcp', tcpDst },
  });

  it('at the port drop what a machine sends, to whom ever, until they are taken out', async () => {
    await impose({ flows: [drop('Port', 23)] });
    expect(await opens('a', 'b', 23)).toBe(false);
    expect(await opens('a', 'c', 23)).toBe(false);
    expect(await opens('a', 'b', 24)).toBe(true);
    await impose({});
    expect(await opens('a', 'b', 23)).toBe(true);
  }, 60_000);

  it('at the boundary drop what leaves the host, and leave alone what stays', async () => {
    await impose({ flows: [drop('Boundary', 25)] });
    expect(await opens('a', 'b', 25)).toBe(false);
    expect(await opens('a', 'c', 25)).toBe(true);
    await impose({});
  }, 60_000);

  const many = Array.from({ length: 100 }, (_, index): Flow => ({
    name: `f-${String(index)}`,
    at: index % 2 === 0 ? 'Port' : 'Boundary',
    priority: 100,
    match: { ethType: 'ipv4', ipProtocol: 'udp', udpDst: 1000 + index },
    actions: [{ drop: {} }],
  }));

  it('are all there at every site, also those that one change adds, changes and removes', async () => {
    await impose({});
    const before = await flowsAt();
    await impose({ flows: many });
    // 50 at each bridge of each site.
    expect(await flowsAt()).toEqual(before.map((count) => count + 100));
    await impose({ flows: many.slice(10).map((flow) => ({ ...flow, priority: 101 })) });
    expect(await flowsAt()).toEqual(before.map((count) => count + 90));
    await impose({});
    expect(await flowsAt()).toEqual(before);
  }, 60_000);

  it('with a fault are refused with their index, and the working set stays', async () => {
    await impose({ flows: many.slice(0, 4) });
    const working = await dump();
    const twin = { ...drop('Boundary', 1), ...many[1], name: 'twin' };
    await apply([blue({ flows: [...many.slice(0, 3), twin] })]);
    await eventually('the network names the flow', async () => {
      const network = await get(kinds.FederatedNetwork, title('blue'));
      expect(condition(network, 'Stalled')).toMatchObject({
        reason: 'FlowRejected',
        message: expect.stringContaining('spec.flows[3] (twin)'),
      });
    });
    expect(await dump()).toEqual(working);
    const refusal = await applyFails([
      blue({ flows: [...many.slice(0, 2), { ...drop('Port', 23), match: { tcpDst: 23 } }] }),
    ]);
    expect(refusal).toContain('spec.flows[2].match');
    expect(await dump()).toEqual(working);
    await impose({});
  }, 60_000);
});

async function dump(): Promise<string[]> {
  const script = `for bridge in isth-int isth-edge; do ovs-ofctl -O OpenFlow13 --no-names --no-stats dump-flows $bridge; done`;
  const texts = await Promise.all(sites.map((site) => inSite(site, 'bash', '-c', script)));
  return texts.flatMap((text) => text.trim().split('\n').sort());
}

async function flowsAt(): Promise<number[]> {
  const { status } = await get(kinds.FederatedNetwork, title('blue'));
  return (status?.sites ?? []).map(({ flows }) => flows?.present ?? NaN);
}

describe('the firewall of a network', () => {
  it('says who may open connections, at both ends and across sites', async () => {
    await impose({
      firewall: {
        defaultAction: 'Deny',
        rules: [
          { direction: 'Egress', action: 'Allow' },
          {
            direction: 'Ingress',
            action: 'Deny',
            protocol: 'TCP',
            ports: ['81'],
            from: [{ cidr: `${addresses.c}/32` }],
          },
          { direction: 'Ingress', action: 'Allow', protocol: 'TCP', ports: ['80-90'] },
          { direction: 'Ingress', action: 'Allow', protocol: 'ICMP', from: [{ cidr: '172.20.0.0/24' }] },
        ],
      },
    });
    expect(await opens('a', 'b', 81)).toBe(true);
    expect(await opens('c', 'b', 81)).toBe(false);
    expect(await opens('c', 'a', 81)).toBe(false);
    expect(await opens('c', 'a', 82)).toBe(true);
    expect(await opens('a', 'b', 91)).toBe(false);
    expect(await pings('a', addresses.b)).toBe(true);
  }, 90_000);

  it('that is new and has a fault closes its network, until the fault is mended', async () => {
    const careful = (name: string) =>
      manifest('FederatedNetwork', title('careful'), {
        cidr: '172.23.0.0/24',
        firewall: { rules: [{ direction: 'Ingress', action: 'Allow', from: [{ network: name }] }] },
      });
    const policy = async (): Promise<unknown> => {
      const { metadata } = await get(kinds.FederatedNetwork, title('careful'));
      const key = `isthmus/policy/${metadata.uid}`;
      return JSON.parse((await consulDump(key)).get(key) ?? 'null');
    };
    await apply([careful('nowhere')]);
    await eventually('the network is refused, and closed', async () => {
      const network = await get(kinds.FederatedNetwork, title('careful'));
      expect(condition(network, 'Ready')).toMatchObject({ status: 'False', reason: 'FirewallRejected' });
      expect(await policy()).toEqual({ firewall: { defaultAction: 'Deny', rules: [] }, flows: [] });
    });
    await apply([careful('red')]);
    await eventually('the network has its firewall', async () => {
      const rules = [{ direction: 'Ingress', action: 'Allow', peers: ['172.21.0.0/24'] }];
      expect(await policy()).toEqual({ firewall: { defaultAction: 'Allow', rules }, flows: [] });
    });
    await remove(kinds.FederatedNetwork, title('careful'));
  }, 60_000);

  it('can be put on a running network: what it permits goes on, whoever sends, the rest ends', async () => {
    await impose({});
    const permitted = await Stream.open('b', 'a', 85);
    const denied = await Stream.open('b', 'a', 95);
    await impose({
      firewall: {
        defaultAction: 'Deny',
        rules: [
          { direction: 'Egress', action: 'Allow', protocol: 'TCP', ports: ['85'] },
          { direction: 'Ingress', action: 'Allow', protocol: 'TCP', ports: ['85'] },
        ],
      },
    });
    await permitted.flows();
    expect(await denied.isStill()).toBe(true);
    expect(await pings('a', addresses.b)).toBe(false);
    // And it ends with the rule that let it in.
    await impose({ firewall: { defaultAction: 'Deny' } });
    expect(await permitted.isStill()).toBe(true);
  }, 120_000);

  it('lets a connection go on that a machine opened and takes along to another site, though only the peer sends', async () => {
    await impose({
      firewall: {
        defaultAction: 'Deny',
        rules: [
          { direction: 'Egress', action: 'Allow' },
          {
            direction: 'Ingress',
            action: 'Allow',
            protocol: 'TCP',
            ports: ['86'],
            from: [{ cidr: `${addresses.a}/32` }],
          },
        ],
      },
    });
    const stream = await Stream.open('b', 'a', 86);
    const before = await stream.lines();
    await apply([manifest('VMMigration', title('a-moves'), { vmName: 'a', target: { site: 'lisbon' } })]);
    await eventually('a has moved', async () => {
      expect((await get(kinds.VMMigration, title('a-moves'))).status?.phase).toBe('Succeeded');
    });
    await stream.flows();
    report(`lines received: ${String(before)} before the move, ${String(await stream.lines())} just after`);
    // Nobody can open one to it there.
    expect(await opens('b', 'a', 87)).toBe(false);
    await impose({});
  }, 120_000);
});

describe('a router machine', () => {
  it('joins two networks of a tenant', async () => {
    await guest(title('router'), 'echo 1 >/proc/sys/net/ipv4/ip_forward');
    expect(await pings('b', addresses.far)).toBe(true);
    expect(await pings('far', addresses.b)).toBe(true);
  }, 60_000);

  it('is known to the firewall by the network that it joins', async () => {
    const allow = (from: { network: string } | { cidr: string }): Policy => ({
      firewall: {
        defaultAction: 'Deny',
        rules: [
          { direction: 'Egress', action: 'Allow' },
          { direction: 'Ingress', action: 'Allow', from: [from] },
        ],
      },
    });
    await impose(allow({ network: 'red' }));
    expect(await pings('far', addresses.b)).toBe(true);
    expect(await pings('c', addresses.b)).toBe(false);
    await apply([blue(allow({ network: 'green' }))]);
    await eventually('the network names what is missing', async () => {
      const network = await get(kinds.FederatedNetwork, title('blue'));
      expect(condition(network, 'Ready')).toMatchObject({
        reason: 'FirewallRejected',
        message: expect.stringContaining('spec.firewall.rules[1].from[0].network'),
      });
    });
    await impose({});
  }, 60_000);

  it('nobody else may be the gateway', async () => {
    await apply([
      machine(title('impostor'), { networks: [{ name: 'red', address: '172.21.0.1' }], placement: { site: 'lisbon' } }),
    ]);
    await eventually('the machine is refused', async () => {
      const impostor = await get(kinds.FederatedVM, title('impostor'));
      expect(condition(impostor, 'Stalled')).toMatchObject({ reason: 'AddressNotUsable' });
    });
  }, 60_000);
});
