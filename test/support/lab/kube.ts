import { kinds, type Condition } from '../../../crds/index.js';
import { connectKube, type KubeConnection } from '../../../controllers/kube/client.js';
import type { Resource } from '../../../controllers/kube/api.js';
import { z } from 'zod';
import { CommandError, eventually, feed, project, run, sites } from './run.js';

const kubectlPath = `${project}.cache/tools/kubectl`;
const config = `--kubeconfig=${project}.lab/kubeconfig`;

export type Manifest = Readonly<Record<string, unknown>>;

/** Standard output; fails with CommandError. */
export async function kubectl(...args: string[]): Promise<string> {
  return await feed(kubectlPath, [config, ...args], '');
}

/** YAML text, or objects. */
export async function apply(manifests: string | readonly Manifest[]): Promise<string> {
  if (typeof manifests !== 'string') await noneIsGoing(manifests.flatMap(nameOfNamespace));
  const text =
    typeof manifests === 'string' ? manifests : JSON.stringify({ apiVersion: 'v1', kind: 'List', items: manifests });
  return await feed(kubectlPath, [config, 'apply', '-f', '-'], text);
}

/** manifests/samples: two tenants, acme and globex. */
export async function applySamples(): Promise<void> {
  await noneIsGoing(['acme', 'globex']);
  await kubectl('apply', '-k', 'manifests/samples');
}

/** A namespace of that name may still be going, since an earlier test. */
async function noneIsGoing(names: readonly string[]): Promise<void> {
  if (names.length === 0) return;
  await eventually('no namespace of these names is going', async () => {
    const going = (await list('namespaces'))
      .filter(({ metadata: { name, deletionTimestamp } }) => names.includes(name) && deletionTimestamp !== undefined)
      .map(({ metadata: { name } }) => name);
    if (going.length > 0) throw new Error(`still there: ${going.join(', ')}`);
  });
}

/** What `kubectl apply` says when it refuses. */
export async function applyFails(manifests: readonly Manifest[]): Promise<string> {
  let answer;
  try {
    answer = await apply(manifests);
  } catch (error) {
    if (error instanceof CommandError) return error.stderr;
    throw error;
  }
  throw new Error(`expected to be refused, but: ${answer}`);
}

const apiVersion = 'isthmus.dev/v1alpha1';

export const namespace = (name: string) => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } }) as const;
const nameOfNamespace = ({ kind, metadata }: Manifest): string[] =>
  kind === 'Namespace' ? [z.object({ name: z.string() }).parse(metadata).name] : [];

/** An object of ours; `key` is `namespace/name`, or the name of a Site. */
export function manifest(kind: keyof typeof kinds, key: string, spec: Manifest): Manifest {
  return { apiVersion, kind, metadata: metadataOf(key), spec };
}

/** The lab's tiny guest: boots in seconds, counts them in /run/seconds. */
export const machine = (key: string, spec: Manifest): Manifest =>
  manifest('FederatedVM', key, {
    type: 'VirtualMachine',
    image: { name: 'tiny' },
    resources: { vcpus: 1, memory: '128Mi', disk: '1Gi' },
    ...spec,
  });

/** Where any machine will do: it is there at once. */
export const container = (key: string, spec: Manifest): Manifest =>
  machine(key, {
    type: 'Container',
    image: { name: 'tiny-ct' },
    resources: { vcpus: 1, memory: '64Mi', disk: '64Mi' },
    ...spec,
  });

function metadataOf(key: string): Manifest {
  const [first = '', second] = key.split('/');
  return second === undefined ? { name: first } : { namespace: first, name: second };
}

function keyArguments(key: string): string[] {
  const [first = '', second] = key.split('/');
  return second === undefined ? [first] : ['--namespace', first, second];
}

interface Kind<T> extends Resource {
  parse(object: unknown): T;
}

let connection: KubeConnection | undefined;

/** A connection of the test file's own, which stays: a command for each look would take its time. */
const api = (): KubeConnection => (connection ??= connectKube({ kubeconfigPath: `${project}.lab/kubeconfig` }));

