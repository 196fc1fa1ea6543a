// The input of a Responses request as chat messages: items of many types become turns of four roles.

import {
  givenOf,
  isGiven,
  isRecord,
  type Json,
  missing,
  optionalList,
  optionalString,
  requiredName,
  requiredRecord,
  requiredString,
  unsupported,
  wrong
} from './fields.ts'

// Far above any conversation; without a bound one body could ask for millions of objects.
const itemsAtMost = 10_000
const partsAtMost = 2_000

const hosted = 'the gateway runs no hosted tools, and keeps nothing of them'

/**
 * `input` as messages, with `instructions` as a system message in front.
 * Throws GatewayError `invalid_request` or `unsupported_parameter`, naming the item and the field.
 */
export function readInput(input: unknown, instructions: string | null): Json[] {
  const messages: Json[] = instructions === null ? [] : [{ role: 'system', content: instructions }]
  if (!isGiven(input)) throw missing('input', 'a string or a list of items')
  if (typeof input === 'string') return [...messages, { role: 'user', content: input }]
  if (!Array.isArray(input) || input.length === 0) throw wrong('input', 'a string or a list of at least one item', input)
  const items = optionalList(input, 'input', itemsAtMost) ?? []
  for (const [index, item] of items.entries()) readItem(requiredRecord(item, `input[${index}]`), `input[${index}]`, messages)
  if (messages.length === 0) throw wrong('input', 'at least one message', input)
  return messages
}

function readItem(item: Json, param: string, messages: Json[]): void {
  const type = item.type ?? (isGiven(item.role) ? 'message' : item.type)
  if (typeof type !== 'string') throw missing(`${param}.type`, 'the type of the item, or a "role"')
  switch (type) {
    case 'message':
      return readMessage(item, param, messages)
    case 'function_call':
      return addCall(messages, readFunctionCall(item, param))
    case 'custom_tool_call':
      return addCall(messages, readCustomCall(item, param))
    case 'function_call_output':
    case 'custom_tool_call_output':
      messages.push({ role: 'tool', tool_call_id: requiredName(item.call_id, `${param}.call_id`), content: readOutput(item.output, param) })
      return
    case 'reasoning':
      // A chat request has no agreed place for thoughts, and most models do not want their old ones back.
      return
    case 'item_reference':
      throw unsupported(
        param,
        'an item is remembered for an hour at most, and by one gateway only; send the item itself, or "store": false, which makes clients do so'
      )
    default:
      throw unsupported(param, `items of type "${type.slice(0, 64)}" cannot be sent to a chat model; ${hosted}`)
  }
}

function readMessage(item: Json, param: string, messages: Json[]): void {
  switch (item.role) {
    case 'assistant':
      return addAssistant(messages, readAssistant(item.content, `${param}.content`))
    case 'user':
    case 'system':
    case 'developer':
      messages.push({ role: item.role, content: readContent(item.content, `${param}.content`) })
      return
    default:
      throw wrong(`${param}.role`, 'user, assistant, system or developer', item.role)
  }
}

/** One text alone stays a string: every server reads those, and not every one reads parts. */
function readContent(content: unknown, param: string): string | Json[] {
  if (typeof content === 'string') return content
  const parts = partsOf(content, param).map((part, index) => readPart(part, `${param}[${index}]`))
  const [first] = parts
  return parts.length === 1 && first?.type === 'text' ? (first.text as string) : parts
}

function partsOf(content: unknown, param: string): Json[] {
  if (!isGiven(content)) throw missing(param, 'a string or a list of parts')
  if (!Array.isArray(content)) throw wrong(param, 'a string or a list of parts', content)
  return (optionalList(content, param, partsAtMost) ?? []).map((part, index) => requiredRecord(part, `${param}[${index}]`))
}

