import type { Site, VMMigration } from '../../crds/index.js';
import type { HostRef } from '../common/records.js';

/** Marks the migrations that empty a place, with its Site's name. */
export const evacuationLabel = 'isthmus.dev/evacuates';

/** Reason of an evacuation that was stopped before it began. */
export const maintenanceEnded = 'MaintenanceEnded';

/** The Site that a migration helps to empty. */
export const evacuates = ({ metadata }: VMMigration): string | undefined => metadata.labels?.[evacuationLabel];

/** Whether a site, or a host of it, is to be emptied (maintenance). */
export const isEmptied = ({ spec }: Site): boolean =>
  spec.maintenance === true || spec.hosts.some(({ maintenance }) => maintenance);

/** What of a host's place is to be emptied. */
export function emptied(site: Site | undefined, host: string): 'Site' | 'Host' | undefined {
  if (site?.spec.maintenance) return 'Site';
  return site?.spec.hosts.some(({ name, maintenance }) => name === host && maintenance) ? 'Host' : undefined;
}

/** Whether a migration was to empty a place that is not to be emptied any more, or that the machine has left. */
export const isPointless = (migration: VMMigration, at: HostRef, site: Site | undefined): boolean =>
  evacuates(migration) !== undefined && emptied(site, at.host) === undefined;
