import { LibvirtConnectionError } from './errors.js';

/** The drivers that this client was tried with. */
export type Driver = 'qemu' | 'lxc' | 'test';

export type Transport =
  /** `socket` undefined: where the daemon usually listens. */
  | { readonly type: 'unix'; readonly socket: string | undefined }
  | { readonly type: 'tcp'; readonly host: string; readonly port: number }
  | { readonly type: 'tls'; readonly host: string; readonly port: number }
  | {
      readonly type: 'ssh';
      readonly host: string;
      readonly port: number | undefined;
      readonly user: string | undefined;
      /** The ssh program; `command` in the URI. */
      readonly command: string;
      /** Path of the private key; `keyfile` in the URI. */
      readonly keyFile: string | undefined;
    };

export interface Target {
  readonly driver: Driver;
  /** What the daemon itself is asked to open: the URI without transport, host and parameters. */
  readonly daemonUri: string;
  readonly transport: Transport;
}

const SCHEME = /^(qemu|lxc|test)(?:\+(unix|tcp|tls|ssh))?:$/;
/** Nothing that ssh could take for an option. */
const SSH_WORD = /^[A-Za-z0-9_][A-Za-z0-9._:@-]*$/;
const TCP_PORT = 16_509;
const TLS_PORT = 16_514;

/** https://libvirt.org/uri.html. Throws LibvirtConnectionError with code LIBVIRT_URI. */
export function parseUri(uri: string): Target {
  const refuse = (why: string): never => {
    throw new LibvirtConnectionError('LIBVIRT_URI', `'${uri}': ${why}`);
  };
  if (!URL.canParse(uri)) return refuse('not a URI');
  const url = new URL(uri);
  const [, driver, given] = SCHEME.exec(url.protocol) ?? [];
  if (driver !== 'qemu' && driver !== 'lxc' && driver !== 'test') {
    return refuse('the scheme must be qemu, lxc or test, with +unix, +tcp, +tls or +ssh');
  }
  if (!/^\/[A-Za-z0-9/._-]+$/.test(url.pathname)) return refuse('it needs a path such as /system');
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const port = url.port === '' ? undefined : Number(url.port);
  const query = (name: string): string | undefined => url.searchParams.get(name) ?? undefined;
  const needHost = (): string => (host === '' ? refuse('it needs a host') : host);

  const transport = (): Transport => {
    switch (given ?? (host === '' ? 'unix' : 'tls')) {
      case 'unix':
        if (host !== '') return refuse('a unix socket has no host');
        if (url.pathname === '/session' && query('socket') === undefined) {
          return refuse('a session needs ?socket=');
        }
        return { type: 'unix', socket: query('socket') };
      case 'tcp':
        return { type: 'tcp', host: needHost(), port: port ?? TCP_PORT };
      case 'tls':
        return { type: 'tls', host: needHost(), port: port ?? TLS_PORT };
      case 'ssh': {
        const user = url.username === '' ? undefined : decodeURIComponent(url.username);
        if (!SSH_WORD.test(needHost()) || (user !== undefined && !SSH_WORD.test(user))) {
          return refuse('not a host or user for ssh');
        }
        return { type: 'ssh', host, port, user, command: query('command') ?? 'ssh', keyFile: query('keyfile') };
      }
      default:
        return refuse('unknown transport');
    }
  };
  return { driver, daemonUri: `${driver}://${url.pathname}`, transport: transport() };
}
