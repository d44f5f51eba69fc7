import type { FederatedVM, Site } from '../../crds/index.js';
import { consul } from '../common/allocation.js';
import type { Directory } from '../common/directory.js';
import { attempt, isInterruption, Transient, Waiting } from '../common/errors.js';
import { given } from '../common/given.js';
import { domainUuid } from '../common/identity.js';
import { assertUnchanged, recordChanged } from '../common/latest.js';
import { tolerating } from '../common/libvirt.js';
import { driverOf, keys, serialise, type HostRef, type Versioned, type VmRecord } from '../common/records.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import { abandoned } from '../fenced.js';
import { hostKey, machineLink, type Hosts } from '../host.js';
import { pausedInPostCopy } from '../migration/assess.js';
import type { Objects } from '../objects.js';
import { erase } from './erase.js';
import type { MachinePlan } from './plan.js';
import { schedule } from './schedule.js';

export interface FenceDependencies {
  readonly objects: Objects;
  readonly hosts: Hosts;
  readonly directory: Directory;
  readonly store: KeyValueStore;
  readonly readSite: (name: string) => Promise<Site | undefined>;
  readonly placing: <T>(act: () => Promise<T>) => Promise<T>;
}

/** Why a machine of a fenced host stays there; undefined: it may start elsewhere. Pure. */
export function staysFenced(
  { spec }: FederatedVM,
  record: VmRecord,
  storage: MachinePlan['storage'],
): string | undefined {
  if (record.disk && storage !== 'Shared') return `its disk is there (storage ${storage})`;
  if ((spec.runStrategy ?? 'Running') !== 'Running')
    return `it is not meant to run (runStrategy ${spec.runStrategy ?? ''})`;
  return undefined;
}

/** Gives a machine of a fenced host another one, by CAS of its record. Throws Waiting, saying why, if it stays. */
export async function restartElsewhere(
  machine: FederatedVM,
  fuid: string,
  plan: MachinePlan,
  record: Versioned<VmRecord>,
  dependencies: FenceDependencies,
): Promise<HostRef> {
  const { store, directory, placing } = dependencies;
  const from = record.value;
  const storage = from.storage ?? plan.storage;
  const stays = staysFenced(machine, from, storage);
  if (stays !== undefined) throw fenced(from, stays);
  await assertFenced(from, dependencies);
  // As for a new machine: what it takes of a host is seen by the next only once it is on record.
  return await placing(async () => {
    directory.assertCurrent();
    const { site, host } = chooseHost(machine, plan, from, storage, dependencies);
    await clearChosen({ site, host }, fuid, record, dependencies);
    const leftAt = abandoned(from, from).filter((ref) => hostKey(ref) !== hostKey({ site, host }));
    const next: VmRecord = { ...from, site, host, generation: from.generation + 1, leftAt };
    if (!(await write(fuid, next, record.index, store))) throw recordChanged();
    return { site, host };
  });
}

/** What a move, or an earlier fencing of that host, has left there is the machine's past: it must not be taken for what is to run there. */
async function clearChosen(
  ref: HostRef,
  fuid: string,
  { value, index }: Versioned<VmRecord>,
  { hosts, store }: FenceDependencies,
): Promise<void> {
  const link = machineLink(hosts.get(ref), value);
  const at = `site ${ref.site}, host ${ref.host}`;
  if (!link?.isConnected)
    throw new Transient(
      'SiteUnreachable',
      `${at}: ${link?.lastError?.message ?? 'not connected'}; it is to start there`,
    );
  const uuid = domainUuid(fuid);
  const found = await attempt('LibvirtFailed', at, () => tolerating(['NO_DOMAIN'], link.connection.domainState(uuid)));
  if (!found) return;
  // Said first: what was erased can't tell any more that the move was not through.
  if (value.last?.moved === true && value.last.reason === 'Succeeded' && pausedInPostCopy(found)) {
    const message = `target ${hostKey(value)} was fenced before it had all of the machine, which starts anew at ${hostKey(ref)}`;
    await write(fuid, { ...value, last: { ...value.last, reason: 'TargetFenced', message } }, index, store);
    throw recordChanged();
  }
  await assertUnchanged(fuid, index, store);
  await attempt('LibvirtFailed', at, () => erase(uuid, link, driverOf(value)));
}

