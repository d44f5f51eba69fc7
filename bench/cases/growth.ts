import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { kinds } from '../../crds/index.js';
import { networkCookie } from '../../reconcilers/common/identity.js';
import { tables } from '../../reconcilers/dataplane/layout.js';
import type { Bench, Case } from '../bench.js';
import { addMachines, Databases, portName, removeMachines, type Port } from '../floor/ports.js';
import type { LabHost } from '../lab.js';
import { namespace, statusOf } from '../objects.js';
import { limit, median, type Row } from '../row.js';
import { until } from '../until.js';
import { isGone, isReady, Watched } from '../watch.js';

const resource = kinds.FederatedNetwork;
const sizes = [10, 100, 1_000] as const;
/** Three records each go into one transaction, of at most 128 operations. */
const batch = 40;
const metricsUrl = 'http://127.0.0.1:8081/metrics';

export const growth: Case = {
  name: 'growth',
  about:
    'one more network, with a machine’s port at each site, beside 10, 100 and 1,000 that have the same; a restart with all of them',
  run,
};

async function run({ lab, operator, rounds, signal, say }: Bench): Promise<Row[]> {
  await operator.start();
  await using databases = await Databases.open(lab);
  await using watched = await Watched.open(lab.kube, resource, namespace);
  const create = async (index: number): Promise<{ fuid: string; vni: number }> => {
    const cidr = `10.${String(index >> 8)}.${String(index & 255)}.0/24`;
    const name = `g-${String(index)}`;
    const { metadata } = await lab.kube.create(resource, { metadata: { namespace, name }, spec: { cidr } });
    const { vni } = statusOf(await watched.until(name, isReady, 120_000));
    return { fuid: metadata.uid, vni: vni ?? 0 };
  };
  const portsOf = (index: number, network: string): Port[] =>
    [...databases.hosts].map(([host, ovsdb], site) => ({
      ...{ host, ovsdb, network, fuid: randomUUID() },
      address: `10.${String(index >> 8)}.${String(index & 255)}.${String(10 + site)}`,
    }));
  const rows: Row[] = [];
  let next = 0;
  try {
    for (const size of sizes) {
      while (next < size) {
        signal.throwIfAborted();
        const indices = Array.from({ length: Math.min(batch, size - next) }, () => next++);
        const made = await Promise.all(indices.map(create));
        await addMachines(
          lab,
          indices.flatMap((index, at) => portsOf(index, made[at]?.fuid ?? '')),
        );
      }
      say(`growth: ${String(size)} networks are there`);
      await sleep(2_000, undefined, { signal });
      const [ready, forwarding, numbered]: [number[], number[], number[]] = [[], [], []];
      for (let round = 0; round < rounds.usual; round++) {
        signal.throwIfAborted();
        const index = next++;
        // The switches may still be busy with the ports of the round before.
        await Promise.all(lab.hosts.flatMap(({ int, edge }) => [int.barrier(), edge.barrier()]));
        let from = performance.now();
        const { fuid, vni } = await create(index);
        ready.push(performance.now() - from);
        from = performance.now();
        const ports = portsOf(index, fuid);
        await addMachines(lab, ports);
        const wait = async (port: Port): Promise<number> => (await isNumbered(port, signal)) - from;
        const floor = Promise.all(ports.map(wait));
        await Promise.all(lab.hosts.map((host) => isForwarding(host, vni, signal)));
        forwarding.push(performance.now() - from);
        numbered.push(Math.max(...(await floor)));
      }
      const beside = `beside ${size.toLocaleString('en')} with a port a site`;
      rows.push(
        {
          name: `network, 3 sites, ${beside}: created → Ready`,
          ours: median(ready),
          rounds: rounds.usual,
          target: limit(median(ready), 100, 'ms'),
        },
        {
          // The switch itself takes longer for a port the more there are.
          name: `a machine’s port at each of 3 sites, ${beside}: → flows everywhere (floor: → the switch has the port)`,
          ours: median(forwarding),
          floor: median(numbered),
          rounds: rounds.usual,
        },
      );
    }
    rows.push(...(await restart({ lab, operator, signal, say }, next)));
    return rows;
  } finally {
    await removeMachines(lab);
    const { items } = await lab.kube.list(resource, { namespace });
    await Promise.all(items.map(({ metadata }) => lab.kube.delete(resource, metadata)));
    for (const { metadata } of items) await watched.until(metadata.name, isGone, 300_000);
  }
}

