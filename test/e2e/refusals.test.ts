import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { kinds } from '../../crds/index.js';
import {
  apply,
  applyFails,
  condition,
  eventsOf,
  eventually,
  find,
  get,
  kubectl,
  machine,
  manifest,
  namespace,
  patchHost,
  project,
  remove,
  run,
  sites,
  startOperator,
  stopOperator,
  waitReady,
  type Conditioned,
  type Manifest,
  type Operator,
} from '../support/lab.js';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const ns = 'refusals';
// Sites are named: the Sites that can't be reached must not belong to these networks.
const fnet = (name: string, spec: Manifest): Manifest =>
  manifest('FederatedNetwork', `${ns}/${name}`, { sites: [...sites], ...spec });
const fvm = (name: string, spec: Manifest): Manifest =>
  machine(`${ns}/${name}`, { placement: { site: 'valencia' }, ...spec });
const vmig = (name: string, vmName: string, site: string, mode?: 'Live' | 'Offline'): Manifest =>
  manifest('VMMigration', `${ns}/${name}`, { vmName, target: { site }, ...(mode ? { mode } : {}) });

/** A host at an address of its own, so that other sites' tunnels are left alone, whose daemons are at daemonAddress. */
const site = (name: string, underlayAddress: string, daemonAddress: string, secret: string): Manifest =>
  manifest('Site', name, {
    hosts: [
      {
        name: 'a',
        underlayAddress,
        libvirt: { qemu: `qemu+tls://${daemonAddress}/system` },
        ovs: {
          ovsdb: `ssl:${daemonAddress}:6640`,
          openflow: { int: `ssl:${daemonAddress}:6654`, edge: `ssl:${daemonAddress}:6655` },
          datapathType: 'netdev',
        },
      },
    ],
    tlsSecretRef: { name: secret },
  });

const strangerSecrets = ['refusals-stranger', 'refusals-stranger-ca'];
let operator: Operator | undefined;

const good = [
  namespace(ns),
  fnet('home', { cidr: '10.10.0.0/24', vlanId: 777, gateway: '10.10.0.1' }),
  fnet('pair', { cidr: '10.11.0.0/24', sites: ['valencia', 'saopaulo'] }),
  fvm('holder', { networks: [{ name: 'home', address: '10.10.0.20' }], runStrategy: 'Stopped', storage: 'Shared' }),
  fvm('runner', { networks: [{ name: 'pair' }], storage: 'Shared' }),
];

interface Refusal {
  readonly object: Manifest;
  readonly kind: keyof typeof kinds;
  readonly name: string;
  /** The Ready condition's reason, and what its message says at least. */
  readonly because: string;
  readonly says: readonly string[];
  /** Only the user can help: the Stalled condition is there too. */
  readonly stalled?: boolean;
  readonly reason: string;
}

