import type { FederatedVM, VMMigration, VMMigrationSpec } from '../../crds/index.js';
import type { DomainState } from '../../drivers/libvirt/types.js';
import { Waiting } from '../common/errors.js';
import { Failure } from './step.js';

export type Mode = NonNullable<VMMigrationSpec['mode']>;

/**
 * How the machine moves: as is asked for, else as it is. Pure. state: its domain's at the source, undefined: not defined. Throws Failure where
 * the machine does not fit the mode, Waiting while it is on its way to fit it.
 */
export function chooseMode(
  { spec: { mode, vmName } }: Pick<VMMigration, 'spec'>,
  { spec: { type, runStrategy } }: Pick<FederatedVM, 'spec'>,
  state: DomainState | undefined,
  at: string,
): Mode {
  const is = `spec.vmName: FederatedVM ${vmName} is ${state ?? 'not defined'} at ${at}`;
  const isOff = state === 'shutoff' || state === 'crashed';
  const isToBeOff = runStrategy === 'Stopped';
  const isContainer = type === 'Container';
  if (isContainer && mode === 'Live')
    throw new Failure(
      'LiveNotSupported',
      `spec.mode: Live, and FederatedVM ${vmName} is a container, of which LXC moves none that runs; stop it (runStrategy: Stopped) and use mode: Offline, with a new VMMigration`,
    );
  if (mode === 'Offline' || (mode === undefined && (isToBeOff || isContainer))) {
    if (isOff) return 'Offline';
    if (state === undefined) throw new Waiting('MachineNotDefined', `${is} yet`, 2_000);
    if (isToBeOff)
      throw new Waiting('MachineStopping', `${is} and is being stopped (runStrategy: Stopped); then it moves`, 2_000);
    throw new Failure(
      'MachineRunning',
      isContainer
        ? `${is}, and a container moves only while it is stopped; stop it (runStrategy: Stopped), and make a new VMMigration`
        : `spec.mode: Offline moves a machine that is stopped, and FederatedVM ${vmName} is ${state} at ${at}; stop it (runStrategy: Stopped) or use mode: Live, with a new VMMigration`,
    );
  }
  if (state !== 'running' && state !== 'paused')
    throw new Failure(
      'MachineNotRunning',
      `${is}; start it (runStrategy: Running) or use mode: Offline, with a new VMMigration`,
    );
  return 'Live';
}
