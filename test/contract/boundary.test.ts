import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import { entryCookie, isEntryCookie, openFloodlight, type Floodlight } from '../../drivers/floodlight/index.js';
import { flowKey, openSwitch, type Flow, type Switch } from '../../drivers/openflow/index.js';
import { bridgeCookie, cookieMagic, cookieMagicMask, networkCookie } from '../../reconcilers/common/identity.js';
import { FloodlightBoundary, removeFloodlight } from '../../reconcilers/dataplane/floodlight.js';
import { Program, type SdnController } from '../../reconcilers/dataplane/program.js';
import { FloodlightStandIn } from '../support/floodlight/index.js';
import { report } from '../support/lab/run.js';
import { OpenVSwitch } from '../support/openvswitch.js';

const times = { pollMs: 50, settleMs: 150 };
const name = 'isth-edge';

let ovs: OpenVSwitch;
let standIn: FloodlightStandIn;
let listener: string;
let bridge: Switch;
let floodlight: Floodlight;

beforeAll(async () => {
  ovs = await OpenVSwitch.start();
  listener = await ovs.addBridge(name);
  for (const port of [1, 2, 3]) await ovs.addPort(name, `p${String(port)}`, port);
  bridge = openSwitch(listener);
  await bridge.ready();
});

afterAll(async () => {
  await bridge.close();
  await ovs.stop();
});

let hand: Hand | undefined;

beforeEach(async () => {
  standIn = await FloodlightStandIn.start({ settleMs: 30 });
  floodlight = openFloodlight(standIn.url, { callTimeoutMs: 400 });
});

afterEach(async () => {
  hand?.close();
  hand = undefined;
  await detach();
  await floodlight.close();
  await standIn.stop();
  await bridge.bundle([{ kind: 'removeAll', filter: {} }]);
});

const passive = (): string => {
  const [, host = '', port = ''] = listener.split(':');
  return `ptcp:${port}:${host}`;
};
async function attach(): Promise<void> {
  await ovs.vsctl('set-controller', name, passive(), standIn.openflow);
  const rows = await ovs.vsctl('--bare', '--columns=_uuid', 'find', 'controller', `target="${standIn.openflow}"`);
  for (const row of rows.split('\n')) if (row !== '') await ovs.vsctl('set', 'controller', row, 'max_backoff=1000');
}
async function detach(): Promise<void> {
  await ovs.vsctl('set-controller', name, passive());
}

/** A network's flows as the tables write them: even priorities. */
const network = (vni: number, tunnels: readonly number[]): [bigint, Flow[]] => {
  const cookie = networkCookie(vni);
  return [
    cookie,
    tunnels.map((inPort) => ({
      ...{ table: 0, priority: 200, cookie },
      match: { inPort, tunnelId: BigInt(vni) },
      instructions: {
        apply: [{ type: 'pushVlan' }, { type: 'setField', field: { vlanId: 100 } }, { type: 'output', port: 1 }],
      },
    })),
  ];
};
const some = (): Map<bigint, readonly Flow[]> =>
  new Map([[bridgeCookie, []], network(5000, [2, 3]), network(5001, [2])]);

/** What HostDataplane does with a controller: applies what drifts, and tries again what fails. */
class Hand {
  readonly wanted = some();
  lastError: string | undefined;
  readonly #dirty = new Set<bigint>();
  #running = false;
  #closed = false;

  private constructor() {
    this.controller = undefined as unknown as SdnController;
  }

  controller: SdnController;

  static on(make: (drift: (cookie: bigint | undefined) => void) => SdnController): Hand {
    const made = new Hand();
    made.controller = make((cookie) => made.mark(cookie));
    made.mark(undefined);
    return made;
  }

  /** undefined: all. */
  mark(cookie: bigint | undefined): void {
    for (const each of cookie === undefined ? this.wanted.keys() : [cookie]) this.#dirty.add(each);
    void this.#work();
  }

  set(cookie: bigint, flows: readonly Flow[]): void {
    this.wanted.set(cookie, flows);
    this.mark(cookie);
  }

  close(): void {
    this.#closed = true;
    this.controller.close();
  }

