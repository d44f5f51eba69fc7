/** Watches a connection: after `intervalMs` of silence it is probed, after as long again without a sign of life it is dead. */
export class IdleWatch {
  #timer: NodeJS.Timeout | undefined;
  #check: NodeJS.Immediate | undefined;
  #heardAt = performance.now();
  #probed = false;

  constructor(
    private readonly intervalMs: number,
    private readonly probe: () => void,
    private readonly dead: () => void,
  ) {
    this.#arm(intervalMs);
  }

  heard(): void {
    this.#heardAt = performance.now();
    this.#probed = false;
  }

  stop(): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#check);
  }

  #arm(delayMs: number): void {
    this.#timer = setTimeout(() => {
      // After a pause of our own (a long computation, a stopped process) the answer may lie unread in the socket: let
      // the event loop poll once before judging.
      this.#check = setImmediate(() => this.#judge());
    }, delayMs);
  }

  #judge(): void {
    const silentMs = performance.now() - this.#heardAt;
    if (silentMs < this.intervalMs) {
      this.#arm(this.intervalMs - silentMs);
      return;
    }
    if (this.#probed) {
      this.dead();
      return;
    }
    this.#probed = true;
    this.#arm(this.intervalMs);
    this.probe();
  }
}
