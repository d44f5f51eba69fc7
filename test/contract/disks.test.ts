import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { randomBytes, randomUUID } from 'node:crypto';
import { execFile } from 'node:child_process';
import { mkdir, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { connect, type Connection } from '../../drivers/libvirt/index.js';
import { diskVolumeName, seedVolumeName, transferVolumeName } from '../../reconcilers/common/identity.js';
import type { Host } from '../../reconcilers/host.js';
import { changed, copyVolumes, deleteTransfer, type CopyFigures } from '../../reconcilers/vm/copy.js';
import { copySizeBytes, createCopies, createVolumes, deleteCopies, type DiskPlace } from '../../reconcilers/vm/disk.js';
import { startLibvirtd, type Libvirtd } from '../support/libvirtd.js';

const capacity = 8n << 20n;
let daemon: Libvirtd;
let connection: Connection;

/** The pools of two hosts; the same folder by two names stands for storage that both have. */
beforeAll(async () => {
  daemon = await startLibvirtd();
  connection = await connect(daemon.uri('qemu', 'unix'));
  for (const name of ['images', 'source', 'target']) await mkdir(join(daemon.directory, name));
  await symlink(join(daemon.directory, 'source'), join(daemon.directory, 'alias'));
  for (const name of ['images', 'source', 'target', 'alias']) {
    const path = join(daemon.directory, name);
    await connection.definePool(`<pool type='dir'><name>${name}</name><target><path>${path}</path></target></pool>`);
    await connection.startPool(name);
  }
  const size = `<capacity>${String(capacity)}</capacity><allocation>${String(capacity)}</allocation>`;
  await connection.createVolume('images', `<volume><name>tiny</name>${size}</volume>`);
  await writeFile(join(daemon.directory, 'images', 'tiny'), randomBytes(Number(capacity)));
});

afterAll(async () => {
  await connection.close();
  await daemon.stop();
});

const place = (pool: string): DiskPlace => ({
  via: { site: 'here', host: pool, libvirt: { connection } } as unknown as Host,
  pool,
  imagePool: 'images',
  sourceOf: ({ key }) => ({ kind: 'file', path: key }),
});

const names = async (pool: string): Promise<string[]> => {
  await connection.refreshPool(pool);
  return (await connection.listVolumes(pool))
    .map(({ name }) => name)
    .filter((name) => name.includes(fuid))
    .sort();
};
async function bytes(pool: string, name: string): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of connection.downloadVolume(pool, name)) parts.push(part);
  return Buffer.concat(parts);
}

let fuid: string;
let source: DiskPlace;
let target: DiskPlace;
let seed: Buffer;

beforeEach(async () => {
  fuid = randomUUID();
  source = place('source');
  target = place('target');
  seed = randomBytes(100_000);
  await createVolumes({ fuid, image: 'tiny', storage: 'Local', diskBytes: 2n * capacity, seed }, source);
});

describe('the disk of a machine that never ran', () => {
  // libvirt words the refusal differently for a volume that is made and for one that is copied.
  it.each(['Local', 'Shared'] as const)('is made anew where an earlier try left something: %s', async (storage) => {
    const request = { fuid, image: 'tiny', storage, diskBytes: 2n * capacity, seed };
    await createVolumes(request, target);
    await connection.resizeVolume('target', diskVolumeName(fuid), 4n * capacity);
    await createVolumes(request, target);
    expect((await connection.volumeInfo('target', diskVolumeName(fuid))).capacityBytes).toBe(2n * capacity);
    expect(await names('target')).toEqual([diskVolumeName(fuid), seedVolumeName(fuid)]);
  });
});

describe('what a disk is copied into at the target of a move', () => {
  it('is as large as the disk, with a seed that is the same', async () => {
    const copies = await createCopies(fuid, source, target);
    expect(copies.disk).toEqual({ kind: 'file', path: join(daemon.directory, 'target', diskVolumeName(fuid)) });
    expect((await connection.volumeInfo('target', diskVolumeName(fuid))).capacityBytes).toBe(2n * capacity);
    expect((await bytes('target', seedVolumeName(fuid))).equals(seed)).toBe(true);
    expect(await connection.volumeXml('target', diskVolumeName(fuid))).not.toContain('backingStore');
  });

  it('is made anew where an earlier try left something', async () => {
    await createCopies(fuid, source, target);
    await connection.resizeVolume('target', diskVolumeName(fuid), 4n * capacity);
    await createCopies(fuid, source, target);
    expect((await connection.volumeInfo('target', diskVolumeName(fuid))).capacityBytes).toBe(2n * capacity);
    expect(await names('target')).toEqual([diskVolumeName(fuid), seedVolumeName(fuid)]);
  });

  it('is never the disk itself: hosts that have one storage are told apart from those that do not', async () => {
    const before = await bytes('source', diskVolumeName(fuid));
    await expect(createCopies(fuid, source, place('alias'))).rejects.toThrow(
      'pool alias of here/alias is the same storage as pool source of here/source',
    );
    expect((await bytes('source', diskVolumeName(fuid))).equals(before)).toBe(true);
    expect((await bytes('source', seedVolumeName(fuid))).equals(seed)).toBe(true);
    // What a move that was given up clears away is not the disk either.
    await deleteCopies(fuid, place('alias'), source);
    expect(await names('alias')).toEqual([diskVolumeName(fuid), seedVolumeName(fuid)]);
  });
});

