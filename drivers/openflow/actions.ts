import { formatIpv4, formatMac, parseIpv4, parseMac } from './addresses.js';
import { Reader, type Writer } from './bytes.js';
import { checkRegister, presentVlan } from './match.js';
import { FIELD, readOxmHeader, registerOf, writeOxmHeader } from './oxm.js';
import { MalformedError } from '../wire/malformed.js';
import { OpenFlowValueError } from './errors.js';
import type { Action, Instructions, SetField } from './types.js';

/** enum ofp_action_type, OpenFlow 1.3.5 §7.2.5. */
const OFPAT = { output: 0, pushVlan: 17, popVlan: 18, setField: 25, experimenter: 0xffff } as const;
/** Open vSwitch's own actions, ovs-actions(7); the numbers are nx_action_subtype's. */
export const NICIRA = 0x2320;
const NXAST = { loadRegister: 7, resubmitTable: 14, outputRegister: 15, ct: 35, ctClear: 43 } as const;

const OFPIT = { goto: 1, writeMetadata: 2, apply: 4, meter: 6 } as const;

/** enum ofp_port_no: ports that stand for something. */
export const PORT = {
  in_port: 0xffff_fff8,
  normal: 0xffff_fffa,
  controller: 0xffff_fffd,
  local: 0xffff_fffe,
  any: 0xffff_ffff,
} as const;

/** OFPCML_NO_BUFFER: the whole packet goes to the controller. */
const WHOLE_PACKET = 0xffff;
const ETH_TYPE_VLAN = 0x8100;
/** A bit range of a register as ofs_nbits: first bit << 6 | number of bits - 1. */
const ALL_BITS = 31;
const LOW_16_BITS = 15;
const IN_PORT_16 = 0xfff8;
const NO_TABLE = 0xff;
const CT_COMMIT = 1;

/** struct ofp_instruction, one after the other, in the order in which they take effect. §7.2.4 */
export function writeInstructions(w: Writer, { meter, apply, writeMetadata, goto, other }: Instructions): void {
  if (meter !== undefined) {
    w.u16(OFPIT.meter);
    w.u16(8);
    w.u32(meter);
  }
  if (apply !== undefined && apply.length > 0) {
    const start = w.length;
    w.u16(OFPIT.apply);
    w.u16(0);
    w.zeros(4);
    writeActions(w, apply);
    w.patchLength(start + 2, start);
  }
  if (writeMetadata !== undefined) {
    w.u16(OFPIT.writeMetadata);
    w.u16(24);
    w.zeros(4);
    w.u64(writeMetadata.value & writeMetadata.mask);
    w.u64(writeMetadata.mask);
  }
  if (goto !== undefined) {
    w.u16(OFPIT.goto);
    w.u16(8);
    w.u8(goto);
    w.zeros(3);
  }
  if (other !== undefined) w.bytes(Buffer.from(other, 'hex'));
}

export function writeActions(w: Writer, actions: readonly Action[]): void {
  for (const action of actions) writeAction(w, action);
}

function writeAction(w: Writer, action: Action): void {
  switch (action.type) {
    case 'output': {
      framed(w, OFPAT.output, () => {
        const port = typeof action.port === 'number' ? action.port : PORT[action.port];
        w.u32(port);
        // Only what goes to the controller is cut; Open vSwitch reports 0 for all else.
        w.u16(port === PORT.controller ? (action.maxLength ?? WHOLE_PACKET) : 0);
      });
      return;
    }
    case 'pushVlan': {
      framed(w, OFPAT.pushVlan, () => w.u16(ETH_TYPE_VLAN));
      return;
    }
    case 'popVlan': {
      framed(w, OFPAT.popVlan, () => undefined);
      return;
    }
    case 'setField': {
      framed(w, OFPAT.setField, () => writeSetField(w, action.field));
      return;
    }
    case 'loadRegister': {
      nicira(w, NXAST.loadRegister, () => {
        w.u16(ALL_BITS);
        writeOxmHeader(w, FIELD.register0 + checkRegister(action.register), 4, false);
        w.u32(0);
        w.u32(action.value);
      });
      return;
    }
    case 'outputRegister': {
      nicira(w, NXAST.outputRegister, () => {
        w.u16(LOW_16_BITS);
        writeOxmHeader(w, FIELD.register0 + checkRegister(action.register), 4, false);
        w.u16(WHOLE_PACKET);
      });
      return;
    }
    case 'resubmit': {
      nicira(w, NXAST.resubmitTable, () => {
        w.u16(IN_PORT_16);
        w.u8(action.table);
      });
      return;
    }
    case 'ct': {
      nicira(w, NXAST.ct, () => writeCt(w, action));
      return;
    }
    case 'ctClear': {
      nicira(w, NXAST.ctClear, () => undefined);
      return;
    }
    case 'other': {
      w.bytes(Buffer.from(action.hex, 'hex'));
      return;
    }
  }
}

