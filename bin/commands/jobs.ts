// llm-mcp jobs: the commands that speak to a running gateway about its queue, and their options.

import { type Command, InvalidArgumentError, Option } from 'commander'
import { jobKinds, jobStatuses } from '../../queue/types.ts'

/** Adds `jobs` with all its commands; their code is loaded when one of them runs. */
export function addJobCommands(program: Command): void {
  const jobs = program.command('jobs').description('jobs of a running gateway')

  reachable(jobs.command('submit'))
    .description('queue a job and print its id')
    .addOption(new Option('--kind <kind>', 'what is asked').choices(jobKinds).default('chat'))
    .option('--model <model>', 'as in any request; a payload may name it instead')
    .option('--prompt <text>', 'the question: a message of the user, an input, or a prompt, as the kind has it')
    .option('--payload <file>', "the provider's own request body, as JSON; - reads it from stdin")
    .option('--priority <priority>', 'urgent (admin keys), interactive, normal or batch')
    .option('--stream', 'keep the tokens for whoever watches')
    .option('--deadline <time>', 'from now, e.g. 30s, 5m, 2h, or a moment, e.g. 2027-01-31T00:00:00Z')
    .option('--max-attempts <number>', 'how often it is tried, 1 to 20', integer)
    .option('--webhook <url>', 'told when it is over; --json shows what its calls are signed with')
    .option('--metadata <key=value>', 'a note on it; may be given several times', collect)
    .option('--idempotency-key <key>', 'the same key and the same job again: nothing is queued twice')
    .option('--wait', 'follow it to its end and print the answer; the id goes to stderr')
    .action(async options => {
      await (await import('./jobs/submit.ts')).submitCommand(options)
    })
  reachable(jobs.command('list'))
    .description('jobs, newest first')
    .addOption(new Option('--status <status>').choices(jobStatuses))
    .addOption(new Option('--kind <kind>').choices(jobKinds))
    .option('--model <model>')
    .option('--device <name>', 'the machine that ran it')
    .option('--source <name>', 'whose it is (admin keys see all)')
    .option('--limit <number>', 'how many, 1 to 100 (default 20)', integer)
    .option('--after <id>', 'those older than this one')
    .action(async options => {
      await (await import('./jobs/list.ts')).listCommand(options)
    })
  reachable(jobs.command('show'))
    .description('everything about a job, with its answer')
    .argument('<id>')
    .action(async (id, options) => {
      await (await import('./jobs/show.ts')).showCommand(id, options)
    })
  reachable(jobs.command('watch'), 'print JSON, one event a line: {event, id, data}')
    .description('follow a job to its end; exit code 0 when it is done, 1 when it failed or was cancelled')
    .argument('<id>')
    .action(async (id, options) => {
      await (await import('./jobs/watch.ts')).watchCommand(id, options)
    })
  reachable(jobs.command('cancel'))
    .description('end jobs where they are; those that are over stay as they are')
    .argument('<id...>')
    .action(async (ids, options) => {
      await (await import('./jobs/change.ts')).changeCommand('cancel', ids, options)
    })
  reachable(jobs.command('retry'))
    .description('queue finished jobs again')
    .argument('<id...>')
    .action(async (ids, options) => {
      await (await import('./jobs/change.ts')).changeCommand('retry', ids, options)
    })
}

/** What each command takes that speaks to a running gateway. */
export function reachable(command: Command, json = 'print JSON'): Command {
  return command
    .option('--url <url>', 'where the gateway is (default: LLM_MCP_URL, or HOST and PORT)')
    .option('--key <key>', 'better set LLM_MCP_KEY: others on this machine can read a command line (else LLM_MCP_ADMIN_KEY)')
    .option('--json', json)
}

export function integer(text: string): number {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : 0
  if (value >= 1) return value
  throw new InvalidArgumentError('It must be a whole number from 1 on.')
}

export function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value]
}
