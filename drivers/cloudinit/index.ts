import { isoImage } from './iso9660.js';
import type { Seed } from './types.js';

export { metaData, networkConfigV2, userData } from './documents.js';
export type { SeedInterface, SeedUserData } from './documents.js';
export type { Seed } from './types.js';

/**
 * The seed as an ISO 9660 image for a read-only disk or CD-ROM, with the label that the NoCloud datasource looks for.
 * Deterministic; a whole number of 2 KiB sectors, 50 KiB and the documents.
 */
export function seedImage(seed: Seed): Uint8Array {
  const text = new TextEncoder();
  return isoImage('cidata', [
    { name: 'meta-data', shortName: 'META_DAT', content: text.encode(seed.metaData) },
    { name: 'network-config', shortName: 'NETWORK_', content: text.encode(seed.networkConfig) },
    { name: 'user-data', shortName: 'USER_DAT', content: text.encode(seed.userData) },
  ]);
}
