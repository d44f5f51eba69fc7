import type { HostRef, VmRecord } from './common/records.js';
import { hostKey, type Hosts } from './host.js';
import type { Objects } from './objects.js';

/** Whether the user vouches that a host is off, and nobody here is connected to it any more. */
export const isFenced = (
  { site, host }: HostRef,
  { objects, hosts }: { readonly objects: Pick<Objects, 'site'>; readonly hosts: Pick<Hosts, 'inUse'> },
): boolean =>
  objects.site(site)?.spec.hosts.some(({ name, fenced }) => name === host && fenced === true) === true &&
  hosts.inUse(site)?.includes(host) === false;

/** The record with one more host, that is off, where a definition of the machine may be left. */
export const abandoned = ({ leftAt = [] }: VmRecord, { site, host }: HostRef): NonNullable<VmRecord['leftAt']> => [
  ...leftAt.filter((ref) => hostKey(ref) !== hostKey({ site, host })),
  { site, host },
];
