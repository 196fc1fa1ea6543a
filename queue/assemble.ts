// One chat completion out of the chunks of a stream, as the openai SDK puts it together (lib/ChatCompletionStream, 7.55).

import { GatewayError } from '../routing/errors.ts'

export interface Assembler {
  /** Throws GatewayError `upstream_broke` for what is no chunk, and when all of them are too large together. */
  chunk(json: unknown): void
  /** What has come so far. Throws GatewayError `upstream_broke` when nothing has. */
  completion(): Record<string, unknown>
}

type Json = Record<string, unknown>

// As for answers that are not streamed.
const bytesAtMost = 64 * 1024 * 1024
// As the SDK: without a limit one index would make an array of any length.
const partsAtMost = 128

export function createAssembler(): Assembler {
  const choices: Json[] = []
  let head: Json | null = null
  let bytes = 0

  /** What is kept for good, counted as it grows. */
  function weigh(value: unknown): void {
    bytes += typeof value === 'string' ? value.length : JSON.stringify(value).length
    if (bytes > bytesAtMost) throw broken(`sent an answer of more than ${bytesAtMost} bytes`)
  }

  function chunk(json: unknown): void {
    if (!isRecord(json)) throw broken('sent a chunk that is no object')
    const { choices: parts, obfuscation: _, ...rest } = json
    if (parts !== undefined && parts !== null && !Array.isArray(parts)) throw broken('sent a chunk whose choices are no array')
    // A chunk without an id adds nothing but its choices. A later null takes nothing back: usage comes once, whatever follows.
    if (head === null) assign((head = {}), rest)
    else if (given(json.id)) {
      for (const [name, value] of Object.entries(rest)) {
        if (!Object.hasOwn(head, name)) assign(head, { [name]: value })
        else set(head, name, value ?? head[name])
      }
    }
    for (const part of parts ?? []) if (isRecord(part)) addChoice(part)
  }

  function addChoice(part: Json): void {
    const { delta, finish_reason, index, logprobs, ...other } = part
    const choice = at(choices, index, () => ({ finish_reason: null, index, message: {}, logprobs: null }))
    assign(choice, other)
    if (isRecord(logprobs)) addLogprobs(choice, logprobs)
    if (given(finish_reason)) choice.finish_reason = finish_reason
    if (isRecord(delta)) addDelta(choice.message as Json, delta)
  }

  function addLogprobs(choice: Json, logprobs: Json): void {
    weigh(logprobs)
    const before = choice.logprobs as Json | null
    if (before === null) choice.logprobs = Object.fromEntries(Object.entries(logprobs).map(([name, value]) => [name, copied(value)]))
    else {
      for (const [name, value] of Object.entries(logprobs)) {
        const known = before[name]
        if (!Array.isArray(value)) set(before, name, value ?? known)
        else if (Array.isArray(known)) for (const one of value) known.push(one)
        else set(before, name, copied(value))
      }
    }
  }

  function addDelta(message: Json, delta: Json): void {
    const { content, refusal, role, reasoning, reasoning_content, reasoning_details, function_call, tool_calls, audio, ...rest } = delta
    assign(message, rest)
    if (given(role)) message.role = role
    grow(message, 'content', content)
    grow(message, 'refusal', refusal === '' ? null : refusal)
    // The SDK keeps only the last piece of what it does not know; thoughts are wanted whole.
    grow(message, 'reasoning', reasoning)
    grow(message, 'reasoning_content', reasoning_content)
    if (Array.isArray(reasoning_details)) {
      weigh(reasoning_details)
      message.reasoning_details = [...((message.reasoning_details as unknown[] | undefined) ?? []), ...reasoning_details]
    }
    if (isRecord(function_call)) addFunction(message, 'function_call', function_call)
    if (isRecord(audio)) addAudio(message, audio)
    if (!Array.isArray(tool_calls)) return
    const calls = (message.tool_calls ??= []) as Json[]
    for (const call of tool_calls) if (isRecord(call)) addCall(calls, call)
  }

  function addCall(calls: Json[], delta: Json): void {
    const { index, id, type, function: called, custom, ...rest } = delta
    const call = at(calls, index, () => ({}))
    assign(call, rest)
    if (given(id)) call.id = id
    if (given(type)) call.type = type
    if (isRecord(called)) {
      call.type ??= 'function'
      addFunction(call, 'function', called)
    }
    if (isRecord(custom)) {
      const known = (call.custom ??= { name: '', input: '' }) as Json
      if (given(custom.name)) known.name = custom.name
      grow(known, 'input', custom.input)
    }
  }

  function addFunction(holder: Json, field: 'function' | 'function_call', delta: Json): void {
    const known = (holder[field] ??= { name: '', arguments: '' }) as Json
    if (given(delta.name)) known.name = delta.name
    grow(known, 'arguments', delta.arguments)
  }

  function addAudio(message: Json, delta: Json): void {
    const known = (message.audio ??= {}) as Json
    if (given(delta.id)) known.id = delta.id
    grow(known, 'data', delta.data)
    grow(known, 'transcript', delta.transcript)
    if (given(delta.expires_at)) known.expires_at = delta.expires_at
  }

  function grow(holder: Json, field: string, piece: unknown): void {
    if (typeof piece !== 'string') return
    weigh(piece)
    const known = holder[field]
    holder[field] = typeof known === 'string' ? known + piece : piece
  }

  /** Fields that nobody knows: the last word holds, as with the SDK. */
  function assign(target: Json, source: Json): void {
    for (const [name, value] of Object.entries(source)) {
      weigh(name)
      if (value !== null && value !== undefined) weigh(value)
      set(target, name, value)
    }
  }

  return {
    chunk,
    completion() {
      if (head === null) throw broken('sent no chunk')
      const { system_fingerprint, ...rest } = head
      return {
        ...rest,
        ...(given(system_fingerprint) ? { system_fingerprint } : {}),
        object: 'chat.completion',
        choices: choices.filter(choice => choice !== undefined).map(finished)
      }
    }
  }
}

/** With what a message of a completion always has. */
function finished(choice: Json): Json {
  const message = choice.message as Json
  const calls = message.tool_calls as Json[] | undefined
  return {
    ...choice,
    finish_reason: choice.finish_reason ?? 'stop',
    message: {
      ...message,
      role: 'assistant',
      content: message.content ?? null,
      refusal: message.refusal ?? null,
      ...(calls === undefined ? {} : { tool_calls: calls.filter(call => call !== undefined) })
    }
  }
}

function at(list: Json[], index: unknown, create: () => Json): Json {
  if (typeof index !== 'number' || !Number.isSafeInteger(index) || index < 0 || index >= partsAtMost)
    throw broken('sent a chunk with an index that is none')
  return (list[index] ??= create())
}

/** What a name like `__proto__` is called by stays a field. */
function set(target: Json, name: string, value: unknown): void {
  Object.defineProperty(target, name, { value, writable: true, enumerable: true, configurable: true })
}

function copied(value: unknown): unknown {
  return Array.isArray(value) ? [...value] : value
}

function given(value: unknown): boolean {
  return value !== null && value !== undefined && value !== ''
}

function isRecord(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function broken(what: string): GatewayError {
  return new GatewayError('upstream_broke', `The upstream ${what}.`)
}
