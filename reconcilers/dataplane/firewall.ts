import type { Action, Flow, Match } from '../../drivers/openflow/types.js';
import { given } from '../common/given.js';
import type { FirewallPolicy } from '../common/records.js';
import { blockOf, deliver, etherTypes, ipProtocols, metadataOf, registers, tables, type Uncookied } from './layout.js';

/**
 * The stateful firewall of docs/adr/0003. Each port is a conntrack zone; the mark of a connection says who opened it, as
 * the machine of that port sees it, so that a connection whose beginning was not seen can be told apart too.
 */
const marks = { openedByMachine: 1, openedByPeer: 2, blocked: 4 } as const;
const anyMark = marks.openedByMachine | marks.openedByPeer | marks.blocked;
const synFlag = 0x002;

type Rule = FirewallPolicy['rules'][number];
type Direction = Rule['direction'];

interface Side {
  readonly enter: number;
  readonly tracked: number;
  readonly pickUp: number;
  /** The register with the machine's port. */
  readonly zone: number;
  /** The mark of connections that packets of this direction open, and of those that they answer. */
  readonly opens: number;
  readonly answers: number;
  readonly peerField: 'ipv4Src' | 'ipv4Dst';
  readonly pass: Flow['instructions'];
}

const sides: Readonly<Record<Direction, Side>> = {
  Egress: {
    enter: tables.egress,
    tracked: tables.egressTracked,
    pickUp: tables.egressPickUp,
    zone: registers.input,
    opens: marks.openedByMachine,
    answers: marks.openedByPeer,
    peerField: 'ipv4Dst',
    pass: { goto: tables.forward },
  },
  Ingress: {
    enter: tables.ingress,
    tracked: tables.ingressTracked,
    pickUp: tables.ingressPickUp,
    zone: registers.output,
    opens: marks.openedByPeer,
    answers: marks.openedByMachine,
    peerField: 'ipv4Src',
    pass: { apply: [deliver] },
  },
};

const priorities = { answers: 60_000, firstRule: 50_000, enter: 100 } as const;

/** The flows that a network's firewall comes to on a host with machines; they do not depend on which those are. */
export function firewallFlows(vni: number, firewall: FirewallPolicy): Uncookied[] {
  return (['Egress', 'Ingress'] as const).flatMap((direction) => sideFlows(vni, firewall, direction));
}

function sideFlows(vni: number, { rules, defaultAction }: FirewallPolicy, direction: Direction): Uncookied[] {
  const side = sides[direction];
  const base = { metadata: metadataOf(vni), ethType: etherTypes.ipv4 } as const;
  const reverse: Direction = direction === 'Egress' ? 'Ingress' : 'Egress';
  const otherwise = (of: Direction): Rule => ({ direction: of, action: defaultAction });
  const inOrder = (of: Direction): Rule[] => [...rules.filter((rule) => rule.direction === of), otherwise(of)];
  const track: Action = { type: 'ct', commit: false, zone: { register: side.zone }, table: side.tracked };
  return [
    { table: side.enter, priority: priorities.enter, match: base, instructions: { apply: [track] } },
    {
      table: side.tracked,
      priority: priorities.answers,
      match: { ...base, ctMark: { value: side.answers, mask: side.answers | marks.blocked } },
      instructions: side.pass,
    },
    {
      table: side.tracked,
      priority: priorities.answers,
      match: { ...base, ctMark: { value: side.answers | marks.blocked, mask: side.answers | marks.blocked } },
      instructions: {},
    },
    ...inOrder(direction).flatMap((rule, index) => {
      const priority = priorities.firstRule - 2 * index;
      return [
        ...variations(rule, side.peerField, 'Dst').flatMap((each) =>
          decide(side, rule.action, { ...base, ...each }, priority),
        ),
        ...(rule.action === 'Allow' && rule.ports !== undefined ? rest(side, rule, base, priority) : []),
      ];
    }),
    ...inOrder(reverse).flatMap((rule, index) =>
      rule.protocol === undefined || rule.protocol === 'TCP'
        ? variations({ ...rule, protocol: 'TCP' }, side.peerField, 'Src').map((each) =>
            pickUp(side, rule.action, { ...base, ...each }, priorities.firstRule - 2 * index),
          )
        : [],
    ),
  ];
}

