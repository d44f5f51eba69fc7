import { attempt as trying, Waiting } from '../common/errors.js';
import { domainUuid } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import { driverOf, type HostRef, type VmRecord } from '../common/records.js';
import { hostKey } from '../host.js';
import { undefineFlags } from '../vm/erase.js';
import { isOff } from './assess.js';
import { linkOf } from './move.js';
import { type MigrationDependencies, reachable } from './step.js';

/** Undefines a machine's domain that is off. Throws Waiting while it is not. */
export async function undefineAt(
  ref: HostRef,
  record: Pick<VmRecord, 'driver'>,
  fuid: string,
  dependencies: MigrationDependencies,
): Promise<void> {
  const { connection } = linkOf(reachable(ref, record, dependencies, 'source'), record);
  const uuid = domainUuid(fuid);
  await trying('LibvirtFailed', hostKey(ref), async () => {
    const state = await tolerating(['NO_DOMAIN'], connection.domainState(uuid));
    if (!state) return;
    if (!isOff(state))
      throw new Waiting('SourceNotOff', `waiting for the domain at ${hostKey(ref)} to end (it is ${state.state})`, 500);
    await tolerating(['NO_DOMAIN'], connection.undefineDomain(uuid, undefineFlags[driverOf(record)]));
  });
}
