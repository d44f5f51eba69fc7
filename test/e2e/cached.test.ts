import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { kinds, type VMMigration } from '../../crds/index.js';
import {
  apply,
  condition,
  eventually,
  find,
  get,
  guest,
  inSite,
  kubectl,
  machine,
  manifest,
  type Manifest,
  namespace,
  Operator,
  ownership,
  patchSpec,
  project,
  remove,
  report,
  setRunStrategy,
  type SiteName,
  sites,
  startOperator,
  stopOperator,
  volumesOf,
  waitReady,
  whereabouts,
} from '../support/lab.js';

const ns = 'cached';
const mover = `${ns}/web-1`;
let operator: Operator | undefined;

/** The share is at valencia, the machine is not. */
beforeAll(async () => {
  operator = await startOperator();
  await apply([
    namespace(ns),
    manifest('FederatedNetwork', `${ns}/blue`, { cidr: '172.16.0.0/16', sites: [...sites] }),
    machine(mover, { storage: 'Cached', placement: { site: 'saopaulo' }, networks: [{ name: 'blue' }] }),
  ]);
}, 90_000);

afterAll(async () => {
  await stopOperator(operator);
  await inSite('valencia', 'rm', '-f', '/nfs/tiny.qcow2');
  await inSite('valencia', 'virsh', '-q', 'pool-refresh', 'shared');
}, 90_000);

async function move(site: SiteName, more: Manifest = {}): Promise<VMMigration> {
  const key = `${ns}/to-${site}`;
  await remove(kinds.VMMigration, key);
  await apply([manifest('VMMigration', key, { vmName: 'web-1', target: { site }, ...more })]);
  const over = await eventually(
    `${key} is over`,
    async () => {
      const object = await get(kinds.VMMigration, key);
      if (object.status?.completionTime === undefined) throw new Error(JSON.stringify(object.status));
      return object;
    },
    60_000,
  );
  report(`cached: ${over.status?.message ?? ''}`);
  return over;
}

interface Place {
  readonly uid: string;
  readonly uuid: string;
  readonly definition: string;
}

async function at(site: SiteName, state: 'running' | 'shut off' = 'running'): Promise<Place> {
  const { metadata, status } = await get(kinds.FederatedVM, mover);
  const [uid, uuid] = [metadata.uid, status?.uuid ?? ''];
  expect(await whereabouts(uuid)).toEqual([`${site} ${state}`]);
  expect(await volumesOf(uid)).toEqual([`root default ${site}`, `seed default ${site}`]);
  return { uid, uuid, definition: await inSite(site, 'virsh', 'dumpxml', uuid) };
}

/** What the guest reads of the image's own 32 MiB. Not from memory: what it has read before it forgets. */
const imageAsRead = async (): Promise<string> =>
  (
    await guest(mover, 'echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M count=32 2>/dev/null | md5sum', 40_000)
  ).stdout.trim();
/** Beyond what the image has. */
const sector = 120_000;
const written = async (): Promise<string> =>
  (
    await guest(mover, `dd if=/dev/vda bs=512 skip=${String(sector)} count=1 2>/dev/null | head -n 1`, 20_000)
  ).stdout.trim();
const boot = async (): Promise<string> =>
  (await guest(mover, 'cat /proc/sys/kernel/random/boot_id', 60_000)).stdout.trim();
/** Of the 48 MiB of Z that the image has further on, which the guest does not read by itself. */
const furtherOn = async (): Promise<number> => {
  const read = 'dd if=/dev/vda bs=1M skip=64 count=48 2>/dev/null | tr -dc Z | wc -c';
  return Number((await guest(mover, read, 60_000)).stdout.trim());
};
/** Bytes that the overlay takes at a site. */
const taken = async (site: SiteName, uid: string): Promise<number> =>
  512 * Number(await inSite(site, 'stat', '--format=%b', `/var/lib/libvirt/images/isth-${uid}-root.qcow2`));

async function withoutShare(act: () => Promise<void>): Promise<void> {
  const [pid = ''] = (await readFile(`${project}.lab/run/valencia-ganesha.pid`, 'utf8')).split(' ');
  process.kill(Number(pid), 'SIGSTOP');
  try {
    await act();
  } finally {
    process.kill(Number(pid), 'SIGCONT');
  }
}