function framed(w: Writer, type: number, body: () => void): void {
  const start = w.length;
  w.u16(type);
  w.u16(0);
  body();
  w.align8(start);
  w.patchLength(start + 2, start);
}

function nicira(w: Writer, subtype: number, body: () => void): void {
  framed(w, OFPAT.experimenter, () => {
    w.u32(NICIRA);
    w.u16(subtype);
    body();
  });
}

function writeCt(w: Writer, { commit, zone, table, mark }: Extract<Action, { type: 'ct' }>): void {
  if (table === NO_TABLE) throw new OpenFlowValueError(`ct can't go on in table ${table}`);
  w.u16(commit ? CT_COMMIT : 0);
  if (typeof zone === 'number') {
    w.u32(0);
    w.u16(zone);
  } else {
    writeOxmHeader(w, FIELD.register0 + checkRegister(zone.register), 4, false);
    w.u16(LOW_16_BITS);
  }
  w.u8(table ?? NO_TABLE);
  w.zeros(5);
  if (mark === undefined) return;
  framed(w, OFPAT.setField, () => {
    writeOxmHeader(w, FIELD.ctMark, 4, false);
    w.u32(mark);
  });
}

function writeSetField(w: Writer, field: SetField): void {
  if ('vlanId' in field) {
    writeOxmHeader(w, FIELD.vlanId, 2, false);
    w.u16(presentVlan(field.vlanId));
  } else if ('tunnelId' in field) {
    writeOxmHeader(w, FIELD.tunnelId, 8, false);
    w.u64(field.tunnelId);
  } else if ('ethSrc' in field) {
    writeOxmHeader(w, FIELD.ethSrc, 6, false);
    w.u48(parseMac(field.ethSrc));
  } else if ('ethDst' in field) {
    writeOxmHeader(w, FIELD.ethDst, 6, false);
    w.u48(parseMac(field.ethDst));
  } else if ('ipv4Src' in field) {
    writeOxmHeader(w, FIELD.ipv4Src, 4, false);
    w.u32(parseIpv4(field.ipv4Src));
  } else if ('ipv4Dst' in field) {
    writeOxmHeader(w, FIELD.ipv4Dst, 4, false);
    w.u32(parseIpv4(field.ipv4Dst));
  } else if ('tcpDst' in field) {
    writeOxmHeader(w, FIELD.tcpDst, 2, false);
    w.u16(field.tcpDst);
  } else {
    writeOxmHeader(w, FIELD.udpDst, 2, false);
    w.u16(field.udpDst);
  }
}

/** Reads the instructions up to the reader's end. Those that Instructions can't express are kept in `other`. Throws MalformedError. */
export function readInstructions(r: Reader): Instructions {
  const read: { -readonly [K in keyof Instructions]: Instructions[K] } = {};
  let apply: Action[] | undefined;
  let other = '';
  while (r.left > 0) {
    const { type, whole, body } = readFrame(r);
    body.skip(type === OFPIT.goto || type === OFPIT.meter ? 0 : 4);
    if (type === OFPIT.meter) read.meter = body.u32();
    else if (type === OFPIT.apply) readActions(body, (apply ??= []));
    else if (type === OFPIT.writeMetadata) read.writeMetadata = { value: body.u64(), mask: body.u64() };
    else if (type === OFPIT.goto) read.goto = body.u8();
    else other += whole.toString('hex');
  }
  if (apply !== undefined) read.apply = apply;
  if (other !== '') read.other = other;
  return read;
}

/** Instructions and actions alike begin with a type and their own length. */
function readFrame(r: Reader): { type: number; whole: Buffer; body: Reader } {
  const length = r.peekU16(2);
  if (length < 8 || length % 8 !== 0)
    throw new MalformedError(`${length} is not the length of an instruction or action`);
  const whole = r.bytes(length);
  return { type: whole.readUInt16BE(0), whole, body: new Reader(whole, 4) };
}

function readActions(r: Reader, actions: Action[]): void {
  while (r.left > 0) {
    const { type, whole, body } = readFrame(r);
    actions.push(readAction(type, body) ?? { type: 'other', hex: whole.toString('hex') });
  }
}

