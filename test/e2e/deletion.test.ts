import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { kinds } from '../../crds/index.js';
import {
  applySamples,
  applySites,
  condition,
  deleteObjects,
  eventually,
  get,
  kubectl,
  list,
  objectsGone,
  report,
  sites,
  startOperator,
  stopOperator,
  tenantsGone,
  title,
  waitReady,
  world,
  type Operator,
  type World,
} from '../support/lab.js';

const tenants = ['acme', 'globex'] as const;
let operator: Operator | undefined;
let before: World;

beforeAll(async () => {
  operator = await startOperator();
  before = await world();
}, 90_000);

afterAll(async () => await stopOperator(operator), 90_000);

beforeEach(async () => {
  await applySamples();
  for (const tenant of tenants) {
    await waitReady(kinds.FederatedNetwork, '--namespace', tenant);
    await waitReady(kinds.FederatedVM, '--namespace', tenant);
  }
  // A move, which is under way or over when its machine goes.
  await kubectl('apply', '-k', 'manifests/samples/migration');
}, 90_000);

afterEach(async () => {
  await deleteObjects();
  await applySites();
  await waitReady(kinds.Site);
}, 90_000);

const deleteIn = async (resource: string): Promise<void> => {
  for (const tenant of tenants) await kubectl('delete', resource, '--all', '--wait=false', '--namespace', tenant);
};

describe('deleting the samples leaves the world as it was', () => {
  const orders: { order: string; reason: string; delete: () => Promise<void>; gone: () => Promise<void> }[] = [
    {
      order: 'machines, then networks',
      reason: 'the order of a careful user',
      delete: async () => {
        await deleteIn('federatedvms.isthmus.dev');
        await eventually('no machine is left', async () => {
          expect((await list('federatedvms.isthmus.dev')).map(title)).toEqual([]);
        });
        await deleteIn('federatednetworks.isthmus.dev');
        await deleteIn('vmmigrations.isthmus.dev');
      },
      gone: objectsGone,
    },
    {
      order: 'networks first',
      reason: 'a network with machines stays, names them, and goes after the last of them',
      delete: async () => {
        await deleteIn('federatednetworks.isthmus.dev');
        await eventually('the network names its machines', async () => {
          const blocked = condition(await get(kinds.FederatedNetwork, 'acme/blue'), 'DeletionBlocked');
          expect(blocked).toMatchObject({ status: 'True', reason: 'MachinesPresent' });
          for (const name of ['app-1', 'db-1', 'web-1']) expect(blocked?.message).toContain(name);
        });
        expect(condition(await get(kinds.FederatedVM, 'acme/db-1'), 'Ready')?.status).toBe('True');
        await deleteIn('federatedvms.isthmus.dev');
        await deleteIn('vmmigrations.isthmus.dev');
      },
      gone: objectsGone,
    },
    {
      order: 'namespaces at once',
      reason: 'Kubernetes deletes their contents in no order',
      delete: async () => {
        await kubectl('delete', 'namespace', ...tenants, '--wait=false');
      },
      gone: tenantsGone,
    },
  ];
  it.each(orders)(
    '$order: $reason',
    async ({ order, delete: act, gone }) => {
      const from = performance.now();
      await act();
      await gone();
      report(`${order}: gone after ${String(Math.round(performance.now() - from))} ms`);
      expect(await world()).toEqual(before);
    },
    120_000,
  );

  it('everything at once, the Sites too: nothing of ours is left on any host', async () => {
    await kubectl('delete', 'sites.isthmus.dev', ...sites, '--wait=false');
    await eventually('a site names what is still there', async () => {
      const blocked = condition(await get(kinds.Site, 'lisbon'), 'DeletionBlocked');
      expect(blocked?.message).toMatch(/acme\/(app-1|blue)/);
    });
    for (const { plural, group } of [kinds.VMMigration, kinds.FederatedNetwork, kinds.FederatedVM])
      await deleteIn(`${plural}.${group}`);
    await objectsGone();
    await eventually('no Site is left', async () => expect((await list('sites.isthmus.dev')).map(title)).toEqual([]));
    const after = await world();
    expect(after['consul']?.filter((line) => line.startsWith('isthmus/'))).toEqual([]);
    expect(after['objects']).toEqual([]);
    for (const site of sites) {
      for (const section of ['qemu domains', 'lxc domains', 'libvirt networks'])
        expect(after[`${site}: ${section}`]).toEqual(before[`${site}: ${section}`]);
      for (const [section, lines] of Object.entries(after))
        if (section.startsWith(`${site}: `)) expect(lines.filter((line) => line.includes('isth-'))).toEqual([]);
    }
  }, 120_000);
});