const fenced = (ref: HostRef, why: string): Waiting =>
  new Waiting(
    'HostFenced',
    `site ${ref.site}, host ${ref.host} is fenced, and the machine does not start elsewhere: ${why}; take fenced off when the host is back, or delete the machine`,
    30_000,
  );

/** Where spec.placement says, else at another host of the site, else anywhere. */
function chooseHost(
  machine: FederatedVM,
  plan: MachinePlan,
  from: VmRecord,
  storage: MachinePlan['storage'],
  { objects, directory }: FenceDependencies,
): HostRef {
  const { placement } = machine.spec;
  const isShared = storage !== 'Local';
  const wanted = placement ? [placement] : [{ site: from.site }, { site: undefined }];
  const { size, sites } = plan;
  const request = { size, sites, driver: driverOf(from), needsShare: isShared, field: 'spec.placement' };
  const sharedWith = isShared ? from.site : undefined;
  let why = '';
  for (const { site, host } of wanted.map((each) => ({ host: undefined, ...each })))
    try {
      return schedule({ ...request, site, host, sharedWith }, objects, directory);
    } catch (error) {
      if (!isInterruption(error)) throw error;
      why = error.message;
    }
  throw fenced(from, placement ? `spec.placement asks for a place where ${why}` : why);
}

/** Our copy of the Site may be old, and a machine that is started while its host runs runs twice: the API server is asked. */
async function assertFenced({ site, host }: HostRef, { readSite }: FenceDependencies): Promise<void> {
  const live = await attempt('SiteUnread', `reading Site ${site}`, () => readSite(site));
  if (live?.spec.hosts.find(({ name }) => name === host)?.fenced !== true)
    throw new Transient('SiteChanged', `site ${site}, host ${host} is no longer fenced; it is looked at again`);
}

/**
 * A host that was fenced and is back may still have the machine, even run it: that is its past, and must not go on beside the
 * one that its record names. Returns the record without the hosts that are clear.
 */
export async function clearAbandoned(
  fuid: string,
  record: Versioned<VmRecord>,
  assertOwner: () => Promise<void>,
  { hosts, store, directory }: Pick<FenceDependencies, 'hosts' | 'store' | 'directory'>,
): Promise<Versioned<VmRecord>> {
  const { leftAt = [], ...kept } = record.value;
  const isOwn = (ref: HostRef): boolean => hostKey(ref) === hostKey(record.value);
  const back = leftAt.filter((ref) => isOwn(ref) || machineLink(hosts.get(ref), kept)?.isConnected === true);
  if (back.length === 0) return record;
  await assertOwner();
  for (const ref of back) {
    const link = machineLink(hosts.get(ref), kept);
    if (link && !isOwn(ref))
      await attempt('LibvirtFailed', `site ${ref.site}, host ${ref.host}`, () =>
        erase(domainUuid(fuid), link, driverOf(kept)),
      );
  }
  const left = leftAt.filter((ref) => !back.includes(ref));
  const next: VmRecord = { ...kept, ...given({ leftAt: left.length > 0 ? left : undefined }) };
  const written = (await write(fuid, next, record.index, store)) ? directory.machine(fuid) : undefined;
  if (!written) throw recordChanged();
  return written;
}

async function write(fuid: string, record: VmRecord, index: number, store: KeyValueStore): Promise<boolean> {
  const result = await consul('recording the machine’s place', () =>
    store.transact([{ verb: 'cas', key: keys.vm(fuid), value: serialise(record), index }]),
  );
  return result.ok;
}
