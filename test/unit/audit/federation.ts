import { kinds, type VMMigration } from '../../../crds/index.js';
import type { Entry } from '../../../drivers/consul/types.js';
import type { Finding } from '../../../reconcilers/audit/finding.js';
import type { ApiObjects, HostLook, Look, SeenDomain } from '../../../reconcilers/audit/look.js';
import {
  diskVolumeName,
  domainName,
  domainUuid,
  interfaceId,
  networkName,
  networkUuid,
  seedVolumeName,
} from '../../../reconcilers/common/identity.js';
import { keys, type VmRecord } from '../../../reconcilers/common/records.js';
import { hostSpec, machineObject, networkObject, siteObject } from '../reconcilers/support/objects.js';

/** Distributes, so that a part that may be undefined stays one. */
type MutableArray<T> = T extends readonly (infer E)[] ? E[] : T;
type Mutable<T> = { -readonly [K in keyof T]: MutableArray<T[K]> };

/** A look that can be changed until it is taken. */
export interface Draft {
  objects: Mutable<ApiObjects>;
  /** Keys of Consul with their values; text stands as it is. */
  consul: Map<string, unknown>;
  hosts: Record<'valencia' | 'lisbon', Mutable<HostLook>>;
}

const uid = (digit: number): string => `${String(digit).repeat(8)}-0000-4000-8000-000000000000`;
/** The fuids of what there is, and of two objects that there are not. */
export const fuids = { blue: uid(1), web: uid(2), db: uid(3), gone: uid(8), strange: uid(9) } as const;

export const interfaceOf = (fuid: string, address: string): VmRecord['interfaces'][number] => ({
  network: fuids.blue,
  name: 'blue',
  id: interfaceId(fuid, 0),
  mac: `02:00:00:00:00:${fuid.slice(0, 2)}`,
  address,
});

export const vm = (name: string, site: string, fuid: string, address: string): VmRecord => ({
  namespace: 'acme',
  name,
  site,
  host: 'a',
  generation: 1,
  phase: 'Owned',
  disk: true,
  interfaces: [interfaceOf(fuid, address)],
});

export const network = { namespace: 'acme', name: 'blue', cidr: '172.16.0.0/16', vlan: 120, vni: 70120, mtu: 1450, sites: ['lisbon', 'valencia'], leaving: [] as string[] }; // prettier-ignore

export const domain = (name: string, fuid: string, state: SeenDomain['state'], marked = false): SeenDomain => ({
  driver: 'qemu',
  uuid: domainUuid(fuid),
  name: domainName(name, fuid),
  state,
  mark: marked ? { fuid, namespace: 'acme', name } : undefined,
});

export const volumes = (fuid: string, pool: string) =>
  [diskVolumeName(fuid), seedVolumeName(fuid)].map((name) => ({ pool, name, fuid, shared: pool === 'shared' }));

export const port = (name: string, fuid: string, more: { works?: boolean } = {}) => ({
  uuid: `port ${name}`,
  name,
  bridge: 'isth-int',
  bridgeUuid: 'bridge',
  works: true,
  interfaceId: interfaceId(fuid, 0),
  peer: undefined,
  ...more,
});

export const tunnel = (name: string, peer: string) => ({
  uuid: `port ${name}`,
  name,
  bridge: 'isth-edge',
  bridgeUuid: 'edge',
  works: true,
  interfaceId: undefined,
  peer,
});

export const libvirtNetwork = (fuid: string, marked = false) => ({
  uuid: networkUuid(fuid),
  name: networkName('blue', fuid),
  fuid: marked ? fuid : undefined,
  vlan: 120 as number | undefined,
  bridge: 'isth-int' as string | undefined,
});

export const migration = (name: string, status: object): VMMigration =>
  kinds.VMMigration.parse({
    apiVersion: 'isthmus.dev/v1alpha1',
    kind: 'VMMigration',
    metadata: { name, namespace: 'acme', uid: name, resourceVersion: '1', generation: 1, creationTimestamp: '2026-11-22T10:00:00Z' },
    spec: { vmName: 'db-1', target: { site: 'valencia' } },
    status,
  }); // prettier-ignore

/** All that one object holds, as a grant writes it. */
export function grant(kind: string, name: string, fuid: string, records: Record<string, object>, claims: readonly string[]) {
  const all = [...claims, ...Object.keys(records), keys.object(fuid)];
  return [
    ...claims.map((key) => [key, fuid] as const),
    ...Object.entries(records),
    [keys.object(fuid), { kind, namespace: 'acme', name }] as const,
    [keys.owner(fuid), { keys: all }] as const,
  ];
} // prettier-ignore

