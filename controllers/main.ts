#!/usr/bin/env node
import { isKubeError } from './kube/api.js';
import { runOperator } from './operator.js';
import { OptionError, parseOptions, usage } from './options.js';
import { createLog } from './runtime/log.js';

/** Exit codes: 0 stopped as told, 1 failed or lost leadership, 2 wrong options. */
async function main(): Promise<number> {
  let options;
  try {
    options = parseOptions(process.argv.slice(2), process.env);
  } catch (error) {
    if (!(error instanceof OptionError)) throw error;
    process.stderr.write(`isthmus: ${error.message} (see --help)\n`);
    return 2;
  }
  if (!options) {
    process.stdout.write(usage);
    return 0;
  }
  const log = createLog({ level: options.logLevel, format: options.logFormat });
  try {
    const outcome = await runOperator(options, log);
    log.info('ended', { outcome });
    return outcome === 'Stopped' ? 0 : 1;
  } catch (error) {
    if (!isKubeError(error, 'KUBE_PROTOCOL')) throw error;
    process.stderr.write(
      `isthmus: ${error.message}: no usable kubeconfig; name one with --kubeconfig or $KUBECONFIG\n`,
    );
    return 2;
  }
}

process.exitCode = await main();
if (process.exitCode !== 0) process.exit();
