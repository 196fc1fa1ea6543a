// The command line. Each command is one function in a file of its own; this is their list.

import { Command, CommanderError } from 'commander'
import { addBenchCommands } from './commands/bench.ts'
import { addDeviceCommands } from './commands/devices.ts'
import { addJobCommands } from './commands/jobs.ts'
import { addRouteCommand } from './commands/route.ts'
import { ConfigError } from './config.ts'

/** Runs one command; a failure is one clear line and exit code 1. */
export async function main(argv: readonly string[]): Promise<void> {
  const program = new Command('llm-mcp')
    .description('One OpenAI-shaped endpoint in front of every model you own and every model you rent.')
    .version((await import('./version.ts')).version)
    .addHelpText(
      'after',
      '\nWith --json a command prints one JSON value on stdout. A failure is one line on stderr, with or without it, and exit code 1.'
    )
    .exitOverride()

  program
    .command('serve')
    .description('start the gateway')
    .action(async () => {
      await (await import('./workers.ts')).serveAll()
    })
  program
    .command('migrate')
    .description('bring the database up to date')
    .option('--json', 'print JSON')
    .action(async options => {
      await (await import('./commands/migrate.ts')).migrateCommand(options)
    })

  const keys = program.command('keys').description('API keys')
  keys
    .command('create')
    .description('make a key; it is shown this once')
    .option('--kind <kind>', 'admin, source, worker or metrics', 'source')
    .option('--source <name>', 'who uses it: costs and limits are kept by source')
    .option('--name <text>', 'a note for yourself')
    .option('--expires-at <time>', 'when it ends, e.g. 2027-01-31T00:00:00Z')
    .option('--requests-per-minute <number>', 'limit of its source')
    .option('--tokens-per-minute <number>', 'limit of its source')
    .option('--concurrent-requests <number>', 'limit of its source: how many may run at once')
    .option('--model <pattern>', 'a model it may use, "*" stands for any characters; may be given several times', collect)
    .option('--provider <pattern>', 'a provider it may use; may be given several times', collect)
    .option('--weight <number>', 'its share when sources wait for a machine, 0.01 to 100 (default 1)')
    .option('--trust-user-header', 'the key is used by many people, named by X-OpenWebUI-User-Id or the field "user"')
    .option('--json', 'print JSON')
    .action(async options => {
      await (await import('./commands/keys.ts')).createKeyCommand(options)
    })
  keys
    .command('list')
    .description('every key, without the key itself')
    .option('--json', 'print JSON')
    .action(async options => {
      await (await import('./commands/keys.ts')).listKeysCommand(options)
    })
  keys
    .command('revoke')
    .description('end a key, on every gateway, within a second')
    .argument('<id>')
    .option('--json', 'print JSON')
    .action(async (id, options) => {
      await (await import('./commands/keys.ts')).revokeKeyCommand(id, options)
    })

  const config = program.command('config').description('the configuration')
  config
    .command('schema')
    .description('print the JSON Schema of llm-mcp.yaml')
    .option('--write <file>', 'write it to a file')
    .option('--json', 'it is JSON anyway; with --write, say in JSON where it went')
    .action(async options => {
      await (await import('./commands/config.ts')).schemaCommand(options)
    })
  config
    .command('check')
    .description('read the configuration and say what is wrong')
    .option('--json', 'print JSON: {ok, problems}')
    .action(async options => {
      await (await import('./commands/config.ts')).checkCommand(options)
    })

  const models = program.command('models').description('models')
  models
    .command('list')
    .description('every model this configuration reaches right now; no gateway needed')
    .option('--json', 'print JSON, as GET /v1/models does')
    .action(async options => {
      await (await import('./commands/models.ts')).listModelsCommand(options)
    })
  models
    .command('joins')
    .description('which names were taken for one model, and which only look alike')
    .option('--json', 'print JSON: {joined, guesses, more_guesses}')
    .action(async options => {
      await (await import('./commands/models.ts')).listJoinsCommand(options)
    })
  models
    .command('sync')
    .description('read the lists of all rented providers now, and say what came, went or changed its price')
    .option('--force', 'believe a list that is much shorter than the last one')
    .option('--json', 'print JSON')
    .action(async options => {
      await (await import('./commands/models-sync.ts')).syncModelsCommand(options)
    })
  addJobCommands(program)
  addDeviceCommands(program)
  addBenchCommands(program)
  addRouteCommand(program)
  program
    .command('costs')
    .description('what was spent, by provider and by source')
    .option('--period <period>', 'day, week or month, counted in UTC', 'day')
    .option('--source <name>', 'of one source only')
    .option('--json', 'print JSON, as GET /v1/costs/summary does')
    .action(async options => {
      await (await import('./commands/costs.ts')).costsCommand(options)
    })
  program
    .command('doctor')
    .description('look at everything a request depends on; exit code 1 when something fails')
    .option('--no-request', 'leave out the streamed request, which may cost a fraction of a cent')
    .option('--json', 'print JSON: {ok, checks}')
    .action(async options => {
      await (await import('./commands/doctor.ts')).doctorCommand(options)
    })

  try {
    await program.parseAsync([...argv])
  } catch (error) {
    if (error instanceof CommanderError) process.exit(error.exitCode)
    console.error(error instanceof ConfigError ? error.message : `llm-mcp: ${error instanceof Error ? error.message : String(error)}`)
    process.exit(1)
  }
}

/** An option that may be given several times. */
function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value]
}
