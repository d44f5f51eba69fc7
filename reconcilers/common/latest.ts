import type { KeyValueStore } from '../../drivers/consul/types.js';
import { consul } from './allocation.js';
import { Transient } from './errors.js';
import { keys, parseRecord, vmRecord, type Versioned, type VmRecord } from './records.js';

/** A machine's record as Consul's leader has it; what this process has heard may be old. Throws Transient while Consul is away. */
export async function latestMachine(fuid: string, store: KeyValueStore): Promise<Versioned<VmRecord> | undefined> {
  const entry = await consul('asking whose machine it is', () => store.get(keys.vm(fuid)));
  return entry && parseRecord(vmRecord, entry);
}

/** Throws Transient unless a machine's record is still the one that was read: to be asked before what can't be undone. */
export async function assertUnchanged(fuid: string, index: number, store: KeyValueStore): Promise<void> {
  if ((await latestMachine(fuid, store))?.index !== index) throw recordChanged();
}

export const recordChanged = (): Transient =>
  new Transient('RecordChanged', 'the machine’s record changed meanwhile; it is read again');
