// The command line. Each command is one function in a file of its own; this is their list.

import { Command, CommanderError } from 'commander'
import { ConfigError } from './config.ts'

/** Runs one command; a failure is one clear line and exit code 1. */
export async function main(argv: readonly string[]): Promise<void> {
  const program = new Command('llm-mcp')
    .description('One OpenAI-shaped endpoint in front of every model you own and every model you rent.')
    .version((await import('./version.ts')).version)
    .exitOverride()

  program
    .command('serve')
    .description('start the gateway')
    .action(async () => {
      await (await import('./serve.ts')).serve()
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
    .action(async options => {
      await (await import('./commands/config.ts')).schemaCommand(options)
    })
  config
    .command('check')
    .description('read the configuration and say what is wrong')
    .action(async () => {
      await (await import('./commands/config.ts')).checkCommand()
    })

  try {
    await program.parseAsync([...argv])
  } catch (error) {
    if (error instanceof CommanderError) process.exit(error.exitCode)
    console.error(error instanceof ConfigError ? error.message : `llm-mcp: ${error instanceof Error ? error.message : String(error)}`)
    process.exit(1)
  }
}
