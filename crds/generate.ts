// Writes the CustomResourceDefinitions next to this file; with --check only says which are not up to date.
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { generated } from './definition.js';

const folder = new URL('./', import.meta.url);
const wanted = generated();
const current = (name: string) => {
  const file = new URL(name, folder);
  return existsSync(file) ? readFileSync(file, 'utf8') : undefined;
};
const changed = [...wanted].filter(([name, content]) => current(name) !== content);
const surplus = readdirSync(fileURLToPath(folder)).filter((name) => name.endsWith('.yaml') && !wanted.has(name));

if (process.argv.includes('--check')) {
  const stale = [...changed.map(([name]) => name), ...surplus];
  for (const name of stale) console.error(`crds/${name} is not up to date: run npm run generate`);
  process.exitCode = stale.length === 0 ? 0 : 1;
} else {
  for (const [name, content] of changed) writeFileSync(new URL(name, folder), content);
  for (const name of surplus) rmSync(new URL(name, folder));
}
