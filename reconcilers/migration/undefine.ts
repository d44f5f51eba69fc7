import { constants } from '../../drivers/libvirt/index.js';
import { attempt as trying, Waiting } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import type { HostRef } from '../common/records.js';
import { hostKey } from '../host.js';
import { isOff } from './assess.js';
import { linkOf } from './move.js';
import { type MigrationDependencies, reachable } from './step.js';

/** Undefines a machine's domain that is off. Throws Waiting while it is not. */
export async function undefineAt(ref: HostRef, fuid: string, dependencies: MigrationDependencies): Promise<void> {
  const { connection } = linkOf(reachable(ref, dependencies, 'source'));
  const uuid = domainUuid(fuid);
  await trying('LibvirtFailed', hostKey(ref), async () => {
    const state = await tolerating(['NO_DOMAIN'], connection.domainState(uuid));
    if (!state) return;
    if (!isOff(state))
      throw new Waiting('SourceNotOff', `waiting for the domain at ${hostKey(ref)} to end (it is ${state.state})`, 500);
    await tolerating(['NO_DOMAIN'], connection.undefineDomain(uuid, constants.DOMAIN_UNDEFINE_NVRAM));
  });
}
