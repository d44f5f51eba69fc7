import { z } from 'zod';
import { group, labelNameRule, namespacedMeta, objectMeta, version } from './common.js';
import { withRules, type TransitionRule } from './rule.js';

/** A column of `kubectl get` (CustomResourceColumnDefinition); priority 1 shows with `-o wide` only. */
export interface Column {
  readonly name: string;
  readonly type: 'string' | 'integer' | 'date';
  readonly jsonPath: string;
  readonly description: string;
  readonly priority?: number;
}

const ready = '.status.conditions[?(@.type=="Ready")]';
const commonColumns = {
  Ready: { name: 'Ready', type: 'string', jsonPath: `${ready}.status`, description: 'Whether it is as wanted.' },
  Reason: { name: 'Reason', type: 'string', jsonPath: `${ready}.reason`, description: 'Why it is ready or not.' },
  Age: {
    name: 'Age',
    type: 'date',
    jsonPath: '.metadata.creationTimestamp',
    description: 'Time since it was created.',
  },
  WideReady: {
    name: 'Ready',
    type: 'string',
    jsonPath: `${ready}.status`,
    description: 'Whether it is as wanted.',
    priority: 1,
  },
  WideReason: {
    name: 'Reason',
    type: 'string',
    jsonPath: `${ready}.reason`,
    description: 'Why it is ready or not.',
    priority: 1,
  },
  Message: {
    name: 'Message',
    type: 'string',
    jsonPath: `${ready}.message`,
    description: 'What is the matter and what to do.',
    priority: 1,
  },
} as const satisfies Record<string, Column>;

interface Definition<N extends string, S extends z.ZodType, T extends z.ZodType, B extends boolean> {
  readonly kind: N;
  readonly plural: string;
  readonly shortNames: readonly string[];
  readonly namespaced: B;
  readonly description: string;
  readonly spec: S;
  readonly status: T;
  /** Whether metadata.name has to be a DNS label. */
  readonly labelName: boolean;
  readonly transitions: readonly TransitionRule<z.output<S>>[];
  readonly columns: readonly (Column | keyof typeof commonColumns)[];
}

/** An object from outside that is not what its kind says. */
export class InvalidObjectError extends Error {
  readonly code = 'InvalidObject';
  constructor(
    readonly kind: string,
    /** Each as `spec.field: what is wrong with it`. */
    readonly violations: readonly string[],
    options?: ErrorOptions,
  ) {
    super(`not a valid ${kind}: ${violations.join('; ')}`, options);
    this.name = 'InvalidObjectError';
  }
}

/** The type follows `namespaced`, which no parser can tell TypeScript. */
const metadataOf = <B extends boolean>(namespaced: B, labelName: boolean) =>
  (namespaced ? namespacedMeta : objectMeta).extend({
    name: labelName ? withRules(z.string(), labelNameRule) : z.string(),
  }) as B extends true ? typeof namespacedMeta : typeof objectMeta;

export function defineKind<N extends string, S extends z.ZodType, T extends z.ZodType, B extends boolean>(
  definition: Definition<N, S, T, B>,
) {
  const schema = z.object({
    apiVersion: z.literal(`${group}/${version}`),
    kind: z.literal(definition.kind),
    metadata: metadataOf(definition.namespaced, definition.labelName),
    spec: definition.spec,
    status: definition.status.optional(),
  });
  return {
    ...definition,
    group,
    version,
    apiVersion: `${group}/${version}` as const,
    columns: definition.columns.map((column): Column => (typeof column === 'string' ? commonColumns[column] : column)),
    schema,
    /**
     * An object from the API server. What the schemas don't know is left out, nothing is added: the spec is as the user
     * wrote it. Fails with InvalidObjectError.
     */
    parse(object: unknown): z.output<typeof schema> {
      const result = schema.safeParse(object);
      if (result.success) return result.data;
      throw new InvalidObjectError(definition.kind, explain(result.error.issues), { cause: result.error });
    },
    /** The rules that this update of a valid spec to another breaks. */
    refusedUpdate(before: unknown, after: unknown): TransitionRule<z.output<S>>[] {
      const [oldSelf, self] = [definition.spec.parse(before), definition.spec.parse(after)];
      return definition.transitions.filter(({ check }) => !check(self, oldSelf));
    },
  };
}

/** Each issue as `spec.networks[0].name: message`. */
export function explain(issues: readonly z.core.$ZodIssue[]): string[] {
  return issues.map(({ path, message }) => `${formatPath(path)}: ${message}`);
}

export function formatPath(path: readonly PropertyKey[]): string {
  return path
    .map((part, index) =>
      typeof part === 'number' ? `[${part.toString()}]` : `${index === 0 ? '' : '.'}${String(part)}`,
    )
    .join('');
}
