import { BehaviorSubject, filter, firstValueFrom, map, throwError, timeout } from 'rxjs';
import { z } from 'zod';
import type { KubeApi, KubeObject, Resource } from '../controllers/kube/api.js';

/** The objects of one kind in one namespace, as a watch tells; kept current until disposed of. */
export class Watched implements AsyncDisposable {
  readonly #objects = new Map<string, KubeObject>();
  readonly #changed = new BehaviorSubject(undefined);
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  private constructor(
    private readonly api: KubeApi,
    private readonly resource: Resource,
    private readonly namespace: string,
    resourceVersion: string,
  ) {
    this.#running = this.#run(resourceVersion).catch((error: unknown) => this.#changed.error(error));
  }

  /** Knows what is changed from here on. */
  static async open(api: KubeApi, resource: Resource, namespace: string): Promise<Watched> {
    const { resourceVersion } = await api.list(resource, { namespace });
    return new Watched(api, resource, namespace, resourceVersion);
  }

  /** Resolves once the object is as asked; undefined stands for one that is gone. */
  async until(
    name: string,
    holds: (object: KubeObject | undefined) => boolean,
    timeoutMs = 60_000,
  ): Promise<KubeObject | undefined> {
    const late = (): Error =>
      new Error(
        `${this.resource.kind} ${this.namespace}/${name} is not as expected after ${timeoutMs} ms: ${JSON.stringify(this.#objects.get(name)?.status)}`,
      );
    return await firstValueFrom(
      this.#changed.pipe(
        map(() => this.#objects.get(name)),
        filter(holds),
        timeout({ first: timeoutMs, with: () => throwError(late) }),
      ),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running;
    this.#changed.complete();
  }

  async #run(from: string): Promise<void> {
    const { namespace } = this;
    const { signal } = this.#stop;
    let resourceVersion = from;
    // The server ends every watch after some minutes.
    while (!signal.aborted)
      for await (const event of this.api.watch(this.resource, { namespace, resourceVersion, signal })) {
        if (event.type === 'ERROR') throw event.error;
        if (event.type === 'BOOKMARK') {
          resourceVersion = event.resourceVersion;
          continue;
        }
        const { name } = event.object.metadata;
        resourceVersion = event.object.metadata.resourceVersion;
        if (event.type === 'DELETED') this.#objects.delete(name);
        else this.#objects.set(name, event.object);
        this.#changed.next(undefined);
      }
  }
}

const conditioned = z.object({ conditions: z.array(z.object({ type: z.string(), status: z.string() })) });

/** Whether the object's condition Ready is True. */
export function isReady(object: KubeObject | undefined): boolean {
  const { data } = conditioned.safeParse(object?.status);
  return data?.conditions.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false;
}

export const isGone = (object: KubeObject | undefined): boolean => object === undefined;

const phased = z.object({ phase: z.string() });

/** Whether the move has ended, however. */
export function isOver(object: KubeObject | undefined): boolean {
  return ['Succeeded', 'Failed', 'Cancelled'].includes(phased.safeParse(object?.status).data?.phase ?? '');
}
