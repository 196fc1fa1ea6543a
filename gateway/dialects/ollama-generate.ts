// The body of Ollama's /api/generate as our request, and our answer in its form. Wire format: GenerateRequest in its api/types.go.

import { GatewayError } from '../../routing/errors.ts'
import type { ModelRequest } from '../../routing/types.ts'
import { readBody } from '../body.ts'
import { type Facts, isGiven, isRecord, missing, optionalBoolean, optionalRecord, wrong } from '../fields.ts'
import type { Knobs } from './model.ts'
import { readChatBody } from './openai-chat.ts'
import { readCompletionRequest } from './openai-completions.ts'

type Json = Readonly<Record<string, unknown>>

/** Where a field of ours comes from, for errors that name it. */
export const generateFields: Readonly<Record<string, string>> = {
  messages: 'prompt',
  response_format: 'format',
  reasoning_effort: 'think'
}

/**
 * A chat with one message, which Ollama's template treats as it treats a prompt; with `raw` or `suffix` a text that is continued.
 * Throws GatewayError `invalid_request` or `unsupported_parameter` naming the field of the payload.
 */
export async function readGenerate(payload: Json, knobs: Knobs): Promise<ModelRequest> {
  const asked = { ...common(payload), options: optionalRecord(payload, 'options') ?? {} }
  refuseUnsupported(payload)
  const suffix = optionalText(payload, 'suffix')
  const isRaw = optionalBoolean(payload, 'raw') ?? false
  if (!isRaw && suffix === '') return readChatBody(bodyOf({ ...asked, ...chatParts(payload) }), knobs)
  refuseWith(payload, ['system', 'images', 'format', 'logprobs'], isRaw ? 'raw' : 'suffix')
  const { num_predict: asMany } = asked.options
  // A completion of OpenAI's has 16 tokens where nobody says more; Ollama's has what the model makes of it.
  const options = isGiven(asMany) ? asked.options : { ...asked.options, num_predict: -1 }
  const completion = { ...asked, options, prompt: textOf(payload), ...(suffix === '' ? {} : { suffix }), ...(isRaw ? { raw: true } : {}) }
  const request = await readCompletionRequest(bodyOf(completion).bytes, knobs)
  return { ...request, maxOutputTokens: typeof asMany === 'number' && asMany > 0 ? asMany : null }
}

/** Of an answer in OpenAI's form. `totalNs`: how long it took; null = nobody knows. */
export function generatedObject(answer: Json, totalNs: number | null): Json {
  const choice = first(answer.choices)
  const message = isRecord(choice.message) ? choice.message : {}
  const thinking = message.reasoning ?? message.reasoning_content
  const usage = isRecord(answer.usage) ? answer.usage : {}
  const logprobs = isRecord(choice.logprobs) ? choice.logprobs.content : undefined
  return {
    model: answer.model,
    created_at: typeof answer.created === 'number' ? new Date(answer.created * 1_000).toISOString() : null,
    response: message.content ?? choice.text ?? '',
    ...(typeof thinking === 'string' && thinking !== '' ? { thinking } : {}),
    done: true,
    done_reason: choice.finish_reason === 'length' ? 'length' : 'stop',
    ...(totalNs === null ? {} : { total_duration: totalNs }),
    prompt_eval_count: usage.prompt_tokens ?? 0,
    eval_count: usage.completion_tokens ?? 0,
    ...(Array.isArray(logprobs) ? { logprobs } : {})
  }
}

/** What is the same for both forms, as it came; `stream` is ours to say. */
function common(payload: Json): Json {
  const names = ['model', 'keep_alive', 'think']
  const { think } = payload
  if (isGiven(think) && typeof think !== 'boolean' && typeof think !== 'string') throw wrong('think', 'a boolean or an effort', think)
  return Object.fromEntries(names.filter(name => isGiven(payload[name])).map(name => [name, payload[name]]))
}

function chatParts(payload: Json): Json {
  const system = optionalText(payload, 'system')
  const pictures = picturesOf(payload.images)
  const text = textOf(payload)
  const content = pictures.length === 0 ? text : [{ type: 'text', text }, ...pictures]
  const format = formatOf(payload.format)
  const logprobs = optionalBoolean(payload, 'logprobs')
  return {
    messages: [...(system === '' ? [] : [{ role: 'system', content: system }]), { role: 'user', content }],
    ...(format === null ? {} : { response_format: format }),
    ...(logprobs === null ? {} : { logprobs }),
    ...(isGiven(payload.top_logprobs) ? { top_logprobs: payload.top_logprobs } : {})
  }
}

function textOf(payload: Json): string {
  const { prompt } = payload
  if (!isGiven(prompt)) throw missing('prompt', 'a text')
  // To Ollama an empty prompt means "load the model and say nothing", which is no job.
  if (typeof prompt !== 'string' || prompt === '') throw wrong('prompt', 'a text', prompt)
  return prompt
}

function optionalText(payload: Facts, name: string): string {
  const value = payload[name] ?? ''
  if (typeof value !== 'string') throw wrong(name, 'a text', value)
  return value
}

function picturesOf(images: unknown): readonly Json[] {
  if (!isGiven(images)) return []
  if (!Array.isArray(images)) throw wrong('images', 'a list of pictures in base64', images)
  return images.map((image: unknown, index) => {
    if (typeof image !== 'string' || image === '') throw wrong(`images[${index}]`, 'a picture in base64', image)
    return { type: 'image_url', image_url: { url: /^data:/i.test(image) ? image : `data:;base64,${image}` } }
  })
}

function formatOf(format: unknown): Json | null {
  if (!isGiven(format) || format === '') return null
  if (format === 'json') return { type: 'json_object' }
  if (!isRecord(format)) throw wrong('format', '"json" or a schema', format)
  return { type: 'json_schema', json_schema: { name: 'format', schema: format } }
}

/** Machines are shared: whoever comes next finds the model's own template, and nobody's conversation in token numbers. */
function refuseUnsupported(payload: Json): void {
  for (const name of ['template', 'context']) {
    const value = payload[name]
    const isEmpty = !isGiven(value) || value === '' || (Array.isArray(value) && value.length === 0)
    if (!isEmpty) throw unsupported(name, `"${name}" is not taken here: send the whole prompt, or a chat.`)
  }
}

function refuseWith(payload: Json, names: readonly string[], other: string): void {
  for (const name of names) {
    const value = payload[name]
    const isEmpty = !isGiven(value) || value === '' || value === false || (Array.isArray(value) && value.length === 0)
    if (!isEmpty) throw unsupported(name, `"${name}" does not go together with "${other}".`)
  }
}

function unsupported(param: string, message: string): GatewayError {
  return new GatewayError('unsupported_parameter', message, { param })
}

function first(choices: unknown): Json {
  const choice: unknown = Array.isArray(choices) ? choices[0] : undefined
  return isRecord(choice) ? choice : {}
}

function bodyOf(value: Json) {
  return readBody(Buffer.from(JSON.stringify(value)))
}
