import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { writeInstructions } from '../../../drivers/openflow/actions.js';
import { Writer } from '../../../drivers/openflow/bytes.js';
import { errorName } from '../../../drivers/openflow/error-names.js';
import {
  type Action,
  type Flow,
  flowBody,
  flowKey,
  flowOfKey,
  type Instructions,
  type Match,
  OpenFlowValueError,
  type SetField,
} from '../../../drivers/openflow/index.js';
import { writeMatch } from '../../../drivers/openflow/match.js';
import {
  Framer,
  type Message,
  readMessage,
  writeBundleAdd,
  writeBundleControl,
  writeEchoReply,
  writeFlowMod,
  writeFlowsRequest,
  writeHello,
  writePacketOut,
} from '../../../drivers/openflow/messages.js';
import { MalformedError } from '../../../drivers/wire/malformed.js';

const seeded = { seed: 0x0413, numRuns: 500 };
const u = (bits: number) => fc.integer({ min: 0, max: 2 ** bits - 1 });
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const mac = fc
  .array(u(8), { minLength: 6, maxLength: 6 })
  .map((bytes) => bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':'));
const ipv4 = fc.ipV4();
const maskable = <T>(one: fc.Arbitrary<T>) => fc.oneof(one, fc.record({ value: one, mask: one }));
const maskableText = (one: fc.Arbitrary<string>) =>
  fc.oneof(
    one,
    fc.tuple(one, one).map((pair) => pair.join('/')),
  );
const [reg, register] = [maskable(u(32)), fc.integer({ min: 0, max: 7 })];

const match: fc.Arbitrary<Match> = fc.record(
  {
    inPort: u(32),
    metadata: maskable(u64),
    tunnelId: maskable(u64),
    tunnelSource: maskableText(ipv4),
    ethDst: maskableText(mac),
    ethSrc: maskableText(mac),
    ethType: u(16),
    vlanId: fc.oneof(u(12), fc.constantFrom('none' as const, 'any' as const)),
    ipProtocol: u(8),
    ipv4Src: maskableText(ipv4),
    ipv4Dst: maskableText(ipv4),
    ipFragment: fc.constantFrom('no' as const, 'any' as const, 'first' as const, 'later' as const),
    tcpSrc: maskable(u(16)),
    tcpDst: maskable(u(16)),
    tcpFlags: maskable(u(12)),
    udpSrc: maskable(u(16)),
    udpDst: maskable(u(16)),
    icmpv4Type: u(8),
    icmpv4Code: u(8),
    arpOp: u(16),
    arpSpa: maskableText(ipv4),
    arpTpa: maskableText(ipv4),
    arpSha: maskableText(mac),
    arpTha: maskableText(mac),
    registers: fc.record({ 0: reg, 1: reg, 2: reg, 3: reg, 4: reg, 5: reg, 6: reg, 7: reg }, { requiredKeys: [] }),
    ctState: fc.record({ value: u(32), mask: u(32) }),
    ctZone: u(16),
    ctMark: maskable(u(32)),
  },
  { requiredKeys: [] },
);

const setField: fc.Arbitrary<SetField> = fc.oneof(
  fc.record({ vlanId: u(12) }),
  fc.record({ tunnelId: u64 }),
  fc.record({ ethSrc: mac }),
  fc.record({ ethDst: mac }),
  fc.record({ ipv4Src: ipv4 }),
  fc.record({ ipv4Dst: ipv4 }),
  fc.record({ tcpDst: u(16) }),
  fc.record({ udpDst: u(16) }),
);

const port = fc.oneof(
  u(32),
  fc.constantFrom('in_port' as const, 'controller' as const, 'local' as const, 'normal' as const),
);
const action: fc.Arbitrary<Action> = fc.oneof(
  fc.record({ type: fc.constant('output' as const), port, maxLength: u(16) }, { requiredKeys: ['type', 'port'] }),
  fc.constantFrom({ type: 'pushVlan' as const }, { type: 'popVlan' as const }, { type: 'ctClear' as const }),
  fc.record({ type: fc.constant('setField' as const), field: setField }),
  fc.record({ type: fc.constant('loadRegister' as const), register, value: u(32) }),
  fc.record({ type: fc.constant('outputRegister' as const), register }),
  fc.record({ type: fc.constant('resubmit' as const), table: u(8) }),
  fc.record(
    {
      type: fc.constant('ct' as const),
      commit: fc.boolean(),
      zone: fc.oneof(u(16), fc.record({ register })),
      table: fc.integer({ min: 0, max: 254 }),
      mark: u(32),
    },
    { requiredKeys: ['type', 'commit', 'zone'] },
  ),
);

