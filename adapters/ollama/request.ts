// What an OpenAI chat request becomes for Ollama's /api/chat. Pure; wire format: Ollama's api/types.go.

import type { Target } from '../../routing/types.ts'
import { toNativeMessages } from './messages.ts'
import { optionFields, optionsOf } from './options.ts'
import { type ThinkFields, thinkFields, thinkOf } from './thinking.ts'
import { flag, isGiven, isObject, type Json, positiveWhole, unsupported, wrong } from './values.ts'

const fields = [
  'functions',
  'logprobs',
  'max_completion_tokens',
  'max_tokens',
  'messages',
  'modalities',
  'n',
  'response_format',
  'tool_choice',
  'tools',
  'top_logprobs'
] as const
// Only what is listed can be read below, so that the list is true.
type ChatBody = Readonly<Partial<Record<(typeof fields)[number], unknown>>> & ThinkFields

/** Everything that is looked at here; what else a client gives is left out. */
export const chatFields: readonly string[] = [...fields, ...optionFields, ...thinkFields]

/**
 * Throws GatewayError `invalid_request` naming the field that is wrong, because Ollama answers a wrong type with 500,
 * and `unsupported_parameter` for what its API has no place for. Null counts as absent; what is absent is not sent,
 * so that the defaults of the model's own Modelfile stay.
 */
export function toNativeChat(given: Json, target: Target): Json {
  const body: ChatBody = given
  refuseUnsupported(body)
  const native: Record<string, unknown> = {
    model: target.model,
    messages: toNativeMessages(body.messages),
    stream: true,
    // An error instead of messages that vanish without a word.
    truncate: false,
    shift: false,
    options: optionsOf(given, { contextTokens: target.contextTokens, answerTokens: answerTokensOf(body) })
  }
  const parts = {
    tools: toolsOf(body),
    format: formatOf(body.response_format),
    think: thinkOf(body, target),
    keep_alive: target.upstream.device?.keepAlive,
    logprobs: flag(body.logprobs, 'logprobs'),
    top_logprobs: topLogprobsOf(body.top_logprobs)
  }
  for (const [name, value] of Object.entries(parts)) {
    if (value !== undefined && value !== null) native[name] = value
  }
  return native
}

function refuseUnsupported(body: ChatBody): void {
  const n = body.n ?? 1
  if (!Number.isInteger(n) || Number(n) < 1) throw wrong('n', 'a whole number of at least 1')
  if (n !== 1) throw unsupported('n', 'Ollama gives one answer per request; n must be 1.')
  const lists = { functions: body.functions, modalities: body.modalities }
  for (const [name, value] of Object.entries(lists)) {
    if (value !== undefined && value !== null && !Array.isArray(value)) throw wrong(name, 'a list')
  }
  if (Array.isArray(body.functions) && body.functions.length > 0)
    throw unsupported('functions', 'Use tools instead of the deprecated functions.')
  if (Array.isArray(body.modalities) && body.modalities.some(modality => modality !== 'text')) {
    throw unsupported('modalities', 'Ollama answers with text only.')
  }
}

function answerTokensOf(body: ChatBody): number | null {
  for (const name of ['max_completion_tokens', 'max_tokens'] as const) {
    if (isGiven(body[name])) return positiveWhole(body[name], name)
  }
  return null
}

/** The tools as they are, or none where the client does not want them used. */
function toolsOf(body: ChatBody): unknown {
  const { tools } = body
  const choice = body.tool_choice ?? 'auto'
  if (choice !== 'auto' && choice !== 'none') {
    if (choice !== 'required' && !isObject(choice)) throw wrong('tool_choice', 'none, auto, required or an object')
    throw unsupported('tool_choice', 'Ollama cannot be made to call a tool; tool_choice must be auto or none.')
  }
  if (!isGiven(tools)) return undefined
  if (!Array.isArray(tools)) throw wrong('tools', 'a list')
  tools.forEach((tool: unknown, index) => {
    if (!isObject(tool)) throw wrong(`tools[${index}]`, 'an object')
    if (tool.type !== 'function') throw unsupported(`tools[${index}].type`, 'Ollama knows tools of type function only.')
    if (!isObject(tool.function)) throw wrong(`tools[${index}].function`, 'an object')
    if (typeof tool.function.name !== 'string' || tool.function.name === '') throw wrong(`tools[${index}].function.name`, 'a name')
  })
  return choice === 'none' || tools.length === 0 ? undefined : tools
}

function formatOf(format: unknown): unknown {
  if (!isGiven(format)) return undefined
  if (!isObject(format)) throw wrong('response_format', 'an object')
  if (format.type === 'text') return undefined
  if (format.type === 'json_object') return 'json'
  if (format.type !== 'json_schema') throw wrong('response_format.type', 'text, json_object or json_schema')
  if (!isObject(format.json_schema)) throw wrong('response_format.json_schema', 'an object')
  const { schema } = format.json_schema
  if (!isGiven(schema)) return 'json'
  if (!isObject(schema)) throw wrong('response_format.json_schema.schema', 'an object')
  return schema
}

function topLogprobsOf(value: unknown): number | undefined {
  if (!isGiven(value)) return undefined
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > 20)
    throw wrong('top_logprobs', 'a whole number from 0 to 20')
  return value
}
