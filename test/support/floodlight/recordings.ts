import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';

/** What a real Floodlight was asked and answered, one exchange a file. They lie beside the project, not in it. */
const directory = join(import.meta.dirname, '../../../../shared/floodlight');

export const haveRecordings = existsSync(directory);

const exchange = z.object({
  request: z.object({ method: z.string(), path: z.string(), body: z.unknown() }),
  /** All null if no answer ever came. */
  response: z.object({ status: z.number().nullable(), contentType: z.string().nullable(), body: z.unknown() }),
  /** By bridge, as ovs-ofctl dumped them. */
  switchFlowsAfter: z.record(z.string(), z.array(z.string())).optional(),
});

export type Exchange = z.infer<typeof exchange>;

/** Names of the recorded exchanges that begin so. */
export const recordingNames = (prefix: string): string[] =>
  haveRecordings
    ? readdirSync(directory)
        .filter((file) => file.startsWith(prefix) && file.endsWith('.json'))
        .map((file) => file.slice(0, -'.json'.length))
        .sort()
    : [];

export const readRecording = (name: string): unknown =>
  JSON.parse(readFileSync(join(directory, `${name}.json`), 'utf8'));

export const readExchange = (name: string): Exchange => exchange.parse(readRecording(name));
