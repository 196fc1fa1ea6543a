// OpenAI's messages as Ollama's: one string of content, raw base64 images beside it, arguments as objects.

import { isGiven, isObject, type Json, unsupported, wrong } from './values.ts'

const nativeRoles = new Map<unknown, string>([
  ['developer', 'system'],
  ['system', 'system'],
  ['user', 'user'],
  ['assistant', 'assistant'],
  ['tool', 'tool'],
  ['function', 'tool']
])

// The only beginnings that Ollama's own OpenAI layer takes, and gif.
const imageUri = /^data:(?:image\/(?:jpeg|jpg|png|webp|gif))?;base64,/i

/** Throws GatewayError `invalid_request` or `unsupported_parameter` with the path of what is wrong. */
export function toNativeMessages(messages: unknown): Json[] {
  // To Ollama an empty list means "load the model and say nothing".
  if (!Array.isArray(messages) || messages.length === 0) throw wrong('messages', 'a list of at least one message')
  const toolNames = new Map<string, string>()
  return messages.map((message: unknown, index) => toNativeMessage(message, `messages[${index}]`, toolNames))
}

/** `toolNames`: the tools called so far by the id of the call; a tool's answer needs the name again. */
function toNativeMessage(message: unknown, path: string, toolNames: Map<string, string>): Json {
  if (!isObject(message)) throw wrong(path, 'an object')
  const role = nativeRoles.get(message.role)
  if (role === undefined) throw wrong(`${path}.role`, `one of ${[...nativeRoles.keys()].join(', ')}`)
  const { text, images } = contentOf(message.content, `${path}.content`)
  const native: Record<string, unknown> = { role, content: text }
  if (images.length > 0) native.images = images
  if (role === 'assistant') addAssistant(native, message, path, toolNames)
  if (role === 'tool') addTool(native, message, path, toolNames)
  return native
}

function contentOf(content: unknown, path: string): { text: string; images: string[] } {
  if (!isGiven(content)) return { text: '', images: [] }
  if (typeof content === 'string') return { text: content, images: [] }
  if (!Array.isArray(content)) throw wrong(path, 'a string, a list of parts or null')
  const texts: string[] = []
  const images: string[] = []
  content.forEach((part: unknown, index) => {
    const at = `${path}[${index}]`
    if (!isObject(part)) throw wrong(at, 'an object')
    switch (part.type) {
      case 'text':
        if (typeof part.text !== 'string') throw wrong(`${at}.text`, 'a string')
        texts.push(part.text)
        break
      case 'image_url':
        images.push(imageOf(part.image_url, `${at}.image_url`))
        break
      case 'input_audio':
      case 'file':
        throw unsupported(`${at}.${part.type}`, `Ollama takes text and images; a part of type ${part.type} cannot be sent to it.`)
      default:
        throw wrong(`${at}.type`, 'text or image_url')
    }
  })
  return { text: texts.join('\n'), images }
}

/** The base64 alone. A bare string is taken too, as Ollama does. */
function imageOf(image: unknown, path: string): string {
  const url = isObject(image) ? image.url : image
  if (typeof url !== 'string') throw wrong(path, 'an object with a url')
  const start = imageUri.exec(url)
  if (start === null || start[0].length === url.length) {
    throw wrong(path, 'a data: URI with base64 of a jpeg, png, webp or gif; images are not fetched from other addresses')
  }
  return url.slice(start[0].length)
}

function addAssistant(native: Record<string, unknown>, message: Json, path: string, toolNames: Map<string, string>): void {
  const field = isGiven(message.reasoning) ? 'reasoning' : 'reasoning_content'
  const thinking = message[field]
  if (isGiven(thinking) && typeof thinking !== 'string') throw wrong(`${path}.${field}`, 'a string')
  if (isGiven(thinking) && thinking !== '') native.thinking = thinking
  const calls: Json[] = []
  if (isGiven(message.tool_calls)) {
    if (!Array.isArray(message.tool_calls)) throw wrong(`${path}.tool_calls`, 'a list')
    for (const [index, call] of message.tool_calls.entries()) calls.push(callOf(call, `${path}.tool_calls[${index}]`, toolNames))
  }
  if (isGiven(message.function_call)) calls.push({ function: functionOf(message.function_call, `${path}.function_call`) })
  if (calls.length > 0) native.tool_calls = calls
}

function callOf(call: unknown, path: string, toolNames: Map<string, string>): Json {
  if (!isObject(call)) throw wrong(path, 'an object')
  if (isGiven(call.type) && call.type !== 'function') throw unsupported(`${path}.type`, 'Ollama knows tool calls of type function only.')
  const called = functionOf(call.function, `${path}.function`)
  if (!isGiven(call.id)) return { function: called }
  if (typeof call.id !== 'string') throw wrong(`${path}.id`, 'a string')
  toolNames.set(call.id, called.name)
  return { id: call.id, function: called }
}

function functionOf(called: unknown, path: string): { name: string; arguments: Json } {
  if (!isObject(called)) throw wrong(path, 'an object')
  if (typeof called.name !== 'string') throw wrong(`${path}.name`, 'a string')
  return { name: called.name, arguments: argumentsOf(called.arguments ?? '', `${path}.arguments`) }
}

function argumentsOf(text: unknown, path: string): Json {
  if (isObject(text)) return text
  if (typeof text !== 'string') throw wrong(path, 'a string of JSON')
  if (text.trim() === '') return {}
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    // The parser's own message quotes the text, which is the client's business.
    throw wrong(path, 'a string of valid JSON')
  }
  if (!isObject(parsed)) throw wrong(path, 'a JSON object')
  return parsed
}

function addTool(native: Record<string, unknown>, message: Json, path: string, toolNames: Map<string, string>): void {
  const { tool_call_id: id, name } = message
  if (isGiven(id) && typeof id !== 'string') throw wrong(`${path}.tool_call_id`, 'a string')
  if (isGiven(name) && typeof name !== 'string') throw wrong(`${path}.name`, 'a string')
  if (typeof id === 'string') native.tool_call_id = id
  const toolName = typeof id === 'string' ? (toolNames.get(id) ?? name) : name
  if (isGiven(toolName)) native.tool_name = toolName
}
