import { execFile } from 'node:child_process';
import https from 'node:https';
import { promisify } from 'node:util';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { z } from 'zod';
import {
  kinds,
  migrationPhases,
  type FederatedNetworkStatus,
  type FederatedVMStatus,
  type SiteStatus,
  type VMMigrationStatus,
} from '../../crds/index.js';
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

const allowed = z.object({ status: z.object({ allowed: z.boolean() }) });

let server: ApiServer;

async function kubectl(...args: string[]): Promise<string> {
  return (
    await run('kubectl', args, {
      cwd: repository,
      env: {
        ...process.env,
        PATH: `${repository}/.cache/tools:${process.env['PATH'] ?? ''}`,
        KUBECONFIG: server.kubeconfig,
      },
    })
  ).stdout;
}

async function request(method: string, path: string, body?: object): Promise<{ status: number; body: unknown }> {
  return new Promise((resolve, reject) => {
    const headers = {
      authorization: `Bearer ${server.token}`,
      'content-type': method === 'PATCH' ? 'application/apply-patch+yaml' : 'application/json',
      accept: path.endsWith('?as=Table') ? 'application/json;as=Table;v=v1;g=meta.k8s.io' : 'application/json',
    };
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

const since = '2026-01-01T00:00:00Z';
const conditions = [
  { type: 'Ready', status: 'True' as const, reason: 'Done', message: 'all is well', lastTransitionTime: since },
];
const siteStatus: SiteStatus = {
  observedGeneration: 1,
  conditions,
  hosts: [
    {
      name: 'a',
      ready: true,
      reason: 'Ready',
      message: '',
      versions: { libvirt: '9.0.0', qemu: '7.2.0', openvswitch: '3.1.0' },
      capacity: { cpus: 8, memory: '64Gi', disk: '500Gi' },
      allocated: { cpus: 2, memory: '4Gi', disk: '40Gi' },
      foreignNetworks: ['default'],
    },
  ],
  hostsReady: '1/1',
  vms: 2,
  controller: 'BuiltIn',
};
const networkStatus: FederatedNetworkStatus = {
  observedGeneration: 1,
  conditions,
  vlanId: 120,
  vni: 70120,
  mtu: 1450,
  sites: ['valencia', 'saopaulo'].map((name) => ({
    name,
    ready: true,
    reason: 'Ready',
    message: '',
    endpoint: '198.51.100.11',
    bridge: 'isth-int',
    controller: 'BuiltIn',
    flows: { wanted: 6, present: 6 },
  })),
  sitesReady: '2/2',
  machines: 3,
};
const machineStatus: FederatedVMStatus = {
  observedGeneration: 1,
  conditions,
  phase: 'Running',
  site: 'valencia',
  host: 'a',
  flavor: 'small',
  uuid: '3c7f0a1e-0f5e-5d5e-8d5b-1f2e3d4c5b6a',
  interfaces: [{ network: 'blue', mac: '02:00:00:00:00:01', address: '172.16.0.20' }],
  floatingIP: '198.18.200.10',
};
const migrationStatus: VMMigrationStatus = {
  observedGeneration: 1,
  conditions,
  phase: 'Copying',
  attempt: '3c7f0a1e-0f5e-4d5e-8d5b-1f2e3d4c5b6a',
  source: { site: 'valencia', host: 'a' },
  target: { site: 'saopaulo', host: 'b' },
  storage: 'Shared',
  progressPercent: 42,
  totalTimeMs: 4000,
  downtimeMs: 180,
  // More than 32 bits.
  transferredBytes: 5_000_000_000,
  remainingBytes: 0,
  dirtyRateBytesPerSecond: 1,
  iteration: 2,
  phaseTimestamps: migrationPhases.map((phase) => ({ phase, time: since })),
  reason: 'Copying',
  message: 'round 2',
  startTime: since,
  completionTime: since,
};
const table = z.object({
  columnDefinitions: z.array(z.object({ name: z.string(), priority: z.int() })),
  rows: z.array(z.object({ cells: z.array(z.unknown()) })),
});

describe('status and columns', () => {
  it.each([
    {
      kind: 'Site' as const,
      status: siteStatus,
      columns: 'NAME HOSTS VMS CONTROLLER READY REASON AGE',
      cells: ['1/1', 2, 'BuiltIn', 'True', 'Done'],
      reason: 'what scripts read of a site is kept',
    },
    {
      kind: 'FederatedNetwork' as const,
      status: networkStatus,
      columns: 'NAME VLAN VNI CIDR MTU SITES READY REASON AGE',
      cells: [120, 70120, '172.16.0.0/16', 1450, '2/2', 'True', 'Done'],
      reason: 'what scripts read of a network is kept',
    },
    {
      kind: 'FederatedVM' as const,
      status: machineStatus,
      columns: 'NAME SITE HOST FLAVOR IP FLOATING-IP STATUS READY AGE',
      cells: ['valencia', 'a', 'small', '172.16.0.20', '198.18.200.10', 'Running', 'True'],
      reason: 'what scripts read of a machine is kept',
    },
    {
      kind: 'VMMigration' as const,
      status: migrationStatus,
      columns: 'NAME VM FROM TO PHASE PROGRESS DOWNTIME AGE',
      cells: ['web-1', 'valencia', 'saopaulo', 'Copying', 42, 180],
      reason: 'what scripts read of a move is kept',
    },
    {
      kind: 'VMTemplate' as const,
      status: { observedGeneration: 1, conditions },
      columns: 'NAME ROLE DESCRIPTION READY REASON AGE',
      cells: ['DNS', 'Answers names', 'True', 'Done'],
      reason: 'a template says whether it is usable',
    },
  ])('$kind: $reason', async ({ kind, status, columns, cells }) => {
    const { apiVersion, plural, namespaced } = kinds[kind];
    const path = `/apis/${apiVersion}${namespaced ? '/namespaces/default' : ''}/${plural}`;
    const spec = cases.find((entry) => entry.kind === kind && entry.refused === undefined)?.spec;
    await request('POST', path, { apiVersion, kind, metadata: { name: 'shown' }, spec });
    const written = await request('PATCH', `${path}/shown/status?fieldManager=test&fieldValidation=Strict`, {
      apiVersion,
      kind,
      status,
    });
    expect(verdict(written)).toEqual([]);
    expect(kinds[kind].parse((await request('GET', `${path}/shown`)).body).status).toEqual(status);
    const { columnDefinitions, rows } = table.parse((await request('GET', `${path}?as=Table`)).body);
    const narrow = columnDefinitions.filter(({ priority }) => priority === 0).map(({ name }) => name.toUpperCase());
    expect(narrow.join(' ')).toBe(columns);
    expect(rows[0]?.cells.slice(1, 1 + cells.length)).toEqual(cells);
  });
});

describe('manifests', () => {
  beforeAll(async () => {
    await kubectl('apply', '-k', 'manifests/install');
  });

  it.each(['manifests/samples', 'manifests/samples/migration'])('%s is accepted', async (folder) => {
    expect(await kubectl('apply', '-k', folder)).toMatch(/created/);
  });

  it.each([
    { may: 'yes', verb: 'patch', on: 'federatedvms.isthmus.dev', reason: 'finalizers are patched in' },
    { may: 'yes', verb: 'patch', on: 'sites.isthmus.dev', sub: 'status', reason: 'status is applied' },
    { may: 'yes', verb: 'create', on: 'vmmigrations.isthmus.dev', reason: 'a changed placement asks for a move' },
    { may: 'no', verb: 'create', on: 'federatedvms.isthmus.dev', reason: 'machines are made by users' },
    { may: 'no', verb: 'delete', on: 'federatednetworks.isthmus.dev', reason: 'networks are deleted by users' },
    { may: 'no', verb: 'update', on: 'federatedvms.isthmus.dev', reason: 'the spec is the user’s' },
    { may: 'yes', verb: 'get', on: 'secrets', reason: 'cloudInit refers to Secrets of tenants' },
    { may: 'no', verb: 'list', on: 'secrets', reason: 'nobody’s Secrets are browsed' },
    {
      may: 'yes',
      verb: 'watch',
      on: 'secrets',
      namespace: 'isthmus-system',
      reason: 'renewed certificates are taken up',
    },
    { may: 'no', verb: 'update', on: 'secrets', namespace: 'isthmus-system', reason: 'Secrets are only read' },
    { may: 'yes', verb: 'create', on: 'events.events.k8s.io', reason: 'users see what happened' },
    {
      may: 'yes',
      verb: 'patch',
      on: 'leases.coordination.k8s.io',
      namespace: 'isthmus-system',
      reason: 'the leader renews',
    },
    { may: 'no', verb: 'patch', on: 'leases.coordination.k8s.io', reason: 'leases of others are none of ours' },
    { may: 'no', verb: 'create', on: 'pods', reason: 'nothing is run in the cluster' },
  ])(
    'may the operator $verb $on $sub $namespace? $may: $reason',
    async ({ may, verb, on, sub, namespace = 'acme' }) => {
      const [resource = '', ...group] = on.split('.');
      const review = await request('POST', '/apis/authorization.k8s.io/v1/subjectaccessreviews', {
        apiVersion: 'authorization.k8s.io/v1',
        kind: 'SubjectAccessReview',
        spec: {
          user: 'system:serviceaccount:isthmus-system:isthmus',
          resourceAttributes: { verb, resource, group: group.join('.'), subresource: sub, namespace },
        },
      });
      expect(allowed.parse(review.body).status.allowed).toBe(may === 'yes');
    },
  );
});