function readPart(part: Json, param: string): Json {
  switch (part.type) {
    case 'input_text':
    case 'output_text':
    case 'text':
      return { type: 'text', text: requiredString(part.text, `${param}.text`) }
    case 'input_image':
      return readImage(part, param)
    case 'input_file':
      return readFile(part, param)
    case 'input_audio':
      return { type: 'input_audio', input_audio: requiredRecord(part.input_audio, `${param}.input_audio`) }
    default:
      throw wrong(`${param}.type`, 'input_text, input_image, input_file or input_audio', part.type)
  }
}

function readImage(part: Json, param: string): Json {
  if (isGiven(part.file_id)) throw unsupported(`${param}.file_id`, 'it keeps no files; send the picture as a data: URI in "image_url"')
  const url = requiredName(part.image_url, `${param}.image_url`)
  const detail = optionalString(part.detail, `${param}.detail`)
  return { type: 'image_url', image_url: givenOf({ url, detail }) }
}

function readFile(part: Json, param: string): Json {
  if (isGiven(part.file_id)) throw unsupported(`${param}.file_id`, 'it keeps no files; send the bytes in "file_data"')
  if (isGiven(part.file_url)) throw unsupported(`${param}.file_url`, 'it fetches no addresses; send the bytes in "file_data"')
  const data = requiredName(part.file_data, `${param}.file_data`)
  return { type: 'file', file: givenOf({ filename: optionalString(part.filename, `${param}.filename`), file_data: data }) }
}

function readAssistant(content: unknown, param: string): Json {
  if (typeof content === 'string') return { role: 'assistant', content }
  const texts: string[] = []
  const refusals: string[] = []
  partsOf(content, param).forEach((part, index) => {
    if (part.type === 'refusal') refusals.push(requiredString(part.refusal, `${param}[${index}].refusal`))
    else if (part.type === 'output_text' || part.type === 'input_text' || part.type === 'text')
      texts.push(requiredString(part.text, `${param}[${index}].text`))
    else throw wrong(`${param}[${index}].type`, 'output_text or refusal', part.type)
  })
  return {
    role: 'assistant',
    content: texts.length === 0 && refusals.length > 0 ? null : texts.join(''),
    ...(refusals.length > 0 ? { refusal: refusals.join('') } : {})
  }
}

function readFunctionCall(item: Json, param: string): Json {
  const id = requiredName(item.call_id, `${param}.call_id`)
  const name = requiredName(item.name, `${param}.name`)
  return { id, type: 'function', function: { name, arguments: requiredString(item.arguments, `${param}.arguments`) } }
}

function readCustomCall(item: Json, param: string): Json {
  const id = requiredName(item.call_id, `${param}.call_id`)
  const name = requiredName(item.name, `${param}.name`)
  return { id, type: 'custom', custom: { name, input: requiredString(item.input, `${param}.input`) } }
}

/** A chat's tool message takes text only. */
function readOutput(output: unknown, item: string): string {
  const param = `${item}.output`
  if (typeof output === 'string') return output
  const parts = partsOf(output, param).map((part, index) => {
    const { type } = part
    if (type === 'input_text' || type === 'output_text' || type === 'text') return requiredString(part.text, `${param}[${index}].text`)
    throw unsupported(`${param}[${index}].type`, 'the output of a tool is text for a chat model')
  })
  return parts.join('')
}

/**
 * Calls that follow each other, and the words said before or between them, were one turn of the assistant; a chat
 * must have them in one message, since the tools' answers have to follow it at once.
 */
function addCall(messages: Json[], call: Json): void {
  const last = messages.at(-1)
  if (last?.role !== 'assistant') messages.push({ role: 'assistant', content: null, tool_calls: [call] })
  else if (Array.isArray(last.tool_calls)) last.tool_calls.push(call)
  else last.tool_calls = [call]
}

function addAssistant(messages: Json[], message: Json): void {
  const last = messages.at(-1)
  if (!isRecord(last) || last.role !== 'assistant' || !Array.isArray(last.tool_calls)) {
    messages.push(message)
    return
  }
  for (const field of ['content', 'refusal']) {
    if (typeof message[field] === 'string') last[field] = `${last[field] ?? ''}${message[field]}`
  }
}