const instructions: fc.Arbitrary<Instructions> = fc.record(
  { meter: u(32), apply: fc.array(action), writeMetadata: fc.record({ value: u64, mask: u64 }), goto: u(8) },
  { requiredKeys: [] },
);

const flow: fc.Arbitrary<Flow> = fc.record({ table: u(8), priority: u(16), cookie: u64, match, instructions });

/** A switch's OFPMP_FLOW reply with these flows, OpenFlow 1.3.5 §7.3.5.2. */
function flowsReply(flows: readonly Flow[], more = false): Buffer {
  const w = new Writer();
  w.bytes(Buffer.from('0413000000000007', 'hex'));
  w.u16(1);
  w.u16(more ? 1 : 0);
  w.zeros(4);
  for (const { table, priority, cookie, match, instructions, timeouts } of flows) {
    const start = w.length;
    w.u16(0);
    w.u8(table);
    w.zeros(9);
    w.u16(priority);
    w.u16(timeouts?.idleSeconds ?? 0);
    w.u16(timeouts?.hardSeconds ?? 0);
    w.zeros(6);
    w.u64(cookie);
    w.zeros(16);
    writeMatch(w, match);
    writeInstructions(w, instructions);
    w.patchLength(start, start);
  }
  w.patchLength(2, 0);
  return w.done();
}

function readFlows(frame: Buffer): readonly Flow[] {
  const message = readMessage(frame);
  if (message.type !== 'flows') throw new Error(`${message.type} instead of flows`);
  return message.flows;
}

const bytesOf = (write: (w: Writer) => void) => {
  const w = new Writer(1);
  write(w);
  return Buffer.from(w.done());
};

