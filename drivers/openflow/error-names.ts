/** OFPET_EXPERIMENTER: the code is then an ONF extension's exp_type (EXT-230 for bundles). */
export const EXPERIMENTER = 0xffff;

interface ErrorType {
  readonly prefix: string;
  readonly codes: readonly string[];
}

const named = (prefix: string, codes: string): ErrorType => ({ prefix, codes: codes.split(' ') });

/** OpenFlow 1.3.5 §7.4.4: the codes of each type, in order from 0. */
const TYPES: readonly ErrorType[] = [
  named('OFPHFC', 'INCOMPATIBLE EPERM'),
  named(
    'OFPBRC',
    'BAD_VERSION BAD_TYPE BAD_MULTIPART BAD_EXPERIMENTER BAD_EXP_TYPE EPERM BAD_LEN BUFFER_EMPTY BUFFER_UNKNOWN BAD_TABLE_ID IS_SLAVE BAD_PORT BAD_PACKET MULTIPART_BUFFER_OVERFLOW',
  ),
  named(
    'OFPBAC',
    'BAD_TYPE BAD_LEN BAD_EXPERIMENTER BAD_EXP_TYPE BAD_OUT_PORT BAD_ARGUMENT EPERM TOO_MANY BAD_QUEUE BAD_OUT_GROUP MATCH_INCONSISTENT UNSUPPORTED_ORDER BAD_TAG BAD_SET_TYPE BAD_SET_LEN BAD_SET_ARGUMENT',
  ),
  named(
    'OFPBIC',
    'UNKNOWN_INST UNSUP_INST BAD_TABLE_ID UNSUP_METADATA UNSUP_METADATA_MASK BAD_EXPERIMENTER BAD_EXP_TYPE BAD_LEN EPERM',
  ),
  named(
    'OFPBMC',
    'BAD_TYPE BAD_LEN BAD_TAG BAD_DL_ADDR_MASK BAD_NW_ADDR_MASK BAD_WILDCARDS BAD_FIELD BAD_VALUE BAD_MASK BAD_PREREQ DUP_FIELD EPERM',
  ),
  named('OFPFMFC', 'UNKNOWN TABLE_FULL BAD_TABLE_ID OVERLAP EPERM BAD_TIMEOUT BAD_COMMAND BAD_FLAGS'),
  named(
    'OFPGMFC',
    'GROUP_EXISTS INVALID_GROUP WEIGHT_UNSUPPORTED OUT_OF_GROUPS OUT_OF_BUCKETS CHAINING_UNSUPPORTED WATCH_UNSUPPORTED LOOP UNKNOWN_GROUP CHAINED_GROUP BAD_TYPE BAD_COMMAND BAD_BUCKET BAD_WATCH EPERM',
  ),
  named('OFPPMFC', 'BAD_PORT BAD_HW_ADDR BAD_CONFIG BAD_ADVERTISE EPERM'),
  named('OFPTMFC', 'BAD_TABLE BAD_CONFIG EPERM'),
  named('OFPQOFC', 'BAD_PORT BAD_QUEUE EPERM'),
  named('OFPSCFC', 'BAD_FLAGS BAD_LEN EPERM'),
  named('OFPRRFC', 'STALE UNSUP BAD_ROLE'),
  named(
    'OFPMMFC',
    'UNKNOWN METER_EXISTS INVALID_METER UNKNOWN_METER BAD_COMMAND BAD_FLAGS BAD_RATE BAD_BURST BAD_BAND BAD_BAND_VALUE OUT_OF_METERS OUT_OF_BANDS',
  ),
  named('OFPTFFC', 'BAD_TABLE BAD_METADATA BAD_TYPE BAD_LEN BAD_ARGUMENT EPERM'),
];

/** EXT-230's bundle errors, from exp_type 2300. */
const BUNDLE = named(
  'OFPBFC',
  'UNKNOWN EPERM BAD_ID BUNDLE_EXIST BUNDLE_CLOSED OUT_OF_BUNDLES BAD_TYPE BAD_FLAGS MSG_BAD_LEN MSG_BAD_XID MSG_UNSUP MSG_CONFLICT MSG_TOO_MANY MSG_FAILED TIMEOUT BUNDLE_IN_PROGRESS',
);
const FIRST_BUNDLE_ERROR = 2300;

/** Other experimenter errors that Open vSwitch sends over OpenFlow 1.3. */
const OTHERS: Readonly<Record<number, string>> = {
  2: 'NXBRC_NXM_INVALID',
  3: 'NXBRC_NXM_BAD_TYPE',
  4: 'NXBRC_MUST_BE_ZERO',
  11: 'NXBAC_MUST_BE_ZERO',
  12: 'NXFMFC_HARDWARE',
  2600: 'OFPBIC_DUP_INST',
  4250: 'OFPBAC_BAD_SET_MASK',
};

export function errorName(type: number, code: number): string {
  if (type === EXPERIMENTER) {
    const bundle = BUNDLE.codes[code - FIRST_BUNDLE_ERROR];
    return bundle === undefined ? (OTHERS[code] ?? 'an unknown experimenter error') : `${BUNDLE.prefix}_${bundle}`;
  }
  const known = TYPES[type];
  const name = known?.codes[code];
  return known === undefined || name === undefined ? 'an unknown error' : `${known.prefix}_${name}`;
}
