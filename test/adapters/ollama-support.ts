// What the tests of the Ollama adapter are made of: a target, attempts, a listener, a fake machine and its lines.

import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { createAdapter } from '../../adapters/ollama.ts'
import { createOutbound } from '../../outbound/client.ts'
import type { Attempt, AttemptEnd, AttemptObserver, Device, Target, Upstream, Usage } from '../../routing/types.ts'

export type Json = Record<string, unknown>
export type ReasoningField = 'reasoning' | 'reasoning_content' | 'both'

export const device: Device = { id: 'home', maxConcurrency: 1, watts: 100, vramGb: 24, ramGb: null, keepAlive: null, numCtx: null }

export const upstream: Upstream = {
  id: 'home',
  adapter: 'ollama',
  own: true,
  baseUrl: 'http://127.0.0.1:9',
  apiKey: null,
  headers: {},
  device,
  timeouts: { connectMs: 1000, firstTokenMs: 5000, idleMs: 5000, totalMs: 20_000 },
  models: null,
  auto: [],
  streamUsage: true,
  registryId: null
}

export const target: Target = {
  id: 'home/qwen3:8b',
  upstream,
  model: 'qwen3:8b',
  contextTokens: 4096,
  maxOutputTokens: null,
  features: null,
  operations: ['chat', 'complete'],
  loaded: true,
  price: { source: 'electricity', tokens: null },
  createdAt: 0
}

export const hello = { model: 'x', messages: [{ role: 'user', content: 'hello' }] }

interface AttemptChanges {
  readonly body?: Json
  readonly stream?: boolean
  readonly includeUsage?: boolean
  readonly target?: Partial<Target>
  readonly upstream?: Partial<Upstream>
}

export function attemptFor(changes: AttemptChanges): Attempt {
  const body = changes.body ?? hello
  return {
    id: 'attempt-1',
    target: { ...target, ...changes.target, upstream: { ...upstream, ...changes.upstream } },
    request: {
      id: 'request-1',
      operation: 'chat',
      model: 'x',
      stream: changes.stream ?? true,
      includeUsage: changes.includeUsage ?? false,
      streamOptions: null,
      body: { bytes: Buffer.alloc(0), json: () => body, with: () => Buffer.alloc(0) },
      maxOutputTokens: null,
      needs: [],
      choices: 1,
      prompt: { low: 1, expected: 1 },
      longest: { low: 1, expected: 1 },
      input: null,
      embedding: null,
      localOnly: false
    }
  }
}

export interface Heard {
  readonly calls: string[]
  frames: Buffer
  tokens: number[]
  body: Buffer | null
  usage: Usage | null
  usageEvent: Buffer | null
  room: boolean
  readonly ended: Promise<AttemptEnd>
  readonly observer: AttemptObserver
}

export function listen(): Heard {
  let tell: (end: AttemptEnd) => void
  const heard: Heard = {
    calls: [],
    frames: Buffer.alloc(0),
    tokens: [],
    body: null,
    usage: null,
    usageEvent: null,
    room: true,
    ended: new Promise(resolve => {
      tell = resolve
    }),
    observer: {
      frames(events, tokens) {
        heard.calls.push('frames')
        heard.frames = Buffer.concat([heard.frames, events])
        heard.tokens.push(tokens)
        return heard.room
      },
      body(json) {
        heard.calls.push('body')
        heard.body = json
      },
      usage(usage, event) {
        heard.calls.push('usage')
        heard.usage = usage
        heard.usageEvent = event
      },
      end(end) {
        heard.calls.push('end')
        tell(end)
      }
    }
  }
  return heard
}

/** The parsed chunks of an SSE text; fails on anything that is not `data: <json>` and a blank line. */
export function chunksOf(sse: Buffer): Json[] {
  const text = sse.toString()
  if (text !== '' && !text.endsWith('\n\n')) throw new Error('not whole events')
  return text
    .split('\n\n')
    .slice(0, -1)
    .map(event => {
      if (!event.startsWith('data: ') || event.includes('\n')) throw new Error(`not one data line: ${event}`)
      return JSON.parse(event.slice(6))
    })
}

