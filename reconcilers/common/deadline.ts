import { Transient } from './errors.js';

/** The promise's result, or Transient after the deadline. What was started goes on; its late failure is of no interest. */
export async function within<T>(deadlineMs: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Transient('TimedOut', `${what} did not answer within ${String(deadlineMs / 1_000)} s`)),
      deadlineMs,
    );
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
