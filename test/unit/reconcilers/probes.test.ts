import { describe, expect, it } from '@jest/globals';
import { writeEntry } from '../../../drivers/floodlight/entry.js';
import { macAddress, probeMacs } from '../../../reconcilers/common/identity.js';
import { probes } from '../../../reconcilers/dataplane/layout.js';
import { bridgeFlows } from '../../../reconcilers/dataplane/tables.js';
import { hostKey } from '../../../reconcilers/host.js';
import type { Frame } from './support/tables.js';
import { World, type WorldHost, type WorldMachine } from './support/world.js';

const hosts: readonly WorldHost[] = [
  { site: 'valencia', name: 'v1' },
  { site: 'valencia', name: 'v2' },
  { site: 'saopaulo', name: 's1' },
];
const blue = { name: 'acme/blue', vlan: 100, vni: 5000, sites: ['valencia', 'saopaulo'] };
const machines: readonly WorldMachine[] = [
  { name: 'acme/a', network: 'acme/blue', mac: '02:00:00:00:00:0a', address: '172.16.0.10', host: 'v1' },
  { name: 'acme/router', network: 'acme/blue', mac: '02:00:00:00:00:0b', address: '172.16.0.11', host: 'v1', role: 'Router' },
  { name: 'acme/d', network: 'acme/blue', mac: '02:00:00:00:00:0d', address: '172.16.0.13', host: 's1' },
]; // prettier-ignore
const world = new World(hosts, [blue], machines);

const macs = (name: string) => {
  const host = hosts.find((each) => each.name === name);
  if (!host) throw new Error(`no host ${name}`);
  return probeMacs(hostKey({ site: host.site, host: name }));
};
const probe = (ethSrc: string, ethDst: string, over: Partial<Frame> = {}): Frame => ({
  vlans: [probes.vlan],
  ethSrc,
  ethDst,
  ethType: probes.etherType,
  ...over,
});
const request = (from: string, to: string, over: Partial<Frame> = {}) =>
  probe(macs(from).reply, macs(to).request, over);
const broadcast = 'ff:ff:ff:ff:ff:ff';

describe('a probe', () => {
  const pairs = hosts.flatMap((from) => hosts.filter((to) => to !== from).map((to) => [from.name, to.name] as const));
  it.each(pairs)('from %s comes back from %s, by way of its isth-int, to us alone', (from, to) => {
    const back = probe(macs(to).request, macs(from).reply);
    expect(world.inject(from, request(from, to))).toEqual([{ machine: 'controller', at: from, frame: back }]);
    expect(world.hops).toContain(`${to}: int 1 → 1`);
    expect(new Set(world.hops.map((hop) => hop.split(':')[0]))).toEqual(new Set([from, to]));
  });

  const [v1, s1] = [macs('v1'), macs('s1')];
  const lost: readonly { reason: string; frame: Frame }[] = [
    { reason: 'for nobody', frame: probe(v1.reply, '06:00:00:00:00:99') },
    { reason: 'for all', frame: probe(v1.reply, broadcast) },
    { reason: 'for its own sender', frame: probe(v1.reply, v1.request) },
    { reason: 'whose answer would go to a third', frame: probe('06:00:00:00:00:99', s1.request) },
    { reason: 'with a machine’s address', frame: probe(v1.reply, '02:00:00:00:00:0d') },
    { reason: 'that is IP', frame: request('v1', 's1', { ethType: 0x0800, ip: { protocol: 17, src: '172.16.0.10', dst: '172.16.0.13' } }) },
    { reason: 'with a second tag', frame: request('v1', 's1', { vlans: [probes.vlan, blue.vlan], ethType: 0x8100 }) },
    { reason: 'in a network', frame: request('v1', 's1', { vlans: [blue.vlan] }) },
  ]; // prettier-ignore
  it.each(lost)('$reason reaches nobody', ({ frame }) => {
    expect(world.inject('v1', frame)).toEqual([]);
  });
});

