// POST /v1/chat/completions as our request. OpenAI's form is ours, so the way back is the identity.

import { GatewayError } from '../../routing/errors.ts'
import { estimateTokens } from '../../routing/tokens.ts'
import type { ChatRequest, Feature } from '../../routing/types.ts'
import { type ReadBody, readBody } from '../body.ts'

export interface Knobs {
  readonly requestId: string
  readonly localOnly: boolean
}

type Facts = Readonly<Record<string, unknown>>

/**
 * Reads a chat request. Throws GatewayError `invalid_request` naming the field that is wrong.
 * Only what routing needs is checked; what we do not know travels on untouched.
 */
export function readChatRequest(bytes: Buffer, knobs: Knobs): ChatRequest {
  const body = readBody(bytes)
  const { facts } = body
  const stream = optionalBoolean(facts, 'stream') ?? false
  const streamOptions = optionalRecord(facts, 'stream_options')
  const content = readMessages(facts.messages)
  const tools = facts.tools === undefined || facts.tools === null ? 0 : sizeOf(facts.tools, 'tools')
  return {
    id: knobs.requestId,
    body,
    model: readModel(body),
    stream,
    includeUsage: stream && streamOptions?.include_usage === true,
    streamOptions,
    maxOutputTokens: positiveInteger(facts, 'max_completion_tokens') ?? positiveInteger(facts, 'max_tokens'),
    needs: needsOf(facts, content.features),
    prompt: estimateTokens({ textBytes: content.textBytes + tools, messages: content.messages, pictures: content.pictures }),
    localOnly: knobs.localOnly
  }
}

function readModel(body: ReadBody): string {
  const value = body.facts.model
  if (value === undefined || value === null) throw missing('model', 'the name of a model; GET /v1/models lists them')
  if (typeof value !== 'string' || value === '' || value.length > 256) throw wrong('model', 'a string of 1 to 256 characters', value)
  // The latin1 view has other letters for everything but ASCII.
  const model = /^[\x00-\x7f]*$/.test(value) ? value : String(body.json().model)
  // No model has such a name, and the database could not keep it: one cost row like that would hold up all others.
  if (/[\x00-\x1f\x7f]/.test(model) || !model.isWellFormed()) throw wrong('model', 'a name without control characters', value)
  return model
}

interface Content {
  textBytes: number
  messages: number
  pictures: number
  features: Set<Feature>
}

function readMessages(value: unknown): Content {
  if (value === undefined || value === null) throw missing('messages', 'a list of messages')
  if (!Array.isArray(value) || value.length === 0) throw wrong('messages', 'a list of at least one message', value)
  const content: Content = { textBytes: 0, messages: value.length, pictures: 0, features: new Set() }
  value.forEach((message: unknown, index) => {
    if (!isRecord(message)) throw wrong(`messages[${index}]`, 'an object with a role', message)
    if (typeof message.role !== 'string') throw wrong(`messages[${index}].role`, 'a string', message.role)
    readContent(message.content, `messages[${index}].content`, content)
    if (message.tool_calls !== undefined && message.tool_calls !== null)
      content.textBytes += sizeOf(message.tool_calls, `messages[${index}].tool_calls`)
  })
  return content
}

function readContent(value: unknown, param: string, content: Content): void {
  if (value === undefined || value === null) return
  if (typeof value === 'string') {
    content.textBytes += value.length
    return
  }
  if (!Array.isArray(value)) throw wrong(param, 'a string or a list of parts', value)
  value.forEach((part: unknown, index) => {
    if (!isRecord(part) || typeof part.type !== 'string') throw wrong(`${param}[${index}]`, 'an object with a type', part)
    if (typeof part.text === 'string') content.textBytes += part.text.length
    if (part.type === 'image_url') readPicture(part.image_url, `${param}[${index}].image_url`, content)
    if (part.type === 'input_audio') content.features.add('audio')
    if (part.type === 'file') content.features.add('file')
  })
}

function readPicture(value: unknown, param: string, content: Content): void {
  const url = isRecord(value) ? value.url : value
  if (typeof url !== 'string' || url === '') throw wrong(`${param}.url`, 'a data: URI', url)
  if (!/^data:/i.test(url)) {
    throw new GatewayError(
      'invalid_request',
      `${param}: pictures are taken as data: URIs only, for now; this gateway fetches no addresses.`,
      { param }
    )
  }
  content.pictures++
  content.features.add('vision')
}

/** What the answer's contract depends on. Hints are not among them. */
function needsOf(facts: Facts, features: Set<Feature>): readonly Feature[] {
  const count = facts.n
  if (count !== undefined && count !== null) {
    if (typeof count !== 'number' || !Number.isInteger(count) || count < 1 || count > 128)
      throw wrong('n', 'an integer from 1 to 128', count)
    if (count > 1) features.add('n')
  }
  if (optionalBoolean(facts, 'logprobs') === true) features.add('logprobs')
  const choice = facts.tool_choice
  const offersTools = Array.isArray(facts.tools) && facts.tools.length > 0
  if (offersTools && choice !== 'none') features.add('tools')
  if (choice === 'required' || isRecord(choice)) features.add('forced_tool_choice')
  const format = optionalRecord(facts, 'response_format')
  if (format?.type === 'json_object') features.add('json_object')
  if (format?.type === 'json_schema') features.add('json_schema')
  if (Array.isArray(facts.modalities) && facts.modalities.includes('audio')) features.add('audio')
  return [...features]
}

function positiveInteger(facts: Facts, name: string): number | null {
  const value = facts[name]
  if (value === undefined || value === null) return null
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1) throw wrong(name, 'an integer above 0', value)
  return value
}

function optionalBoolean(facts: Facts, name: string): boolean | null {
  const value = facts[name]
  if (value === undefined || value === null) return null
  if (typeof value !== 'boolean') throw wrong(name, 'a boolean', value)
  return value
}

function optionalRecord(facts: Facts, name: string): Record<string, unknown> | null {
  const value = facts[name]
  if (value === undefined || value === null) return null
  if (!isRecord(value)) throw wrong(name, 'an object', value)
  return value
}

/** Bytes of a list as it was sent, near enough for an estimate. */
function sizeOf(value: unknown, param: string): number {
  if (!Array.isArray(value)) throw wrong(param, 'a list', value)
  return JSON.stringify(value).length
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function missing(param: string, expected: string): GatewayError {
  return new GatewayError('invalid_request', `Missing required parameter: "${param}", ${expected}.`, {
    param,
    publicCode: 'missing_required_parameter'
  })
}

function wrong(param: string, expected: string, got: unknown): GatewayError {
  const kind =
    got === null
      ? 'null'
      : Array.isArray(got)
        ? 'a list'
        : typeof got === 'object'
          ? 'an object'
          : typeof got === 'string'
            ? 'a string'
            : String(got)
  return new GatewayError('invalid_request', `Invalid value for "${param}": expected ${expected}, got ${kind}.`, {
    param,
    publicCode: 'invalid_value'
  })
}
