import { LibvirtConnectionError, LibvirtError, LibvirtTimeoutError } from '../../drivers/libvirt/index.js';

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

/** Whether nothing is known of what became of a call: its connection ended, or its deadline passed. */
export function isUnanswered(error: unknown): boolean {
  return error instanceof LibvirtConnectionError || error instanceof LibvirtTimeoutError;
}