describe('a flow', () => {
  it('is the same flow after the way to a switch and back', () => {
    fc.assert(
      fc.property(fc.array(flow, { maxLength: 3 }), (flows) => {
        const read = readFlows(flowsReply(flows));
        expect(read.map(flowKey)).toEqual(flows.map(flowKey));
        expect(read.map((one) => flowKey(flowOfKey(flowKey(one))))).toEqual(flows.map(flowKey));
        expect(read.map(flowBody)).toEqual(flows.map(flowBody));
        for (const { match, instructions } of read) {
          expect(match.other ?? instructions.other).toBeUndefined();
          expect(instructions.apply ?? []).not.toContainEqual(expect.objectContaining({ type: 'other' }));
        }
        expect(readFlows(flowsReply(read))).toEqual(read);
      }),
      seeded,
    );
  });

  const base: Flow = { table: 1, priority: 2, cookie: 3n, match: {}, instructions: {} };

  const same: { reason: string; a: Match; b: Match }[] = [
    { reason: 'the order of the fields does not matter', a: { inPort: 1, ethType: 2 }, b: { ethType: 2, inPort: 1 } },
    { reason: 'a full mask is none', a: { tcpDst: { value: 80, mask: 0xffff } }, b: { tcpDst: 80 } },
    { reason: 'an empty mask is no field', a: { ipv4Src: '10.0.0.0/0.0.0.0' }, b: {} },
    { reason: 'no registers are none', a: { registers: {} }, b: {} },
    {
      reason: 'bits outside a mask do not count',
      a: { ethDst: '01:02:03:04:05:06/ff:00:00:00:00:ff' },
      b: { ethDst: '01:00:00:00:00:06/ff:00:00:00:00:ff' },
    },
    {
      reason: 'the case of an address does not matter',
      a: { ethDst: 'AA:BB:CC:DD:EE:FF' },
      b: { ethDst: 'aa:bb:cc:dd:ee:ff' },
    },
  ];
  it.each(same)('has the same key: $reason', ({ a, b }) => {
    expect(flowKey({ ...base, match: a })).toBe(flowKey({ ...base, match: b }));
  });

  const otherKeys: { reason: string; flow: Partial<Flow> }[] = [
    { reason: 'table', flow: { table: 2 } },
    { reason: 'priority', flow: { priority: 3 } },
    { reason: 'a field more', flow: { match: { inPort: 1 } } },
    { reason: 'a field whose value is 0', flow: { match: { vlanId: 0 } } },
    { reason: 'a field that is not known', flow: { match: { other: '80002602aaaa' } } },
  ];
  it.each(otherKeys)('has another key with another $reason', ({ flow }) => {
    expect(flowKey({ ...base, ...flow })).not.toBe(flowKey(base));
  });

  const otherBodies: { reason: string; flow: Partial<Flow> }[] = [
    { reason: 'another cookie', flow: { cookie: 4n } },
    { reason: 'an action', flow: { instructions: { apply: [{ type: 'popVlan' }] } } },
    {
      reason: 'another order of actions',
      flow: { instructions: { apply: [{ type: 'popVlan' }, { type: 'pushVlan' }] } },
    },
    {
      reason: 'the same actions, the other way round',
      flow: { instructions: { apply: [{ type: 'pushVlan' }, { type: 'popVlan' }] } },
    },
    { reason: 'a meter', flow: { instructions: { meter: 1 } } },
    { reason: 'a jump', flow: { instructions: { goto: 2 } } },
    { reason: 'an instruction that is not known', flow: { instructions: { other: '0005000800000000' } } },
    { reason: 'an end of its own', flow: { timeouts: { idleSeconds: 1, hardSeconds: 0 } } },
  ];
  it('has another body with anything else that it does', () => {
    const bodies = [base, ...otherBodies.map(({ flow }) => ({ ...base, ...flow }))].map(flowBody);
    expect(new Set(bodies).size).toBe(bodies.length);
  });

  const refused: { reason: string; flow: Partial<Flow> }[] = [
    { reason: 'a table beyond 8 bits', flow: { table: 256 } },
    { reason: 'a priority beyond 16 bits', flow: { priority: 65536 } },
    { reason: 'a negative cookie', flow: { cookie: -1n } },
    { reason: 'a cookie beyond 64 bits', flow: { cookie: 2n ** 64n } },
    { reason: 'half a port', flow: { match: { inPort: 0.5 } } },
    { reason: 'no number', flow: { match: { inPort: NaN } } },
    { reason: 'an address with a host bit too many', flow: { match: { ipv4Src: '256.0.0.1' } } },
    { reason: 'an address of three parts', flow: { match: { ipv4Src: '10.0.0' } } },
    { reason: 'a prefix length, which is another notation', flow: { match: { ipv4Src: '10.0.0.0/8' } } },
    { reason: 'a MAC of five parts', flow: { match: { ethSrc: '02:00:00:00:01' } } },
    { reason: 'a TCP flag beyond 12 bits', flow: { match: { tcpFlags: 0x1000 } } },
    { reason: 'a VLAN beyond 12 bits', flow: { match: { vlanId: 4096 } } },
    { reason: 'a ninth register', flow: { match: { registers: { 8: 1 } } } },
    {
      reason: 'a register to load that is not there',
      flow: { instructions: { apply: [{ type: 'loadRegister', register: -1, value: 0 }] } },
    },
    {
      reason: 'a ct table that means none',
      flow: { instructions: { apply: [{ type: 'ct', commit: false, zone: 0, table: 255 }] } },
    },
    {
      reason: 'more actions than a message holds',
      flow: { instructions: { apply: Array.from({ length: 9000 }, () => ({ type: 'popVlan' as const })) } },
    },
  ];
  it.each(refused)('can not have $reason', ({ flow }) => {
    const change = { kind: 'add' as const, flow: { ...base, ...flow } };
    expect(() => bytesOf((w) => writeBundleAdd(w, 1, 1, change))).toThrow(OpenFlowValueError);
  });
});

