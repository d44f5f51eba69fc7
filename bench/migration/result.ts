import { median } from '../row.js';
import { figureOf } from './figure.js';
import { flavors, loadMiB, wans, type Cell } from './plan.js';
import type { PingTrace } from './ping.js';
import type { Sample } from './watcher.js';

/** One move: from its request to its end. */
export interface Moved {
  /** Why it did not end, in a few words. */
  readonly failure?: string;
  readonly totalMs: number;
  /** As the daemon tells it. */
  readonly downtimeMs: number;
  /** What the source's site sent into the WAN meanwhile: daemons count a disk's zeros, too, or not the disk at all. */
  readonly sentMiB: number;
  readonly ping: PingTrace;
  readonly samples: readonly Sample[];
  /** How fast the guest's load wrote before the move; undefined: there was none. */
  readonly writtenMiBPerSecond: number | undefined;
}

/** The moves of one cell, a round each. */
export interface Result {
  readonly cell: Cell;
  readonly ours: readonly Moved[];
  readonly bare: readonly Moved[];
}

const downtimeOf = ({ downtimeMs }: Moved): number => downtimeMs;
const gapOf = ({ ping }: Moved): number => ping.gapMs;

export const hasEnded = ({ failure }: Moved): boolean => failure === undefined;

/** Of those that ended; undefined: none. */
export function medianOf(moves: readonly Moved[], value: (move: Moved) => number): number | undefined {
  const ended = moves.filter(hasEnded);
  return ended.length > 0 ? median(ended.map(value)) : undefined;
}

const shown = (moves: readonly Moved[], value: (move: Moved) => number): string => {
  const figure = medianOf(moves, value);
  return figure === undefined ? '' : figureOf(figure);
};

function totalOf(moves: readonly Moved[]): string {
  const figure = shown(moves, ({ totalMs }) => totalMs / 1_000);
  const failures = new Set(moves.flatMap(({ failure }) => failure ?? []));
  const failed = moves.filter((move) => !hasEnded(move)).length;
  const note = [...failures].join(', ');
  if (failed === 0) return figure;
  return figure === '' ? note : `${figure} (${failed} of ${moves.length}: ${note})`;
}

const what = (cell: Cell): string => `${cell.storage}, ${cell.flavor} ${flavors[cell.flavor].memoryMiB} MiB`;

function how({ cell, ours, bare }: Result): string {
  const rate = wans[cell.wan];
  const wan = rate === undefined ? 'as it is' : `${rate} Mbit/s`;
  const written = [...ours, ...bare].flatMap(({ writtenMiBPerSecond }) => writtenMiBPerSecond ?? []);
  return written.length === 0
    ? `${wan}, idle`
    : `${wan}, writing ${loadMiB(cell.flavor)} MiB at ${figureOf(median(written))} MiB/s`;
}

const head = [
  'disk, guest',
  'WAN, load',
  'total s',
  'bare',
  'downtime ms',
  'bare',
  'ping gap ms',
  'bare',
  'sent MiB',
  'bare',
];

/** A Markdown table, a row a cell: ours, then bare libvirt's; medians of the rounds that ended. */
export function tableOf(results: readonly Result[]): string {
  const rows = results.map((result) => {
    const { cell, ours, bare } = result;
    return [
      ...[what(cell), how(result)],
      ...[totalOf(ours), totalOf(bare)],
      ...[shown(ours, downtimeOf), shown(bare, downtimeOf)],
      ...[shown(ours, gapOf), shown(bare, gapOf)],
      ...[shown(ours, ({ sentMiB }) => sentMiB), shown(bare, ({ sentMiB }) => sentMiB)],
    ];
  });
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map((_, at) => (at < 2 ? '---' : '--:'))), ...rows.map(line)].join('\n');
}

/** What all cells of a WAN say together. */
export interface Verdict {
  readonly text: string;
  readonly isMet: boolean;
}

/** So much longer than the guest stood still its network may be away. */
const mostBeyondMs = 50;

const beyondOf = ({ ping, downtimeMs }: Moved): number => Math.max(0, ping.gapMs - downtimeMs);

/** At most so many times bare libvirt's, where nothing but the line and the hosts decides. */
const mostTimes = 1.1;

/** Of all cells together that both ended, as single moves differ by some tens of milliseconds; NaN: there is none. */
function timesBare(results: readonly Result[], value: (move: Moved) => number): number {
  let [ours, bare] = [0, 0];
  for (const result of results) {
    const pair = [medianOf(result.ours, value), medianOf(result.bare, value)] as const;
    if (pair[0] === undefined || pair[1] === undefined) continue;
    ours += pair[0];
    bare += pair[1];
  }
  return ours / bare;
}

/**
 * With the same settings (the WAN as it is), and idle guests on the slow one: about the same. Writing guests on the slow one, each way
 * with its defaults: more of them end, or in less time, and none that only bare libvirt ends.
 */
export function speedVerdicts(results: readonly Result[]): Verdict[] {
  const found: Verdict[] = [];
  const about = (where: string, of: readonly Result[]): void => {
    const figures = { total: (move: Moved) => move.totalMs, downtime: downtimeOf, 'ping gap': gapOf };
    for (const [name, value] of Object.entries(figures)) {
      const times = timesBare(of, value);
      if (Number.isNaN(times)) continue;
      const worst = Math.max(...of.map((each) => timesBare([each], value)).filter((each) => !Number.isNaN(each)));
      const text = `${where}: ${name} ${times.toFixed(2)} × bare libvirt's over all (wanted ≤ ${mostTimes}), ${worst.toFixed(2)} × in the worst cell`;
      found.push({ text, isMet: times <= mostTimes });
    }
  };
  const on = (wan: Cell['wan'], load?: Cell['load']) =>
    results.filter(({ cell }) => cell.wan === wan && (load === undefined || cell.load === load));
  about('same settings, WAN as it is', on('unshaped'));
  about('defaults, slow WAN, idle', on('shaped', 'idle'));
  const writing = on('shaped', 'writing');
  if (writing.length === 0) return found;
  const [ours, bare] = [
    writing.filter((each) => each.ours.some(hasEnded)),
    writing.filter((each) => each.bare.some(hasEnded)),
  ];
  const times = timesBare(writing, ({ totalMs }) => totalMs);
  const together = Number.isNaN(times) ? '' : `; where both did, in ${times.toFixed(2)} × its time`;
  found.push({
    text: `defaults, slow WAN, writing: ${ours.length} of ${writing.length} ended, of bare libvirt's ${bare.length}${together} (wanted: better)`,
    isMet: bare.every((each) => ours.includes(each)) && (ours.length > bare.length || times < 1),
  });
  return found;
}

/** Whether ours lose the network for no longer than the guest stands still and a little, in nine moves of ten. */
export function networkVerdicts(results: readonly Result[]): Verdict[] {
  const beyond = results.flatMap(({ ours }) => ours.filter(hasEnded).map(beyondOf));
  if (beyond.length === 0) return [];
  const within = beyond.filter((ms) => ms <= mostBeyondMs).length;
  const text =
    `ping gap longer than the downtime by ${figureOf(median(beyond))} ms in the median, by ${figureOf(Math.max(...beyond))} ms at most; ` +
    `in ${within} of ${beyond.length} moves by ≤ ${mostBeyondMs} ms (wanted: nine of ten)`;
  return [{ text, isMet: within >= 0.9 * beyond.length }];
}

export const verdicts = (results: readonly Result[]): Verdict[] => [
  ...speedVerdicts(results),
  ...networkVerdicts(results),
];