interface Choice {
  readonly delta: Json
  readonly finish_reason: unknown
  readonly logprobs: unknown
}
export const choiceOf = (chunk: Json): Choice => (chunk.choices as [Choice])[0]
export const deltasOf = (sse: Buffer): Json[] => chunksOf(sse).map(chunk => choiceOf(chunk).delta)

export async function serve(t: Test, handler: RequestListener): Promise<string> {
  const server = createServer(handler)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

export function createPorts(t: Test, reasoningField: ReasoningField = 'reasoning') {
  const outbound = createOutbound()
  t.teardown(() => outbound.close())
  let id = 0
  return { outbound, reasoningField, now: () => 1_790_000_000_999, randomId: () => `r${id++}` }
}

/** One attempt against a fake Ollama, to its end. */
export async function ask(
  t: Test,
  handler: RequestListener,
  changes: AttemptChanges = {},
  reasoningField?: ReasoningField
): Promise<{ heard: Heard; end: AttemptEnd }> {
  const baseUrl = await serve(t, handler)
  const heard = listen()
  createAdapter(createPorts(t, reasoningField)).chat(attemptFor({ ...changes, upstream: { baseUrl, ...changes.upstream } }), heard.observer)
  const end = await heard.ended
  return { heard, end }
}

export async function bodyOf(request: IncomingMessage): Promise<Json> {
  let text = ''
  for await (const chunk of request) text += chunk
  return JSON.parse(text)
}

export function startNdjson(response: ServerResponse): ServerResponse {
  return response.writeHead(200, { 'content-type': 'application/x-ndjson' })
}

export const answer =
  (lines: readonly unknown[]): RequestListener =>
  (_request, response) => {
    startNdjson(response).end(lines.map(line => `${typeof line === 'string' ? line : JSON.stringify(line)}\n`).join(''))
  }

/** Waits for a condition, with an end. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const endMs = performance.now() + 10_000
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`waited in vain until ${what}`)
    await new Promise(resolve => setImmediate(resolve))
  }
}

/** Time for something to happen that must not. */
export async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(resolve => setImmediate(resolve))
}

const createdAt = '2026-09-01T10:00:00.123456789Z'
export const line = (message: Json, rest: Json = {}): Json => ({
  model: 'qwen3:8b',
  created_at: createdAt,
  message: { role: 'assistant', content: '', ...message },
  done: false,
  ...rest
})
const counters = {
  total_duration: 1_897_385_625,
  load_duration: 1_631_208,
  prompt_eval_count: 17,
  prompt_eval_duration: 313_560_000,
  eval_count: 50,
  eval_duration: 1_577_990_000
}
export const done = (rest: Json = {}): Json => line({}, { done: true, done_reason: 'stop', ...counters, ...rest })

// In the shape of recorded traffic: thoughts, text in many scripts, two calls with index 0, the counters.
export const recorded = [
  line({ thinking: 'Nün' }),
  line({ thinking: ' denk\n"nach"' }),
  line({ content: 'Grüße' }),
  line({ content: ' 日本語 👩‍👩‍👧 \u2028 \\ "' }),
  line({ content: '\n\n' }),
  line({ tool_calls: [{ id: 'call_a', function: { index: 0, name: 'get_weather', arguments: { city: 'Tromsø', days: [1, 2] } } }] }),
  line({ tool_calls: [{ function: { index: 0, name: 'get_time', arguments: {} } }] }),
  done()
]
export const recordedBytes = Buffer.from(recorded.map(entry => `${JSON.stringify(entry)}\n`).join(''))

/** An answer with this status, body and headers. */
export const status =
  (code: number, body: unknown, headers: Record<string, string> = {}): RequestListener =>
  (_request, response) => {
    response.writeHead(code, headers).end(typeof body === 'string' ? body : JSON.stringify(body))
  }
