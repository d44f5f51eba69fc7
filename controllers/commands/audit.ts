import { setTimeout as sleep } from 'node:timers/promises';
import { InvalidObjectError, kinds } from '../../crds/index.js';
import { connectConsul } from '../../drivers/consul/index.js';
import type { KeyValueStore } from '../../drivers/consul/types.js';
import { audit, type Report } from '../../reconcilers/audit/audit.js';
import { hostsOf, type AuditDependencies } from '../../reconcilers/audit/gather.js';
import type { ApiObjects } from '../../reconcilers/audit/look.js';
import { repair, type Repaired } from '../../reconcilers/audit/repair.js';
import { consul } from '../../reconcilers/common/allocation.js';
import { messageOf, Transient } from '../../reconcilers/common/errors.js';
import { prefixes } from '../../reconcilers/common/records.js';
import { HostPool } from '../hosts/pool.js';
import { KubeApiError, type KubeApi, type KubeObject, type Resource } from '../kube/api.js';
import { connectKube } from '../kube/client.js';
import {
  connectionFlags,
  connectionOf,
  connectionUsage,
  OptionError,
  parseFlags,
  positive,
  type ConnectionOptions,
} from '../options.js';
import { describeRepaired, reportJson, reportTable } from './audit-output.js';

const usage = `isthmus audit: compares Consul, the API server and all sites, and names every leak and orphan

usage: isthmus audit [options]

It works beside a running operator: it looks twice, some seconds apart, and reports what both looks show. What is being created,
deleted or moved is not a finding. Nothing is written without --repair. Exit codes: 0 nothing found, 1 findings, 2 not everything
could be looked at (a site or Consul is away): what hangs on that is not judged.

${connectionUsage}\
  --site NAME              look at this site's hosts only; may be repeated (default all; Consul is compared in any case)
  --grace SECONDS          between the two looks (default 10); what is younger is not reported
  --output FORMAT          table or json (default table)
  --repair                 remove what carries our mark and has no owner, then audit again. Never a running machine, never a disk
                           of a machine whose object exists, nothing that a site which is away could still have a claim to. The
                           API server must be the one that has all objects
  --dry-run                with --repair: only tell what would be removed
  --help
`;

interface AuditOptions extends ConnectionOptions {
  readonly sites: readonly string[];
  readonly graceMs: number;
  readonly output: 'table' | 'json';
  readonly repair: 'no' | 'dryRun' | 'yes';
}

/** A host that has neither connected nor failed by then is away. */
const patienceMs = 8_000;
/** A repair may lay bare more; it ends when one audit finds nothing to remove, or here. */
const mostRounds = 5;
const pageSize = 500;

/** Undefined: help was asked for. */
function parseOptions(args: readonly string[], env: NodeJS.ProcessEnv): AuditOptions | undefined {
  const values = parseFlags(args, {
    ...connectionFlags,
    site: { type: 'string', multiple: true },
    grace: { type: 'string' },
    output: { type: 'string' },
    repair: { type: 'boolean' },
    'dry-run': { type: 'boolean' },
  });
  if (values.help) return undefined;
  const { output = 'table', 'dry-run': dryRun = false } = values;
  if (output !== 'table' && output !== 'json') throw new OptionError(`--output: ${output} is neither table nor json`);
  if (dryRun && !values.repair) throw new OptionError('--dry-run: goes with --repair');
  return {
    ...connectionOf(values, env),
    sites: values.site ?? [],
    graceMs: positive('--grace', values.grace ?? '10') * 1_000,
    output,
    repair: values.repair ? (dryRun ? 'dryRun' : 'yes') : 'no',
  };
}

