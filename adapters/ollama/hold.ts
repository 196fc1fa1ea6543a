// Takes a model into a machine's memory, or out of it, without a word: Ollama's requests with nothing to answer.

import type { Outbound } from '../../outbound/client.ts'
import { withoutSecrets } from '../../outbound/said.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Target } from '../../routing/types.ts'
import { parseOrNull } from '../shared/http-errors.ts'
import { errorValueText, failureOfStatus, failureOfText } from './failures.ts'
import { toOutbound } from './origin.ts'
import { isGiven, isObject, type Json } from './values.ts'

const answerBytesAtMost = 64 * 1024
// Ollama itself gives up a load that does not get on for 5 minutes.
const loadWithinMs = 900_000
const unloadWithinMs = 30_000

/**
 * Resolves when the model is loaded for `keepAlive`, with the context size that real calls have; with `keepAlive` 0, when it is told to
 * leave, which it does when nothing runs on it any more. Throws GatewayError; within 15 minutes, or 30 s for leaving.
 */
export async function ollamaHold(outbound: Outbound, target: Target, keepAlive: string | number, signal: AbortSignal): Promise<void> {
  const where = `Ollama (${target.id})`
  const { path, body } = requestFor(target, keepAlive)
  const limits = { maxBytes: answerBytesAtMost, timeoutMs: keepAlive === 0 ? unloadWithinMs : loadWithinMs, signal }
  const answer = await outbound.fetchText(toOutbound(target.upstream, path, body), limits).catch((cause: unknown) => {
    const reason = cause instanceof Error ? ((cause as NodeJS.ErrnoException).code ?? cause.message) : 'unknown'
    throw new GatewayError('upstream_unavailable', `${where} did not answer ${path} (${reason}).`, { cause })
  })
  const text = withoutSecrets(answer.text, target.upstream)
  if (answer.status !== 200) throw failureOfStatus(where, answer.status, answer.headers, text)
  const json = parseOrNull(text)
  if (!isObject(json)) throw new GatewayError('upstream_unavailable', `${where} answered ${path} with something that is no JSON object.`)
  if (isGiven(json.error)) throw failureOfText(where, errorValueText(json.error))
}

/** Any model leaves by /api/generate; what can only embed is loaded by an embedding of nothing. */
function requestFor({ model, contextTokens, operations }: Target, keepAlive: string | number): { path: string; body: Json } {
  if (keepAlive === 0) return { path: '/api/generate', body: { model, keep_alive: 0, stream: false } }
  const isGenerating = operations.includes('chat') || operations.includes('complete')
  // Another context size than that of the next call would load it twice.
  const options = contextTokens === null ? {} : { options: { num_ctx: contextTokens } }
  return isGenerating
    ? { path: '/api/generate', body: { model, keep_alive: keepAlive, stream: false, ...options } }
    : { path: '/api/embed', body: { model, input: [], keep_alive: keepAlive, ...options } }
}
