import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { metaData, seedImage, userData } from '../../drivers/cloudinit/index.js';
import type { Seed } from '../../drivers/cloudinit/index.js';

// isoinfo (Debian's genisoimage) and blkid read the image; python3 with PyYAML is what cloud-init reads the documents with.
const run = promisify(execFile);

let directory: string;
let image: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'seed-'));
  image = join(directory, 'seed.iso');
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

async function isoinfo(...args: readonly string[]): Promise<string> {
  const { stdout } = await run('isoinfo', ['-i', image, ...args], { maxBuffer: 2 ** 26, encoding: 'buffer' });
  return stdout.toString();
}

async function lines(...args: readonly string[]): Promise<string[]> {
  return (await isoinfo(...args)).trim().split('\n');
}

const seed: Seed = { metaData: 'meta', userData: 'user', networkConfig: 'network' };

describe('the seed image', () => {
  it('has the label that cloud-init looks for', async () => {
    await writeFile(image, seedImage(seed));
    const { stdout } = await run('blkid', ['-p', '-o', 'export', image]);
    expect(stdout.split('\n')).toEqual(expect.arrayContaining(['LABEL=cidata', 'TYPE=iso9660']));
  });

  const trees = [
    {
      reason: 'Linux sees the exact names (Rock Ridge)',
      args: ['-R'],
      names: ['/meta-data', '/network-config', '/user-data'],
    },
    {
      reason: 'Windows sees the exact names (Joliet)',
      args: ['-J'],
      names: ['/meta-data;1', '/network-config;1', '/user-data;1'],
    },
    { reason: 'any reader sees 8.3 names', args: [], names: ['/META_DAT.;1', '/NETWORK_.;1', '/USER_DAT.;1'] },
  ];
  it.each(trees)('$reason', async ({ args, names }) => {
    await writeFile(image, seedImage(seed));
    expect(await lines(...args, '-f')).toEqual(names);
  });

  it('lets nobody but root read the password hashes', async () => {
    await writeFile(image, seedImage(seed));
    const files = (await lines('-R', '-l')).filter((line) => line.startsWith('-'));
    expect(files.map((line) => line.split(/\s+/).slice(0, 4).join(' '))).toEqual(Array(3).fill('-r-------- 1 0 0'));
  });

  it('gives back any content of any size', async () => {
    const size = fc.oneof(fc.constantFrom(0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 65_536), fc.nat(10_000));
    const content = fc.tuple(size, fc.string({ unit: 'binary', maxLength: 20 })).map(([length, text]) => {
      const known = Buffer.from(text).toString();
      const fill = Math.max(0, length - Buffer.byteLength(known));
      return known + 'x'.repeat(fill);
    });
    await fc.assert(
      fc.asyncProperty(content, content, content, async (meta, user, network) => {
        await writeFile(image, seedImage({ metaData: meta, userData: user, networkConfig: network }));
        const read = await Promise.all([
          isoinfo('-R', '-x', '/meta-data'),
          isoinfo('-R', '-x', '/user-data'),
          isoinfo('-J', '-x', '/network-config;1'),
        ]);
        expect(read).toEqual([meta, user, network]);
      }),
      { numRuns: 25 },
    );
  });
});

describe('the documents', () => {
  const asJson = 'import json, sys, yaml; print(json.dumps([yaml.safe_load(each) for each in json.load(sys.stdin)]))';

  async function asCloudInitReads(documents: readonly string[]): Promise<unknown> {
    const reading = run('python3', ['-c', asJson], { maxBuffer: 2 ** 26 });
    reading.child.stdin?.end(JSON.stringify(documents));
    return JSON.parse((await reading).stdout);
  }

  it('give back every text as it was, and nothing that a text would break out into', async () => {
    const tricky = fc.constantFrom(
      ...[
        '',
        ' ',
        'yes',
        'null',
        '~',
        '1_000',
        '12:30',
        '0x1f',
        '2001-01-01',
        '<<',
        '=',
        '- a',
        'a: b',
        '# x',
        '"',
        "'",
        '\\',
      ],
      ...[
        '"\nruncmd: [[reboot]]\n#',
        '"\r\n---\r\n',
        '\u0085users: []',
        '\u2028a: b',
        '\ufeff',
        '\u0000',
        '\u007f',
        '\ufffe',
        '😀',
        `#!/bin/sh\n${' x\t\n \n'.repeat(20)}\n: end `,
      ],
    );
    const text = fc.oneof(tricky, fc.string({ unit: 'binary' }), fc.string({ unit: 'grapheme' }));
    await fc.assert(
      fc.asyncProperty(fc.array(text, { minLength: 40, maxLength: 80 }), async (texts) => {
        const documents = texts.flatMap((each) => [
          metaData({ instanceId: each, hostname: each }),
          userData({
            hostname: each,
            user: each,
            passwordHash: each,
            sshAuthorizedKeys: [each],
            packages: [each],
            files: [{ path: each, content: each, permissions: each }],
            commands: [[each, each]],
          }),
        ]);
        const expected = texts.flatMap((each) => {
          const known = Buffer.from(each).toString();
          return [
            { 'instance-id': known, 'local-hostname': known },
            {
              hostname: known,
              preserve_hostname: false,
              users: [
                {
                  name: known,
                  shell: '/bin/bash',
                  sudo: 'ALL=(ALL) NOPASSWD:ALL',
                  lock_passwd: false,
                  hashed_passwd: known,
                  ssh_authorized_keys: [known],
                },
              ],
              write_files: [{ path: known, content: known, permissions: known }],
              packages: [known],
              package_update: true,
              runcmd: [[known, known]],
            },
          ];
        });
        expect(await asCloudInitReads(documents)).toEqual(expected);
      }),
      { numRuns: 5 },
    );
  });
});
