// POST /v1/responses as a chat request: what routing and every adapter already understand.

import {
  givenOf,
  isGiven,
  type Json,
  optionalBoolean,
  optionalInteger,
  optionalList,
  optionalRecord,
  optionalString,
  requiredName,
  unsupported,
  wrong
} from './fields.ts'
import { readInput } from './input.ts'
import { readToolChoice, readTools } from './tools.ts'

/** What a response says about its request: part of every response object. */
export type ResponseEcho = Readonly<Json>

export interface ResponsesRequest {
  /** The body for chat completions: model, messages, tools, stream, and every field that we do not know. */
  readonly chat: Json
  /** Names of hints that were given and that a chat request has no place for. */
  readonly dropped: readonly string[]
  readonly echo: ResponseEcho
}

const logprobsWanted = 'message.output_text.logprobs'
const includesAtMost = 64

// Read below, or meant for what the gateway does not do; all others travel on.
const ownFields = new Set([
  'background',
  'context_management',
  'conversation',
  'include',
  'input',
  'instructions',
  'max_output_tokens',
  'max_tool_calls',
  // OpenAI's chat refuses metadata without store:true, and nothing is to be stored; the response repeats it.
  'metadata',
  // A response has one answer: more would be paid for and thrown away.
  'n',
  'previous_response_id',
  'prompt',
  'reasoning',
  'store',
  'stream',
  'stream_options',
  'text',
  'tool_choice',
  'tools',
  'top_logprobs',
  'truncation'
])

/** A chat body that came with Responses' `input` instead of `messages`: `readResponsesRequest` reads it too. */
export function isResponsesShaped(body: Readonly<Json>): boolean {
  return isGiven(body.input) && !isGiven(body.messages)
}

/**
 * Translates a Responses body; leaves it as it is. Throws GatewayError `invalid_request` naming the field that is
 * wrong, and `unsupported_parameter` for what needs responses, files or prompts to be kept, or tools to be run.
 * Fields of chat completions that are not looked at here are checked where chat requests are.
 */
export function readResponsesRequest(body: Readonly<Json>): ResponsesRequest {
  refuse(body)
  const dropped = new Set<string>()
  const stream = optionalBoolean(body.stream, 'stream') ?? false
  const instructions = optionalString(body.instructions, 'instructions')
  const text = optionalRecord(body.text, 'text') ?? {}
  const reasoning = optionalRecord(body.reasoning, 'reasoning') ?? {}
  const unknown = Object.entries(body).filter(([name, value]) => !ownFields.has(name) && isGiven(value))
  const chat = {
    ...Object.fromEntries(unknown),
    ...givenOf({
      messages: readInput(body.input, instructions),
      tools: readTools(body.tools, dropped),
      tool_choice: readToolChoice(body.tool_choice),
      response_format: readFormat(text),
      verbosity: optionalString(text.verbosity, 'text.verbosity'),
      reasoning_effort: optionalString(reasoning.effort, 'reasoning.effort'),
      max_completion_tokens: optionalInteger(body.max_output_tokens, 'max_output_tokens', [1, Number.MAX_SAFE_INTEGER]),
      ...readLogprobs(body, dropped),
      stream: isGiven(body.stream) ? stream : null,
      // The final event carries the usage, asked for or not.
      stream_options: stream ? { ...optionalRecord(body.stream_options, 'stream_options'), include_usage: true } : null
    })
  }
  noteHints(body, reasoning, dropped)
  return { chat, dropped: [...dropped], echo: echoOf(body, text, reasoning) }
}

function refuse(body: Readonly<Json>): void {
  if (optionalBoolean(body.background, 'background') === true)
    throw unsupported('background', 'responses run while the client waits; leave it out or set it to false')
  optionalBoolean(body.store, 'store')
  optionalRecord(body.metadata, 'metadata')
  const nothingKept = 'it keeps no responses; send the whole conversation in "input"'
  if (isGiven(body.previous_response_id)) throw unsupported('previous_response_id', nothingKept)
  if (isGiven(body.conversation)) throw unsupported('conversation', nothingKept)
  if (isGiven(body.prompt)) throw unsupported('prompt', 'it keeps no prompts; send "instructions" and "input"')
}

function readFormat(text: Json): Json | null {
  const format = optionalRecord(text.format, 'text.format')
  if (format === null || format.type === 'text') return null
  if (format.type === 'json_object') return { type: 'json_object' }
  if (format.type !== 'json_schema') throw wrong('text.format.type', 'text, json_object or json_schema', format.type)
  const { type, ...schema } = format
  requiredName(schema.name, 'text.format.name')
  optionalRecord(schema.schema, 'text.format.schema')
  return { type, json_schema: givenOf(schema) }
}

function readLogprobs(body: Readonly<Json>, dropped: Set<string>): Json {
  const include = optionalList(body.include, 'include', includesAtMost) ?? []
  if (include.some(name => name !== logprobsWanted)) dropped.add('include')
  const count = optionalInteger(body.top_logprobs, 'top_logprobs', [0, 20]) ?? 0
  if (count === 0 && !include.includes(logprobsWanted)) return {}
  return { logprobs: true, top_logprobs: count > 0 ? count : null }
}

function noteHints(body: Readonly<Json>, reasoning: Json, dropped: Set<string>): void {
  for (const name of ['context_management', 'max_tool_calls', 'n']) if (isGiven(body[name])) dropped.add(name)
  // What is too long is refused, never cut: "disabled" is what happens anyway.
  if (isGiven(body.truncation) && body.truncation !== 'disabled') dropped.add('truncation')
  for (const [name, value] of Object.entries(reasoning)) {
    // Thoughts go out as a summary to who asks for one; how long it is stays the model's affair.
    if (name !== 'effort' && name !== 'summary' && isGiven(value)) dropped.add(`reasoning.${name.slice(0, 64)}`)
  }
}

/** Where OpenAI would name a default of its own models that we do not know of, null stands. */
function echoOf(body: Readonly<Json>, text: Json, reasoning: Json): ResponseEcho {
  return {
    background: false,
    frequency_penalty: body.frequency_penalty ?? 0,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    max_tool_calls: body.max_tool_calls ?? null,
    metadata: body.metadata ?? {},
    model: body.model ?? null,
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    presence_penalty: body.presence_penalty ?? 0,
    previous_response_id: null,
    prompt_cache_key: body.prompt_cache_key ?? null,
    prompt_cache_retention: body.prompt_cache_retention ?? null,
    reasoning: { effort: reasoning.effort ?? null, summary: optionalString(reasoning.summary, 'reasoning.summary') },
    safety_identifier: body.safety_identifier ?? null,
    service_tier: body.service_tier ?? 'auto',
    store: false,
    temperature: body.temperature ?? null,
    text: { ...text, format: text.format ?? { type: 'text' }, verbosity: text.verbosity ?? 'medium' },
    tool_choice: body.tool_choice ?? 'auto',
    tools: body.tools ?? [],
    top_logprobs: body.top_logprobs ?? 0,
    top_p: body.top_p ?? null,
    truncation: 'disabled',
    user: body.user ?? null
  }
}
