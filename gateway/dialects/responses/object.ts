// The response object: of a whole chat completion, and at every point of a stream.

import { GatewayError } from '../../../routing/errors.ts'
import { isRecord, type Json } from './fields.ts'
import { createOutput } from './output.ts'
import type { ResponseEcho } from './request.ts'

export interface ResponseOptions {
  /** `resp_…` */
  readonly id: string
  /** Seconds since 1970, as OpenAI counts. */
  readonly createdAt: number
  readonly echo: ResponseEcho
  /** Something unique for the ids of items and calls; the prefix is put in front of it. */
  readonly newId: () => string
  /** Seconds since 1970, for `completed_at`; the system's clock when left out. */
  readonly now?: () => number
}

export interface Outcome {
  readonly status: 'in_progress' | 'completed' | 'incomplete' | 'failed'
  readonly reason: 'max_output_tokens' | 'content_filter' | null
  readonly error: GatewayError | null
}

/**
 * A chat completion (its choice 0) as a response object. Throws GatewayError `upstream_broke` when it is larger than
 * any answer that is held.
 */
export function responseObject(completion: Readonly<Json>, options: ResponseOptions): Json {
  const choice = firstChoice(completion.choices)
  const output = createOutput({ newId: options.newId, emit: () => {}, summarises: wantsSummary(options.echo) })
  const message = isRecord(choice?.message) ? choice.message : {}
  const calls = Array.isArray(message.tool_calls) ? message.tool_calls.filter(isRecord) : []
  output.take({ ...message, tool_calls: calls.map((call, index) => ({ ...call, index })) }, logprobsOf(choice))
  const outcome = outcomeOf(choice?.finish_reason)
  // What broke off stays as it broke off.
  if (outcome.error === null) output.close(outcome.status === 'incomplete')
  return buildResponse({ options, outcome, output: output.items(), answer: completion })
}

/** Whoever asks for a summary of the thoughts gets them as one. */
export function wantsSummary({ reasoning }: ResponseEcho): boolean {
  return isRecord(reasoning) && reasoning.summary !== null && reasoning.summary !== undefined
}

/** `answer` is the completion, or what the chunks said of it: model, service_tier, usage, x_llm_mcp. */
export function buildResponse({
  options,
  outcome,
  output,
  answer
}: {
  readonly options: ResponseOptions
  readonly outcome: Outcome
  readonly output: readonly Json[]
  readonly answer: Readonly<Json>
}): Json {
  const { id, createdAt, echo } = options
  return {
    ...echo,
    id,
    object: 'response',
    created_at: createdAt,
    status: outcome.status,
    completed_at: outcome.status === 'completed' ? (options.now ?? systemSeconds)() : null,
    error: outcome.error === null ? null : { code: publicCodeOf(outcome.error), message: outcome.error.message },
    incomplete_details: outcome.reason === null ? null : { reason: outcome.reason },
    model: typeof answer.model === 'string' ? answer.model : echo.model,
    output,
    service_tier: typeof answer.service_tier === 'string' ? answer.service_tier : echo.service_tier,
    usage: usageOf(answer.usage),
    ...(answer.x_llm_mcp === undefined ? {} : { x_llm_mcp: answer.x_llm_mcp })
  }
}

/** What a finish reason of chat means for a response. */
export function outcomeOf(finishReason: unknown): Outcome {
  if (finishReason === 'length') return { status: 'incomplete', reason: 'max_output_tokens', error: null }
  if (finishReason === 'content_filter') return { status: 'incomplete', reason: 'content_filter', error: null }
  if (finishReason !== 'error') return { status: 'completed', reason: null, error: null }
  const error = new GatewayError('upstream_broke', 'The provider ended its answer with an error.')
  return { status: 'failed', reason: null, error }
}

export function firstChoice(choices: unknown): Json | null {
  if (!Array.isArray(choices)) return null
  return choices.filter(isRecord).find(choice => (choice.index ?? 0) === 0) ?? null
}

/** The logprobs of the text; those of a refusal have no place in a response. */
export function logprobsOf(choice: Json | null): readonly unknown[] {
  const logprobs = choice?.logprobs
  return isRecord(logprobs) && Array.isArray(logprobs.content) ? logprobs.content : []
}

function usageOf(usage: unknown): Json | null {
  if (!isRecord(usage)) return null
  const input = count(usage.prompt_tokens)
  const output = count(usage.completion_tokens)
  return {
    input_tokens: input,
    input_tokens_details: { cached_tokens: detail(usage.prompt_tokens_details, 'cached_tokens') },
    output_tokens: output,
    output_tokens_details: { reasoning_tokens: detail(usage.completion_tokens_details, 'reasoning_tokens') },
    total_tokens: typeof usage.total_tokens === 'number' ? usage.total_tokens : input + output
  }
}

function detail(details: unknown, name: string): number {
  return isRecord(details) ? count(details[name]) : 0
}

function count(value: unknown): number {
  return typeof value === 'number' ? value : 0
}

/** The few codes that a response's error has; two more are known to clients and say more. */
function publicCodeOf({ status, publicCode }: GatewayError): string {
  if (publicCode === 'context_length_exceeded' || publicCode === 'insufficient_quota') return publicCode
  if (status === 429) return 'rate_limit_exceeded'
  return status < 500 ? 'invalid_prompt' : 'server_error'
}

function systemSeconds(): number {
  return Math.floor(Date.now() / 1_000)
}