describe('a machine whose disk stands on an image of the share', () => {
  let image: string;

  it('waits, and says for what, until the share has the image', async () => {
    await eventually('it is told', async () => {
      const ready = condition(await get(kinds.FederatedVM, mover), 'Ready');
      expect(ready).toMatchObject({ status: 'False', reason: 'UnknownImage' });
      expect(ready?.message).toMatch(/no volume tiny in pool shared of host valencia\/a.*copy it there/);
    });
    await inSite('valencia', 'cp', '/var/lib/libvirt/isthmus-images/tiny.qcow2', '/nfs/tiny.qcow2');
    await inSite('valencia', 'qemu-img', 'resize', '-q', '/nfs/tiny.qcow2', '112M');
    await inSite('valencia', 'qemu-io', '-c', 'write -q -P 0x5a 64M 48M', '/nfs/tiny.qcow2');
    await inSite('valencia', 'virsh', '-q', 'pool-refresh', 'shared');
    // It would look again by itself, in half a minute.
    await kubectl('annotate', 'fvm', 'web-1', `--namespace=${ns}`, 'example.org/uploaded=yes');
    await waitReady(kinds.FederatedVM, `--namespace=${ns}`);
    await guest(mover, 'cat /run/ready', 60_000);
    const { uid, definition } = await at('saopaulo');
    expect(definition).toMatch(/copy_on_read='on'/);
    expect(definition).toMatch(/<backingStore type='network'[\s\S]*protocol='nfs' name='\/nfs\/tiny\.qcow2'/);
    expect(await ownership(uid)).toMatchObject({ storage: 'Cached', base: { name: 'tiny.qcow2', format: 'qcow2' } });
    const raw = 'qemu-img dd -f qcow2 -O raw bs=1M count=32 if=/nfs/tiny.qcow2 of=/tmp/tiny.raw';
    image = (await inSite('valencia', 'sh', '-c', `${raw} && md5sum </tmp/tiny.raw; rm -f /tmp/tiny.raw`)).trim();
  }, 120_000);

  it('keeps what it has read, and goes on with that while the share is away', async () => {
    const { uid } = await at('saopaulo');
    const before = await taken('saopaulo', uid);
    expect(await imageAsRead()).toBe(image);
    const after = await taken('saopaulo', uid);
    report(`cached: the overlay took ${String(before >> 10)} KiB before all was read, ${String(after >> 10)} after`);
    expect(after).toBeGreaterThan(before);
    await withoutShare(async () => {
      expect(await imageAsRead()).toBe(image);
      await guest(mover, `echo mine | dd of=/dev/vda bs=512 seek=${String(sector)} conv=fsync,notrunc`, 20_000);
      expect(await written()).toBe('mine');
    });
  }, 90_000);

  it('does not move while the share lacks the image, and says so', async () => {
    const rename = async (from: string, to: string): Promise<void> => {
      await inSite('valencia', 'mv', `/nfs/${from}`, `/nfs/${to}`);
      await inSite('valencia', 'virsh', '-q', 'pool-refresh', 'shared');
    };
    await rename('tiny.qcow2', 'aside.qcow2');
    try {
      const { status } = await move('lisbon');
      expect(status).toMatchObject({ phase: 'Failed', reason: 'ImageMissing' });
      expect(status?.message).toMatch(/host valencia\/a: .*volume tiny\.qcow2 of pool shared/);
    } finally {
      await rename('aside.qcow2', 'tiny.qcow2');
    }
    await at('saopaulo');
  }, 60_000);

  it('takes only what it has of its own when it moves, and stands on the same image there', async () => {
    const running = await boot();
    const { status } = await move('lisbon');
    expect(status).toMatchObject({ phase: 'Succeeded', mode: 'Live', storage: 'Cached', progressPercent: 100 });
    const { uid, definition } = await at('lisbon');
    expect(definition).toMatch(/<backingStore type='network'[\s\S]*protocol='nfs' name='\/nfs\/tiny\.qcow2'/);
    expect(await ownership(uid)).toMatchObject({ storage: 'Cached', base: { name: 'tiny.qcow2', format: 'qcow2' } });
    expect([await boot(), await written()]).toEqual([running, 'mine']);
    // All that it had read has come along.
    await withoutShare(async () => expect(await imageAsRead()).toBe(image));
  }, 120_000);

  it('is taken along while it is off, too, but not made whole', async () => {
    await setRunStrategy(mover, 'Stopped');
    expect((await move('saopaulo', { storage: 'Copy' })).status).toMatchObject({
      phase: 'Failed',
      reason: 'CopyNotSupported',
    });
    await at('lisbon', 'shut off');
    expect((await move('saopaulo')).status).toMatchObject({ phase: 'Succeeded', mode: 'Offline', storage: 'Cached' });
    await at('saopaulo', 'shut off');
    await setRunStrategy(mover, 'Running');
    expect([await written(), await imageAsRead()]).toEqual(['mine', image]);
    await at('saopaulo');
  }, 120_000);

  /** What the guest has not read takes three seconds at this rate. */
  const slowly: Manifest = { storage: 'Copy', policy: { bandwidthMiBps: 16 } };
  const whileFilling = async (site: SiteName, act: () => Promise<void>): Promise<void> =>
    await eventually(
      'its disk is made whole',
      async () => {
        const { status } = await get(kinds.VMMigration, `${ns}/to-${site}`);
        if (status?.reason !== 'MakingWhole' || !status.remainingBytes) throw new Error(JSON.stringify(status));
      },
      60_000,
    ).then(act);

  it('stays so where making it whole is cancelled, and runs on where it is', async () => {
    const running = await boot();
    const [{ status }] = await Promise.all([
      move('lisbon', slowly),
      whileFilling('lisbon', async () => await patchSpec(kinds.VMMigration, `${ns}/to-lisbon`, { cancel: true })),
    ]);
    expect(status).toMatchObject({ phase: 'Failed', reason: 'DiskNotWhole', storage: 'Copy' });
    expect(status?.message).toMatch(/has moved to lisbon\/a.*stays Cached, on image tiny\.qcow2 of the share/);
    const { uid, uuid, definition } = await at('lisbon');
    expect(definition).toMatch(/<backingStore type='network'/);
    expect(await ownership(uid)).toMatchObject({ storage: 'Cached', base: { name: 'tiny.qcow2' } });
    await eventually('nothing is read any more', async () =>
      expect(await inSite('lisbon', 'virsh', 'blockjob', uuid, 'vda')).toContain('No current block job'),
    );
    expect([await boot(), await written(), await imageAsRead()]).toEqual([running, 'mine', image]);
  }, 120_000);

  it('is made whole where it arrives when that is asked for, whoever dies meanwhile, and needs the share no more', async () => {
    const [{ status }] = await Promise.all([
      move('saopaulo', slowly),
      whileFilling('saopaulo', async () => {
        await operator?.kill();
        const pids = await inSite('saopaulo', 'sh', '-c', 'cat /run/libvirt/qemu/isth-web-1-*.pid');
        process.kill(Number(pids), 'SIGKILL');
        operator = await Operator.start({ leaderElect: false });
      }),
    ]);
    expect(status).toMatchObject({ phase: 'Succeeded', mode: 'Live', storage: 'Copy', progressPercent: 100 });
    const { uid, uuid, definition } = await at('saopaulo');
    const kept = await inSite('saopaulo', 'virsh', 'dumpxml', '--inactive', uuid);
    expect(kept).not.toMatch(/copy_on_read|nfs|<backingStore type/);
    expect(definition).not.toMatch(/nfs|<backingStore type/);
    const record = await ownership(uid);
    expect(record).toMatchObject({ storage: 'Local' });
    expect(record).not.toHaveProperty('base');
    expect(await written()).toBe('mine');
    await withoutShare(async () => {
      expect([await imageAsRead(), await furtherOn()]).toEqual([image, 48 * 2 ** 20]);
      await setRunStrategy(mover, 'Stopped');
      await setRunStrategy(mover, 'Running');
      expect([await written(), await imageAsRead()]).toEqual(['mine', image]);
    });
    const { status: machine } = await get(kinds.FederatedVM, mover);
    expect(machine?.conditions?.map(({ type }) => type)).not.toContain('RestartRequired');
  }, 180_000);

  it('is then moved as any disk of its own', async () => {
    const running = await boot();
    expect((await move('lisbon')).status).toMatchObject({ phase: 'Succeeded', storage: 'Local' });
    await at('lisbon');
    expect([await boot(), await written(), await imageAsRead()]).toEqual([running, 'mine', image]);
  }, 120_000);

  it('leaves nothing behind, and the image alone', async () => {
    const { uid } = await at('lisbon');
    await remove(kinds.FederatedVM, mover);
    await eventually('it is gone', async () => expect(await find(kinds.FederatedVM, mover)).toBeUndefined());
    expect(await volumesOf(uid)).toEqual([]);
    expect(await inSite('valencia', 'ls', '/nfs')).toBe('tiny.qcow2\n');
  }, 60_000);
});
