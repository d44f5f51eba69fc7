import type { Action, Instructions, Match, SetField } from '../openflow/index.js';
import { unsupported } from './errors.js';
import { isIpv4, isTagged, isTcp, isUdp, readMatch } from './match.js';
import { digest, isPort, MAX_LONG, readLong, readNumber } from './notation.js';

const ALL_64 = 2n ** 64n - 1n;
const MAX_TABLE = 254;
const ETH_TYPE_VLAN = 0x8100;
const WHOLE_PACKET = 0xffff;
const named = ['in_port', 'controller', 'local', 'normal'] as const;

/**
 * Drop is having no key at all. `actions` is lost beside an instruction (or loses it), so there they are an
 * instruction too. Throws FLOODLIGHT_UNSUPPORTED.
 */
export function writeInstructions(instructions: Instructions, match: Match): Record<string, string> {
  const { apply = [], writeMetadata, goto, meter, other, ...rest } = instructions;
  rest satisfies Record<string, never>;
  if (meter !== undefined || other !== undefined) throw unsupported('a meter, or an instruction that is not known');
  const beside: Record<string, string> = {};
  if (writeMetadata !== undefined) {
    const { value, mask } = writeMetadata;
    if (mask !== ALL_64 || value > MAX_LONG) throw unsupported('writing metadata in part, or of more than 63 bits');
    beside['instruction_write_metadata'] = value.toString();
  }
  if (goto !== undefined) beside['instruction_goto_table'] = String(goto);
  if (apply.length === 0) return beside;
  const key = Object.keys(beside).length === 0 ? 'actions' : 'instruction_apply_actions';
  // No space: what follows ", " is lost.
  return { [key]: writeActions(apply, match).join(','), ...beside };
}

function writeActions(actions: readonly Action[], match: Match): string[] {
  let tagged = isTagged(match);
  return actions.map((action) => {
    // The switch would refuse to touch the tag of what has none, and Floodlight doesn't tell.
    const touchesTag = action.type === 'popVlan' || (action.type === 'setField' && 'vlanId' in action.field);
    if (touchesTag && !tagged) throw unsupported('an action on the VLAN tag of frames that may have none');
    if (action.type === 'pushVlan') tagged = true;
    if (action.type === 'popVlan') tagged = false;
    return writeAction(action, match);
  });
}

function writeAction(action: Action, match: Match): string {
  switch (action.type) {
    case 'output': {
      const { port, maxLength = WHOLE_PACKET } = action;
      if (typeof port === 'number' && !isPort(port)) throw unsupported(`an output to port ${port}`);
      if (port === 'controller' && maxLength !== WHOLE_PACKET)
        throw unsupported('a part of a packet to the controller');
      return `output=${port}`;
    }
    case 'pushVlan':
      return 'push_vlan=0x8100';
    case 'popVlan':
      return 'pop_vlan';
    case 'setField':
      return `set_field=${writeSetField(action.field, match)}`;
    case 'loadRegister':
    case 'outputRegister':
    case 'resubmit':
    case 'ct':
    case 'ctClear':
    case 'other':
      throw unsupported(`the action ${action.type}`);
  }
}

function writeSetField(field: SetField, match: Match): string {
  const need = (condition: boolean, what: string) => {
    if (!condition) throw unsupported(`an action on ${what} in a match that does not say so`);
  };
  if ('vlanId' in field) return `eth_vlan_vid->${field.vlanId}`;
  if ('tunnelId' in field) {
    if (field.tunnelId > MAX_LONG) throw unsupported('a tunnel id of more than 63 bits');
    return `tunnel_id->${field.tunnelId.toString()}`;
  }
  if ('ethSrc' in field) return `eth_src->${field.ethSrc}`;
  if ('ethDst' in field) return `eth_dst->${field.ethDst}`;
  if ('ipv4Src' in field || 'ipv4Dst' in field) {
    need(isIpv4(match), 'an address of IPv4');
    return 'ipv4Src' in field ? `ipv4_src->${field.ipv4Src}` : `ipv4_dst->${field.ipv4Dst}`;
  }
  if ('tcpDst' in field) {
    need(isTcp(match), 'a port of TCP');
    return `tcp_dst->${field.tcpDst}`;
  }
  need(isUdp(match), 'a port of UDP');
  return `udp_dst->${field.udpDst}`;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** What isn't understood goes to `other`, or is an action of that type. */
export function readInstructions(answer: Readonly<Record<string, unknown>>): Instructions {
  const instructions: Mutable<Instructions> = {};
  const other: [string, unknown][] = [];
  for (const [key, value] of Object.entries(answer))
    if (!readInstruction(instructions, key, value)) other.push([key, value]);
  if (other.length > 0) instructions.other = digest(other);
  return instructions;
}

function readInstruction(instructions: Mutable<Instructions>, key: string, value: unknown): boolean {
  switch (key) {
    case 'none':
      return value === 'drop';
    case 'instruction_apply_actions': {
      const actions = property(value, 'actions');
      if (property(value, 'none') === 'drop') return true;
      if (typeof actions !== 'string') return false;
      instructions.apply = actions.split(',').map((text) => readAction(text) ?? { type: 'other', hex: digest(text) });
      return true;
    }
    case 'instruction_goto_table': {
      const table = readNumber(property(value, key), MAX_TABLE);
      if (table !== undefined) instructions.goto = table;
      return table !== undefined;
    }
    case 'instruction_write_metadata': {
      const metadata = readLong(property(value, key));
      const mask = readLong(property(value, `${key}_mask`));
      if (metadata === undefined || mask === undefined) return false;
      instructions.writeMetadata = { value: metadata, mask };
      return true;
    }
    default:
      return false;
  }
}

const property = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;

function readAction(text: string): Action | undefined {
  const [, key = '', value = ''] = /^([a-z_]+)(?:=(.*))?$/.exec(text) ?? [];
  switch (key) {
    case 'output': {
      const word = named.find((port) => port === value);
      const port = word ?? readNumber(value, 0xffff_ffff);
      return port === undefined ? undefined : { type: 'output', port };
    }
    case 'push_vlan':
      return readNumber(value, 0xffff) === ETH_TYPE_VLAN ? { type: 'pushVlan' } : undefined;
    case 'pop_vlan':
      return { type: 'popVlan' };
    case 'set_field': {
      const field = readSetField(value);
      return field === undefined ? undefined : { type: 'setField', field };
    }
    default:
      return undefined;
  }
}

function readSetField(text: string): SetField | undefined {
  const [name = '', value = ''] = text.split('->');
  if (name === 'eth_vlan_vid') {
    const vlanId = readNumber(value, 0xfff);
    return vlanId === undefined ? undefined : { vlanId };
  }
  // The others are written as they are in a match.
  const { tunnelId, ethSrc, ethDst, ipv4Src, ipv4Dst, tcpDst, udpDst } = readMatch({ [name]: value });
  if (typeof tunnelId === 'bigint') return { tunnelId };
  if (value.includes('/')) return undefined;
  if (ethSrc !== undefined) return { ethSrc };
  if (ethDst !== undefined) return { ethDst };
  if (ipv4Src !== undefined) return { ipv4Src };
  if (ipv4Dst !== undefined) return { ipv4Dst };
  if (typeof tcpDst === 'number') return { tcpDst };
  return typeof udpDst === 'number' ? { udpDst } : undefined;
}
