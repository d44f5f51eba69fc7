const firstMs = 100;
const lastMs = 5000;

/**
 * How long to wait after so many failures in a row (1 or more): doubling from 0.1 s to 5 s, of which a random half is taken
 * off, so that many clients don't return at the same instant.
 */
export function backoffMs(failures: number, random: () => number = Math.random): number {
  const full = Math.min(lastMs, firstMs * 2 ** (failures - 1));
  return full * (1 - random() / 2);
}