/** At the end of a test file that has looked at objects. */
export function disconnect(): void {
  connection?.close();
  connection = undefined;
}

/** The object as the API server has it now, or undefined. */
export async function find<T>(kind: Kind<T>, key: string): Promise<T | undefined> {
  const [first = '', second] = key.split('/');
  const object = await api().get(kind, second === undefined ? { name: first } : { namespace: first, name: second });
  return object && kind.parse(object);
}

export async function get<T>(kind: Kind<T>, key: string): Promise<T> {
  const object = await find(kind, key);
  if (object === undefined) throw new Error(`there is no ${kind.plural} ${key}`);
  return object;
}

/** What all our kinds have in common. */
export interface Conditioned {
  readonly status?: { readonly conditions?: Condition[] | undefined } | undefined;
}

export function condition(object: Conditioned, type: string): Condition | undefined {
  return object.status?.conditions?.find((each) => each.type === type);
}

/** Merges these fields into an object's spec. */
export async function patchSpec(kind: { plural: string; group: string }, key: string, spec: object): Promise<void> {
  const patch = `--patch=${JSON.stringify({ spec })}`;
  await kubectl('patch', `${kind.plural}.${kind.group}`, ...keyArguments(key), '--type=merge', patch);
}

const eventList = z.object({ items: z.array(z.object({ message: z.string().optional() })) });

/** Messages of an object's events with that reason. */
export async function eventsOf(kind: string, name: string, reason: string): Promise<string[]> {
  const selector = `involvedObject.kind=${kind},involvedObject.name=${name},reason=${reason}`;
  const text = await kubectl('get', 'events', '--all-namespaces', `--field-selector=${selector}`, '--output=json');
  return eventList.parse(JSON.parse(text)).items.map(({ message = '' }) => message);
}

/** Resolves when the machine is what it is told to be. */
export async function setRunStrategy(
  key: string,
  runStrategy: 'Running' | 'Stopped' | 'Paused',
  timeoutMs?: number,
): Promise<void> {
  await patchSpec(kinds.FederatedVM, key, { runStrategy });
  await eventually(
    `${key} is ${runStrategy}`,
    async () => {
      const object = await get(kinds.FederatedVM, key);
      const { phase } = object.status ?? {};
      if (phase !== runStrategy || condition(object, 'Ready')?.status !== 'True')
        throw new Error(JSON.stringify(object.status));
    },
    timeoutMs,
  );
}

/** `kubectl wait`, as a user's script would. */
export async function waitReady(
  { plural, group }: { plural: string; group: string },
  ...args: string[]
): Promise<void> {
  const resources = `${plural}.${group}`;
  await eventually(
    `${resources} are Ready`,
    () => kubectl('wait', '--for=condition=Ready', '--timeout=1s', resources, '--all', ...args),
    60_000,
  );
}

export async function remove(kind: { plural: string; group: string }, ...keys: string[]): Promise<void> {
  for (const key of keys)
    await kubectl('delete', `${kind.plural}.${kind.group}`, ...keyArguments(key), '--wait=false', '--ignore-not-found');
}

const listed = z.object({
  items: z.array(
    z.object({
      kind: z.string(),
      metadata: z.object({
        name: z.string(),
        namespace: z.string().optional(),
        resourceVersion: z.string(),
        finalizers: z.array(z.string()).optional(),
        deletionTimestamp: z.string().optional(),
      }),
      spec: z.unknown().optional(),
    }),
  ),
});
export type Listed = z.infer<typeof listed>['items'][number];

/** With their group: another may have kinds of these names. */
export const ourKinds = Object.values(kinds)
  .map((kind) => `${kind.plural}.${kind.group}`)
  .join();

/** All objects of these kinds in all namespaces; ours by default. */
export async function list(resources = ourKinds): Promise<Listed[]> {
  return listed.parse(JSON.parse(await kubectl('get', resources, '--all-namespaces', '--output=json'))).items;
}

