import { constants } from '../../drivers/libvirt/index.js';
import { tolerating } from '../common/libvirt.js';
import type { Driver } from '../common/records.js';
import type { LibvirtLink } from '../host.js';

/** What goes with a definition, but for memory that was saved. LXC keeps nothing beside it, and takes no flags. */
export const undefineFlags: Readonly<Record<Driver, number>> = {
  qemu:
    constants.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA |
    constants.DOMAIN_UNDEFINE_NVRAM |
    constants.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA,
  lxc: 0,
};
const withSavedMemory: Readonly<Record<Driver, number>> = { qemu: constants.DOMAIN_UNDEFINE_MANAGED_SAVE, lxc: 0 };

/** Switches a domain off and forgets its definition; its volumes stay. */
export async function erase(uuid: string, { connection }: LibvirtLink, driver: Driver): Promise<void> {
  await tolerating(['NO_DOMAIN', 'OPERATION_INVALID'], connection.destroyDomain(uuid));
  await tolerating(['NO_DOMAIN'], connection.undefineDomain(uuid, undefineFlags[driver] | withSavedMemory[driver]));
}
