import { execFile } from 'node:child_process';
import https from 'node:https';
import { promisify } from 'node:util';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { z } from 'zod';
import { kinds } from '../../crds/index.js';
import { startApiServer, type ApiServer } from '../support/apiserver.js';
import { cases, type Case } from '../unit/crds/cases.js';
import { expectVerdict, type Verdict } from '../unit/crds/matches.js';

const run = promisify(execFile);
const repository = fileURLToPath(new URL('../..', import.meta.url));

const failure = z.object({
  message: z.string(),
  details: z
    .object({ causes: z.array(z.object({ field: z.string().optional(), message: z.string().optional() })).optional() })
    .optional(),
});
const stored = z.looseObject({ metadata: z.looseObject({ resourceVersion: z.string() }) });

let server: ApiServer;

async function kubectl(...args: string[]): Promise<string> {
  return (await run('kubectl', args, { cwd: repository, env: { ...process.env, KUBECONFIG: server.kubeconfig } }))
    .stdout;
}

async function request(method: string, path: string, body?: object): Promise<{ status: number; body: unknown }> {
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${server.token}`, 'content-type': 'application/json' };
    const call = https.request(server.url + path, { method, ca: server.ca, headers, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => (text += chunk));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) }));
    });
    call.on('error', reject);
    call.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

function verdict({ status, body }: { status: number; body: unknown }): Verdict {
  if (status < 300) return [];
  const { message, details } = failure.parse(body);
  const causes = (details?.causes ?? []).filter(({ message: text = '' }) => !text.includes('rules were not checked'));
  if (causes.length === 0) return [{ says: message }];
  return causes.map(({ field = '', message: text = '' }) => ({ at: field, says: text }));
}

/** The API server's judgement, with the strict field validation that kubectl asks for. Nothing stays behind. */
async function judge({ kind, objectName = 'a', before, spec }: Case): Promise<Verdict> {
  const { apiVersion, plural, namespaced } = kinds[kind];
  const path = `/apis/${apiVersion}${namespaced ? '/namespaces/default' : ''}/${plural}`;
  const object = (specOf: object) => ({ apiVersion, kind, metadata: { name: objectName }, spec: specOf });
  const strict = '?fieldValidation=Strict';
  if (before === undefined) return verdict(await request('POST', `${path}${strict}&dryRun=All`, object(spec)));
  const created = await request('POST', path + strict, object(before));
  expect(verdict(created)).toEqual([]);
  try {
    const { metadata } = stored.parse(created.body);
    return verdict(await request('PUT', `${path}/${objectName}${strict}`, { ...object(spec), metadata }));
  } finally {
    await request('DELETE', `${path}/${objectName}`);
  }
}

beforeAll(async () => {
  server = await startApiServer();
  await kubectl('apply', '-k', 'manifests/install/crds');
  await kubectl('wait', '--for=condition=Established', 'crd', '--all', '--timeout=20s');
}, 60_000);
afterAll(() => server.stop());

describe('the CustomResourceDefinitions', () => {
  it.each(cases)('$kind: $name ($reason)', async (entry) => expectVerdict(entry, await judge(entry)));
});
