// Embeddings from any OpenAI-compatible server: checked before anybody stores them, and handed out as they were asked for.

import { isUtf8 } from 'node:buffer'
import { withoutSecrets } from '../../outbound/said.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Attempt, AttemptHandle, AttemptObserver, Embedding } from '../../routing/types.ts'
import { compatibleRequest, type Dialect, usageFrom } from './dialect.ts'
import { errorFromFailure, errorFromStatus, failureIn, inputField, isRecord, parseOrNull } from './http-errors.ts'
import { embeddingsJson, inOrder, readVectors, type Vectors } from './vectors.ts'
import { type WholeAnswer, wholeCall } from './whole.ts'

/** Starts one attempt. Everything that can go wrong ends in `observer.end`. */
export function compatibleEmbed(dialect: Dialect, attempt: Attempt, observer: AttemptObserver): AttemptHandle {
  const { upstream } = attempt.target
  return wholeCall(
    {
      outbound: dialect.outbound,
      where: upstream.id,
      request: () => compatibleRequest(dialect, attempt),
      failure: (status, headers, text) => errorFromStatus(upstream.id, status, text, headers, inputField.embed),
      read: bytes => readAnswer(dialect, attempt, bytes)
    },
    attempt,
    observer
  )
}

/** The number of texts and the encoding of a request for embeddings. */
export function asked({ request }: Attempt): { readonly count: number; readonly encoding: Embedding['encoding'] } {
  return { count: request.input?.texts.length ?? 0, encoding: request.embedding?.encoding ?? 'float' }
}

function readAnswer(dialect: Dialect, attempt: Attempt, bytes: Buffer): WholeAnswer {
  const { request, target } = attempt
  const { upstream } = target
  const json = parseOrNull(bytes.toString('utf8'))
  const usage = isRecord(json) && isRecord(json.usage) ? usageFrom(json.usage, dialect.chargedNanoUsd(json.usage)) : null
  const failure = failureIn(json)
  if (failure !== null) {
    const shown = { ...failure, message: withoutSecrets(failure.message, upstream) }
    return { usage, result: errorFromFailure(upstream.id, shown, inputField.embed) }
  }
  const useless = (wrong: string): WholeAnswer => ({
    usage,
    result: new GatewayError('upstream_unavailable', `${upstream.id} ${wrong}.`)
  })
  if (!isRecord(json)) return useless('answered with something that is no JSON object')
  const { count, encoding } = asked(attempt)
  const ordered = inOrder(json.data, count)
  if ('wrong' in ordered) return useless(ordered.wrong)
  const vectors = readVectors(ordered, count)
  if ('wrong' in vectors) return useless(vectors.wrong)
  const { dimensions } = vectors
  if (isInForm(json, vectors, encoding) && isUtf8(bytes)) return { usage, result: { body: bytes, dimensions } }
  const { object: _, data: __, ...rest } = json
  const body = embeddingsJson(vectors, encoding, {
    ...rest,
    model: typeof json.model === 'string' ? json.model : target.model,
    usage: wireUsage(json.usage, request.prompt.expected)
  })
  return { usage, result: { body, dimensions } }
}

/** Nothing about it needs to be written again: it can go on to the byte. */
function isInForm(json: Readonly<Record<string, unknown>>, { list }: Vectors, encoding: Embedding['encoding']): boolean {
  return (
    json.object === 'list' &&
    typeof json.model === 'string' &&
    isRecord(json.usage) &&
    isCount(json.usage.prompt_tokens) &&
    isCount(json.usage.total_tokens) &&
    list.every(vector => (typeof vector === 'string') === (encoding === 'base64')) &&
    (json.data as readonly Record<string, unknown>[]).every(
      ({ object, index, embedding }, position) => object === 'embedding' && index === position && embedding === list[position]
    )
  )
}

/** As the server gave it; clients rely on both figures, so a missing one is estimated. */
function wireUsage(usage: unknown, expectedTokens: number): Record<string, unknown> {
  const given = isRecord(usage) ? usage : {}
  const prompt = isCount(given.prompt_tokens) ? given.prompt_tokens : expectedTokens
  return { ...given, prompt_tokens: prompt, total_tokens: isCount(given.total_tokens) ? given.total_tokens : prompt }
}

/** No request has a billion tokens; a server that says so means something else. */
function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 1e9
}
