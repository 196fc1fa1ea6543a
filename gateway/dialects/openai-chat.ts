// POST /v1/chat/completions as our request. OpenAI's form is ours, so the way back is the identity.

import { GatewayError } from '../../routing/errors.ts'
import { estimateTokens } from '../../routing/tokens.ts'
import type { Feature, ModelRequest } from '../../routing/types.ts'
import { type ReadBody, readBody } from '../body.ts'
import { type Facts, isGiven, isRecord, missing, optionalBoolean, optionalRecord, positiveInteger, wrong } from '../fields.ts'
import { type Knobs, readCopies, readModel } from './model.ts'
import { prefixOf, type SizeSoFar } from './prefix.ts'
import { choiceOf, withModel } from './provider-fields.ts'
import { isResponsesShaped, readResponsesRequest } from './responses/request.ts'

export interface ReadChat {
  readonly request: ModelRequest
  /** Hints that a chat request has no place for, where it came in another form. */
  readonly dropped: readonly string[]
}

/**
 * Reads a chat request. Throws GatewayError `invalid_request` naming the field that is wrong.
 * Only what routing needs is checked; what we do not know travels on untouched.
 */
export function readChatRequest(bytes: Buffer, knobs: Knobs): ReadChat {
  const body = readBody(bytes)
  if (!isResponsesShaped(body.facts)) return { request: readChatBody(body, knobs), dropped: [] }
  // Some clients mix the two up, and mean what they would mean there.
  const { chat, dropped } = readResponsesRequest(body.json())
  // What a client of this endpoint wants to hear of usage, it says as here.
  const { stream_options: _always, ...rest } = chat
  const asked = isGiven(body.json().stream_options) ? { ...rest, stream_options: body.json().stream_options } : rest
  return { request: readChatBody(readBody(Buffer.from(JSON.stringify(asked))), knobs), dropped }
}

/** The same of a body that was read already. */
export function readChatBody(given: ReadBody, knobs: Knobs): ModelRequest {
  const body = withModel(given)
  const { facts } = body
  const stream = optionalBoolean(facts, 'stream') ?? false
  const streamOptions = optionalRecord(facts, 'stream_options')
  const content = readMessages(facts.messages)
  const tools = ['tools', 'functions'].reduce((bytes, name) => bytes + (isGiven(facts[name]) ? sizeOf(facts[name], name) : 0), 0)
  const copies = readCopies(facts)
  const { features, sizes, ...size } = content
  const prompt = estimateTokens({ ...size, textBytes: content.textBytes + tools })
  return {
    id: knobs.requestId,
    operation: 'chat',
    body: body.kept,
    model: readModel(body),
    stream,
    includeUsage: stream && streamOptions?.include_usage === true,
    streamOptions,
    maxOutputTokens: positiveInteger(facts, 'max_completion_tokens') ?? positiveInteger(facts, 'max_tokens'),
    needs: needsOf(facts, copies, features),
    choices: copies,
    prompt,
    longest: prompt,
    input: null,
    embedding: null,
    localOnly: knobs.localOnly,
    ...choiceOf(body, knobs),
    ...prefixOf(body, { expectedTokens: prompt.expected, toolsBytes: tools, sizes })
  }
}

interface Content {
  textBytes: number
  messages: number
  pictures: number
  fileBytes: number
  soundBytes: number
  features: Set<Feature>
  /** After each message. */
  sizes: SizeSoFar[]
}

function readMessages(value: unknown): Content {
  if (value === undefined || value === null) throw missing('messages', 'a list of messages')
  if (!Array.isArray(value) || value.length === 0) throw wrong('messages', 'a list of at least one message', value)
  const content: Content = {
    textBytes: 0,
    messages: value.length,
    pictures: 0,
    fileBytes: 0,
    soundBytes: 0,
    features: new Set(),
    sizes: []
  }
  value.forEach((message: unknown, index) => {
    if (!isRecord(message)) throw wrong(`messages[${index}]`, 'an object with a role', message)
    if (typeof message.role !== 'string') throw wrong(`messages[${index}].role`, 'a string', message.role)
    readContent(message.content, `messages[${index}].content`, content)
    if (message.tool_calls !== undefined && message.tool_calls !== null)
      content.textBytes += sizeOf(message.tool_calls, `messages[${index}].tool_calls`)
    content.sizes.push({ textBytes: content.textBytes, pictures: content.pictures })
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
    if (part.type === 'input_audio') {
      content.features.add('audio')
      content.soundBytes += lengthOf(part.input_audio, 'data')
    }
    if (part.type === 'file') {
      content.features.add('file')
      content.fileBytes += lengthOf(part.file, 'file_data')
    }
  })
}

/** Of a text within a part; 0 where there is none. */
function lengthOf(holder: unknown, name: string): number {
  const text = isRecord(holder) ? holder[name] : null
  return typeof text === 'string' ? text.length : 0
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
function needsOf(facts: Facts, copies: number, features: Set<Feature>): readonly Feature[] {
  if (copies > 1) features.add('n')
  if (Array.isArray(facts.functions) && facts.functions.length > 0) features.add('functions')
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

/** Bytes of a list as it was sent, near enough for an estimate. */
function sizeOf(value: unknown, param: string): number {
  if (!Array.isArray(value)) throw wrong(param, 'a list', value)
  return JSON.stringify(value).length
}
