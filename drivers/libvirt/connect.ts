import { LibvirtClient } from './client.js';
import { RpcConnection } from './connection.js';
import { dial } from './dial.js';
import { LibvirtConnectionError, LibvirtTimeoutError } from './errors.js';
import { authNames, authNone, featureKeepalive, procedures } from './protocol.js';
import type { Connection, ConnectOptions } from './types.js';
import { parseUri } from './uri.js';

const CONNECT_TIMEOUT_MS = 10_000;
const CALL_TIMEOUT_MS = 30_000;
const KEEPALIVE = { intervalMs: 5000, count: 2 };
const MAX_CALLS_IN_FLIGHT = 4;

/**
 * Opens a connection: `qemu:///system`, `qemu+unix:///system?socket=/path`, `qemu+tcp://host[:16509]/system`,
 * `qemu+tls://host[:16514]/system`, `qemu+ssh://user@host/system`; the same for lxc, and for test with /default.
 * Events are registered for before it resolves. Rejects with LibvirtConnectionError, LibvirtTimeoutError or, when the daemon can't
 * open its driver, LibvirtError.
 */
export async function connect(uri: string, options: ConnectOptions = {}): Promise<Connection> {
  const { connectTimeoutMs = CONNECT_TIMEOUT_MS, callTimeoutMs = CALL_TIMEOUT_MS, keepalive = KEEPALIVE } = options;
  const target = parseUri(uri);
  const attempt = new AbortController();
  const timer = setTimeout(
    () => attempt.abort(new LibvirtTimeoutError(`no connection to ${uri} within ${connectTimeoutMs} ms`)),
    connectTimeoutMs,
  );
  const onAbort = (): void =>
    attempt.abort(new LibvirtConnectionError('LIBVIRT_ABORTED', `${uri}: aborted`, { cause: options.signal?.reason }));
  if (options.signal?.aborted === true) onAbort();
  options.signal?.addEventListener('abort', onAbort);
  const release = (): void => options.signal?.removeEventListener('abort', onAbort);

  try {
    const transport = await dial(target, options.tls, attempt.signal);
    const maxCallsInFlight = options.maxCallsInFlight ?? MAX_CALLS_IN_FLIGHT;
    const { assertMayChange } = options;
    const rpc = new RpcConnection(transport, {
      ...{ peer: uri, callTimeoutMs, maxCallsInFlight, keepalive },
      ...(assertMayChange ? { assertMayChange } : {}),
    });
    attempt.signal.addEventListener('abort', () => rpc.fail(asError(attempt.signal.reason)));
    void rpc.ended.then(release);
    return await open(rpc, uri, target);
  } catch (error) {
    release();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

async function open(
  rpc: RpcConnection,
  uri: string,
  { driver, daemonUri }: ReturnType<typeof parseUri>,
): Promise<Connection> {
  const client = new LibvirtClient(uri, driver, rpc);
  try {
    await authenticate(rpc, uri);
    await rpc.call(procedures.connectOpen, { name: daemonUri, flags: 0 });
    await Promise.all([
      rpc.call(procedures.connectSupportsFeature, { feature: featureKeepalive }),
      client.registerEvents(),
    ]);
    return client;
  } catch (error) {
    await rpc.close();
    throw error;
  }
}

async function authenticate(rpc: RpcConnection, uri: string): Promise<void> {
  const { types } = await rpc.call(procedures.authList, undefined);
  if (types.length === 0 || types.includes(authNone)) return;
  const wanted = types.map((type) => authNames[type] ?? `method ${type}`).join(', ');
  throw new LibvirtConnectionError(
    'LIBVIRT_AUTH',
    `${uri}: the daemon wants ${wanted} authentication, which this client does not speak`,
  );
}

const asError = (reason: unknown): Error => (reason instanceof Error ? reason : new Error(String(reason)));
