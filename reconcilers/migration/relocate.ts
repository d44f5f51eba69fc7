import { buildXml } from '../common/xml.js';
import type { MachineVolumes } from '../vm/disk.js';
import { diskTarget, diskType, seedTarget, sourceXml, type DiskSource } from '../vm/domain.js';

/**
 * A domain's definition, as libvirt writes it, with its disk and seed at another place; all else stays as it is to the letter, for
 * the guest must find the same devices. A disk's chain is left out: a whole copy stands on nothing.
 */
export function withVolumes(xml: string, { disk, seed }: MachineVolumes): string {
  const places: Readonly<Record<string, DiskSource>> = { [diskTarget]: disk, [seedTarget]: seed };
  const found = new Set<string>();
  const moved = xml.replace(/<disk\b[\s\S]*?<\/disk>/g, (element) => {
    const [, device = ''] = /<target\b[^>]*\bdev=['"](\w+)['"]/.exec(element) ?? [];
    const place = places[device];
    if (!place) return element;
    found.add(device);
    return element
      .replace(/<backingStore\b[\s\S]*<\/backingStore>|<backingStore\b[^>]*\/>/, '')
      .replace(/^<disk\b[^>]*>/, (head) => head.replace(/\btype=(['"]).*?\1/, `type='${diskType(place)}'`))
      .replace(/<source\b[^>]*\/>|<source\b[\s\S]*?<\/source>/, () => buildXml({ source: sourceXml(place) }));
  });
  const missing = Object.keys(places).filter((device) => !found.has(device));
  if (missing.length > 0) throw new Error(`the domain's definition has no disk ${missing.join(' and ')}`);
  return moved;
}
