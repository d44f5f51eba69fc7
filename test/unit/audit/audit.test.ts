import { describe, expect, it } from '@jest/globals';
import { EMPTY } from 'rxjs';
import type { KeyValueStore } from '../../../drivers/consul/types.js';
import { audit, judge } from '../../../reconcilers/audit/audit.js';
import type { AuditDependencies } from '../../../reconcilers/audit/gather.js';
import { repair } from '../../../reconcilers/audit/repair.js';
import { describeRemoval } from '../../../reconcilers/audit/finding.js';
import { domainName, diskVolumeName, networkName, seedVolumeName } from '../../../reconcilers/common/identity.js';
import { keys } from '../../../reconcilers/common/records.js';
import { domain, fuids, healthy, libvirtNetwork, lineOf, port, take, volumes } from './federation.js';

const unused = () => Promise.reject(new Error('an audit only reads'));

/** A federation without Sites, whose Consul holds one list of keys after the other. */
function consulOnly(looks: readonly (readonly string[])[]): { dependencies: AuditDependencies; reads: () => number } {
  let reads = 0;
  const store: KeyValueStore = {
    get: unused,
    transact: unused,
    heartbeat: unused,
    watch: () => {
      throw new Error('an audit does not watch');
    },
    close: () => Promise.resolve(),
    list: () => Promise.resolve((looks[reads++] ?? []).map((key) => ({ key, value: fuids.gone, index: reads }))),
  };
  return {
    reads: () => reads,
    dependencies: {
      store,
      hosts: {
        get: () => undefined,
        ofSite: () => [],
        all: () => [],
        inUse: () => undefined,
        problem: () => undefined,
        added: EMPTY,
        removed: EMPTY,
      },
      readObjects: () => Promise.resolve({ sites: [], networks: [], machines: [], templates: [], migrations: [] }),
      isAsked: () => true,
    },
  };
}

describe('two looks', () => {
  const [one, two] = [keys.vlan(101), keys.vlan(102)];
  const line = (key: string): string => `ClaimWithoutObject @ consul: ${key} -> by hand`;
  const cases: { reason: string; looks: string[][]; found: string[]; reads: number }[] = [
    { reason: 'what both show is a finding', looks: [[one], [one]], found: [line(one)], reads: 2 },
    { reason: 'what was gone at the second was on its way out', looks: [[one], []], found: [], reads: 2 },
    { reason: 'what came between them may be on its way in', looks: [[one], [one, two]], found: [line(one)], reads: 2 },
    { reason: 'where the first shows nothing, nobody waits for another', looks: [[]], found: [], reads: 1 },
  ];
  it.each(cases)('$reason', async ({ looks, found, reads: expected }) => {
    const { dependencies, reads } = consulOnly(looks);
    const { report } = await audit(dependencies, () => Promise.resolve());
    expect(report.findings.map(lineOf)).toEqual(found);
    expect(reads()).toBe(expected);
  });
});

it('a dry run tells all that a repair would remove, also what an earlier removal sets free', async () => {
  const draft = healthy();
  const { valencia } = draft.hosts;
  valencia.domains?.push(domain('gone', fuids.gone, 'shutoff', true));
  valencia.volumes?.push(...volumes(fuids.gone, 'shared'));
  valencia.networks?.push(libvirtNetwork(fuids.gone, true));
  valencia.ports?.push(port('vnet8', fuids.gone));
  valencia.flows = { int: [70120], edge: [70120, 4242] };
  draft.consul.set(keys.vlan(3999), fuids.gone);
  draft.consul.set(keys.vlan(3998), fuids.blue);
  const look = take(draft);
  const { dependencies } = consulOnly([]);
  const told: string[] = [];
  const looked = { look, report: { findings: judge(look), away: [] } };
  for await (const { removal, outcome } of repair(looked, dependencies, { dryRun: true }))
    told.push(`${outcome}: ${describeRemoval(removal)}`);
  expect(told.sort()).toEqual(
    [
      `flows of VNI 4242 on bridge isth-edge of valencia/a`,
      `key ${keys.vlan(3999)} of Consul`,
      `libvirt network ${networkName('blue', fuids.gone)} of valencia/a`,
      `port vnet8 on bridge isth-int of valencia/a`,
      `qemu domain ${domainName('gone', fuids.gone)} of valencia/a`,
      `volume ${diskVolumeName(fuids.gone)} in pool shared of valencia/a`,
      `volume ${seedVolumeName(fuids.gone)} in pool shared of valencia/a`,
    ].map((what) => `would be removed: ${what}`),
  );
});
