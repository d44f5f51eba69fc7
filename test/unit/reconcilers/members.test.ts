import { describe, expect, it } from '@jest/globals';
import { kinds, type SiteHost } from '../../../crds/index.js';
import { hostsOf } from '../../../reconcilers/audit/gather.js';
import { keys, serialise } from '../../../reconcilers/common/records.js';
import { departure, membersOf, type Departure, type Leaver } from '../../../reconcilers/site/members.js';
import { hostSpec, siteObject } from './support/objects.js';

const host = (name: string, more: Readonly<Record<string, unknown>> = {}): SiteHost => {
  const [spec] = kinds.Site.parse({ ...siteObject('lisbon', { hosts: [hostSpec(name, more)] }) }).spec.hosts;
  if (!spec) throw new Error('a Site has a host');
  return spec;
};

const a = host('a');
const b = host('b', { underlayAddress: '198.51.100.12' });

interface Case {
  readonly reason: string;
  readonly named: readonly SiteHost[];
  readonly recorded?: readonly SiteHost[];
  readonly occupied?: Readonly<Record<string, string>>;
  readonly members: Readonly<Record<'staying' | 'leaving' | 'fenced' | 'waiting', readonly string[]>>;
}
const none = { staying: [], leaving: [], fenced: [], waiting: [] };

describe('the members of a site', () => {
  const cases: readonly Case[] = [
    { reason: 'a host that is named is used, whether it was before or not', named: [a, b], recorded: [a], members: { ...none, staying: ['a', 'b'] } },
    { reason: 'one that is no longer named is leaving', named: [a], recorded: [a, b], members: { ...none, staying: ['a'], leaving: ['b'] } },
    { reason: 'one that was never taken into use is of no concern', named: [a], recorded: [a], members: { ...none, staying: ['a'] } },
    { reason: 'one that is put back stays', named: [a, b], recorded: [a, b], members: { ...none, staying: ['a', 'b'] } },
    { reason: 'a fenced one is neither used nor leaving', named: [a, host('b', { fenced: true })], recorded: [a, b], members: { ...none, staying: ['a'], fenced: ['b'] } },
    { reason: 'another address of the same name is the same host', named: [a, host('b', { underlayAddress: '198.51.100.99' })], recorded: [a, b], members: { ...none, staying: ['a', 'b'] } },
    { reason: 'a new name for the same address waits for the old one to leave', named: [a, host('c', { underlayAddress: '198.51.100.12' })], recorded: [a, b], occupied: { '198.51.100.12': 'lisbon/b' }, members: { ...none, staying: ['a'], leaving: ['b'], waiting: ['c'] } },
    { reason: 'so does one that another site lets go', named: [a, b], recorded: [a], occupied: { '198.51.100.12': 'porto/x' }, members: { ...none, staying: ['a'], waiting: ['b'] } },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ named, recorded = [], occupied = {}, members }) => {
    const { staying, leaving, fenced, waiting } = membersOf(named, recorded, new Map(Object.entries(occupied)));
    const names = (specs: readonly SiteHost[]): string[] => specs.map(({ name }) => name);
    expect({
      staying: names(staying),
      leaving: names(leaving),
      fenced: names(fenced),
      waiting: names(waiting.map(({ spec }) => spec)),
    }).toEqual(members);
  });

  it('a host that waits knows for whom', () => {
    const { waiting } = membersOf([b], [], new Map([['198.51.100.12', 'porto/x']]));
    expect(waiting.map(({ behind }) => behind)).toEqual(['porto/x']);
  });

  it('a host that leaves is used as it was written down', () => {
    expect(membersOf([a], [a, b], new Map()).leaving).toEqual([b]);
  });
});

describe('the hosts that an audit looks at', () => {
  const site = siteObject('lisbon');
  const entry = (value: string) => [{ key: keys.site('lisbon'), value, index: 1 }];
  const cases = [
    { reason: 'of a site that has none on record, those that it names', records: [], names: ['a'] },
    { reason: 'those that leave too: what leads to them is no orphan', records: entry(serialise({ hosts: [a, b] })), names: ['a', 'b'] },
    { reason: 'of a site whose record is damaged, those that it names', records: entry('{'), names: ['a'] },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ records, names }) => {
    expect(hostsOf(site, records).map(({ name }) => name)).toEqual(names);
  });
});

describe('a host that leaves', () => {
  const bare: Leaver = { name: 'b', announced: true, sound: true, holds: [], away: undefined, networks: [] };
  const cases: readonly { reason: string; leaver: Partial<Leaver>; step: Departure['step']; says?: readonly string[] }[] = [
    { reason: 'is kept while it has machines, and says how to help', leaver: { holds: ['FederatedVM acme/web-1', 'domain isth-x-01234567'] }, step: 'keep', says: ['host b', 'FederatedVM acme/web-1, domain isth-x-01234567', 'move or delete them', 'put the host back'] },
    { reason: 'is kept for its machines’ sake though it is away', leaver: { holds: ['FederatedVM acme/web-1'], away: 'connection refused' }, step: 'keep', says: ['acme/web-1'] },
    { reason: 'is kept while nobody can tell what it has', leaver: { sound: false }, step: 'keep', says: ['Consul'] },
    { reason: 'is waited for while it is away', leaver: { away: 'connection refused' }, step: 'keep', says: ['connection refused', 'fenced: true'] },
    { reason: 'is announced before anything is removed', leaver: { announced: false }, step: 'keep', says: ['will be removed'] },
    { reason: 'is announced before its networks are removed too', leaver: { announced: false, networks: ['isth-blue-01234567'] }, step: 'keep' },
    { reason: 'loses its networks, then its bridges', leaver: { networks: ['isth-blue-01234567'] }, step: 'clear', says: ['isth-blue-01234567'] },
    { reason: 'is forgotten when nothing but its bridges is left', leaver: {}, step: 'forget' },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ leaver, step, says = [] }) => {
    const next = departure({ ...bare, ...leaver });
    expect(next.step).toBe(step);
    for (const words of says) expect(next).toMatchObject({ message: expect.stringContaining(words) });
  });
});
