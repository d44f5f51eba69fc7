import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Link } from '../../../controllers/hosts/link.js';
import { DOMAIN_SHUTOFF_MIGRATED, ERR_NO_DOMAIN } from '../../../drivers/libvirt/constants.js';
import { MessageStatus, MessageType, type Message } from '../../../drivers/libvirt/message.js';
import { events, procedures, remoteProgram } from '../../../drivers/libvirt/protocol.js';
import { encode } from '../../../drivers/libvirt/xdr.js';
import { Peer } from '../libvirt/peer.js';

const uuid = '6f4f3f0e-6f0f-4c8e-9d3b-0a4f5c3b2a10';
const domain = { name: 'isth-web', uuid, id: -1 };
const state = { running: 1, shutoff: 5 } as const;
const stopped = 5;
const noSupport = 3;
const { authList, connectOpen, connectSupportsFeature, domainGetState } = procedures;
const { connectListAllDomains, connectListAllNetworks } = procedures;

/** A daemon with one domain, which its list has until it is taken off. */
class Daemon {
  isListed = true;
  state: number = state.running;
  reason = 0;
  peer: Peer | undefined;

  async serve(peer: Peer): Promise<void> {
    this.peer = peer;
    for (;;) this.#answer(peer, await peer.next());
  }

  tell(event: number): void {
    const { number, body } = events.domainLifecycle;
    const header = { program: remoteProgram, procedure: number, serial: 0, status: MessageStatus.ok };
    const told = encode(body, { callback: 1, dom: domain, event, detail: 0 });
    this.peer?.send({ ...header, type: MessageType.event }, told);
  }

  #answer(peer: Peer, call: Message): void {
    const domains = this.isListed ? [domain] : [];
    const answers = new Map<number, Buffer>([
      [authList.number, encode(authList.result, { types: [] })],
      [connectOpen.number, Buffer.alloc(0)],
      [connectSupportsFeature.number, encode(connectSupportsFeature.result, { supported: false })],
      [connectListAllDomains.number, encode(connectListAllDomains.result, { domains, count: domains.length })],
      [connectListAllNetworks.number, encode(connectListAllNetworks.result, { networks: [], count: 0 })],
      [domainGetState.number, encode(domainGetState.result, { state: this.state, reason: this.reason })],
    ]);
    const { procedure } = call.header;
    const answer = answers.get(procedure);
    if (!answer) peer.refuse(call, noSupport, 'not here');
    else if (procedure === domainGetState.number && !this.isListed) peer.refuse(call, ERR_NO_DOMAIN, 'no such domain');
    else peer.reply(call, answer);
  }
}

let directory: string;
let server: Server;
let daemon: Daemon;
let link: Link;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'link-'));
  daemon = new Daemon();
  server = createServer((socket) => void daemon.serve(new Peer(socket)));
  server.listen(join(directory, 'sock'));
  await once(server, 'listening');
  link = new Link(`qemu+unix:///system?socket=${join(directory, 'sock')}`);
  await until(() => link.isConnected);
});

afterEach(async () => {
  await link.close();
  daemon.peer?.socket.destroy();
  server.close();
  await once(server, 'close');
  await rm(directory, { recursive: true });
});

async function until(check: () => boolean): Promise<void> {
  const deadline = performance.now() + 4_000;
  while (!check()) {
    if (performance.now() > deadline) throw new Error(`not within 4 s; ${link.lastError?.message ?? ''}`);
    await sleep(10);
  }
}

describe('what a link knows of its domains', () => {
  it('is read when it connects', () => {
    expect([...link.domains.values()]).toEqual([{ uuid, name: 'isth-web', state: 'running', reason: 0 }]);
  });

  it('is right of one that the daemon takes off its list only after it has told of its end', async () => {
    daemon.state = state.shutoff;
    daemon.tell(stopped);
    await until(() => link.domains.get(uuid)?.state === 'shutoff');
    daemon.isListed = false;
    await until(() => !link.domains.has(uuid));
  });

  it.each([
    { reason: 'it is told of', happen: () => daemon.tell(stopped) },
    { reason: 'it is there when the link connects', happen: () => daemon.peer?.socket.destroy() },
  ])('is right of one that has moved away and goes seconds later without a word: $reason', async ({ happen }) => {
    daemon.state = state.shutoff;
    daemon.reason = DOMAIN_SHUTOFF_MIGRATED;
    happen();
    await until(() => link.domains.get(uuid)?.state === 'shutoff');
    // The first look after its end is over by then.
    await sleep(1_300);
    expect(link.domains.get(uuid)?.state).toBe('shutoff');
    daemon.isListed = false;
    await until(() => !link.domains.has(uuid));
  });

  it('keeps one that is off and stays', async () => {
    daemon.state = state.shutoff;
    daemon.tell(stopped);
    await until(() => link.domains.get(uuid)?.state === 'shutoff');
    await sleep(1_300);
    expect(link.domains.get(uuid)?.state).toBe('shutoff');
  });
});
