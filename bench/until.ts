import { setTimeout as sleep } from 'node:timers/promises';

const pollMs = 100;

/** Polls until it holds; for what is set up or taken away, never for what is measured. */
export async function until(what: string, holds: () => Promise<boolean>, timeoutMs = 60_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`${what}: not so after ${timeoutMs} ms`);
    await sleep(pollMs);
  }
}
