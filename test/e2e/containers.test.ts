import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { kinds, type FederatedVM, type VMMigration } from '../../crds/index.js';
import {
  apply,
  condition,
  container,
  deleteObjects,
  eventually,
  get,
  guest,
  inSite,
  kubectl,
  machine,
  manifest,
  namespace,
  type Operator,
  ownership,
  patchSpec,
  report,
  run,
  setRunStrategy,
  type SiteName,
  startOperator,
  stopOperator,
  volumesOf,
  waitReady,
  whereabouts,
  type World,
  world,
} from '../support/lab.js';

const ns = 'boxes';
const networks = [{ name: 'blue' }];
let operator: Operator | undefined;
let before: World;

beforeAll(async () => {
  operator = await startOperator();
  before = await world();
  await apply([
    namespace(ns),
    manifest('FederatedNetwork', `${ns}/blue`, { cidr: '172.16.0.0/16', gateway: '172.16.0.1' }),
    container(`${ns}/box`, { networks, placement: { site: 'valencia' } }),
    container(`${ns}/peer`, { networks, placement: { site: 'saopaulo' } }),
    machine(`${ns}/vm`, { placement: { site: 'lisbon' }, networks }),
  ]);
  await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
}, 60_000);

afterAll(async () => {
  await patchSpec(kinds.Site, 'saopaulo', { maintenance: null });
  await stopOperator(operator);
}, 60_000);

const object = async (name: string): Promise<FederatedVM> => await get(kinds.FederatedVM, `${ns}/${name}`);

async function set(name: string, runStrategy: 'Running' | 'Stopped' | 'Paused'): Promise<void> {
  const from = performance.now();
  await setRunStrategy(`${ns}/${name}`, runStrategy, 90_000);
  report(`${name} is ${runStrategy} after ${String(Math.round(performance.now() - from))} ms`);
}

/** A shell command in a container, where it is now. */
async function inside(name: string, command: string): Promise<string> {
  const { stdout, exitCode } = await guest(`${ns}/${name}`, command);
  if (exitCode !== 0) throw new Error(stdout);
  return stdout.trim();
}

async function over(vmName: string, spec: { mode?: 'Live' }): Promise<VMMigration> {
  const name = `${vmName}-${spec.mode === 'Live' ? 'live' : 'moves'}`;
  await apply([manifest('VMMigration', `${ns}/${name}`, { vmName, target: { site: 'saopaulo' }, ...spec })]);
  return await eventually(`${name} is over`, async () => {
    const migration = await get(kinds.VMMigration, `${ns}/${name}`);
    if (migration.status?.completionTime === undefined) throw new Error(JSON.stringify(migration.status));
    return migration;
  });
}

/** With frames as long as the network's MTU allows. */
async function expectAnswer(name: string): Promise<void> {
  const { status } = await object(name);
  const address = status?.interfaces?.[0]?.address ?? '';
  const mtu = (await get(kinds.FederatedNetwork, `${ns}/blue`)).status?.mtu ?? NaN;
  const full = `ping -c 1 -W 2 -s ${String(mtu - 28)} ${address}`;
  await eventually('the other container has an answer', async () => await inside('peer', full), 10_000);
  await eventually(
    'the virtual machine has one',
    async () => expect(await guest(`${ns}/vm`, full, 60_000)).toMatchObject({ exitCode: 0 }),
    10_000,
  );
}

/** Of all that runs on this machine: containers' root file systems are mounted from these. */
async function loops(): Promise<string[]> {
  const files = await run('losetup', ['--noheadings', '--output=BACK-FILE']);
  return files.split('\n').filter((line) => line.includes('isth-'));
}

const stateOf = async (name: string): Promise<string[]> =>
  await whereabouts((await object(name)).status?.uuid ?? '', 'lxc');

async function virsh(site: SiteName, name: string, ...command: string[]): Promise<string> {
  return await inSite(site, 'virsh', '-q', '-c', 'lxc:///system', ...command, (await object(name)).status?.uuid ?? '');
}

