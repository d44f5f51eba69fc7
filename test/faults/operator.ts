/**
 * The operator, with every write of its drivers led through an Injector. All else is as in the product: controllers/main.ts runs with the
 * arguments given. ISTHMUS_FAULTS names the folder in which harness and operator meet.
 */
import { connectKube } from '../../controllers/kube/client.js';
import { KubeApiError, type Resource } from '../../controllers/kube/api.js';
import { Client as ConsulClient } from '../../drivers/consul/client.js';
import { ConsulUnavailableError, type TxnOperation } from '../../drivers/consul/index.js';
import { openFloodlight, FloodlightError } from '../../drivers/floodlight/index.js';
import { LibvirtClient } from '../../drivers/libvirt/client.js';
import { LibvirtConnectionError } from '../../drivers/libvirt/index.js';
import { OpenFlowConnectionError } from '../../drivers/openflow/index.js';
import { OpenFlowSession } from '../../drivers/openflow/session.js';
import { OvsdbConnectionError, type Operation } from '../../drivers/ovsdb/index.js';
import { OvsdbSession } from '../../drivers/ovsdb/session.js';
import type { Wire } from '../../drivers/wire/link.js';
import { Injector, wrap } from './injector.js';

const injector = new Injector(process.env['ISTHMUS_FAULTS'] ?? '');
const lost = 'the connection ended before the answer came';

wrap(
  LibvirtClient.prototype,
  [
    ...(['defineDomain', 'startDomain', 'shutdownDomain', 'destroyDomain', 'suspendDomain', 'resumeDomain'] as const),
    ...(['undefineDomain', 'setDomainMetadata', 'migrateToUri', 'abortJob', 'startPostCopy'] as const),
    ...(['setMigrationSpeed', 'setMigrationMaxDowntime', 'pullBlocks', 'abortBlockJob'] as const),
    ...(['defineNetwork', 'startNetwork', 'destroyNetwork', 'undefineNetwork', 'setNetworkAutostart'] as const),
    ...(['createVolume', 'createVolumeFrom', 'uploadVolume', 'resizeVolume', 'deleteVolume'] as const),
  ],
  injector,
  (client, method, args) => ({
    driver: 'libvirt',
    endpoint: new URL(client.uri).hostname,
    what: [method, ...args.flatMap(volumeOf)].join(' '),
    disconnect: () => {
      void client.close();
      return new LibvirtConnectionError('LIBVIRT_CLOSED', lost);
    },
  }),
);

/** Which of a machine's volumes an argument, a name or a definition, tells of; a container's root has but the fuid for a name. */
function volumeOf(argument: unknown): string[] {
  if (typeof argument !== 'string') return [];
  const [name, volume = 'root'] = /isth-(?:[0-9a-f-]{36}-(\w+)|[0-9a-f]{32}\b)/.exec(argument) ?? [];
  return name === undefined ? [] : [volume];
}

wrap(ConsulClient.prototype, ['transact'], injector, (_, method, [operations]) => ({
  driver: 'consul',
  what: [...new Set((operations as readonly TxnOperation[]).map(recordOf))].sort().join(' '),
  disconnect: () => new ConsulUnavailableError(`${method}: ${lost}`),
}));

/** What is done with which kind of record: `+vm`, `-ip`. */
function recordOf({ verb, key }: TxnOperation): string {
  const sign = verb.startsWith('delete') ? '-' : verb.startsWith('check') ? '=' : '+';
  return `${sign}${key.split('/')[1] ?? key}`;
}

interface Linked {
  readonly wire: Wire;
  readonly options: { readonly endpoint: string };
}

/** A session's connection, which is its own affair otherwise. */
const linkOf = (session: object): Linked => session as unknown as Linked;

const addressOf = (endpoint: string): string => endpoint.replace(/^\w+:/, '');

function dropping(session: object, error: Error): () => Error {
  return () => {
    linkOf(session).wire.drop(error);
    return error;
  };
}

wrap(OvsdbSession.prototype, ['transact'], injector, (session, _, [operations]) => ({
  driver: 'ovsdb',
  endpoint: addressOf(linkOf(session).options.endpoint),
  what: [...new Set((operations as readonly Operation[]).map(({ op, table }) => `${op} ${String(table)}`))].join(', '),
  disconnect: dropping(session, new OvsdbConnectionError(lost)),
}));

wrap(
  OpenFlowSession.prototype,
  ['bundle', 'setMeter', 'removeMeter', 'flushConnections'],
  injector,
  (session, method) => ({
    driver: 'openflow',
    endpoint: addressOf(linkOf(session).options.endpoint),
    what: method,
    disconnect: dropping(session, new OpenFlowConnectionError(lost)),
  }),
);

wrap(
  Object.getPrototypeOf(openFloodlight('http://127.0.0.1')) as ReturnType<typeof openFloodlight>,
  ['push', 'remove'],
  injector,
  ({ url }, method) => ({
    driver: 'floodlight',
    endpoint: new URL(url).host,
    what: method,
    disconnect: () => new FloodlightError('FLOODLIGHT_UNREACHABLE', lost),
  }),
);

const [kubeconfigPath] = process.argv.flatMap((argument) => /^--kubeconfig=(.*)$/.exec(argument)?.slice(1) ?? []);
/** They tell what is, and nobody acts on them: a Lease, Events, how a Site is. */
const telling = new Set(['leases', 'events', 'sites']);

wrap(
  Object.getPrototypeOf(connectKube({ kubeconfigPath })) as ReturnType<typeof connectKube>,
  ['create', 'applyStatus', 'patch', 'delete'],
  injector,
  (_, method, [resource, , body]) => {
    const { plural } = resource as Resource;
    if (telling.has(plural)) return undefined;
    const reason = method === 'applyStatus' ? [readyReason(body)] : [];
    return {
      driver: 'kube',
      what: [method, plural, ...reason].join(' '),
      disconnect: () => new KubeApiError('KUBE_UNAVAILABLE', method, 0, 'ECONNRESET'),
    };
  },
);

/** A status is known by what it says, for how often it is written is a matter of time. */
function readyReason(status: unknown): string {
  const { conditions = [] } = status as { conditions?: readonly { type: string; reason: string }[] };
  return conditions.find(({ type }) => type === 'Ready')?.reason ?? '';
}

await import('../../controllers/main.js');
