import type { HostRef } from '../common/records.js';
import { hostKey } from '../host.js';
import type { BridgeKey, SeenDomain } from './look.js';
import { objectOf, type Named, type Picture } from './picture.js';

/** Something that is left over, missing or contradicts the rest. */
export interface Finding {
  readonly kind: string;
  /** `consul`, or the host as site/host; two of them where it takes two. */
  readonly where: string;
  readonly what: string;
  /** Whose it is, as far as anything tells. */
  readonly object: Named | undefined;
  readonly fuid: string | undefined;
  readonly why: string;
  readonly remedy: string;
  /** How a repair takes it away; undefined: somebody has, or could still have, a claim to it. */
  readonly removal: Removal | undefined;
}

/** One thing to take away. */
export type Removal =
  | { readonly kind: 'key'; readonly key: string; readonly index: number }
  | ({ readonly kind: 'domain' } & At & Pick<SeenDomain, 'driver' | 'uuid' | 'name'>)
  | ({ readonly kind: 'volume'; readonly pool: string; readonly name: string; readonly shared: boolean } & At)
  | ({ readonly kind: 'network'; readonly fuid: string; readonly name: string } & At)
  | ({ readonly kind: 'port'; readonly bridge: string; readonly bridgeUuid: string; readonly uuid: string; readonly name: string } & At)
  | ({ readonly kind: 'flows'; readonly bridge: BridgeKey; readonly vni: number } & At); // prettier-ignore

interface At {
  readonly at: HostRef;
}

export function describeRemoval(removal: Removal): string {
  switch (removal.kind) {
    case 'key':
      return `key ${removal.key} of Consul`;
    case 'domain':
      return `${removal.driver} domain ${removal.name} of ${hostKey(removal.at)}`;
    case 'volume':
      return `volume ${removal.name} in pool ${removal.pool} of ${hostKey(removal.at)}`;
    case 'network':
      return `libvirt network ${removal.name} of ${hostKey(removal.at)}`;
    case 'port':
      return `port ${removal.name} on bridge ${removal.bridge} of ${hostKey(removal.at)}`;
    case 'flows':
      return `flows of VNI ${String(removal.vni)} on bridge isth-${removal.bridge} of ${hostKey(removal.at)}`;
  }
}

/** Where a check found something. */
export interface Spot {
  readonly where: string;
  readonly what: string;
  readonly fuid?: string | undefined;
  /** What is particular to this one, behind the check's reason. */
  readonly detail?: string | undefined;
  readonly removal?: Removal | undefined;
}

/** One question to a picture. Pure; answers only by what was seen, never by what could not be looked at. */
export interface Check {
  readonly kind: string;
  /** Why what it finds is wrong. */
  readonly reason: string;
  /** What to do about one that no repair takes away. */
  readonly remedy: string;
  readonly find: (picture: Picture) => readonly Spot[];
}

export function findingsOf({ kind, reason, remedy, find }: Check, picture: Picture): Finding[] {
  return find(picture).map(({ where, what, fuid, detail, removal }) => ({
    kind,
    where,
    what,
    object: fuid === undefined ? undefined : objectOf(picture, fuid),
    fuid,
    why: detail === undefined ? reason : `${reason}: ${detail}`,
    remedy: removal ? `isthmus audit --repair removes it` : remedy,
    removal,
  }));
}

/** Two looks that show the same thing show it under the same key. */
export const findingKey = ({ kind, where, what }: Finding): string => `${kind} ${where} ${what}`;
