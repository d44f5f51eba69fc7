import { diskTarget } from './domain.js';

/** What a machine's disk stands on, in a domain's definition as libvirt writes it; all else in there stays to the letter. */

/** A `<disk>` element's target. */
export const deviceOf = (element: string): string => /<target\b[^>]*\bdev=['"](\w+)['"]/.exec(element)?.[1] ?? '';

export const withoutCopyOnRead = (element: string): string =>
  element.replace(/(<driver\b[^>]*?)\s+copy_on_read=(['"])\w+\2/, '$1');

export const withoutBackingStore = (element: string): string =>
  element.replace(/<backingStore\b[\s\S]*<\/backingStore>|<backingStore\b[^>]*\/>/, '');

const diskIn = (xml: string): string =>
  (xml.match(/<disk\b[\s\S]*?<\/disk>/g) ?? []).find((element) => deviceOf(element) === diskTarget) ?? '';

/** Whether the machine's disk stands on another, by a domain's definition as libvirt writes it. */
export const standsOnBase = (xml: string): boolean => /<backingStore\b[^>]*\btype=/.test(diskIn(xml));

/** Whether what it reads of that stays in it. */
export const hasCopyOnRead = (xml: string): boolean => /<driver\b[^>]*\bcopy_on_read=(['"])on\1/.test(diskIn(xml));

/** A domain's definition whose disk has become whole. */
export const withoutBase = (xml: string): string =>
  xml.replace(/<disk\b[\s\S]*?<\/disk>/g, (element) =>
    deviceOf(element) === diskTarget ? withoutBackingStore(withoutCopyOnRead(element)) : element,
  );