/** Exit codes: as the usage says. Throws OptionError; KubeApiError for an unusable kubeconfig. */
export async function runAudit(args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const options = parseOptions(args, env);
  if (!options) {
    process.stdout.write(usage);
    return 0;
  }
  const api = connectKube({ kubeconfigPath: options.kubeconfig });
  const store = connectConsul(options.consul, options.consulToken === undefined ? {} : { token: options.consulToken });
  const hosts = new HostPool((namespace, name) => api.secret(namespace, name), options.namespace);
  const isAsked = (site: string): boolean => options.sites.length === 0 || options.sites.includes(site);
  const done: Repaired[] = [];
  try {
    await connectHosts(api, store, hosts, options.sites, isAsked);
    return await run({ store, hosts, isAsked, readObjects: () => readObjects(api) }, done, options);
  } catch (error) {
    const away = outage(error);
    if (!away) throw error;
    print({ findings: [], away: [away] }, done, options);
    return 2;
  } finally {
    await hosts.close();
    await store.close();
    api.close();
  }
}

/** What could not be read at all, without which nothing can be judged. */
function outage(error: unknown): Report['away'][number] | undefined {
  if (error instanceof Transient && error.reason === 'ConsulUnavailable')
    return { where: 'consul', why: error.message };
  if ((error instanceof KubeApiError && error.code !== 'KUBE_PROTOCOL') || error instanceof InvalidObjectError)
    return { where: 'api', why: messageOf(error) };
  return undefined;
}

async function connectHosts(
  api: KubeApi,
  store: KeyValueStore,
  hosts: HostPool,
  wanted: readonly string[],
  isAsked: (site: string) => boolean,
): Promise<void> {
  const sites = await readAll(api, kinds.Site, (object) => kinds.Site.parse(object));
  const names = sites.map(({ metadata }) => metadata.name);
  const unknown = wanted.find((name) => !names.includes(name));
  if (unknown !== undefined)
    throw new OptionError(`--site: there is no Site ${unknown} (there are: ${names.join(', ') || 'none'})`);
  const asked = sites.filter(({ metadata }) => isAsked(metadata.name));
  const records = await consul('reading the sites’ hosts', () => store.list(prefixes.site));
  await Promise.all(asked.map((site) => hosts.update(site.metadata.name, site, hostsOf(site, records))));
  await hosts.settled({ hostMs: patienceMs, bridgeMs: patienceMs });
}

/** done: what is repaired is added to it, so that it can be told also if this fails in between. */
async function run(dependencies: AuditDependencies, done: Repaired[], options: AuditOptions): Promise<number> {
  const pause = () => sleep(options.graceMs);
  let looked = await audit(dependencies, pause);
  for (let round = 0; options.repair !== 'no' && round < mostRounds; round++) {
    const before = done.length;
    for await (const each of repair(looked, dependencies, { dryRun: options.repair === 'dryRun' })) {
      done.push(each);
      if (options.output === 'table') process.stdout.write(`${describeRepaired(each)}\n`);
    }
    if (options.repair === 'dryRun' || done.length === before) break;
    looked = await audit(dependencies, pause);
  }
  print(looked.report, done, options);
  if (looked.report.away.length > 0) return 2;
  return looked.report.findings.length > 0 ? 1 : 0;
}

function print(report: Report, done: readonly Repaired[], { output }: AuditOptions): void {
  process.stdout.write(output === 'json' ? reportJson(report, done) : reportTable(report));
}

async function readObjects(api: KubeApi): Promise<ApiObjects> {
  const [sites, networks, machines, templates, migrations] = await Promise.all([
    readAll(api, kinds.Site, (object) => kinds.Site.parse(object)),
    readAll(api, kinds.FederatedNetwork, (object) => kinds.FederatedNetwork.parse(object)),
    readAll(api, kinds.FederatedVM, (object) => kinds.FederatedVM.parse(object)),
    readAll(api, kinds.VMTemplate, (object) => kinds.VMTemplate.parse(object)),
    readAll(api, kinds.VMMigration, (object) => kinds.VMMigration.parse(object)),
  ]);
  return { sites, networks, machines, templates, migrations };
}

/** All objects of a kind, of one snapshot, in pages. */
async function readAll<T>(api: KubeApi, resource: Resource, parse: (object: KubeObject) => T): Promise<T[]> {
  const all: T[] = [];
  let from: { continue?: string } = {};
  do {
    const page = await api.list(resource, { limit: pageSize, ...from });
    all.push(...page.items.map(parse));
    from = page.continue === undefined ? {} : { continue: page.continue };
  } while (from.continue !== undefined);
  return all;
}
