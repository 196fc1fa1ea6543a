// The demo model: answers when nothing is configured, says what to set, and repeats what it was told. Deterministic and free.

import { GatewayError } from '../routing/errors.ts'
import type { Adapter, Attempt, AttemptHandle, AttemptObserver, Usage } from '../routing/types.ts'

const advice =
  'This is the demo model of llm-mcp: no model is connected yet. Start Ollama on this machine, or set OLLAMA_HOST, ' +
  'OPENROUTER_API_KEY or OPENAI_API_KEY, or write an llm-mcp.yaml (see llm-mcp.example.yaml), and start again.'
const repeatedCharactersAtMost = 2_000

export function createAdapter(ports: { readonly now: () => number; readonly randomId: () => string }): Adapter {
  const identity = (prefix: string): Identity => ({ id: `${prefix}-${ports.randomId()}`, created: Math.floor(ports.now() / 1_000) })
  return {
    name: 'echo',
    // A model that may use tools may also answer in words; a schema it could not keep.
    features: new Set(['audio', 'file', 'reasoning', 'tools', 'vision']),
    chat: (attempt, observer) => answer(attempt, observer, identity('chatcmpl')),
    complete: (attempt, observer) => answer(attempt, observer, identity('cmpl')),
    // No embeddings: a made-up vector is worse than an error.
    listModels: async () => []
  }
}

interface Identity {
  readonly id: string
  readonly created: number
}

function answer(attempt: Attempt, observer: AttemptObserver, identity: Identity): AttemptHandle {
  const { request, target } = attempt
  const isChat = request.operation === 'chat'
  const chunkObject = isChat ? 'chat.completion.chunk' : 'text_completion'
  const words = textFor(attempt).match(/\S+\s*/g) ?? []
  const usage: Usage = {
    promptTokens: request.prompt.expected,
    completionTokens: words.length,
    cachedTokens: 0,
    reasoningTokens: 0,
    providerNanoUsd: null,
    busyMs: null
  }
  const wireUsage = {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens
  }
  const base = { ...identity, model: target.model, system_fingerprint: 'fp_echo' }
  let word = -1
  let over = false
  let timer: NodeJS.Immediate | null = setImmediate(next)

  function next(): void {
    timer = null
    if (over) return
    if (!request.stream) return whole()
    if (word === -1) {
      if (isChat) observer.frames(chunk({ delta: { role: 'assistant', content: '', refusal: null } }, null), 0)
    } else if (word < words.length) {
      word++
      if (!observer.frames(piece(words[word - 1] ?? '', null), 1)) return
      timer = setImmediate(next)
      return
    } else {
      observer.frames(isChat ? chunk({ delta: {} }, 'stop') : piece('', 'stop'), 1)
      // The reader may have left while it was being told.
      if (over) return
      observer.usage(usage, frame({ ...base, object: chunkObject, choices: [], usage: wireUsage }))
      over = true
      return observer.end({ ok: true })
    }
    word = 0
    timer = setImmediate(next)
  }

  function whole(): void {
    over = true
    const text = words.join('')
    const said = isChat ? { message: { role: 'assistant', content: text, refusal: null } } : { text }
    observer.usage(usage, null)
    observer.body(
      Buffer.from(
        JSON.stringify({
          ...base,
          object: isChat ? 'chat.completion' : 'text_completion',
          choices: [{ index: 0, ...said, logprobs: null, finish_reason: 'stop' }],
          usage: wireUsage
        })
      )
    )
    observer.end({ ok: true })
  }

  function piece(text: string, finish: string | null): Buffer {
    return chunk(isChat ? { delta: { content: text } } : { text }, finish)
  }

  function chunk(said: object, finish: string | null): Buffer {
    const choices = [{ index: 0, ...said, logprobs: null, finish_reason: finish }]
    return frame({ ...base, object: chunkObject, choices, ...(request.includeUsage ? { usage: null } : {}) })
  }

  return {
    resume() {
      if (!over && timer === null) timer = setImmediate(next)
    },
    abort() {
      if (over) return
      over = true
      if (timer !== null) clearImmediate(timer)
      observer.end({ ok: false, error: new GatewayError('client_gone', 'The client went away.'), sent: true })
    }
  }
}

function frame(value: unknown): Buffer {
  return Buffer.from(`data: ${JSON.stringify(value)}\n\n`)
}

function textFor({ request }: Attempt): string {
  const said = request.input === null ? lastSaid(request.body.json().messages) : (request.input.texts[0] ?? '')
  return said === '' ? advice : `${advice} You said: ${said.slice(0, repeatedCharactersAtMost)}`
}

function lastSaid(messages: unknown): string {
  if (!Array.isArray(messages)) return ''
  return (
    messages
      .map(textOf)
      .filter(text => text !== '')
      .at(-1) ?? ''
  )
}

/** The text of a user message; parts joined. */
function textOf(message: unknown): string {
  if (typeof message !== 'object' || message === null || !('role' in message) || message.role !== 'user' || !('content' in message))
    return ''
  if (typeof message.content === 'string') return message.content
  if (!Array.isArray(message.content)) return ''
  return message.content
    .map(part => (typeof part === 'object' && part !== null && 'text' in part && typeof part.text === 'string' ? part.text : ''))
    .join(' ')
    .trim()
}
