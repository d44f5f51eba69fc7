import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import {
  connect,
  LibvirtConnectionError,
  type Connection,
  type ConnectOptions,
  type TlsMaterial,
} from '../../drivers/libvirt/index.js';
import { createAuthority, startLibvirtd, type Authority, type Libvirtd } from '../support/libvirtd.js';

let ours: Authority;
let theirs: Authority;
let client: TlsMaterial;
let stranger: TlsMaterial;
let daemon: Libvirtd;
let misnamed: Libvirtd;

beforeAll(async () => {
  [ours, theirs] = await Promise.all([createAuthority(), createAuthority()]);
  client = await ours.issue('operator');
  stranger = await theirs.issue('stranger');
  const server = await ours.issue('server', ['IP:127.0.0.1', 'DNS:localhost']);
  const other = await ours.issue('other', ['IP:198.51.100.99', 'DNS:other.example']);
  [daemon, misnamed] = await Promise.all([startLibvirtd({ tls: server }), startLibvirtd({ tls: other })]);
});

afterAll(async () => {
  await Promise.all([daemon.stop(), misnamed.stop(), ours.remove(), theirs.remove()]);
});

async function typeOver(uri: string, options: ConnectOptions): Promise<string> {
  const connection: Connection = await connect(uri, options);
  try {
    return await connection.hypervisorType();
  } finally {
    await connection.close();
  }
}

describe('TLS', () => {
  it('connects both ways trusted, by address and by name', async () => {
    expect(await typeOver(daemon.uri('test', 'tls'), { tls: client })).toBe('TEST');
    const byName = daemon.uri('qemu', 'tls').replace('127.0.0.1', 'localhost');
    expect(await typeOver(byName, { tls: client })).toBe('QEMU');
  });

  it('carries answers larger than a TLS record', async () => {
    const connection = await connect(daemon.uri('qemu', 'tls'), { tls: client });
    const text = 'x'.repeat(200_000);
    const xml = (uuid: string): string =>
      `<domain type='qemu'><name>wide</name><uuid>${uuid}</uuid><description>${text}</description><memory>65536</memory>` +
      `<os><type arch='x86_64' machine='pc'>hvm</type></os></domain>`;
    const { uuid } = await connection.defineDomain(xml('3f4f8f0e-6b3c-4c0e-9d0c-6f6c1f0d7a11'));
    expect(await connection.domainXml(uuid)).toContain(text);
    await connection.undefineDomain(uuid);
    await connection.close();
  });

  const cases: readonly { reason: string; at: () => Libvirtd; tls: () => TlsMaterial; code: string; says: RegExp }[] = [
    {
      reason: 'we do not know who signed the server',
      at: () => daemon,
      tls: () => ({ ...client, ca: theirs.ca }),
      code: 'LIBVIRT_TLS_SERVER',
      says: /certificate signed by unknown authority/,
    },
    {
      reason: 'the server does not know who signed us',
      at: () => daemon,
      tls: () => ({ ...stranger, ca: ours.ca }),
      code: 'LIBVIRT_TLS_CLIENT',
      says: /server refused our certificate/,
    },
    {
      reason: 'we show no certificate',
      at: () => daemon,
      tls: () => ({ ca: ours.ca, cert: '', key: '' }),
      code: 'LIBVIRT_TLS_CLIENT',
      says: /server refused our certificate/,
    },
    {
      reason: 'the server is another one',
      at: () => misnamed,
      tls: () => client,
      code: 'LIBVIRT_TLS_SERVER',
      says: /certificate is for another name.*127\.0\.0\.1/,
    },
    {
      reason: 'our key is not the one of our certificate',
      at: () => daemon,
      tls: () => ({ ...client, key: stranger.key }),
      code: 'LIBVIRT_TLS_CLIENT',
      says: /certificate or key is not usable/,
    },
  ];

  it.each(cases)('refuses, and says why: $reason', async ({ at, tls, code, says }) => {
    const error: unknown = await connect(at().uri('test', 'tls'), { tls: tls() }).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(LibvirtConnectionError);
    expect(error).toMatchObject({ code, message: expect.stringMatching(says) });
  });

  it('says when the other side does not speak TLS', async () => {
    const uri = `test+tls://127.0.0.1:${daemon.tcpPort}/default`;
    await expect(connect(uri, { tls: client, connectTimeoutMs: 1000 })).rejects.toMatchObject({
      code: 'LIBVIRT_UNREACHABLE',
    });
  });
});
