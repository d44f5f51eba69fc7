import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { kinds } from '../../crds/index.js';
import { openOvsdb, type Operation, type Ovsdb } from '../../drivers/ovsdb/index.js';
import { integrationBridge, interfaceId, macAddress, networkCookie } from '../../reconcilers/common/identity.js';
import { keys, serialise, type VmRecord } from '../../reconcilers/common/records.js';
import { tables } from '../../reconcilers/dataplane/layout.js';
import type { Bench, Case } from '../bench.js';
import { mark } from '../floor/marks.js';
import type { Lab, LabHost } from '../lab.js';
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

/**
 * A machine as the data plane sees it: the record that says where it is, and a port that carries its interface's id. No
 * domain, so that a thousand of them fit; the port is one end of a patch that leads nowhere.
 */
interface Port {
  readonly host: LabHost;
  readonly ovsdb: Ovsdb;
  readonly fuid: string;
  readonly network: string;
  readonly address: string;
}

const portName = ({ fuid }: Port): string => `b${fuid.slice(0, 12)}`;

function recordOf({ host, fuid, network, address }: Port): VmRecord {
  return {
    ...{ namespace, name: `${mark}-${fuid}`, site: host.site, host: host.spec.name, generation: 1 },
    ...{ phase: 'Owned', disk: false },
    interfaces: [{ network, name: mark, id: interfaceId(fuid, 0), mac: macAddress(fuid, 0), address }],
  };
}

function plugIn(port: Port): Operation[] {
  const [name, id] = [portName(port), port.fuid.replaceAll('-', '')];
  const ids = ['map', [['iface-id', interfaceId(port.fuid, 0)]]];
  const options = ['map', [['peer', `${name}-0`]]];
  return [
    {
      op: 'insert',
      table: 'Interface',
      'uuid-name': `i${id}`,
      row: { name, type: 'patch', options, external_ids: ids },
    },
    {
      ...{ op: 'insert', table: 'Port', 'uuid-name': `p${id}` },
      row: { name, interfaces: ['named-uuid', `i${id}`], external_ids: ['map', [[mark, 'port']]] },
    },
    {
      ...{ op: 'mutate', table: 'Bridge', where: [['name', '==', integrationBridge]] },
      mutations: [['ports', 'insert', ['named-uuid', `p${id}`]]],
    },
  ];
}

async function addMachines(lab: Lab, ports: readonly Port[]): Promise<void> {
  await lab.consul.transact(
    ports.map((port) => ({ verb: 'set', key: keys.vm(port.fuid), value: serialise(recordOf(port)) })),
  );
  for (const ovsdb of new Set(ports.map((port) => port.ovsdb)))
    await ovsdb.transact(ports.filter((port) => port.ovsdb === ovsdb).flatMap(plugIn));
}

/** Every machine of the bench, also those of a run that was killed. */
async function removeMachines(lab: Lab, hosts: ReadonlyMap<LabHost, Ovsdb>): Promise<void> {
  for (const { key, value } of await lab.consul.list('isthmus/vm/'))
    if (value.includes(`"${mark}-`)) await lab.consul.transact([{ verb: 'delete', key }]);
  for (const ovsdb of hosts.values()) {
    const [answer] = await ovsdb.transact([
      {
        op: 'select',
        table: 'Port',
        where: [['external_ids', 'includes', ['map', [[mark, 'port']]]]],
        columns: ['_uuid'],
      },
    ]);
    const rows = z.object({ rows: z.array(z.object({ _uuid: z.unknown() })) }).parse(answer).rows;
    if (rows.length === 0) continue;
    await ovsdb.transact(
      [
        {
          ...{ op: 'mutate', table: 'Bridge', where: [['name', '==', integrationBridge]] },
          mutations: [['ports', 'delete', ['set', rows.map(({ _uuid }) => _uuid)]]],
        },
      ],
      60_000,
    );
  }
}

async function run({ lab, operator, rounds, signal, say }: Bench): Promise<Row[]> {
  await operator.start();
  const hosts = new Map<LabHost, Ovsdb>();
  for (const host of lab.hosts) {
    const ovsdb = openOvsdb(host.spec.ovs.ovsdb, { Interface: ['name', 'ofport'] }, { tls: host.tls });
    await ovsdb.ready();
    hosts.set(host, ovsdb);
  }
  await using watched = await Watched.open(lab.kube, resource, namespace);
  const create = async (index: number): Promise<{ fuid: string; vni: number }> => {
    const cidr = `10.${String(index >> 8)}.${String(index & 255)}.0/24`;
    const name = `g-${String(index)}`;
    const { metadata } = await lab.kube.create(resource, { metadata: { namespace, name }, spec: { cidr } });
    const { vni } = statusOf(await watched.until(name, isReady, 120_000));
    return { fuid: metadata.uid, vni: vni ?? 0 };
  };
  const portsOf = (index: number, network: string): Port[] =>
    [...hosts].map(([host, ovsdb], site) => ({
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
    rows.push(...(await restart({ lab, operator, signal }, next)));
    return rows;
  } finally {
    try {
      await removeMachines(lab, hosts);
      const { items } = await lab.kube.list(resource, { namespace });
      await Promise.all(items.map(({ metadata }) => lab.kube.delete(resource, metadata)));
      for (const { metadata } of items) await watched.until(metadata.name, isGone, 300_000);
    } finally {
      for (const ovsdb of hosts.values()) await ovsdb.close();
    }
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
  { lab, operator, signal }: Pick<Bench, 'lab' | 'operator' | 'signal'>,
  count: number,
): Promise<Row[]> {
  const versions = async (): Promise<string> => {
    const { items } = await lab.kube.list(resource, { namespace });
    const consul = (await lab.consul.list('isthmus/')).map(({ key, index }) => `${key} ${String(index)}`);
    return [...items.map(({ metadata }) => `${metadata.name} ${metadata.resourceVersion}`), ...consul]
      .sort()
      .join('\n');
  };
  const before = await versions();
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
  const written = (await versions()) === before ? 0 : 1;
  return [
    {
      name: `restart with ${count.toLocaleString('en')} networks on 3 sites: start → all looked at`,
      ours: spent,
      rounds: 1,
      target: limit(spent, 10_000, 'ms'),
    },
    {
      name: 'restart: whether anything was written to the API server or Consul',
      unit: '',
      ours: written,
      rounds: 1,
      target: limit(written, 0, ''),
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