describe('a container', () => {
  it('runs where it is placed, as recorded, and is reached across sites with whole frames', async () => {
    const { metadata, status } = await object('box');
    expect(status).toMatchObject({ site: 'valencia', host: 'a', phase: 'Running' });
    expect(await stateOf('box')).toEqual(['valencia running']);
    expect(await whereabouts(status?.uuid ?? '')).toEqual([]);
    expect(await ownership(metadata.uid)).toMatchObject({ driver: 'lxc', storage: 'Local', phase: 'Owned' });
    expect(await volumesOf(metadata.uid)).toEqual(['root default valencia']);
    const [nic] = status?.interfaces ?? [];
    const mtu = (await get(kinds.FederatedNetwork, `${ns}/blue`)).status?.mtu;
    const seen = await inside('box', 'ip -o link show eth0; ip -o -4 address show eth0; ip route; cat /run/ready');
    for (const words of [`mtu ${String(mtu)} `, nic?.mac, `inet ${nic?.address ?? ''}/16`, 'default via 172.16.0.1'])
      expect(seen).toContain(words);
    await expectAnswer('box');
  }, 90_000);

  it('is mended when somebody destroys it, undefines it or pauses it', async () => {
    await virsh('valencia', 'box', 'undefine');
    await eventually('it is defined again', async () =>
      expect(await virsh('valencia', 'box', 'dominfo')).toMatch(/Persistent: +yes/),
    );
    await virsh('valencia', 'box', 'suspend');
    await eventually('it runs again', async () => expect(await stateOf('box')).toEqual(['valencia running']));
    await virsh('valencia', 'box', 'destroy');
    await eventually('it is started again', async () => expect(await inside('box', 'cat /starts')).toBe('2'));
    await set('box', 'Paused');
    expect(await stateOf('box')).toEqual(['valencia paused']);
    await set('box', 'Running');
    await expectAnswer('box');
  }, 60_000);

  it('does not move while it runs, and says what to do', async () => {
    const { status } = await over('box', { mode: 'Live' });
    expect(status).toMatchObject({ phase: 'Failed', reason: 'LiveNotSupported' });
    expect(status?.message).toContain('runStrategy: Stopped');
    expect((await over('box', {})).status).toMatchObject({ phase: 'Failed', reason: 'MachineRunning' });
    expect(await stateOf('box')).toEqual(['valencia running']);
    await kubectl('delete', 'vmig', '--all', `--namespace=${ns}`);
  }, 30_000);

  it('moves with its disk when it is stopped, and starts from it there', async () => {
    await inside('box', 'echo mine >/root/words; sync');
    await set('box', 'Stopped');
    expect(await stateOf('box')).toEqual(['valencia shut off']);
    const { status } = await over('box', {});
    report(`moved: ${status?.message ?? ''}`);
    expect(status).toMatchObject({ phase: 'Succeeded', mode: 'Offline', progressPercent: 100 });
    expect(status?.transferredBytes).toBeLessThan(8 << 20);
    const { metadata } = await object('box');
    expect(await stateOf('box')).toEqual(['saopaulo shut off']);
    expect(await volumesOf(metadata.uid)).toEqual(['root default saopaulo']);
    await set('box', 'Running');
    expect(await inside('box', 'cat /root/words /starts')).toBe('mine\n3');
    await expectAnswer('box');
    await set('box', 'Stopped');
  }, 180_000);

  it('leaves a site in maintenance when it is stopped; one that runs is named, with what to do', async () => {
    await patchSpec(kinds.Site, 'saopaulo', { maintenance: true });
    await eventually('only the one that runs is left', async () => {
      const evacuated = condition(await get(kinds.Site, 'saopaulo'), 'Evacuated');
      expect(evacuated).toMatchObject({ status: 'False', reason: 'MachinesStay' });
      expect(evacuated?.message).toMatch(/1 can't move: boxes\/peer .*container.*runStrategy: Stopped/);
    });
    const { status } = await object('box');
    expect(status?.site).not.toBe('saopaulo');
    expect(await stateOf('box')).toEqual([`${status?.site ?? ''} shut off`]);
    expect(await stateOf('peer')).toEqual(['saopaulo running']);
    await patchSpec(kinds.Site, 'saopaulo', { maintenance: null });
  }, 60_000);

  it('leaves nothing when it is deleted', async () => {
    expect(await loops()).toHaveLength(1);
    await deleteObjects();
    expect(await loops()).toEqual([]);
    expect(await world()).toEqual(before);
  }, 60_000);
});
