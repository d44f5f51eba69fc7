// A process that leads: prints `leading`, then, for every line on its standard input, whether it may still act.
// usage: tsx leaseholder.ts KUBECONFIG LEASE DURATION_MS RENEW_DEADLINE_MS RETRY_MS
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';

import { connectKube } from '../../controllers/kube/client.js';
import { acquireLease } from '../../controllers/runtime/lease.js';
import { createLog } from '../../controllers/runtime/log.js';

const [kubeconfigPath, name = '', durationMs, renewDeadlineMs, retryMs] = process.argv.slice(2);
const leadership = await acquireLease(
  {
    api: connectKube({ kubeconfigPath }),
    log: createLog({ level: 'error' }),
    namespace: 'default',
    name,
    identity: randomUUID(),
    durationMs: Number(durationMs),
    renewDeadlineMs: Number(renewDeadlineMs),
    retryMs: Number(retryMs),
  },
  new AbortController().signal,
);
process.stdout.write('leading\n');
for await (const line of createInterface(process.stdin)) {
  try {
    leadership?.assertLeading();
    process.stdout.write(`did ${line}\n`);
  } catch {
    process.stdout.write(`refused ${line}\n`);
  }
}
