import { afterEach, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { flowBody, flowKey } from '../../../drivers/openflow/index.js';
import type { Flow, FlowChange, Instructions } from '../../../drivers/openflow/types.js';
import { networkCookie } from '../../../reconcilers/common/identity.js';
import { diffFlows, Program, type Wanted } from '../../../reconcilers/dataplane/program.js';
import { MemorySwitch } from './support/switch.js';

const drop: Instructions = {};
const on: Instructions = { goto: 1 };
const flow = (inPort: number, instructions = on, vni = 5000): Flow => ({
  table: 0,
  priority: 100,
  cookie: networkCookie(vni),
  match: { inPort },
  instructions,
});
const listed = (flows: Iterable<Flow>) => new Map([...flows].map((each) => [flowKey(each), flowBody(each)]));
const add = (each: Flow): FlowChange => ({ kind: 'add', flow: each });
const remove = ({ table, priority, match, cookie }: Flow): FlowChange => ({
  kind: 'remove',
  flow: { table, priority, match, cookie },
});
const cookie = networkCookie(5000);

describe('diffFlows', () => {
  const cases: readonly { reason: string; wanted: readonly Flow[]; installed: readonly Flow[]; changes: readonly FlowChange[] }[] = [
    { reason: 'nothing wanted and nothing there is nothing to do', wanted: [], installed: [], changes: [] },
    { reason: 'what is missing is added', wanted: [flow(1), flow(2)], installed: [flow(1)], changes: [add(flow(2))] },
    { reason: 'what is not wanted is removed', wanted: [flow(1)], installed: [flow(1), flow(2)], changes: [remove(flow(2))] },
    { reason: 'what does something else is replaced, without a moment in which it is missing', wanted: [flow(1)], installed: [flow(1, drop)], changes: [add(flow(1))] },
    { reason: 'another’s cookie makes another flow', wanted: [flow(1)], installed: [flow(1, on, 5001)], changes: [add(flow(1))] },
    { reason: 'a flow that would go away by itself is replaced', wanted: [flow(1)], installed: [{ ...flow(1), timeouts: { idleSeconds: 9, hardSeconds: 0 } }], changes: [add(flow(1))] },
    { reason: 'a match written in another way is the same flow', wanted: [{ ...flow(1), match: { inPort: 1, ethDst: '02:00:00:00:00:0A' } }], installed: [{ ...flow(1), match: { ethDst: '02:00:00:00:00:0a/ff:ff:ff:ff:ff:ff', inPort: 1 } }], changes: [] },
    { reason: 'room is made before it is needed', wanted: [flow(2)], installed: [flow(1)], changes: [remove(flow(1)), add(flow(2))] },
  ]; // prettier-ignore
  it.each(cases)('$reason', ({ wanted, installed, changes }) => {
    expect(diffFlows(cookie, wanted, listed(installed))).toEqual(changes);
  });

  it('leaves exactly what is wanted, whatever was there', () => {
    const some = fc.uniqueArray(fc.record({ port: fc.nat(8), goto: fc.integer({ min: 1, max: 3 }) }), {
      selector: ({ port }) => port,
    });
    fc.assert(
      fc.property(some, some, (wanted, before) => {
        const want = wanted.map(({ port, goto }) => flow(port, { goto }));
        const after = listed(before.map(({ port, goto }) => flow(port, { goto })));
        for (const change of diffFlows(cookie, want, after)) {
          if (change.kind === 'removeAll') throw new Error('not asked for');
          if (change.kind === 'remove') after.delete(flowKey(change.flow));
          else after.set(flowKey(change.flow), flowBody(change.flow));
        }
        expect(diffFlows(cookie, want, after)).toEqual([]);
        expect(after.size).toBe(want.length);
      }),
    );
  });
});

describe('a program', () => {
  const programs: Program[] = [];
  afterEach(() => {
    for (const program of programs.splice(0)) program.close();
  });

  function start(flows: readonly Flow[] = []) {
    const bridge = new MemorySwitch();
    for (const each of flows) bridge.flows.set(flowKey(each), each);
    const drift: (bigint | undefined)[] = [];
    const program = new Program(bridge, (cookie) => drift.push(cookie));
    programs.push(program);
    bridge.connect();
    // The first connection is told as drift: nobody has read the bridge yet.
    expect(drift.splice(0)).toEqual([undefined]);
    return { bridge, program, drift };
  }
  const wanted = (...flows: Flow[]): Wanted => ({ revision: flows.map((each) => flowKey(each)).join(), flows });
  const units = (...flows: Flow[]): Map<bigint, Wanted> =>
    new Map(flows.map((one) => [one.cookie, wanted(...flows.filter((each) => each.cookie === one.cookie))]));
  const held = (bridge: MemorySwitch): string[] => [...bridge.flows.keys()].sort();
  const keysOf = (...flows: Flow[]): string[] => flows.map(flowKey).sort();

  it('sends nothing when nothing differs, be it that we or an earlier process put it there', async () => {
    const { bridge, program, drift } = start([flow(1), flow(2)]);
    await program.apply(units(flow(1), flow(2)));
    expect(bridge.bundles).toEqual([]);
    await program.apply(units(flow(1), flow(3)));
    await program.apply(units(flow(1), flow(3)));
    expect(bridge.bundles).toHaveLength(1);
    expect(held(bridge)).toEqual(keysOf(flow(1), flow(3)));
    expect(bridge.dumps).toBe(1);
    expect(drift).toEqual([]);
  });

  it('touches the units it is given, and no others', async () => {
    const others = [flow(7, on, 5001), { ...flow(8), cookie: 0x1234n }];
    const { bridge, program } = start([flow(1), ...others]);
    await program.apply(new Map([[cookie, wanted()]]));
    expect(held(bridge)).toEqual(keysOf(...others));
    expect([...program.cookies()]).toEqual([networkCookie(5001)]);
  });

  it('changes several units in one bundle', async () => {
    const { bridge, program } = start([flow(1), flow(2, on, 5001)]);
    await program.apply(new Map([...units(flow(3)), [networkCookie(5001), wanted()]]));
    expect(bridge.bundles).toHaveLength(1);
    expect(held(bridge)).toEqual(keysOf(flow(3)));
  });

  it('reports what was removed behind our back, and puts it back', async () => {
    const { bridge, program, drift } = start();
    await program.apply(units(flow(1), flow(2)));
    expect(program.present(cookie)).toBe(2);
    bridge.tamper(flow(2));
    expect(drift).toEqual([cookie]);
    expect(program.present(cookie)).toBe(1);
    await program.apply(units(flow(1), flow(2)));
    expect(held(bridge)).toEqual(keysOf(flow(1), flow(2)));
    expect(bridge.bundles[1]).toEqual([add(flow(2))]);
  });

  it('does not take its own removals, nor those of flows that it never had, for drift', async () => {
    const { bridge, program, drift } = start();
    await program.apply(units(flow(1), flow(2)));
    await program.apply(units(flow(1)));
    const foreign = flow(9, on, 5009);
    bridge.flows.set(flowKey(foreign), foreign);
    bridge.tamper(foreign);
    expect(drift).toEqual([]);
  });

  it('does not lose a removal that comes while a bundle of ours is on its way', async () => {
    const { bridge, program, drift } = start();
    await program.apply(units(flow(1), flow(2)));
    bridge.onCommit = () => bridge.tamper(flow(1));
    await program.apply(units(flow(1), flow(2), flow(3)));
    expect(drift).toEqual([cookie]);
    bridge.onCommit = () => undefined;
    await program.apply(units(flow(1), flow(2), flow(3)));
    expect(held(bridge)).toEqual(keysOf(flow(1), flow(2), flow(3)));
  });

  it('reads a bridge anew that reconnects, for what it holds then is anyone’s guess', async () => {
    const { bridge, program, drift } = start();
    await program.apply(units(flow(1), flow(2)));
    bridge.disconnect();
    expect(program.isConnected).toBe(false);
    expect(program.present(cookie)).toBe(0);
    bridge.flows.clear();
    bridge.connect();
    expect(program.isConnected).toBe(true);
    expect(drift).toEqual([undefined]);
    await program.apply(units(flow(1), flow(2)));
    expect(held(bridge)).toEqual(keysOf(flow(1), flow(2)));
  });

  it('says that a bridge is not connected, rather than wait for it', async () => {
    const { bridge, program } = start([flow(1)]);
    bridge.disconnect();
    await expect(program.apply(units(flow(1)))).rejects.toThrow('not connected');
  });

  it('takes no answer of an earlier connection for what the bridge holds now', async () => {
    const { bridge, program } = start([flow(1)]);
    const late = expect(program.apply(units(flow(1), flow(2)))).rejects.toThrow('not connected');
    await new Promise<void>((resolve) => setImmediate(resolve));
    bridge.disconnect();
    bridge.flows.clear();
    bridge.connect();
    await late;
    await program.apply(units(flow(1), flow(2)));
    expect(held(bridge)).toEqual(keysOf(flow(1), flow(2)));
  });

  const failures = [
    { reason: 'a refused bundle changed nothing', committed: false },
    { reason: 'a bundle whose answer was lost may be in force', committed: true },
  ];
  it.each(failures)('reads the bridge again after a failure: $reason', async ({ committed }) => {
    const { bridge, program } = start([flow(1)]);
    bridge.failure = { error: new Error('no answer'), committed };
    await expect(program.apply(units(flow(2)))).rejects.toThrow('no answer');
    expect(program.present(cookie)).toBe(0);
    await program.apply(units(flow(2)));
    expect(held(bridge)).toEqual(keysOf(flow(2)));
    expect(bridge.dumps).toBe(2);
    // What was in force already is not sent again.
    expect(bridge.bundles).toHaveLength(1);
  });

  it('finds at an audit what nobody reported', async () => {
    const { bridge, program, drift } = start();
    await program.apply(units(flow(1), flow(2), flow(3, on, 5001), flow(4, on, 5002)));
    await program.audit();
    expect(drift).toEqual([]);
    bridge.flows.delete(flowKey(flow(1)));
    bridge.flows.set(flowKey(flow(3)), flow(3, drop, 5001));
    const stray = flow(5, on, 5003);
    bridge.flows.set(flowKey(stray), stray);
    await program.audit();
    expect(drift).toEqual([5000, 5001, 5003].map(networkCookie));
    await program.apply(new Map([...units(flow(1), flow(2), flow(3, on, 5001)), [networkCookie(5003), wanted()]]));
    expect(held(bridge)).toEqual(keysOf(flow(1), flow(2), flow(3), flow(4)));
    expect(bridge.flows.get(flowKey(flow(3)))).toEqual(flow(3, on, 5001));
  });

  it('reads a bridge once for all who ask at the same time', async () => {
    const { bridge, program } = start([flow(1)]);
    await Promise.all([program.load(), program.load(), program.apply(units(flow(1)))]);
    expect(bridge.dumps).toBe(1);
  });

  it('is told nothing more once it is closed', async () => {
    const { bridge, program, drift } = start();
    await program.apply(units(flow(1)));
    program.close();
    bridge.tamper(flow(1));
    bridge.disconnect();
    bridge.connect();
    expect(drift).toEqual([]);
    expect(bridge.flowRemoved.observed || bridge.state.observed).toBe(false);
  });
});
