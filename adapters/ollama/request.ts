// What an OpenAI chat request becomes for Ollama's /api/chat. Pure; wire format: Ollama's api/types.go.

import type { Target } from '../../routing/types.ts'
import { toNativeMessages } from './messages.ts'
import { isGiven, isObject, type Json, unsupported, wrong } from './values.ts'

// What an unknown context is taken for, so that no answer is without an end.
const assumedContextTokens = 8192

/**
 * Throws GatewayError `invalid_request` naming the field that is wrong, because Ollama answers a wrong type with 500,
 * and `unsupported_parameter` for what its API has no place for. Null counts as absent; what is absent is not sent,
 * so that the defaults of the model's own Modelfile stay.
 */
export function toNativeChat(body: Json, target: Target): Json {
  refuseUnsupported(body)
  const native: Record<string, unknown> = {
    model: target.model,
    messages: toNativeMessages(body.messages),
    stream: true,
    // An error instead of messages that vanish without a word.
    truncate: false,
    shift: false,
    options: optionsOf(body, target.contextTokens)
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

function refuseUnsupported(body: Json): void {
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

type Kind = 'number' | 'whole' | 'stops'

/**
 * Options that take effect per request, with the names they go by. Never the ones a model is loaded with
 * (num_ctx, num_batch, num_gpu, main_gpu, use_mmap, num_thread, draft_num_predict): another value reloads the model
 * under everybody else's requests.
 */
const runtimeOptions: readonly { readonly name: string; readonly aliases?: readonly string[]; readonly kind: Kind }[] = [
  { name: 'temperature', kind: 'number' },
  { name: 'top_p', kind: 'number' },
  { name: 'seed', kind: 'whole' },
  { name: 'stop', kind: 'stops' },
  { name: 'presence_penalty', kind: 'number' },
  { name: 'frequency_penalty', kind: 'number' },
  { name: 'top_k', kind: 'whole' },
  { name: 'min_p', kind: 'number' },
  { name: 'typical_p', kind: 'number' },
  { name: 'repeat_penalty', aliases: ['repetition_penalty'], kind: 'number' },
  { name: 'repeat_last_n', kind: 'whole' }
]

function optionsOf(body: Json, contextTokens: number | null): Json {
  const given = body.options ?? {}
  if (!isObject(given)) throw wrong('options', 'an object')
  const options: Record<string, unknown> = { num_predict: answerTokensOf(body, given, contextTokens) }
  if (contextTokens !== null) options.num_ctx = contextTokens
  for (const { name, aliases = [], kind } of runtimeOptions) {
    const names = [name, ...aliases]
    const top = names.find(name => isGiven(body[name]))
    const nested = names.find(name => isGiven(given[name]))
    const value =
      top !== undefined
        ? optionValue(body[top], top, kind)
        : nested === undefined
          ? undefined
          : optionValue(given[nested], `options.${nested}`, kind)
    if (value !== undefined) options[name] = value
  }
  return options
}

/** Always a bound: without one a model may talk until the machine is switched off. */
function answerTokensOf(body: Json, given: Json, contextTokens: number | null): number {
  const bound = contextTokens ?? assumedContextTokens
  for (const name of ['max_completion_tokens', 'max_tokens']) {
    const value = body[name]
    if (!isGiven(value)) continue
    if (!Number.isInteger(value) || Number(value) < 1) throw wrong(name, 'a whole number of at least 1')
    return Math.min(Number(value), bound)
  }
  const native = given.num_predict
  if (!isGiven(native)) return bound
  if (!Number.isInteger(native)) throw wrong('options.num_predict', 'a whole number')
  // Ollama's own -1 and -2 ask for no bound.
  return Number(native) < 1 ? bound : Math.min(Number(native), bound)
}

function optionValue(value: unknown, param: string, kind: Kind): number | readonly string[] | undefined {
  if (kind === 'stops') return stopsOf(value, param)
  if (typeof value !== 'number' || !Number.isFinite(value)) throw wrong(param, 'a number')
  if (kind === 'whole' && !Number.isInteger(value)) throw wrong(param, 'a whole number')
  return value
}

function stopsOf(value: unknown, param: string): readonly string[] | undefined {
  const stops: unknown = typeof value === 'string' ? [value] : value
  if (!Array.isArray(stops) || !stops.every(stop => typeof stop === 'string')) throw wrong(param, 'a string or a list of strings')
  // Ollama finds an empty stop in every text and ends at once.
  const real = stops.filter(stop => stop !== '')
  return real.length === 0 ? undefined : real
}

/** The tools as they are, or none where the client does not want them used. */
function toolsOf(body: Json): unknown {
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

const thinkByEffort = new Map<unknown, boolean | string>([
  ['none', false],
  ['minimal', 'low'],
  ['low', 'low'],
  ['medium', 'medium'],
  ['high', 'high'],
  ['max', 'max'],
  ['xhigh', 'max'],
  ['ultra', 'max']
])

/** Checked always, but sent only to models that may be able to think: to the others an effort is no more than a hint. */
function thinkOf(body: Json, target: Target): boolean | string | undefined {
  const think = wishedThinking(body)
  return target.features === null || target.features.has('reasoning') ? think : undefined
}

/** In this order: an explicit off, OpenAI's effort, OpenRouter's, Ollama's own field. */
function wishedThinking(body: Json): boolean | string | undefined {
  const reasoning = body.reasoning ?? {}
  if (!isObject(reasoning)) throw wrong('reasoning', 'an object')
  const off = flag(reasoning.enabled, 'reasoning.enabled') === false
  const own = body.think
  const wishes = [
    effort(body.reasoning_effort, 'reasoning_effort'),
    effort(reasoning.effort, 'reasoning.effort'),
    typeof own === 'boolean' ? own : effort(own, 'think')
  ]
  return off ? false : wishes.find(wish => wish !== undefined)
}

function effort(value: unknown, param: string): boolean | string | undefined {
  if (!isGiven(value)) return undefined
  const think = thinkByEffort.get(value)
  if (think === undefined) throw wrong(param, `one of ${[...thinkByEffort.keys()].join(', ')}`)
  return think
}

function flag(value: unknown, param: string): boolean | undefined {
  if (!isGiven(value)) return undefined
  if (typeof value !== 'boolean') throw wrong(param, 'true or false')
  return value
}

function topLogprobsOf(value: unknown): number | undefined {
  if (!isGiven(value)) return undefined
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > 20)
    throw wrong('top_logprobs', 'a whole number from 0 to 20')
  return value
}
