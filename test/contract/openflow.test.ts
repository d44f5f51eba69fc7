import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { filter, firstValueFrom } from 'rxjs';
import {
  type Action,
  type Flow,
  flowBody,
  type FlowChange,
  flowKey,
  type Instructions,
  type Match,
  OpenFlowConnectionError,
  OpenFlowError,
  type OpenFlowOptions,
  OpenFlowValueError,
  openSwitch,
  type Switch,
} from '../../drivers/openflow/index.js';
import { freePort, loadIdentity, makePki, OpenVSwitch, type Pki } from '../support/openvswitch.js';

const COOKIE = 0x1501_0000_0000_0001n;
const IPV4 = { ethType: 0x0800 };
const TCP = { ...IPV4, ipProtocol: 6 };
const UDP = { ...IPV4, ipProtocol: 17 };
const ICMP = { ...IPV4, ipProtocol: 1 };
const ARP = { ethType: 0x0806 };
const FROM_DHCP_SERVER = { ...UDP, udpSrc: 67 };
/** OFPP_TABLE: the packet goes through the tables as if it had come in by its port. */
const TABLE = 0xffff_fff9;

/** A UDP packet from 10.0.0.1 to 10.0.0.2; `fragment` as in the IP header: 0x2000 = more to come, else an offset. */
function udp(source: number, destination: number, fragment = 0): Buffer {
  const ethernet = Buffer.from('0200000000020200000000010800', 'hex');
  const ip = Buffer.from('4500002c004d0000401100000a0000010a000002', 'hex');
  ip.writeUInt16BE(fragment, 6);
  let sum = 0;
  for (let at = 0; at < ip.length; at += 2) sum += ip.readUInt16BE(at);
  ip.writeUInt16BE(~((sum & 0xffff) + (sum >>> 16)) & 0xffff, 10);
  const payload = Buffer.alloc(24);
  payload.writeUInt16BE(source, 0);
  payload.writeUInt16BE(destination, 2);
  payload.writeUInt16BE(payload.length, 4);
  return Buffer.concat([ethernet, ip, payload]);
}

const switches: Switch[] = [];

async function connect(endpoint: string, options?: OpenFlowOptions): Promise<Switch> {
  const client = openSwitch(endpoint, options);
  switches.push(client);
  await client.ready();
  return client;
}

afterEach(async () => {
  await Promise.all(switches.splice(0).map((client) => client.close()));
});

const flow = (match: Match, instructions: Instructions = {}, rest: Partial<Flow> = {}): Flow => ({
  table: 0,
  priority: 100,
  cookie: COOKIE,
  match,
  instructions,
  ...rest,
});

const add = (wanted: Flow): FlowChange => ({ kind: 'add', flow: wanted });
const identity = (flows: readonly Flow[]) => flows.map((one) => `${flowKey(one)} ${flowBody(one)}`).sort();

