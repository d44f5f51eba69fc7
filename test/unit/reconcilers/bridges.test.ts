import { describe, expect, it } from '@jest/globals';
import { Stalled } from '../../../reconcilers/common/errors.js';
import { diffBridges, listenerOf, removeBridges } from '../../../reconcilers/site/bridges.js';

describe('the listener of an end point', () => {
  const cases = [
    { reason: 'plain', endpoint: 'tcp:198.51.100.11:6654', listener: 'ptcp:6654:198.51.100.11' },
    { reason: 'with TLS', endpoint: 'ssl:198.51.100.11:6655', listener: 'pssl:6655:198.51.100.11' },
    { reason: 'IPv6 keeps its brackets', endpoint: 'tcp:[fd00::1]:6654', listener: 'ptcp:6654:[fd00::1]' },
  ];
  it.each(cases)('is the same address and port, seen from the other side: $reason', ({ endpoint, listener }) => {
    expect(listenerOf(endpoint)).toBe(listener);
  });

  const refused = [
    { reason: 'a socket file is of no use to another host', endpoint: 'unix:/run/isth-int.sock' },
    { reason: 'no port', endpoint: 'tcp:198.51.100.11' },
    { reason: 'a listener already', endpoint: 'ptcp:6654' },
    { reason: 'nothing', endpoint: '' },
  ];
  it.each(refused)('is refused by naming the end point: $reason', ({ endpoint }) => {
    expect(() => listenerOf(endpoint)).toThrow(Stalled);
    expect(() => listenerOf(endpoint)).toThrow(`OpenFlow end point ${endpoint}`);
  });
});

// What the operations come to is seen in test/contract/bridges.test.ts, by a real ovsdb-server.
describe('a host that holds nothing', () => {
  const empty = () => new Map<string, never>();

  it('has nothing to remove', () => {
    expect(removeBridges(empty)).toEqual([]);
  });

  it('gets each bridge in one transaction, so that there is never half of one', () => {
    const wanted = {
      datapathType: 'system',
      underlayAddress: '198.51.100.11',
      listeners: { int: 'ptcp:1:a', edge: 'ptcp:2:a' },
      peers: [],
    };
    expect(diffBridges(wanted, empty).map(({ reason }) => reason)).toEqual([
      'create bridge isth-int',
      'create bridge isth-edge',
    ]);
  });
});
