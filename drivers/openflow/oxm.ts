import type { Reader, Writer } from './bytes.js';

const BASIC = 0x8000;
const NXM_1 = 0x0001;
/** OFPXMC_EXPERIMENTER: the value begins with 32 bits that say whose field it is. */
const EXPERIMENTER = 0xffff;

const oxm = (oxmClass: number, field: number) => oxmClass * 128 + field;

/** OXM class and field in one number. OpenFlow 1.3.5 table 12; the NXM ones from ovs-fields(7). */
export const FIELD = {
  inPort: oxm(BASIC, 0),
  metadata: oxm(BASIC, 2),
  ethDst: oxm(BASIC, 3),
  ethSrc: oxm(BASIC, 4),
  ethType: oxm(BASIC, 5),
  vlanId: oxm(BASIC, 6),
  ipProtocol: oxm(BASIC, 10),
  ipv4Src: oxm(BASIC, 11),
  ipv4Dst: oxm(BASIC, 12),
  tcpSrc: oxm(BASIC, 13),
  tcpDst: oxm(BASIC, 14),
  udpSrc: oxm(BASIC, 15),
  udpDst: oxm(BASIC, 16),
  icmpv4Type: oxm(BASIC, 19),
  icmpv4Code: oxm(BASIC, 20),
  arpOp: oxm(BASIC, 21),
  arpSpa: oxm(BASIC, 22),
  arpTpa: oxm(BASIC, 23),
  arpSha: oxm(BASIC, 24),
  arpTha: oxm(BASIC, 25),
  tunnelId: oxm(BASIC, 38),
  register0: oxm(NXM_1, 0),
  tunnelSource: oxm(NXM_1, 31),
  ipFragment: oxm(NXM_1, 26),
  ctState: oxm(NXM_1, 105),
  ctZone: oxm(NXM_1, 106),
  ctMark: oxm(NXM_1, 107),
  tcpFlags: oxm(EXPERIMENTER, 42),
} as const;

/** The Open Networking Foundation's experimenter id. */
export const ONF = 0x4f4e_4600;

export const REGISTERS = 8;

/** The register's number, or undefined if the field is none of the eight. */
export function registerOf(field: number): number | undefined {
  const register = field - FIELD.register0;
  return register >= 0 && register < REGISTERS ? register : undefined;
}

/** The first four bytes of an OXM TLV: class, field, whether a mask follows, and the length of all that follows. */
export interface OxmHeader {
  readonly field: number;
  readonly masked: boolean;
  readonly length: number;
}

export function writeOxmHeader(w: Writer, field: number, valueBytes: number, masked: boolean): void {
  writeHeader(w, { field, masked, length: masked ? 2 * valueBytes : valueBytes });
}

/** The header of a field of the ONF's, and whose it is. */
export function writeOnfHeader(w: Writer, field: number, valueBytes: number, masked: boolean): void {
  writeHeader(w, { field, masked, length: 4 + (masked ? 2 * valueBytes : valueBytes) });
  w.u32(ONF);
}

function writeHeader(w: Writer, { field, masked, length }: OxmHeader): void {
  w.u16(field >>> 7);
  w.u8(((field & 0x7f) << 1) | (masked ? 1 : 0));
  w.u8(length);
}

export function readOxmHeader(r: Reader): OxmHeader {
  const oxmClass = r.u16();
  const fieldAndMask = r.u8();
  return { field: oxm(oxmClass, fieldAndMask >> 1), masked: (fieldAndMask & 1) === 1, length: r.u8() };
}
