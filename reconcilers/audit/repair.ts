import { constants } from '../../drivers/libvirt/index.js';
import type { Connection } from '../../drivers/libvirt/types.js';
import { consul } from '../common/allocation.js';
import { messageOf, Transient } from '../common/errors.js';
import { networkCookie } from '../common/identity.js';
import { tolerating } from '../common/libvirt.js';
import type { HostRef } from '../common/records.js';
import { hostKey, type Host, type Hosts } from '../host.js';
import { removeNetwork } from '../network/libvirt.js';
import { judge, type Looked } from './audit.js';
import { findingKey, type Finding, type Removal } from './finding.js';
import { gather, type AuditDependencies } from './gather.js';
import { isOff, type HostLook, type Look } from './look.js';

/** What became of one thing. */
export interface Repaired {
  readonly finding: Finding;
  readonly removal: Removal;
  readonly outcome: 'removed' | 'would be removed' | 'left';
  /** Why it was left. */
  readonly why: string | undefined;
}

/**
 * Takes away, one by one, what the audit found and nobody can have a claim to. Before each removal everything is looked at
 * again, and the same checks decide again; so what an earlier removal sets free (the keys of a domain that is gone) goes too. A
 * dry run does the same to what the last look saw, and touches nothing.
 */
export async function* repair(
  { look, report }: Looked,
  dependencies: AuditDependencies,
  { dryRun }: { readonly dryRun: boolean },
): AsyncGenerator<Repaired> {
  const confirmed = new Set(report.findings.map(findingKey));
  const tried = new Set<string>();
  let seen = look;
  for (;;) {
    if (!dryRun) seen = await gather(dependencies);
    const finding = judge(seen).find((each) => {
      const key = findingKey(each);
      return each.removal && confirmed.has(key) && !tried.has(key);
    });
    if (!finding?.removal) return;
    const { removal } = finding;
    tried.add(findingKey(finding));
    if (dryRun) {
      seen = without(seen, removal);
      yield { finding, removal, outcome: 'would be removed', why: undefined };
      continue;
    }
    const why = await attempt(removal, dependencies);
    yield { finding, removal, outcome: why === undefined ? 'removed' : 'left', why };
  }
}

/** undefined: it is gone. */
async function attempt(removal: Removal, dependencies: AuditDependencies): Promise<string | undefined> {
  try {
    await remove(removal, dependencies);
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

/** Each removal asks the daemon once more for what may have changed since the look, or is such that a change defeats it. */
async function remove(removal: Removal, { store, hosts }: AuditDependencies): Promise<void> {
  switch (removal.kind) {
    case 'key': {
      const { key, index } = removal;
      const result = await consul('removing a key', () => store.transact([{ verb: 'delete-cas', key, index }]));
      if (!result.ok) throw new Transient('RecordChanged', 'it changed meanwhile');
      return;
    }
    case 'domain': {
      const { connection } = linkOf(hostOf(removal.at, hosts), removal.driver);
      const status = await connection.domainState(removal.uuid);
      if (!isOff(status)) throw new Transient('DomainStarted', `it is ${status.state}`);
      // Not a managed save: that is the memory of a machine, and libvirt refuses to drop it unasked.
      const { DOMAIN_UNDEFINE_SNAPSHOTS_METADATA, DOMAIN_UNDEFINE_CHECKPOINTS_METADATA, DOMAIN_UNDEFINE_NVRAM } =
        constants;
      const flags = DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | DOMAIN_UNDEFINE_NVRAM;
      // LXC keeps none of these, and takes no flags.
      await connection.undefineDomain(removal.uuid, removal.driver === 'qemu' ? flags : 0);
      return;
    }
    case 'volume': {
      const { at, pool, name, shared } = removal;
      for (const host of shared ? hosts.all() : [hostOf(at, hosts)]) await refuseUse(host, name);
      await hostOf(at, hosts).libvirt.connection.deleteVolume(pool, name);
      return;
    }
    case 'network': {
      const host = hostOf(removal.at, hosts);
      await refuseUse(host, removal.name);
      await removeNetwork(host, removal.fuid);
      return;
    }
    case 'port': {
      const { at, bridgeUuid, uuid } = removal;
      await hostOf(at, hosts).ovsdb.transact([
        {
          op: 'mutate',
          table: 'Bridge',
          where: [['_uuid', '==', ['uuid', bridgeUuid]]],
          mutations: [['ports', 'delete', ['uuid', uuid]]],
        },
      ]);
      return;
    }
    case 'flows': {
      const host = hostOf(removal.at, hosts);
      await host[removal.bridge].bundle([{ kind: 'removeAll', filter: { cookie: networkCookie(removal.vni) } }]);
      return;
    }
  }
}

function hostOf(at: HostRef, hosts: Hosts): Host {
  const host = hosts.get(at);
  if (!host) throw new Transient('SiteUnreachable', `host ${hostKey(at)} is not connected`);
  return host;
}

function linkOf(host: Host, driver: 'qemu' | 'lxc') {
  const link = host[driver];
  if (!link) throw new Transient('SiteUnreachable', `host ${hostKey(host)} has no libvirt.${driver}`);
  return link;
}

/** A domain that is not ours may have been given one of our things by hand. The name holds a fuid, so finding it is proof enough. */
async function refuseUse(host: Host, name: string): Promise<void> {
  for (const link of [host.qemu, host.lxc]) {
    if (!link) continue;
    const { connection } = link;
    const user = await firstMention(connection, name);
    if (user !== undefined) throw new Transient('InUse', `domain ${user} of host ${hostKey(host)} uses it`);
  }
}

async function firstMention(connection: Connection, name: string): Promise<string | undefined> {
  const domains = await connection.listDomains();
  const found = domains.map(async (domain) => {
    const xml = await tolerating(['NO_DOMAIN'], connection.domainXml(domain.uuid));
    return xml?.includes(name) ? domain.name : undefined;
  });
  return (await Promise.all(found)).find((user) => user !== undefined);
}

/** The look as it would be with the thing gone. Pure. */
function without(look: Look, removal: Removal): Look {
  if (removal.kind === 'key') return { ...look, entries: look.entries.filter(({ key }) => key !== removal.key) };
  const strip = (host: HostLook): HostLook => {
    switch (removal.kind) {
      case 'domain':
        return { ...host, domains: host.domains?.filter(({ uuid, driver }) => uuid !== removal.uuid || driver !== removal.driver) };
      case 'volume':
        return { ...host, volumes: host.volumes?.filter(({ pool, name }) => pool !== removal.pool || name !== removal.name) };
      case 'network':
        return { ...host, networks: host.networks?.filter(({ name }) => name !== removal.name) };
      case 'port':
        return { ...host, ports: host.ports?.filter(({ uuid }) => uuid !== removal.uuid) };
      case 'flows':
        return { ...host, flows: { ...host.flows, [removal.bridge]: host.flows[removal.bridge]?.filter((vni) => vni !== removal.vni) } };
    }
  };
  return { ...look, hosts: look.hosts.map((host) => (hostKey(host) === hostKey(removal.at) ? strip(host) : host)) };
} // prettier-ignore
