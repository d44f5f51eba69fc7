import { buildXml } from '../common/xml.js';
import { deviceOf, withoutBackingStore, withoutCopyOnRead } from '../vm/chain.js';
import type { MachineVolumes, RootVolume } from '../vm/disk.js';
import { diskTarget, diskType, seedTarget, sourceXml, type DiskSource } from '../vm/domain.js';

/**
 * What is copied of a disk.
 * - Whole: all of it; the copy stands on nothing.
 * - Overlay: of a Cached one what is at its host; the copy stands on the same base.
 * - Filled: so, too, and the copy is made whole from that base as soon as the machine runs on it: without copy-on-read, which it needs no more.
 */
export type Extent = 'Whole' | 'Overlay' | 'Filled';

const kept: Readonly<Record<Extent, (element: string) => string>> = {
  Whole: (element) => withoutBackingStore(withoutCopyOnRead(element)),
  Overlay: (element) => element,
  Filled: withoutCopyOnRead,
};

/** A domain's definition with its volumes at another place. */
export const relocated = (xml: string, volumes: MachineVolumes | RootVolume, extent: Extent): string =>
  'root' in volumes ? withRoot(xml, volumes) : withVolumes(xml, volumes, extent);

/** A container's definition, as libvirt writes it, with its root file system at another place. */
function withRoot(xml: string, { root }: RootVolume): string {
  let roots = 0;
  const moved = xml.replace(/<filesystem\b[\s\S]*?<\/filesystem>/g, (element) => {
    if (!/<target\b[^>]*\bdir=(['"])\/\1/.test(element)) return element;
    roots++;
    return element.replace(/<source\b[^>]*\/>/, () => buildXml({ source: { '@file': root } }));
  });
  if (roots === 0) throw new Error('the domain’s definition has no root file system');
  return moved;
}

/**
 * A domain's definition, as libvirt writes it, with its disk and seed at another place; all else stays as it is to the letter, for
 * the guest must find the same devices.
 */
export function withVolumes(xml: string, { disk, seed }: MachineVolumes, extent: Extent): string {
  const places: Readonly<Record<string, DiskSource>> = { [diskTarget]: disk, [seedTarget]: seed };
  const found = new Set<string>();
  const moved = xml.replace(/<disk\b[\s\S]*?<\/disk>/g, (element) => {
    const device = deviceOf(element);
    const place = places[device];
    if (!place) return element;
    found.add(device);
    return kept[extent](element)
      .replace(/^<disk\b[^>]*>/, (head) => head.replace(/\btype=(['"]).*?\1/, `type='${diskType(place)}'`))
      .replace(/<source\b[^>]*\/>|<source\b[\s\S]*?<\/source>/, () => buildXml({ source: sourceXml(place) }));
  });
  const missing = Object.keys(places).filter((device) => !found.has(device));
  if (missing.length > 0) throw new Error(`the domain's definition has no disk ${missing.join(' and ')}`);
  return moved;
}
