import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import { kinds, type SiteLink } from '../../crds/index.js';
import {
  apply,
  condition,
  eventually,
  get,
  inSite,
  manifest,
  namespace,
  report,
  run,
  sites,
  startOperator,
  stopOperator,
  traces,
  waitReady,
  type Operator,
} from '../support/lab.js';

const probeSeconds = 2;
/** Three frames lost and a bisection of eleven steps, half of them lost. */
const measuredMs = 15_000;

let operator: Operator | undefined;

const wire = async (state: 'up' | 'down'): Promise<string> =>
  await run('lab/in', ['wan', 'ip', 'link', 'set', 'lisbon', state]);

const viaWire = ['198.51.100.13/32', 'dev', 'isth-wan0'] as const;

/** Lisbon's uplink. Our own way there learns it too, as a path that tells its MTU would have it. */
async function narrow(): Promise<void> {
  await run('ip', ['route', 'replace', ...viaWire, 'mtu', 'lock', '1300']);
  await inSite('lisbon', 'ip', 'link', 'set', 'wan0', 'mtu', '1300');
}

/** The underlay as lab/up makes it. */
async function widen(): Promise<void> {
  await inSite('lisbon', 'ip', 'link', 'set', 'wan0', 'mtu', '1500');
  await run('ip', ['route', 'flush', ...viaWire]);
}

async function linksOf(site: string): Promise<SiteLink[]> {
  return (await get(kinds.Site, site)).status?.links ?? [];
}

/** `valencia → lisbon/a Up 1450`, of all sites. */
async function links(): Promise<string[]> {
  const all = await Promise.all(
    sites.map(async (site) =>
      (await linksOf(site)).map(({ peer, state, mtu }) => `${site} → ${peer} ${state} ${String(mtu)}`),
    ),
  );
  return all.flat().sort();
}

const expected = (toLisbon: string): string[] =>
  sites
    .flatMap((from) =>
      sites
        .filter((to) => to !== from)
        .map((to) => `${from} → ${to}/a ${from === 'lisbon' || to === 'lisbon' ? toLisbon : 'Up 1450'}`),
    )
    .sort();

async function timed(what: string, ask: () => Promise<void>, withinMs: number): Promise<void> {
  const from = performance.now();
  await eventually(what, ask, withinMs);
  report(`${what}: ${((performance.now() - from) / 1_000).toFixed(1)} s`);
}

const linksAre = async (toLisbon: string): Promise<void> => {
  expect(await links()).toEqual(expected(toLisbon));
};

async function reasons(name: string): Promise<Record<string, string | undefined>> {
  const { status } = await get(kinds.FederatedNetwork, `underlay/${name}`);
  return Object.fromEntries((status?.sites ?? []).map((site) => [site.name, site.reason]));
}

beforeAll(async () => {
  operator = await startOperator({ probeSeconds });
  await apply([
    namespace('underlay'),
    manifest('FederatedNetwork', 'underlay/all', { cidr: '10.1.0.0/24' }),
    manifest('FederatedNetwork', 'underlay/small', { cidr: '10.2.0.0/24', mtu: 1250 }),
    manifest('FederatedNetwork', 'underlay/elsewhere', { cidr: '10.3.0.0/24', sites: ['valencia', 'saopaulo'] }),
  ]);
  await waitReady(kinds.FederatedNetwork, '--namespace=underlay');
}, 90_000);

afterEach(async () => {
  await wire('up');
  await widen();
});

afterAll(async () => await stopOperator(operator), 90_000);

describe('the underlay', () => {
  it('is found to carry what it promises, between all sites', async () => {
    await timed('all links are up', async () => await linksAre('Up 1450'), 20_000);
    for (const site of sites) {
      for (const { latencyMs } of await linksOf(site)) {
        expect(latencyMs).toBeGreaterThanOrEqual(1);
        expect(latencyMs).toBeLessThan(200);
      }
      const object = await get(kinds.Site, site);
      expect(condition(object, 'LinksUp')?.status).toBe('True');
      expect(condition(object, 'MTUCarried')?.status).toBe('True');
    }
  }, 30_000);

  it('that carries less at one site is told by the links, and by the networks that need more', async () => {
    await narrow();
    await timed('the smaller MTU is told', async () => await linksAre('Up 1250'), measuredMs);
    await timed(
      'the network says so',
      async () => {
        expect(await reasons('all')).toMatchObject({ lisbon: 'MTUNotCarried' });
      },
      5_000,
    );
    const network = await get(kinds.FederatedNetwork, 'underlay/all');
    expect(condition(network, 'Ready')).toMatchObject({ status: 'False', reason: 'MTUNotCarried' });
    for (const told of ['lisbon/a', '1250', '1450']) expect(condition(network, 'Ready')?.message).toContain(told);
    for (const other of ['small', 'elsewhere'])
      expect(condition(await get(kinds.FederatedNetwork, `underlay/${other}`), 'Ready')?.status).toBe('True');
    const lisbon = await get(kinds.Site, 'lisbon');
    expect(condition(lisbon, 'MTUCarried')).toMatchObject({ status: 'False', reason: 'MTUNotCarried' });
    expect(condition(lisbon, 'Ready')?.status).toBe('True');
    await widen();
    await timed('the MTU as it was is told', async () => await linksAre('Up 1450'), measuredMs);
    await waitReady(kinds.FederatedNetwork, '--namespace=underlay');
  }, 60_000);

  it('that is cut off at one site is told within seconds, and its return', async () => {
    await wire('down');
    await timed(
      'the cut is told',
      async () => {
        const object = await get(kinds.Site, 'valencia');
        expect(object.status?.links?.find(({ peer }) => peer === 'lisbon/a')?.state).toBe('Down');
        expect(condition(object, 'LinksUp')).toMatchObject({ status: 'False', reason: 'LinkDown' });
        expect(object.status?.links?.find(({ peer }) => peer === 'saopaulo/a')?.state).toBe('Up');
        expect(condition(object, 'Ready')?.status).toBe('True');
      },
      5_000,
    );
    await wire('up');
    await timed('the return is told', async () => await linksAre('Up 1450'), 30_000);
  }, 50_000);

  it('is probed without one write, as long as it is as it was', async () => {
    await waitReady(kinds.FederatedNetwork, '--namespace=underlay');
    await waitReady(kinds.Site);
    // What it finds may have changed once more: a busy machine's lines are slow.
    await eventually(
      'nothing is written while it is probed four times',
      async () => {
        const before = await traces();
        const from = performance.now();
        await sleep(4 * probeSeconds * 1_000);
        const after = await traces();
        expect(after.marks).toEqual(before.marks);
        expect(after.youngestFlowMs).toBeGreaterThan(performance.now() - from - 500);
      },
      40_000,
    );
  }, 60_000);
});
