/** Raw frames from inside a guest: what to send, what may arrive, and what is seen. */
export { attacks, droppedPort, fragments, marked, markOf, ours, theirs, virtualAddress } from './attacks.js';
export type { Identity, Ours, Scene, Shot, Theirs } from './attacks.js';
export { Capture, decapsulate } from './capture.js';
export { broadcast, claimOf, ethernet, etherTypes, protocols, syn, udp } from './frames.js';
