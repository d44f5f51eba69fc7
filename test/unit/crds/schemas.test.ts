import { readFileSync, readdirSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { parse } from 'yaml';
import { z } from 'zod';
import { generated } from '../../../crds/definition.js';
import { kinds, type Kind } from '../../../crds/index.js';
import { formatPath } from '../../../crds/kind.js';
import { cases, type Case } from './cases.js';
import { expectVerdict, type Verdict } from './matches.js';

const node = z.object({
  get properties() {
    return z.record(z.string(), node).optional();
  },
  get additionalProperties() {
    return node.optional();
  },
  get items() {
    return node.optional();
  },
  'x-kubernetes-validations': z.array(z.object({ message: z.string() })).optional(),
});
type Node = z.infer<typeof node>;
const definition = z.object({
  spec: z.object({
    names: z.object({ kind: z.string() }),
    versions: z.tuple([z.object({ schema: z.object({ openAPIV3Schema: node }) })]),
  }),
});
const schemas = new Map(
  [...generated()]
    .filter(([name]) => name !== 'kustomization.yaml')
    .map(([, content]) => definition.parse(parse(content)).spec)
    .map(({ names, versions: [{ schema }] }) => [names.kind, schema.openAPIV3Schema]),
);

/** What the API server's strict field validation refuses. */
function unknownFields(value: unknown, schema: Node | undefined, path: readonly PropertyKey[]): string[] {
  if (Array.isArray(value)) return value.flatMap((item, index) => unknownFields(item, schema?.items, [...path, index]));
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, field]) => {
    const known = schema?.properties?.[key] ?? schema?.additionalProperties;
    return known === undefined ? [formatPath([...path, key])] : unknownFields(field, known, [...path, key]);
  });
}

function object(kind: Kind, name: string, spec: object) {
  return {
    apiVersion: 'isthmus.dev/v1alpha1',
    kind,
    metadata: {
      name,
      namespace: 'acme',
      uid: 'u',
      resourceVersion: '1',
      generation: 1,
      creationTimestamp: '2026-01-01T00:00:00Z',
    },
    spec,
  };
}

function judge({ kind, objectName = 'a', before, spec }: Case): Verdict {
  const unknown = unknownFields(spec, schemas.get(kind)?.properties?.['spec'], ['spec']);
  if (unknown.length > 0) return unknown.map((path) => ({ says: `unknown field "${path}"` }));
  const result = kinds[kind].schema.safeParse(object(kind, objectName, spec));
  if (!result.success) return result.error.issues.map(({ path, message }) => ({ at: formatPath(path), says: message }));
  return before === undefined
    ? []
    : kinds[kind]
        .refusedUpdate(before, spec)
        .map(({ path, message }) => ({ at: formatPath(['spec', ...path]), says: message }));
}

describe('the schemas', () => {
  it.each(cases)('$kind: $name ($reason)', (entry) => expectVerdict(entry, judge(entry)));

  it('have a case for every rule, so that none is untried against the API server', () => {
    const said = cases.flatMap(({ refused = [] }) => refused.map(({ says }) => says)).filter((says) => says !== '');
    const untried = [...schemas.values()]
      .flatMap(messages)
      .filter((message) => !said.some((part) => message.includes(part)));
    expect(untried).toEqual([]);
  });
});

function messages(schema: Node): string[] {
  const below = [...Object.values(schema.properties ?? {}), schema.items, schema.additionalProperties];
  return [
    ...(schema['x-kubernetes-validations'] ?? []).map(({ message }) => message),
    ...below.flatMap((child) => (child === undefined ? [] : messages(child))),
  ];
}

describe('parse', () => {
  const accepted = cases.filter(({ refused }) => refused === undefined);
  it.each(accepted)('$kind: gives the spec as written: $name', ({ kind, objectName = 'a', spec }) => {
    expect(kinds[kind].parse(object(kind, objectName, spec)).spec).toEqual(spec);
  });

  it('leaves out what a newer version of the API may have added', () => {
    const newer = object('FederatedNetwork', 'a', { cidr: '172.16.0.0/16', colour: 'blue', firewall: { colour: 1 } });
    expect(kinds.FederatedNetwork.parse(newer).spec).toEqual({ cidr: '172.16.0.0/16', firewall: {} });
  });

  it('names every field at fault', () => {
    const parse = () => kinds.FederatedNetwork.parse(object('FederatedNetwork', 'a', { cidr: 'blue', mtu: 1 }));
    expect(parse).toThrow(expect.objectContaining({ code: 'InvalidObject', kind: 'FederatedNetwork' }));
    expect(parse).toThrow(/spec\.cidr: must be an IPv4 CIDR.*; spec\.mtu: /);
  });
});

describe('crds/*.yaml', () => {
  const folder = new URL('../../../crds/', import.meta.url);
  const committed = new Map(
    readdirSync(folder)
      .filter((name) => name.endsWith('.yaml'))
      .map((name) => [name, readFileSync(new URL(name, folder), 'utf8')]),
  );

  it('are what the schemas generate: run npm run generate', () => expect(committed).toEqual(new Map(generated())));

  it('never write a default into a spec, which is its owner’s', () => {
    for (const [name, content] of committed) expect([name, /^ *default:/m.exec(content)]).toEqual([name, null]);
  });
});
