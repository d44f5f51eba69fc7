/**
 * The floor: the external calls that a network, a machine and a move need, made directly, in parallel where nothing
 * forbids it, on connections that are kept. Nobody watches, compares or recovers here.
 *
 * The operator runs all the while and must leave these things alone: its API objects are of a group of their own (with
 * the same schema, so that the API server does the same work), its VLAN, VNI and cookie are none that the operator gives
 * away, and its names tell the next run what an earlier one left.
 */
import type { KeyValueStore } from '../../drivers/consul/types.js';

export const mark = 'bench-floor';
export const keyPrefix = 'isthmus-bench/';
export const fieldManager = 'isthmus-bench';
export const finalizer = 'isthmus.dev/bench';
export const vlan = 4_001;
export const vni = 4_001;
/** "BF" where the operator's say "IS". */
export const cookie = 0x4246n << 48n;

export async function claim(consul: KeyValueStore, keys: readonly string[]): Promise<void> {
  const result = await consul.transact(keys.map((key) => ({ verb: 'cas', key, value: mark, index: 0 })));
  if (!result.ok) throw new Error(`there are leftovers in Consul below ${keyPrefix}`);
}

export async function release(consul: KeyValueStore, keys: readonly string[]): Promise<void> {
  await consul.transact(keys.map((key) => ({ verb: 'delete', key })));
}
