import {
  kinds,
  type FederatedNetwork,
  type FederatedVM,
  type Site,
  type VMMigration,
  type VMTemplate,
} from '../../../../crds/index.js';
import type { Entry, KeyValueStore, View } from '../../../../drivers/consul/types.js';
import { filter, map, startWith, Subject } from 'rxjs';
import { Directory } from '../../../../reconcilers/common/directory.js';
import { keys, serialise, type NetworkRecord, type VmRecord } from '../../../../reconcilers/common/records.js';
import type { Objects } from '../../../../reconcilers/objects.js';

type Meta = Readonly<Record<string, unknown>>;
type Fields = Readonly<Record<string, unknown>>;

const apiVersion = 'isthmus.dev/v1alpha1';
const metadata = (name: string, more: Meta) => ({
  name,
  namespace: 'acme',
  uid: `00000000-0000-4000-8000-${Buffer.from(name).toString('hex').padStart(12, '0').slice(-12)}`,
  resourceVersion: '1',
  generation: 1,
  creationTimestamp: '2026-11-22T10:00:00Z',
  ...more,
});

/** Objects as the API server would give them: the schemas say whether they could be. */
export const networkObject = (name: string, spec: Fields = {}, meta: Meta = {}): FederatedNetwork =>
  kinds.FederatedNetwork.parse({
    apiVersion,
    kind: 'FederatedNetwork',
    metadata: metadata(name, meta),
    spec: { cidr: '172.16.0.0/16', ...spec },
  });

export const machineObject = (name: string, spec: Fields = {}, meta: Meta = {}, status?: Fields): FederatedVM =>
  kinds.FederatedVM.parse({
    apiVersion,
    kind: 'FederatedVM',
    metadata: metadata(name, meta),
    spec: { type: 'VirtualMachine', image: { name: 'debian-12' }, networks: [{ name: 'blue' }], ...spec },
    ...(status ? { status } : {}),
  });

/** A move of the machine of the same name. */
export const migrationObject = (name: string, spec: Fields = {}, meta: Meta = {}, status?: Fields): VMMigration =>
  kinds.VMMigration.parse({
    apiVersion,
    kind: 'VMMigration',
    metadata: metadata(name, meta),
    spec: { vmName: name, target: { site: 'saopaulo' }, ...spec },
    ...(status ? { status } : {}),
  });

export const templateObject = (name: string, spec: Fields): VMTemplate =>
  kinds.VMTemplate.parse({ apiVersion, kind: 'VMTemplate', metadata: metadata(name, {}), spec });

export const hostSpec = (name: string, more: Fields = {}): Fields => ({
  name,
  underlayAddress: '198.51.100.11',
  libvirt: { qemu: 'qemu+tcp://198.51.100.11/system' },
  ovs: {
    ovsdb: 'tcp:198.51.100.11:6640',
    openflow: { int: 'tcp:198.51.100.11:6654', edge: 'tcp:198.51.100.11:6655' },
  },
  ...more,
});

export const siteObject = (name: string, spec: Fields = {}, meta: Meta = {}, status?: Fields): Site =>
  kinds.Site.parse({
    apiVersion,
    kind: 'Site',
    metadata: metadata(name, meta),
    spec: { hosts: [hostSpec('a')], ...spec },
    ...(status ? { status } : {}),
  });

export interface Known {
  readonly sites?: readonly Site[];
  readonly networks?: readonly FederatedNetwork[];
  readonly machines?: readonly FederatedVM[];
  readonly templates?: readonly VMTemplate[];
  /** That are not over. */
  readonly migrations?: readonly VMMigration[];
}

export function objectsOf({
  sites = [],
  networks = [],
  machines = [],
  templates = [],
  migrations = [],
}: Known): Objects {
  const named = <T extends { metadata: { name: string; namespace?: string | undefined } }>(
    all: readonly T[],
    name: string,
    namespace?: string,
  ) =>
    all.find(
      (each) => each.metadata.name === name && (namespace === undefined || each.metadata.namespace === namespace),
    );
  return {
    site: (name) => named(sites, name),
    sites: () => sites,
    network: (namespace, name) => named(networks, name, namespace),
    networks: () => networks,
    machine: (namespace, name) => named(machines, name, namespace),
    machines: () => machines,
    machinesOn: (namespace, network) =>
      machines.filter(
        (each) => each.metadata.namespace === namespace && each.spec.networks.some(({ name }) => name === network),
      ),
    template: (name) => named(templates, name),
    migrationsOf: (namespace, machine) =>
      migrations.filter((each) => each.metadata.namespace === namespace && each.spec.vmName === machine),
    openMigrations: () => migrations,
  };
}

type Records = Readonly<Record<string, VmRecord>>;
type Networks = Readonly<Record<string, NetworkRecord>>;

/** A directory that knows these machines and networks, and never hears of another. */
export const directoryOf = (records: Records, networks: Networks = {}): Directory =>
  liveDirectory(records, networks).directory;

/** One that also hears of what is put there later. */
export function liveDirectory(
  records: Records,
  networks: Networks = {},
): { readonly directory: Directory; readonly put: (fuid: string, record: VmRecord) => void } {
  const entries = new Map<string, Entry>();
  const write = (key: string, record: object): void => {
    entries.set(key, { key, value: serialise(record), index: entries.size + 1 });
  };
  for (const [fuid, record] of Object.entries(records)) write(keys.vm(fuid), record);
  for (const [fuid, record] of Object.entries(networks)) write(keys.network(fuid), record);
  const written = new Subject<string>();
  const unused = () => Promise.reject(new Error('a directory only watches'));
  const store: KeyValueStore = {
    get: unused,
    list: unused,
    transact: unused,
    heartbeat: unused,
    close: () => Promise.resolve(),
    watch: (prefix): View => {
      const mine = (): Entry[] => [...entries.values()].filter(({ key }) => key.startsWith(prefix));
      return {
        current: true,
        get: (key) => entries.get(key),
        entries: () => mine().values(),
        changes: written.pipe(
          filter((key) => key.startsWith(prefix)),
          map((key) => [key]),
          startWith(mine().map(({ key }) => key)),
        ),
        ready: () => Promise.resolve(),
        close: () => undefined,
      };
    },
  };
  const directory = new Directory(store, (key, error) => {
    throw new Error(`${key} is damaged`, { cause: error });
  });
  const put = (fuid: string, record: VmRecord): void => {
    write(keys.vm(fuid), record);
    written.next(keys.vm(fuid));
  };
  return { directory, put };
}
