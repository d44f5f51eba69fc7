import { describe, expect, it } from '@jest/globals';
import { LibvirtProtocolError } from '../../../drivers/libvirt/errors.js';
import {
  encodeMessage,
  MAX_MESSAGE_BYTES,
  MessageReader,
  MessageStatus,
  MessageType,
  type Header,
  type Message,
} from '../../../drivers/libvirt/message.js';
import { remoteProgram } from '../../../drivers/libvirt/protocol.js';

const header: Header = {
  program: remoteProgram,
  procedure: 66,
  type: MessageType.reply,
  serial: 7,
  status: MessageStatus.ok,
};
const messages = ['', 'abcd', 'x'.repeat(5000)].map((text, serial) => ({
  header: { ...header, serial },
  payload: Buffer.from(text),
}));
const bytes = Buffer.concat(messages.map(({ header, payload }) => encodeMessage(header, payload)));

const words = (...values: readonly number[]): Buffer => {
  const buffer = Buffer.alloc(values.length * 4);
  values.forEach((value, index) => buffer.writeUInt32BE(value, index * 4));
  return buffer;
};

function read(chunks: Iterable<Buffer>): Message[] {
  const reader = new MessageReader();
  return [...chunks].flatMap((chunk) => [...reader.push(chunk)]);
}

function* pieces(whole: Buffer, size: number): Generator<Buffer> {
  for (let offset = 0; offset < whole.length; offset += size) yield whole.subarray(offset, offset + size);
}

describe('messages', () => {
  it('are a length that counts itself, six words and the payload', () => {
    expect(encodeMessage(header, Buffer.from('abcd'))).toEqual(
      Buffer.concat([words(32, 0x2000_8086, 1, 66, 1, 7, 0), Buffer.from('abcd')]),
    );
  });

  it.each([1, 2, 3, 5, 27, 28, 29, 1000, bytes.length])('are the same in pieces of %i bytes', (size) => {
    expect(read(pieces(bytes, size))).toEqual(messages);
  });

  it('have a limit', () => {
    const most = Buffer.alloc(MAX_MESSAGE_BYTES - 24);
    expect(read([encodeMessage(header, most)])[0]?.payload.length).toBe(most.length);
    expect(() => encodeMessage(header, Buffer.alloc(most.length + 1))).toThrow(LibvirtProtocolError);
  });

  const malformed: readonly { reason: string; bytes: Buffer }[] = [
    { reason: 'a length of nothing', bytes: words(0) },
    { reason: 'a length shorter than the header', bytes: words(27) },
    { reason: 'a length over the limit', bytes: words(MAX_MESSAGE_BYTES + 5) },
    { reason: 'the largest length', bytes: words(0xffff_ffff) },
    { reason: 'an unknown type', bytes: words(28, 0x2000_8086, 1, 66, 7, 7, 0) },
    { reason: 'file descriptors, which were not asked for', bytes: words(28, 0x2000_8086, 1, 66, 5, 7, 0) },
    { reason: 'a hole in a stream, which was not asked for', bytes: words(28, 0x2000_8086, 1, 66, 6, 7, 0) },
    { reason: 'an unknown status', bytes: words(28, 0x2000_8086, 1, 66, 1, 7, 3) },
    { reason: 'plain text', bytes: Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n') },
  ];

  it.each(malformed)('are refused: $reason', ({ bytes }) => {
    expect(() => read([bytes])).toThrow(LibvirtProtocolError);
    expect(() => read(pieces(bytes, 1))).toThrow(LibvirtProtocolError);
  });
});
