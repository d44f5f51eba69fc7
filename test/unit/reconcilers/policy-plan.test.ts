import { describe, expect, it } from '@jest/globals';
import type { FederatedNetwork } from '../../../crds/index.js';
import { planPolicy } from '../../../reconcilers/network/policy.js';
import { interruptionOf } from './support/interruption.js';
import { networkObject, objectsOf } from './support/objects.js';

const red = networkObject('red', { cidr: '10.7.0.0/24' });
const foreign = networkObject('green', { cidr: '10.8.0.0/24' }, { namespace: 'other' });
const plan = (spec: Readonly<Record<string, unknown>>) => {
  const network: FederatedNetwork = networkObject('blue', spec);
  return planPolicy(network, objectsOf({ networks: [network, red, foreign] }));
};
const flow = (name: string, more: object = {}) => ({
  ...{ name, at: 'Port', priority: 300, match: { ethType: 'ipv4', ipProtocol: 'tcp' }, actions: [{ drop: {} }] },
  ...more,
});
const rule = (more: object) => ({ direction: 'Ingress', action: 'Allow', ...more });

describe('planPolicy', () => {
  const cases: readonly { reason: string; spec: Readonly<Record<string, unknown>>; policy: object }[] = [
    { reason: 'nothing is nothing', spec: {}, policy: { flows: [] } },
    { reason: 'a firewall without a word allows', spec: { firewall: {} }, policy: { flows: [], firewall: { defaultAction: 'Allow', rules: [] } } },
    { reason: 'a network stands for its addresses', spec: { firewall: { rules: [rule({ from: [{ network: 'red' }, { cidr: '10.9.0.0/16' }] })] } }, policy: { flows: [], firewall: { defaultAction: 'Allow', rules: [rule({ peers: ['10.7.0.0/24', '10.9.0.0/16'] })] } } },
    { reason: 'to is for Egress what from is for Ingress', spec: { firewall: { rules: [{ direction: 'Egress', action: 'Deny', to: [{ network: 'red' }] }] } }, policy: { flows: [], firewall: { defaultAction: 'Allow', rules: [{ direction: 'Egress', action: 'Deny', peers: ['10.7.0.0/24'] }] } } },
    { reason: 'flows that differ in match, priority or place are several', spec: { flows: [flow('a'), flow('b', { priority: 301 }), flow('c', { at: 'Boundary' }), flow('d', { match: {} })] }, policy: { flows: [flow('a'), flow('b', { priority: 301 }), flow('c', { at: 'Boundary' }), flow('d', { match: {} })] } },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ spec, policy }) => {
    expect(plan(spec)).toEqual(policy);
  });

  const ports = Array.from(
    { length: 16 },
    (_, index) => `${String(1 + index * 4_000)}-${String(3_999 + index * 4_000)}`,
  );
  const peers = Array.from({ length: 16 }, (_, index) => ({ cidr: `10.${String(index)}.0.0/16` }));
  const refused: readonly { reason: string; spec: Readonly<Record<string, unknown>>; code: string; why: string; names: readonly string[] }[] = [
    { reason: 'of two flows of one priority and match only one could be there', spec: { flows: [flow('a'), flow('b', { priority: 5 }), flow('twin', { actions: [{ allow: {} }] })] }, code: 'STALLED', why: 'FlowRejected', names: ['spec.flows[2] (twin)', 'spec.flows[0] (a)'] },
    { reason: 'also when the match is written in another order', spec: { flows: [flow('a'), flow('twin', { match: { ipProtocol: 'tcp', ethType: 'ipv4' } })] }, code: 'STALLED', why: 'FlowRejected', names: ['spec.flows[1] (twin)'] },
    { reason: 'a network that is not there may come', spec: { firewall: { rules: [rule({}), rule({ from: [{ cidr: '10.0.0.0/8' }, { network: 'grey' }] })] } }, code: 'WAITING', why: 'FirewallRejected', names: ['spec.firewall.rules[1].from[1].network', 'grey', 'acme'] },
    { reason: 'another tenant’s network is not there', spec: { firewall: { rules: [rule({ from: [{ network: 'green' }] })] } }, code: 'WAITING', why: 'FirewallRejected', names: ['green'] },
    { reason: 'more flows than a switch should hold for one network', spec: { firewall: { defaultAction: 'Deny', rules: [rule({ protocol: 'TCP', ports, from: peers }), rule({ protocol: 'UDP', ports, from: peers })] } }, code: 'STALLED', why: 'FirewallRejected', names: ['spec.firewall', '4096'] },
  ]; // prettier-ignore
  it.each(refused)('stops, and names the entry and the way out: $reason', ({ spec, code, why, names }) => {
    const interruption = interruptionOf(() => plan(spec));
    expect(interruption).toMatchObject({ code: `ISTHMUS_${code}`, reason: why });
    for (const name of names) expect(interruption.message).toContain(name);
  });
});
