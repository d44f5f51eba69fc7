import { hostKey } from '../host.js';
import { consulChecks } from './consul.js';
import { findingKey, findingsOf, type Check, type Finding } from './finding.js';
import { gather, type AuditDependencies } from './gather.js';
import { libvirtChecks, runsTwice, switchChecks } from './hosts.js';
import type { Look } from './look.js';
import { pictureOf } from './picture.js';

/** All that is asked, the worst first. */
export const checks: readonly Check[] = [runsTwice, ...consulChecks, ...libvirtChecks, ...switchChecks];

export interface Away {
  /** site/host. */
  readonly where: string;
  readonly why: string;
}

export interface Report {
  readonly findings: readonly Finding[];
  /** Hosts of which not everything could be looked at. What hangs on them was not judged. */
  readonly away: readonly Away[];
}

/** What is wrong in one look. Pure. */
export function judge(look: Look): Finding[] {
  const picture = pictureOf(look);
  return checks.flatMap((check) => findingsOf(check, picture));
}

/** Pure. */
function awayIn({ hosts }: Look): Away[] {
  return hosts
    .filter(({ asked, fenced }) => asked && !fenced)
    .filter(({ problems }) => problems.length > 0)
    .map((host) => ({ where: hostKey(host), why: host.problems.join('; ') }));
}

export interface Looked {
  readonly look: Look;
  readonly report: Report;
}

/**
 * Looks twice, some time apart, and reports what both looks show: what is in flight beside us is gone or done by then. One look
 * is enough where it shows nothing.
 */
export async function audit(dependencies: AuditDependencies, pause: () => Promise<void>): Promise<Looked> {
  const first = await gather(dependencies);
  const suspects = new Set(judge(first).map(findingKey));
  if (suspects.size === 0) return { look: first, report: { findings: [], away: awayIn(first) } };
  await pause();
  const look = await gather(dependencies);
  const away = new Map([...awayIn(first), ...awayIn(look)].map((each) => [each.where, each]));
  const findings = judge(look).filter((finding) => suspects.has(findingKey(finding)));
  return { look, report: { findings, away: [...away.values()] } };
}
