// Calls of a compatible server without a network, for the tests of what adapters/shared/compatible.ts makes of its answers.

import { createAdapter as createOpenAi } from '../../adapters/openai.ts'
import { createAdapter as createOpenRouter } from '../../adapters/openrouter.ts'
import { readChatRequest } from '../../gateway/dialects/openai-chat.ts'
import type { ExchangeObserver, Outbound, OutboundRequest } from '../../outbound/client.ts'
import type { GatewayError } from '../../routing/errors.ts'
import type { Attempt, AttemptEnd, AttemptHandle, Target, Timeouts, Upstream, Usage } from '../../routing/types.ts'

/** Times no test gets to. */
export const long: Timeouts = { connectMs: 1_000, firstTokenMs: 60_000, idleMs: 60_000, totalMs: 60_000 }

/** In what an attempt differs from the usual. */
export interface Changes {
  readonly body?: Record<string, unknown>
  readonly stream?: boolean
  readonly upstream?: Partial<Upstream>
  readonly model?: string
}

/** An attempt at a compatible server. */
export function attemptFor({ body = {}, stream = true, upstream = {}, model = 'm' }: Changes = {}): Attempt {
  const asked = { model: 'm', messages: [{ role: 'user', content: 'hello' }], ...(stream ? { stream } : {}), ...body }
  const where: Upstream = {
    id: 'up',
    adapter: 'openai',
    own: false,
    baseUrl: 'http://up.example/v1',
    apiKey: 'k',
    headers: { 'x-extra': 'e' },
    device: null,
    timeouts: long,
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null,
    ...upstream
  }
  const target: Target = {
    id: `up/${model}`,
    upstream: where,
    model,
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete'],
    loaded: true,
    price: { source: 'unknown', tokens: null },
    createdAt: 0
  }
  return {
    id: 'attempt-1',
    request: readChatRequest(Buffer.from(JSON.stringify(asked)), { requestId: 'r', localOnly: false }).request,
    target
  }
}

/** One exchange without a network: the test is the upstream. */
export interface Line {
  readonly outbound: Outbound
  request: OutboundRequest | null
  upstream: ExchangeObserver | null
  aborted: number
  resumed: number
  sent: boolean
}

/** A line on which nothing was sent yet. */
export function createLine(): Line {
  const line: Line = {
    request: null,
    upstream: null,
    aborted: 0,
    resumed: 0,
    sent: true,
    outbound: {
      send(request, observer) {
        line.request = request
        line.upstream = observer
        return {
          get sent() {
            return line.sent
          },
          resume: () => void line.resumed++,
          abort: () => void line.aborted++
        }
      },
      fetchText: () => Promise.reject(new Error('not here')),
      close: () => Promise.resolve()
    }
  }
  return line
}

/** What an attempt has told so far. */
export interface Heard {
  readonly calls: string[]
  readonly frames: Buffer[]
  tokens: number
  body: string | null
  usage: Usage | null
  usageEvent: string | null
  end: AttemptEnd | null
  readonly ended: Promise<void>
  readonly handle: AttemptHandle
  readonly line: Line
}

/** Begins a call; `room`: whether its reader has room for more. */
export function begin(changes: Changes = {}, dialect: 'openai' | 'openrouter' = 'openai', room: () => boolean = () => true): Heard {
  const line = createLine()
  const adapter = (dialect === 'openai' ? createOpenAi : createOpenRouter)({ outbound: line.outbound })
  const { promise, resolve } = Promise.withResolvers<void>()
  const heard = {
    calls: [] as string[],
    frames: [] as Buffer[],
    tokens: 0,
    body: null as string | null,
    usage: null as Usage | null,
    usageEvent: null as string | null,
    end: null as AttemptEnd | null,
    ended: promise,
    line
  }
  const handle = adapter.chat(attemptFor(changes), {
    frames(events, tokens) {
      heard.calls.push('frames')
      heard.frames.push(events)
      heard.tokens += tokens
      return room()
    },
    body(json) {
      heard.calls.push('body')
      heard.body = json.toString()
    },
    usage(usage, event) {
      heard.calls.push('usage')
      heard.usage = usage
      heard.usageEvent = event === null ? null : event.toString()
    },
    end(end) {
      heard.calls.push('end')
      heard.end = end
      resolve()
    }
  })
  return Object.assign(heard, { handle })
}

/** The upstream of a call that has begun. */
export function up(heard: Heard): ExchangeObserver {
  if (heard.line.upstream === null) throw new Error('nothing was sent')
  return heard.line.upstream
}

/** The head of a stream. */
export const sse = { 'content-type': 'text/event-stream; charset=utf-8' }

/** The head of one body. */
export const json = { 'content-type': 'application/json' }

/** A whole stream in these pieces; `close`: how the connection ends. */
export function play(
  pieces: readonly Buffer[],
  { dialect = 'openai' as 'openai' | 'openrouter', changes = {} as Changes, close = 'end' as 'end' | 'reset' | 'none' } = {}
): Heard {
  const heard = begin(changes, dialect)
  const upstream = up(heard)
  upstream.head(200, sse)
  for (const piece of pieces) if (heard.end === null) upstream.data(piece)
  if (heard.end === null && close === 'end') upstream.end()
  if (heard.end === null && close === 'reset') upstream.error(Object.assign(new Error('reset'), { code: 'ECONNRESET' }), true)
  return heard
}

/** What was passed on, as text. */
export const passed = (heard: Heard) => Buffer.concat(heard.frames).toString()

/** How it ended, in a word. */
export function codeOf(end: AttemptEnd | null): string {
  return end === null ? 'running' : end.ok ? 'ok' : end.error.code
}

/** The error it ended with; throws where there is none. */
export function failureOf(heard: Heard): GatewayError {
  const { end } = heard
  if (end === null || end.ok) throw new Error(`no failure but ${codeOf(end)}`)
  return end.error
}
