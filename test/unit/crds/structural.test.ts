import { describe, expect, it } from '@jest/globals';
import { z } from 'zod';
import { structural, StructuralSchemaError } from '../../../crds/structural.js';

const convert = (schema: z.ZodType) =>
  structural(z.toJSONSchema(schema, { target: 'openapi-3.0', io: 'input' }), 'spec');
const field = (schema: z.ZodType) => z.object({ field: schema.describe('Something.') });

describe('structural', () => {
  it.each([
    {
      reason: 'unknown fields are pruned, never forbidden',
      schema: z.strictObject({}),
      expected: { type: 'object' },
    },
    {
      reason: "JavaScript's bounds of integers are no bounds of ours",
      schema: z.int().min(1),
      expected: { type: 'integer', format: 'int64', minimum: 1 },
    },
    {
      reason: "the date-time format says all that zod's pattern says",
      schema: z.iso.datetime({ offset: true }),
      expected: { type: 'string', format: 'date-time' },
    },
    {
      reason: 'a quantity is a number or text',
      schema: z.union([z.int(), z.string().max(8)]),
      expected: {
        anyOf: [{ type: 'integer' }, { type: 'string' }],
        'x-kubernetes-int-or-string': true,
        maxLength: 8,
      },
    },
    {
      reason: 'free keys are a map',
      schema: z.record(z.string(), z.string().max(8)),
      expected: { type: 'object', additionalProperties: { type: 'string', maxLength: 8 } },
    },
  ])('converts: $reason', ({ schema, expected }) => expect(convert(schema)).toEqual(expected));

  it.each([
    { reason: 'a union has no type', schema: field(z.union([z.string(), z.boolean()])) },
    {
      reason: 'a union of objects has no type',
      schema: field(z.discriminatedUnion('a', [z.object({ a: z.literal('b') })])),
    },
    { reason: 'null is no value of a spec', schema: field(z.string().nullable()) },
    { reason: 'the spec is its owner’s', schema: field(z.string().default('a')) },
    { reason: 'RE2 has no look-ahead', schema: field(z.string().regex(/^(?!a)/)) },
    { reason: 'RE2 has no back references', schema: field(z.string().regex(/^(a)\1$/)) },
    { reason: 'formats differ between zod and Kubernetes', schema: field(z.email()) },
    {
      reason: 'free keys beside fields would be pruned',
      schema: field(z.looseObject({ a: z.string().describe('A.') })),
    },
    { reason: 'any value at all is no schema', schema: field(z.unknown()) },
    { reason: 'floating point compares badly', schema: field(z.number()) },
    { reason: 'kubectl explain has to say something', schema: z.object({ field: z.string() }) },
    {
      reason: 'a schema is of one type',
      schema: z.object({ field: z.intersection(z.string(), z.string()).describe('A.') }),
    },
  ])('refuses: $reason', ({ schema }) => {
    expect(() => convert(schema)).toThrow(StructuralSchemaError);
    expect(() => convert(schema)).toThrow(/^spec\.field/);
  });
});
