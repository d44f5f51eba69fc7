/** The lab as the bench reaches it: the same end points, certificates and clients as the operator's, on connections of its own. */
import { fileURLToPath } from 'node:url';
import { connectKube, type KubeConnection } from '../controllers/kube/client.js';
import { kinds, type Site, type SiteHost } from '../crds/index.js';
import { connectConsul, type KeyValueStore } from '../drivers/consul/index.js';
import { connect, type Connection } from '../drivers/libvirt/index.js';
import { openSwitch, type Switch } from '../drivers/openflow/index.js';

export const project = fileURLToPath(new URL('..', import.meta.url));
export const kubeconfig = `${project}.lab/kubeconfig`;
export const consulUrl = 'http://198.51.100.11:8500';
export const operatorNamespace = 'isthmus-system';

export interface LabHost {
  readonly site: string;
  readonly spec: SiteHost;
  readonly tls: { readonly ca: string; readonly cert: string; readonly key: string };
  readonly storage: { readonly pool: string; readonly imagePool: string };
  readonly libvirt: Connection;
  readonly int: Switch;
  readonly edge: Switch;
}

export interface Lab extends AsyncDisposable {
  readonly kube: KubeConnection;
  readonly consul: KeyValueStore;
  readonly sites: readonly Site[];
  /** One a site, by the site's name. */
  readonly hosts: readonly LabHost[];
}

/** Connects to everything. Throws if the lab does not run. The switches answer once an operator has made the bridges. */
export async function connectLab(): Promise<Lab> {
  const kube = connectKube({ kubeconfigPath: kubeconfig });
  const consul = connectConsul(consulUrl);
  const { items } = await kube.list(kinds.Site);
  const sites = items.map((item) => kinds.Site.parse(item));
  const hosts = await Promise.all(sites.map((site) => connectHost(site, kube)));
  const dispose = async (): Promise<void> => {
    await Promise.all(hosts.flatMap(({ libvirt, int, edge }) => [libvirt.close(), int.close(), edge.close()]));
    await consul.close();
    kube.close();
  };
  return { kube, consul, sites, hosts, [Symbol.asyncDispose]: dispose };
}

async function connectHost(site: Site, kube: KubeConnection): Promise<LabHost> {
  const { name } = site.metadata;
  const [spec] = site.spec.hosts;
  const secret = await kube.secret(operatorNamespace, site.spec.tlsSecretRef?.name ?? '');
  const [ca, cert, key] = ['ca.crt', 'tls.crt', 'tls.key'].map((field) => secret?.[field]?.toString('utf8'));
  if (spec?.libvirt.qemu === undefined || ca === undefined || cert === undefined || key === undefined)
    throw new Error(`Site ${name} lacks a host, its libvirt.qemu or its certificates: is it lab/up's?`);
  const tls = { ca, cert, key };
  const { pool = 'default', imagePool = 'images' } = site.spec.storage ?? {};
  return {
    site: name,
    spec,
    tls,
    storage: { pool, imagePool },
    libvirt: await connect(spec.libvirt.qemu, { tls }),
    int: openSwitch(spec.ovs.openflow.int, { tls }),
    edge: openSwitch(spec.ovs.openflow.edge, { tls }),
  };
}

export function hostOf(lab: Lab, site: string): LabHost {
  const host = lab.hosts.find((each) => each.site === site);
  if (!host) throw new Error(`the lab has no site ${site}`);
  return host;
}
