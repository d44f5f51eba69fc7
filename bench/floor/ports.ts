/** Machines without a domain: what the data plane sees of one. */
import { z } from 'zod';
import { openOvsdb, type Operation, type Ovsdb } from '../../drivers/ovsdb/index.js';
import { integrationBridge, interfaceId, macAddress } from '../../reconcilers/common/identity.js';
import { keys, serialise, type VmRecord } from '../../reconcilers/common/records.js';
import type { Lab, LabHost } from '../lab.js';
import { namespace } from '../objects.js';
import { mark } from './marks.js';

/** An OVSDB connection to each host of the lab. */
export class Databases implements AsyncDisposable {
  private constructor(readonly hosts: ReadonlyMap<LabHost, Ovsdb>) {}

  static async open(lab: Lab): Promise<Databases> {
    const hosts = new Map<LabHost, Ovsdb>();
    for (const host of lab.hosts) {
      const ovsdb = openOvsdb(host.spec.ovs.ovsdb, { Interface: ['name', 'ofport'] }, { tls: host.tls });
      await ovsdb.ready();
      hosts.set(host, ovsdb);
    }
    return new Databases(hosts);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const ovsdb of this.hosts.values()) await ovsdb.close();
  }
}

/**
 * A machine as the data plane sees it: the record that says where it is, and a port that carries its interface's id. No
 * domain, so that a thousand of them fit; the port is one end of a patch that leads nowhere, or an interface of the host.
 */
export interface Port {
  readonly host: LabHost;
  readonly ovsdb: Ovsdb;
  readonly fuid: string;
  readonly network: string;
  readonly address: string;
  /** The host itself is the machine, by an interface of this port's name. */
  readonly isHost?: true;
}

export const portName = ({ fuid }: Port): string => `b${fuid.slice(0, 12)}`;

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
  const device = port.isHost
    ? { type: 'internal', mac: macAddress(port.fuid, 0) }
    : { type: 'patch', options: ['map', [['peer', `${name}-0`]]] };
  return [
    {
      op: 'insert',
      table: 'Interface',
      'uuid-name': `i${id}`,
      row: { name, ...device, external_ids: ids },
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

export async function addMachines(lab: Lab, ports: readonly Port[]): Promise<void> {
  await lab.consul.transact(
    ports.map((port) => ({ verb: 'set', key: keys.vm(port.fuid), value: serialise(recordOf(port)) })),
  );
  for (const ovsdb of new Set(ports.map((port) => port.ovsdb)))
    await ovsdb.transact(ports.filter((port) => port.ovsdb === ovsdb).flatMap(plugIn));
}

/** Every machine of the bench, also those of a run that was killed. */
export async function removeMachines(lab: Lab): Promise<void> {
  await using databases = await Databases.open(lab);
  for (const { key, value } of await lab.consul.list('isthmus/vm/'))
    if (value.includes(`"${mark}-`)) await lab.consul.transact([{ verb: 'delete', key }]);
  for (const ovsdb of databases.hosts.values()) {
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