const refusals: Refusal[] = [
  {
    object: fnet('overlap', { cidr: '10.10.0.128/25' }),
    kind: 'FederatedNetwork',
    name: 'overlap',
    because: 'OverlappingCIDR',
    says: ['spec.cidr', '10.10.0.128/25', '10.10.0.0/24', `${ns}/home`],
    reason: 'within a tenant an address means one machine; the older network stays',
  },
  {
    object: fnet('nowhere', { cidr: '10.12.0.0/24', sites: ['atlantis'] }),
    kind: 'FederatedNetwork',
    name: 'nowhere',
    because: 'UnknownSite',
    says: ['spec.sites', 'atlantis', 'valencia'],
    reason: 'a site that there is not, with the names of those there are',
  },
  {
    object: fnet('pinned', { cidr: '10.13.0.0/24', vlanId: 777 }),
    kind: 'FederatedNetwork',
    name: 'pinned',
    because: 'AlreadyTaken',
    says: ['spec.vlanId', '777', `FederatedNetwork ${ns}/home`],
    reason: 'a pinned VLAN that another network has, with its name',
  },
  {
    object: fnet('wide', { cidr: '10.14.0.0/24', mtu: 1451 }),
    kind: 'FederatedNetwork',
    name: 'wide',
    because: 'MTUTooLarge',
    says: ['spec.mtu', '1451', '1450'],
    stalled: true,
    reason: 'one byte more than the underlay carries stalls connections later, so it is refused now',
  },
  {
    object: fvm('outside', { networks: [{ name: 'home', address: '10.99.0.5' }] }),
    kind: 'FederatedVM',
    name: 'outside',
    because: 'AddressOutsideNetwork',
    says: ['spec.networks[0].address', '10.99.0.5', '10.10.0.0/24'],
    stalled: true,
    reason: 'an address that is not of the network',
  },
  {
    object: fvm('gateway', { networks: [{ name: 'home', address: '10.10.0.1' }] }),
    kind: 'FederatedVM',
    name: 'gateway',
    because: 'AddressNotUsable',
    says: ['10.10.0.1', 'gateway'],
    stalled: true,
    reason: 'the gateway’s address belongs to the gateway',
  },
  {
    object: fvm('second', { networks: [{ name: 'home', address: '10.10.0.20' }] }),
    kind: 'FederatedVM',
    name: 'second',
    because: 'AlreadyTaken',
    says: ['spec.networks[0].address', '10.10.0.20', `FederatedVM ${ns}/holder`],
    reason: 'an address that another machine has, with its name',
  },
  {
    object: fvm('homeless', { networks: [{ name: 'home' }], placement: { site: 'atlantis' } }),
    kind: 'FederatedVM',
    name: 'homeless',
    because: 'UnknownSite',
    says: ['spec.placement.site', 'atlantis'],
    reason: 'a placement at a site that there is not',
  },
  {
    object: fvm('hostless', { networks: [{ name: 'home' }], placement: { site: 'lisbon', host: 'z' } }),
    kind: 'FederatedVM',
    name: 'hostless',
    because: 'UnknownHost',
    says: ['spec.placement.host', 'lisbon', 'z'],
    reason: 'a placement on a host that the site has not',
  },
  {
    object: fvm('imageless', { networks: [{ name: 'home' }], image: { name: 'amiga-os' } }),
    kind: 'FederatedVM',
    name: 'imageless',
    because: 'UnknownImage',
    says: ['spec.image.name', 'amiga-os', 'images', 'valencia/a'],
    reason: 'an image that the site’s pool has not, with the pool’s name',
  },
  {
    object: fvm('unplugged', { networks: [{ name: 'purple' }] }),
    kind: 'FederatedVM',
    name: 'unplugged',
    because: 'UnknownNetwork',
    says: ['spec.networks[0].name', 'purple', ns],
    reason: 'a network that the namespace has not',
  },
  {
    object: fvm('huge', { networks: [{ name: 'home' }], resources: { vcpus: 1, memory: '16Ti', disk: '1Gi' } }),
    kind: 'FederatedVM',
    name: 'huge',
    because: 'NoRoom',
    says: ['valencia/a', 'memory short'],
    reason: 'more memory than any host has, with what each lacks',
  },
  {
    object: vmig('of-nothing', 'ghost', 'saopaulo'),
    kind: 'VMMigration',
    name: 'of-nothing',
    because: 'UnknownMachine',
    says: ['spec.vmName', 'ghost', ns],
    reason: 'a migration of a machine that there is not',
  },
  {
    object: vmig('of-stopped', 'holder', 'saopaulo', 'Live'),
    kind: 'VMMigration',
    name: 'of-stopped',
    because: 'MachineNotRunning',
    says: ['holder', 'shutoff', 'runStrategy', 'mode: Offline'],
    stalled: true,
    reason: 'a live migration of a machine that does not run',
  },
  {
    object: vmig('of-running', 'runner', 'saopaulo', 'Offline'),
    kind: 'VMMigration',
    name: 'of-running',
    because: 'MachineRunning',
    says: ['spec.mode', 'runner', 'valencia/a', 'runStrategy: Stopped', 'mode: Live'],
    stalled: true,
    reason: 'an offline migration of a machine that runs',
  },
  {
    object: vmig('to-itself', 'runner', 'valencia'),
    kind: 'VMMigration',
    name: 'to-itself',
    because: 'AlreadyThere',
    says: ['spec.target', 'runner', 'valencia/a'],
    stalled: true,
    reason: 'a migration to where the machine is',
  },
  {
    object: vmig('off-network', 'runner', 'lisbon'),
    kind: 'VMMigration',
    name: 'off-network',
    because: 'NetworkNotAtTarget',
    says: ['spec.target.site', 'lisbon', 'valencia', 'saopaulo'],
    stalled: true,
    reason: 'a migration to a site that the machine’s network does not span',
  },
  {
    object: vmig('to-atlantis', 'runner', 'atlantis'),
    kind: 'VMMigration',
    name: 'to-atlantis',
    because: 'UnknownSite',
    says: ['spec.target.site', 'atlantis'],
    reason: 'a migration to a site that there is not',
  },
];

