// Ollama's lines as OpenAI's chat: chunks of a stream, or one whole answer. Shapes: OpenAI's API reference.

import type { Usage } from '../../routing/types.ts'
import { carriesOutput, type NativeLine, type NativeToolCall } from './lines.ts'
import { type Assembly, createBatch, createIdentity, type EventWriter, type ReasoningField, type ReplyPorts, usageJson } from './writing.ts'

/** Several lines of one network chunk become one buffer. Role first, finish last and once, whatever the lines are. */
export function createEventWriter(ports: ReplyPorts, includeUsage: boolean): EventWriter {
  const identity = createIdentity(ports, 'chatcmpl')
  const finishOf = createFinish()
  const nameCalls = createCallNamer(ports.randomId)
  const end = `}]${includeUsage ? ',"usage":null' : ''}}\n\n`
  const plainEnd = `,"logprobs":null,"finish_reason":null${end}`
  let prefix = ''
  let hasRole = false
  const batch = createBatch()

  function add(line: NativeLine): void {
    if (prefix === '') prefix = `data: ${identity(line.createdAt, 'chat.completion.chunk')},"choices":[{"index":0,"delta":`
    const logprobs = line.logprobs === null ? null : JSON.stringify(line.logprobs)
    const textEnd = logprobs === null ? plainEnd : `,"logprobs":{"content":${logprobs},"refusal":null},"finish_reason":null${end}`
    if (!hasRole && (carriesOutput(line) || logprobs !== null || line.done)) addRole(line)
    if (line.thinking !== '')
      batch.text += `${prefix}{${reasoning(ports.reasoningField, line.thinking)}}${line.content === '' ? textEnd : plainEnd}`
    if (line.content !== '' || (logprobs !== null && line.thinking === ''))
      batch.text += `${prefix}{"content":${JSON.stringify(line.content)}}${textEnd}`
    for (const call of nameCalls(line.toolCalls)) batch.text += `${prefix}{"tool_calls":[{"index":${call.index},${call.json}}]}${plainEnd}`
    if (carriesOutput(line)) batch.tokens++
    const finish = finishOf(line)
    if (finish !== null) batch.text += `${prefix}{},"logprobs":null,"finish_reason":"${finish}"${end}`
  }

  function addRole(line: NativeLine): void {
    hasRole = true
    const content = line.toolCalls.length > 0 && line.content === '' ? 'null' : '""'
    batch.text += `${prefix}{"role":"assistant","content":${content},"refusal":null}${plainEnd}`
  }

  return {
    add,
    take: batch.take,
    usageEvent: usage => Buffer.from(`data: ${identity(undefined, 'chat.completion.chunk')},"choices":[],"usage":${usageJson(usage)}}\n\n`)
  }
}

/** Collects the lines of an answer that is not streamed to the client. */
export function createAssembly(ports: ReplyPorts, maxBytes: number): Assembly {
  const identity = createIdentity(ports, 'chatcmpl')
  const finishOf = createFinish()
  const nameCalls = createCallNamer(ports.randomId)
  const contents: string[] = []
  const thoughts: string[] = []
  const calls: string[] = []
  const logprobs: string[] = []
  let start = ''
  let finish = 'stop'
  let bytes = 0

  function add(line: NativeLine): boolean {
    if (start === '') start = identity(line.createdAt, 'chat.completion')
    if (line.content !== '') contents.push(line.content)
    if (line.thinking !== '') thoughts.push(line.thinking)
    for (const call of nameCalls(line.toolCalls)) {
      calls.push(`{${call.json}}`)
      bytes += call.json.length
    }
    if (line.logprobs !== null) {
      // Without its brackets, to be joined with the others.
      const json = JSON.stringify(line.logprobs).slice(1, -1)
      logprobs.push(json)
      bytes += json.length
    }
    bytes += Buffer.byteLength(line.content) + Buffer.byteLength(line.thinking)
    finish = finishOf(line) ?? finish
    return bytes <= maxBytes
  }

  function body(usage: Usage): Buffer {
    const content = contents.join('')
    const message = [
      '"role":"assistant"',
      `"content":${content === '' && calls.length > 0 ? 'null' : JSON.stringify(content)}`,
      ...(thoughts.length > 0 ? [reasoning(ports.reasoningField, thoughts.join(''))] : []),
      ...(calls.length > 0 ? [`"tool_calls":[${calls.join(',')}]`] : []),
      '"refusal":null'
    ].join(',')
    const probabilities = logprobs.length === 0 ? 'null' : `{"content":[${logprobs.join(',')}],"refusal":null}`
    const choice = `{"index":0,"message":{${message}},"logprobs":${probabilities},"finish_reason":"${finish}"}`
    return Buffer.from(`${start},"choices":[${choice}],"usage":${usageJson(usage)}}`)
  }

  return { add, body }
}

/** Null until the last line; then one of OpenAI's words: Ollama's `load`, `unload` and '' mean a normal end. */
function createFinish(): (line: NativeLine) => string | null {
  let hasCalls = false
  return line => {
    hasCalls ||= line.toolCalls.length > 0
    if (!line.done) return null
    if (line.doneReason === 'length') return 'length'
    return hasCalls ? 'tool_calls' : 'stop'
  }
}

/** Ollama may give every call index 0, or no id, or one id twice; clients join calls of equal index into one. */
function createCallNamer(
  randomId: () => string
): (calls: readonly NativeToolCall[]) => readonly { readonly index: number; readonly json: string }[] {
  const ids = new Set<string>()
  let next = 0
  return calls =>
    calls.map(call => {
      const index = next++
      const id = call.id === null || ids.has(call.id) ? `call_${randomId()}` : call.id
      ids.add(id)
      return {
        index,
        json: `"id":${JSON.stringify(id)},"type":"function","function":{"name":${JSON.stringify(call.name)},"arguments":${JSON.stringify(call.arguments)}}`
      }
    })
}

function reasoning(field: ReasoningField, thinking: string): string {
  const text = JSON.stringify(thinking)
  return field === 'both' ? `"reasoning":${text},"reasoning_content":${text}` : `"${field}":${text}`
}
