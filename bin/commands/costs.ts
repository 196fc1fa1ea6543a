// llm-mcp costs: what was spent, from the database; the gateway need not run.

import { periods, type SummaryObject, summaryObject } from '../../gateway/routes/costs.ts'
import { type Period, readCosts } from '../../store/costs.ts'
import { loadSettings } from '../config.ts'
import { openDatabase } from '../database.ts'
import { printJson, table } from './print.ts'

/** Prints the summary of this UTC day, week or month: of one source, or of all. */
export async function costsCommand(options: { readonly period: string; readonly source?: string; readonly json?: boolean }): Promise<void> {
  const period = periods.find(name => name === options.period)
  if (period === undefined) throw new Error(`--period must be one of ${periods.join(', ')}.`)
  const source = options.source ?? null
  const database = await openDatabase({ settings: await loadSettings(), poolSize: 2, log: message => console.error(message) })
  try {
    const summary = summaryObject(period, source, await readCosts(database.pool, period, source))
    if (options.json === true) printJson(summary)
    else console.log(page(summary))
  } finally {
    await database.close()
  }
}

const since: Record<Period, string> = { day: 'Since midnight', week: 'Since Monday', month: 'Since the 1st' }

function page(summary: SummaryObject): string {
  const of = summary.source === null ? '' : `, source ${summary.source}`
  const title = `${since[summary.period]} (UTC)${of}: ${dollars(summary.total_cost_usd)}, requests: ${summary.total_requests}`
  if (summary.by_provider.length === 0) return title
  const providers = table(
    ['provider', 'cost', 'requests', 'attempts', 'tokens in', 'tokens out'],
    [
      ...summary.by_provider.map(row => [
        row.provider,
        dollars(row.cost_usd),
        String(row.requests),
        String(row.attempts),
        String(row.prompt_tokens),
        String(row.completion_tokens)
      ]),
      [
        'total',
        dollars(summary.total_cost_usd),
        String(summary.total_requests),
        total(row => row.attempts),
        total(row => row.prompt_tokens),
        total(row => row.completion_tokens)
      ]
    ],
    [1, 2, 3, 4, 5]
  )
  const sources = table(
    ['source', 'cost', 'requests', 'tokens in', 'tokens out'],
    summary.by_source.map(row => [
      row.sub_source === null ? row.source : `${row.source}/${row.sub_source}`,
      dollars(row.cost_usd),
      String(row.requests),
      String(row.prompt_tokens),
      String(row.completion_tokens)
    ]),
    [1, 2, 3, 4]
  )
  const unknown =
    summary.unknown_price_attempts === 0
      ? ''
      : `\n\nNot in these sums: attempts whose price nobody knows: ${summary.unknown_price_attempts}. Set prices in llm-mcp.yaml.`
  return `${title}\n\n${providers}\n\n${sources}${unknown}`

  function total(of: (row: SummaryObject['by_provider'][number]) => number): string {
    return String(summary.by_provider.reduce((sum, row) => sum + of(row), 0))
  }
}

/** Six digits, and more where they would say $0 for something. */
function dollars(usd: number): string {
  return usd > 0 && usd < 0.000001 ? `$${usd.toFixed(9)}` : `$${usd.toFixed(6)}`
}
