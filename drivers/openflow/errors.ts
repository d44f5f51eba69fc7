import { errorName, EXPERIMENTER } from './error-names.js';

/** The switch refused a request: OFPT_ERROR, OpenFlow 1.3.5 §7.4.4. */
export class OpenFlowError extends Error {
  override readonly name = 'OpenFlowError';
  readonly code = 'OPENFLOW';
  /** The specification's name of type and code, e.g. OFPBMC_BAD_PREREQ. */
  readonly errorName: string;

  constructor(
    where: string,
    readonly type: number,
    /** The code of a standard error, the exp_type of an experimenter's (type 0xffff). */
    readonly errorCode: number,
    /** Which message of a bundle was refused, if the switch said so. */
    readonly index?: number,
  ) {
    const text = errorName(type, errorCode);
    const kind = type === EXPERIMENTER ? 'experimenter error' : `type ${type}, code`;
    super(
      `${where}: the switch answered ${text} (${kind} ${errorCode})${index === undefined ? '' : `, at change ${index}`}`,
    );
    this.errorName = text;
  }
}

/** There is no connection, or it broke while the call waited: whether the switch did it is not known. */
export class OpenFlowConnectionError extends Error {
  override readonly name = 'OpenFlowConnectionError';
  readonly code = 'OPENFLOW_CONNECTION';
}

/** The switch did not answer in time: whether it did it is not known. */
export class OpenFlowTimeoutError extends Error {
  override readonly name = 'OpenFlowTimeoutError';
  readonly code = 'OPENFLOW_TIMEOUT';
}

/** A flow, action or filter that can't be written as OpenFlow; nothing was sent. */
export class OpenFlowValueError extends Error {
  override readonly name = 'OpenFlowValueError';
  readonly code = 'OPENFLOW_VALUE';
}
