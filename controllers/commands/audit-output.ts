import type { Away, Report } from '../../reconcilers/audit/audit.js';
import { describeRemoval, type Finding } from '../../reconcilers/audit/finding.js';
import type { Repaired } from '../../reconcilers/audit/repair.js';

/** For people: a row a finding, with why and what to do below it. */
export function reportTable({ findings, away }: Report): string {
  return [...rows(findings), ...away.map(describeAway), summary(findings, away), ''].join('\n');
}

function rows(findings: readonly Finding[]): string[] {
  if (findings.length === 0) return [];
  const head = ['FINDING', 'WHERE', 'BELONGS TO', 'WHAT'];
  const cells = findings.map((finding) => [finding.kind, finding.where, belongsTo(finding), finding.what]);
  const widths = head.map((title, column) => Math.max(title.length, ...cells.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd(); // prettier-ignore
  const below = findings.map(({ why, remedy }) => [`  why:    ${why}`, `  remedy: ${remedy}`]);
  return [line(head), ...cells.flatMap((row, index) => [line(row), ...(below[index] ?? [])])];
}

function belongsTo({ object, fuid }: Finding): string {
  if (object) return `${object.kind} ${object.namespace}/${object.name}`;
  return fuid ?? '-';
}

const describeAway = ({ where, why }: Away): string => `not looked at: ${where}: ${why}`;

function summary(findings: readonly Finding[], away: readonly Away[]): string {
  const found = findings.length === 1 ? '1 finding' : `${String(findings.length)} findings`;
  if (away.length === 0) return found;
  const places = [...new Set(away.map(({ where }) => where))].join(', ');
  return `${found}; not everything could be looked at, and what hangs on it was not judged: ${places}`;
}

export function describeRepaired({ removal, outcome, why }: Repaired): string {
  return `${outcome}: ${describeRemoval(removal)}${why === undefined ? '' : `: ${why}`}`;
}

/** For programs: these fields stay. */
export function reportJson({ findings, away }: Report, done: readonly Repaired[]): string {
  const document = {
    findings: findings.map(({ kind, where, what, object = null, fuid = null, why, remedy, removal }) => ({
      kind,
      where,
      what,
      object,
      fuid,
      why,
      remedy,
      repairable: removal !== undefined,
    })),
    away,
    repairs: done.map(({ finding, removal, outcome, why = null }) => ({
      kind: finding.kind,
      where: finding.where,
      what: describeRemoval(removal),
      outcome,
      why,
    })),
  };
  return `${JSON.stringify(document, undefined, 2)}\n`;
}