const badSites: Omit<Refusal, 'kind'>[] = [
  {
    object: site('away', '198.51.100.99', '198.51.100.99', 'valencia-tls'),
    name: 'away',
    because: 'LibvirtUnreachable',
    says: ['host a', 'qemu+tls://198.51.100.99/system'],
    reason: 'nobody answers at that address',
  },
  {
    object: site('stranger', '198.51.100.98', '198.51.100.13', 'refusals-stranger'),
    name: 'stranger',
    because: 'LibvirtUnreachable',
    says: ['host a', 'certificate', 'tlsSecretRef'],
    reason: 'our certificate is of an authority that the daemon does not know',
  },
  {
    object: site('stranger-ca', '198.51.100.97', '198.51.100.13', 'refusals-stranger-ca'),
    name: 'stranger-ca',
    because: 'LibvirtUnreachable',
    says: ['host a', 'certificate', 'tlsSecretRef'],
    reason: 'the daemon’s certificate is of an authority that we do not know',
  },
  {
    object: site('keyless', '198.51.100.96', '198.51.100.13', 'no-such-secret'),
    name: 'keyless',
    because: 'NotConnected',
    says: ['spec.tlsSecretRef', 'isthmus-system/no-such-secret', 'does not exist'],
    reason: 'the Secret with the certificate is missing',
  },
];