/** Undefined if Action can't express it. */
function readAction(type: number, body: Reader): Action | undefined {
  switch (type) {
    case OFPAT.output:
      return readOutput(body.u32(), body.u16());
    case OFPAT.pushVlan:
      return body.u16() === ETH_TYPE_VLAN ? { type: 'pushVlan' } : undefined;
    case OFPAT.popVlan:
      return { type: 'popVlan' };
    case OFPAT.setField:
      return readSetField(body);
    case OFPAT.experimenter:
      return body.u32() === NICIRA ? readNicira(body.u16(), body) : undefined;
    default:
      return undefined;
  }
}

function readOutput(port: number, maxLength: number): Action {
  switch (port) {
    case PORT.controller:
      return { type: 'output', port: 'controller', maxLength };
    case PORT.in_port:
      return { type: 'output', port: 'in_port' };
    case PORT.local:
      return { type: 'output', port: 'local' };
    case PORT.normal:
      return { type: 'output', port: 'normal' };
    default:
      return { type: 'output', port };
  }
}

function readSetField(body: Reader): Action | undefined {
  const { field, masked, length } = readOxmHeader(body);
  const value = body.part(length);
  if (masked) return undefined;
  const register = registerOf(field);
  if (register !== undefined) return { type: 'loadRegister', register, value: value.u32() };
  const wanted = readSetFieldValue(field, value);
  return wanted === undefined ? undefined : { type: 'setField', field: wanted };
}

function readSetFieldValue(field: number, value: Reader): SetField | undefined {
  switch (field) {
    case FIELD.vlanId:
      return { vlanId: value.u16() & 0xfff };
    case FIELD.tunnelId:
      return { tunnelId: value.u64() };
    case FIELD.ethSrc:
      return { ethSrc: formatMac(value.u48()) };
    case FIELD.ethDst:
      return { ethDst: formatMac(value.u48()) };
    case FIELD.ipv4Src:
      return { ipv4Src: formatIpv4(value.u32()) };
    case FIELD.ipv4Dst:
      return { ipv4Dst: formatIpv4(value.u32()) };
    case FIELD.tcpDst:
      return { tcpDst: value.u16() };
    case FIELD.udpDst:
      return { udpDst: value.u16() };
    default:
      return undefined;
  }
}

function readNicira(subtype: number, body: Reader): Action | undefined {
  switch (subtype) {
    case NXAST.loadRegister: {
      const bits = body.u16();
      const register = readRegister(body);
      const value = body.u64();
      if (bits !== ALL_BITS || register === undefined || value > 0xffff_ffffn) return undefined;
      return { type: 'loadRegister', register, value: Number(value) };
    }
    case NXAST.outputRegister: {
      const bits = body.u16();
      const register = readRegister(body);
      return bits === LOW_16_BITS && register !== undefined ? { type: 'outputRegister', register } : undefined;
    }
    case NXAST.resubmitTable: {
      const port = body.u16();
      const table = body.u8();
      return port === IN_PORT_16 ? { type: 'resubmit', table } : undefined;
    }
    case NXAST.ctClear:
      return { type: 'ctClear' };
    case NXAST.ct:
      return readCt(body);
    default:
      return undefined;
  }
}

function readRegister(body: Reader): number | undefined {
  const { field, masked } = readOxmHeader(body);
  return masked ? undefined : registerOf(field);
}

function readCt(body: Reader): Action | undefined {
  const flags = body.u16();
  const source = body.bytes(4);
  const zoneOrBits = body.u16();
  const table = body.u8();
  body.skip(3);
  const helper = body.u16();
  const zone = readZone(source, zoneOrBits);
  const marks = [];
  while (body.left > 0) marks.push(readMark(body));
  const [mark] = marks;
  // force, an application helper, NAT, labels: none of ours.
  const unknown = flags > CT_COMMIT || helper !== 0 || zone === undefined || marks.length > 1;
  if (unknown || (marks.length === 1 && mark === undefined)) return undefined;
  return {
    type: 'ct',
    commit: flags === CT_COMMIT,
    zone,
    ...(table === NO_TABLE ? {} : { table }),
    ...(mark === undefined ? {} : { mark }),
  };
}

function readZone(source: Buffer, zoneOrBits: number): number | { register: number } | undefined {
  if (source.readUInt32BE(0) === 0) return zoneOrBits;
  const register = readRegister(new Reader(source));
  return zoneOrBits === LOW_16_BITS && register !== undefined ? { register } : undefined;
}

function readMark(r: Reader): number | undefined {
  const { type, body } = readFrame(r);
  if (type !== OFPAT.setField) return undefined;
  const { field, masked } = readOxmHeader(body);
  return field === FIELD.ctMark && !masked ? body.u32() : undefined;
}
