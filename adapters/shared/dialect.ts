// What compatible servers have in common and where they differ: addresses, bodies, figures.

import type { Outbound, OutboundRequest } from '../../outbound/client.ts'
import { isBroker } from '../../routing/preference.ts'
import type { Attempt, ModelRequest, Operation, Target, Upstream, Usage } from '../../routing/types.ts'
import { isRecord } from './http-errors.ts'

/** What differs between compatible servers. */
export interface Dialect {
  readonly outbound: Outbound
  /** The same for all of its requests. */
  headers(upstream: Upstream): Readonly<Record<string, string>>
  /** Is the model behind this target one of OpenAI's own, which alone can read lists of cl100k_base tokens? */
  readsTokens(target: Target): boolean
  /** The server's own figure of what it charged. */
  chargedNanoUsd(usage: Readonly<Record<string, unknown>>): number | null
}

const paths: Readonly<Record<Operation, string>> = { chat: '/chat/completions', complete: '/completions', embed: '/embeddings' }

/** Scheme, host and port of a base URL, and the path before ours. */
export function originOf(baseUrl: string): { origin: string; prefix: string } {
  const url = new URL(baseUrl)
  return { origin: url.origin, prefix: url.pathname === '/' ? '' : url.pathname }
}

interface Way extends ReturnType<typeof originOf> {
  readonly headers: Readonly<Record<string, string>>
}

// To read a URL takes longer than most of what a request needs here.
const ways = new WeakMap<Upstream, Way>()

function wayTo(upstream: Upstream, dialect: Dialect): Way {
  let way = ways.get(upstream)
  if (way === undefined) ways.set(upstream, (way = { ...originOf(upstream.baseUrl), headers: dialect.headers(upstream) }))
  return way
}

/** The whole call of an attempt, by its operation. */
export function compatibleRequest(dialect: Dialect, attempt: Attempt): OutboundRequest {
  const { request, target } = attempt
  const { origin, prefix, headers } = wayTo(target.upstream, dialect)
  const readsTokens = dialect.readsTokens(target)
  return {
    origin,
    path: `${prefix}${paths[request.operation]}`,
    method: 'POST',
    headers,
    clientRequestId: attempt.id,
    body: request.operation === 'embed' ? embeddingBody(attempt, readsTokens) : compatibleBody(attempt, readsTokens),
    connectMs: target.upstream.timeouts.connectMs
  }
}

/**
 * The body for this target: its own model name, and usage always asked for, unless the server refuses to be asked.
 * A prompt of tokens becomes text where they mean nothing.
 */
export function compatibleBody(attempt: Attempt, readsTokens: boolean): Buffer {
  const { request, target } = attempt
  const changes = choiceChanges(attempt)
  if (request.model !== target.model) changes.model = target.model
  if (!target.upstream.streamUsage) {
    if (request.streamOptions !== null) changes.stream_options = undefined
  } else if (request.stream && !request.includeUsage) {
    changes.stream_options = { ...request.streamOptions, include_usage: true }
  }
  if (request.input?.asTokens === true && !readsTokens) {
    const { texts } = request.input
    changes.prompt = texts.length === 1 ? texts[0] : texts
  }
  return request.body.with(changes)
}

/** What the gateway has seen to already: whoever is asked now is not to choose once more. OpenRouter gets its own words as they came. */
function choiceChanges({ request, target }: Attempt): Record<string, unknown> {
  const { fallbacks, preference } = request
  const changes: Record<string, unknown> = fallbacks === undefined ? {} : { models: undefined }
  if (preference === undefined) return changes
  if (!isBroker(target.upstream)) return { ...changes, provider: undefined }
  return preference.passedOn === undefined ? changes : { ...changes, provider: preference.passedOn ?? undefined }
}

/** The same for embeddings, which are never streamed, whatever the client says. */
export function embeddingBody(attempt: Attempt, readsTokens: boolean): Buffer {
  const { request, target } = attempt
  const changes = choiceChanges(attempt)
  if (request.model !== target.model) changes.model = target.model
  if (request.input?.asTokens === true && !readsTokens) changes.input = request.input.texts
  // Asked of the bytes, so that a long input need not be parsed; where a text alone says so, nothing is lost.
  if (request.body.bytes.includes('"stream')) {
    changes.stream = undefined
    changes.stream_options = undefined
  }
  return request.body.with(changes)
}

/** An adapter's `dropped`: a compatible server gets the client's own bytes, but for options that it is known to refuse. */
export function droppedOptions(request: ModelRequest, target?: Target): readonly string[] {
  return target?.upstream.streamUsage === false && request.streamOptions !== null ? ['stream_options'] : []
}

// More than any model reads or writes.
const tokensAtMost = 1e9

/** OpenAI's usage object as ours; null where nobody has counted, or what was counted makes no sense. */
export function usageFrom(usage: Readonly<Record<string, unknown>>, chargedNanoUsd: number | null): Usage | null {
  const total = count(usage.prompt_tokens) + count(usage.completion_tokens)
  const isSenseless = [usage.prompt_tokens, usage.completion_tokens].some(value => typeof value === 'number' && !(value <= tokensAtMost))
  if ((total === 0 || isSenseless) && chargedNanoUsd === null) return null
  const prompt = isRecord(usage.prompt_tokens_details) ? usage.prompt_tokens_details : {}
  const completion = isRecord(usage.completion_tokens_details) ? usage.completion_tokens_details : {}
  return {
    promptTokens: count(usage.prompt_tokens),
    completionTokens: count(usage.completion_tokens),
    cachedTokens: count(prompt.cached_tokens),
    reasoningTokens: count(completion.reasoning_tokens),
    providerNanoUsd: chargedNanoUsd,
    busyMs: null
  }
}

function count(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? Math.min(Math.round(value), tokensAtMost) : 0
}
