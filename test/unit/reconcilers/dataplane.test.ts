import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { NEVER } from 'rxjs';
import type { Row } from '../../../drivers/ovsdb/types.js';
import { interfaceId, patchPorts } from '../../../reconcilers/common/identity.js';
import type { HostRef, NetworkRecord, VmRecord } from '../../../reconcilers/common/records.js';
import { Dataplane } from '../../../reconcilers/dataplane/dataplane.js';
import { hostKey, type Host } from '../../../reconcilers/host.js';
import { liveDirectory } from './support/objects.js';
import { MemorySwitch } from './support/switch.js';

const [network, machine, attempt] = ['network', 'machine', 'attempt'];
const [vni, mac] = [5000, '02:00:00:00:00:01'];
const [valencia, saopaulo, lisbon] = ['valencia', 'saopaulo', 'lisbon'].map((site) => ({ site, host: 'a' })) as [
  HostRef,
  HostRef,
  HostRef,
];
const places = [valencia, saopaulo, lisbon];

const blue: NetworkRecord = {
  ...{ namespace: 'acme', name: 'blue', cidr: '172.16.0.0/16', vlan: 100, vni, mtu: 1450, leaving: [] },
  sites: places.map(({ site }) => site),
};
const owned: VmRecord = {
  ...{ namespace: 'acme', name: 'web', ...valencia, generation: 1, phase: 'Owned', disk: true },
  interfaces: [{ network, name: 'blue', id: interfaceId(machine, 0), mac, address: '172.16.0.20' }],
};
const moving: VmRecord = { ...owned, phase: 'Moving', attempt, target: saopaulo };
const moved: VmRecord = { ...owned, ...saopaulo, generation: 2 };

const [patch, port, firstTunnel] = [1, 5, 10];

function interfaces(self: HostRef): ReadonlyMap<string, Row> {
  const ours = (kind: string) => ['isthmus', kind] as const;
  const tunnels = places.map((peer, index) => ({ peer, ofport: firstTunnel + index }));
  const rows: Row[] = [
    ...Object.values(patchPorts).map((name) => ({ name, ofport: [patch], external_ids: new Map([ours('patch')]) })),
    ...tunnels
      .filter(({ peer }) => peer !== self)
      .map(({ peer, ofport }) => ({
        ...{ name: `to ${hostKey(peer)}`, ofport: [ofport] },
        external_ids: new Map([ours('tunnel'), ['isthmus-peer', hostKey(peer)]]),
      })),
    // A move's target has its port long before the guest runs there.
    ...(self === lisbon
      ? []
      : [{ name: 'vnet0', ofport: [port], external_ids: new Map([['iface-id', interfaceId(machine, 0)]]) }]),
  ];
  return new Map(rows.map((row, index) => [String(index), row]));
}

const hosts = places.map((ref) => ({
  ...ref,
  ovsdb: { changes: NEVER, rows: () => interfaces(ref) },
  ...{ int: new MemorySwitch(), edge: new MemorySwitch(), floodlight: undefined },
}));

/** Where each host sends frames for the machine. */
function sent(): Record<string, string> {
  return Object.fromEntries(
    hosts.map(({ site, int, edge }) => {
      const to = (bridge: MemorySwitch) => [...bridge.flows.values()].filter(({ match }) => match.ethDst === mac);
      const here = to(int).some(({ instructions }) => instructions.goto !== undefined);
      const away = to(edge).flatMap(({ instructions }) =>
        (instructions.apply ?? []).flatMap((action) =>
          action.type === 'output' ? (places[Number(action.port) - firstTunnel]?.site ?? '?') : [],
        ),
      );
      return [site, [...(here ? ['here'] : []), ...away].join(' and ')];
    }),
  );
}

const toValencia = { valencia: 'here', saopaulo: 'valencia', lisbon: 'valencia' };
const toSaopaulo = { valencia: 'saopaulo', saopaulo: 'here', lisbon: 'saopaulo' };

describe('where a machine’s frames go', () => {
  let known: ReturnType<typeof liveDirectory>;
  let dataplane: Dataplane;

  beforeEach(() => {
    known = liveDirectory({ [machine]: owned }, { [network]: blue });
    for (const { int, edge } of hosts) for (const bridge of [int, edge]) bridge.connect();
    const all = hosts as unknown as Host[];
    dataplane = new Dataplane(
      {
        ...{ all: () => all, added: NEVER, removed: NEVER, ofSite: () => [], problem: () => undefined },
        ...{ get: () => undefined, inUse: () => undefined },
      },
      known.directory,
      () => undefined,
    );
    dataplane.start();
  });

  afterEach(() => dataplane.close());

  const settled = async (): Promise<Record<string, string>> => {
    const reports = await Promise.all(places.map(async (ref) => await dataplane.ensure(ref, vni)));
    expect(reports.map(({ error }) => error)).toEqual([undefined, undefined, undefined]);
    return sent();
  };
  const head = (to: HostRef | undefined, of = attempt) => dataplane.head(machine, of, to);
  const put = (record: VmRecord) => known.put(machine, record);

  const cases: readonly { reason: string; steps: readonly (() => void)[]; goes: Record<string, string> }[] = [
    { reason: 'its record says where it is', steps: [], goes: toValencia },
    { reason: 'it runs at the source while it is copied', steps: [() => put(moving)], goes: toValencia },
    { reason: 'it is being handed over', steps: [() => put(moving), () => head(saopaulo)], goes: toSaopaulo },
    { reason: 'it goes on at the source after all', steps: [() => put(moving), () => head(saopaulo), () => head(undefined)], goes: toValencia },
    { reason: 'the target owns it', steps: [() => put(moving), () => head(saopaulo), () => put(moved)], goes: toSaopaulo },
    { reason: 'the target owns it, and nobody saw it handed over', steps: [() => put(moving), () => put(moved)], goes: toSaopaulo },
    { reason: 'the move was given up', steps: [() => put(moving), () => head(saopaulo), () => put(owned)], goes: toValencia },
    { reason: 'another attempt than what the record tells of says nothing', steps: [() => put(moving), () => head(saopaulo, 'another')], goes: toValencia },
    { reason: 'a later attempt begins at the source', steps: [() => put(moving), () => head(saopaulo), () => put({ ...moving, attempt: 'another' })], goes: toValencia },
    { reason: 'what was over before comes late', steps: [() => head(saopaulo), () => put(owned)], goes: toValencia },
  ]; // prettier-ignore
  it.each(cases)('$reason', async ({ steps, goes }) => {
    await settled();
    for (const step of steps) {
      step();
      await settled();
    }
    expect(sent()).toEqual(goes);
  });
});
