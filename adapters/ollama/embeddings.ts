// Embeddings by Ollama's /api/embed: its vectors, checked, in OpenAI's form. /api/embeddings, the old one, is not normalised.

import type { Outbound } from '../../outbound/client.ts'
import { withoutSecrets } from '../../outbound/said.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Attempt, AttemptHandle, AttemptObserver, Usage } from '../../routing/types.ts'
import { asked } from '../shared/embeddings.ts'
import { inputField, parseOrNull } from '../shared/http-errors.ts'
import { embeddingsJson, readVectors } from '../shared/vectors.ts'
import { type WholeAnswer, wholeCall } from '../shared/whole.ts'
import { errorValueText, failureOfStatus, failureOfText } from './failures.ts'
import { toOutbound } from './origin.ts'
import { count, isGiven, isObject, type Json } from './values.ts'

/** Everything of a request that is heeded; what else a client gives is left out. */
export const embeddingFields: readonly string[] = ['dimensions', 'encoding_format', 'input']

/** Starts one attempt. Everything that can go wrong ends in `observer.end`. */
export function ollamaEmbed(outbound: Outbound, attempt: Attempt, observer: AttemptObserver): AttemptHandle {
  const { id, target } = attempt
  const where = `Ollama (${target.id})`
  return wholeCall(
    {
      outbound,
      where,
      request: () => toOutbound(target.upstream, '/api/embed', toNativeEmbed(attempt), { 'x-client-request-id': id }),
      failure: (status, headers, text) => failureOfStatus(where, status, headers, text, inputField.embed),
      read: bytes => readAnswer(attempt, where, bytes)
    },
    attempt,
    observer
  )
}

function toNativeEmbed({ request, target }: Attempt): Json {
  const dimensions = request.embedding?.dimensions ?? null
  const keepAlive = target.upstream.device?.keepAlive
  return {
    model: target.model,
    input: request.input?.texts ?? [],
    // An error instead of a vector of half the text.
    truncate: false,
    ...(dimensions === null ? {} : { dimensions }),
    ...(isGiven(keepAlive) ? { keep_alive: keepAlive } : {}),
    ...(target.contextTokens === null ? {} : { options: { num_ctx: target.contextTokens } })
  }
}

function readAnswer(attempt: Attempt, where: string, bytes: Buffer): WholeAnswer {
  const { request, target } = attempt
  const json = parseOrNull(bytes.toString('utf8'))
  const usage = isObject(json) ? usageOf(json) : null
  const useless = (wrong: string): WholeAnswer => ({ usage, result: new GatewayError('upstream_unavailable', `${where} ${wrong}.`) })
  if (!isObject(json)) return useless('answered with something that is no JSON object')
  if (isGiven(json.error)) {
    return { usage, result: failureOfText(where, withoutSecrets(errorValueText(json.error), target.upstream), inputField.embed) }
  }
  if (!Array.isArray(json.embeddings)) return useless('answered with JSON that has no list of embeddings')
  const { count: texts, encoding } = asked(attempt)
  const vectors = readVectors(json.embeddings, texts)
  if ('wrong' in vectors) return useless(vectors.wrong)
  // Some of its ways do not count.
  const tokens = usage !== null && usage.promptTokens > 0 ? usage.promptTokens : request.prompt.expected
  const body = embeddingsJson(vectors, encoding, { model: target.model, usage: { prompt_tokens: tokens, total_tokens: tokens } })
  return { usage, result: { body, dimensions: vectors.dimensions } }
}

/** Null when it says nothing of itself. Only the whole duration is told; the machine was busy with it. */
function usageOf(json: Json): Usage | null {
  const promptTokens = count(json.prompt_eval_count)
  const nanoseconds = count(json.total_duration)
  if (promptTokens === null && nanoseconds === null) return null
  return {
    promptTokens: promptTokens ?? 0,
    completionTokens: 0,
    cachedTokens: 0,
    reasoningTokens: 0,
    providerNanoUsd: null,
    busyMs: nanoseconds === null ? null : nanoseconds / 1e6
  }
}
