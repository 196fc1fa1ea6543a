// llm-mcp route: the decision as a sentence, its parts, and the targets as a table.

import type { PreviewObject } from '../../../gateway/routes/routes.ts'
import type { ClientOptions } from '../../config/client.ts'
import { withClient } from '../client.ts'
import { plain, printJson, table } from '../print.ts'

export interface RouteOptions extends ClientOptions {
  readonly prompt: string
  readonly tokens?: number
  readonly maxTokens?: number
  readonly route?: string
  readonly maxCostUsd?: string
  readonly localOnly?: boolean
  readonly json?: boolean
}

const tokensAtMost = 2_000_000
// As the gateway counts them.
const bytesPerToken = 4

/** Prints what the gateway would do. A request that it would refuse is an answer, too. */
export async function routeCommand(model: string, options: RouteOptions): Promise<void> {
  const { tokens, route, maxCostUsd } = options
  if (tokens !== undefined && tokens > tokensAtMost) throw new Error(`--tokens must be at most ${tokensAtMost}.`)
  const content = tokens === undefined ? options.prompt : 'text '.repeat(Math.ceil((tokens * bytesPerToken) / 5))
  await withClient(options, async client => {
    const { body } = await client.ask({
      method: 'POST',
      path: '/v1/route',
      body: {
        model,
        messages: [{ role: 'user', content }],
        ...(options.maxTokens !== undefined && { max_tokens: options.maxTokens })
      },
      headers: {
        ...(route !== undefined && { 'x-llm-mcp-route': route }),
        ...(maxCostUsd !== undefined && { 'x-llm-mcp-max-cost-usd': maxCostUsd }),
        ...(options.localOnly === true && { 'x-llm-mcp-local-only': 'true' })
      }
    })
    if (options.json === true) printJson(body)
    else console.log(routePage(body as unknown as PreviewObject))
  })
}

export function routePage({
  action,
  why,
  policy,
  chosen,
  parts,
  ranked,
  rejected,
  error,
  chances,
  more_ranked: more
}: PreviewObject): string {
  const verdict = error === null ? why : `It would be refused with ${error.status} ${error.code}: ${error.message}`
  const lines = [plain(verdict)]
  if (chances !== null && chances.length > 0) {
    const shares = chances.map(({ model, share }) => `${model} ${Math.round(share * 100)} %`).join(', ')
    lines.push(plain(`The alias leaves its first model to chance: ${shares}. Here, ${chances[0]?.model} is the first.`))
  }
  if (chosen !== null) {
    const eta = `${seconds(chosen.eta_p50_s)} likely, ${seconds(chosen.eta_p90_s)} nine times of ten`
    lines.push(`${action === 'wait' ? 'It waits' : 'It runs'} by "${policy}": ${eta}, ${dollars(chosen.usd)}.`)
  }
  if (parts !== null) {
    const { wait_s: wait, load_s: load, prefill_s: prefill, decode_s: decode, out_tokens_mean: tokens } = parts
    lines.push(
      `Waiting ${seconds(wait)}, loading ${seconds(load)}, reading ${seconds(prefill)}, writing ${seconds(decode)} for ${tokens ?? '?'} tokens.`
    )
  }
  const rows = [
    ...(chosen === null
      ? []
      : [['1', chosen.target, seconds(parts === null ? chosen.eta_p50_s : total(parts)), dollars(chosen.usd), 'chosen']]),
    ...ranked.map(({ target, eta_s: eta, usd, why: reason }, at) => [
      String(at + (chosen === null ? 1 : 2)),
      target,
      seconds(eta),
      dollars(usd),
      reason
    ]),
    ...rejected.map(({ target, filtered, eta_s: eta = null, usd = null }) => ['-', target, seconds(eta), dollars(usd), filtered])
  ]
  if (rows.length > 0) lines.push('', table(['', 'target', 'time', 'cost', 'why'], rows, [2, 3]))
  if (more > 0) lines.push(`and ${more} more`)
  return lines.join('\n')
}

function total({ wait_s: wait, load_s: load, prefill_s: prefill, decode_s: decode }: NonNullable<PreviewObject['parts']>): number {
  return (wait ?? 0) + (load ?? 0) + (prefill ?? 0) + (decode ?? 0)
}

function seconds(value: number | null): string {
  return value === null ? '-' : `${value.toFixed(1)} s`
}

function dollars(value: number | null): string {
  return value === null ? '-' : `$${value.toFixed(value >= 0.01 ? 4 : 7)}`
}
