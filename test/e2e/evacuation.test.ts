import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { kinds, type VMMigration } from '../../crds/index.js';
import { siteRecord, vmRecord } from '../../reconcilers/common/records.js';
import {
  apply,
  condition,
  consulDump,
  deleteObjects,
  eventually,
  get,
  guest,
  inSite,
  kubectl,
  list,
  machine,
  manifest,
  namespace,
  patchHost,
  wire,
  type Operator,
  patchSpec,
  remove,
  report,
  run,
  startOperator,
  stopOperator,
  waitReady,
  whereabouts,
  type Manifest,
} from '../support/lab.js';

const ns = 'away';
/** They start at valencia, move to saopaulo one by one, and are driven out of there. */
const movers = ['first', 'low', 'high'] as const;
const networks = [{ name: 'blue' }];

let operator: Operator | undefined;

beforeAll(async () => {
  operator = await startOperator();
  await apply([
    namespace(ns),
    manifest('FederatedNetwork', `${ns}/blue`, { cidr: '172.16.0.0/16' }),
    ...movers.map((name) => mover(name, { placement: { site: 'valencia' } })),
  ]);
  await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
}, 90_000);

afterAll(async () => {
  // Whatever failed: the spare host's wire is plugged in, no Site is told anything that the lab does not begin with.
  await wire('lisbon-b', 'up');
  await run('lab/up', []);
  for (const site of ['valencia', 'saopaulo'])
    await patchSpec(kinds.Site, site, { maxMigrations: null, maintenance: null });
  if (await hasSpare()) await patchHost('lisbon', 'b', { fenced: false });
  await deleteObjects().catch(() => undefined);
  if (await hasSpare()) await patchHost('lisbon', 'b', null);
  await eventually('the spare host is forgotten', async () => {
    const value = (await consulDump('isthmus/site/lisbon')).get('isthmus/site/lisbon');
    expect(siteRecord.parse(JSON.parse(value ?? 'null')).hosts.map(({ name }) => name)).toEqual(['a']);
  }).finally(async () => await stopOperator(operator));
}, 180_000);

const mover = (name: string, more: Manifest): Manifest =>
  machine(`${ns}/${name}`, { storage: 'Shared', networks, ...more });

const hasSpare = async (): Promise<boolean> =>
  (await get(kinds.Site, 'lisbon')).spec.hosts.some(({ name }) => name === 'b');

const migration = (name: string, more: Manifest = {}): Manifest =>
  manifest('VMMigration', `${ns}/${name}`, { vmName: name, target: { site: 'saopaulo' }, ...more });

const migrationOf = async (name: string): Promise<VMMigration> => await get(kinds.VMMigration, `${ns}/${name}`);

const phases = async (): Promise<Record<string, string>> =>
  Object.fromEntries(
    await Promise.all(
      movers.map(async (name) => [name, (await migrationOf(name)).status?.phase ?? 'Pending'] as const),
    ),
  );

/** Where the machine's domain is defined or runs, whichever site's record says so. */
async function domainsOf(name: string): Promise<string[]> {
  return await whereabouts((await get(kinds.FederatedVM, `${ns}/${name}`)).status?.uuid ?? '');
}

describe('three migrations where a site lets one machine move at a time', () => {
  it('go one after the other, the higher priority first', async () => {
    await patchSpec(kinds.Site, 'valencia', { maxMigrations: 1 });
    // Slow enough that the others come while it copies.
    await apply([migration('first', { policy: { bandwidthMiBps: 20 } })]);
    await eventually('the first copies', async () =>
      expect((await migrationOf('first')).status?.phase).toBe('Copying'),
    );
    await apply([migration('low', { priority: -1 }), migration('high', { priority: 5 })]);
    const says = { low: '1 before it', high: 'it is the next' } as const;
    for (const name of ['low', 'high'] as const)
      await eventually(`${name} says that it waits`, async () => {
        const { status } = await migrationOf(name);
        expect(status).toMatchObject({ phase: 'Pending', reason: 'Queued' });
        for (const word of ['site valencia', 'spec.maxMigrations 1', says[name]])
          expect(status?.message).toContain(word);
      });
    const atOnce: number[] = [];
    await eventually(
      'all are over',
      async () => {
        const seen = Object.values(await phases());
        atOnce.push(seen.filter((phase) => phase !== 'Pending' && phase !== 'Succeeded').length);
        expect(seen).toEqual(['Succeeded', 'Succeeded', 'Succeeded']);
      },
      60_000,
    );
    expect(Math.max(...atOnce)).toBe(1);
    const [first, low, high] = await Promise.all(
      movers.map(async (name) => {
        const { status } = await migrationOf(name);
        return { from: Date.parse(status?.startTime ?? ''), to: Date.parse(status?.completionTime ?? '') };
      }),
    );
    const waits = [(high?.from ?? NaN) - (first?.to ?? NaN), (low?.from ?? NaN) - (high?.to ?? NaN)];
    report(`from the end of one to the begin of the next: ${waits.join(' ms, ')} ms`);
    for (const waitMs of waits) {
      expect(waitMs).toBeGreaterThanOrEqual(0);
      expect(waitMs).toBeLessThan(2_000);
    }
    await remove(kinds.VMMigration, ...movers.map((name) => `${ns}/${name}`));
    await patchSpec(kinds.Site, 'valencia', { maxMigrations: null });
  }, 90_000);
});