/** A packet that answers nothing known: the first rule that matches decides, for an open connection too. */
function decide(side: Side, action: Rule['action'], match: Match, priority: number): Uncookied[] {
  const table = side.tracked;
  if (action === 'Allow')
    return [
      {
        table,
        priority: priority + 1,
        match: { ...match, ctMark: { value: side.opens, mask: side.opens | marks.blocked } },
        instructions: side.pass,
      },
      { table, priority, match, instructions: admitted(side, side.opens) },
    ];
  const mayBeTcp = match.ipProtocol === undefined || match.ipProtocol === ipProtocols.tcp;
  return [
    {
      table,
      priority: priority + 1,
      match: { ...match, ctMark: { value: side.opens, mask: side.opens } },
      // What is refused now ends, answers too.
      instructions: { apply: [commit(side, side.opens | marks.blocked)] },
    },
    ...(mayBeTcp
      ? [
          {
            table,
            priority: priority + 1,
            match: {
              ...match,
              ipProtocol: ipProtocols.tcp,
              tcpFlags: { value: 0, mask: synFlag },
              ctMark: { value: 0, mask: anyMark },
            },
            instructions: { goto: side.pickUp },
          },
        ]
      : []),
    { table, priority, match, instructions: {} },
  ];
}

/**
 * The later fragments of what a rule allows have no ports. Conntrack lets them go only once the whole packet is there, and
 * without the first one, which the ports decide about, they are of no use.
 */
function rest(side: Side, rule: Rule, base: Match, priority: number): Uncookied[] {
  return variations({ ...rule, ports: undefined }, side.peerField, 'Dst').map((each) => ({
    table: side.tracked,
    priority,
    match: { ...base, ...each, ipFragment: 'later' },
    instructions: side.pass,
  }));
}

/**
 * TCP of a connection whose beginning this host did not see, because the machine came by migration or the firewall is new: it
 * passes if the other side was allowed to open it. A forged one finds no connection in the guest.
 */
function pickUp(side: Side, action: Rule['action'], match: Match, priority: number): Uncookied {
  return {
    table: side.pickUp,
    priority,
    match,
    instructions: action === 'Allow' ? admitted(side, side.answers) : {},
  };
}

function admitted(side: Side, mark: number): Flow['instructions'] {
  return { ...side.pass, apply: [commit(side, mark), ...(side.pass.apply ?? [])] };
}

const commit = (side: Side, mark: number): Action => ({
  type: 'ct',
  commit: true,
  zone: { register: side.zone },
  mark,
});

/** A rule as matches: one for each peer and each piece of its port ranges. */
function variations(
  { protocol, ports, peers }: Rule,
  peerField: 'ipv4Src' | 'ipv4Dst',
  portEnd: 'Src' | 'Dst',
): Match[] {
  const byPeer: Match[] = peers === undefined ? [{}] : peers.map((cidr) => given({ [peerField]: blockOf(cidr) }));
  return byPeer.flatMap((peer): Match[] => {
    switch (protocol) {
      case undefined:
        return [peer];
      case 'ICMP':
        return [{ ...peer, ipProtocol: ipProtocols.icmp }];
      case 'TCP':
      case 'UDP': {
        const transport = protocol === 'TCP' ? 'tcp' : 'udp';
        const of = { ...peer, ipProtocol: ipProtocols[transport] };
        return ports === undefined
          ? [of]
          : ports.flatMap(portMasks).map((port) => ({ ...of, [`${transport}${portEnd}`]: port }));
      }
    }
  });
}

/** "80" or "8000-8100" as values under masks, as few as possible. */
export function portMasks(range: string): { readonly value: number; readonly mask: number }[] {
  const [from = 0, to = from] = range.split('-').map(Number);
  const masks = [];
  for (let first = from; first <= to;) {
    // The largest aligned block that begins here and ends in the range.
    let size = 1;
    while (first % (size * 2) === 0 && first + size * 2 - 1 <= to) size *= 2;
    masks.push({ value: first, mask: 0x10000 - size });
    first += size;
  }
  return masks;
}
