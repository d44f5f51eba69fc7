import Builder from 'fast-xml-builder';
import { XMLParser } from 'fast-xml-parser';

/** Elements as nested objects: '@name' is an attribute, '#text' the text, an array repeats its element. */
export type Xml = { readonly [name: string]: XmlValue };
type XmlValue = string | number | undefined | Xml | readonly Xml[];

const options = { ignoreAttributes: false, attributeNamePrefix: '@', suppressEmptyNode: true } as const;
const builder = new Builder(options);
const parser = new XMLParser({ ...options, parseTagValue: false, parseAttributeValue: false });

export const buildXml = (document: Xml): string => builder.build(document);

/** What libvirt answers, read by path: `at(xml, 'network', 'vlan', 'tag', '@id')`. A repeated element counts as its first. */
export function parseXml(text: string): (...path: readonly string[]) => string | undefined {
  const document: unknown = parser.parse(text);
  return (...path) => {
    let node: unknown = document;
    for (const step of path) {
      if (Array.isArray(node)) [node] = node as readonly unknown[];
      if (typeof node !== 'object' || node === null) return undefined;
      node = (node as Readonly<Record<string, unknown>>)[step];
    }
    if (Array.isArray(node)) [node] = node as readonly unknown[];
    if (typeof node === 'object' && node !== null) node = (node as Readonly<Record<string, unknown>>)['#text'];
    return typeof node === 'string' ? node : undefined;
  };
}
