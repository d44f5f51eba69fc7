import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { kinds, type VMMigration } from '../../crds/index.js';
import {
  apply,
  condition,
  eventually,
  find,
  get,
  guest,
  inSite,
  machine,
  manifest,
  type Manifest,
  namespace,
  type Operator,
  ownership,
  patchSpec,
  remove,
  report,
  setRunStrategy,
  type SiteName,
  sites,
  startOperator,
  stopOperator,
  volumesOf,
  waitReady,
  whereabouts,
} from '../support/lab.js';

const ns = 'offline';
let operator: Operator | undefined;

const placed = (name: string, more: Manifest): Manifest =>
  machine(`${ns}/${name}`, { placement: { site: 'valencia' }, networks: [{ name: 'blue' }], ...more });

beforeAll(async () => {
  operator = await startOperator();
  await apply([
    namespace(ns),
    manifest('FederatedNetwork', `${ns}/blue`, { cidr: '172.16.0.0/16', sites: [...sites] }),
    placed('own', { storage: 'Local' }),
    placed('shared', { storage: 'Shared', runStrategy: 'Stopped' }),
  ]);
  await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
}, 90_000);

afterAll(async () => {
  await patchSpec(kinds.Site, 'saopaulo', { maintenance: null });
  await stopOperator(operator);
}, 90_000);

async function begin(vmName: string, site: SiteName, more: Manifest = {}): Promise<string> {
  const name = `${vmName}-to-${site}`;
  await remove(kinds.VMMigration, `${ns}/${name}`);
  await apply([manifest('VMMigration', `${ns}/${name}`, { vmName, target: { site }, ...more })]);
  return name;
}

async function over(name: string): Promise<VMMigration> {
  return await eventually(
    `${name} is over`,
    async () => {
      const object = await get(kinds.VMMigration, `${ns}/${name}`);
      if (object.status?.completionTime === undefined) throw new Error(JSON.stringify(object.status));
      return object;
    },
    60_000,
  );
}

async function expectOnlyAt(name: string, site: SiteName, pool: string, poolSite = site): Promise<void> {
  const { metadata, status } = await eventually(`${name} is settled`, async () => {
    const object = await get(kinds.FederatedVM, `${ns}/${name}`);
    expect(object.status).toMatchObject({ site, phase: 'Stopped' });
    expect(condition(object, 'Ready')?.status).toBe('True');
    return object;
  });
  expect(await whereabouts(status?.uuid ?? '')).toEqual([`${site} shut off`]);
  expect(await volumesOf(metadata.uid)).toEqual([`root ${pool} ${poolSite}`, `seed ${pool} ${poolSite}`]);
  const record = await ownership(metadata.uid);
  expect(record).toMatchObject({ site, host: 'a', phase: 'Owned' });
  const { attempt, target, mode, copy, last } = record;
  expect({ attempt, target, mode, copy, left: last?.left, source: last?.source }).toEqual({});
}

const own = `${ns}/own`;
/** Beyond what the guest's file system has. */
const sector = 120_000;
const boot = async (): Promise<string> =>
  (await guest(own, 'cat /proc/sys/kernel/random/boot_id', 60_000)).stdout.trim();
const written = async (): Promise<string> =>
  (
    await guest(own, `dd if=/dev/vda bs=512 skip=${String(sector)} count=1 2>/dev/null | head -n 1`, 20_000)
  ).stdout.trim();

