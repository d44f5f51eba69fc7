import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectKube, type KubeConnection } from '../../../controllers/kube/client.js';
import { kinds } from '../../../crds/index.js';

/** A server that answers what it is told to, in order; the real one is busy only when nobody wants it to be. */
let directory: string;
let server: https.Server;
let answers: { readonly status: number; readonly headers?: Readonly<Record<string, string>>; readonly body: object }[];
let asked: string[];
let api: KubeConnection;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'isthmus-busy-'));
  const [key, cert] = [join(directory, 'key.pem'), join(directory, 'cert.pem')];
  execFileSync(
    'openssl',
    [
      ...[
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:P-256',
        '-nodes',
        '-keyout',
        key,
        '-out',
        cert,
      ],
      ...['-days', '1', '-subj', '/CN=busy', '-addext', 'subjectAltName=IP:127.0.0.1'],
    ],
    { stdio: 'ignore' },
  );
  server = https.createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) => {
    asked.push(request.method ?? '');
    const { status, headers, body } = answers.shift() ?? { status: 500, body: {} };
    request.resume();
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const kubeconfig = join(directory, 'kubeconfig');
  const name = 'busy';
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      ...{ apiVersion: 'v1', kind: 'Config', 'current-context': name },
      contexts: [{ name, context: { cluster: name, user: name } }],
      users: [{ name, user: { token: 'secret' } }],
      clusters: [
        {
          name,
          cluster: {
            server: `https://127.0.0.1:${String((server.address() as AddressInfo).port)}`,
            'certificate-authority-data': readFileSync(cert).toString('base64'),
          },
        },
      ],
    }),
  );
  api = connectKube({ kubeconfigPath: kubeconfig, deadlineMs: 1_500 });
});

afterAll(async () => {
  api.close();
  server.close();
  await once(server, 'close');
  rmSync(directory, { recursive: true });
});

const list = { apiVersion: 'isthmus.dev/v1alpha1', kind: 'SiteList', metadata: { resourceVersion: '7' }, items: [] };
const busy = (after?: string) => ({
  status: 429,
  ...(after === undefined ? {} : { headers: { 'retry-after': after } }),
  body: { kind: 'Status', apiVersion: 'v1', metadata: {}, reason: 'TooManyRequests', code: 429 },
});

describe('a server that is busy', () => {
  it('is asked again when it says so, and the caller never hears of it', async () => {
    asked = [];
    answers = [busy('0'), busy('0.01'), { status: 200, body: list }];
    await expect(api.list(kinds.Site)).resolves.toMatchObject({ resourceVersion: '7' });
    expect(asked).toEqual(['GET', 'GET', 'GET']);
  });

  const failures = [
    { reason: 'it names no time', answers: [busy()], error: { code: 'KUBE_UNAVAILABLE', reason: 'TooManyRequests' } },
    {
      reason: 'the time that it names is beyond the deadline',
      answers: [busy('30')],
      error: { code: 'KUBE_UNAVAILABLE', reason: 'DeadlineExceeded' },
    },
  ];
  it.each(failures)('fails the call, once asked, when $reason', async (each) => {
    asked = [];
    answers = each.answers;
    await expect(api.list(kinds.Site)).rejects.toMatchObject(each.error);
    expect(asked).toEqual(['GET']);
  });
});
