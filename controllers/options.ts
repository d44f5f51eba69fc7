import { parseArgs, type ParseArgsConfig } from 'node:util';
import { LOG_LEVELS, type LogLevel } from './runtime/log.js';

/** How to reach the API server and Consul. */
export interface ConnectionOptions {
  readonly kubeconfig: string | undefined;
  readonly consul: string;
  readonly consulToken: string | undefined;
  readonly namespace: string;
}

export interface Options extends ConnectionOptions {
  readonly healthAddress: string;
  readonly leaderElect: boolean;
  readonly resyncMs: number;
  readonly probeMs: number;
  readonly concurrency: number;
  readonly maxMigrations: number;
  readonly logLevel: LogLevel;
  readonly logFormat: 'json' | 'console';
}

export class OptionError extends Error {
  readonly code = 'ISTHMUS_OPTION';
}

/** The lines of --help on how to reach the API server and Consul. */
export const connectionUsage = `\
  --consul URL             Consul's HTTP API (default $CONSUL_HTTP_ADDR, else http://127.0.0.1:8500);
                           a token is read from $CONSUL_HTTP_TOKEN
  --kubeconfig FILE        default $KUBECONFIG, ~/.kube/config, then the pod's service account
  --namespace NAME         the operator's own: Secrets of the Sites, Lease (default $POD_NAMESPACE, else isthmus-system)
`;

export const usage = `isthmus: federates virtualised sites (networks, machines, live migration) from Kubernetes objects

usage: isthmus [options]          runs the operator
       isthmus audit [options]    compares Consul, the API server and all sites (isthmus audit --help)

${connectionUsage}\
  --health-address H:P     /healthz, /readyz, /metrics (default 127.0.0.1:8081)
  --no-leader-elect        for a single process
  --resync-seconds N       everything is compared anew this often, though nothing happened (default 300)
  --probe-seconds N        the underlay between any two hosts is probed this often (default 60)
  --concurrency N          objects of a kind worked on at once (default 16)
  --max-migrations N       machines that move at once at all sites; others wait (default 5; Site spec.maxMigrations: each site)
  --log-level LEVEL        ${LOG_LEVELS.join(', ')} (default info)
  --log-format FORMAT      json or console (default json)
  --help
`;

/** Parses the command line. Throws OptionError, naming the option; undefined: help was asked for. */
export function parseOptions(args: readonly string[], env: NodeJS.ProcessEnv): Options | undefined {
  const values = parseFlags(args, operatorFlags);
  if (values.help) return undefined;
  const level = values['log-level'] ?? 'info';
  const format = values['log-format'] ?? 'json';
  const logLevel = LOG_LEVELS.find((each) => each === level);
  if (!logLevel) throw new OptionError(`--log-level: ${level} is none of ${LOG_LEVELS.join(', ')}`);
  if (format !== 'json' && format !== 'console')
    throw new OptionError(`--log-format: ${format} is neither json nor console`);
  return {
    ...connectionOf(values, env),
    healthAddress: values['health-address'] ?? '127.0.0.1:8081',
    leaderElect: !values['no-leader-elect'],
    resyncMs: positive('--resync-seconds', values['resync-seconds'] ?? '300') * 1_000,
    probeMs: positive('--probe-seconds', values['probe-seconds'] ?? '60') * 1_000,
    concurrency: positive('--concurrency', values.concurrency ?? '16'),
    maxMigrations: whole('--max-migrations', values['max-migrations'] ?? '5'),
    logLevel,
    logFormat: format,
  };
}

/** The connection options and --help, as parseArgs takes them. */
export const connectionFlags = {
  consul: { type: 'string' },
  kubeconfig: { type: 'string' },
  namespace: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const;

const operatorFlags = {
  ...connectionFlags,
  'health-address': { type: 'string' },
  'no-leader-elect': { type: 'boolean' },
  'resync-seconds': { type: 'string' },
  'probe-seconds': { type: 'string' },
  concurrency: { type: 'string' },
  'max-migrations': { type: 'string' },
  'log-level': { type: 'string' },
  'log-format': { type: 'string' },
} as const;

export function connectionOf(
  values: { readonly kubeconfig?: string; readonly consul?: string; readonly namespace?: string },
  env: NodeJS.ProcessEnv,
): ConnectionOptions {
  return {
    kubeconfig: values.kubeconfig,
    consul: url('--consul', values.consul ?? env['CONSUL_HTTP_ADDR'] ?? 'http://127.0.0.1:8500'),
    consulToken: env['CONSUL_HTTP_TOKEN'],
    namespace: values.namespace ?? env['POD_NAMESPACE'] ?? 'isthmus-system',
  };
}

/** The flags' values. Throws OptionError, naming the option. */
export function parseFlags<const T extends NonNullable<ParseArgsConfig['options']>>(
  args: readonly string[],
  options: T,
) {
  try {
    return parseArgs({ args: [...args], options }).values;
  } catch (error) {
    throw new OptionError(error instanceof Error ? error.message : String(error));
  }
}

function url(option: string, text: string): string {
  const whole = /^https?:\/\//.test(text) ? text : `http://${text}`;
  if (!URL.canParse(whole)) throw new OptionError(`${option}: ${text} is not a URL, such as http://127.0.0.1:8500`);
  return whole.replace(/\/$/, '');
}

function whole(option: string, text: string): number {
  const value = positive(option, text);
  if (!Number.isInteger(value)) throw new OptionError(`${option}: ${text} is not a whole number`);
  return value;
}

export function positive(option: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new OptionError(`${option}: ${text} is not a number above 0`);
  return value;
}
