// What the API server sends, parsed once at the edge.
import { z } from 'zod';

import {
  apiVersionOf,
  KubeApiError,
  type KubeErrorCode,
  type KubeObject,
  type Resource,
  type WatchEvent,
} from './api.js';

const metadata = z.object({
  name: z.string(),
  namespace: z.string().optional(),
  uid: z.string(),
  resourceVersion: z.string(),
  generation: z.number().default(0),
  creationTimestamp: z.string().optional(),
  deletionTimestamp: z.string().optional(),
  finalizers: z.array(z.string()).optional(),
  labels: z.record(z.string(), z.string()).optional(),
  annotations: z.record(z.string(), z.string()).optional(),
  ownerReferences: z
    .array(
      z.object({
        apiVersion: z.string(),
        kind: z.string(),
        name: z.string(),
        uid: z.string(),
        controller: z.boolean().optional(),
        blockOwnerDeletion: z.boolean().optional(),
      }),
    )
    .optional(),
});

const object = z.looseObject({ metadata });

const list = z.object({
  metadata: z.object({ resourceVersion: z.string(), continue: z.string().optional() }),
  // Null when a Go server has an empty list.
  items: z.array(z.unknown()).nullable(),
});

const status = z.object({
  reason: z.string().optional(),
  message: z.string().optional(),
  code: z.number().optional(),
  details: z
    .object({ causes: z.array(z.object({ field: z.string().optional() })).optional() })
    .nullish()
    .catch(undefined),
});

const event = z.discriminatedUnion('type', [
  z.object({ type: z.enum(['ADDED', 'MODIFIED', 'DELETED']), object: z.unknown() }),
  z.object({ type: z.literal('BOOKMARK'), object: z.object({ metadata: z.object({ resourceVersion: z.string() }) }) }),
  z.object({ type: z.literal('ERROR'), object: status }),
]);

const secret = z.object({ data: z.record(z.string(), z.string()).optional() });

function parse<T>(schema: z.ZodType<T>, value: unknown, request: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const fields = result.error.issues.map((issue) => issue.path.join('.'));
  throw new KubeApiError('KUBE_PROTOCOL', request, 200, 'UnexpectedAnswer', { fields });
}

export function parseJson(text: string, request: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The cause would quote the text.
    throw new KubeApiError('KUBE_PROTOCOL', request, 200, 'NotJSON');
  }
}

/** Items of a list of a built-in kind lack apiVersion and kind. */
export function parseObject(resource: Resource, value: unknown, request: string): KubeObject {
  return { ...parse(object, value, request), apiVersion: apiVersionOf(resource), kind: resource.kind };
}

export function parseList(resource: Resource, value: unknown, request: string) {
  const { metadata: meta, items } = parse(list, value, request);
  return {
    items: (items ?? []).map((item) => parseObject(resource, item, request)),
    resourceVersion: meta.resourceVersion,
    ...(meta.continue ? { continue: meta.continue } : {}),
  };
}

export function parseEvent(resource: Resource, line: string, request: string): WatchEvent {
  const parsed = parse(event, parseJson(line, request), request);
  switch (parsed.type) {
    case 'ADDED':
    case 'MODIFIED':
    case 'DELETED':
      return { type: parsed.type, object: parseObject(resource, parsed.object, request) };
    case 'BOOKMARK':
      return { type: 'BOOKMARK', resourceVersion: parsed.object.metadata.resourceVersion };
    case 'ERROR':
      return { type: 'ERROR', error: errorOf(request, parsed.object.code ?? 0, parsed.object) };
  }
}

export function parseSecret(value: unknown, request: string): Record<string, Buffer> {
  const { data = {} } = parse(secret, value, request);
  return Object.fromEntries(Object.entries(data).map(([name, base64]) => [name, Buffer.from(base64, 'base64')]));
}

/** The error that an answer of this HTTP status and body (a metav1.Status, or a proxy's text) stands for. */
export function answerError(request: string, httpStatus: number, body: string): KubeApiError {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    value = {};
  }
  const parsed = status.safeParse(value);
  return errorOf(request, httpStatus, parsed.success ? parsed.data : {});
}

function errorOf(request: string, httpStatus: number, answer: z.infer<typeof status>): KubeApiError {
  // A status with fields that the installed CRD does not have yet: the operator was updated before it.
  const isOutdated = answer.message?.includes('field not declared in schema') ?? false;
  const reason = answer.reason ?? (isOutdated ? 'CustomResourceDefinitionOutdated' : 'Unknown');
  const fields = (answer.details?.causes ?? []).flatMap((cause) => cause.field ?? []);
  return new KubeApiError(codeOf(httpStatus, reason), request, httpStatus, reason, { fields });
}

function codeOf(httpStatus: number, reason: string): KubeErrorCode {
  switch (httpStatus) {
    case 401:
    case 403:
      return 'KUBE_FORBIDDEN';
    case 404:
      return 'KUBE_NOT_FOUND';
    case 409:
      return reason === 'AlreadyExists' ? 'KUBE_ALREADY_EXISTS' : 'KUBE_CONFLICT';
    case 410:
      return 'KUBE_EXPIRED';
    case 400:
    case 413:
    case 415:
    case 422:
      return 'KUBE_INVALID';
    default:
      return httpStatus === 408 || httpStatus === 429 || httpStatus >= 500 ? 'KUBE_UNAVAILABLE' : 'KUBE_PROTOCOL';
  }
}
