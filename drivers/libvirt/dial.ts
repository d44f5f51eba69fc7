import { spawn } from 'node:child_process';
import {
  connect as connectSocket,
  isIP,
  type IpcSocketConnectOpts,
  type Socket,
  type TcpSocketConnectOpts,
} from 'node:net';
import { Duplex } from 'node:stream';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { LibvirtConnectionError } from './errors.js';
import type { TlsMaterial } from './types.js';
import type { Target, Transport } from './uri.js';

type Of<T extends Transport['type']> = Extract<Transport, { readonly type: T }>;

const errnoOf = (error: Error): string | undefined =>
  'code' in error && typeof error.code === 'string' ? error.code : undefined;

const unreachable = (what: string, cause: Error): LibvirtConnectionError =>
  new LibvirtConnectionError('LIBVIRT_UNREACHABLE', `cannot connect to ${what}: ${cause.message}`, { cause });

/** Opens a byte stream to the daemon. Rejects with LibvirtConnectionError, or with the signal's reason. */
export async function dial(target: Target, tls: TlsMaterial | undefined, signal: AbortSignal): Promise<Duplex> {
  signal.throwIfAborted();
  const { transport } = target;
  switch (transport.type) {
    case 'unix':
      return dialUnix(target, transport, signal);
    case 'tcp':
      return dialSocket({ host: transport.host, port: transport.port, noDelay: true }, signal);
    case 'tls':
      return dialTls(transport, tls, signal);
    case 'ssh':
      return dialSsh(target, transport);
  }
}

/** The one daemon for all drivers, or the driver's own (https://libvirt.org/daemons.html). */
async function dialUnix({ driver }: Target, { socket }: Of<'unix'>, signal: AbortSignal): Promise<Duplex> {
  if (socket !== undefined) return dialSocket({ path: socket }, signal);
  try {
    return await dialSocket({ path: '/run/libvirt/libvirt-sock' }, signal);
  } catch (error) {
    const cause = error instanceof LibvirtConnectionError ? error.cause : undefined;
    if (driver === 'test' || !(cause instanceof Error) || errnoOf(cause) !== 'ENOENT') throw error;
    return dialSocket({ path: `/run/libvirt/virt${driver}d-sock` }, signal);
  }
}

function dialSocket(options: IpcSocketConnectOpts | TcpSocketConnectOpts, signal: AbortSignal): Promise<Socket> {
  const socket = connectSocket(options);
  const what = 'path' in options ? options.path : `${options.host ?? ''}:${options.port}`;
  return opened(socket, 'connect', signal, (cause) => unreachable(what, cause));
}

/** The stream once it has emitted `event`. Until then it is ours to destroy. */
function opened<S extends Duplex>(
  stream: S,
  event: string,
  signal: AbortSignal,
  explain: (cause: Error) => Error,
): Promise<S> {
  return new Promise<S>((resolve, reject) => {
    const done = (): void => {
      signal.removeEventListener('abort', onAbort);
      stream.off(event, onOpen).off('error', onError);
    };
    const onOpen = (): void => {
      done();
      resolve(stream);
    };
    const fail = (error: unknown): void => {
      done();
      // An error may follow the first.
      stream.on('error', () => undefined).destroy();
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- an AbortSignal's reason may be anything
      reject(error);
    };
    const onError = (cause: Error): void => fail(explain(cause));
    const onAbort = (): void => fail(signal.reason);
    signal.addEventListener('abort', onAbort);
    stream.on(event, onOpen).on('error', onError);
  });
}

const UNTRUSTED: ReadonlySet<string> = new Set([
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'CERT_SIGNATURE_FAILURE',
]);

function explainTls(what: string, cause: Error): LibvirtConnectionError {
  const code = errnoOf(cause) ?? '';
  const refused = (why: string): LibvirtConnectionError =>
    new LibvirtConnectionError('LIBVIRT_TLS_SERVER', `${what}: ${why}`, { cause });
  if (UNTRUSTED.has(code)) return refused('certificate signed by unknown authority');
  if (code === 'CERT_HAS_EXPIRED') return refused('certificate has expired');
  if (code === 'CERT_NOT_YET_VALID') return refused('certificate is not yet valid');
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return refused(`certificate is for another name: ${cause.message}`);
  // ERR_SSL_*: what OpenSSL reports of the handshake; alerts of the peer are among them.
  if (/^ERR_SSL_.*ALERT/.test(code)) return clientRefused(what, cause);
  if (code.startsWith('ERR_SSL') || code === 'ERR_OSSL') return refused(`TLS handshake failed: ${cause.message}`);
  return unreachable(what, cause);
}

