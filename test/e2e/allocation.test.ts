import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { kinds, type FederatedNetwork } from '../../crds/index.js';
import { consulUrl } from '../support/lab/consul.js';
import {
  apply,
  condition,
  consulDump,
  container,
  deleteObjects,
  eventually,
  get,
  guest,
  kubectl,
  manifest,
  namespace,
  patchSpec,
  project,
  remove,
  report,
  run,
  sites,
  startOperator,
  stopOperator,
  waitReady,
  type Operator,
  type SiteName,
} from '../support/lab.js';

const ns = 'claims';
const key = (name: string): string => `${ns}/${name}`;
let operator: Operator | undefined;

beforeAll(async () => {
  operator = await startOperator();
  await apply([namespace(ns)]);
}, 90_000);

afterAll(async () => await stopOperator(operator), 120_000);

const network = (name: string, third: number, more: object = {}) =>
  manifest('FederatedNetwork', key(name), { cidr: `10.80.${String(third)}.0/24`, ...more });

async function consulPid(site: SiteName): Promise<number> {
  const [pid = ''] = (await readFile(`${project}.lab/run/${site}-consul.pid`, 'utf8')).split(' ');
  return Number(pid);
}

async function says(name: string, reason: string, ...words: string[]): Promise<void> {
  await eventually(`${name} says ${reason}`, async () => {
    const ready = condition(await get(kinds.FederatedNetwork, key(name)), 'Ready');
    expect(ready).toMatchObject({ status: 'False', reason });
    for (const word of words) expect(ready?.message).toContain(word);
  });
}

describe('claims', () => {
  let paused: number[] = [];
  afterEach(async () => {
    for (const pid of paused.splice(0)) process.kill(pid, 'SIGCONT');
    await run('lab/up', []);
    await deleteObjects();
    await apply([namespace(ns)]);
  }, 120_000);

  it('of thirty networks at once are each another’s none, though the leader of Consul is killed meanwhile', async () => {
    const names = Array.from({ length: 30 }, (_, index) => `n-${String(index)}`);
    const before = new Set((await consulDump('isthmus/')).keys());
    await apply(names.map((name, index) => network(name, index)));
    const leader = siteOfLeader(await (await fetch(`${consulUrl}/v1/status/leader`)).text());
    process.kill(await consulPid(leader), 'SIGKILL');
    report(`killed Consul at ${leader}, the leader, while 30 networks were being made`);
    // The operator asks the one at valencia: without it nothing could go on.
    if (leader === 'valencia') await run('lab/up', []);
    await kubectl('wait', '--for=condition=Ready', 'fnet', '--all', `--namespace=${ns}`, '--timeout=60s');
    const found = await Promise.all(names.map((name) => get(kinds.FederatedNetwork, key(name))));
    const distinct = (of: (each: FederatedNetwork) => unknown): number => new Set(found.map(of)).size;
    expect(distinct(({ status }) => status?.vlanId)).toBe(names.length);
    expect(distinct(({ status }) => status?.vni)).toBe(names.length);
    const held = [...(await consulDump('isthmus/'))].filter(([each]) => !before.has(each));
    // VLAN, VNI, record, owner and object of each, and not one more.
    expect(held).toHaveLength(5 * names.length);
    for (const { metadata, status } of found) {
      expect(held).toContainEqual([`isthmus/vlan/${String(status?.vlanId)}`, metadata.uid]);
      expect(held).toContainEqual([`isthmus/vni/${String(status?.vni)}`, metadata.uid]);
    }
    await kubectl('delete', 'fnet', '--all', `--namespace=${ns}`, '--wait=true', '--timeout=60s');
    expect([...(await consulDump('isthmus/')).keys()].filter((each) => !before.has(each))).toEqual([]);
  }, 180_000);

  it('wait visibly while Consul is away, and what runs goes on', async () => {
    await apply([
      network('blue', 100),
      container(key('a'), { placement: { site: 'valencia' }, networks: [{ name: 'blue', address: '10.80.100.10' }] }),
      container(key('b'), { placement: { site: 'lisbon' }, networks: [{ name: 'blue', address: '10.80.100.11' }] }),
    ]);
    await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
    for (const name of ['a', 'b']) expect((await guest(key(name), 'cat /run/ready', 60_000)).exitCode).toBe(0);
    paused = await Promise.all(sites.map(consulPid));
    for (const pid of paused) process.kill(pid, 'SIGSTOP');
    await apply([network('late', 101)]);
    await says('late', 'ConsulUnavailable', 'Consul');
    expect((await guest(key('a'), 'ping -c 3 -W 1 10.80.100.11')).stdout).toContain('3 packets received');
    expect(condition(await get(kinds.FederatedVM, key('a')), 'Ready')?.status).toBe('True');
    for (const pid of paused.splice(0)) process.kill(pid, 'SIGCONT');
    await waitReady(kinds.FederatedNetwork, `--namespace=${ns}`);
  }, 180_000);

  it('of a taken pin and of an empty range name who holds and what to do, and are served once there is room', async () => {
    const pinned = { vlanId: 3_900, sites: ['valencia', 'saopaulo'] };
    await apply([network('first', 1, pinned)]);
    await waitReady(kinds.FederatedNetwork, `--namespace=${ns}`);
    await apply([network('second', 2, pinned)]);
    await says('second', 'AlreadyTaken', 'spec.vlanId', 'VLAN 3900', `FederatedNetwork ${key('first')}`);
    await patchSpec(kinds.Site, 'lisbon', { vlanRange: { from: 3_901, to: 3_901 } });
    try {
      await apply([network('third', 3, { sites: ['lisbon'] })]);
      await eventually('the only VLAN is taken', async () => {
        expect((await get(kinds.FederatedNetwork, key('third'))).status?.vlanId).toBe(3_901);
      });
      await apply([network('fourth', 4, { sites: ['lisbon'] })]);
      await says('fourth', 'VLANsExhausted', '3901-3901', 'lisbon', 'vlanRange');
      await remove(kinds.FederatedNetwork, key('third'));
      await eventually(
        'the next in line has it',
        async () => {
          expect((await get(kinds.FederatedNetwork, key('fourth'))).status?.vlanId).toBe(3_901);
        },
        45_000,
      );
      await remove(kinds.FederatedNetwork, key('first'));
      await eventually(
        'the pin is served',
        async () => {
          expect((await get(kinds.FederatedNetwork, key('second'))).status?.vlanId).toBe(3_900);
        },
        45_000,
      );
    } finally {
      await patchSpec(kinds.Site, 'lisbon', { vlanRange: { from: 100, to: 3_999 } });
    }
  }, 180_000);
});

/** `"198.51.100.12:8300"` to the site of that address. */
function siteOfLeader(text: string): SiteName {
  const index = Number(/198\.51\.100\.(\d+):/.exec(text)?.[1]) - 11;
  const site = sites[index];
  if (site === undefined) throw new Error(`Consul has no leader: ${text}`);
  return site;
}
