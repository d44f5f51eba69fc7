/** A figure with as many digits as it is worth. */
export const figureOf = (value: number): string =>
  Number.isNaN(value) ? '' : value.toFixed(Math.abs(value) < 10 ? 1 : 0);
