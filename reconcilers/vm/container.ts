import { domainName, domainUuid, networkName } from '../common/identity.js';
import { given } from '../common/given.js';
import type { InterfaceRecord } from '../common/records.js';
import type { Xml } from '../common/xml.js';
import { markedXml, type DomainRequest } from './domain.js';

export interface ContainerRequest extends Pick<DomainRequest, 'fuid' | 'namespace' | 'name' | 'size'> {
  /** Path of the volume that holds its root file system. */
  readonly root: string;
  readonly interfaces: readonly ContainerInterface[];
}

interface ContainerInterface extends InterfaceRecord {
  readonly mtu: number;
  readonly prefixLength: number;
  /** The way out, unless it is the container itself. */
  readonly gateway: string | undefined;
}

/** The domain of a container (https://libvirt.org/drvlxc.html), the same at every host but for where its root lies. */
export function containerXml(request: ContainerRequest): string {
  const { fuid, namespace, name, size, interfaces, root } = request;
  const definition: Xml = {
    name: domainName(name, fuid),
    uuid: domainUuid(fuid),
    title: `${namespace}/${name}`,
    memory: { '@unit': 'b', '#text': String(size.memoryBytes) },
    vcpu: String(size.vcpus),
    // LXC only counts CPUs; this is what keeps the container to so many.
    cputune: { period: cpuPeriodUs, quota: cpuPeriodUs * size.vcpus },
    os: {
      type: 'exe',
      init: '/bin/sh',
      initarg: [{ '#text': '-c' }, { '#text': startScript(interfaces) }],
    },
    features: { privnet: {} },
    clock: { '@offset': 'utc' },
    on_poweroff: 'destroy',
    on_reboot: 'restart',
    on_crash: 'destroy',
  };
  return markedXml(request, 'lxc', definition, deviceXml(root, interfaces), deviceXml('', interfaces));
}

const cpuPeriodUs = 100_000;

const deviceName = (index: number): string => `eth${String(index)}`;

/** libvirt's LXC driver passes over <mtu> and leaves 1500, so that the first process sets it before it becomes the image's init. */
const startScript = (interfaces: readonly ContainerInterface[]): string =>
  [
    ...interfaces.map(({ mtu }, index) => {
      const [device, bytes] = [deviceName(index), String(mtu)];
      return `ip link set dev ${device} mtu ${bytes} 2>/dev/null || ifconfig ${device} mtu ${bytes}`;
    }),
    'exec /sbin/init',
  ].join('; ');

const deviceXml = (root: string, interfaces: readonly ContainerInterface[]): Xml => ({
  filesystem: {
    '@type': 'file',
    driver: { '@type': 'loop', '@format': 'raw' },
    source: { '@file': root },
    target: { '@dir': '/' },
  },
  interface: interfaces.map(({ mac, name, network, id, address, prefixLength, gateway }, index) => ({
    '@type': 'network',
    mac: { '@address': mac },
    source: { '@network': networkName(name, network) },
    virtualport: { '@type': 'openvswitch', parameters: { '@interfaceid': id } },
    ip: { '@address': address, '@family': 'ipv4', '@prefix': prefixLength },
    ...given({ route: gateway === undefined ? undefined : defaultRoute(gateway, index) }),
    guest: { '@dev': deviceName(index) },
  })),
  console: { '@type': 'pty' },
});

/** Two default routes of one metric would keep the container from starting. */
const defaultRoute = (gateway: string, index: number): Xml => ({
  ...{ '@family': 'ipv4', '@address': '0.0.0.0', '@prefix': 0 },
  ...{ '@gateway': gateway, '@metric': index + 1 },
});