  async #work(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    await Promise.resolve();
    while (this.#dirty.size > 0 && !this.#closed) {
      const units = new Map(
        [...this.#dirty].map((cookie) => {
          const flows = this.wanted.get(cookie) ?? [];
          return [cookie, { revision: flows.map((flow) => identity(flow)).join(), flows }] as const;
        }),
      );
      this.#dirty.clear();
      try {
        await this.controller.load();
        await this.controller.apply(units);
        this.lastError = undefined;
      } catch (error) {
        this.lastError = error instanceof Error ? error.message : String(error);
        for (const cookie of units.keys()) this.#dirty.add(cookie);
        await sleep(50);
      }
    }
    this.#running = false;
  }
}

const boundary = (): FloodlightBoundary => {
  let made: FloodlightBoundary | undefined;
  hand = Hand.on((drift) => (made = new FloodlightBoundary(bridge, floodlight, drift, () => undefined, times)));
  if (!made) throw new Error('unreachable');
  return made;
};
const builtIn = (): Hand => (hand = Hand.on((drift) => new Program(bridge, drift)));

interface Held {
  /** Of what is wanted, by whom it is there. */
  readonly byUs: number;
  readonly byFloodlight: number;
  /** Of what is wanted, by nobody. */
  readonly missing: number;
  /** Of ours or of static entries, beyond what is wanted and the guard. */
  readonly extra: number;
}

const identity = (flow: Flow, down = 0): string => flowKey({ ...flow, priority: flow.priority - down });

async function held(wanted: ReadonlyMap<bigint, readonly Flow[]>): Promise<Held> {
  const flows = await bridge.dumpFlows();
  const ours = new Set(
    flows.filter(({ cookie }) => (cookie & cookieMagicMask) === cookieMagic).map((flow) => identity(flow)),
  );
  const theirs = new Set(flows.filter(({ cookie }) => isEntryCookie(cookie)).map((flow) => identity(flow, 1)));
  const keys = [...wanted.values()].flat().map((flow) => identity(flow));
  const guards = [0, 1].map((table) => flowKey({ table, priority: 2, match: {} }));
  return {
    byUs: keys.filter((key) => ours.has(key)).length,
    byFloodlight: keys.filter((key) => theirs.has(key)).length,
    missing: keys.filter((key) => !ours.has(key) && !theirs.has(key)).length,
    extra: [...ours, ...theirs].filter((key) => !keys.includes(key) && !guards.includes(key)).length,
  };
}

/** Of each flow of the bridge, since when it is there, in seconds. */
async function ages(): Promise<Map<string, number>> {
  const lines = (await ovs.ofctl('dump-flows', name)).split('\n').filter((line) => line.includes('duration='));
  return new Map(
    lines.map((line) => {
      const [, seconds] = /duration=([\d.]+)s/.exec(line) ?? [];
      return [line.replace(/duration=[\d.]+s|n_packets=\d+|n_bytes=\d+|idle_age=\d+/g, ''), Number(seconds)];
    }),
  );
}

async function until(what: string, check: () => Promise<void> | void, timeoutMs = 8_000): Promise<void> {
  for (const deadline = performance.now() + timeoutMs; ;) {
    try {
      await check();
      return;
    } catch (error) {
      if (performance.now() > deadline)
        throw new Error(`not within ${String(timeoutMs)} ms: ${what}; ${hand?.lastError ?? ''}`, { cause: error });
      await sleep(20);
    }
  }
}

const floodlightHolds = async (count = 3): Promise<void> =>
  await until('Floodlight holds everything, and nobody else anything', async () => {
    expect(await held(hand?.wanted ?? new Map())).toEqual({ byUs: 0, byFloodlight: count, missing: 0, extra: 0 });
    expect(hand?.lastError).toBeUndefined();
  });
const weHold = async (count = 3): Promise<void> =>
  await until('BuiltIn holds everything, and nobody else anything', async () => {
    expect(await held(hand?.wanted ?? new Map())).toEqual({ byUs: count, byFloodlight: 0, missing: 0, extra: 0 });
  });

/** Looks all the time while something happens: the longest that a wanted flow was nowhere. */
async function longestGapMs(wanted: ReadonlyMap<bigint, readonly Flow[]>, act: () => Promise<void>): Promise<number> {
  let [longest, since] = [0, undefined as number | undefined];
  const state = { done: false };
  const watching = (async () => {
    while (!state.done) {
      const { missing } = await held(wanted);
      const now = performance.now();
      if (missing === 0) since = undefined;
      else longest = Math.max(longest, now - (since ??= now));
      await sleep(2);
    }
  })();
  try {
    await act();
  } finally {
    state.done = true;
    await watching;
  }
  return longest;
}

