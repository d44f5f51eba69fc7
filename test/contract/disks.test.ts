import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { randomBytes, randomUUID } from 'node:crypto';
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { connect, type Connection } from '../../drivers/libvirt/index.js';
import {
  diskVolumeName,
  fuidOfVolume,
  rootVolumeName,
  seedVolumeName,
  transferVolumeName,
} from '../../reconcilers/common/identity.js';
import type { Host } from '../../reconcilers/host.js';
import { changed, copySizeBytes, copyVolumes, deleteTransfer, type CopyFigures } from '../../reconcilers/vm/copy.js';
import { imageIn, type Image } from '../../reconcilers/vm/image.js';
import {
  createCopies,
  createVolumes,
  deleteCopies,
  deleteVolumes,
  findVolumes,
  type DiskPlace,
} from '../../reconcilers/vm/disk.js';
import { createRoot } from '../../reconcilers/vm/root.js';
import { startLibvirtd, type Libvirtd } from '../support/libvirtd.js';

const run = promisify(execFile);
const capacity = 8n << 20n;
let daemon: Libvirtd;
let folder: string;
let connection: Connection;

/** The pools of two hosts; the same folder by two names stands for storage that both have. */
beforeAll(async () => {
  daemon = await startLibvirtd();
  // Of a path that LXC could mount from.
  folder = await mkdtemp('/tmp/isth-');
  connection = await connect(daemon.uri('qemu', 'unix'));
  for (const name of ['images', 'source', 'target']) await mkdir(join(folder, name));
  await symlink(join(folder, 'source'), join(folder, 'alias'));
  for (const name of ['images', 'source', 'target', 'alias']) {
    const path = join(folder, name);
    await connection.definePool(`<pool type='dir'><name>${name}</name><target><path>${path}</path></target></pool>`);
    await connection.startPool(name);
  }
  const size = `<capacity>${String(capacity)}</capacity><allocation>${String(capacity)}</allocation>`;
  await connection.createVolume('images', `<volume><name>tiny</name>${size}</volume>`);
  await writeFile(join(folder, 'images', 'tiny'), randomBytes(Number(capacity)));
});

afterAll(async () => {
  await connection.close();
  await daemon.stop();
  await rm(folder, { recursive: true });
});

const place = (pool: string): DiskPlace => ({
  driver: 'qemu',
  via: { site: 'here', host: pool, libvirt: { connection } } as unknown as Host,
  pool,
  imagePool: 'images',
  sourceOf: ({ key }) => ({ kind: 'file', path: key }),
});

const names = async (pool: string): Promise<string[]> => {
  await connection.refreshPool(pool);
  return (await connection.listVolumes(pool))
    .map(({ name }) => name)
    .filter((name) => fuidOfVolume(name) === fuid)
    .sort();
};
async function bytes(pool: string, name: string): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of connection.downloadVolume(pool, name)) parts.push(part);
  return Buffer.concat(parts);
}

let fuid: string;
let source: DiskPlace;
let image: Image;
let target: DiskPlace;
let seed: Buffer;

beforeEach(async () => {
  fuid = randomUUID();
  source = place('source');
  target = place('target');
  seed = randomBytes(100_000);
  image = await imageIn(source.via, 'images', 'tiny');
  await createVolumes({ fuid, image, storage: 'Local', diskBytes: 2n * capacity, seed }, source);
});

describe('the disk of a machine that never ran', () => {
  // libvirt words the refusal differently for a volume that is made and for one that is copied.
  it.each(['Local', 'Cached', 'Shared'] as const)(
    'is made anew where an earlier try left something: %s',
    async (storage) => {
      const request = { fuid, image, storage, diskBytes: 2n * capacity, seed };
      await createVolumes(request, target);
      await connection.resizeVolume('target', diskVolumeName(fuid), 4n * capacity);
      await createVolumes(request, target);
      expect((await connection.volumeInfo('target', diskVolumeName(fuid))).capacityBytes).toBe(2n * capacity);
      expect(await names('target')).toEqual([diskVolumeName(fuid), seedVolumeName(fuid)]);
    },
  );
});