const clientRefused = (what: string, cause?: Error): LibvirtConnectionError =>
  new LibvirtConnectionError('LIBVIRT_TLS_CLIENT', `${what}: server refused our certificate`, { cause });

async function dialTls({ host, port }: Of<'tls'>, tls: TlsMaterial | undefined, signal: AbortSignal): Promise<Duplex> {
  const what = `${host}:${port}`;
  if (tls === undefined) {
    throw new LibvirtConnectionError('LIBVIRT_TLS_CLIENT', `${what}: TLS needs a CA, a client certificate and its key`);
  }
  const tcp = await dialSocket({ host, port, noDelay: true }, signal);
  let socket: TLSSocket;
  try {
    // host is what the certificate is checked against; SNI takes no addresses.
    socket = connectTls({ socket: tcp, host, ...(isIP(host) === 0 && { servername: host }), ...tls });
  } catch (cause) {
    tcp.destroy();
    throw new LibvirtConnectionError('LIBVIRT_TLS_CLIENT', `${what}: our certificate or key is not usable`, { cause });
  }
  // The daemon takes one message from each TLS record and looks for the next only when its socket has more (seen with
  // libvirt 9.0): messages that Node gathers into one record would be left lying, so each write gets its own.
  Object.defineProperty(socket, '_writev', { value: null });
  await opened(socket, 'secureConnect', signal, (cause) => explainTls(what, cause));
  return confirmed(socket, what, signal);
}

/** libvirtd checks our certificate after the handshake: a byte 1 says that it likes it, otherwise it hangs up. */
async function confirmed(socket: TLSSocket, what: string, signal: AbortSignal): Promise<TLSSocket> {
  await opened(socket, 'readable', signal, (cause) => clientRefused(what, cause));
  const bytes: unknown = socket.read(1);
  if (Buffer.isBuffer(bytes) && bytes[0] === 1) return socket;
  socket.on('error', () => undefined).destroy();
  throw clientRefused(what);
}

const MAX_STDERR = 4096;
const shellQuoted = (word: string): string => `'${word.replaceAll("'", String.raw`'\''`)}'`;

/** libvirt's own helper on the far side joins ssh's pipe to the daemon's socket there. */
function dialSsh({ daemonUri }: Target, { host, port, user, command, keyFile }: Of<'ssh'>): Duplex {
  const options = [
    ...['-T', '-e', 'none', '-o', 'BatchMode=yes'],
    ...(port === undefined ? [] : ['-p', String(port)]),
    ...(user === undefined ? [] : ['-l', user]),
    ...(keyFile === undefined ? [] : ['-i', keyFile]),
  ];
  // The far side's shell sees the last words joined.
  const child = spawn(command, [...options, '--', host, 'virt-ssh-helper', shellQuoted(daemonUri)]);
  const transport = new Duplex({
    read: () => void child.stdout.resume(),
    // That the pipe is broken tells nothing: what the program says when it ends does.
    write: (chunk: Buffer, _encoding, callback) => void child.stdin.write(chunk, () => callback()),
    destroy: (error, callback) => {
      if (child.exitCode !== null || child.signalCode !== null || !child.kill()) {
        callback(error);
        return;
      }
      child.once('close', () => callback(error));
    },
  });
  let stderr = '';
  child.stdin.on('error', () => undefined);
  child.stdout.on('data', (chunk: Buffer) => {
    if (!transport.push(chunk)) child.stdout.pause();
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr = (stderr + text).slice(-MAX_STDERR)));
  child.on('error', (cause) => transport.destroy(unreachable(host, cause)));
  child.on('close', (status) => {
    const why = stderr.trim() === '' ? `${command} ended with status ${status ?? 'unknown'}` : stderr.trim();
    transport.destroy(new LibvirtConnectionError('LIBVIRT_UNREACHABLE', `ssh to ${host}: ${why}`));
  });
  return transport;
}
