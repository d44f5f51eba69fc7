export { connect } from './connect.js';
export * as constants from './constants.js';
export {
  LibvirtConnectionError,
  LibvirtError,
  LibvirtProtocolError,
  LibvirtTimeoutError,
  type LibvirtConnectionErrorCode,
} from './errors.js';
export type * from './types.js';
