import { describe, expect, it } from '@jest/globals';
import { Subject } from 'rxjs';
import type { Ovsdb, Row, RowChange } from '../../../drivers/ovsdb/types.js';
import { Ports, type PortChange } from '../../../reconcilers/dataplane/ports.js';

const tunnel = (more: Readonly<Record<string, Row[string]>> = {}): Row => ({
  name: 'isth-1234567890',
  ofport: [11],
  external_ids: new Map([
    ['isthmus', 'tunnel'],
    ['isthmus-peer', 'lisbon/a'],
  ]),
  bfd_status: new Map([['state', 'up']]),
  ...more,
});
const bfd = (state: string, diagnostic = 'No Diagnostic') =>
  new Map([
    ['state', state],
    ['diagnostic', diagnostic],
  ]);

describe('a tunnel', () => {
  function ports(first: Row) {
    const changes = new Subject<RowChange>();
    const ovsdb: Pick<Ovsdb, 'changes' | 'rows'> = { changes, rows: () => new Map([['1', first]]) };
    const known = new Ports(ovsdb);
    const seen: PortChange[] = [];
    known.changes.subscribe((change) => seen.push(change));
    const take = (row: Row | undefined) =>
      changes.next({ table: 'Interface', uuid: '1', ...(row ? { new: row } : {}) });
    return { known, seen, take };
  }

  const cases: readonly { reason: string; row: Row | undefined; tells: readonly PortChange[] }[] = [
    { reason: 'as it was, is no news', row: tunnel(), tells: [] },
    { reason: 'that BFD gives up concerns no flow', row: tunnel({ bfd_status: bfd('down', 'Control Detection Time Expired') }), tells: [{ liveness: true }] },
    { reason: 'of which only BFD’s counters change is no news', row: tunnel({ bfd_status: new Map([['state', 'up'], ['flap_count', '7']]) }), tells: [] },
    { reason: 'that gets another number concerns all flows', row: tunnel({ ofport: [12] }), tells: [{ infrastructure: true }] },
    { reason: 'that goes concerns all', row: undefined, tells: [{ infrastructure: true }, { liveness: true }] },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ row, tells }) => {
    const { seen, take } = ports(tunnel());
    take(row);
    expect(seen).toEqual(tells);
  });

  it('is up when BFD says so, and only then', () => {
    const { known, take } = ports(tunnel({ bfd_status: bfd('init') }));
    expect([...known.liveness()]).toEqual([['lisbon/a', { isUp: false, diagnostic: 'No Diagnostic' }]]);
    take(tunnel({ bfd_status: bfd('up') }));
    expect(known.liveness().get('lisbon/a')?.isUp).toBe(true);
    take(tunnel({ bfd_status: new Map() }));
    expect([...known.liveness()]).toEqual([['lisbon/a', undefined]]);
  });

  it('has a way for probes once the switch has made its port', () => {
    const { known, take } = ports(tunnel({ ofport: [] }));
    expect(known.tunnels().size).toBe(0);
    take(tunnel({ ofport: [-1] }));
    expect(known.tunnels().size).toBe(0);
    take(tunnel());
    expect([...known.tunnels()]).toEqual([['lisbon/a', 11]]);
  });
});
