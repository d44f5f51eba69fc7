import { existsSync, readFileSync } from 'node:fs';
import { connectKube, type KubeConnection } from '../../controllers/kube/client.js';
import type { KubeObject, ObjectKey, Resource } from '../../controllers/kube/api.js';
import { HostPool } from '../../controllers/hosts/pool.js';
import { kinds } from '../../crds/index.js';
import { connectConsul } from '../../drivers/consul/index.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import { connect, type Connection } from '../../drivers/libvirt/index.js';
import { audit } from '../../reconcilers/audit/audit.js';
import { consulUrl } from '../support/lab/consul.js';
import { labHosts, project, run, type LabHost } from '../support/lab/run.js';

interface Kind<T> extends Resource {
  parse(object: unknown): T;
}

export const keyOf = (title: string): ObjectKey => {
  const [namespace, name = ''] = title.split('/');
  return { namespace, name };
};

/** The lab's API server, Consul and daemons on connections of the tests' own, which stay: a command for each look would take its time. */
export class Lab implements AsyncDisposable {
  private constructor(
    readonly api: KubeConnection,
    readonly store: KeyValueStore,
    /** Through the hosts' own sockets. */
    readonly daemons: Map<LabHost, Connection>,
    /** The same, to their LXC drivers. */
    readonly containers: Map<LabHost, Connection>,
    private readonly hosts: HostPool,
  ) {}

  /** The Sites have to be there. */
  static async open(): Promise<Lab> {
    const api = connectKube({ kubeconfigPath: `${project}.lab/kubeconfig` });
    const hosts = new HostPool((namespace, name) => api.secret(namespace, name), 'isthmus-system');
    const [daemons, containers] = await Promise.all([connectToAll('qemu'), connectToAll('lxc')]);
    const lab = new Lab(api, connectConsul(consulUrl), daemons, containers, hosts);
    for (const site of await lab.#all(kinds.Site)) await hosts.update(site.metadata.name, site, site.spec.hosts);
    await hosts.settled({ hostMs: 8_000, bridgeMs: 8_000 });
    return lab;
  }

  /** To a daemon that was started again. */
  async reconnect(host: LabHost): Promise<void> {
    for (const [driver, connections] of [
      ['qemu', this.daemons],
      ['lxc', this.containers],
    ] as const) {
      await connections.get(host)?.close();
      connections.set(host, await connectTo(host, driver));
    }
  }

  /**
   * Starts the daemons that have died by themselves, as a host's init would, and answers whose: Debian's libvirtd 9.0 crashed once in some thousand
   * connections that were broken off.
   */
  async revive(): Promise<LabHost[]> {
    const dead = labHosts.filter((host) => {
      const [pid = ''] = readFileSync(`${project}.lab/run/${host}-libvirtd.pid`, 'utf8').split(' ');
      return !existsSync(`/proc/${pid}`);
    });
    if (dead.length > 0) await run('lab/up', []);
    for (const host of dead) await this.reconnect(host);
    return dead;
  }

  async find<T>(kind: Kind<T>, title: string): Promise<T | undefined> {
    const object = await this.api.get(kind, keyOf(title));
    return object && kind.parse(object);
  }

  /** What `isthmus audit` finds; nothing, while all is well. */
  async audit(graceMs: number): Promise<string[]> {
    const looked = await audit(
      {
        store: this.store,
        hosts: this.hosts,
        isAsked: () => true,
        readObjects: async () => {
          const [sites, networks, machines, templates, migrations] = await Promise.all([
            this.#all(kinds.Site),
            this.#all(kinds.FederatedNetwork),
            this.#all(kinds.FederatedVM),
            this.#all(kinds.VMTemplate),
            this.#all(kinds.VMMigration),
          ]);
          return { sites, networks, machines, templates, migrations };
        },
      },
      () => new Promise((resolve) => setTimeout(resolve, graceMs)),
    );
    const { findings, away } = looked.report;
    return [
      ...findings.map(({ kind, where, what, why }) => `${kind} @ ${where}: ${what}: ${why}`),
      ...away.map(({ where, why }) => `away: ${where}: ${why}`),
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.hosts.close();
    await Promise.all([...this.daemons.values(), ...this.containers.values()].map((daemon) => daemon.close()));
    await this.store.close();
    this.api.close();
  }

  async #all<T>(kind: Kind<T>): Promise<T[]> {
    const { items } = await this.api.list(kind);
    return items.map((each: KubeObject) => kind.parse(each));
  }
}

const connectTo = async (host: LabHost, driver: 'qemu' | 'lxc'): Promise<Connection> =>
  await connect(`${driver}+unix:///system?socket=${insideOf(host, '/run/libvirt/libvirt-sock')}`);

const connectToAll = async (driver: 'qemu' | 'lxc'): Promise<Map<LabHost, Connection>> =>
  new Map(await Promise.all(labHosts.map(async (host) => [host, await connectTo(host, driver)] as const)));

/** A path inside a host of the lab, as this machine sees it. */
export function insideOf(host: LabHost, path: string): string {
  const [keeper = ''] = readFileSync(`${project}.lab/run/${host}-host.pid`, 'utf8').split(' ');
  return `/proc/${keeper}/root${path}`;
}
