/** Text that is no Kubernetes quantity. */
export class QuantityError extends Error {
  readonly code = 'InvalidQuantity';
  constructor(text: string) {
    super(`"${text}" is not a quantity: write bytes (1073741824), or a number with a suffix such as 512Mi, 2Gi or 1G`);
    this.name = 'QuantityError';
  }
}

const binary = { Ki: 1n << 10n, Mi: 1n << 20n, Gi: 1n << 30n, Ti: 1n << 40n, Pi: 1n << 50n, Ei: 1n << 60n };
const decimalExponents = { n: -9, u: -6, m: -3, '': 0, k: 3, M: 6, G: 9, T: 12, P: 15, E: 18 };

const isBinary = (suffix: string): suffix is keyof typeof binary => suffix in binary;
const isDecimal = (suffix: string): suffix is keyof typeof decimalExponents => suffix in decimalExponents;

/**
 * Kubernetes quantities (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/) as whole bytes;
 * a fraction of a byte counts as one, as the API server does.
 */
export const quantity = {
  /** `512Mi`, `2Gi`, `1G`, `1.5Gi`, `1e9`, or plain bytes. Fails with QuantityError; also for negative ones. */
  parse(text: string | number): bigint {
    const match = /^\+?([0-9]*)(?:\.([0-9]*))?(?:([KMGTPE]i|[numkMGTPE]?)|[eE]([+-]?[0-9]{1,2}))$/.exec(String(text));
    const [, whole = '', fraction = '', suffix = '', exponent] = match ?? [];
    if (match === null || whole + fraction === '') throw new QuantityError(String(text));
    const digits = BigInt(whole + fraction);
    if (isBinary(suffix)) return divideUp(digits * binary[suffix], 10n ** BigInt(fraction.length));
    const shift =
      (exponent === undefined && isDecimal(suffix) ? decimalExponents[suffix] : Number(exponent)) - fraction.length;
    return shift >= 0 ? digits * 10n ** BigInt(shift) : divideUp(digits, 10n ** BigInt(-shift));
  },

  /** The shortest exact binary form: 536870912 → `512Mi`. */
  format(bytes: bigint): string {
    const [suffix, unit] = Object.entries(binary).findLast(([, size]) => bytes !== 0n && bytes % size === 0n) ?? [
      '',
      1n,
    ];
    return `${(bytes / unit).toString()}${suffix}`;
  },
};

function divideUp(a: bigint, b: bigint): bigint {
  return (a + b - 1n) / b;
}
