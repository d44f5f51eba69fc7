import { parseArgs } from 'node:util';
import { FloodlightStandIn } from './index.js';

// npx tsx test/support/floodlight/main.ts --rest ADDRESS:PORT --openflow ADDRESS:PORT [--forwarding] [--clear-tables]
const { values } = parseArgs({
  options: {
    rest: { type: 'string', default: '127.0.0.1:8080' },
    openflow: { type: 'string', default: '127.0.0.1:6653' },
    forwarding: { type: 'boolean', default: false },
    'clear-tables': { type: 'boolean', default: false },
  },
});

function endpoint(text: string): { host: string; port: number } {
  const [, host, port] = /^([^:]+):(\d+)$/.exec(text) ?? [];
  if (host === undefined) throw new Error(`${text} is not ADDRESS:PORT`);
  return { host, port: Number(port) };
}

const standIn = await FloodlightStandIn.start({
  rest: endpoint(values.rest),
  openflow: endpoint(values.openflow),
  settleMs: 500,
});
standIn.behave({ forwarding: values.forwarding, clearTables: values['clear-tables'] });
console.log(`Floodlight's stand-in: REST at ${standIn.url}, switches connect to ${standIn.openflow}`);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void standIn.stop());
