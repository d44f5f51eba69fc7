import { createHash } from 'node:crypto';
import { domainName, domainUuid, metadataNamespace, metadataPrefix, networkName } from '../common/identity.js';
import type { InterfaceRecord } from '../common/records.js';
import { buildXml, type Xml } from '../common/xml.js';
import type { MachineSize } from './size.js';

/** Where a domain's disk is read from. */
export type DiskSource =
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'nfs'; readonly server: string; readonly path: string };

/** An image that a disk stands on: read only, with nothing below it. */
export interface BaseSource {
  readonly source: DiskSource;
  readonly format: 'qcow2' | 'raw';
}

export interface DomainRequest {
  readonly fuid: string;
  readonly namespace: string;
  readonly name: string;
  readonly size: MachineSize;
  /** Of the host's switch: one in user space takes frames as they are, with checksums that the guest has left to the device. */
  readonly datapath: 'system' | 'netdev';
  /** kvm, or qemu (emulation) where the host has no KVM. */
  readonly virtualisation: 'kvm' | 'qemu';
  readonly disk: DiskSource;
  /** Of a disk that does not itself name what it stands on. */
  readonly base?: BaseSource | undefined;
  readonly seed: DiskSource;
  readonly interfaces: readonly (InterfaceRecord & { readonly mtu: number })[];
}

/** The domain, the same at every host that it may move to: names and ids derive from the fuid. */
export function domainXml(request: DomainRequest): string {
  const { fuid, size } = request;
  const definition: Xml = {
    name: domainName(request.name, fuid),
    uuid: domainUuid(fuid),
    title: `${request.namespace}/${request.name}`,
    memory: { '@unit': 'b', '#text': String(size.memoryBytes) },
    vcpu: String(size.vcpus),
    os: { type: { '@arch': 'x86_64', '@machine': 'q35', '#text': 'hvm' }, boot: { '@dev': 'hd' } },
    features: { acpi: {}, apic: {} },
    // The same guest ABI on every host of this CPU family; what a host's CPU has beyond it stays hidden from the guest.
    ...(request.virtualisation === 'kvm' ? { cpu: { '@mode': 'host-model', '@check': 'partial' } } : {}),
    clock: { '@offset': 'utc' },
    on_poweroff: 'destroy',
    on_reboot: 'restart',
    on_crash: 'destroy',
  };
  // Not the datapath: a machine keeps what its first host gave it, wherever it moves. Nor where its disk lies.
  const alike = deviceXml({ ...request, ...anywhere });
  return markedXml(request, request.virtualisation, definition, deviceXml(request), alike);
}

/** The document of a domain, marked as a machine's and with what tells it from an earlier definition; alike: its devices, without what a move may change. */
export function markedXml(
  { fuid, namespace, name }: Pick<DomainRequest, 'fuid' | 'namespace' | 'name'>,
  type: string,
  definition: Xml,
  devices: Xml,
  alike: Xml,
): string {
  return buildXml({
    domain: {
      '@type': type,
      ...definition,
      devices,
      metadata: {
        [`${metadataPrefix}:machine`]: {
          [`@xmlns:${metadataPrefix}`]: metadataNamespace,
          '@fuid': fuid,
          '@namespace': namespace,
          '@name': name,
          '@definition': createHash('sha256')
            .update(buildXml({ domain: { ...definition, devices: alike } }))
            .digest('hex')
            .slice(0, 16),
        },
      },
    },
  });
}

export const diskTarget = 'vda';
export const seedTarget = 'vdb';

const anywhere = {
  datapath: 'system',
  disk: { kind: 'file', path: '' },
  base: undefined,
  seed: { kind: 'file', path: '' },
} as const;

/** virtio features by which a guest leaves checksums and segmentation to the host. */
const withoutOffloads: Xml = {
  driver: {
    host: { '@csum': 'off', '@gso': 'off', '@tso4': 'off', '@tso6': 'off', '@ecn': 'off', '@ufo': 'off' },
    guest: { '@csum': 'off', '@tso4': 'off', '@tso6': 'off', '@ecn': 'off', '@ufo': 'off' },
  },
};

function deviceXml({ disk, base, seed, interfaces, datapath }: DomainRequest): Xml {
  return {
    disk: [
      {
        '@type': diskType(disk),
        '@device': 'disk',
        driver: {
          ...{ '@name': 'qemu', '@type': 'qcow2', '@cache': 'none', '@discard': 'unmap' },
          ...(base ? { '@copy_on_read': 'on' } : {}),
        },
        source: sourceXml(disk),
        ...(base ? { backingStore: baseXml(base) } : {}),
        target: { '@dev': diskTarget, '@bus': 'virtio' },
      },
      {
        '@type': diskType(seed),
        '@device': 'disk',
        driver: { '@name': 'qemu', '@type': 'raw', '@cache': 'none' },
        source: sourceXml(seed),
        target: { '@dev': seedTarget, '@bus': 'virtio' },
        readonly: {},
      },
    ],
    interface: interfaces.map(({ mac, name, network, id, mtu }) => ({
      '@type': 'network',
      mac: { '@address': mac },
      source: { '@network': networkName(name, network) },
      virtualport: { '@type': 'openvswitch', parameters: { '@interfaceid': id } },
      model: { '@type': 'virtio' },
      mtu: { '@size': mtu },
      ...(datapath === 'netdev' ? withoutOffloads : {}),
    })),
    serial: { '@type': 'pty', target: { '@port': 0 } },
    console: { '@type': 'pty', target: { '@type': 'serial', '@port': 0 } },
    channel: { '@type': 'unix', target: { '@type': 'virtio', '@name': 'org.qemu.guest_agent.0' } },
    rng: { '@model': 'virtio', backend: { '@model': 'random', '#text': '/dev/urandom' } },
    memballoon: { '@model': 'virtio' },
  };
}

const baseXml = ({ source, format }: BaseSource): Xml => ({
  '@type': diskType(source),
  format: { '@type': format },
  source: sourceXml(source),
  // The chain ends here, so that libvirt looks for no more of it.
  backingStore: {},
});

export const diskType = (source: DiskSource): string => (source.kind === 'file' ? 'file' : 'network');

export function sourceXml(source: DiskSource): Xml {
  switch (source.kind) {
    case 'file':
      return { '@file': source.path };
    case 'nfs':
      return {
        '@protocol': 'nfs',
        '@name': source.path,
        host: { '@name': source.server },
        // What QEMU's NFS client says it is; the export decides what it may do.
        identity: { '@user': '0', '@group': '0' },
      };
  }
}
