// A process of a manager with all its parts; prints `reconciled` at the first reconcile and its outcome at the end, and then
// ends by itself only if nothing was left open.
// usage: tsx managed.ts KUBECONFIG NAMESPACE
import { connectKube } from '../../controllers/kube/client.js';
import { Controller, type ReconcileContext } from '../../controllers/runtime/controller.js';
import { EventRecorder } from '../../controllers/runtime/events.js';
import { createLog } from '../../controllers/runtime/log.js';
import { Manager } from '../../controllers/runtime/manager.js';
import { Metrics } from '../../controllers/runtime/metrics.js';
import { WorkQueue } from '../../controllers/runtime/queue.js';
import { Reflector } from '../../controllers/runtime/reflector.js';
import { WIDGETS } from './apiserver.js';

const [kubeconfigPath, namespace = ''] = process.argv.slice(2);
const api = connectKube({ kubeconfigPath });
const log = createLog({ level: 'error' });
const metrics = new Metrics();
const queue = new WorkQueue();
const recorder = new EventRecorder({ api, log });
const reflector = new Reflector(api, WIDGETS, (object) => object, { log, namespace });
reflector.store.changes.subscribe(({ key }) => {
  queue.add(key);
});
const reconcile = async (key: string, { signal }: ReconcileContext) => {
  const object = reflector.store.get(key);
  if (object) recorder.record(object, { type: 'Normal', reason: 'Test', action: 'Testing', note: '' });
  queue.addRateLimited('another');
  await Promise.all(Array.from({ length: 20 }, () => api.list(WIDGETS, { namespace, signal })));
  process.stdout.write('reconciled\n');
  return { requeueAfterMs: 60_000 };
};
const outcome = await new Manager({
  log,
  metrics,
  healthAddress: '127.0.0.1:0',
  lease: { api, log, namespace, name: 'manager', identity: 'managed' },
  reflectors: [reflector],
  controllers: [new Controller({ name: 'widgets', queue, log, metrics, reconcile })],
}).run();
await recorder.close();
api.close();
process.stdout.write(`${outcome}\n`);
