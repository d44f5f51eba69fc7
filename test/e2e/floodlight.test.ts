import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { isEntryCookie } from '../../drivers/floodlight/index.js';
import { kinds } from '../../crds/index.js';
import { cookieMagic, cookieMagicMask } from '../../reconcilers/common/identity.js';
import { FloodlightStandIn } from '../support/floodlight/index.js';
import {
  apply,
  condition,
  container,
  eventually,
  get,
  guest,
  inSite,
  manifest,
  namespace,
  patchSpec,
  Pings,
  report,
  startOperator,
  stopOperator,
  waitReady,
  type Operator,
} from '../support/lab.js';

/** The machine's own address on the lab's wide area network: sites reach it, and so does the operator. */
const host = '198.51.100.1';
const site = 'saopaulo';
const tenant = 'guided';
const title = (name: string): string => `${tenant}/${name}`;
const addresses = { a: '172.22.0.10', b: '172.22.0.11', c: '172.22.0.12' } as const;

let operator: Operator | undefined;
let floodlight: FloodlightStandIn;

const network = (spec: object = {}) =>
  manifest('FederatedNetwork', title('blue'), { cidr: '172.22.0.0/24', sites: ['valencia', site], ...spec });
const member = (name: keyof typeof addresses, at: string) =>
  container(title(name), { placement: { site: at }, networks: [{ name: 'blue', address: addresses[name] }] });

beforeAll(async () => {
  floodlight = await FloodlightStandIn.start({ rest: { host, port: 0 }, openflow: { host, port: 0 } });
  operator = await startOperator();
  await apply([namespace(tenant), network(), member('a', 'valencia'), member('b', site)]);
  await waitReady(kinds.FederatedVM, '--namespace', tenant);
  for (const name of ['a', 'b']) expect((await guest(title(name), 'cat /run/ready', 60_000)).exitCode).toBe(0);
  expect(await reaches('a', 'b')).toBe(true);
}, 120_000);

afterAll(async () => {
  try {
    floodlight.behave({});
    await toBuiltIn();
    await stopOperator(operator);
  } finally {
    await floodlight.stop();
  }
}, 120_000);

async function reaches(from: string, to: keyof typeof addresses): Promise<boolean> {
  return (await guest(title(from), `ping -c 2 -W 1 ${addresses[to]} >/dev/null`)).exitCode === 0;
}

async function choose(sdnController: object): Promise<void> {
  await patchSpec(kinds.Site, site, { sdnController });
}

interface Edge {
  readonly ours: number;
  readonly entries: number;
  /** Floodlight's own, reactive flows and its question about what no flow meets. */
  readonly others: number;
}

async function edge(): Promise<Edge> {
  const text = await inSite(site, 'ovs-ofctl', '-O', 'OpenFlow13', '--no-stats', 'dump-flows', 'isth-edge');
  const cookies = text
    .split('\n')
    .filter((line) => line.includes('priority') || line.includes('actions'))
    .map((line) => BigInt(/cookie=(0x[0-9a-f]+)/.exec(line)?.[1] ?? '0'));
  const ours = cookies.filter((cookie) => (cookie & cookieMagicMask) === cookieMagic).length;
  const entries = cookies.filter(isEntryCookie).length;
  return { ours, entries, others: cookies.length - ours - entries };
}

/** The site is Ready with that controller, and its boundary is wholly in those hands. */
async function chosen(type: 'BuiltIn' | 'Floodlight'): Promise<void> {
  await eventually(`${site} is in the hands of ${type}`, async () => {
    const { status } = await get(kinds.Site, site);
    expect(status?.controller).toBe(type);
    expect(condition({ status }, 'Ready')).toMatchObject({ status: 'True' });
    const held = await edge();
    if (type === 'BuiltIn') expect(held).toMatchObject({ entries: 0, others: 0 });
    else expect(held.ours).toBe(0);
    expect(type === 'BuiltIn' ? held.ours : held.entries).toBeGreaterThan(0);
  });
}

async function siteSays(reason: string): Promise<void> {
  await eventually(`the Site says ${reason}`, async () => {
    const found = await get(kinds.Site, site);
    expect(condition(found, 'Ready')).toMatchObject({ status: 'False', reason });
    expect(condition(found, 'Ready')?.message).toContain(floodlight.url);
  });
}

const toFloodlight = async (): Promise<void> =>
  await choose({ type: 'Floodlight', url: floodlight.url, openflow: floodlight.openflow });

const toBuiltIn = async (): Promise<void> => await choose({ type: 'BuiltIn', url: null, openflow: null });

describe('a live site', () => {
  it('changes to Floodlight, and machines talk on', async () => {
    const pings = await Pings.start(title('a'), addresses.b);
    await toFloodlight();
    await chosen('Floodlight');
    const { sent, lost, longestGapMs } = await pings.stop();
    report(`to Floodlight: ${String(lost)} of ${String(sent)} pings lost, longest gap ${String(longestGapMs)} ms`);
    expect(longestGapMs).toBeLessThan(1_000);
  }, 90_000);

  it('has new machines and flows at the boundary programmed by it', async () => {
    await apply([member('c', site)]);
    await waitReady(kinds.FederatedVM, '--namespace', tenant);
    expect((await guest(title('c'), 'cat /run/ready', 60_000)).exitCode).toBe(0);
    expect(await reaches('a', 'c')).toBe(true);
    const flows = [
      {
        name: 'no-ping',
        at: 'Boundary',
        priority: 7,
        match: { ethType: 'ipv4', ipProtocol: 'icmp', icmpType: 8 },
        actions: [{ drop: {} }],
      },
    ];
    await apply([network({ flows })]);
    await waitReady(kinds.FederatedNetwork, '--namespace', tenant);
    await eventually('the flow is in force', async () => {
      expect(await reaches('c', 'a')).toBe(false);
    });
    expect(await reaches('c', 'b')).toBe(true);
    expect((await edge()).ours).toBe(0);
    await apply([network()]);
    await eventually('the flow is gone', async () => {
      expect(await reaches('c', 'a')).toBe(true);
    });
  }, 120_000);

  it('keeps its machines talking while Floodlight is dead, says so, and recovers', async () => {
    const pings = await Pings.start(title('a'), addresses.b);
    await floodlight.stop();
    await siteSays('ControllerUnreachable');
    await floodlight.resume();
    await chosen('Floodlight');
    const { sent, lost } = await pings.stop();
    report(`Floodlight restarted: ${String(lost)} of ${String(sent)} pings lost`);
    expect(lost).toBeLessThanOrEqual(2);
  }, 90_000);

  it('takes the boundary from a Floodlight that would open paths, says so, and gives it back', async () => {
    floodlight.behave({ forwarding: true });
    await siteSays('ControllerUnfit');
    await eventually('BuiltIn stands in', async () => {
      expect(await edge()).toMatchObject({ entries: 0, others: 0 });
    });
    expect(await reaches('a', 'b')).toBe(true);
    floodlight.behave({});
    await chosen('Floodlight');
    expect(await reaches('a', 'b')).toBe(true);
  }, 90_000);

  it('changes back to BuiltIn, and nothing of Floodlight stays', async () => {
    const pings = await Pings.start(title('a'), addresses.b);
    await toBuiltIn();
    await chosen('BuiltIn');
    const { sent, lost, longestGapMs } = await pings.stop();
    report(`to BuiltIn: ${String(lost)} of ${String(sent)} pings lost, longest gap ${String(longestGapMs)} ms`);
    expect(longestGapMs).toBeLessThan(1_000);
  }, 90_000);
});