describe('a site that changes to Floodlight', () => {
  it('is served by BuiltIn until the switch is there, and says what is missing', async () => {
    const controller = boundary();
    await weHold();
    await until('the state is told', () => {
      expect(controller.state).toMatchObject({ isFit: true, problem: { reason: 'ControllerUnreachable' } });
    });
    // Changes are served too.
    hand?.set(...network(5002, [3]));
    await weHold(4);
    await attach();
    await floodlightHolds(4);
    expect(controller.state).toEqual({ isFit: true, problem: undefined });
  });

  const emptiers = [
    { reason: 'Open vSwitch empties the tables for its first controller', behaviour: {} },
    { reason: 'Floodlight empties them too', behaviour: { clearTables: true } },
  ];
  it.each(emptiers)('has its flows back within a second when $reason', async ({ behaviour }) => {
    standIn.behave(behaviour);
    builtIn();
    await weHold();
    hand?.close();
    const gap = await longestGapMs(some(), async () => {
      boundary();
      await attach();
      await floodlightHolds();
    });
    report(`flows away for ${gap.toFixed(0)} ms`);
    expect(gap).toBeLessThan(1_000);
  });

  it('stays with BuiltIn while Floodlight would open paths of its own, and says so', async () => {
    standIn.behave({ forwarding: true });
    const controller = boundary();
    await attach();
    await weHold();
    await until('the state is told', () => {
      expect(controller.state).toMatchObject({ isFit: false, problem: { reason: 'ControllerUnfit' } });
    });
    expect(controller.state.problem?.message).toContain('Forwarding');
    standIn.behave({});
    await floodlightHolds();
    standIn.behave({ forwarding: true });
    await until('BuiltIn is back', async () => {
      expect(await held(some())).toMatchObject({ byUs: 3, missing: 0 });
    });
  });
});

