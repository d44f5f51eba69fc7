/**
 * The smallest ISO 9660 image (ECMA-119) that shows exact names everywhere: files in the root directory with 8.3 names,
 * Rock Ridge names (SUSP, RRIP; what Linux reads) and Joliet names (what Windows reads).
 */

export interface IsoFile {
  /** As seen when mounted: ASCII. */
  readonly name: string;
  /** 8.3, upper case, unique, and in the same order as the names. */
  readonly shortName: string;
  readonly content: Uint8Array;
}

interface Extent {
  readonly sector: number;
  readonly size: number;
}

const sectorSize = 2048;

/** One of the two views of the same files: its descriptor, its two path tables (one a byte order), its root directory. */
interface Tree {
  readonly descriptorType: 1 | 2;
  readonly descriptorSector: number;
  /** Joliet level 3 (ISO/IEC 2022), or none. */
  readonly escapes: string;
  readonly pathTableLittle: number;
  readonly pathTableBig: number;
  readonly root: Extent;
  text(value: string): Buffer;
}

/** Before these: 16 sectors of system area. */
const plain: Tree = {
  descriptorType: 1,
  descriptorSector: 16,
  escapes: '',
  pathTableLittle: 19,
  pathTableBig: 20,
  root: { sector: 23, size: sectorSize },
  text: latin1,
};
const joliet: Tree = {
  descriptorType: 2,
  descriptorSector: 17,
  escapes: '%/E',
  pathTableLittle: 21,
  pathTableBig: 22,
  root: { sector: 24, size: sectorSize },
  text: (value) => Buffer.from(value, 'utf16le').swap16(),
};
const terminatorSector = 18;
const firstFileSector = 25;

const pathTableSize = 10;
const isDirectory = 2;
/** One fixed time, so that the same input gives the same bytes: 2000-01-01T00:00:00Z (ECMA-119 §8.4.26.1, §9.1.5). */
const longTime = latin1('2000010100000000\0');
const shortTime = Buffer.of(100, 1, 1, 0, 0, 0, 0);
/** The documents hold password hashes: nothing for other users of the machine. */
const directoryMode = 0o040500;
const fileMode = 0o100400;

/** Deterministic. Throws a RangeError if the directory needs more than one sector (about 15 files). */
export function isoImage(label: string, files: readonly IsoFile[]): Uint8Array {
  let sector = firstFileSector;
  const placed = files.map((file) => {
    const extent: Extent = { sector, size: file.content.length };
    sector += Math.ceil(extent.size / sectorSize);
    return { ...file, extent };
  });

  const image = Buffer.alloc(sector * sectorSize);
  const put = (at: number, bytes: Uint8Array) => {
    image.set(bytes, at * sectorSize);
  };
  put(terminatorSector, latin1('\xffCD001\x01'));
  for (const tree of [plain, joliet]) {
    put(tree.descriptorSector, descriptor(tree, label, sector));
    put(tree.pathTableLittle, pathTable(tree.root.sector, 'little'));
    put(tree.pathTableBig, pathTable(tree.root.sector, 'big'));
  }
  const { root } = plain;
  const self = [sharingProtocol, attributes(directoryMode, 2), rockRidgeInUse];
  const directory = [
    record('\0', root, isDirectory, plain, self),
    record('\x01', root, isDirectory, plain, [attributes(directoryMode, 2)]),
    ...placed.map(({ name, shortName, extent }) =>
      record(`${shortName}.;1`, extent, 0, plain, [attributes(fileMode, 1), alternateName(name)]),
    ),
  ];
  const jolietDirectory = [
    record('\0', joliet.root, isDirectory, joliet),
    record('\x01', joliet.root, isDirectory, joliet),
    ...placed.map(({ name, extent }) => record(`${name};1`, extent, 0, joliet)),
  ];
  put(root.sector, oneSector(directory));
  put(joliet.root.sector, oneSector(jolietDirectory));
  for (const { extent, content } of placed) put(extent.sector, content);
  return image;
}

function oneSector(records: readonly Buffer[]): Buffer {
  const bytes = Buffer.concat(records);
  if (bytes.length > sectorSize) throw new RangeError(`${records.length - 2} files do not fit into the directory`);
  return bytes;
}

