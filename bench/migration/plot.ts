import { figureOf } from './figure.js';
import { intervalMs, type PingTrace } from './ping.js';
import { wans, type Cell } from './plan.js';
import { hasEnded, type Moved, type Result } from './result.js';

interface Curve {
  readonly name: string;
  readonly color: string;
  /** Breaks where y is undefined. */
  readonly points: readonly (readonly [x: number, y: number | undefined])[];
}

interface Panel {
  readonly title: string;
  readonly x: string;
  readonly y: string;
  readonly curves: readonly Curve[];
}

const panelWidth = 420;
const panelHeight = 240;
const margin = { left: 56, right: 16, top: 32, bottom: 44 } as const;
const ours = '#1f6feb';
const bare = '#b35900';

/** SVG of panels, two a row. */
function svg(panels: readonly Panel[]): string {
  const height = Math.ceil(panels.length / 2) * panelHeight;
  const drawn = panels.map((panel, at) => {
    const place = `translate(${(at % 2) * panelWidth} ${Math.floor(at / 2) * panelHeight})`;
    return `<g transform="${place}">\n${draw(panel)}\n</g>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${2 * panelWidth} ${height}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="white"/>
${drawn.join('\n')}
</svg>
`;
}

function draw({ title, x, y, curves }: Panel): string {
  const points = curves.flatMap((curve) => curve.points);
  const mostX = Math.max(...points.map(([at]) => at), 1);
  const mostY = Math.max(...points.map(([, value]) => value ?? 0), 1) * 1.05;
  const right = panelWidth - margin.right;
  const bottom = panelHeight - margin.bottom;
  const at = (px: number, py: number): string => {
    const left = margin.left + (px / mostX) * (right - margin.left);
    const top = bottom - (py / mostY) * (bottom - margin.top);
    return `${left.toFixed(1)},${top.toFixed(1)}`;
  };
  const axis = `<path d="M${margin.left} ${margin.top}V${bottom}H${right}" fill="none" stroke="#666"/>`;
  const label = (text: string, left: number, top: number, anchor: string): string =>
    `<text x="${left}" y="${top}" text-anchor="${anchor}" fill="#333">${text}</text>`;
  return [
    label(title, margin.left + 12, margin.top - 14, 'start'),
    axis,
    label('0', margin.left, bottom + 14, 'middle'),
    label(figureOf(mostX), right, bottom + 14, 'end'),
    label(figureOf(mostY), margin.left - 6, margin.top + 4, 'end'),
    label(x, (margin.left + right) / 2, bottom + 28, 'middle'),
    label(y, margin.left - 6, margin.top - 14, 'end'),
    ...curves.flatMap(({ name, color, points: each }, index) => [
      ...pieces(each).map(
        (piece) =>
          `<polyline points="${piece.map(([px, py]) => at(px, py)).join(' ')}" fill="none" stroke="${color}" stroke-width="1.5"/>`,
      ),
      `<text x="${right}" y="${margin.top + 4 + 14 * index}" text-anchor="end" fill="${color}">${name}</text>`,
    ]),
  ].join('\n');
}

function pieces(points: Curve['points']): (readonly [number, number])[][] {
  const all: (readonly [number, number])[][] = [[]];
  for (const [x, y] of points)
    if (y === undefined) all.push([]);
    else all.at(-1)?.push([x, y]);
  return all.filter((piece) => piece.length > 0);
}

const titleOf = ({ storage, flavor, wan, load }: Cell): string =>
  `${storage}, ${flavor}, ${load}, ${wans[wan] === undefined ? 'WAN as it is' : `${wans[wan]} Mbit/s`}`;

/** The first round of each cell, ours over bare libvirt's. */
const plot = (results: readonly Result[], x: string, y: string, points: (move: Moved) => Curve['points']): string =>
  svg(
    results.map(({ cell, ...moves }) => ({
      ...{ title: titleOf(cell), x, y },
      curves: [
        { name: 'Isthmus', color: ours, points: moves.ours.slice(0, 1).flatMap(points) },
        { name: 'bare libvirt', color: bare, points: moves.bare.slice(0, 1).flatMap(points) },
      ],
    })),
  );

/** What remains to be sent, from the request to the end. */
export const remainingPlot = (results: readonly Result[]): string =>
  plot(results, 's since the request', 'MiB left', ({ samples }) =>
    samples.map(({ atMs, remainingMiB }) => [atMs / 1_000, remainingMiB] as const),
  );

const aroundMs = 1_000;

/** Round trips for a second before and after the longest gap: where the line is broken, nobody answered. */
export const pingPlot = (results: readonly Result[]): string =>
  plot(results, 'ms around the switch-over', 'ms', (move) => (hasEnded(move) ? around(move.ping) : []));

function around({ answers, gapMs }: PingTrace): Curve['points'] {
  const length = gapMs / intervalMs;
  const isGap = (from: number): boolean =>
    length > 0 && answers.slice(from, from + length).every((answer) => answer === undefined);
  const gap = Math.max(
    0,
    answers.findIndex((_, from) => isGap(from)),
  );
  const first = Math.max(0, gap - aroundMs / intervalMs);
  return answers
    .slice(first, gap + length + aroundMs / intervalMs)
    .map((answer, index) => [index * intervalMs, answer] as const);
}