describe('a boundary that Floodlight holds', () => {
  let controller: FloodlightBoundary;

  beforeEach(async () => {
    await attach();
    controller = boundary();
    await floodlightHolds();
  });

  it('follows what is wanted', async () => {
    hand?.set(...network(5002, [2, 3]));
    await floodlightHolds(5);
    hand?.set(...network(5000, [3]));
    await floodlightHolds(4);
    hand?.set(networkCookie(5001), []);
    await floodlightHolds(3);
    expect((await floodlight.entries((await floodlight.switches())[0]?.datapathId ?? 0n)).size).toBe(3 + 2);
  });

  it('takes a hundred flows, one call each', async () => {
    const [cookie, flows] = network(
      5002,
      Array.from({ length: 100 }, (_, index) => index + 10),
    );
    const from = performance.now();
    hand?.set(cookie, flows);
    await floodlightHolds(103);
    report(`a hundred flows through Floodlight's stand-in: ${(performance.now() - from).toFixed(0)} ms`);
  });

  it('is left alone when nothing differs', async () => {
    const before = await ages();
    await sleep(300);
    hand?.mark(undefined);
    await controller.audit();
    await sleep(300);
    const after = await ages();
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
    // A flow that was added again, the same as before, would be young again.
    expect([...after].filter(([flow, seconds]) => seconds < (before.get(flow) ?? 0) + 0.5)).toEqual([]);
  });

  it('is taken for handed over by the next process', async () => {
    hand?.close();
    boundary();
    const gap = await longestGapMs(some(), async () => {
      for (let look = 0; look < 20; look++) {
        expect(await held(some())).toMatchObject({ byUs: 0, byFloodlight: 3 });
        await sleep(20);
      }
    });
    expect(gap).toBe(0);
    hand?.set(...network(5002, [2]));
    await floodlightHolds(4);
  });

  it('gets back what somebody removed', async () => {
    await bridge.bundle([{ kind: 'removeAll', filter: { cookie: entryCookieOf(await anyName()) } }]);
    await floodlightHolds();
    await floodlight.remove(await anyName());
    await floodlightHolds();
  });

  it('keeps every flow when Floodlight restarts with an empty table, and is told it again', async () => {
    const gap = await longestGapMs(some(), async () => {
      await standIn.restart();
      await until('the list is full again', async () => {
        const [first] = await floodlight.switches();
        expect((await floodlight.entries(first?.datapathId ?? 0n)).size).toBe(3 + 2);
      });
    });
    expect(gap).toBe(0);
    await floodlightHolds();
  });

  it("is BuiltIn's until a Floodlight that empties the switch as it comes again has settled, and says so", async () => {
    const [found] = await floodlight.switches();
    const comesAgain = async (problem: unknown) => {
      standIn.disconnect(found?.datapathId ?? 0n);
      await until('the state is told', () => {
        expect(controller.state).toEqual({ isFit: true, problem });
      });
      await floodlightHolds();
    };
    standIn.behave({ clearTables: true });
    const gap = await longestGapMs(some(), () =>
      comesAgain(expect.objectContaining({ reason: 'ControllerClearsTables' })),
    );
    report(`flows away for ${gap.toFixed(0)} ms`);
    expect(gap).toBeLessThan(1_000);
    standIn.behave({});
    expect(await longestGapMs(some(), () => comesAgain(undefined))).toBe(0);
  });

  const troubles: readonly {
    reason: string;
    trouble: () => Promise<void> | void;
    relief: () => Promise<void> | void;
  }[] = [
    { reason: 'is dead', trouble: () => standIn.stop(), relief: () => standIn.resume() },
    {
      reason: 'hangs',
      trouble: () => standIn.behave({ hang: true }),
      relief: () => standIn.behave({}),
    },
    {
      reason: 'says 200 and means an error',
      trouble: () => standIn.behave({ refuseWith: 'Error! Could not parse flow mod, see log for details.' }),
      relief: () => standIn.behave({}),
    },
  ];
  it.each(troubles)(
    'keeps what it has while Floodlight $reason, says so, and follows later',
    async ({ trouble, relief }) => {
      await trouble();
      hand?.set(...network(5002, [2]));
      await until('the change fails', () => {
        expect(hand?.lastError).toContain(standIn.url);
      });
      expect(await held(some())).toMatchObject({ byFloodlight: 3, missing: 0 });
      await relief();
      await floodlightHolds(4);
    },
  );

  it('does not outlast a Floodlight that went away in the middle of taking over: BuiltIn’s word counts', async () => {
    hand?.close();
    builtIn();
    await until('both hold everything', async () => {
      expect(await held(some())).toEqual({ byUs: 3, byFloodlight: 3, missing: 0, extra: 0 });
    });
    hand?.close();
    await standIn.stop();
    boundary();
    const [cookie, [flow]] = network(5001, [2]);
    if (!flow) throw new Error('unreachable');
    const elsewhere: Flow = { ...flow, instructions: { apply: [{ type: 'output', port: 3 }] } };
    hand?.set(cookie, [elsewhere]);
    await until('what is in force is what is wanted', async () => {
      const met = (await bridge.dumpFlows()).filter(({ match }) => match.inPort === 2 && match.tunnelId === 5001n);
      expect(met.map(({ priority, instructions }) => ({ priority, instructions }))).toEqual([
        { priority: 200, instructions: elsewhere.instructions },
      ]);
    });
    await standIn.resume();
    await floodlightHolds();
  });

  it('loses what is left from networks that ended while both were away', async () => {
    hand?.close();
    await standIn.stop();
    await standIn.resume();
    boundary();
    hand?.set(networkCookie(5001), []);
    await floodlightHolds(2);
  });

  it('goes back to BuiltIn within a second, and nothing of Floodlight stays', async () => {
    hand?.close();
    const gap = await longestGapMs(some(), async () => {
      builtIn();
      await until('BuiltIn has everything', async () => {
        expect((await held(some())).byUs).toBe(3);
      });
      await detach();
      await removeFloodlight(bridge);
    });
    expect(gap).toBeLessThan(1_000);
    await weHold();
    expect(await bridge.dumpFlows()).toHaveLength(3);
  });

  async function anyName(): Promise<string> {
    const [first] = await floodlight.switches();
    const [entry] = await floodlight.entries(first?.datapathId ?? 0n);
    if (entry === undefined) throw new Error('no entry');
    return entry;
  }
  const entryCookieOf = (entry: string): bigint => entryCookie(entry);
});
