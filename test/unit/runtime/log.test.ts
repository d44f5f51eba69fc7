import { PassThrough } from 'node:stream';

import { describe, expect, it } from '@jest/globals';

import { KubeApiError } from '../../../controllers/kube/api.js';
import { createLog, type LogOptions } from '../../../controllers/runtime/log.js';

function capture(options: LogOptions) {
  const stream = new PassThrough();
  const log = createLog({ ...options, stream });
  return { log, text: () => String(stream.read() ?? '') };
}

const SECRET = 'hunter2';

interface Case {
  readonly reason: string;
  readonly fields: Record<string, unknown>;
  readonly shown?: Record<string, unknown>;
}

const CASES: readonly Case[] = [
  { reason: 'hides a password by name', fields: { password: SECRET } },
  { reason: 'hides a token of any spelling', fields: { accessToken: SECRET, 'x-token': SECRET, TOKEN: SECRET } },
  { reason: 'hides a key by name', fields: { key: SECRET, privateKey: SECRET, 'tls-key': SECRET } },
  { reason: 'hides a secret deep inside', fields: { spec: { list: [{ clientSecret: SECRET }] } } },
  { reason: 'hides a private key wherever it is', fields: { text: `-----BEGIN EC PRIVATE KEY-----\n${SECRET}` } },
  { reason: 'hides bytes, which may be anything', fields: { data: Buffer.from(SECRET) }, shown: { data: '[binary]' } },
  {
    reason: "hides an error's message, which may quote what was sent, also in its cause",
    fields: { error: new TypeError(SECRET, { cause: new Error(SECRET) }) },
    shown: { error: { name: 'TypeError', cause: { name: 'Error' } } },
  },
  {
    reason: 'shows what tells one API error from another',
    fields: { error: new KubeApiError('KUBE_INVALID', 'create widgets', 422, 'Invalid', { fields: ['spec.size'] }) },
    shown: { error: { code: 'KUBE_INVALID', status: 422, reason: 'Invalid', fields: ['spec.size'] } },
  },
  {
    reason: 'shows what only sounds like a secret',
    fields: { object: 'acme/web-1', keys: 3, monkey: 'a' },
    shown: { object: 'acme/web-1', keys: 3, monkey: 'a' },
  },
];

describe('log', () => {
  it.each(CASES)('$reason', ({ fields, shown = {} }) => {
    const { log, text } = capture({});
    log.info('constant', fields);
    const line = text();
    expect(line).not.toContain(SECRET);
    expect(JSON.parse(line)).toMatchObject({ level: 'info', message: 'constant', ...shown });
  });

  it('adds the fields of its parents to every line', () => {
    const { log, text } = capture({});
    log.child({ controller: 'c' }).child({ object: 'o' }).warn('constant', { more: 1 });
    expect(JSON.parse(text())).toMatchObject({ controller: 'c', object: 'o', more: 1 });
  });

  it('writes only what its level asks for, in lines for people if wanted', () => {
    const { log, text } = capture({ level: 'warn', format: 'console' });
    log.info('not this');
    log.error('this', { object: 'a b' });
    expect(text()).toMatch(/^\S+Z error this object="a b"\n$/);
  });

  it('survives what has no end', () => {
    const loop: Record<string, unknown> = {};
    loop['loop'] = loop;
    const { log, text } = capture({});
    log.info('constant', { loop });
    expect(text()).toContain('[deep]');
  });
});
