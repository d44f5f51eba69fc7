import { describe, expect, it } from '@jest/globals';
import type { StorageKind } from '../../../crds/index.js';
import { extentOf, isFilled, targetOf } from '../../../reconcilers/migration/transfer.js';
import { baseOf, type Image } from '../../../reconcilers/vm/image.js';
import { interruptionOf } from './support/interruption.js';

const image: Image = {
  volume: { pool: 'shared', name: 'debian.qcow2', key: '/nfs/debian.qcow2' },
  format: 'qcow2',
  capacityBytes: 1n << 31n,
  standsOn: undefined,
};

describe('the image that a Cached disk stands on', () => {
  it.each(['qcow2', 'raw'] as const)('is put on record with the format that QEMU is to read: %s', (format) => {
    expect(baseOf({ ...image, format })).toEqual({ name: 'debian.qcow2', format });
  });

  const refused: readonly { reason: string; image: Image; names: string[] }[] = [
    { reason: 'QEMU would take its bytes for the disk’s', image: { ...image, format: 'iso' }, names: ['is iso', 'convert'] },
    { reason: 'what it stands on is not at every host', image: { ...image, standsOn: '/srv/base.raw' }, names: ['/srv/base.raw', 'convert'] },
  ]; // prettier-ignore
  it.each(refused)('is refused where $reason', ({ image, names }) => {
    const error = interruptionOf(() => baseOf(image));
    expect(error.reason).toBe('ImageNotUsable');
    for (const name of ['spec.image.name', 'debian.qcow2', 'pool shared', ...names])
      expect(error.message).toContain(name);
  });
});

describe('what goes along with a machine', () => {
  const cases: readonly {
    reason: string;
    storage: StorageKind;
    asked?: 'Copy';
    becomes: StorageKind | undefined;
    extent: string | undefined;
  }[] = [
    { reason: 'a disk on the share stays there', storage: 'Shared', becomes: undefined, extent: undefined },
    { reason: 'unless that is asked for', storage: 'Shared', asked: 'Copy', becomes: 'Local', extent: 'Whole' },
    { reason: 'a disk of its own, whole', storage: 'Local', becomes: 'Local', extent: 'Whole' },
    { reason: 'what it wrote over an image on the share', storage: 'Cached', becomes: 'Cached', extent: 'Overlay' },
    { reason: 'so, too, if it is to be made whole where it arrives', storage: 'Cached', asked: 'Copy', becomes: 'Cached', extent: 'Filled' },
  ]; // prettier-ignore
  it.each(cases)('$reason: $storage $asked', ({ storage, asked, becomes, extent }) => {
    const spec = { vmName: 'web', target: { site: 'lisbon' }, ...(asked ? { storage: asked } : {}) };
    const to = targetOf({ spec }, storage, { site: 'lisbon', host: 'a' });
    expect(to?.storage).toBe(becomes);
    if (becomes) expect(extentOf(becomes, isFilled({ spec }, becomes))).toBe(extent);
  });
});