describe('a client of ovs-vswitchd', () => {
  let ovs: OpenVSwitch;
  let endpoint: string;

  beforeAll(async () => {
    ovs = await OpenVSwitch.start();
    endpoint = await ovs.addBridge('br0');
    await ovs.addPort('br0', 'p1', 1);
    await ovs.addPort('br0', 'p2', 2);
  });

  afterAll(() => ovs.stop());

  beforeEach(() => ovs.ofctl('del-flows', endpoint));

  const matches: { reason: string; match: Match; readAs?: Match; text?: string }[] = [
    { reason: 'no field: every packet', match: {}, text: 'priority=100 ' },
    { reason: 'the port a packet came in by', match: { inPort: 1 }, text: 'in_port=1' },
    { reason: 'metadata, all bits', match: { metadata: 0xffff_0000_1234_5678n }, text: 'metadata=0xffff000012345678' },
    { reason: 'metadata, some bits', match: { metadata: { value: 0x50n, mask: 0xf0n } } },
    {
      reason: 'a full mask says the same as none',
      match: { metadata: { value: 5n, mask: 2n ** 64n - 1n } },
      readAs: { metadata: 5n },
    },
    {
      reason: 'bits outside the mask do not count',
      match: { metadata: { value: 0xffn, mask: 0xfn } },
      readAs: { metadata: { value: 0xfn, mask: 0xfn } },
    },
    { reason: 'an empty mask matches all', match: { metadata: { value: 5n, mask: 0n } }, readAs: {} },
    { reason: 'the VNI of a tunnel', match: { tunnelId: 70120n }, text: 'tun_id=0x111e8' },
    {
      reason: 'some bits of a VNI',
      match: { tunnelId: { value: 0xff10n, mask: 0xf0n } },
      readAs: { tunnelId: { value: 0x10n, mask: 0xf0n } },
      text: 'tun_id=0x10/0xf0',
    },
    { reason: 'the far end of a tunnel', match: { tunnelSource: '198.51.100.11' }, text: 'tun_src=198.51.100.11' },
    {
      reason: 'far ends in a subnet',
      match: { tunnelSource: '198.51.100.0/255.255.255.0' },
      text: 'tun_src=198.51.100.0/24',
    },
    { reason: 'a frame of no tunnel', match: { tunnelSource: '0.0.0.0' }, text: 'tun_src=0.0.0.0' },
    { reason: 'a receiver', match: { ethDst: '52:54:00:ab:cd:ef' }, text: 'dl_dst=52:54:00:ab:cd:ef' },
    {
      reason: 'broadcast and multicast by one bit',
      match: { ethDst: '01:00:00:00:00:00/01:00:00:00:00:00' },
      text: 'dl_dst=01:00:00:00:00:00/01:00:00:00:00:00',
    },
    { reason: 'a sender', match: { ethSrc: '52:54:00:00:00:01' }, text: 'dl_src=52:54:00:00:00:01' },
    {
      reason: 'a masked sender, bits outside the mask cleared, in capitals',
      match: { ethSrc: 'FE:FF:FF:00:00:01/ff:ff:ff:00:00:00' },
      readAs: { ethSrc: 'fe:ff:ff:00:00:00/ff:ff:ff:00:00:00' },
    },
    { reason: 'an EtherType', match: { ethType: 0x88cc }, text: 'dl_type=0x88cc' },
    { reason: 'an untagged frame', match: { vlanId: 'none' }, text: 'vlan_tci=0x0000/0x1fff' },
    { reason: 'a VLAN', match: { vlanId: 120 }, text: 'dl_vlan=120' },
    { reason: 'VLAN 0 is a priority tag, not the absence of one', match: { vlanId: 0 } },
    { reason: 'a frame with whatever tag', match: { vlanId: 'any' }, text: 'vlan_tci=0x1000/0x1000' },
    { reason: 'a transport protocol', match: { ...IPV4, ipProtocol: 47 }, text: 'nw_proto=47' },
    { reason: 'an IPv4 sender', match: { ...IPV4, ipv4Src: '172.16.0.20' }, text: 'nw_src=172.16.0.20' },
    {
      reason: 'a subnet',
      match: { ...IPV4, ipv4Src: '172.16.255.255/255.255.0.0' },
      readAs: { ...IPV4, ipv4Src: '172.16.0.0/255.255.0.0' },
      text: 'nw_src=172.16.0.0/16',
    },
    { reason: 'the whole of IPv4 is no condition', match: { ...IPV4, ipv4Src: '0.0.0.0/0.0.0.0' }, readAs: IPV4 },
    { reason: 'an IPv4 receiver', match: { ...IPV4, ipv4Dst: '255.255.255.255' }, text: 'nw_dst=255.255.255.255' },
    { reason: 'a mask with a hole', match: { ...IPV4, ipv4Dst: '10.0.7.0/255.0.255.0' } },
    { reason: 'not a fragment', match: { ...IPV4, ipFragment: 'no' }, text: 'nw_frag=no' },
    { reason: 'a fragment', match: { ...IPV4, ipFragment: 'any' }, text: 'nw_frag=yes' },
    { reason: 'the fragment with the ports', match: { ...IPV4, ipFragment: 'first' }, text: 'nw_frag=first' },
    { reason: 'a fragment without ports', match: { ...IPV4, ipFragment: 'later' }, text: 'nw_frag=later' },
    { reason: 'a TCP source', match: { ...TCP, tcpSrc: 22 }, text: 'tp_src=22' },
    { reason: 'TCP sources as a range', match: { ...TCP, tcpSrc: { value: 0x400, mask: 0xfc00 } } },
    { reason: 'a TCP destination', match: { ...TCP, tcpDst: 65535 }, text: 'tp_dst=65535' },
    { reason: 'TCP destinations as a range', match: { ...TCP, tcpDst: { value: 0x1f90, mask: 0xfff0 } } },
    { reason: 'just SYN', match: { ...TCP, tcpFlags: 2 }, text: 'tcp_flags=syn' },
    { reason: 'no flag at all', match: { ...TCP, tcpFlags: 0 }, text: 'tcp_flags=0' },
    {
      reason: 'a connection that begins: SYN without ACK',
      match: { ...TCP, tcpFlags: { value: 0x02, mask: 0x12 } },
      text: 'tcp_flags=+syn-ack',
    },
    {
      reason: 'all twelve flags: no mask',
      match: { ...TCP, tcpFlags: { value: 0x10, mask: 0xfff } },
      readAs: { ...TCP, tcpFlags: 0x10 },
      text: 'tcp_flags=ack',
    },
    { reason: 'a UDP source', match: { ...UDP, udpSrc: 68 }, text: 'tp_src=68' },
    { reason: 'UDP sources as a range', match: { ...UDP, udpSrc: { value: 0, mask: 0xfc00 } } },
    { reason: 'a UDP destination', match: { ...UDP, udpDst: 67 }, text: 'tp_dst=67' },
    { reason: 'UDP destinations as a range', match: { ...UDP, udpDst: { value: 0x8000, mask: 0x8000 } } },
    { reason: 'an ICMP type', match: { ...ICMP, icmpv4Type: 8 }, text: 'icmp_type=8' },
    { reason: 'an ICMP code', match: { ...ICMP, icmpv4Type: 3, icmpv4Code: 4 }, text: 'icmp_code=4' },
    { reason: 'an ARP request', match: { ...ARP, arpOp: 1 }, text: 'arp_op=1' },
    { reason: 'who says so', match: { ...ARP, arpSpa: '172.16.0.20' }, text: 'arp_spa=172.16.0.20' },
    { reason: 'the sender of a probe is nobody', match: { ...ARP, arpSpa: '0.0.0.0' }, text: 'arp_spa=0.0.0.0' },
    { reason: 'who is asked for', match: { ...ARP, arpTpa: '172.16.0.0/255.255.0.0' }, text: 'arp_tpa=172.16.0.0/16' },
    { reason: 'the MAC claimed', match: { ...ARP, arpSha: '52:54:00:00:00:01' }, text: 'arp_sha=52:54:00:00:00:01' },
    { reason: 'the MAC told', match: { ...ARP, arpTha: '00:00:00:00:00:00' }, text: 'arp_tha=00:00:00:00:00:00' },
    { reason: 'a register', match: { registers: { 0: 7 } }, text: 'reg0=0x7' },
    {
      reason: 'several registers, some bits of one',
      match: { registers: { 7: 0xffff_ffff, 3: { value: 0x8000_0000, mask: 0xff00_0000 } } },
      text: 'reg3=0x80000000/0xff000000,reg7=0xffffffff',
    },
    {
      reason: 'an established connection',
      match: { ...IPV4, ctState: { value: 0x22, mask: 0x22 } },
      text: 'ct_state=+est+trk',
    },
    {
      reason: 'a new one, not invalid',
      match: { ...IPV4, ctState: { value: 0x21, mask: 0x31 } },
      text: 'ct_state=+new-inv+trk',
    },
    { reason: 'a zone', match: { ...IPV4, ctZone: 65535 }, text: 'ct_zone=65535' },
    { reason: 'the zone of who is not tracked', match: { ...IPV4, ctZone: 0 }, text: 'ct_zone=0' },
    { reason: 'a mark', match: { ...IPV4, ctMark: 0xffff_fffe }, text: 'ct_mark=0xfffffffe' },
    { reason: 'bits of a mark', match: { ...IPV4, ctMark: { value: 1, mask: 1 } }, text: 'ct_mark=0x1/0x1' },
    {
      reason: 'many fields at once',
      match: {
        ...TCP,
        inPort: 2,
        metadata: 9n,
        vlanId: 7,
        ethSrc: '02:00:00:00:00:01',
        ipv4Src: '10.0.0.1',
        ipv4Dst: '10.0.0.2',
        ipFragment: 'no',
        tcpSrc: 1,
        tcpDst: 2,
        registers: { 1: 1 },
      },
    },
  ];

  it.each(matches)('matches $reason', async ({ match, readAs = match, text }) => {
    const client = await connect(endpoint);
    const wanted = flow(match);
    await client.bundle([add(wanted)]);
    const [read, ...others] = await client.dumpFlows();
    expect(others).toEqual([]);
    expect(read?.match).toEqual(readAs);
    expect(identity(read === undefined ? [] : [read])).toEqual(identity([wanted]));
    if (text !== undefined) expect(await ovs.ofctl('--no-stats', 'dump-flows', endpoint)).toContain(text);
    await client.bundle([{ kind: 'remove', flow: wanted }]);
    expect(await client.dumpFlows()).toEqual([]);
  });

  const output = (port: Extract<Action, { type: 'output' }>['port']): Action => ({ type: 'output', port });

  const programs: {
    reason: string;
    instructions: Instructions;
    match?: Match;
    readAs?: Instructions;
    text?: string;
  }[] = [
    { reason: 'nothing: drop', instructions: {}, text: 'actions=drop' },
    { reason: 'no actions are none', instructions: { apply: [] }, readAs: {}, text: 'actions=drop' },
    { reason: 'one port', instructions: { apply: [output(2)] }, text: 'actions=output:2' },
    {
      reason: 'many ports, in order',
      instructions: { apply: [output(9), output(2), output(5)] },
      text: 'output:9,output:2,output:5',
    },
    { reason: 'back where it came from', instructions: { apply: [output('in_port')] }, text: 'IN_PORT' },
    { reason: 'the bridge itself', instructions: { apply: [output('local')] }, text: 'LOCAL' },
    { reason: 'a learning switch', instructions: { apply: [output('normal')] }, text: 'NORMAL' },
    {
      reason: 'the controller, the whole packet',
      instructions: { apply: [output('controller')] },
      readAs: { apply: [{ type: 'output', port: 'controller', maxLength: 0xffff }] },
      text: 'CONTROLLER:65535',
    },
    {
      reason: 'the controller, a part',
      instructions: { apply: [{ type: 'output', port: 'controller', maxLength: 64 }] },
      text: 'CONTROLLER:64',
    },
    {
      reason: 'a tag on',
      instructions: { apply: [{ type: 'pushVlan' }, { type: 'setField', field: { vlanId: 120 } }, output(2)] },
      match: { vlanId: 'none' },
      text: 'push_vlan:0x8100,set_field:4216->vlan_vid,output:2',
    },
    {
      reason: 'a tag off',
      instructions: { apply: [{ type: 'popVlan' }, output(2)] },
      match: { vlanId: 120 },
      text: 'pop_vlan',
    },
    {
      reason: 'a VNI',
      instructions: { apply: [{ type: 'setField', field: { tunnelId: 70120n } }] },
      text: 'set_field:0x111e8->tun_id',
    },
    {
      reason: 'another sender',
      instructions: { apply: [{ type: 'setField', field: { ethSrc: '02:00:00:00:00:01' } }] },
    },
    {
      reason: 'another receiver',
      instructions: { apply: [{ type: 'setField', field: { ethDst: '02:00:00:00:00:02' } }] },
    },
    {
      reason: 'another IPv4 sender',
      instructions: { apply: [{ type: 'setField', field: { ipv4Src: '198.18.200.10' } }] },
      match: IPV4,
    },
    {
      reason: 'another IPv4 receiver',
      instructions: { apply: [{ type: 'setField', field: { ipv4Dst: '172.16.0.20' } }] },
      match: IPV4,
    },
    {
      reason: 'another TCP port',
      instructions: { apply: [{ type: 'setField', field: { tcpDst: 8080 } }] },
      match: TCP,
    },
    { reason: 'another UDP port', instructions: { apply: [{ type: 'setField', field: { udpDst: 53 } }] }, match: UDP },
    {
      reason: 'registers, all bits',
      instructions: {
        apply: [
          { type: 'loadRegister', register: 0, value: 0xffff_ffff },
          { type: 'loadRegister', register: 7, value: 0 },
        ],
      },
      text: 'load:0xffffffff->NXM_NX_REG0[],load:0->NXM_NX_REG7[]',
    },
    {
      reason: 'the port that a register holds',
      instructions: { apply: [{ type: 'outputRegister', register: 3 }] },
      text: 'output:NXM_NX_REG3[0..15]',
    },
    {
      reason: 'another table, and back',
      instructions: { apply: [{ type: 'resubmit', table: 9 }, output(2)] },
      text: 'resubmit(,9),output:2',
    },
    {
      reason: 'the state of a connection, then on',
      instructions: { apply: [{ type: 'ct', commit: false, zone: 5, table: 4 }] },
      match: IPV4,
      text: 'ct(table=4,zone=5)',
    },
    {
      reason: 'a connection with a mark, its zone from a register',
      instructions: { apply: [{ type: 'ct', commit: true, zone: { register: 1 }, mark: 0xffff_ffff }, output(2)] },
      match: IPV4,
      text: 'ct(commit,zone=NXM_NX_REG1[0..15],exec(set_field:0xffffffff->ct_mark)),output:2',
    },
    {
      reason: 'a connection in the zone of register 0',
      instructions: { apply: [{ type: 'ct', commit: true, zone: { register: 0 } }] },
      match: IPV4,
    },
    {
      reason: 'a connection committed with a mark, then on',
      instructions: { apply: [{ type: 'ct', commit: true, zone: 65535, table: 9, mark: 0 }] },
      match: IPV4,
      text: 'ct(commit,table=9,zone=65535,exec(set_field:0->ct_mark))',
    },
    {
      reason: 'the state of a connection forgotten',
      instructions: { apply: [{ type: 'ctClear' }, output(2)] },
      text: 'ct_clear,output:2',
    },
    {
      reason: 'metadata',
      instructions: { writeMetadata: { value: 5n, mask: 0xffn } },
      text: 'write_metadata:0x5/0xff',
    },
    {
      reason: 'metadata, all bits; bits outside a mask do not count',
      instructions: { writeMetadata: { value: 0x1ffn, mask: 0xffn }, goto: 1 },
      readAs: { writeMetadata: { value: 0xffn, mask: 0xffn }, goto: 1 },
    },
    { reason: 'the last table', instructions: { goto: 253 }, text: 'goto_table:253' },
    {
      reason: 'all at once',
      instructions: {
        apply: [{ type: 'loadRegister', register: 0, value: 1 }],
        writeMetadata: { value: 1n, mask: 1n },
        goto: 2,
      },
      text: 'load:0x1->NXM_NX_REG0[],write_metadata:0x1/0x1,goto_table:2',
    },
  ];

  it.each(programs)('does $reason', async ({ match = {}, instructions, readAs = instructions, text }) => {
    const client = await connect(endpoint);
    const wanted = flow(match, instructions);
    await client.bundle([add(wanted)]);
    const read = await client.dumpFlows();
    expect(read.map((one) => one.instructions)).toEqual([readAs]);
    expect(identity(read)).toEqual(identity([wanted]));
    if (text !== undefined) expect(await ovs.ofctl('--no-stats', 'dump-flows', endpoint)).toContain(text);
  });

  const foreign: { reason: string; text: string }[] = [
    { reason: 'a field that Match lacks', text: 'ipv6,ipv6_dst=fd00::1,actions=drop' },
    { reason: 'a mask that Match lacks', text: 'vlan_tci=0x1005/0x100f,actions=drop' },
    { reason: 'a VLAN priority', text: 'dl_vlan_pcp=3,actions=drop' },
    {
      reason: 'an action that Action lacks',
      text: 'actions=learn(table=5,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])',
    },
    { reason: 'a connection with NAT', text: 'ip,actions=ct(commit,nat(src=10.0.0.1))' },
    { reason: 'a part of a register', text: 'actions=load:1->NXM_NX_REG0[0..3]' },
    { reason: 'an instruction that Instructions lacks', text: 'actions=write_actions(output:1)' },
    { reason: 'a flow that goes away by itself', text: 'idle_timeout=60,actions=output:2' },
  ];

  it.each(foreign)('reads $reason as something that nobody wants', async ({ text }) => {
    const client = await connect(endpoint);
    await ovs.ofctl('add-flow', endpoint, `cookie=${COOKIE},priority=100,${text}`);
    const [read] = await client.dumpFlows();
    if (read === undefined) throw new Error('no flow was read');
    const { other: unknownFields, ...match } = read.match;
    const { other: unknownInstructions, apply = [], ...rest } = read.instructions;
    const known = { ...rest, apply: apply.filter(({ type }) => type !== 'other') };
    const { cookie, priority, table } = read;
    expect(identity([read])).not.toEqual(identity([{ cookie, priority, table, match, instructions: known }]));
    expect([unknownFields, unknownInstructions, read.timeouts, ...apply].some((part) => part !== undefined)).toBe(true);
  });

  const refused: { reason: string; changes: () => FlowChange[]; index: number; errorName: string }[] = [
    {
      reason: 'a field without its prerequisite',
      changes: () => [add(flow({ inPort: 1 })), add(flow({ tcpDst: 23 })), add(flow({ inPort: 2 }))],
      index: 1,
      errorName: 'OFPBMC_BAD_PREREQ',
    },
    {
      reason: 'a table that is not after its own',
      changes: () => [add(flow({ inPort: 1 }, { goto: 0 })), add(flow({ inPort: 2 }))],
      index: 0,
      errorName: 'OFPBIC_BAD_TABLE_ID',
    },
    {
      reason: 'a port that does not exist, the last of many',
      changes: () => [
        ...Array.from({ length: 50 }, (_, n) => add(flow({ metadata: BigInt(n) }))),
        add(flow({}, { apply: [output(0xffff_ff01)] })),
      ],
      index: 50,
      errorName: 'OFPBAC_BAD_OUT_PORT',
    },
    {
      reason: 'a full table, found only at the commit',
      changes: () => [1, 2, 3, 4].map((inPort) => add(flow({ inPort }, {}, { table: 77 }))),
      index: 2,
      errorName: 'OFPFMFC_TABLE_FULL',
    },
  ];

  it.each(refused)('applies nothing of a bundle with $reason', async ({ changes, index, errorName }) => {
    await ovs.vsctl(
      '--',
      '--id=@t',
      'create',
      'Flow_Table',
      'flow_limit=2',
      'overflow_policy=refuse',
      '--',
      'set',
      'bridge',
      'br0',
      'flow_tables:77=@t',
    );
    const client = await connect(endpoint);
    const standing = flow({ inPort: 5 });
    await client.bundle([add(standing)]);
    const error: unknown = await client
      .bundle([{ kind: 'remove', flow: standing }, ...changes()])
      .catch((error: unknown) => error);
    expect(error).toBeInstanceOf(OpenFlowError);
    expect(error).toMatchObject({ index: index + 1, errorName });
    expect(identity(await client.dumpFlows())).toEqual(identity([standing]));
    await client.bundle([{ kind: 'remove', flow: standing }]);
    expect(await client.dumpFlows()).toEqual([]);
  });

  it('sends nothing of a bundle with a value that OpenFlow can not hold, and names it', async () => {
    const client = await connect(endpoint);
    const bundle = client.bundle([add(flow({ inPort: 1 })), add(flow({ ethDst: '52:54:00' }))]);
    const error: unknown = await bundle.catch((error: unknown) => error);
    expect(error).toBeInstanceOf(OpenFlowValueError);
    expect(error).toMatchObject({ message: 'change 1: "52:54:00" is not an Ethernet address' });
    expect(await client.dumpFlows()).toEqual([]);
  });

  const many = (count: number, seed: number) =>
    Array.from({ length: count }, (_, n) =>
      flow(
        {
          metadata: 5n,
          ethDst: `02:00:00:00:${(n >> 8).toString(16).padStart(2, '0')}:${(n & 0xff).toString(16).padStart(2, '0')}`,
        },
        { apply: [{ type: 'loadRegister', register: 0, value: n + seed }], goto: 3 },
        { table: 2, cookie: COOKIE + BigInt(n % 2) },
      ),
    );
  const thousand = (seed: number) => many(1000, seed);

  it('puts a thousand flows in force at once, replaces them, and reads them back over many parts', async () => {
    const client = await connect(endpoint);
    await client.bundle(thousand(0).map(add));
    const startedAt = performance.now();
    await client.bundle(thousand(7).map(add));
    expect(performance.now() - startedAt).toBeLessThan(3000);
    expect(identity(await client.dumpFlows({ table: 2 }))).toEqual(identity(thousand(7)));
    expect(await client.dumpFlows({ table: 1 })).toEqual([]);
  });

  it('takes about ten times as long for ten times as many flows', async () => {
    const client = await connect(endpoint);
    const timesOf = async (flows: readonly Flow[]) => {
      const startedAt = performance.now();
      await client.bundle(flows.map(add));
      const added = performance.now();
      expect(await client.dumpFlows()).toHaveLength(flows.length);
      return { bundle: added - startedAt, dump: performance.now() - added };
    };
    const few = await timesOf(many(2000, 0));
    const all = await timesOf(many(20_000, 1));
    // A hundred times would be quadratic; the floor is for a busy machine.
    expect(all.bundle).toBeLessThan(40 * Math.max(few.bundle, 50));
    expect(all.dump).toBeLessThan(40 * Math.max(few.dump, 50));
  });

  it('removes by cookie, by the bits of a cookie, and by table', async () => {
    const client = await connect(endpoint);
    const kept = flow({}, {}, { cookie: 0x77n });
    await client.bundle([add(kept), ...thousand(0).map(add)]);
    await client.bundle([{ kind: 'removeAll', filter: { cookie: COOKIE } }]);
    expect(await client.dumpFlows({ cookie: COOKIE })).toEqual([]);
    expect(await client.dumpFlows({ cookie: COOKIE, cookieMask: ~0xffn & (2n ** 64n - 1n) })).toHaveLength(500);
    await client.bundle([{ kind: 'removeAll', filter: { cookie: COOKIE, cookieMask: 0xffff_0000_0000_0000n } }]);
    expect(identity(await client.dumpFlows())).toEqual(identity([kept]));
    await client.bundle([{ kind: 'removeAll', filter: { table: 1 } }]);
    expect(await client.dumpFlows()).toHaveLength(1);
    await client.bundle([{ kind: 'removeAll', filter: { table: 0 } }]);
    expect(await client.dumpFlows()).toEqual([]);
  });

  it('does not remove a flow of the same match whose cookie is not ours', async () => {
    const client = await connect(endpoint);
    const theirs = flow({ inPort: 1 }, {}, { cookie: 1n });
    await client.bundle([add(theirs), { kind: 'remove', flow: flow({ inPort: 1 }) }]);
    expect(identity(await client.dumpFlows())).toEqual(identity([theirs]));
  });

  it('runs bundles at the same time', async () => {
    const client = await connect(endpoint);
    const wanted = Array.from({ length: 20 }, (_, n) => flow({ metadata: BigInt(n) }));
    const outcomes = await Promise.allSettled([
      ...wanted.map((one) => client.bundle([add(one)])),
      client.bundle([add(flow({ udpDst: 1 }))]),
    ]);
    expect(outcomes.map(({ status }) => status)).toEqual([...wanted.map(() => 'fulfilled'), 'rejected']);
    expect(identity(await client.dumpFlows())).toEqual(identity(wanted));
  });

  it('hears of flows that somebody removes by hand', async () => {
    const client = await connect(endpoint);
    const wanted = flow({ inPort: 1, ethDst: '02:00:00:00:00:01' }, { apply: [output(2)] });
    await client.bundle([add(wanted)]);
    const removed = firstValueFrom(client.flowRemoved);
    await ovs.ofctl('del-flows', endpoint, 'in_port=1');
    const { table, priority, cookie, match } = await removed;
    expect({ table, priority, cookie, match }).toEqual({
      table: 0,
      priority: 100,
      cookie: COOKIE,
      match: wanted.match,
    });
  });

  it('knows the ports', async () => {
    const client = await connect(endpoint);
    const ports = await client.ports();
    expect(ports.map(({ port, name }) => ({ port, name })).sort((a, b) => a.port - b.port)).toEqual([
      { port: 1, name: 'p1' },
      { port: 2, name: 'p2' },
      { port: 0xffff_fffe, name: 'br0' },
    ]);
    expect(ports.every(({ mac }) => /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(mac))).toBe(true);
  });

  it('sends a packet through the tables and gets it back from the controller action', async () => {
    const client = await connect(endpoint);
    await client.bundle([
      add(flow({ inPort: 1 }, { writeMetadata: { value: 0x123n, mask: 0xfffn }, goto: 1 })),
      add(flow({ metadata: 0x123n }, { apply: [output('controller')] }, { table: 1, cookie: 0xc0n })),
    ]);
    const data = Buffer.concat([Buffer.from('ffffffffffff02000000000188b5', 'hex'), Buffer.alloc(1000, 'x')]);
    const packet = firstValueFrom(client.packetIn);
    await client.packetOut(1, [{ type: 'output', port: TABLE }], data);
    expect(await packet).toEqual({ inPort: 1, cookie: 0xc0n, table: 1, data, metadata: 0x123n, tunnelId: 0n });
    const refusal: unknown = await client.packetOut(1, [output(0xffff_ff01)], data).catch((error: unknown) => error);
    expect(refusal).toMatchObject({ errorName: 'OFPBAC_BAD_OUT_PORT' });
  });

  const packets = [
    { reason: 'sent by us', send: (client: Switch, data: Buffer) => client.packetOut(1, [output(TABLE)], data) },
    { reason: 'from a port', send: (_: Switch, data: Buffer) => ovs.appctl('netdev-dummy/receive', 'p1', data.toString('hex')) },
  ]; // prettier-ignore
  it.each(packets)('hands over a jumbo frame whole, $reason', async ({ send }) => {
    const client = await connect(endpoint);
    await client.bundle([add(flow({ inPort: 1 }, { apply: [output('controller')] }))]);
    const data = Buffer.concat([Buffer.from('ffffffffffff02000000000188b5', 'hex'), Buffer.alloc(8986, 'x')]);
    const packet = firstValueFrom(client.packetIn);
    await send(client, data);
    expect(await packet).toMatchObject({ inPort: 1, cookie: COOKIE, table: 0, data });
  });

  it('tells by which tunnel a packet came', async () => {
    const client = await connect(endpoint);
    await client.bundle([add(flow({ tunnelId: 70120n }, { apply: [output('controller')] }, { table: 1 }))]);
    const tunnel = 'actions=set_field:198.51.100.11->tun_src,set_field:70120->tun_id,resubmit(,1)';
    await ovs.ofctl('add-flow', endpoint, `table=0,${tunnel}`);
    const packet = firstValueFrom(client.packetIn);
    await client.packetOut(2, [output(TABLE)], udp(1, 2));
    expect(await packet).toMatchObject({ inPort: 2, table: 1, tunnelId: 70120n, tunnelSource: '198.51.100.11' });
  });

  const fragments = [
    { reason: 'a whole packet from the port', packet: udp(67, 68), passes: false },
    { reason: 'a first fragment from the port', packet: udp(67, 68, 0x2000), passes: false },
    { reason: 'a first fragment from another port', packet: udp(69, 68, 0x2000), passes: true },
    { reason: 'a later fragment, which shows no ports', packet: udp(67, 68, 0x2001), passes: true },
  ];
  it.each(fragments)('does not let fragments evade a rule on a port: $reason', async ({ packet, passes }) => {
    const client = await connect(endpoint);
    const rest: Instructions = { apply: [output('controller')] };
    await client.bundle([add(flow(FROM_DHCP_SERVER, {}, { priority: 200 })), add(flow({}, rest))]);
    const seen: Buffer[] = [];
    client.packetIn.subscribe(({ data }) => seen.push(data));
    await client.packetOut(1, [output(TABLE)], packet);
    // A packet-in comes when the packet is through the datapath, which the barrier does not wait for: an end mark does.
    const last = firstValueFrom(client.packetIn.pipe(filter(({ inPort }) => inPort === 2)));
    await client.packetOut(2, [output(TABLE)], udp(1, 2));
    await last;
    expect(seen).toEqual(passes ? [packet, udp(1, 2)] : [udp(1, 2)]);
    expect(await ovs.ofctl('get-frags', endpoint)).toBe('nx-match\n');
  });

  it('makes a meter, changes it under the flows that name it, and removes it with them', async () => {
    const client = await connect(endpoint);
    expect(await client.meters()).toEqual([]);
    const [slow, fast] = [{ packetsPerSecond: 1, burst: 3 }, { packetsPerSecond: 1_000_000, burst: 1 }]; // prettier-ignore
    await client.setMeter(7, slow);
    await client.setMeter('controller', slow);
    const metered = flow({ inPort: 1 }, { meter: 7, apply: [output(2)], goto: 1 });
    await client.bundle([add(metered)]);
    expect(await ovs.ofctl('dump-flows', endpoint)).toContain('meter:7,output:2,goto_table:1');
    await client.setMeter(7, fast);
    expect(identity(await client.dumpFlows())).toEqual(identity([metered]));
    expect(await client.meters()).toEqual([
      { id: 7, rate: fast },
      { id: 'controller', rate: slow },
    ]);
    await ovs.ofctl('add-meter', endpoint, 'meter=8,kbps,band=type=drop,rate=1000');
    expect(await client.meters()).toContainEqual({ id: 8 });
    for (const id of [7, 8, 'controller', 7] as const) await client.removeMeter(id);
    expect(await client.meters()).toEqual([]);
    expect(await client.dumpFlows()).toEqual([]);
  });

  const metered = [
    { reason: 'of one flow', id: 1, instructions: { meter: 1, apply: [output('controller')] } },
    { reason: 'of all packets to controllers', id: 'controller' as const, instructions: { apply: [output('controller')] } },
  ]; // prettier-ignore
  it.each(metered)('drops what comes faster than the meter $reason lets through', async ({ id, instructions }) => {
    const client = await connect(endpoint);
    await client.setMeter(id, { packetsPerSecond: 1, burst: 5 });
    await client.bundle([add(flow({ inPort: 1 }, instructions))]);
    let seen = 0;
    client.packetIn.subscribe(() => seen++);
    await ovs.appctl('netdev-dummy/receive', 'p1', ...Array.from({ length: 100 }, () => udp(1, 2).toString('hex')));
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(seen).toBeGreaterThanOrEqual(5);
    expect(seen).toBeLessThanOrEqual(7);
    await client.removeMeter(id);
  });

  const meters = [
    { reason: 'a meter that is none', call: (client: Switch) => client.setMeter(0, { packetsPerSecond: 1, burst: 1 }), errorName: 'OFPMMFC_INVALID_METER' },
    { reason: 'a flow whose meter does not exist', call: (client: Switch) => client.bundle([add(flow({}, { meter: 99 }))]), errorName: 'OFPMMFC_INVALID_METER' },
  ]; // prettier-ignore
  it.each(meters)('is told of $reason', async ({ call, errorName }) => {
    const error: unknown = await call(await connect(endpoint)).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(OpenFlowError);
    expect(error).toMatchObject({ errorName });
  });

  it('sends no meter that lets nothing through', async () => {
    const client = await connect(endpoint);
    for (const rate of [{ packetsPerSecond: 0, burst: 1 }, { packetsPerSecond: 1, burst: 0 }])
      await expect(client.setMeter(1, rate)).rejects.toBeInstanceOf(OpenFlowValueError);
    expect(await client.meters()).toEqual([]);
  }); // prettier-ignore

  it('tracks connections by zone, marks them, and forgets those of one zone', async () => {
    const client = await connect(endpoint);
    const track = (zone: number | { register: number }, mark?: number): Action[] => [
      { type: 'loadRegister', register: 1, value: 6 },
      { type: 'ct', commit: true, zone, table: 1, ...(mark === undefined ? {} : { mark }) },
    ];
    await client.bundle([
      add(flow({ ...UDP, inPort: 1 }, { apply: track(5, 0xa11) })),
      add(flow({ ...UDP, inPort: 2 }, { apply: track({ register: 1 }) })),
      add(flow({ ...UDP, ctState: { value: 0x21, mask: 0x21 }, ctZone: 5, ctMark: 0xa11 }, { apply: [output('controller')] }, { table: 1 })),
      add(flow({ ...UDP, ctState: { value: 0x21, mask: 0x21 }, ctZone: 6, ctMark: 0 }, { apply: [{ type: 'ctClear' }, { type: 'resubmit', table: 2 }] }, { table: 1 })),
      add(flow({ ...UDP, ctState: { value: 0, mask: 0x20 } }, { apply: [output('controller')] }, { table: 2 })),
    ]);
    const zones = async () => [...(await ovs.appctl('dpctl/dump-conntrack')).matchAll(/zone=(\d+)/g)].map(([, zone]) => Number(zone)).sort();
    for (const [port, table] of [[1, 1], [2, 2]] as const) {
      const packet = firstValueFrom(client.packetIn);
      await client.packetOut(port, [output(TABLE)], udp(1000, 2000 + port));
      expect(await packet).toMatchObject({ inPort: port, table });
    }
    expect(await zones()).toEqual([5, 6]);
    await client.flushConnections(5);
    expect(await zones()).toEqual([6]);
    await client.flushConnections(5);
    await client.flushConnections(6);
    expect(await zones()).toEqual([]);
  }); // prettier-ignore

  it('answers the echo requests of a switch to which nothing else is said', async () => {
    await ovs.vsctl('set', 'controller', 'br0', 'inactivity_probe=1000');
    const client = await connect(endpoint, { echoIntervalMs: 60_000 });
    const lost: unknown[] = [];
    client.state.pipe(filter(({ connected }) => !connected)).subscribe((state) => lost.push(state));
    await new Promise((resolve) => setTimeout(resolve, 3500));
    await client.barrier();
    expect(lost).toEqual([]);
    await ovs.vsctl('clear', 'controller', 'br0', 'inactivity_probe');
  });

  it('notices a switch that hangs, and comes back', async () => {
    const client = await connect(endpoint, { echoIntervalMs: 200, connectTimeoutMs: 300, callTimeoutMs: 300 });
    ovs.freezeVswitchd(true);
    try {
      const lost = await firstValueFrom(client.state.pipe(filter((state) => !state.connected)));
      expect(String('error' in lost && lost.error)).toContain(`${endpoint}: the server has not answered for 400 ms`);
      await expect(client.barrier()).rejects.toBeInstanceOf(OpenFlowConnectionError);
    } finally {
      ovs.freezeVswitchd(false);
    }
    await client.ready();
    await client.barrier();
  });

  it('comes back after a restart of the switch, whose tables are empty then', async () => {
    const client = await connect(endpoint);
    await client.bundle([add(flow({}))]);
    const states: boolean[] = [];
    client.state.subscribe(({ connected }) => states.push(connected));
    const waiting = [client.barrier(), client.dumpFlows()];
    await ovs.stopVswitchd();
    await Promise.allSettled(waiting);
    await firstValueFrom(client.state.pipe(filter(({ connected }) => !connected)));
    await ovs.startVswitchd();
    await client.ready();
    expect([states.at(0), states.at(1), states.at(-1)]).toEqual([true, false, true]);
    expect(await client.dumpFlows()).toEqual([]);
    expect(await ovs.ofctl('get-frags', endpoint)).toBe('nx-match\n');
  });

  it('says who refused when nothing listens', async () => {
    const nowhere = `tcp:127.0.0.1:${await freePort()}`;
    const client = openSwitch(nowhere);
    switches.push(client);
    const error: unknown = await client.ready(300).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(OpenFlowConnectionError);
    expect(String(error)).toContain(`${nowhere}: connection refused`);
  });
});

describe('a client of ovs-vswitchd over TLS', () => {
  let dir: string;
  let pki: Pki;
  let ovs: OpenVSwitch;
  let endpoint: string;

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'pki-'));
    pki = await makePki(dir);
    ovs = await OpenVSwitch.start({ identity: pki.server });
    endpoint = await ovs.addBridge('br0', 'ssl');
  });

  afterAll(async () => {
    await ovs.stop();
    await rm(dir, { recursive: true });
  });

  it('works with the right certificates', async () => {
    const client = await connect(endpoint, { tls: await loadIdentity(pki.client) });
    await client.bundle([add(flow({ inPort: 1 }))]);
    expect(await client.dumpFlows()).toHaveLength(1);
  });

  it('is refused with a certificate of another CA', async () => {
    const client = openSwitch(endpoint, { tls: await loadIdentity(pki.strangerClient) });
    switches.push(client);
    await expect(client.ready(500)).rejects.toThrow(/refused our certificate/);
  });
});