describe('what a disk is copied into at the target of a move', () => {
  it('is as large as the disk, with a seed that is the same', async () => {
    const copies = await createCopies(fuid, source, target);
    expect(copies.disk).toEqual({ kind: 'file', path: join(folder, 'target', diskVolumeName(fuid)) });
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

describe('a copy for which there was no room', () => {
  /** Where the daemon is, which has mounts of its own. */
  const inside = async (script: string): Promise<string> => {
    const [command = '', ...args] = daemon.inside;
    return (await run(command, [...args, 'sh', '-c', script, join(folder, 'full')])).stdout;
  };
  beforeAll(async () => {
    await inside('mkdir "$0" && mount -t tmpfs -o size=2m full "$0"');
    const path = join(folder, 'full');
    await connection.definePool(`<pool type='dir'><name>full</name><target><path>${path}</path></target></pool>`);
    await connection.startPool('full');
  });
  afterAll(async () => {
    await connection.destroyPool('full');
    await inside('umount "$0"');
  });

  it('is deleted from the disk that it has filled', async () => {
    await createCopies(fuid, source, place('full'));
    await inside('! dd if=/dev/zero of="$0/another" bs=1M 2>/dev/null');
    await deleteCopies(fuid, place('full'), source);
    expect(await names('full')).toEqual([]);
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
  const file = (pool: string, name = diskVolumeName(fuid)): string => join(folder, pool, name);
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

describe('the root file system of a container', () => {
  const at = (pool: string): DiskPlace => ({ ...place(pool), driver: 'lxc' });
  const file = (pool: string): string => join(folder, pool, rootVolumeName(fuid));
  const unlimited = { bytesPerSecond: undefined, signal: new AbortController().signal, onProgress: () => undefined };
  const allocated = async (pool: string): Promise<bigint> =>
    (await connection.volumeInfo(pool, rootVolumeName(fuid))).allocationBytes;
  const grown = 16n * capacity;

  it.each(['raw', 'qcow2'] as const)('is a raw copy of an image that is %s, as large as is asked for, and sparse', async (format) => {
    const path = join(folder, 'images', `as-${format}`);
    await run('qemu-img', ['convert', '-O', format, join(folder, 'images', 'tiny'), path]);
    await connection.refreshPool('images');
    const { root } = await createRoot({ fuid, image: await imageIn(source.via, 'images', `as-${format}`), diskBytes: grown }, at('source'));
    expect(root).toBe(file('source'));
    expect(await findVolumes(fuid, at('source'))).toEqual({ root });
    const info = await run('qemu-img', ['info', '--output=json', '-f', 'raw', root]);
    expect(JSON.parse(info.stdout)).toMatchObject({ 'virtual-size': Number(grown) });
    expect(await allocated('source')).toBeLessThan(2n * capacity);
    await run('cmp', ['-n', String(capacity), join(folder, 'images', 'tiny'), root]);
  }); // prettier-ignore

  it('is copied with its holes, and leaves nothing beside; what an earlier try left is made anew', async () => {
    await createRoot({ fuid, image, diskBytes: grown }, at('source'));
    await run('qemu-io', ['-f', 'raw', '-c', 'write -P 0x5a 100M 64k', file('source')]);
    for (const pool of ['source', 'target'])
      await connection.createVolume(pool, `<volume><name>${transferVolumeName(fuid)}</name><capacity>1</capacity></volume>`);
    let sent = 0;
    const stamp = await copyVolumes(fuid, at('source'), at('target'), {
      ...unlimited,
      onProgress: ({ sentBytes }) => (sent = sentBytes),
    });
    await run('cmp', [file('source'), file('target')]);
    expect(sent).toBeLessThan(2 * Number(capacity));
    expect(await allocated('target')).toBeLessThan(2n * capacity);
    expect(await names('target')).toEqual([rootVolumeName(fuid)]);
    expect(await names('source')).not.toContain(transferVolumeName(fuid));
    expect(await changed(fuid, at('source'), stamp)).toBeUndefined();
    await run('qemu-io', ['-f', 'raw', '-c', 'write -P 0x22 0 64k', file('source')]);
    expect(await changed(fuid, at('source'), stamp)).toBeDefined();
  }); // prettier-ignore

  it('is not copied onto itself, and goes with all that a broken-off copy left', async () => {
    await createRoot({ fuid, image, diskBytes: capacity }, at('source'));
    await expect(copyVolumes(fuid, at('source'), at('alias'), unlimited)).rejects.toThrow('the same storage');
    await connection.createVolume('source', `<volume><name>${transferVolumeName(fuid)}</name><capacity>1</capacity></volume>`);
    await deleteVolumes(fuid, at('source'));
    expect(await names('source')).toEqual([diskVolumeName(fuid), seedVolumeName(fuid)]);
  }); // prettier-ignore

  it('is refused where LXC could not mount it: a loop device takes no longer path', async () => {
    const path = join(folder, 'much-too-long-for-a-container');
    await mkdir(path);
    await connection.definePool(`<pool type='dir'><name>long</name><target><path>${path}</path></target></pool>`);
    await connection.startPool('long');
    const making = createRoot({ fuid, image, diskBytes: capacity }, at('long'));
    await expect(making).rejects.toMatchObject({ reason: 'PathTooLong', message: expect.stringContaining(path) });
    expect(await names('long')).toEqual([]);
  });
});
