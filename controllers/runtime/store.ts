import { Subject, type Observable } from 'rxjs';

/** old without new: gone. new without old: first seen. */
export interface Change<T> {
  readonly key: string;
  readonly old?: T;
  readonly new?: T;
}

/** Which values of an index an object is found under. */
export type Indexes<T> = Readonly<Record<string, (object: T) => readonly string[]>>;

/** What is known of a kind, by keyString. Objects in it are shared: never change one. */
export interface Store<T> {
  readonly size: number;
  get(key: string): T | undefined;
  list(): T[];
  /** The objects that the named index puts under value. */
  listByIndex(index: string, value: string): T[];
  /** Emitted after the store has changed. */
  readonly changes: Observable<Change<T>>;
}

export class MemoryStore<T> implements Store<T> {
  readonly #objects = new Map<string, T>();
  readonly #indexed = new Map<string, Map<string, Map<string, T>>>();
  readonly #changes = new Subject<Change<T>>();
  readonly changes = this.#changes.asObservable();

  constructor(private readonly indexes: Indexes<T> = {}) {
    for (const name of Object.keys(indexes)) this.#indexed.set(name, new Map());
  }

  get size(): number {
    return this.#objects.size;
  }

  get(key: string): T | undefined {
    return this.#objects.get(key);
  }

  list(): T[] {
    return [...this.#objects.values()];
  }

  listByIndex(index: string, value: string): T[] {
    const values = this.#indexed.get(index);
    if (!values) throw new TypeError(`no index ${index}`);
    return [...(values.get(value)?.values() ?? [])];
  }

  set(key: string, object: T): void {
    const old = this.#objects.get(key);
    if (old !== undefined) this.#unindex(key, old);
    this.#objects.set(key, object);
    this.#index(key, object);
    this.#changes.next(old === undefined ? { key, new: object } : { key, old, new: object });
  }

  delete(key: string): void {
    const old = this.#objects.get(key);
    if (old === undefined) return;
    this.#unindex(key, old);
    this.#objects.delete(key);
    this.#changes.next({ key, old });
  }

  #index(key: string, object: T): void {
    for (const [name, valuesOf] of Object.entries(this.indexes)) {
      const values = this.#indexed.get(name);
      for (const value of valuesOf(object)) {
        const found = values?.get(value);
        if (found) found.set(key, object);
        else values?.set(value, new Map([[key, object]]));
      }
    }
  }

  #unindex(key: string, object: T): void {
    for (const [name, valuesOf] of Object.entries(this.indexes)) {
      const values = this.#indexed.get(name);
      for (const value of valuesOf(object)) {
        const found = values?.get(value);
        found?.delete(key);
        if (found?.size === 0) values?.delete(value);
      }
    }
  }
}