const host = (site: string, more: Partial<Mutable<HostLook>>): Mutable<HostLook> => ({
  site,
  host: 'a',
  asked: true,
  fenced: false,
  domains: [],
  networks: [libvirtNetwork(fuids.blue)],
  volumes: [],
  ports: [],
  flows: { int: [network.vni], edge: [network.vni] },
  problems: [],
  ...more,
});

const shared = { type: 'NFS', server: '198.51.100.11', path: '/nfs', pool: 'shared', via: 'valencia/a' };
const site = (name: string) =>
  siteObject(name, { hosts: [hostSpec('a')], storage: { pool: 'default', shared } }, { namespace: undefined });

/**
 * Two sites of one host; network blue spans both; web-1 has its disk at valencia, db-1 runs at lisbon and has its own on the
 * share, which valencia serves. A strange domain runs at lisbon.
 */
export function healthy(): Draft {
  const status = (values: object) => ({ status: { conditions: [], ...values } });
  return {
    objects: {
      sites: [site('valencia'), site('lisbon')],
      networks: [
        { ...networkObject('blue', {}, { uid: fuids.blue }), ...status({ vlanId: 120, vni: 70120, mtu: 1450 }) },
      ],
      machines: [
        {
          ...machineObject('web-1', { storage: 'Local' }, { uid: fuids.web }),
          ...status({ site: 'valencia', host: 'a' }),
        },
        { ...machineObject('db-1', { storage: 'Shared' }, { uid: fuids.db }), ...status({ site: 'lisbon', host: 'a' }) },
      ],
      templates: [],
      migrations: [migration('done', { attempt: 'done', completionTime: '2026-11-22T10:00:00Z', source: { site: 'valencia', host: 'a' } })],
    },
    consul: new Map<string, unknown>([
      ...grant('FederatedNetwork', 'blue', fuids.blue, { [keys.network(fuids.blue)]: network }, [keys.vlan(120), keys.vni(70120)]),
      ...grant('FederatedVM', 'web-1', fuids.web, { [keys.vm(fuids.web)]: vm('web-1', 'valencia', fuids.web, '172.16.0.20') }, [keys.ip(fuids.blue, '172.16.0.20'), keys.mac('02:00:00:00:00:22')]),
      ...grant('FederatedVM', 'db-1', fuids.db, { [keys.vm(fuids.db)]: vm('db-1', 'lisbon', fuids.db, '172.16.0.21') }, [keys.ip(fuids.blue, '172.16.0.21'), keys.mac('02:00:00:00:00:33')]),
      ['isthmus/site/valencia', { hosts: ['a'] }],
    ]),
    hosts: {
      valencia: host('valencia', {
        domains: [domain('web-1', fuids.web, 'running')],
        volumes: [...volumes(fuids.web, 'default'), ...volumes(fuids.db, 'shared')],
        ports: [port('vnet0', fuids.web), tunnel('isth-1', 'lisbon/a')],
      }),
      lisbon: host('lisbon', {
        domains: [
          domain('db-1', fuids.db, 'running'),
          { driver: 'qemu', uuid: uid(7), name: 'isth-unmarked-77777777', state: 'shutoff', mark: undefined },
        ],
        networks: [libvirtNetwork(fuids.blue), { ...libvirtNetwork(fuids.strange), vlan: 7 }],
        ports: [port('vnet0', fuids.db), tunnel('isth-2', 'valencia/a'), { ...port('eth7', fuids.db), interfaceId: uid(7) }],
      }),
    },
  };
} // prettier-ignore

export function take({ objects, consul, hosts }: Draft): Look {
  const entries = [...consul].map(([key, value], index): Entry => ({
    key,
    value: typeof value === 'string' ? value : JSON.stringify(value),
    index: index + 1,
  }));
  const known = new Set(objects.sites.map(({ metadata }) => metadata.name));
  return { objects, entries, hosts: Object.values(hosts).filter((each) => known.has(each.site)) };
}

/** A finding as a line: kind, where, what, and how a repair takes it away. */
export const lineOf = ({ kind, where, what, removal }: Finding): string =>
  `${kind} @ ${where}: ${what} -> ${removal?.kind ?? 'by hand'}`;
