// Fake providers and machines: real HTTP servers with faults, a count of what runs at once, and a bill of their own on disk.

import { appendFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'

export interface UpstreamCall {
  readonly method: string
  readonly path: string
  readonly headers: IncomingMessage['headers']
  readonly body: Record<string, unknown>
  readonly text: string
}

/** Answers one call. `call` has been read to its end. */
export type Behaviour = (call: UpstreamCall, response: ServerResponse, request: IncomingMessage) => void | Promise<void>

export interface FakeUpstream {
  /** `http://127.0.0.1:<port>` */
  readonly origin: string
  readonly calls: UpstreamCall[]
  /** Model calls running now, and the most that ever ran at once. */
  readonly running: { now: number; most: number }
  /** Model calls whose connection the gateway closed before the answer's end. */
  readonly aborted: { count: number }
  /** What the next chat calls do; may be changed at any time. */
  behaviour: Behaviour
  /** The same for other calls to a model, by the end of their path (`/embeddings`, `/api/generate`); without an entry a 404. */
  readonly others: Map<string, Behaviour>
  readonly server: Server
}

export interface FakeOptions {
  /** Paths that count as chat calls. */
  readonly chatPath: string
  /** Everything else (lists, versions); 404 for what it does not know. */
  readonly inventory: (call: UpstreamCall) => unknown
  readonly behaviour: Behaviour
  /** One line of JSON for each model call, written before it is answered: the truth about money. */
  readonly billPath?: string
  readonly port?: number
}

export async function startFake(t: Test, options: FakeOptions): Promise<FakeUpstream> {
  const server = createServer(serve)
  const sockets = new Set<import('node:net').Socket>()
  server.on('connection', socket => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>(resolve => server.listen(options.port ?? 0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise<void>(resolve => server.close(() => resolve()))
  })
  const fake: FakeUpstream = {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls: [],
    running: { now: 0, most: 0 },
    aborted: { count: 0 },
    behaviour: options.behaviour,
    others: new Map(),
    server
  }

  function behaviourOf(path: string): Behaviour | null {
    if (path.endsWith(options.chatPath)) return fake.behaviour
    for (const [end, behaviour] of fake.others) if (path.endsWith(end)) return behaviour
    return null
  }

  function serve(request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? ''
    const behaviour = behaviourOf(path)
    if (behaviour !== null) {
      fake.running.now++
      fake.running.most = Math.max(fake.running.most, fake.running.now)
      response.on('close', () => {
        fake.running.now--
        if (!response.writableFinished) fake.aborted.count++
      })
    }
    const chunks: Buffer[] = []
    request.on('data', chunk => chunks.push(chunk))
    request.on('end', () => {
      const text = Buffer.concat(chunks).toString('utf8')
      const call: UpstreamCall = { method: request.method ?? '', path, headers: request.headers, body: parsedOr(text), text }
      // Whoever looks after a machine asks for this at any time.
      if (path !== '/api/version') fake.calls.push(call)
      if (behaviour !== null) {
        if (options.billPath !== undefined)
          appendFileSync(options.billPath, `${JSON.stringify({ attempt: request.headers['x-client-request-id'] })}\n`)
        // Asked again: what a call does is decided when it has been read.
        void behaviourOf(path)?.(call, response, request)
        return
      }
      const value = options.inventory(call)
      response.writeHead(value === undefined ? 404 : 200, { 'content-type': 'application/json' })
      response.end(JSON.stringify(value ?? { error: 'not here' }))
    })
  }

  return fake
}

/** An OpenAI-compatible server; OpenRouter is one too. */
export function startCompatible(
  t: Test,
  options: { readonly models?: readonly object[]; readonly behaviour?: Behaviour; readonly billPath?: string; readonly port?: number } = {}
) {
  // OpenRouter's list has prices, or none of it is offered.
  const pricing = { prompt: '0.00000015', completion: '0.0000006' }
  const models = options.models ?? [{ id: 'gpt-4o-mini', object: 'model', created: 1, owned_by: 'test', pricing }]
  return startFake(t, {
    chatPath: '/chat/completions',
    inventory: call => (call.path.endsWith('/models') ? { object: 'list', data: models } : undefined),
    behaviour: options.behaviour ?? say('Hello', ' there'),
    ...(options.billPath === undefined ? {} : { billPath: options.billPath }),
    ...(options.port === undefined ? {} : { port: options.port })
  })
}

/** An Ollama with some models, spoken to natively. */
export function startOllama(
  t: Test,
  options: {
    readonly models?: readonly string[]
    readonly contextLength?: number
    readonly capabilities?: readonly string[] | ((model: string) => readonly string[])
    readonly behaviour?: Behaviour
    readonly billPath?: string
  } = {}
) {
  const models = options.models ?? ['llama3.2:3b']
  const given = options.capabilities ?? ['completion', 'tools', 'vision', 'thinking']
  const capabilitiesOf = (model: string): readonly string[] => (typeof given === 'function' ? given(model) : given)
  return startFake(t, {
    chatPath: '/api/chat',
    inventory(call) {
      if (call.path === '/api/version') return { version: '0.32.7' }
      if (call.path === '/api/tags')
        return {
          models: models.map(name => ({
            name,
            model: name,
            modified_at: '2026-09-01T10:00:00Z',
            size: 2_000_000_000,
            digest: `sha256:${name}`,
            details: { family: 'llama' }
          }))
        }
      if (call.path === '/api/ps') return { models: [] }
      if (call.path === '/api/show') {
        return {
          details: { family: 'llama' },
          model_info: {
            'general.architecture': 'llama',
            'llama.context_length': options.contextLength ?? 131_072,
            'llama.block_count': 28,
            'llama.attention.head_count': 24,
            'llama.attention.head_count_kv': 8,
            'llama.embedding_length': 3_072
          },
          capabilities: capabilitiesOf(String(call.body.model))
        }
      }
      return undefined
    },
    behaviour: options.behaviour ?? sayNatively('Hello', ' there'),
    ...(options.billPath === undefined ? {} : { billPath: options.billPath })
  })
}

export const usage = { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11 }

/** One OpenAI chunk as an event. */
export function chunk(delta: object, more: object = {}, finish: string | null = null): string {
  return `data: ${JSON.stringify({ id: 'chatcmpl-up', object: 'chat.completion.chunk', created: 1, model: 'gpt-4o-mini', choices: [{ index: 0, delta, finish_reason: finish }], ...more })}\n\n`
}

/** The events of a whole answer, usage included, as an upstream sends them. */
export function wholeStream(...words: string[]): string[] {
  return [
    chunk({ role: 'assistant', content: '' }, { usage: null }),
    ...words.map(content => chunk({ content }, { usage: null })),
    chunk({}, { usage: null }, 'stop'),
    `data: ${JSON.stringify({ id: 'chatcmpl-up', object: 'chat.completion.chunk', created: 1, model: 'gpt-4o-mini', choices: [], usage })}\n\n`,
    'data: [DONE]\n\n'
  ]
}

export function completion(content: string, more: object = {}): object {
  return {
    id: 'chatcmpl-up',
    object: 'chat.completion',
    created: 1,
    model: 'gpt-4o-mini',
    choices: [{ index: 0, message: { role: 'assistant', content, refusal: null }, logprobs: null, finish_reason: 'stop' }],
    usage,
    ...more
  }
}

/** Answers with these words, streamed or not, as the call asks. */
export function say(...words: string[]): Behaviour {
  return (call, response) => {
    if (call.body.stream !== true) return answerJson(200, completion(words.join('')))(call, response, null as never)
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
    for (const event of wholeStream(...words)) response.write(event)
    response.end()
  }
}

/** The same in Ollama's own words. */
export function sayNatively(...words: string[]): Behaviour {
  return (call, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    for (const line of nativeLines(String(call.body.model), ...words)) response.write(line)
    response.end()
  }
}

export function nativeLines(model: string, ...words: string[]): string[] {
  const at = '2026-09-01T10:00:00.1Z'
  return [
    ...words.map(content => `${JSON.stringify({ model, created_at: at, message: { role: 'assistant', content }, done: false })}\n`),
    `${JSON.stringify({
      model,
      created_at: at,
      message: { role: 'assistant', content: '' },
      done: true,
      done_reason: 'stop',
      total_duration: 2e9,
      load_duration: 1e6,
      prompt_eval_count: 9,
      prompt_eval_duration: 3e8,
      eval_count: words.length,
      eval_duration: 1.5e9
    })}\n`
  ]
}

export function answerJson(status: number, body: unknown, headers: Record<string, string> = {}): Behaviour {
  return (_call, response) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers })
    response.end(typeof body === 'string' ? body : JSON.stringify(body))
  }
}

function parsedOr(text: string): Record<string, unknown> {
  try {
    return JSON.parse(text) as Record<string, unknown>
  } catch {
    return {}
  }
}
