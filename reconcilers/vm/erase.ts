import { constants } from '../../drivers/libvirt/index.js';
import { tolerating } from '../common/libvirt.js';
import type { LibvirtLink } from '../host.js';

/** Switches a domain off and forgets its definition; its volumes stay. */
export async function erase(uuid: string, { connection }: LibvirtLink): Promise<void> {
  const flags =
    constants.DOMAIN_UNDEFINE_MANAGED_SAVE |
    constants.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA |
    constants.DOMAIN_UNDEFINE_NVRAM |
    constants.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
  await tolerating(['NO_DOMAIN', 'OPERATION_INVALID'], connection.destroyDomain(uuid));
  await tolerating(['NO_DOMAIN'], connection.undefineDomain(uuid, flags));
}
