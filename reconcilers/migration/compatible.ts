import { constants } from '../../drivers/libvirt/index.js';
import type { Connection } from '../../drivers/libvirt/types.js';
import { messageOf } from '../common/errors.js';
import { refusedWith } from '../common/libvirt.js';
import { parseXml } from '../common/xml.js';

/** What a target has to offer so that a guest finds there what it has. */
export interface GuestNeeds {
  readonly arch: string;
  /** As the source resolved it, with its version: pc-q35-7.2. */
  readonly machine: string;
  readonly virtualisation: string;
  /** The <cpu> element, expanded; undefined: an emulated CPU is the same everywhere. */
  readonly cpu: string | undefined;
}

/** Of a running domain, as libvirt writes it for a move. */
export function needsOf(xml: string): GuestNeeds {
  const at = parseXml(xml);
  const virtualisation = at('domain', '@type') ?? 'kvm';
  const [cpu] = /<cpu\b[\s\S]*?<\/cpu>/.exec(xml) ?? [];
  return {
    arch: at('domain', 'os', 'type', '@arch') ?? 'x86_64',
    machine: at('domain', 'os', 'type', '@machine') ?? '',
    virtualisation,
    cpu: virtualisation === 'qemu' ? undefined : cpu,
  };
}

export type Misfit = { readonly reason: 'MachineTypeNotSupported' | 'CPUIncompatible'; readonly message: string };

/** Why a guest can't go on at a target, or, where it is off, start there, if so. Throws what its daemon throws for other reasons. */
export async function misfit(
  uuid: string,
  isRunning: boolean,
  source: Pick<Connection, 'domainXml'>,
  target: Pick<Connection, 'domainCapabilities' | 'compareHypervisorCpu'>,
): Promise<Misfit | undefined> {
  const { arch, machine, virtualisation, cpu } = needsOf(
    await source.domainXml(uuid, constants.DOMAIN_XML_SECURE | constants.DOMAIN_XML_MIGRATABLE),
  );
  try {
    await target.domainCapabilities(arch, machine, virtualisation);
  } catch (error) {
    if (!refusedWith(error, 'INVALID_ARG')) throw error;
    return {
      reason: 'MachineTypeNotSupported',
      message: `it has no QEMU for machine type ${machine} with ${virtualisation} (${messageOf(error)}); bring the QEMU there up to the source's version`,
    };
  }
  // One that is off gets a CPU when it starts.
  if (cpu === undefined || !isRunning) return undefined;
  if ((await target.compareHypervisorCpu(cpu, arch, machine, virtualisation)) !== 'incompatible') return undefined;
  const model = parseXml(cpu)('cpu', 'model') ?? 'of the source';
  return {
    reason: 'CPUIncompatible',
    message: `its CPU lacks what the guest's (${model}) has; name a host with the same CPU or a newer one, or restart the machine there`,
  };
}
