// llm-mcp route: what a running gateway would do with a request, and its options.

import { type Command, Option } from 'commander'
import { integer, reachable } from './jobs.ts'

export function addRouteCommand(program: Command): void {
  reachable(program.command('route'), 'print JSON, as POST /v1/route does')
    .description('where a request would go, what it would come to, and why; nobody is asked')
    .argument('<model>')
    .option('--prompt <text>', 'what would be asked', 'Say hello')
    .option('--tokens <number>', 'a prompt of about so many tokens instead', integer)
    .option('--max-tokens <number>', 'how long the answer may be', integer)
    .addOption(new Option('--route <route>', 'what counts more').choices(['cost', 'balanced', 'fast']))
    .option('--max-cost-usd <dollars>', 'who might cost more is left out')
    .option('--local-only', 'machines of yours only')
    .action(async (model, options) => {
      await (await import('./route/show.ts')).routeCommand(model, options)
    })
}
