import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import { kinds } from '../../crds/index.js';
import {
  apply,
  container,
  eventually,
  guest,
  inSite,
  machine,
  manifest,
  namespace,
  startOperator,
  stopOperator,
  traces,
  waitReady,
  type Operator,
} from '../support/lab.js';

const resyncSeconds = 3;
const watched = ['sites', 'federatednetworks', 'federatedvms'] as const;

let operator: Operator | undefined;

function running(): Operator {
  if (!operator) throw new Error('the operator did not start');
  return operator;
}

const reconciles = async (): Promise<number[]> =>
  await Promise.all(watched.map((plural) => running().reconciles(plural)));

beforeAll(async () => {
  operator = await startOperator({ resyncSeconds });
  await apply([
    namespace('idle'),
    manifest('FederatedNetwork', 'idle/red', { cidr: '10.1.0.0/24' }),
    manifest('FederatedNetwork', 'idle/green', { cidr: '10.2.0.0/24', sites: ['valencia', 'lisbon'] }),
    machine('idle/one', { networks: [{ name: 'red' }], placement: { site: 'saopaulo' }, storage: 'Shared' }),
    container('idle/two', { networks: [{ name: 'red' }, { name: 'green' }], placement: { site: 'lisbon' } }),
  ]);
  await waitReady(kinds.FederatedNetwork, '--namespace=idle');
  await waitReady(kinds.FederatedVM, '--namespace=idle');
  await guest('idle/one', 'true', 60_000);
  await guest('idle/two', 'true', 60_000);
}, 150_000);

afterAll(async () => await stopOperator(operator), 90_000);

describe('an idle federation', () => {
  it('is compared anew three times without one write to the API server, Consul, libvirt or Open vSwitch', async () => {
    // The last events of the start are written within seconds.
    const [before] = await eventually(
      'nothing is written for four seconds',
      async () => {
        const first = await traces();
        await sleep(4_000);
        expect((await traces()).marks).toEqual(first.marks);
        return [first];
      },
      40_000,
    );
    const from = performance.now();
    const counted = await reconciles();
    await sleep(3 * resyncSeconds * 1_000 + 1_500);
    const [after, recounted] = [await traces(), await reconciles()];
    const lookedAgain = recounted.map((count, index) => count - (counted[index] ?? NaN));
    // Three sites, two networks, two machines.
    expect(lookedAgain[0]).toBeGreaterThanOrEqual(9);
    expect(lookedAgain[1]).toBeGreaterThanOrEqual(6);
    expect(lookedAgain[2]).toBeGreaterThanOrEqual(6);
    expect(after.marks).toEqual(before.marks);
    expect(after.youngestFlowMs).toBeGreaterThan(performance.now() - from - 500);
  }, 90_000);

  const writes = [
    {
      what: 'a flow is added again',
      command:
        'ovs-ofctl -O OpenFlow13 --no-names dump-flows isth-edge --no-stats | head -1 | sed "s/^ *//; s/reset_counts//" | ovs-ofctl -O OpenFlow13 add-flows isth-edge -',
      shows: 'flow',
    },
    {
      what: 'the autostart of a network is switched off and on',
      command:
        'name=$(virsh -q net-list --name | head -1); virsh -q net-autostart --disable $name; virsh -q net-autostart $name',
      shows: 'marks',
    },
    {
      what: 'a column of the switch database is set and cleared',
      command:
        'ovs-vsctl set bridge br-wan external_ids:touched=yes; ovs-vsctl remove bridge br-wan external_ids touched',
      shows: 'marks',
    },
  ];
  it.each(writes)('these measures notice when $what', async ({ command, shows }) => {
    const before = await traces();
    const from = performance.now();
    await inSite('lisbon', 'bash', '-c', command);
    const after = await traces();
    if (shows === 'flow') expect(after.youngestFlowMs).toBeLessThanOrEqual(performance.now() - from);
    else expect(after.marks).not.toEqual(before.marks);
  });
});