describe('what arrives by a tunnel as a probe', () => {
  const [v1, v2, s1] = [macs('v1'), macs('v2'), macs('s1')];
  const untagged = { vlans: [] };
  const cases: readonly { reason: string; frame: Frame; reaches: readonly string[] }[] = [
    { reason: 'an answer is for us', frame: probe(s1.request, v1.reply, untagged), reaches: ['controller'] },
    { reason: 'a request goes back by the tunnel', frame: probe(s1.reply, v1.request, untagged), reaches: ['controller'] },
    { reason: 'a request for another host is not passed on', frame: probe(s1.reply, v2.request, untagged), reaches: [] },
    { reason: 'nor an answer', frame: probe(s1.request, v2.reply, untagged), reaches: [] },
    { reason: 'a machine is not on this way', frame: probe(s1.reply, '02:00:00:00:00:0a', untagged), reaches: [] },
    { reason: 'nor are all', frame: probe(s1.reply, broadcast, untagged), reaches: [] },
    { reason: 'nor does a tag lead into a network', frame: probe(s1.reply, '02:00:00:00:00:0a', { vlans: [blue.vlan] }), reaches: [] },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ frame, reaches }) => {
    expect(world.arrive('v1', 's1', probes.vni, frame).map(({ machine }) => machine)).toEqual(reaches);
  });

  it('does not come to us by a network’s VNI', () => {
    expect(world.arrive('v1', 's1', blue.vni, probe(s1.request, v1.reply, untagged))).toEqual([]);
  });
});

describe('a tenant’s machine', () => {
  const frames: readonly { reason: string; frame: Frame }[] = [
    { reason: 'as a prober would', frame: request('v1', 's1') },
    { reason: 'with its own address', frame: probe('02:00:00:00:00:0a', macs('s1').request) },
    { reason: 'untagged', frame: probe('02:00:00:00:00:0a', macs('s1').request, { vlans: [] }) },
    { reason: 'to us', frame: probe('02:00:00:00:00:0a', macs('v1').reply, { vlans: [] }) },
    { reason: 'in an address of ours', frame: probe(macs('s1').request, macs('v1').reply, { vlans: [] }) },
  ];
  it.each(frames)('sends no probe: $reason', ({ frame }) => {
    for (const machine of ['acme/a', 'acme/router']) expect(world.send(machine, frame)).toEqual([]);
  });
});

describe('the flows of probes', () => {
  const patch = { int: 1, edge: 2 } as const;
  const flows = bridgeFlows({
    ...{ self: 'valencia/v1', patch },
    tunnels: new Map([
      ['valencia/v2', 11],
      ['saopaulo/s1', 12],
    ]),
  });

  it('are even in isth-edge, and of what Floodlight’s static entries can say', () => {
    expect(flows.edge.length).toBeGreaterThan(0);
    for (const flow of flows.edge) {
      expect(flow.priority % 2).toBe(0);
      expect(() => writeEntry(1n, 'entry', flow)).not.toThrow();
    }
  });

  it('let nothing come to us but through the meter', () => {
    const punting = flows.int.filter(({ instructions }) =>
      instructions.apply?.some((action) => action.type === 'output' && action.port === 'controller'),
    );
    expect(punting.map(({ instructions }) => instructions.meter)).toEqual([probes.meter.id]);
  });

  it('are none on a host without peers', () => {
    expect(bridgeFlows({ self: 'valencia/v1', patch, tunnels: new Map() })).toEqual(bridgeFlows());
  });
});

describe('the addresses of probes', () => {
  it('are never a machine’s, whoever’s hash comes out how', () => {
    for (let index = 0; index < 200; index++) {
      const { request: asked, reply } = probeMacs(`site/${String(index)}`);
      expect(asked).not.toBe(reply);
      for (const mac of [asked, reply]) expect(parseInt(mac.slice(0, 2), 16) & 0x0f).toBe(0x06);
      expect(parseInt(macAddress(`fuid-${String(index)}`, 0).slice(0, 2), 16) & 0x0f).toBe(0x02);
    }
  });
});
