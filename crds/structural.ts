/** A schema that can't be said as a structural schema of Kubernetes, with the place in it. */
export class StructuralSchemaError extends Error {
  readonly code = 'NotStructural';
  constructor(path: string, problem: string) {
    super(`${path}: ${problem}`);
    this.name = 'StructuralSchemaError';
  }
}

export type JsonSchema = Readonly<Record<string, unknown>>;

const isSchema = (value: unknown): value is JsonSchema =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const anywhere = ['description', 'type', 'x-kubernetes-validations'];
const allowed: Readonly<Record<string, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'minItems', 'maxItems', 'x-kubernetes-list-type', 'x-kubernetes-list-map-keys'],
  string: ['minLength', 'maxLength', 'pattern', 'enum', 'format'],
  integer: ['minimum', 'maximum'],
  boolean: [],
};

/**
 * The structural schema (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema)
 * of what zod gives for openapi-3.0. Fails with StructuralSchemaError on all that it doesn't know, so that nothing of a
 * zod schema gets lost on the way unseen. Every field has to be described.
 */
export function structural(schema: unknown, path: string): JsonSchema {
  if (!isSchema(schema)) throw new StructuralSchemaError(path, 'is not a schema');
  if ('anyOf' in schema) return intOrString(schema, path);
  const { type } = schema;
  const keys = typeof type === 'string' ? allowed[type] : undefined;
  if (typeof type !== 'string' || keys === undefined)
    throw new StructuralSchemaError(path, 'has no type that is known');
  refuseUnknown(schema, [...anywhere, ...keys], path);
  switch (type) {
    case 'object':
      return object(schema, path);
    case 'array':
      return { ...schema, items: structural(schema['items'], `${path}[]`) };
    case 'string':
      return text(schema, path);
    case 'integer':
      return integer(schema);
    default:
      return schema;
  }
}

function object(schema: JsonSchema, path: string): JsonSchema {
  const { properties = {}, additionalProperties, ...rest } = schema;
  if (isSchema(additionalProperties)) {
    if ('properties' in schema) throw new StructuralSchemaError(path, 'has fields and free keys both');
    return { ...rest, additionalProperties: structural(additionalProperties, `${path}.*`) };
  }
  // Unknown fields are pruned by the API server, or refused on request (strict field validation), never described.
  if (additionalProperties !== undefined && additionalProperties !== false) {
    throw new StructuralSchemaError(path, 'takes any key');
  }
  if (!isSchema(properties)) throw new StructuralSchemaError(path, 'has malformed properties');
  const fields = Object.entries(properties).map(([name, field]) => {
    const fieldPath = `${path}.${name}`;
    if (!isSchema(field) || typeof field['description'] !== 'string') {
      throw new StructuralSchemaError(fieldPath, 'has no description');
    }
    return [name, structural(field, fieldPath)];
  });
  return fields.length === 0 ? rest : { ...rest, properties: Object.fromEntries(fields) };
}

function text(schema: JsonSchema, path: string): JsonSchema {
  const { pattern, format, ...rest } = schema;
  if (format === 'date-time') return { ...rest, format };
  if (format !== undefined) throw new StructuralSchemaError(path, `has format ${JSON.stringify(format)}`);
  if (pattern === undefined) return rest;
  // The API server's expressions are RE2.
  if (typeof pattern !== 'string' || /\(\?[=!<]|\\[1-9]/.test(pattern)) {
    throw new StructuralSchemaError(path, 'has a pattern with look-around or back references');
  }
  return { ...rest, pattern };
}

/** zod's integers end where JavaScript's do; that is no bound of ours. */
function integer(schema: JsonSchema): JsonSchema {
  const { minimum, maximum, ...rest } = schema;
  return {
    ...rest,
    format: 'int64',
    ...(minimum === Number.MIN_SAFE_INTEGER ? {} : { minimum }),
    ...(maximum === Number.MAX_SAFE_INTEGER ? {} : { maximum }),
  };
}

function intOrString(schema: JsonSchema, path: string): JsonSchema {
  const { anyOf, ...rest } = schema;
  refuseUnknown(rest, anywhere, path);
  const [first, second, ...others] = Array.isArray(anyOf) ? anyOf.map((part) => structural(part, path)) : [];
  if (first?.['type'] !== 'integer' || second?.['type'] !== 'string' || others.length > 0) {
    throw new StructuralSchemaError(path, 'is a union other than of an integer and a string');
  }
  const { type, ...bounds } = second;
  return { ...rest, anyOf: [{ type: 'integer' }, { type }], 'x-kubernetes-int-or-string': true, ...bounds };
}

function refuseUnknown(schema: JsonSchema, known: readonly string[], path: string): void {
  const unknown = Object.keys(schema).find((key) => !known.includes(key));
  if (unknown !== undefined) throw new StructuralSchemaError(path, `has ${unknown}`);
}
