/** The lab (lab/up) as tests use it: the operator as a process, kubectl, the sites, the guests, and what there is outside. */
export { ConsoleWatch, panicOf } from './lab/console.js';
export { consulDump, ownership } from './lab/consul.js';
export {
  apply,
  applyFails,
  applySamples,
  applySites,
  condition,
  eventsOf,
  container,
  deleteObjects,
  find,
  get,
  kubectl,
  list,
  machine,
  manifest,
  namespace,
  objectsGone,
  patchHost,
  patchSpec,
  remove,
  setRunStrategy,
  tenantsGone,
  title,
  waitReady,
  type Conditioned,
  type Manifest,
} from './lab/kube.js';
export { Operator, type OperatorOptions } from './lab/operator.js';
export { Pings, type PingResult } from './lab/pings.js';
export {
  eventually,
  guest,
  inSite,
  labHosts,
  project,
  report,
  run,
  sites,
  wire,
  type LabHost,
  type SiteName,
} from './lab/run.js';
export {
  broadcastsOf,
  edgeTargets,
  framesSentTo,
  traces,
  volumesOf,
  whereabouts,
  world,
  type World,
} from './lab/world.js';

import { kinds } from '../../crds/index.js';
import { applySites, deleteTenants, disconnect, waitReady } from './lab/kube.js';
import { forgetDeadLeader, Operator, type OperatorOptions } from './lab/operator.js';

/** An operator at work on a lab without tenants, whatever an earlier run left behind. */
export async function startOperator(options: OperatorOptions = {}): Promise<Operator> {
  await forgetDeadLeader();
  const operator = await Operator.start(options);
  try {
    await Promise.all([deleteTenants(), applySites().then(async () => await waitReady(kinds.Site))]);
    return operator;
  } catch (error) {
    await operator.kill();
    throw error;
  }
}

/** The end of a test file: nothing of it stays in the lab but namespaces that are going, and the operator ends as told. */
export async function stopOperator(operator: Operator | undefined): Promise<void> {
  try {
    if (operator) await end(operator);
  } finally {
    disconnect();
  }
}

async function end(operator: Operator): Promise<void> {
  const cleaned = deleteTenants();
  await cleaned.catch(() => undefined);
  const code = await operator.stop();
  await cleaned;
  if (code !== 0) throw new Error(`the operator ended with ${String(code)}:\n${operator.tail()}`);
}
