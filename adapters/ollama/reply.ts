// Ollama's lines as OpenAI's answer: chunks of a stream, or one whole completion. Shapes: OpenAI's API reference, chat.

import type { Usage } from '../../routing/types.ts'
import { carriesOutput, type NativeLine, type NativeToolCall } from './lines.ts'

export type ReasoningField = 'reasoning' | 'reasoning_content' | 'both'

export interface ReplyPorts {
  /** The model's name on every chunk. */
  readonly model: string
  readonly reasoningField: ReasoningField
  readonly now: () => number
  readonly randomId: () => string
}

export interface EventWriter {
  add(line: NativeLine): void
  /** The events of all lines since the last time, as SSE, and how many of the lines bring output; null = none. */
  take(): { readonly events: Buffer; readonly tokens: number } | null
  usageEvent(usage: Usage): Buffer
}

/** Several lines of one network chunk become one buffer. Role first, finish last and once, whatever the lines are. */
export function createEventWriter(ports: ReplyPorts, includeUsage: boolean): EventWriter {
  const identity = createIdentity(ports)
  const finishOf = createFinish()
  const nameCalls = createCallNamer(ports.randomId)
  const end = `}]${includeUsage ? ',"usage":null' : ''}}\n\n`
  const plainEnd = `,"logprobs":null,"finish_reason":null${end}`
  let prefix = ''
  let hasRole = false
  let text = ''
  let tokens = 0

  function add(line: NativeLine): void {
    if (prefix === '') prefix = `data: ${identity(line.createdAt, 'chat.completion.chunk')},"choices":[{"index":0,"delta":`
    const { logprobs } = line
    const textEnd = logprobs === null ? plainEnd : `,"logprobs":{"content":${logprobs},"refusal":null},"finish_reason":null${end}`
    if (!hasRole && (carriesOutput(line) || logprobs !== null || line.done)) addRole(line)
    if (line.thinking !== '')
      text += `${prefix}{${reasoning(ports.reasoningField, line.thinking)}}${line.content === '' ? textEnd : plainEnd}`
    if (line.content !== '' || (logprobs !== null && line.thinking === ''))
      text += `${prefix}{"content":${JSON.stringify(line.content)}}${textEnd}`
    for (const call of nameCalls(line.toolCalls)) text += `${prefix}{"tool_calls":[{"index":${call.index},${call.json}}]}${plainEnd}`
    if (carriesOutput(line)) tokens++
    const finish = finishOf(line)
    if (finish !== null) text += `${prefix}{},"logprobs":null,"finish_reason":"${finish}"${end}`
  }

  function addRole(line: NativeLine): void {
    hasRole = true
    const content = line.toolCalls.length > 0 && line.content === '' ? 'null' : '""'
    text += `${prefix}{"role":"assistant","content":${content},"refusal":null}${plainEnd}`
  }

  function take(): { events: Buffer; tokens: number } | null {
    if (text === '') return null
    const batch = { events: Buffer.from(text), tokens }
    text = ''
    tokens = 0
    return batch
  }

  function usageEvent(usage: Usage): Buffer {
    return Buffer.from(`data: ${identity(undefined, 'chat.completion.chunk')},"choices":[],"usage":${usageJson(usage)}}\n\n`)
  }

  return { add, take, usageEvent }
}

export interface Assembly {
  /** False = the answer has become larger than `maxBytes`. */
  add(line: NativeLine): boolean
  body(usage: Usage): Buffer
}

/** Collects the lines of an answer that is not streamed to the client. */
export function createAssembly(ports: ReplyPorts, maxBytes: number): Assembly {
  const identity = createIdentity(ports)
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
    // Without its brackets, to be joined with the others.
    if (line.logprobs !== null) logprobs.push(line.logprobs.slice(1, -1))
    bytes += Buffer.byteLength(line.content) + Buffer.byteLength(line.thinking) + (line.logprobs?.length ?? 0)
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

/**
 * The beginning of every chunk of one attempt. The id is ours, because Ollama's own OpenAI layer numbers 0 to 998;
 * the time is that of the first line, the same on all.
 */
function createIdentity({ model, now, randomId }: ReplyPorts): (createdAt: unknown, object: string) => string {
  const id = JSON.stringify(`chatcmpl-${randomId()}`)
  let created: number | null = null
  return (createdAt, object) => {
    created ??= secondsOf(createdAt) ?? Math.floor(now() / 1000)
    return `{"id":${id},"object":"${object}","created":${created},"model":${JSON.stringify(model)},"system_fingerprint":"fp_ollama"`
  }
}

function secondsOf(createdAt: unknown): number | null {
  if (typeof createdAt !== 'string' || createdAt.length > 64) return null
  const seconds = Math.floor(Date.parse(createdAt) / 1000)
  // Go writes a time that was never set as the year 1.
  return seconds > 0 ? seconds : null
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

function usageJson({ promptTokens, completionTokens }: Usage): string {
  return JSON.stringify({ prompt_tokens: promptTokens, completion_tokens: completionTokens, total_tokens: promptTokens + completionTokens })
}
