// Does each machine answer, and does each provider take its key? By calls that cost nothing.

import { isRecord, parseOrNull } from '../../../adapters/shared/http-errors.ts'
import type { Outbound, TextAnswer } from '../../../outbound/client.ts'
import { GatewayError } from '../../../routing/errors.ts'
import type { Adapter, Upstream } from '../../../routing/types.ts'
import { type Finding, fail, ok, reasonOf, warn } from './check.ts'
import { type ClockReading, readingOfDate } from './clock.ts'

const limits = { maxBytes: 8 * 1024 * 1024, timeoutMs: 8_000 }

export async function machineCheck(adapter: Adapter, upstream: Upstream, signal: AbortSignal): Promise<Finding> {
  const startedAt = performance.now()
  try {
    const models = await adapter.listModels(upstream, signal)
    const detail = `${upstream.baseUrl}: models: ${models.length}, ${Math.round(performance.now() - startedAt)} ms`
    if (models.length > 0) return ok(detail)
    return warn(detail, upstream.adapter === 'ollama' ? 'Give it a model, for example: ollama pull llama3.2' : 'Load a model there.')
  } catch (error) {
    signal.throwIfAborted()
    return fail(`${upstream.baseUrl}: ${reasonOf(error)}`, machineRemedy(upstream, error))
  }
}

/** For a machine that does not answer in time, and for every other failure. */
export function machineRemedy({ id, adapter }: Upstream, error: unknown = null): string {
  if (error instanceof GatewayError && error.code === 'upstream_denied') return `Correct machines.${id}.api_key in llm-mcp.yaml.`
  if (adapter === 'ollama')
    return `Start Ollama there with OLLAMA_HOST=0.0.0.0, or correct the address of ${id} (llm-mcp.yaml, OLLAMA_HOST).`
  return `Start the server there, or correct machines.${id}.url in llm-mcp.yaml.`
}

export interface ProviderState {
  readonly finding: Finding
  readonly clock: ClockReading | null
}

/** OpenRouter's list of models is public, so there the key is asked about itself. */
export async function providerState(outbound: Outbound, upstream: Upstream, signal: AbortSignal): Promise<ProviderState> {
  const { origin, pathname } = new URL(upstream.baseUrl)
  const aboutKey = upstream.adapter === 'openrouter' && upstream.apiKey !== null
  const headers = { ...upstream.headers, ...(upstream.apiKey === null ? {} : { authorization: `Bearer ${upstream.apiKey}` }) }
  const path = `${pathname.replace(/\/$/, '')}${aboutKey ? '/key' : '/models'}`
  const askedAtMs = Date.now()
  let answer: TextAnswer
  try {
    answer = await outbound.fetchText(
      { origin, path, method: 'GET', headers, body: null, connectMs: upstream.timeouts.connectMs },
      { ...limits, signal }
    )
  } catch (error) {
    signal.throwIfAborted()
    const code = (error as NodeJS.ErrnoException).code
    return { finding: fail(`${upstream.baseUrl}: ${code ?? reasonOf(error)}`, providerRemedy), clock: null }
  }
  const answeredAtMs = Date.now()
  return {
    finding: judged(upstream, answer, answeredAtMs - askedAtMs),
    clock: readingOfDate(`${upstream.id}'s`, answer.headers.date, askedAtMs, answeredAtMs)
  }
}

export const providerRemedy = "Check this machine's way to it: name resolution, firewall, proxy."

function judged(upstream: Upstream, { status, text }: TextAnswer, ms: number): Finding {
  const where = `${upstream.baseUrl}: `
  if (status === 401 || status === 403) return fail(`${where}the key is refused (${status})`, `Put a valid key into ${keyPlace(upstream)}.`)
  if (status === 402) return fail(`${where}no credit is left (402)`, `Add credit to the account of ${upstream.id}.`)
  if (status === 429) return warn(`${where}too many calls just now (429)`, 'Wait a little, or raise the limits of the account.')
  if (status === 404) return warn(`${where}no list of models there (404)`, `Check the address of ${upstream.id}: it mostly ends with /v1.`)
  if (status !== 200) return fail(`${where}answered ${status}`, `Ask again later; its status page may say more.`)
  const json = parseOrNull(text)
  const data = isRecord(json) ? json.data : undefined
  const took = `${Math.round(ms)} ms`
  if (upstream.adapter === 'openrouter' && upstream.apiKey !== null && isRecord(data)) return ofKey(where, data, took)
  if (!Array.isArray(data)) return warn(`${where}answered with something that is no list`, `Check the address of ${upstream.id}.`)
  if (upstream.adapter === 'openrouter') return warn(`${where}models: ${data.length}, ${took}; no key is set`, `Set ${keyPlace(upstream)}.`)
  return ok(`${where}${upstream.apiKey === null ? 'no key needed' : 'the key is accepted'}, models: ${data.length}, ${took}`)
}

/** GET /key: what is left, never the key or its label, which holds a part of it. */
function ofKey(where: string, data: Readonly<Record<string, unknown>>, took: string): Finding {
  const { limit, limit_remaining: left, is_free_tier: free } = data
  const tier = free === true ? ', free tier' : ''
  if (typeof left !== 'number') return ok(`${where}the key is accepted, no limit on it${tier}, ${took}`)
  const of = typeof limit === 'number' ? ` of $${limit.toFixed(2)}` : ''
  const detail = `${where}the key is accepted, $${left.toFixed(2)}${of} left${tier}, ${took}`
  return left > 0 ? ok(detail) : warn(detail, 'Raise the limit of this key at openrouter.ai/settings/keys.')
}

const keyVariables: Readonly<Record<string, string>> = { openai: 'OPENAI_API_KEY', openrouter: 'OPENROUTER_API_KEY' }

function keyPlace({ id }: Upstream): string {
  const inFile = `providers.${id}.api_key in llm-mcp.yaml`
  const variable = keyVariables[id]
  return variable === undefined ? inFile : `${variable} (or ${inFile})`
}
