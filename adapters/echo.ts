// The demo model: answers when nothing is configured, says what to set, and repeats what it was told. Deterministic and free.

import { GatewayError } from '../routing/errors.ts'
import type { Adapter, Attempt, AttemptHandle, AttemptObserver, Usage } from '../routing/types.ts'

const advice =
  'This is the demo model of llm-mcp: no model is connected yet. Start Ollama on this machine, or set OLLAMA_HOST, ' +
  'OPENROUTER_API_KEY or OPENAI_API_KEY, or write an llm-mcp.yaml (see llm-mcp.example.yaml), and start again.'
const repeatedCharactersAtMost = 2_000

export function createAdapter(ports: { readonly now: () => number; readonly randomId: () => string }): Adapter {
  return {
    name: 'echo',
    // A model that may use tools may also answer in words; a schema it could not keep.
    features: new Set(['audio', 'file', 'reasoning', 'tools', 'vision']),
    chat: (attempt, observer) => answer(attempt, observer, `chatcmpl-${ports.randomId()}`, Math.floor(ports.now() / 1_000)),
    listModels: async () => []
  }
}

function answer(attempt: Attempt, observer: AttemptObserver, id: string, created: number): AttemptHandle {
  const { request, target } = attempt
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
  const base = { id, created, model: target.model, system_fingerprint: 'fp_echo' }
  let word = -1
  let over = false
  let timer: NodeJS.Immediate | null = setImmediate(next)

  function next(): void {
    timer = null
    if (over) return
    if (!request.stream) return whole()
    if (word === -1) {
      observer.frames(chunk({ role: 'assistant', content: '', refusal: null }, null), 0)
    } else if (word < words.length) {
      word++
      if (!observer.frames(chunk({ content: words[word - 1] }, null), 1)) return
      timer = setImmediate(next)
      return
    } else {
      observer.frames(chunk({}, 'stop'), 1)
      // The reader may have left while it was being told.
      if (over) return
      observer.usage(usage, frame({ ...base, object: 'chat.completion.chunk', choices: [], usage: wireUsage }))
      over = true
      return observer.end({ ok: true })
    }
    word = 0
    timer = setImmediate(next)
  }

  function whole(): void {
    over = true
    observer.usage(usage, null)
    observer.body(
      Buffer.from(
        JSON.stringify({
          ...base,
          object: 'chat.completion',
          choices: [
            { index: 0, message: { role: 'assistant', content: words.join(''), refusal: null }, logprobs: null, finish_reason: 'stop' }
          ],
          usage: wireUsage
        })
      )
    )
    observer.end({ ok: true })
  }

  function chunk(delta: unknown, finish: string | null): Buffer {
    const choices = [{ index: 0, delta, logprobs: null, finish_reason: finish }]
    return frame({ ...base, object: 'chat.completion.chunk', choices, ...(request.includeUsage ? { usage: null } : {}) })
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

function textFor(attempt: Attempt): string {
  const { messages } = attempt.request.body.json()
  const said = Array.isArray(messages)
    ? (messages
        .map(textOf)
        .filter(text => text !== '')
        .at(-1) ?? '')
    : ''
  return said === '' ? advice : `${advice} You said: ${said.slice(0, repeatedCharactersAtMost)}`
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
