import { setMaxListeners } from 'node:events';

/** Resolves after ms, or as soon as the signal is aborted. */
export async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener('abort', end);
  });
}

/** Resolves when the signal is aborted. */
export async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

/** The delay before retry number n (from 0): doubles from base up to max, of which half is random so that many don't meet. */
export function backoffMs(retry: number, baseMs: number, maxMs: number): number {
  const full = Math.min(maxMs, baseMs * 2 ** retry);
  return full * (0.5 + Math.random() / 2);
}

/** metav1.MicroTime: RFC 3339 with exactly six fractional digits. */
export function microTime(date: Date): string {
  return date.toISOString().replace('Z', '000Z');
}

/** One whose signal any number of concurrent calls may listen to; Node otherwise suspects a leak beyond ten. */
export function sharedAbortController(): AbortController {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return controller;
}
