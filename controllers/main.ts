#!/usr/bin/env node
import { runAudit } from './commands/audit.js';
import { isKubeError } from './kube/api.js';
import { runOperator } from './operator.js';
import { OptionError, parseOptions, usage } from './options.js';
import { createLog } from './runtime/log.js';

/** Exit codes: 2 wrong options or no usable kubeconfig; else what the command's own help says. */
async function main(): Promise<number> {
  const [command, ...rest] = process.argv.slice(2);
  try {
    return await (command === 'audit' ? runAudit(rest, process.env) : operate());
  } catch (error) {
    if (error instanceof OptionError) {
      process.stderr.write(`isthmus: ${error.message} (see --help)\n`);
      return 2;
    }
    if (!isKubeError(error, 'KUBE_PROTOCOL')) throw error;
    process.stderr.write(
      `isthmus: ${error.message}: no usable kubeconfig; name one with --kubeconfig or $KUBECONFIG\n`,
    );
    return 2;
  }
}

/** Exit codes: 0 stopped as told, 1 failed or lost leadership. */
async function operate(): Promise<number> {
  const options = parseOptions(process.argv.slice(2), process.env);
  if (!options) {
    process.stdout.write(usage);
    return 0;
  }
  const log = createLog({ level: options.logLevel, format: options.logFormat });
  const outcome = await runOperator(options, log);
  log.info('ended', { outcome });
  return outcome === 'Stopped' ? 0 : 1;
}

process.exitCode = await main();
if (process.exitCode !== 0) process.exit();
