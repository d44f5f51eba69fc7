import { describe, expect, it } from '@jest/globals';
import { LibvirtConnectionError } from '../../../drivers/libvirt/errors.js';
import { parseUri, type Transport } from '../../../drivers/libvirt/uri.js';

const ssh = { type: 'ssh', port: undefined, user: undefined, command: 'ssh', keyFile: undefined } as const;

describe('a URI', () => {
  const cases: readonly { uri: string; daemonUri: string; transport: Transport; reason: string }[] = [
    {
      uri: 'qemu:///system',
      daemonUri: 'qemu:///system',
      transport: { type: 'unix', socket: undefined },
      reason: 'no host is the local socket',
    },
    {
      uri: 'test+unix:///default?socket=/tmp/a%20b',
      daemonUri: 'test:///default',
      transport: { type: 'unix', socket: '/tmp/a b' },
      reason: 'the socket is decoded',
    },
    {
      uri: 'qemu+tcp://198.51.100.11/system',
      daemonUri: 'qemu:///system',
      transport: { type: 'tcp', host: '198.51.100.11', port: 16509 },
      reason: 'TCP has a port of its own',
    },
    {
      uri: 'lxc+tls://[2001:db8::1]:1234/system',
      daemonUri: 'lxc:///system',
      transport: { type: 'tls', host: '2001:db8::1', port: 1234 },
      reason: 'an IPv6 address loses its brackets',
    },
    {
      uri: 'qemu://host.example/system',
      daemonUri: 'qemu:///system',
      transport: { type: 'tls', host: 'host.example', port: 16514 },
      reason: 'a host without a transport means TLS, as in libvirt',
    },
    {
      uri: 'qemu+ssh://host.example/system',
      daemonUri: 'qemu:///system',
      transport: { ...ssh, host: 'host.example' },
      reason: 'ssh decides on user and port itself',
    },
    {
      uri: 'qemu+ssh://root@host.example:2222/system?keyfile=/k&command=/usr/bin/ssh',
      daemonUri: 'qemu:///system',
      transport: {
        ...ssh,
        host: 'host.example',
        user: 'root',
        port: 2222,
        keyFile: '/k',
        command: '/usr/bin/ssh',
      },
      reason: 'unless it is told',
    },
  ];

  it.each(cases)('$uri: $reason', ({ uri, daemonUri, transport }) => {
    expect(parseUri(uri)).toMatchObject({ daemonUri, transport });
  });

  const refused: readonly { uri: string; reason: string }[] = [
    { uri: 'system', reason: 'not a URI' },
    { uri: 'xen:///system', reason: 'a driver that was never tried' },
    { uri: 'qemu+http://host/system', reason: 'an unknown transport' },
    { uri: 'qemu+tcp:///system', reason: 'TCP to nowhere' },
    { uri: 'qemu+unix://host/system', reason: 'a socket on another host' },
    { uri: 'qemu:///session', reason: 'no one knows whose session' },
    { uri: 'qemu+tcp://host', reason: 'nothing to open' },
    { uri: "qemu+ssh://host/system';reboot'", reason: 'a path that a shell could misread' },
    { uri: 'qemu+ssh://-oProxyCommand=reboot/system', reason: 'a host that ssh takes for an option' },
    { uri: 'qemu+ssh://-lroot@host/system', reason: 'a user that ssh takes for an option' },
  ];

  it.each(refused)('$uri is refused: $reason', ({ uri }) => {
    expect(() => parseUri(uri)).toThrow(LibvirtConnectionError);
    expect(() => parseUri(uri)).toThrow(uri);
  });
});
