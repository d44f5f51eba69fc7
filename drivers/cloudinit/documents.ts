import { toYaml } from './yaml.js';

/** An interface with a fixed IPv4 address. Addresses are dotted quads. */
export interface SeedInterface {
  /** Six lower-case pairs, with colons. */
  readonly mac: string;
  readonly address: string;
  readonly prefixLength: number;
  /** Bytes. */
  readonly mtu: number;
  readonly gateway?: string | undefined;
  readonly nameservers?: readonly string[] | undefined;
  readonly routes?: readonly { readonly to: string; readonly via: string }[] | undefined;
}

export interface SeedIdentity {
  /** Another one makes cloud-init treat the boot as a first one. */
  readonly instanceId: string;
  readonly hostname: string;
}

export interface SeedFile {
  readonly path: string;
  readonly content: string;
  /** Octal digits, e.g. 0644 (the default). */
  readonly permissions?: string | undefined;
}

interface SeedUserDataBase {
  readonly hostname: string;
  /** Without a user, for the image's default user. */
  readonly sshAuthorizedKeys?: readonly string[] | undefined;
  readonly packages?: readonly string[] | undefined;
  readonly files?: readonly SeedFile[] | undefined;
  /** Each an argument array, run by root in this order at the end of the first boot. */
  readonly commands?: readonly (readonly string[])[] | undefined;
}

/** A password needs a user: what cloud-init takes for a hash differs by version where the user is the image's default. */
export type SeedUserData = SeedUserDataBase &
  (
    | {
        /** May use sudo without a password. */
        readonly user: string;
        /** crypt(5). */
        readonly passwordHash?: string | undefined;
      }
    | { readonly user?: undefined; readonly passwordHash?: undefined }
  );

/**
 * Network configuration version 2, without a top-level key, as the NoCloud datasource has it. Interfaces are found by
 * MAC address and named eth0, eth1, … in the order given: the guest's firewall and the commands can rely on these names.
 * Throws a RangeError if two have the same MAC address: neither could be found then.
 * https://docs.cloud-init.io/en/latest/reference/network-config-format-v2.html
 */
export function networkConfigV2(interfaces: readonly SeedInterface[]): string {
  const macs = new Set(interfaces.map(({ mac }) => mac.toLowerCase()));
  if (macs.size !== interfaces.length) throw new RangeError('two interfaces have the same MAC address');
  const ethernets = interfaces.map((each, index) => [`eth${index}`, ethernet(each, `eth${index}`)] as const);
  return toYaml({ version: 2, ethernets: Object.fromEntries(ethernets) });
}

function ethernet(each: SeedInterface, name: string): object {
  // 0.0.0.0/0 rather than "default", which only netplan knows.
  const defaultRoute = each.gateway === undefined ? [] : [{ to: '0.0.0.0/0', via: each.gateway }];
  const routes = [...defaultRoute, ...(each.routes ?? [])];
  return {
    match: { macaddress: each.mac.toLowerCase() },
    'set-name': name,
    dhcp4: false,
    dhcp6: false,
    mtu: each.mtu,
    addresses: [`${each.address}/${each.prefixLength}`],
    ...(routes.length > 0 ? { routes: routes.map(({ to, via }) => ({ to, via })) } : {}),
    ...nonEmpty('nameservers', each.nameservers, (addresses) => ({ addresses })),
  };
}

/** https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html */
export function metaData({ instanceId, hostname }: SeedIdentity): string {
  return toYaml({ 'instance-id': instanceId, 'local-hostname': hostname });
}

/** https://docs.cloud-init.io/en/latest/reference/modules.html */
export function userData(data: SeedUserData): string {
  const document = {
    hostname: data.hostname,
    preserve_hostname: false,
    ...login(data),
    ...nonEmpty('write_files', data.files, (files) =>
      files.map(({ path, content, permissions = '0644' }) => ({ path, content, permissions })),
    ),
    ...nonEmpty('packages', data.packages),
    ...(data.packages !== undefined && data.packages.length > 0 ? { package_update: true } : {}),
    ...nonEmpty('runcmd', data.commands),
  };
  return `#cloud-config\n${toYaml(document)}`;
}

function login(data: SeedUserData): object {
  const keys = nonEmpty('ssh_authorized_keys', data.sshAuthorizedKeys);
  if (data.user === undefined) return keys;
  const password = data.passwordHash === undefined ? {} : { hashed_passwd: data.passwordHash };
  const user = {
    name: data.user,
    shell: '/bin/bash',
    sudo: 'ALL=(ALL) NOPASSWD:ALL',
    lock_passwd: data.passwordHash === undefined,
    ...password,
    ...keys,
  };
  return { users: [user] };
}

/** The key only where the list has something. */
function nonEmpty<T>(
  key: string,
  list: readonly T[] | undefined,
  value: (list: readonly T[]) => unknown = (all) => all,
): object {
  return list === undefined || list.length === 0 ? {} : { [key]: value(list) };
}
