import { flavors, quantity, type FederatedVMSpec, type VMTemplateSpec } from '../../crds/index.js';

export interface MachineSize {
  readonly vcpus: number;
  readonly memoryBytes: bigint;
  readonly diskBytes: bigint;
  /** As `kubectl get` shows it: the flavor's name, or CPUs/memory. */
  readonly label: string;
}

/** The machine's own resources or flavor, else its template's, else small. */
export function machineSize(spec: FederatedVMSpec, template: VMTemplateSpec | undefined): MachineSize {
  const { resources, flavor = 'small' } =
    (spec.resources ?? spec.flavor) ? spec : { resources: template?.resources, flavor: template?.flavor };
  if (resources) {
    const memoryBytes = quantity.parse(resources.memory);
    return {
      vcpus: resources.vcpus,
      memoryBytes,
      diskBytes: quantity.parse(resources.disk),
      label: `${String(resources.vcpus)}/${quantity.format(memoryBytes)}`,
    };
  }
  const { vcpus, memoryMiB, diskGiB } = flavors[flavor];
  return { vcpus, memoryBytes: BigInt(memoryMiB) << 20n, diskBytes: BigInt(diskGiB) << 30n, label: flavor };
}
