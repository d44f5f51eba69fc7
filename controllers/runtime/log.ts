import { isNativeError } from 'node:util/types';

import winston from 'winston';

import { KubeApiError } from '../kube/api.js';

export type Fields = Readonly<Record<string, unknown>>;

/** Messages are constant strings; what varies goes into fields. An Error in a field is logged without its message. */
export interface Log {
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
  /** A log that adds these fields to every line. */
  child(fields: Fields): Log;
}

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface LogOptions {
  readonly level?: LogLevel;
  /** json: one object a line. console: for people. Default json. */
  readonly format?: 'json' | 'console';
  /** Default: standard error. */
  readonly stream?: NodeJS.WritableStream;
}

export function createLog({ level = 'info', format = 'json', stream = process.stderr }: LogOptions = {}): Log {
  const { combine, timestamp, json, printf } = winston.format;
  const line = printf(({ timestamp: time, level: at, message, ...fields }) => {
    const pairs = Object.entries(fields).map(([name, value]) => ` ${name}=${JSON.stringify(value)}`);
    return `${String(time)} ${at.padEnd(5)} ${String(message)}${pairs.join('')}`;
  });
  const logger = winston.createLogger({
    level,
    levels: Object.fromEntries(LOG_LEVELS.map((name, rank) => [name, rank])),
    format: combine(timestamp(), format === 'json' ? json() : line),
    // eslint-disable-next-line @typescript-eslint/no-unsafe-class-instance-assignment -- winston's types give instances constructors
    transports: [new winston.transports.Stream({ stream, eol: '\n' })],
  });
  return new WinstonLog(logger, {});
}

class WinstonLog implements Log {
  constructor(
    private readonly logger: winston.Logger,
    private readonly fields: Fields,
  ) {}

  debug(message: string, fields?: Fields): void {
    this.#write('debug', message, fields);
  }

  info(message: string, fields?: Fields): void {
    this.#write('info', message, fields);
  }

  warn(message: string, fields?: Fields): void {
    this.#write('warn', message, fields);
  }

  error(message: string, fields?: Fields): void {
    this.#write('error', message, fields);
  }

  child(fields: Fields): Log {
    return new WinstonLog(this.logger, { ...this.fields, ...fields });
  }

  #write(level: LogLevel, message: string, fields: Fields = {}): void {
    if (!this.logger.isLevelEnabled(level)) return;
    this.logger.log({ ...redactFields({ ...this.fields, ...fields }), level, message });
  }
}

const SECRET_NAMES = [
  /pass(word|wd|phrase)|secret|token|credential|authorization|private|^key$|[-_]key$/i,
  /[a-z]Key$/,
];
const SECRET_TEXT = /-----BEGIN [A-Z ]*PRIVATE KEY-----/;
const REDACTED = '[redacted]';
const MAX_DEPTH = 8;

/** A copy without values whose name or look is that of a secret, and without the messages of errors. */
export function redactFields(fields: Fields): Record<string, unknown> {
  return redactObject(fields, 0);
}

function redactObject(fields: object, depth: number): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [
      name,
      SECRET_NAMES.some((pattern) => pattern.test(name)) ? REDACTED : redact(value, depth + 1),
    ]),
  );
}

function redact(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return SECRET_TEXT.test(value) ? REDACTED : value;
  if (typeof value === 'bigint') return value.toString();
  if (typeof value !== 'object' || value === null) return value;
  if (isNativeError(value)) return describeError(value, depth);
  if (ArrayBuffer.isView(value)) return '[binary]';
  if (value instanceof Date) return value.toISOString();
  if (depth > MAX_DEPTH) return '[deep]';
  if (Array.isArray(value)) return value.map((item) => redact(item, depth + 1));
  return redactObject(value, depth);
}

/** Without the message, which may quote what was sent: the code and the place say what is needed. */
function describeError(error: Error, depth: number): Record<string, unknown> {
  const own = error instanceof KubeApiError ? { status: error.status, reason: error.reason, fields: error.fields } : {};
  const code = 'code' in error ? { code: error.code } : {};
  const frames = (error.stack ?? '').split('\n').filter((frame) => frame.startsWith('    at '));
  const at = frames.slice(0, 4).map((frame) => frame.trim().slice(3));
  const cause = error.cause === undefined || depth > MAX_DEPTH ? {} : { cause: redact(error.cause, depth + 1) };
  return { name: error.name, ...code, ...own, at, ...cause };
}