describe('what a move that was given up clears away', () => {
  it('is the copies, and the machine keeps its own', async () => {
    await createCopies(fuid, source, target);
    await deleteCopies(fuid, target, source);
    expect(await names('target')).toEqual([]);
    expect(await names('source')).toEqual([diskVolumeName(fuid), seedVolumeName(fuid)]);
  });
});

describe('the space that a whole copy may take', () => {
  it('is that of the disk and of the image that it stands on', async () => {
    const own = (await connection.volumeInfo('source', diskVolumeName(fuid))).allocationBytes;
    const size = await copySizeBytes(fuid, source);
    expect(size).toBeGreaterThanOrEqual(capacity + own);
    expect(size).toBeLessThanOrEqual(2n * capacity);
  });
});

describe('the disk of a machine that is off', () => {
  const run = promisify(execFile);
  const file = (pool: string, name = diskVolumeName(fuid)): string => join(daemon.directory, pool, name);
  const io = async (pool: string, command: string): Promise<string> =>
    (await run('qemu-io', ['-f', 'qcow2', '-c', command, file(pool)])).stdout;
  const never = new AbortController().signal;
  const unlimited = { bytesPerSecond: undefined, signal: never, onProgress: () => undefined };
  const both = (): string[] => [diskVolumeName(fuid), seedVolumeName(fuid)];

  it('is copied whole, also what it has of its image, and leaves nothing beside', async () => {
    await io('source', 'write -P 0x5a 4M 64k');
    await copyVolumes(fuid, source, target, unlimited);
    expect(await names('target')).toEqual(both());
    expect(await names('source')).toEqual(both());
    await run('qemu-img', ['check', '-q', file('target')]);
    await run('qemu-img', ['compare', '-q', file('source'), file('target')]);
    expect(await connection.volumeXml('target', diskVolumeName(fuid))).not.toContain('backingStore');
    expect((await connection.volumeInfo('target', diskVolumeName(fuid))).capacityBytes).toBe(2n * capacity);
    // On to a third place, as it stands: it needs no image.
    await deleteCopies(fuid, source, target);
    await copyVolumes(fuid, target, source, unlimited);
    await run('qemu-img', ['compare', '-q', file('source'), file('target')]);
  });

  it('is made anew over what an earlier try left', async () => {
    await createCopies(fuid, source, target);
    await io('target', 'write -P 0x11 1M 4M');
    await connection.createVolume(
      'source',
      `<volume><name>${transferVolumeName(fuid)}</name><capacity>1</capacity></volume>`,
    );
    await copyVolumes(fuid, source, target, unlimited);
    await run('qemu-img', ['compare', '-q', file('source'), file('target')]);
    expect(await names('source')).toEqual(both());
  });

  it('is sent no faster than it may be, and stops when it is told to', async () => {
    await io('source', 'write -P 0x5a 0 4M');
    const seen: CopyFigures[] = [];
    const onProgress = (figures: CopyFigures): void => void seen.push(figures);
    const from = performance.now();
    await copyVolumes(fuid, source, target, { ...unlimited, bytesPerSecond: 4 * 2 ** 20, onProgress });
    expect(performance.now() - from).toBeGreaterThan(950);
    const { sentBytes, totalBytes } = seen.at(-1) ?? {};
    expect(sentBytes).toBe(totalBytes);
    expect(sentBytes).toBeGreaterThan(4 * 2 ** 20);
    const abort = new AbortController();
    const copying = copyVolumes(fuid, source, target, {
      bytesPerSecond: 2 ** 20,
      signal: abort.signal,
      onProgress: ({ sentBytes: sent }) => (sent > 0 ? abort.abort() : undefined),
    });
    await expect(copying).rejects.toThrow('abort');
    await deleteTransfer(fuid, source);
    await deleteCopies(fuid, target, source);
    expect(await names('target')).toEqual([]);
    expect(await names('source')).toEqual(both());
  });

  it('is not taken for its copy once it was written to', async () => {
    const stamp = await copyVolumes(fuid, source, target, unlimited);
    expect(await changed(fuid, source, stamp)).toBeUndefined();
    await io('source', 'write -P 0x22 0 64k');
    expect(await changed(fuid, source, stamp)).toBeDefined();
    const abort = new AbortController();
    const late = copyVolumes(fuid, source, target, {
      ...unlimited,
      signal: abort.signal,
      onProgress: () => void utimes(file('source'), 1, 1),
    });
    await expect(late).rejects.toMatchObject({ code: 'ISTHMUS_STALE_COPY' });
  });
});