/** Asks the switch itself until frames to all machines of the network have a way, and those from the one here are let in. */
async function isForwarding({ int }: LabHost, vni: number, signal: AbortSignal): Promise<void> {
  const cookie = networkCookie(vni);
  for (;;) {
    signal.throwIfAborted();
    const forward = await int.dumpFlows({ cookie, table: tables.forward });
    if (forward.filter(({ match }) => match.ethDst?.includes('/') === false).length === 3) return;
  }
}

/** When the switch has given the port a number. */
async function isNumbered(port: Port, signal: AbortSignal): Promise<number> {
  for (;;) {
    signal.throwIfAborted();
    const row = [...port.ovsdb.rows('Interface').values()].find(({ name }) => name === portName(port));
    const ofport: unknown = [row?.['ofport']].flat()[0];
    if (typeof ofport === 'number') return performance.now();
    await sleep(1);
  }
}

async function restart(
  { lab, operator, signal, say }: Pick<Bench, 'lab' | 'operator' | 'signal' | 'say'>,
  count: number,
): Promise<Row[]> {
  const versions = async (): Promise<Set<string>> => {
    const { items } = await lab.kube.list(resource, { namespace });
    const consul = (await lab.consul.list('isthmus/')).map(({ key, index }) => `${key} ${String(index)}`);
    return new Set([...items.map(({ metadata }) => `${metadata.name} ${metadata.resourceVersion}`), ...consul]);
  };
  const differing = (one: Set<string>, other: Set<string>): string[] => [...other].filter((each) => !one.has(each));
  // The statuses of the networks that came last are still being written.
  let before = await versions();
  await until('nothing is written any more', async () => {
    await sleep(1_000, undefined, { signal });
    const earlier = before;
    before = await versions();
    return differing(earlier, before).length === 0;
  });
  await operator.stop();
  const from = performance.now();
  await operator.start();
  await until('every network was looked at, and nothing is left to do', async () => {
    signal.throwIfAborted();
    const text = await (await fetch(metricsUrl)).text();
    const sum = (pattern: RegExp): number =>
      [...text.matchAll(pattern)].reduce((total, [, value]) => total + Number(value), 0);
    const done = sum(/^isthmus_reconcile_total\{controller="federatednetworks"[^}]*\} (\d+)/gm);
    const left = sum(/^isthmus_(?:queue_length|reconcile_active)\{[^}]*\} (\d+)/gm);
    return done >= count && left === 0;
  });
  const spent = performance.now() - from;
  const rss = /^process_resident_memory_bytes (\d+)/m.exec(await (await fetch(metricsUrl)).text())?.[1];
  const memory = Number(rss) / 2 ** 20;
  const written = differing(before, await versions());
  if (written.length > 0) say(`growth: written at the restart: ${written.slice(0, 10).join(', ')}`);
  return [
    {
      name: `restart with ${count.toLocaleString('en')} networks on 3 sites: start → all looked at`,
      ours: spent,
      rounds: 1,
      target: limit(spent, 10_000, 'ms'),
    },
    {
      name: 'restart: objects and keys written',
      unit: '',
      ours: written.length,
      rounds: 1,
      target: limit(written.length, 0, ''),
    },
    {
      name: `operator with ${count.toLocaleString('en')} networks: resident memory`,
      unit: 'MiB',
      ours: memory,
      rounds: 1,
      target: limit(memory, 300, 'MiB'),
    },
  ];
}
