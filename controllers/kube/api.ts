export interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly controller?: boolean | undefined;
  readonly blockOwnerDeletion?: boolean | undefined;
}

export interface Metadata {
  readonly name: string;
  readonly namespace?: string | undefined;
  readonly uid: string;
  readonly resourceVersion: string;
  /** Counts changes of spec; 0 for kinds of which the server keeps none. */
  readonly generation: number;
  /** RFC 3339, seconds. */
  readonly creationTimestamp?: string | undefined;
  readonly deletionTimestamp?: string | undefined;
  readonly finalizers?: readonly string[] | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  readonly ownerReferences?: readonly OwnerReference[] | undefined;
}

/** An object as the API server gave it; fields beside these are kept for whoever parses the kind, managedFields are not. */
export interface KubeObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: Metadata;
  readonly spec?: unknown;
  readonly status?: unknown;
}

/** An object to create: the server fills in the rest of its metadata. Kind and apiVersion come from the Resource. */
export interface NewKubeObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string | undefined;
    readonly finalizers?: readonly string[] | undefined;
    readonly labels?: Readonly<Record<string, string>> | undefined;
    readonly annotations?: Readonly<Record<string, string>> | undefined;
    readonly ownerReferences?: readonly OwnerReference[] | undefined;
  };
  readonly [field: string]: unknown;
}

/** group is empty for the core group. */
export interface Resource {
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly kind: string;
  readonly namespaced: boolean;
}

export function apiVersionOf(resource: Resource): string {
  return resource.group === '' ? resource.version : `${resource.group}/${resource.version}`;
}

export interface ObjectKey {
  readonly namespace?: string | undefined;
  readonly name: string;
}

/** `namespace/name`, or `name` of a cluster-scoped object: what queues and caches are keyed by. */
export function keyString(key: ObjectKey): string {
  return key.namespace === undefined ? key.name : `${key.namespace}/${key.name}`;
}

export function parseKey(text: string): ObjectKey {
  const slash = text.indexOf('/');
  return slash < 0 ? { name: text } : { namespace: text.slice(0, slash), name: text.slice(slash + 1) };
}

/** The call fails with code KUBE_ABORTED when the signal is aborted; what the server did is then unknown. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface Selection {
  /** Absent: all namespaces. */
  readonly namespace?: string | undefined;
  readonly labelSelector?: string | undefined;
  readonly fieldSelector?: string | undefined;
}

export interface ListOptions extends CallOptions, Selection {
  readonly limit?: number | undefined;
  readonly continue?: string | undefined;
}

export interface ObjectList {
  readonly items: readonly KubeObject[];
  readonly resourceVersion: string;
  /** Present: there is more, of the same snapshot. The token expires with etcd's history (KUBE_EXPIRED). */
  readonly continue?: string;
}

export interface WatchOptions extends Selection {
  readonly resourceVersion: string;
  /** The server ends the watch after this time. */
  readonly timeoutSeconds?: number | undefined;
  /** Ends the iteration, without an error. */
  readonly signal: AbortSignal;
}

export type WatchEvent =
  | { readonly type: 'ADDED' | 'MODIFIED' | 'DELETED'; readonly object: KubeObject }
  | { readonly type: 'BOOKMARK'; readonly resourceVersion: string }
  | { readonly type: 'ERROR'; readonly error: KubeApiError };

export interface DeleteOptions extends CallOptions {
  /** Delete only the object that has this uid: a namesake is left alone. */
  readonly uid?: string | undefined;
  readonly propagation?: 'Background' | 'Foreground' | 'Orphan' | undefined;
}

export interface ApplyOptions extends CallOptions {
  readonly fieldManager: string;
  /**
   * A namesake with another uid is a KUBE_CONFLICT. Its status has then been written, as the API server ignores a uid in an
   * apply of status; its own reconcile sees the change and writes what is right.
   */
  readonly uid?: string | undefined;
}

/** The Kubernetes API. Every method fails with KubeApiError, and within the connection's deadline. */
export interface KubeApi {
  /** Live read. */
  get(resource: Resource, key: ObjectKey, options?: CallOptions): Promise<KubeObject | undefined>;
  list(resource: Resource, options?: ListOptions): Promise<ObjectList>;
  /**
   * Changes after resourceVersion, with bookmarks. Ends when the server ends it or the signal is aborted; throws when it is
   * refused (KUBE_EXPIRED: list again) or the connection breaks. Has no deadline: a silent connection is the caller's to judge.
   */
  watch(resource: Resource, options: WatchOptions): AsyncIterable<WatchEvent>;
  create(resource: Resource, object: NewKubeObject, options?: CallOptions): Promise<KubeObject>;
  /** Server-side apply of the whole status with force: fields that this manager applied before and that are absent now go away. */
  applyStatus(resource: Resource, key: ObjectKey, status: object, options: ApplyOptions): Promise<KubeObject>;
  /** KUBE_CONFLICT if the object is no longer at resourceVersion. */
  setFinalizers(
    resource: Resource,
    key: ObjectKey,
    finalizers: readonly string[],
    resourceVersion: string,
    options?: CallOptions,
  ): Promise<KubeObject>;
  /** JSON merge patch (RFC 7386); with metadata.resourceVersion in it, a lost race is a KUBE_CONFLICT. */
  patch(resource: Resource, key: ObjectKey, mergePatch: object, options?: CallOptions): Promise<KubeObject>;
  /** Succeeds if the object, or the one with that uid, is absent. */
  delete(resource: Resource, key: ObjectKey, options?: DeleteOptions): Promise<void>;
  /** The decoded data of a Secret. */
  secret(namespace: string, name: string, options?: CallOptions): Promise<Record<string, Buffer> | undefined>;
}

export type KubeErrorCode =
  | 'KUBE_NOT_FOUND'
  | 'KUBE_ALREADY_EXISTS'
  /** Lost an optimistic lock, or a uid precondition failed: read again. */
  | 'KUBE_CONFLICT'
  /** Unauthenticated or not allowed. */
  | 'KUBE_FORBIDDEN'
  | 'KUBE_INVALID'
  /** 410: the history needed is gone, list again. */
  | 'KUBE_EXPIRED'
  /** No answer in time, no connection, overloaded, or a server error: nothing is known of the outcome. */
  | 'KUBE_UNAVAILABLE'
  | 'KUBE_ABORTED'
  /** An answer that makes no sense, or an unusable kubeconfig. */
  | 'KUBE_PROTOCOL';

/**
 * The message holds only what we asked for and the answer's status and reason, never the server's text, which may quote
 * what was sent.
 */
export class KubeApiError extends Error {
  override readonly name = 'KubeApiError';

  constructor(
    readonly code: KubeErrorCode,
    request: string,
    /** HTTP status, 0 without an answer. */
    readonly status: number,
    /** metav1.Status.reason, or the error code of the system. */
    readonly reason: string,
    options?: ErrorOptions & {
      /** Of a KUBE_INVALID: the paths of the fields that were refused. */
      fields?: readonly string[];
    },
  ) {
    const fields = options?.fields ?? [];
    super(`${request}: ${status} ${reason}${fields.length > 0 ? ` (${fields.join(', ')})` : ''}`, options);
    this.fields = fields;
  }

  readonly fields: readonly string[];
}

export function isKubeError(error: unknown, ...codes: readonly KubeErrorCode[]): error is KubeApiError {
  return error instanceof KubeApiError && codes.includes(error.code);
}
