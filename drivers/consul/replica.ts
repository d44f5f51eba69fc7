import type { Entry } from './types.js';

/** A write of ours that Consul has acknowledged. deletedIndex: the index that the deleted entry had; Infinity if not known. */
export type OwnWrite = { readonly entry: Entry } | { readonly key: string; readonly deletedIndex: number };

interface Held {
  entry: Entry;
  /** The last answer that had it. */
  answer: number;
}

interface Mask {
  readonly write: OwnWrite;
  readonly acknowledged: number;
}

/**
 * What is known of a prefix, from two sources that overtake each other: Consul's answers, and the acknowledgements of our
 * own writes. An answer may have been read before a write of ours was applied, and must then not undo it.
 *
 * Two facts decide: a consistent read that began after the acknowledgement has the write; and Consul applies writes in the
 * order of their index, so that an answer with an X-Consul-Index at or above the write's has it too.
 */
export class Replica {
  readonly #held = new Map<string, Held>();
  /** Own writes that the last answer can't be trusted to have. */
  readonly #masks = new Map<string, Mask>();
  /** Orders the beginnings of requests and the acknowledgements of writes. */
  #clock = 0;
  #answers = 0;
  #index = 0;

  get size(): number {
    return this.#held.size;
  }

  get(key: string): Entry | undefined {
    return this.#held.get(key)?.entry;
  }

  *entries(): IterableIterator<Entry> {
    for (const held of this.#held.values()) yield held.entry;
  }

  /** To be called when a request is sent; the result goes with its answer. */
  begin(): number {
    return ++this.#clock;
  }

  /** Takes a whole answer (all entries of the prefix, index: its X-Consul-Index). Returns the keys that changed. */
  answer(begun: number, index: number, entries: Iterable<Entry>): string[] {
    const changed: string[] = [];
    const answer = ++this.#answers;
    this.#index = index;
    for (const [key, { write, acknowledged }] of this.#masks) {
      if (begun > acknowledged || ('entry' in write && index >= write.entry.index)) this.#masks.delete(key);
    }
    let seen = 0;
    for (const entry of entries) {
      if (this.#masks.size > 0 && this.#isOlderThanOwn(entry)) continue;
      seen++;
      const held = this.#held.get(entry.key);
      if (held === undefined) {
        this.#held.set(entry.key, { entry, answer });
      } else {
        held.answer = answer;
        if (held.entry.index === entry.index) continue;
        held.entry = entry;
      }
      changed.push(entry.key);
    }
    if (seen !== this.#held.size) this.#dropAbsent(answer, changed);
    return changed;
  }

  /** Takes acknowledged writes. Returns the keys that changed. */
  wrote(writes: Iterable<OwnWrite>): string[] {
    const changed: string[] = [];
    for (const write of writes) {
      const key = 'entry' in write ? write.entry.key : write.key;
      const held = this.#held.get(key);
      if (
        'entry' in write
          ? this.#isKnown(write.entry, held)
          : held !== undefined && held.entry.index > write.deletedIndex
      ) {
        continue;
      }
      this.#masks.set(key, { write, acknowledged: ++this.#clock });
      if ('entry' in write) this.#held.set(key, { entry: write.entry, answer: this.#answers });
      else if (!this.#held.delete(key)) continue;
      changed.push(key);
    }
    return changed;
  }

  /** Whether the written entry, or what came after it, was already seen. */
  #isKnown(entry: Entry, held: Held | undefined): boolean {
    if (held !== undefined && held.entry.index >= entry.index) return true;
    const own = this.#masks.get(entry.key)?.write;
    const deleted = own !== undefined && 'key' in own && own.deletedIndex >= entry.index;
    return deleted || this.#index >= entry.index;
  }

  #isOlderThanOwn(entry: Entry): boolean {
    const mask = this.#masks.get(entry.key);
    if (mask === undefined) return false;
    if (entry.index <= ('entry' in mask.write ? mask.write.entry.index : mask.write.deletedIndex)) return true;
    this.#masks.delete(entry.key);
    return false;
  }

  #dropAbsent(answer: number, changed: string[]): void {
    for (const [key, held] of this.#held) {
      if (held.answer === answer || this.#masks.has(key)) continue;
      this.#held.delete(key);
      changed.push(key);
    }
  }
}
