/** The lab (lab/up) as tests use it: the operator as a process, kubectl, the sites, the guests, and what there is outside. */
export { ConsoleWatch, panicOf } from './lab/console.js';
export { consulDump, ownership } from './lab/consul.js';
export {
  apply,
  applyFails,
  applySites,
  condition,
  deleteAll,
  fence,
  find,
  get,
  gone,
  kubectl,
  list,
  machine,
  manifest,
  namespace,
  remove,
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
  type LabHost,
  type SiteName,
} from './lab/run.js';
export { broadcastsOf, edgeTargets, framesSentTo, traces, whereabouts, world, type World } from './lab/world.js';

import { kinds } from '../../crds/index.js';
import { applySites, deleteAll, waitReady } from './lab/kube.js';
import { Operator, type OperatorOptions } from './lab/operator.js';

/** An operator at work on a lab without tenants, whatever an earlier run left behind. */
export async function startOperator(options: OperatorOptions = {}): Promise<Operator> {
  const operator = await Operator.start(options);
  try {
    await deleteAll();
    await applySites();
    await waitReady(kinds.Site);
    return operator;
  } catch (error) {
    await operator.kill();
    throw error;
  }
}

/** The end of a test file: nothing of it stays in the lab, and the operator ends as told. */
export async function stopOperator(operator: Operator | undefined): Promise<void> {
  if (!operator) return;
  const cleaned = deleteAll();
  await cleaned.catch(() => undefined);
  const code = await operator.stop();
  await cleaned;
  if (code !== 0) throw new Error(`the operator ended with ${String(code)}:\n${operator.tail()}`);
}