describe('an offline move', () => {
  it('is refused while the machine runs, with the remedy', async () => {
    const { status } = await over(await begin('own', 'saopaulo', { mode: 'Offline' }));
    expect(status).toMatchObject({ phase: 'Failed', reason: 'MachineRunning' });
    expect(status?.message).toMatch(/spec\.mode.*runStrategy: Stopped.*mode: Live/);
  }, 20_000);

  it('takes a stopped machine with its disk, which starts from it there', async () => {
    await guest(own, 'cat /run/ready', 60_000);
    await guest(own, `echo mine | dd of=/dev/vda bs=512 seek=${String(sector)} conv=fsync,notrunc`, 20_000);
    const before = await boot();
    await setRunStrategy(`${ns}/own`, 'Stopped');
    const name = await begin('own', 'saopaulo', { mode: 'Offline', policy: { bandwidthMiBps: 4 } });
    const percents: number[] = [];
    await eventually('it copies', async () => {
      const { status } = await get(kinds.VMMigration, `${ns}/${name}`);
      expect(status?.phase).toBe('Copying');
      percents.push(status?.progressPercent ?? 0);
      expect(status?.transferredBytes).toBeGreaterThan(0);
    });
    // Started meanwhile, it waits until it is there.
    await patchSpec(kinds.FederatedVM, `${ns}/own`, { runStrategy: 'Running' });
    const { status } = await over(name);
    report(`offline: ${status?.message ?? ''}`);
    expect(status).toMatchObject({ phase: 'Succeeded', mode: 'Offline', progressPercent: 100, remainingBytes: 0 });
    expect(status?.transferredBytes).toBeGreaterThan(1 << 20);
    const mibPerSecond = (status?.transferredBytes ?? NaN) / 2 ** 20 / ((status?.totalTimeMs ?? NaN) / 1_000);
    expect(mibPerSecond).toBeLessThan(4 * 1.1);
    expect(percents).toEqual(percents.toSorted((a, b) => a - b));
    expect(status?.phaseTimestamps?.map(({ phase }) => phase)).toEqual([
      'Preparing',
      'Copying',
      'SwitchingOver',
      'Finalizing',
      'Succeeded',
    ]);
    await setRunStrategy(`${ns}/own`, 'Running');
    expect(await boot()).not.toBe(before);
    expect(await written()).toBe('mine');
    await setRunStrategy(`${ns}/own`, 'Stopped');
    await expectOnlyAt('own', 'saopaulo', 'default');
  }, 120_000);

  it('leaves the machine at the source, and nothing at the target, when it is cancelled', async () => {
    const name = await begin('own', 'lisbon', { policy: { bandwidthMiBps: 1 } });
    await eventually('it copies', async () =>
      expect((await get(kinds.VMMigration, `${ns}/${name}`)).status?.transferredBytes).toBeGreaterThan(0),
    );
    await patchSpec(kinds.VMMigration, `${ns}/${name}`, { cancel: true });
    expect((await over(name)).status).toMatchObject({ phase: 'Cancelled', mode: 'Offline' });
    await expectOnlyAt('own', 'saopaulo', 'default');
    const again = await begin('own', 'lisbon', { policy: { bandwidthMiBps: 1 } });
    await eventually('it copies', async () =>
      expect((await get(kinds.VMMigration, `${ns}/${again}`)).status?.transferredBytes).toBeGreaterThan(0),
    );
    await remove(kinds.VMMigration, `${ns}/${again}`);
    await eventually('it is gone', async () => expect(await find(kinds.VMMigration, `${ns}/${again}`)).toBeUndefined());
    await expectOnlyAt('own', 'saopaulo', 'default');
  }, 60_000);

  it('waits while something else has the machine’s port at the target, and then copies nothing of one on the share', async () => {
    const { interfaces } = await ownership((await get(kinds.FederatedVM, `${ns}/shared`)).metadata.uid);
    const id = `external_ids:iface-id=${interfaces[0]?.id ?? ''}`;
    const add = ['add-port', 'isth-int', 'planted', '--', 'set', 'Interface', 'planted', 'type=internal', id];
    await inSite('saopaulo', 'ovs-vsctl', ...add);
    const name = await begin('shared', 'saopaulo');
    try {
      await eventually('it waits', async () => {
        const { status } = await get(kinds.VMMigration, `${ns}/${name}`);
        expect(status).toMatchObject({ phase: 'Pending', reason: 'PortTaken' });
      });
    } finally {
      await inSite('saopaulo', 'ovs-vsctl', 'del-port', 'planted');
    }
    const { status } = await over(name);
    expect(status).toMatchObject({ phase: 'Succeeded', mode: 'Offline', transferredBytes: 0, progressPercent: 100 });
    await expectOnlyAt('shared', 'saopaulo', 'shared', 'valencia');
  }, 30_000);

  it('empties a site of its stopped machines, too', async () => {
    await patchSpec(kinds.Site, 'saopaulo', { maintenance: true });
    await eventually(
      'it is empty',
      async () => {
        const evacuated = condition(await get(kinds.Site, 'saopaulo'), 'Evacuated');
        expect(evacuated).toMatchObject({ status: 'True' });
      },
      40_000,
    );
    for (const name of ['own', 'shared']) {
      const site = (await get(kinds.FederatedVM, `${ns}/${name}`)).status?.site as SiteName;
      expect(site).not.toBe('saopaulo');
      await (name === 'own' ? expectOnlyAt(name, site, 'default') : expectOnlyAt(name, site, 'shared', 'valencia'));
    }
  }, 60_000);
});
