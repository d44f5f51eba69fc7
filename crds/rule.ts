import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';

/** A constraint that a JSON schema can't state, written once for the API server (CEL) and once for us; both see the same node. */
export interface Rule<T> {
  /** https://kubernetes.io/docs/reference/using-api/cel/; `self` is the node. It must not fail on a node that breaks another rule. */
  readonly cel: string;
  readonly check: (self: T) => boolean;
  /** What `kubectl apply` shows: names the field and the remedy. */
  readonly message: string;
  /** The field below the node that the message is about. */
  readonly path?: readonly string[];
}

/** As a Rule, but of an update: `oldSelf` is the stored object's spec. */
export interface TransitionRule<T> {
  readonly cel: string;
  readonly check: (self: T, oldSelf: T) => boolean;
  readonly message: string;
  readonly path: readonly string[];
}

interface Validation {
  readonly rule: string;
  readonly message: string;
  readonly fieldPath?: string;
}

declare module 'zod' {
  interface GlobalMeta {
    'x-kubernetes-validations'?: readonly Validation[];
    'x-kubernetes-list-type'?: 'map' | 'set' | 'atomic';
    'x-kubernetes-list-map-keys'?: readonly string[];
  }
}

export function rule<T>(definition: Rule<T>): Rule<T> {
  return definition;
}

/** The schema with these rules on its node. */
export function withRules<S extends z.ZodType>(schema: S, ...rules: readonly Rule<z.output<S>>[]): S {
  const checked = schema.check((context) => {
    for (const { check, message, path = [] } of rules) {
      if (!check(context.value))
        context.issues.push({ code: 'custom', message, path: [...path], input: context.value });
    }
  });
  return withValidations(checked, rules);
}

/** The schema with these validations stated to the API server only: an update's rules have no meaning for one object alone. */
export function withValidations<S extends z.ZodType>(
  schema: S,
  rules: readonly Pick<Rule<never>, 'cel' | 'message' | 'path'>[],
): S {
  const before = schema.meta()?.['x-kubernetes-validations'] ?? [];
  const added = rules.map(({ cel, message, path }) => ({
    rule: cel,
    message,
    ...(path === undefined ? {} : { fieldPath: path.map((part) => `.${part}`).join('') }),
  }));
  return schema.meta({ 'x-kubernetes-validations': [...before, ...added] });
}

/** A field that keeps its first value: it can't be changed, nor added or removed later. */
export function immutable<K extends string>(field: K, remedy: string): TransitionRule<Partial<Record<K, unknown>>> {
  return {
    cel: `has(self.${field}) == has(oldSelf.${field}) && (!has(self.${field}) || self.${field} == oldSelf.${field})`,
    check: (self, oldSelf) => isDeepStrictEqual(self[field], oldSelf[field]),
    message: `${field} can't be changed, added or removed later: ${remedy}`,
    path: [field],
  };
}

/** A list without two equal items; the API server checks it by itself. */
export function set<S extends z.ZodType<string>>(item: S, max: number): z.ZodArray<S> {
  return unique(z.array(item).max(max), (value) => value).meta({ 'x-kubernetes-list-type': 'set' });
}

/** A list whose items are told apart by a field, or by several; the API server checks it by itself. */
export function listMap<K extends string, S extends z.ZodType<Record<K, unknown>>>(
  item: S,
  key: K | readonly K[],
  max?: number,
): z.ZodArray<S> {
  const list = z.array(item);
  const keyOf = (value: Record<K, unknown>): unknown =>
    typeof key === 'string' ? value[key] : Object.fromEntries(key.map((each) => [each, value[each]]));
  return unique(max === undefined ? list : list.max(max), keyOf).meta({
    'x-kubernetes-list-type': 'map',
    'x-kubernetes-list-map-keys': typeof key === 'string' ? [key] : key,
  });
}

function unique<S extends z.ZodType>(list: z.ZodArray<S>, key: (item: z.output<S>) => unknown): z.ZodArray<S> {
  return list.check(({ value, issues }) => {
    const seen = new Set<string>();
    for (const [index, item] of value.entries()) {
      const id = JSON.stringify(key(item));
      if (seen.has(id)) {
        issues.push({ code: 'custom', message: `Duplicate value: ${id}`, path: [index], input: item });
      }
      seen.add(id);
    }
  });
}
