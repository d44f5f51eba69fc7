import { LibvirtError } from '../../drivers/libvirt/index.js';

/** Whether the daemon refused with one of these errors. */
export function refusedWith(error: unknown, ...kinds: LibvirtError['kind'][]): boolean {
  return error instanceof LibvirtError && kinds.includes(error.kind);
}

/** The call's result, or undefined where the daemon says one of these: what was wanted is so already. */
export async function tolerating<T>(kinds: readonly LibvirtError['kind'][], call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (refusedWith(error, ...kinds)) return undefined;
    throw error;
  }
}