export const title = ({ kind, metadata }: Listed): string =>
  `${kind} ${metadata.namespace === undefined ? '' : `${metadata.namespace}/`}${metadata.name}`;

const ownNamespaces = new Set(['default', 'isthmus-system', 'kube-node-lease', 'kube-public', 'kube-system']);

/** Tenants' namespaces with all that is in them, and Sites that are not the lab's. */
async function strangers(): Promise<{ namespaces: string[]; objects: string[]; sites: string[] }> {
  const [objects, namespaces] = await Promise.all([list(), list('namespaces')]);
  const labs: readonly string[] = sites;
  return {
    namespaces: namespaces.map(({ metadata }) => metadata.name).filter((name) => !ownNamespaces.has(name)),
    objects: objects.filter(({ metadata }) => metadata.namespace !== undefined).map(title),
    sites: objects
      .filter(({ kind, metadata }) => kind === 'Site' && !labs.includes(metadata.name))
      .map(({ metadata }) => metadata.name),
  };
}

/** Sets fields of a Site's host; null takes a field away, or the host itself. */
export async function patchHost(
  site: string,
  host: string,
  fields: Readonly<Record<string, boolean | null>> | null,
): Promise<void> {
  const index = (await get(kinds.Site, site)).spec.hosts.findIndex(({ name }) => name === host);
  if (index < 0) throw new Error(`the Site ${site} has no host ${host}`);
  const at = `/spec/hosts/${String(index)}`;
  const changes = Object.entries(fields ?? { '': null }).map(([field, value]) => ({
    path: field === '' ? at : `${at}/${field}`,
    ...(value === null ? { op: 'remove' } : { op: 'add', value }),
  }));
  await kubectl('patch', 'sites.isthmus.dev', site, '--type=json', `--patch=${JSON.stringify(changes)}`);
}

/** Deletes every object that is not the lab's own, and waits until it is gone. Needs an operator that runs. */
export async function deleteObjects(): Promise<void> {
  const { objects, sites: others } = await strangers();
  if (objects.length > 0)
    for (const kind of [kinds.VMMigration, kinds.FederatedVM, kinds.FederatedNetwork])
      await kubectl('delete', `${kind.plural}.${kind.group}`, '--all-namespaces', '--all', '--wait=false');
  for (const site of others) {
    for (const { name } of (await get(kinds.Site, site)).spec.hosts) await patchHost(site, name, { fenced: true });
    await kubectl('delete', 'sites.isthmus.dev', site, '--wait=false', '--ignore-not-found');
  }
  await objectsGone();
}

/** The tenants' namespaces too; empty, they take Kubernetes five seconds and more, which nobody waits for. */
export async function deleteTenants(): Promise<void> {
  await deleteObjects();
  const { namespaces } = await strangers();
  if (namespaces.length > 0) await kubectl('delete', 'namespace', ...namespaces, '--wait=false', '--ignore-not-found');
}

export async function objectsGone(): Promise<void> {
  await eventually(
    'all objects are gone',
    async () => {
      const { objects, sites } = await strangers();
      const left = [...objects, ...sites];
      if (left.length > 0) throw new Error(`still there: ${left.join(', ')}`);
    },
    60_000,
  );
}

export async function tenantsGone(): Promise<void> {
  await objectsGone();
  await eventually(
    'all tenants are gone',
    async () => {
      const { namespaces } = await strangers();
      if (namespaces.length > 0) throw new Error(`still there: ${namespaces.join(', ')}`);
    },
    60_000,
  );
}

/** Brings back what the lab begins with: its Sites. */
export async function applySites(): Promise<void> {
  const asOurs = [config, 'apply', '--server-side', '--force-conflicts'];
  // A lab that is up may be older than the kinds.
  await run(kubectlPath, [...asOurs, '-k', 'manifests/install/crds']);
  await run(kubectlPath, [...asOurs, '-f', 'lab/sites.yaml']);
}