describe('a site in maintenance', () => {
  const evacuations = async () => (await list('vmmigrations.isthmus.dev')).map(({ metadata }) => metadata.name);

  it('is emptied, says what stays, and takes nothing new', async () => {
    await apply([mover('stays', { placement: { site: 'saopaulo' }, runStrategy: 'Stopped' })]);
    await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
    const from = performance.now();
    await patchSpec(kinds.Site, 'saopaulo', { maintenance: true });
    await apply([mover('new', { runStrategy: 'Stopped' }), mover('pinned', { placement: { site: 'saopaulo' } })]);
    await eventually(
      'only what can’t move is left',
      async () => {
        const evacuated = condition(await get(kinds.Site, 'saopaulo'), 'Evacuated');
        expect(evacuated).toMatchObject({ status: 'False', reason: 'MachinesStay' });
        expect(evacuated?.message).toContain(`1 can't move: ${ns}/stays (saopaulo/a): spec.placement pins it`);
      },
      60_000,
    );
    report(`three machines were gone after ${String(Math.round(performance.now() - from))} ms`);
    expect((await evacuations()).toSorted()).toEqual(movers.map((name) => `${name}-evacuation-2-1`).toSorted());
    for (const name of movers) {
      const places = await domainsOf(name);
      expect(places).toHaveLength(1);
      expect(places[0]).toMatch(/^(valencia|lisbon) running$/);
    }
    expect((await get(kinds.FederatedVM, `${ns}/new`)).status?.site).not.toBe('saopaulo');
    expect(condition(await get(kinds.FederatedVM, `${ns}/pinned`), 'Ready')?.message).toContain('in maintenance');
    await remove(kinds.FederatedVM, `${ns}/stays`, `${ns}/new`, `${ns}/pinned`);
    await eventually('nothing is left', async () =>
      expect(condition(await get(kinds.Site, 'saopaulo'), 'Evacuated')).toMatchObject({ status: 'True' }),
    );
    await patchSpec(kinds.Site, 'saopaulo', { maintenance: null });
    await eventually('it is a site as others', async () => {
      const site = await get(kinds.Site, 'saopaulo');
      expect(condition(site, 'Evacuated')).toBeUndefined();
      expect(condition(site, 'Ready')?.status).toBe('True');
    });
    // Nothing moves back.
    expect(await evacuations()).toHaveLength(movers.length);
    await remove(kinds.FederatedVM, ...movers.map((name) => `${ns}/${name}`));
  }, 120_000);
});

describe('a host that is lost and fenced', () => {
  const places = { placement: { site: 'lisbon', host: 'b' }, networks };

  it('has its machines on the share start elsewhere, once, also when it comes back', async () => {
    await kubectl('apply', '--server-side', '--field-manager=spare-host', '-f', 'lab/spare-host.yaml');
    await apply([mover('shared', places), machine(`${ns}/local`, { ...places, storage: 'Local' })]);
    await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
    // Wherever there is room from now on.
    await apply([mover('shared', {})]);
    expect(await domainsOf('shared')).toEqual(['lisbon-b running']);
    // A power cut, as the others see it.
    await wire('lisbon-b', 'down');
    for (const name of ['shared', 'local']) {
      const { status } = await get(kinds.FederatedVM, `${ns}/${name}`);
      await inSite('lisbon-b', 'virsh', '-q', '-c', 'qemu:///system', 'destroy', status?.uuid ?? '');
    }
    await patchHost('lisbon', 'b', { fenced: true });
    const from = performance.now();
    await eventually('it runs at another host', async () => {
      const object = await get(kinds.FederatedVM, `${ns}/shared`);
      expect(condition(object, 'Ready')).toMatchObject({ status: 'True', reason: 'Running' });
      expect(object.status).toMatchObject({ site: 'lisbon', host: 'a' });
    });
    report(`a machine of a fenced host runs elsewhere after ${String(Math.round(performance.now() - from))} ms`);
    expect(await domainsOf('shared')).toEqual(['lisbon running', 'lisbon-b shut off']);
    await eventually('the one with a disk of its own says why not', async () =>
      expect(condition(await get(kinds.FederatedVM, `${ns}/local`), 'Ready')).toMatchObject({
        status: 'False',
        reason: 'HostFenced',
        message: expect.stringContaining('its disk is there'),
      }),
    );
    await guest(`${ns}/shared`, 'cat /run/ready', 60_000);
    await wire('lisbon-b', 'up');
    await patchHost('lisbon', 'b', { fenced: false });
    await eventually('what was left there is gone', async () =>
      expect(await domainsOf('shared')).toEqual(['lisbon running']),
    );
    await eventually('the other runs there again', async () =>
      expect(await domainsOf('local')).toEqual(['lisbon-b running']),
    );
    await eventually('its record names no other host', async () => {
      const { metadata, status } = await get(kinds.FederatedVM, `${ns}/shared`);
      const key = `isthmus/vm/${metadata.uid}`;
      const record = vmRecord.parse(JSON.parse((await consulDump(key)).get(key) ?? 'null'));
      expect(record).toMatchObject({ site: 'lisbon', host: 'a', generation: 2 });
      expect(record.leftAt).toBeUndefined();
      expect(status).toMatchObject({ site: 'lisbon', host: 'a', phase: 'Running' });
    });
  }, 120_000);
});
