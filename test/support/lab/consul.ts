import { z } from 'zod';
import { vmRecord, type VmRecord } from '../../../reconcilers/common/records.js';

export const consulUrl = 'http://198.51.100.11:8500';

const entries = z.array(z.object({ Key: z.string(), Value: z.string().nullable() }));

async function read(prefix: string): Promise<Response> {
  return await fetch(`${consulUrl}/v1/kv/${prefix}?recurse&consistent`, { signal: AbortSignal.timeout(5_000) });
}

/** Keys below a prefix, with their values. */
export async function consulDump(prefix = ''): Promise<ReadonlyMap<string, string>> {
  const response = await read(prefix);
  if (response.status === 404) return new Map();
  return new Map(
    entries
      .parse(await response.json())
      .map(({ Key, Value }) => [Key, Buffer.from(Value ?? '', 'base64').toString('utf8')]),
  );
}

/** Rises with every write below the prefix, and with none elsewhere. */
export async function consulIndex(prefix: string): Promise<string> {
  const response = await read(prefix);
  await response.arrayBuffer();
  return response.headers.get('x-consul-index') ?? '';
}

/** Who may run a machine, as the record tells. */
export async function ownership(uid: string): Promise<VmRecord> {
  const value = (await consulDump(`isthmus/vm/${uid}`)).get(`isthmus/vm/${uid}`);
  return vmRecord.parse(JSON.parse(value ?? 'null'));
}