/** One Secret with a client certificate of another authority but the lab's ca.crt, one with that authority as ca.crt too. */
async function makeStrangerSecrets(): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'isthmus-refusals-'));
  try {
    const file = (name: string): string => join(dir, name);
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-x509', '-days', '1'];
    await run('openssl', ['req', ...key, '-subj', '/CN=stranger', '-keyout', file('ca.key'), '-out', file('ca.crt')]);
    await run('openssl', [
      ...['req', ...key, '-subj', '/CN=isthmus-operator', '-CA', file('ca.crt'), '-CAkey', file('ca.key')],
      ...['-keyout', file('tls.key'), '-out', file('tls.crt')],
    ]);
    const [cert, tlsKey, otherCa, labCa] = await Promise.all(
      [file('tls.crt'), file('tls.key'), file('ca.crt'), `${project}.lab/pki/ca.crt`].map((path) =>
        readFile(path, 'utf8'),
      ),
    );
    const secret = (name: string | undefined, ca: string | undefined): Manifest => ({
      apiVersion: 'v1',
      kind: 'Secret',
      type: 'kubernetes.io/tls',
      metadata: { name, namespace: 'isthmus-system' },
      stringData: { 'tls.crt': cert, 'tls.key': tlsKey, 'ca.crt': ca },
    });
    await apply([secret(strangerSecrets[0], labCa), secret(strangerSecrets[1], otherCa)]);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

beforeAll(async () => {
  operator = await startOperator();
  await apply(good);
  await waitReady(kinds.FederatedNetwork, `--namespace=${ns}`);
  await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
  await makeStrangerSecrets();
  await apply([...refusals, ...badSites].map(({ object }) => object));
}, 120_000);

afterAll(async () => {
  await kubectl('delete', 'secret', '--namespace=isthmus-system', '--ignore-not-found', ...strangerSecrets);
  await stopOperator(operator);
}, 120_000);

describe('kubectl apply refuses', () => {
  const cases: { object: Manifest; says: string; reason: string }[] = [
    {
      object: fnet('bad-cidr', { cidr: '172.16.0.0/33' }),
      says: 'must be an IPv4 CIDR',
      reason: 'a malformed CIDR',
    },
    {
      object: fnet('bad-cidr', { cidr: 'blue' }),
      says: 'must be an IPv4 CIDR',
      reason: 'a CIDR that is none at all',
    },
    {
      object: fnet('bad-cidr', { cidr: '172.16.5.0/16' }),
      says: 'clear the host bits',
      reason: 'a CIDR with host bits, which means something else than it says',
    },
    {
      object: fnet('bad-gateway', { cidr: '172.16.0.0/24', gateway: '172.17.0.1' }),
      says: 'gateway',
      reason: 'a gateway outside the network',
    },
    {
      object: fnet('bad-vlan', { cidr: '172.16.0.0/24', vlanId: 4095 }),
      says: 'spec.vlanId',
      reason: 'a VLAN id that no frame can carry',
    },
    {
      object: fvm('bad-flavor', { networks: [{ name: 'home' }], flavor: 'enormous' }),
      says: 'Unsupported value: "enormous"',
      reason: 'a flavor that there is not, with those there are',
    },
    {
      object: fvm('bad-address', { networks: [{ name: 'home', address: '10.10.0.256' }] }),
      says: 'must be an IPv4 address',
      reason: 'an address that is none',
    },
    {
      object: fvm('bad-networks', { networks: [] }),
      says: 'spec.networks',
      reason: 'a machine without a network',
    },
    {
      object: fnet('home', { cidr: '10.20.0.0/24', vlanId: 777, gateway: '10.20.0.1' }),
      says: 'make a new network',
      reason: 'another CIDR for a network that exists: its machines have addresses of it',
    },
  ];
  it.each(cases)('$reason', async ({ object, says }) => {
    expect(await applyFails([object])).toContain(says);
  });
});

async function expectRefused(key: string, { kind, name, because, says, stalled = false }: Refusal): Promise<void> {
  await eventually(
    `${kind} ${key} is refused with ${because}`,
    async () => {
      const object = await get<Conditioned>(kinds[kind], key);
      const ready = condition(object, 'Ready');
      expect(ready).toMatchObject({ status: 'False', reason: because });
      for (const part of says) expect(ready?.message).toContain(part);
      expect(condition(object, stalled ? 'Stalled' : 'Reconciling')).toMatchObject({ status: 'True', reason: because });
      expect(condition(object, stalled ? 'Reconciling' : 'Stalled')).toBeUndefined();
      const [event] = await eventsOf(kind, name, because);
      expect(event).toContain(says[0]);
    },
    20_000,
  );
}

describe('the status refuses', () => {
  it.each(refusals)('$name: $reason', async (refusal) => await expectRefused(`${ns}/${refusal.name}`, refusal));

  it('and what is right beside it works on', async () => {
    for (const name of ['home', 'pair'])
      expect(condition(await get(kinds.FederatedNetwork, `${ns}/${name}`), 'Ready')?.status).toBe('True');
    for (const name of ['holder', 'runner'])
      expect(condition(await get(kinds.FederatedVM, `${ns}/${name}`), 'Ready')?.status).toBe('True');
  });
});

describe('a site that can’t be reached says why', () => {
  it.each(badSites)(
    '$name: $reason',
    async (refusal) => await expectRefused(refusal.name, { ...refusal, kind: 'Site' }),
  );

  it('a site that does not answer keeps its finalizer, says so, and goes once the user vouches that it is off', async () => {
    await remove(kinds.Site, 'away');
    await eventually(
      'the deletion is blocked',
      async () => {
        const blocked = condition(await get(kinds.Site, 'away'), 'DeletionBlocked');
        expect(blocked).toMatchObject({ status: 'True', reason: 'HostUnreachable' });
        expect(blocked?.message).toContain('fenced');
      },
      15_000,
    );
    await patchHost('away', 'a', { fenced: true });
    await eventually('the site is gone', async () => expect(await find(kinds.Site, 'away')).toBeUndefined(), 15_000);
  }, 40_000);

  it('and the other sites stay Ready', async () => {
    for (const name of sites) expect(condition(await get(kinds.Site, name), 'Ready')?.status).toBe('True');
  });
});
