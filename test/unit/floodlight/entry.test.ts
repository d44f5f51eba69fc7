import { describe, expect, it } from '@jest/globals';
import { z } from 'zod';
import { entryCookie, isEntryCookie, readFlow, writeEntry } from '../../../drivers/floodlight/entry.js';
import { FloodlightError } from '../../../drivers/floodlight/errors.js';
import {
  type Action,
  type Flow,
  flowBody,
  flowKey,
  type Instructions,
  type Match,
} from '../../../drivers/openflow/index.js';
import { haveRecordings, readRecording } from '../../support/floodlight/recordings.js';

const EDGE = 0x0a01n;
const ALL_64 = 2n ** 64n - 1n;
const IPV4 = { ethType: 0x0800 };
const TCP = { ...IPV4, ipProtocol: 6 };

const flow = (match: Match, instructions: Instructions = {}, rest: Partial<Flow> = {}): Flow => ({
  table: 0,
  priority: 100,
  cookie: 1n,
  match,
  instructions,
  ...rest,
});
const apply = (...actions: Action[]): Instructions => ({ apply: actions });
const out2: Action = { type: 'output', port: 2 };

describe('an entry', () => {
  const written: { reason: string; flow: Flow; entry: Record<string, string> }[] = [
    {
      reason: 'as recorded: pop, tunnel id, output',
      flow: flow(
        { inPort: 1, vlanId: 100 },
        apply({ type: 'popVlan' }, { type: 'setField', field: { tunnelId: 70120n } }, out2),
      ),
      entry: { in_port: '1', eth_vlan_vid: '0x1064', actions: 'pop_vlan,set_field=tunnel_id->70120,output=2' },
    },
    {
      reason: 'as recorded: push, the VLAN id without the bit that a match has, output',
      flow: flow(
        { tunnelId: 70120n },
        apply({ type: 'pushVlan' }, { type: 'setField', field: { vlanId: 100 } }, { type: 'output', port: 1 }),
      ),
      entry: { tunnel_id: '70120', actions: 'push_vlan=0x8100,set_field=eth_vlan_vid->100,output=1' },
    },
    { reason: 'a drop has no key for its actions', flow: flow({ inPort: 1 }), entry: { in_port: '1' } },
    {
      reason: 'a drop written as an empty list of actions is the same',
      flow: flow({ inPort: 1 }, apply()),
      entry: { in_port: '1' },
    },
    {
      reason: 'another table is said, table 0 is not',
      flow: flow({ metadata: 100n }, apply(out2), { table: 1 }),
      entry: { table: '1', metadata: '0x64', actions: 'output=2' },
    },
    {
      reason: 'beside a goto, actions are an instruction too',
      flow: flow({ inPort: 1 }, { apply: [out2], goto: 1 }),
      entry: { in_port: '1', instruction_apply_actions: 'output=2', instruction_goto_table: '1' },
    },
    {
      reason: 'an IPv4 mask becomes a prefix, its host bits are cleared',
      flow: flow({ ...IPV4, ipv4Src: '10.1.2.3/255.255.0.0' }),
      entry: { eth_type: '0x0800', ipv4_src: '10.1.0.0/16' },
    },
    {
      reason: 'a full mask is none, an empty one no condition',
      flow: flow({ ...IPV4, ipv4Src: '10.1.2.3/255.255.255.255', ipv4Dst: '1.2.3.4/0.0.0.0' }),
      entry: { eth_type: '0x0800', ipv4_src: '10.1.2.3' },
    },
    {
      reason: 'an EtherType of three digits keeps its zero',
      flow: flow({ ethType: 0x0806, arpOp: 1 }),
      entry: { eth_type: '0x0806', arp_opcode: '1' },
    },
  ];

  it.each(written)('$reason', ({ flow, entry }) => {
    expect(writeEntry(EDGE, 'n', flow)).toEqual({
      switch: '00:00:00:00:00:00:0a:01',
      name: 'n',
      priority: '100',
      ...entry,
    });
  });

  const refused: { reason: string; flow?: Flow; name?: string }[] = [
    { reason: 'a TCP port without the protocol would wedge Floodlight', flow: flow({ ...IPV4, tcpDst: 80 }) },
    { reason: 'a UDP port of TCP', flow: flow({ ...TCP, udpDst: 53 }) },
    { reason: 'a protocol without IP', flow: flow({ ipProtocol: 6, tcpDst: 80 }) },
    { reason: 'an address without IPv4', flow: flow({ ipv4Src: '10.0.0.1' }) },
    { reason: 'ARP without its EtherType', flow: flow({ arpSpa: '10.0.0.1' }) },
    { reason: 'ICMP of UDP', flow: flow({ ...IPV4, ipProtocol: 17, icmpv4Type: 8 }) },
    { reason: 'a masked port', flow: flow({ ...TCP, tcpDst: { value: 0, mask: 0xff00 } }) },
    { reason: 'a mask with a hole', flow: flow({ ...IPV4, ipv4Src: '10.0.7.0/255.0.255.0' }) },
    { reason: 'a masked address of ARP', flow: flow({ ethType: 0x0806, arpSpa: '10.0.0.0/255.0.0.0' }) },
    { reason: 'masked metadata', flow: flow({ metadata: { value: 1n, mask: 0xffn } }) },
    { reason: 'metadata that Java takes for negative', flow: flow({ metadata: 2n ** 63n }) },
    { reason: 'a fragment', flow: flow({ ...IPV4, ipFragment: 'no' }) },
    { reason: 'a register', flow: flow({ registers: { 0: 1 } }) },
    { reason: 'a connection', flow: flow({ ctZone: 1 }) },
    { reason: 'TCP flags', flow: flow({ ...TCP, tcpFlags: 2 }) },
    { reason: 'a tunnel by its sender', flow: flow({ tunnelSource: '198.51.100.1' }) },
    { reason: 'what was read and not understood', flow: flow({ other: '80000c020064' }) },
    { reason: 'no VLAN id', flow: flow({ vlanId: 4096 }) },
    { reason: 'no port', flow: flow({ inPort: 0 }) },
    { reason: 'no address', flow: flow({ ethDst: 'notamac' }) },
    { reason: 'a priority that would wrap', flow: flow({ inPort: 1 }, {}, { priority: 70000 }) },
    { reason: 'a broken priority', flow: flow({ inPort: 1 }, {}, { priority: 1.5 }) },
    { reason: 'no table', flow: flow({ inPort: 1 }, {}, { table: 255 }) },
    { reason: 'a time-out', flow: flow({ inPort: 1 }, {}, { timeouts: { idleSeconds: 5, hardSeconds: 0 } }) },
    { reason: "a flow in the place of Floodlight's own", flow: flow({}, apply(out2), { priority: 0 }) },
    {
      reason: 'a flow there by a mask that meets all',
      flow: flow({ ethDst: '00:00:00:00:00:00/00:00:00:00:00:00' }, apply(out2), { priority: 0 }),
    },
    { reason: 'a pop from what has no tag', flow: flow({ inPort: 1 }, apply({ type: 'popVlan' })) },
    { reason: 'a second pop', flow: flow({ vlanId: 5 }, apply({ type: 'popVlan' }, { type: 'popVlan' })) },
    {
      reason: 'a VLAN id for what has no tag',
      flow: flow({ vlanId: 'none' }, apply({ type: 'setField', field: { vlanId: 5 } })),
    },
    {
      reason: 'a VLAN id of 13 bits',
      flow: flow({ vlanId: 5 }, apply({ type: 'setField', field: { vlanId: 4096 } })),
    },
    {
      reason: 'an IPv4 address for what may be none',
      flow: flow({}, apply({ type: 'setField', field: { ipv4Src: '10.0.0.1' } })),
    },
    {
      reason: 'a TCP port for UDP',
      flow: flow({ ...IPV4, ipProtocol: 17 }, apply({ type: 'setField', field: { tcpDst: 80 } })),
    },
    { reason: 'a resubmit', flow: flow({}, apply({ type: 'resubmit', table: 1 })) },
    { reason: 'connection tracking', flow: flow(IPV4, apply({ type: 'ct', commit: false, zone: 1 })) },
    { reason: 'forgetting a connection', flow: flow(IPV4, apply({ type: 'ctClear' })) },
    { reason: 'an output to no port', flow: flow({}, apply({ type: 'output', port: 0xffff_fffb })) },
    { reason: 'half a packet', flow: flow({}, apply({ type: 'output', port: 'controller', maxLength: 64 })) },
    { reason: 'metadata in part', flow: flow({}, { writeMetadata: { value: 1n, mask: 0xffffffn } }) },
    { reason: 'a meter', flow: flow({}, { meter: 1 }) },
    { reason: 'no name', name: '' },
    { reason: 'a quote in the name', name: 'a"b' },
    { reason: 'a backslash in the name', name: 'a\\b' },
    { reason: 'a line feed in the name', name: 'a\nb' },
    { reason: 'a name longer than was tried', name: 'n'.repeat(301) },
  ];

  it.each(refused)('is refused: $reason', ({ flow: wanted = flow({ inPort: 1 }), name = 'n' }) => {
    let thrown: unknown;
    try {
      writeEntry(EDGE, name, wanted);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(FloodlightError);
    expect(thrown).toMatchObject({ code: 'FLOODLIGHT_UNSUPPORTED' });
  });

  it('takes a name with slashes, spaces and letters of other languages', () => {
    expect(writeEntry(EDGE, 'kube/ünï:1 x', flow({ inPort: 1 }))['name']).toBe('kube/ünï:1 x');
  });
});

describe('a flow that was read', () => {
  const answer = (rest: object) => ({
    cookie: '45035996376613785',
    table_id: '0x0',
    priority: '100',
    idle_timeout_s: '0',
    hard_timeout_s: '0',
    match: {},
    instructions: { none: 'drop' },
    ...rest,
  });
  const strange: { reason: string; answer: object }[] = [
    { reason: 'a field without a name here', answer: { match: { eth_vlan_pcp: '0x3' } } },
    { reason: 'a VLAN id without the bit', answer: { match: { eth_vlan_vid: '0x64' } } },
    { reason: 'a number out of its range', answer: { match: { in_port: '99999999999' } } },
    { reason: 'a value that is no text', answer: { match: { in_port: 1 } } },
    { reason: 'a mask where none is known', answer: { match: { tcp_dst: '80/255' } } },
    { reason: 'an IPv6 address', answer: { match: { ipv4_src: 'fd00::1' } } },
    { reason: 'a group', answer: { instructions: { instruction_apply_actions: { actions: 'group=2' } } } },
    { reason: 'a flood', answer: { instructions: { instruction_apply_actions: { actions: 'output=flood' } } } },
    {
      reason: 'a tag of another kind',
      answer: { instructions: { instruction_apply_actions: { actions: 'push_vlan=34984' } } },
    },
    { reason: 'write actions', answer: { instructions: { instruction_write_actions: { actions: 'output=2' } } } },
    { reason: 'a goto to nowhere', answer: { instructions: { instruction_goto_table: {} } } },
  ];
  it.each(strange)('equals none that is wanted: $reason', ({ answer: rest }) => {
    const read = readFlow(answer(rest));
    if (read === undefined) throw new Error('not read');
    expect(() => writeEntry(EDGE, 'n', read)).toThrow(FloodlightError);
    expect([flowKey(read), flowBody(read)]).not.toEqual([
      flowKey(flow({})),
      flowBody(flow({}, {}, { cookie: read.cookie })),
    ]);
  });

  it('is none if what it needs is not there', () => {
    expect(readFlow(answer({ priority: 'high' }))).toBeUndefined();
    expect(readFlow(answer({ cookie: '' }))).toBeUndefined();
  });
});

const ifRecorded = haveRecordings ? describe : describe.skip;

ifRecorded('recorded', () => {
  const flowAnswer = z.looseObject({
    cookie: z.string(),
    table_id: z.string(),
    priority: z.string(),
    idle_timeout_s: z.string(),
    hard_timeout_s: z.string(),
    match: z.record(z.string(), z.unknown()),
    instructions: z.record(z.string(), z.unknown()),
  });
  const flowsAnswer = z.object({ flows: z.array(flowAnswer) });
  const exchange = z.object({ response: z.object({ body: flowsAnswer }) });
  const pipeline = z.object({ requests: z.array(z.record(z.string(), z.string())), flowsAfter: flowsAnswer });

  const readAll = (body: z.infer<typeof flowsAnswer>) =>
    body.flows.map((each) => {
      const read = readFlow(each);
      if (read === undefined) throw new Error(`not read: ${JSON.stringify(each)}`);
      return read;
    });
  const isStrange = ({ match, instructions }: Flow) =>
    match.other !== undefined ||
    instructions.other !== undefined ||
    (instructions.apply ?? []).some(({ type }) => type === 'other');

  it('flows are understood, but for those of which it is known that they are not', () => {
    const many = exchange.parse(readRecording('core-switch-flow--many')).response.body;
    const strange = readAll(many).filter(isStrange);
    // PCP, IPv6, a flood, a VLAN id without the bit.
    expect(strange.map(({ priority }) => priority).sort()).toEqual([1001, 1014, 1034, 1036]);
    for (const name of ['core-switch-flow', 'core-switch-flow--vlan', 'core-switch-flow--reactive'])
      expect(readAll(exchange.parse(readRecording(name)).response.body).filter(isStrange)).toEqual([]);
  });

  it('flows of all forms are what the switch said', () => {
    const many = readAll(exchange.parse(readRecording('core-switch-flow--many')).response.body);
    const at = (priority: number) => many.find((each) => each.priority === priority);
    const matches: Record<number, Match> = {
      1003: { inPort: 1, vlanId: 'any' },
      1004: { inPort: 1, vlanId: 'none' },
      1008: { inPort: 1, vlanId: 100 },
      1029: { ethType: 0x0806, arpOp: 1, arpSpa: '10.0.0.1', arpTpa: '10.0.0.2', arpSha: '02:00:00:00:00:01' },
      1030: { ...IPV4, ipv4Src: '10.0.0.0/255.255.255.0', ipv4Dst: '10.0.1.5' },
      1031: { ...TCP, tcpSrc: 1024, tcpDst: 80 },
      1033: { ...IPV4, ipProtocol: 17, udpDst: 53 },
      1035: { ethDst: '02:00:00:00:00:02', ethSrc: '02:00:00:00:00:00/ff:ff:ff:00:00:00' },
    };
    for (const [priority, match] of Object.entries(matches)) expect(at(Number(priority))?.match).toEqual(match);
    expect(at(1017)?.instructions).toEqual({});
    expect(at(1024)?.table).toBe(1);
    expect(at(1025)?.instructions).toEqual({ goto: 1 });
    expect(at(1027)?.timeouts).toEqual({ idleSeconds: 0, hardSeconds: 5 });
    expect(at(1037)?.instructions).toEqual(
      apply(
        out2,
        { type: 'output', port: 3 },
        { type: 'setField', field: { ethDst: '02:00:00:00:00:09' } },
        {
          type: 'output',
          port: 3,
        },
      ),
    );
  });

  it('what was asked for, and reached the switch, is written as it was asked for', () => {
    const { requests, flowsAfter } = pipeline.parse(
      readRecording('staticentrypusher-post--pipeline-tunnel-metadata-nd'),
    );
    const byCookie = new Map(readAll(flowsAfter).map((each) => [each.cookie, each]));
    const asked = requests.map(({ active, ...rest }) => rest);
    // t3 said its metadata in hexadecimal, t6 is IPv6.
    for (const request of asked.filter(({ name }) => name !== 't3' && name !== 't6')) {
      const { name = '' } = request;
      const read = byCookie.get(entryCookie(name));
      if (read === undefined) throw new Error(`${name} was not read`);
      expect(writeEntry(EDGE, name, read)).toEqual({ switch: '00:00:00:00:00:00:0a:01', ...request });
    }
    expect(byCookie.get(entryCookie('t3'))?.instructions).toEqual({
      writeMetadata: { value: 0x64n, mask: ALL_64 },
      goto: 1,
    });
  });

  it('cookies follow from the names', () => {
    const entries = z.record(z.string(), z.array(z.record(z.string(), z.looseObject({ cookie: z.string() }))));
    const list = z.object({ response: z.object({ body: entries }) });
    const recorded = list.parse(readRecording('staticentrypusher-list--many')).response.body;
    const cookies = Object.values(recorded).flatMap((all) => all.flatMap((each) => Object.entries(each)));
    expect(cookies.length).toBeGreaterThan(30);
    for (const [name, { cookie }] of cookies) {
      expect(entryCookie(name)).toBe(BigInt(cookie));
      expect(isEntryCookie(BigInt(cookie))).toBe(true);
    }
    expect(isEntryCookie(0x4953n << 48n)).toBe(false);
  });
});
