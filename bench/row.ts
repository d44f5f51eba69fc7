/** One line of the table. A value is the median of `rounds` unless its unit says otherwise; units are milliseconds if not given. */
export interface Row {
  readonly name: string;
  readonly unit?: string;
  readonly ours: number;
  /** The same external calls made directly, in the same run, by turns with ours. */
  readonly floor?: number;
  /** What the paper reports for its own system on its own machines. */
  readonly paper?: number;
  readonly rounds: number;
  /** What the medians are of, in the order in which it was measured. */
  readonly samples?: { readonly ours: readonly number[]; readonly floor: readonly number[] };
  readonly target?: { readonly text: string; readonly met: boolean };
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  const [low, high] = [sorted[Math.ceil(middle) - 1], sorted[Math.floor(middle)]];
  if (low === undefined || high === undefined) throw new Error('the median of nothing');
  return (low + high) / 2;
}

/** At most so many times the floor and, if given, at most so many milliseconds. */
export function atMost(ours: number, times: number, floor: number, limitMs = Infinity): Required<Row>['target'] {
  const limit = Number.isFinite(limitMs) ? ` and ≤ ${limitMs} ms` : '';
  return { text: `≤ ${times} × floor${limit}`, met: ours <= times * floor && ours <= limitMs };
}

export function limit(value: number, most: number, unit: string): Required<Row>['target'] {
  return { text: `≤ ${most} ${unit}`, met: value <= most };
}

const columns = ['', 'ours', 'floor', 'ratio', 'paper', 'rounds', 'target', ''] as const;

export function table(rows: readonly Row[]): string {
  const lines = rows.map((row) => [
    row.name,
    figure(row.ours, row.unit),
    figure(row.floor, row.unit),
    row.floor === undefined ? '' : (row.ours / row.floor).toFixed(2),
    figure(row.paper, row.unit),
    String(row.rounds),
    row.target?.text ?? '',
    row.target === undefined ? '' : row.target.met ? 'met' : 'MISSED',
  ]);
  const widths = columns.map((title, at) => Math.max(title.length, ...lines.map((line) => line[at]?.length ?? 0)));
  return [[...columns], ...lines]
    .map((line) =>
      line
        .map((cell, at) => pad(cell, widths[at] ?? 0, at >= 1 && at <= 5))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

const pad = (text: string, width: number, right: boolean): string =>
  right ? text.padStart(width) : text.padEnd(width);

function figure(value: number | undefined, unit = 'ms'): string {
  if (value === undefined) return '';
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${unit}`;
}

/** As .lab/bench.json has it: oursMs, floorMs, paperMs; or ours, floor, paper with a unit. */
export function toJson({ name, unit, ours, floor, paper, ...rest }: Row): object {
  const figures = unit === undefined ? { oursMs: ours, floorMs: floor, paperMs: paper } : { unit, ours, floor, paper };
  return { name, ...figures, ratio: floor === undefined ? undefined : ours / floor, ...rest };
}
