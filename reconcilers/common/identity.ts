import { createHash } from 'node:crypto';
import { v5 as uuidv5 } from 'uuid';

/**
 * What is ours, and what it is called. Everything that must survive a move derives from the fuid (the `metadata.uid` of
 * the object where it was first created) and never contains the site.
 */

/** The namespace of the XML element that marks libvirt objects as ours. */
export const metadataNamespace = 'https://isthmus.dev/v1alpha1';
export const metadataPrefix = 'isthmus';

/** The external_ids key that marks OVSDB rows as ours; its value tells what the row is. */
export const ovsdbMark = 'isthmus';

export const integrationBridge = 'isth-int';
export const edgeBridge = 'isth-edge';
/** Ports of the pair that joins them: on isth-int and on isth-edge. */
export const patchPorts = { int: 'isth-patch-edge', edge: 'isth-patch-int' } as const;

const uuidNamespace = uuidv5('isthmus.dev', uuidv5.DNS);

function derived(fuid: string, what: string): string {
  return uuidv5(`${what}/${fuid}`, uuidNamespace);
}

export const shortFuid = (fuid: string): string => fuid.slice(0, 8);

/** Readable and unique; a leftover of a deleted namesake has another fuid, so it never blocks nor is adopted. */
function readableName(name: string, fuid: string): string {
  return `isth-${name.slice(0, 40)}-${shortFuid(fuid)}`;
}

export const domainUuid = (fuid: string): string => derived(fuid, 'domain');
export const domainName = readableName;
export const networkUuid = (fuid: string): string => derived(fuid, 'network');
export const networkName = readableName;
/** OVS iface-id of a machine's index-th interface. */
export const interfaceId = (fuid: string, index: number): string => derived(fuid, `interface/${String(index)}`);

export const diskVolumeName = (fuid: string): string => `isth-${fuid}-root.qcow2`;
export const seedVolumeName = (fuid: string): string => `isth-${fuid}-seed.iso`;
/** A container's root file system. As short as a whole fuid allows: LXC mounts no file with a longer path than 63 bytes. */
export const rootVolumeName = (fuid: string): string => `isth-${fuid.replaceAll('-', '')}`;
/** What an offline move sends of a disk that stands on an image, or of a root file system: all that it holds, and no more. */
export const transferVolumeName = (fuid: string): string => `isth-${fuid}-transfer.qcow2`;

/** Whose a volume is, by its name, which is its mark: libvirt keeps no metadata of volumes. */
export function fuidOfVolume(name: string): string | undefined {
  const [, long, short] = /^isth-(?:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-.|([0-9a-f]{32})$)/.exec(name) ?? [];
  return long ?? short?.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/**
 * A MAC for a machine's index-th interface: locally administered, unicast, 44 bits of the fuid's hash. attempt moves on
 * when another owner holds it (2^-44 a pair, but a clash would cut two machines off).
 */
export function macAddress(fuid: string, index: number, attempt = 0): string {
  const digest = createHash('sha256')
    .update(`mac/${fuid}/${String(index)}/${String(attempt)}`)
    .digest();
  return macOf([0x02 | ((digest[0] ?? 0) & 0xf0), ...digest.subarray(1, 6)]);
}

/**
 * The addresses between which a host ("site/host") probes the underlay: others' requests reach it at one, answers to its own
 * at the other. Locally administered, and never a machine's: those have 2 in their first byte's low half.
 */
export function probeMacs(host: string): { readonly request: string; readonly reply: string } {
  const of = (purpose: string): string => {
    const digest = createHash('sha256').update(`probe/${purpose}/${host}`).digest();
    return macOf([0x06 | ((digest[0] ?? 0) & 0xf0), ...digest.subarray(1, 6)]);
  };
  return { request: of('request'), reply: of('reply') };
}

const macOf = (bytes: readonly number[]): string => bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':');

/** Port name of the tunnel to a peer host: ≤ 15 characters, as the kernel wants it. */
export function tunnelPortName(site: string, host: string): string {
  return `isth-${createHash('sha256').update(`${site}/${host}`).digest('hex').slice(0, 10)}`;
}

/** Cookie layout: docs/adr/0001. */
export const cookieMagic = 0x4953n << 48n;
export const cookieMagicMask = 0xffffn << 48n;
/** Class 0: the bridge's own flows. */
export const bridgeCookie = cookieMagic | 0n;
export const networkCookie = (vni: number): bigint => cookieMagic | (1n << 40n) | BigInt(vni);

/** The VNI of a network's cookie, or undefined if the cookie is another class's or not ours. */
export function vniOfCookie(cookie: bigint): number | undefined {
  return cookie >> 40n === ((cookieMagic >> 40n) | 1n) ? Number(cookie & 0xffffffn) : undefined;
}

/** Whether a libvirt network or domain of that name is one of ours. */
export const isOurs = (name: string): boolean => /^isth-.+-[0-9a-f]{8}$/.test(name);

/** 48 bits that spread askers over a space (pickFree), so that concurrent claims seldom meet. */
export const hint = (seed: string): number => createHash('sha256').update(seed).digest().readUIntBE(0, 6);
