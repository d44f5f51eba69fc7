/** What is known of the way between two hosts, seen from one of them. */
export interface Finding {
  readonly state: 'Up' | 'Down' | 'Unknown';
  /** For people, while it is not Up: why. */
  readonly why?: string;
  /** The largest IP packet of a tenant that passes and the one that should, in bytes; as measured last. */
  readonly mtu?: { readonly carried: number; readonly promised: number };
  /** Round trip of a small frame, as measured last. */
  readonly latencyMs?: number;
}

/** Never is a figure worth a write that differs by less than that. */
const noiseMs = 1;

/**
 * A latency as it is told: whole ms of two digits, at least one; and what was told before unless that is off by more than
 * half and more than noise.
 */
export function settledLatency(told: number | undefined, measured: number): number {
  if (told !== undefined && Math.abs(measured - told) <= Math.max(told / 2, noiseMs)) return told;
  return Math.max(1, Math.round(Number(measured.toPrecision(2))));
}

/** The lower quartile: what delays a frame, such as a busy switch, only ever adds. */
export function usualLatency(trips: readonly [number, ...number[]]): number {
  const sorted = [...trips].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 4)] ?? trips[0];
}