describe('messages', () => {
  const written: { reason: string; write: (w: Writer) => void; hex: string }[] = [
    { reason: 'HELLO with the bitmap of 1.3', write: (w) => writeHello(w, 1), hex: '0400001000000001' + '0001000800000010' },
    { reason: 'an echo with its payload', write: (w) => writeEchoReply(w, 2, Buffer.from('ab')), hex: '0403000a000000026162' },
    {
      reason: 'a bundle, atomic and ordered, of the ONF extension',
      write: (w) => writeBundleControl(w, 3, 9, 'commit'),
      hex: '0404001800000003' + '4f4e4600000008fc' + '0000000900040003',
    },
    {
      reason: 'a removal by cookie, of all tables',
      write: (w) => writeFlowMod(w, 4, { kind: 'removeAll', filter: { cookie: 5n, cookieMask: 7n } }),
      hex:
        '040e003800000004' + '00000000000000050000000000000007' + 'ff03000000000000' + 'ffffffffffffffffffffffff' + '00000000' + '0001000400000000',
    },
    {
      reason: 'an addition that reports its end',
      write: (w) => writeFlowMod(w, 5, { kind: 'add', flow: { table: 1, priority: 2, cookie: 3n, match: { inPort: 4 }, instructions: { goto: 5 } } }),
      hex:
        '040e004800000005' + '00000000000000030000000000000000' + '0100000000000002' + 'ffffffffffffffffffffffff' + '00010000' +
        '0001000c800000040000000400000000' + '0001000805000000',
    },
    {
      reason: 'a packet with its actions',
      write: (w) => writePacketOut(w, 6, 0xffff_fffd, [{ type: 'output', port: 1 }], Buffer.from('xyz')),
      hex: '040d002b00000006' + 'fffffffffffffffd' + '0010000000000000' + '00000010000000010000000000000000' + '78797a',
    },
    {
      reason: 'a request for the flows of one table',
      write: (w) => writeFlowsRequest(w, 7, { table: 2 }),
      hex: '0412003800000007' + '0001000000000000' + '02000000ffffffffffffffff00000000' + '00000000000000000000000000000000' + '0001000400000000',
    },
  ]; // prettier-ignore
  it.each(written)('write $reason', ({ write, hex }) => {
    expect(bytesOf(write).toString('hex')).toBe(hex);
  });

  const read: { reason: string; hex: string; message: Message }[] = [
    { reason: 'HELLO of 1.5 with a bitmap that has 1.3', hex: '0600001000000009' + '000100080000007e', message: { xid: 9, type: 'hello', understood: true } },
    { reason: 'HELLO of 1.5 with a bitmap that lacks 1.3', hex: '0600001000000009' + '0001000800000040', message: { xid: 9, type: 'hello', understood: false } },
    { reason: 'HELLO of 1.0', hex: '0100000800000009', message: { xid: 9, type: 'hello', understood: false } },
    { reason: 'HELLO of 1.4 without a bitmap: the lower version counts', hex: '0500000800000009', message: { xid: 9, type: 'hello', understood: true } },
    { reason: 'an error, with what it is about', hex: '0401001400000001' + '00040009' + '0411223344556677', message: { xid: 1, type: 'error', errorType: 4, errorCode: 9 } },
    { reason: "an extension's error", hex: '0401001000000001' + 'ffff0909' + '4f4e4600', message: { xid: 1, type: 'error', errorType: 0xffff, errorCode: 2313 } },
    { reason: 'the answer to a barrier', hex: '0415000800000001', message: { xid: 1, type: 'barrierReply' } },
    { reason: 'a message that means nothing to us', hex: '0463000800000001', message: { xid: 1, type: 'other' } },
    {
      reason: 'a packet with metadata',
      hex:
        '040a000000000000' + 'ffffffff00020100' + '0000000000000005' + '000100188000000400000001800004080000000000000007' + '0000' + 'abcd00000000',
      message: { xid: 0, type: 'packetIn', table: 0, cookie: 5n, match: { inPort: 1, metadata: 7n }, data: Buffer.from('abcd00000000', 'hex') },
    },
  ]; // prettier-ignore
  it.each(read)('read $reason', ({ hex, message }) => {
    const frame = Buffer.from(hex, 'hex');
    frame.writeUInt16BE(frame.length, 2);
    expect(readMessage(frame)).toEqual(message);
  });

  const one = Buffer.from(flowsReply([{ table: 0, priority: 1, cookie: 2n, match: { inPort: 1, vlanId: 5 }, instructions: { apply: [{ type: 'setField', field: { vlanId: 7 } }, { type: 'ct', commit: true, zone: 1, mark: 1 }], goto: 1 } }])); // prettier-ignore

  const malformed: { reason: string; spoil: (frame: Buffer) => Buffer }[] = [
    { reason: 'cut in the middle of a flow', spoil: (frame) => frame.subarray(0, 40) },
    { reason: 'a flow of length 0', spoil: (frame) => put(frame, 16, 0) },
    { reason: 'a flow longer than its message', spoil: (frame) => put(frame, 16, 2000) },
    { reason: 'a match longer than its flow', spoil: (frame) => put(frame, 66, 2000) },
    { reason: 'a match shorter than its own head', spoil: (frame) => put(frame, 66, 3) },
    { reason: 'a field longer than its match', spoil: (frame) => put(frame, 70, 0x00ff) },
    { reason: 'an instruction of length 0', spoil: (frame) => put(frame, 90, 0) },
    { reason: 'an instruction whose length is no multiple of 8', spoil: (frame) => put(frame, 90, 23) },
    { reason: 'an action of length 0', spoil: (frame) => put(frame, 98, 0) },
    { reason: 'another version', spoil: (frame) => put(frame, 0, 0x0513) },
  ];
  const put = (frame: Buffer, at: number, value: number) => {
    frame.writeUInt16BE(value, at);
    return frame;
  };
  it.each(malformed)('are malformed: $reason', ({ spoil }) => {
    expect(readFlows(Buffer.from(one))).toHaveLength(1);
    expect(() => readMessage(spoil(Buffer.from(one)))).toThrow(MalformedError);
  });

  it('are read, or malformed, whatever the bytes', () => {
    const types = [0, 1, 2, 4, 6, 10, 11, 19, 21];
    const random = fc
      .tuple(fc.constantFrom(...types), fc.uint8Array({ maxLength: 200 }))
      .map(([type, body]) => Buffer.concat([Buffer.of(4, type, 0, 0, 0, 0, 0, 1), body]));
    const spoilt = fc
      .tuple(flow, fc.array(fc.tuple(fc.nat(400), u(8)), { minLength: 1, maxLength: 4 }), fc.nat(500))
      .map(([flow, changes, length]) => {
        const frame = Buffer.from(flowsReply([flow]));
        for (const [at, byte] of changes) frame[8 + (at % (frame.length - 8))] = byte;
        return frame.subarray(0, Math.max(8, length));
      });
    fc.assert(
      fc.property(fc.oneof(random, spoilt), (frame) => {
        try {
          const message = readMessage(frame);
          if (message.type === 'flows')
            for (const one of message.flows) expect(flowKey(one) + flowBody(one)).not.toBe('');
        } catch (error) {
          expect(error).toBeInstanceOf(MalformedError);
        }
      }),
      { ...seeded, numRuns: 3000 },
    );
  });
});