/** ECMA-119 §8.4 and §8.5: offsets are the standard's byte positions minus one. */
function descriptor(tree: Tree, label: string, sectorCount: number): Buffer {
  const bytes = Buffer.alloc(sectorSize);
  const fill = (from: number, to: number, value: string) => {
    const blanks = tree.text(' '.repeat(to - from)).subarray(0, to - from);
    bytes.set(blanks, from);
    bytes.set(tree.text(value), from);
  };
  bytes[0] = tree.descriptorType;
  bytes.set(latin1('CD001\x01'), 1);
  fill(8, 40, '');
  fill(40, 72, label);
  bytes.set(both32(sectorCount), 80);
  bytes.set(latin1(tree.escapes), 88);
  bytes.set(both16(1), 120);
  bytes.set(both16(1), 124);
  bytes.set(both16(sectorSize), 128);
  bytes.set(both32(pathTableSize), 132);
  bytes.writeUInt32LE(tree.pathTableLittle, 140);
  bytes.writeUInt32BE(tree.pathTableBig, 148);
  bytes.set(record('\0', tree.root, isDirectory, tree), 156);
  fill(190, 813, '');
  for (const at of [813, 830]) bytes.set(longTime, at);
  for (const at of [847, 864]) bytes.set(latin1('0000000000000000\0'), at);
  bytes[881] = 1;
  return bytes;
}

/** ECMA-119 §9.4, for the root alone. */
function pathTable(rootSector: number, order: 'little' | 'big'): Buffer {
  const bytes = Buffer.alloc(pathTableSize);
  bytes[0] = 1;
  if (order === 'little') {
    bytes.writeUInt32LE(rootSector, 2);
    bytes.writeUInt16LE(1, 6);
  } else {
    bytes.writeUInt32BE(rootSector, 2);
    bytes.writeUInt16BE(1, 6);
  }
  return bytes;
}

/** ECMA-119 §9.1. The names of a directory itself and of its parent are the bytes 0 and 1 in either tree. */
function record(name: string, extent: Extent, flags: number, tree: Tree, systemUse: readonly Buffer[] = []): Buffer {
  const identifier = name.length === 1 ? latin1(name) : tree.text(name);
  const use = Buffer.concat(systemUse);
  const useAt = 33 + identifier.length + ((identifier.length + 1) % 2);
  const bytes = Buffer.alloc(useAt + use.length + (use.length % 2));
  bytes[0] = bytes.length;
  bytes.set(both32(extent.sector), 2);
  bytes.set(both32(extent.size), 10);
  bytes.set(shortTime, 18);
  bytes[25] = flags;
  bytes.set(both16(1), 28);
  bytes[32] = identifier.length;
  bytes.set(identifier, 33);
  bytes.set(use, useAt);
  return bytes;
}

/** SUSP §4.1: signature, length, version, data. */
function systemUseEntry(signature: string, data: Buffer): Buffer {
  return Buffer.concat([latin1(signature), Buffer.of(4 + data.length, 1), data]);
}

/** SP, SUSP §5.3: in the root's own record, says that the area is used as SUSP has it. */
const sharingProtocol = systemUseEntry('SP', Buffer.of(0xbe, 0xef, 0));

/** ER, SUSP §5.5: lengths of three texts, version of the extension, then the texts; only the identifier is needed. */
const rockRidgeInUse = systemUseEntry('ER', Buffer.concat([Buffer.of(10, 0, 0, 1), latin1('RRIP_1991A')]));

/** PX, RRIP §4.1.1: mode, links, user, group. */
function attributes(mode: number, links: number): Buffer {
  return systemUseEntry('PX', Buffer.concat([both32(mode), both32(links), both32(0), both32(0)]));
}

/** NM, RRIP §4.1.4. */
function alternateName(name: string): Buffer {
  return systemUseEntry('NM', Buffer.concat([Buffer.of(0), latin1(name)]));
}

function latin1(value: string): Buffer {
  return Buffer.from(value, 'latin1');
}

/** In both byte orders, as ECMA-119 §7.2.3 and §7.3.3 want it. */
function both16(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt16LE(value, 0);
  bytes.writeUInt16BE(value, 2);
  return bytes;
}

function both32(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(value, 0);
  bytes.writeUInt32BE(value, 4);
  return bytes;
}
