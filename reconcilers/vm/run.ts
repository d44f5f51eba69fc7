import type { FederatedVM } from '../../crds/index.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import { constants } from '../../drivers/libvirt/index.js';
import type { Connection } from '../../drivers/libvirt/types.js';
import { messageOf, Transient, Waiting } from '../common/errors.js';
import { refusedWith, tolerating } from '../common/libvirt.js';
import { latestMachine } from '../common/latest.js';
import { driverOf, type Versioned, type VmRecord } from '../common/records.js';
import { hostKey, type ObservedDomain } from '../host.js';
import { endedSoonMs, phaseOf, powerAction } from './power.js';

interface RunDependencies {
  readonly store: KeyValueStore;
  /** Milliseconds, monotonic. */
  readonly now: () => number;
}

export interface Power {
  readonly domain: ObservedDomain;
  readonly waiting?: { readonly reason: string; readonly message: string; readonly afterMs?: number };
}

/** A guest that ignores the power button for this long is switched off. */
const shutdownGraceMs = 60_000;

interface Asked {
  readonly atMs: number;
  isSignalled: boolean;
}
const shutdownAsked = new Map<string, Asked>();

/** When a container was last started. */
const startedAtMs = new Map<string, number>();

/** Makes the domain do what runStrategy says. */
export async function converge(
  machine: FederatedVM,
  fuid: string,
  domain: ObservedDomain,
  connection: Connection,
  record: Versioned<VmRecord>,
  dependencies: RunDependencies,
): Promise<Power> {
  const { uuid } = domain;
  const isContainer = driverOf(record.value) === 'lxc';
  const wanted = machine.spec.runStrategy ?? 'Running';
  const action = powerAction(wanted, domain);
  const reread = async (): Promise<Power> => ({ domain: { ...domain, ...(await connection.domainState(uuid)) } });
  if (action !== 'shutdown' && action !== 'wait') shutdownAsked.delete(uuid);
  switch (action) {
    case 'none':
      return { domain };
    case 'wait':
      return {
        domain,
        waiting: {
          reason: phaseOf(domain),
          message: `the domain is ${domain.state} (reason ${String(domain.reason)}), wanted ${wanted}`,
          afterMs: 5_000,
        },
      };
    case 'start':
    case 'startPaused': {
      const soonMs = isContainer ? endedSoonMs(domain, startedAtMs.get(uuid), dependencies.now()) : undefined;
      if (soonMs !== undefined)
        return {
          domain,
          waiting: {
            reason: 'InitEnded',
            message: `the container’s /sbin/init ended as soon as it was started; look at its log at ${hostKey(record.value)} (/var/log/libvirt/lxc), and at its image; it is started again`,
            afterMs: soonMs,
          },
        };
      await assertOwner(fuid, record.value, dependencies);
      if (isContainer) startedAtMs.set(uuid, dependencies.now());
      const flags = action === 'startPaused' && !isContainer ? constants.DOMAIN_START_PAUSED : 0;
      await tolerating(['OPERATION_INVALID'], connection.startDomain(uuid, flags));
      // LXC starts nothing paused.
      if (action === 'startPaused' && isContainer) await freeze(uuid, connection, record.value);
      return await reread();
    }
    case 'resume':
      await assertOwner(fuid, record.value, dependencies);
      await tolerating(['OPERATION_INVALID'], connection.resumeDomain(uuid));
      return await reread();
    case 'suspend':
      if (isContainer) await freeze(uuid, connection, record.value);
      else await tolerating(['OPERATION_INVALID'], connection.suspendDomain(uuid));
      return await reread();
    case 'shutdown': {
      startedAtMs.delete(uuid);
      const asked = shutdownAsked.get(uuid);
      const waiting = { reason: 'Stopping', message: 'the guest was asked to shut down', afterMs: 2_000 };
      if (asked === undefined) {
        shutdownAsked.set(uuid, { atMs: dependencies.now(), isSignalled: false });
        await tolerating(['OPERATION_INVALID'], connection.shutdownDomain(uuid));
        return { domain, waiting };
      }
      if (dependencies.now() - asked.atMs < shutdownGraceMs) {
        if (isContainer && !asked.isSignalled && dependencies.now() - asked.atMs >= initctlMs) {
          asked.isSignalled = true;
          await tolerating(['OPERATION_INVALID'], connection.shutdownDomain(uuid, constants.DOMAIN_SHUTDOWN_SIGNAL));
        }
        return { domain, waiting };
      }
      shutdownAsked.delete(uuid);
      await tolerating(['OPERATION_INVALID'], connection.destroyDomain(uuid));
      return await reread();
    }
  }
}

/** An init without a pipe for initctl has not heard the first word, though libvirt 9 says that it was sent; so long later it gets SIGTERM. */
const initctlMs = 1_500;

/** Throws Waiting where the host can't: libvirt needs the kernel's freezer for that, which not every host hands it. */
async function freeze(uuid: string, connection: Connection, record: VmRecord): Promise<void> {
  try {
    await tolerating(['OPERATION_INVALID'], connection.suspendDomain(uuid));
  } catch (error) {
    if (!refusedWith(error, 'OPERATION_FAILED', 'OPERATION_UNSUPPORTED', 'CONFIG_UNSUPPORTED', 'NO_SUPPORT'))
      throw error;
    throw new Waiting(
      'PauseNotSupported',
      `spec.runStrategy: Paused: libvirt at ${hostKey(record)} can’t freeze a container (${messageOf(error)}), which takes the freezer of cgroup v1; use Running or Stopped`,
      30_000,
      { cause: error },
    );
  }
}

/** Asks Consul's leader, not our copy: nobody but the owner may start a machine. */
export async function assertOwner(
  fuid: string,
  record: VmRecord,
  { store }: Pick<RunDependencies, 'store'>,
): Promise<void> {
  const owner = (await latestMachine(fuid, store))?.value;
  if (owner?.phase !== 'Owned' || hostKey(owner) !== hostKey(record))
    throw new Transient(
      'OwnerChanged',
      `the machine now belongs to ${owner ? `${hostKey(owner)} (${owner.phase})` : 'nobody'}`,
    );
}
