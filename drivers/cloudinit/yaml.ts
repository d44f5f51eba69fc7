import { stringify } from 'yaml';

/**
 * A YAML document for cloud-init, which reads YAML 1.1 (PyYAML). Every text is a double-quoted scalar of printable ASCII on
 * one line: no text is taken for a number, a date, a truth value or a merge key, no line separator is folded, no character
 * is refused. (The serializer's own YAML 1.1 mode leaves the text << bare.) Keys must be plain ASCII. A lone surrogate
 * becomes U+FFFD, as in any UTF-8.
 */
export function toYaml(document: object): string {
  const text = stringify(document, {
    defaultStringType: 'QUOTE_DOUBLE',
    defaultKeyType: 'PLAIN',
    aliasDuplicateObjects: false,
    lineWidth: 0,
    doubleQuotedMinMultiLineLength: Number.MAX_SAFE_INTEGER,
  });
  return text.replace(/[^\n\x20-\x7e]/gu, escape);
}

function escape(character: string): string {
  const codePoint = character.codePointAt(0) ?? 0;
  const known = codePoint >= 0xd800 && codePoint <= 0xdfff ? 0xfffd : codePoint;
  return `\\U${known.toString(16).padStart(8, '0')}`;
}