describe('the framer', () => {
  it('finds the same messages wherever the stream is cut', () => {
    const frames = fc.array(fc.uint8Array({ maxLength: 60 }).map((body) => bytesOf((w) => writeEchoReply(w, 1, body))));
    fc.assert(
      fc.property(frames, fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }), (frames, sizes) => {
        const stream = Buffer.concat(frames);
        const framer = new Framer();
        const found: string[] = [];
        for (let at = 0, n = 0; at < stream.length; n++) {
          const size = sizes[n % sizes.length] ?? 1;
          for (const frame of framer.push(stream.subarray(at, at + size))) found.push(frame.toString('hex'));
          at += size;
        }
        expect(found).toEqual(frames.map((frame) => frame.toString('hex')));
      }),
      seeded,
    );
  });

  it('refuses a length that is less than the header', () => {
    expect(() => [...new Framer().push(Buffer.from('0400000700000000', 'hex'))]).toThrow(MalformedError);
  });

  it('takes the largest message byte by byte without copying it each time', () => {
    const frame = bytesOf((w) => writeEchoReply(w, 1, Buffer.alloc(65527)));
    const framer = new Framer();
    const startedAt = performance.now();
    const found = [...frame].flatMap((byte) => [...framer.push(Buffer.of(byte))]);
    expect(found).toHaveLength(1);
    expect(performance.now() - startedAt).toBeLessThan(2000);
  });
});

describe('the name of an error', () => {
  const named = [
    { reason: 'a standard one', type: 5, code: 1, name: 'OFPFMFC_TABLE_FULL' },
    { reason: 'the last of a list', type: 13, code: 5, name: 'OFPTFFC_EPERM' },
    { reason: 'of bundles', type: 0xffff, code: 2313, name: 'OFPBFC_MSG_FAILED' },
    { reason: "of Nicira's", type: 0xffff, code: 3, name: 'NXBRC_NXM_BAD_TYPE' },
    { reason: 'a code beyond the list', type: 5, code: 99, name: 'an unknown error' },
    { reason: 'a type beyond the list', type: 99, code: 0, name: 'an unknown error' },
    { reason: 'an extension that we do not know', type: 0xffff, code: 1, name: 'an unknown experimenter error' },
  ];
  it.each(named)('$reason', ({ type, code, name }) => {
    expect(errorName(type, code)).toBe(name);
  });
});
