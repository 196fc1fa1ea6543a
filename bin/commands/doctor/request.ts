// One streamed request through the real OpenAI SDK, on its strictest path, with a key that lives as long as the question.

import { createKey, readNewKey } from '../../../gateway/new-key.ts'
import { uuidv7 } from '../../../routing/ids.ts'
import { hasAdminKey, revokeKey } from '../../../store/keys.ts'
import type { Pool } from '../../../store/pool.ts'
import { type Finding, fail, ok, reasonOf, warn } from './check.ts'
import { startChildGateway } from './child.ts'

export interface RequestOptions {
  readonly pool: Pool
  /** The gateway that runs already; null = one is started for this. */
  readonly gatewayUrl: string | null
  readonly signal: AbortSignal
  /** Told the temporary key before it is used, so that it is shown nowhere. */
  readonly onKey: (key: string) => void
}

// Should we be killed, the key ends by itself.
const keyMs = 5 * 60_000
const demo = 'echo'

export async function requestCheck({ pool, gatewayUrl, signal, onKey }: RequestOptions): Promise<Finding> {
  // A first start makes an admin key and shows it, once: a start of ours, which nobody watches, must not be the first.
  const kind = gatewayUrl === null && !(await hasAdminKey(pool)) ? 'admin' : 'source'
  const expiresAt = new Date(Date.now() + keyMs).toISOString()
  const made = await createKey(pool, uuidv7(Date.now()), readNewKey({ kind, source: 'doctor', name: 'doctor', expires_at: expiresAt }))
  if (made === null) throw new Error('a key for the request could not be stored')
  onKey(made.key)
  try {
    if (gatewayUrl !== null) return await ask({ url: gatewayUrl, key: made.key, by: 'the running gateway', signal })
    const child = await startChildGateway(signal).catch((error: unknown) => reasonOf(error))
    if (typeof child === 'string') {
      return fail(`a gateway could not be started: ${child}`, 'Start it by hand (npm start), which says more.')
    }
    try {
      return await ask({ url: child.url, key: made.key, by: 'a gateway started for this', signal })
    } finally {
      await child.stop()
    }
  } finally {
    await revokeKey(pool, made.record.id)
  }
}

interface Question {
  readonly url: string
  readonly key: string
  readonly by: string
  readonly signal: AbortSignal
}

/** What our gateway adds to the usage chunk. */
interface Facts {
  readonly provider?: unknown
  readonly model?: unknown
  readonly device?: unknown
  readonly cost_usd?: unknown
}

async function ask({ url, key, by, signal }: Question): Promise<Finding> {
  // The largest package of all, for this one request.
  const { default: OpenAI } = await import('openai')
  const client = new OpenAI({
    baseURL: `${url}/v1`,
    apiKey: key,
    // Of the environment's these would go along, and they are OpenAI's business.
    organization: null,
    project: null,
    maxRetries: 0,
    logLevel: 'off'
  })
  const askedAt = performance.now()
  let firstAt: number | null = null
  let facts: Facts = {}
  try {
    const stream = client.chat.completions.stream(
      {
        model: 'auto',
        max_tokens: 16,
        messages: [{ role: 'user', content: 'Say hello.' }],
        stream_options: { include_usage: true }
      },
      { signal }
    )
    stream.on('chunk', chunk => {
      // A stream of ours begins with its first token.
      firstAt ??= performance.now()
      facts = (chunk as { x_llm_mcp?: Facts }).x_llm_mcp ?? facts
    })
    const completion = await stream.finalChatCompletion()
    const where = typeof facts.device === 'string' ? facts.device : String(facts.provider ?? 'unknown')
    const model = typeof facts.model === 'string' ? facts.model : completion.model
    const ttft = Math.round((firstAt ?? performance.now()) - askedAt)
    const detail = `${model} on ${where}, first token after ${ttft} ms, cost ${costOf(facts)}, by ${by}`
    if (facts.provider !== demo) return ok(detail)
    return warn(`only the demo answered: ${detail}`, 'Start Ollama, or set OPENROUTER_API_KEY or OPENAI_API_KEY.')
  } catch (error) {
    if (signal.aborted) throw signal.reason
    const status = (error as { status?: unknown }).status
    if (status === 401) {
      const remedy = 'Run doctor where that gateway was started, with its DATABASE_URL and LLM_MCP_DATA_DIR.'
      return fail(`${by} does not know a key made in this database: it uses another one`, remedy)
    }
    return fail(`${by} answered: ${reasonOf(error)}`, requestRemedy)
  }
}

export const requestRemedy = 'Mend what the checks above name; the log of the gateway says more.'

function costOf({ cost_usd: usd }: Facts): string {
  return typeof usd === 'number' ? `$${usd.toFixed(9).replace(/0{1,3}$/, '')}` : 'unknown'
}
