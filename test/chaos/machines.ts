// A pretended Ollama and a pretended provider that outlive every kill: they answer slowly, never fail, and keep their own bill.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { type Bill, textOf, type Upstream } from './bill.ts'
import type { Chance } from './chance.ts'

export const chatModel = 'llama3.2:3b'
export const embeddingModel = 'nomic-embed-text'
export const rentedModel = 'gpt-4o-mini'
/** Calls at once on the box. */
export const boxSlots = 4

// One answer of the box is busy for a second by its own account, whatever it took: a charge is then the same sum each time.
const busyNanoseconds = 1e9
const pieces = 6

export interface Pace {
  readonly lowMs: number
  readonly highMs: number
  /** One call in so many takes seconds; 0 = none. */
  readonly slowOneIn: number
}

/** Where one process of ours finds the machines: addresses of its own, so that the bill knows who asked. */
export interface Door {
  readonly box: string
  readonly openai: string
}

export interface Machines {
  door(name: string): Door
  /** How long calls take from now on. */
  setPace(pace: Pace): void
  /** Marks of what runs now for one process. */
  running(door: string): readonly string[]
  close(): Promise<void>
}

interface Asked {
  readonly upstream: Upstream
  readonly door: string
  readonly path: string
  readonly body: Readonly<Record<string, unknown>>
  readonly text: string
}

export async function startMachines({
  bill,
  chance,
  doors
}: {
  readonly bill: Bill
  readonly chance: Chance
  readonly doors: readonly string[]
}): Promise<Machines> {
  let pace: Pace = { lowMs: 50, highMs: 300, slowOneIn: 0 }
  let calls = 0
  const running = new Map<number, { readonly door: string; readonly mark: string }>()
  const servers: Server[] = []
  const sockets = new Set<Socket>()
  const addresses = new Map<string, Door>()

  for (const door of doors) addresses.set(door, { box: await open('box', door), openai: `${await open('openai', door)}/v1` })

  async function open(upstream: Upstream, door: string): Promise<string> {
    const server = createServer((request, response) => {
      const chunks: Buffer[] = []
      request.on('data', chunk => chunks.push(chunk))
      request.on('end', () => {
        const text = Buffer.concat(chunks).toString('utf8')
        answer({ upstream, door, path: request.url ?? '', body: parsedOr(text), text }, request, response)
      })
    })
    server.on('connection', socket => {
      sockets.add(socket)
      socket.on('close', () => sockets.delete(socket))
      // Whoever is killed while it is written to.
      socket.on('error', () => {})
    })
    servers.push(server)
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  function answer(asked: Asked, request: IncomingMessage, response: ServerResponse): void {
    const isLoad = asked.path.endsWith('/api/generate') && asked.body.prompt === undefined
    const speak = isLoad ? undefined : voices.find(([upstream, end]) => upstream === asked.upstream && asked.path.endsWith(end))?.[2]
    if (speak === undefined) {
      const value = asked.upstream === 'box' ? boxInventory(asked) : openaiInventory(asked)
      response.writeHead(value === undefined ? 404 : 200, { 'content-type': 'application/json' })
      response.end(JSON.stringify(value ?? { error: 'not here' }))
      return
    }
    const call = ++calls
    const { upstream, door } = asked
    const mark = /\[\[([^\]]+)\]\]/.exec(asked.text)?.[1] ?? ''
    const attempt = String(request.headers['x-client-request-id'])
    bill.write({ t: 'begin', call, upstream, door, attempt, mark, at: Date.now() })
    running.set(call, { door, mark })
    const over = (cut: boolean): void => {
      if (running.delete(call)) bill.write({ t: 'end', call, cut, at: Date.now() })
    }
    const frames = speak(asked, call)
    const totalMs =
      pace.slowOneIn > 0 && chance.oneIn(pace.slowOneIn) ? chance.between(2_000, 5_000) : chance.between(pace.lowMs, pace.highMs)
    const timer = setInterval(() => {
      const frame = frames.body.shift()
      if (frames.body.length > 0) {
        response.write(frame)
        return
      }
      clearInterval(timer)
      // Before the last byte leaves: whoever has it may ask again at once.
      over(false)
      response.end(frame)
    }, totalMs / frames.body.length)
    response.on('close', () => {
      clearInterval(timer)
      over(true)
    })
    response.writeHead(200, { 'content-type': frames.type })
  }

  return {
    door(name) {
      const door = addresses.get(name)
      if (door === undefined) throw new Error(`no door for ${name}`)
      return door
    },
    setPace(given) {
      pace = given
    },
    running: door => [...running.values()].flatMap(call => (call.door === door ? [call.mark] : [])),
    async close() {
      for (const socket of sockets) socket.destroy()
      await Promise.all(servers.map(server => new Promise<void>(resolve => server.close(() => resolve()))))
    }
  }
}

type Voice = (asked: Asked, call: number) => { readonly type: string; readonly body: string[] }

const voices: readonly (readonly [Upstream, string, Voice])[] = [
  ['box', '/api/chat', native(content => ({ message: { role: 'assistant', content } }))],
  ['box', '/api/generate', native(response => ({ response }))],
  [
    'box',
    '/api/embed',
    ({ body }, call) => ({
      type: 'application/json',
      // Nothing for a while, then all of it.
      body: [
        '',
        JSON.stringify({ model: body.model, embeddings: [[call, 0, 1, 2]], total_duration: busyNanoseconds, prompt_eval_count: 9 })
      ]
    })
  ],
  ['openai', '/chat/completions', compatible]
]

function native(line: (text: string) => object): Voice {
  return ({ body }, call) => {
    const head = { model: body.model, created_at: '2026-09-01T10:00:00Z' }
    const counters = { done: true, done_reason: 'stop', total_duration: busyNanoseconds, prompt_eval_count: 9, eval_count: pieces }
    return {
      type: 'application/x-ndjson',
      body: [
        ...split(textOf(call)).map(text => `${JSON.stringify({ ...head, ...line(text), done: false })}\n`),
        `${JSON.stringify({ ...head, ...line(''), ...counters })}\n`
      ]
    }
  }
}

const usage = { prompt_tokens: 9, completion_tokens: pieces, total_tokens: 9 + pieces }

function compatible(asked: Asked, call: number): ReturnType<Voice> {
  const head = { id: `chatcmpl-${call}`, created: 1_790_000_000, model: asked.body.model }
  if (asked.body.stream !== true) {
    const message = { role: 'assistant', content: textOf(call), refusal: null }
    const choices = [{ index: 0, message, logprobs: null, finish_reason: 'stop' }]
    return { type: 'application/json', body: ['', JSON.stringify({ ...head, object: 'chat.completion', choices, usage })] }
  }
  const event = (more: object): string => `data: ${JSON.stringify({ ...head, object: 'chat.completion.chunk', ...more })}\n\n`
  const said = split(textOf(call)).map((content, index) =>
    event({ choices: [{ index: 0, delta: index === 0 ? { role: 'assistant', content } : { content }, finish_reason: null }] })
  )
  const end = event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }) + event({ choices: [], usage })
  return { type: 'text/event-stream; charset=utf-8', body: [...said, `${end}data: [DONE]\n\n`] }
}

function split(text: string): string[] {
  return text.split(/(?<= )/)
}

function openaiInventory({ path }: Asked): unknown {
  return path.endsWith('/models')
    ? { object: 'list', data: [{ id: rentedModel, object: 'model', created: 1, owned_by: 'chaos' }] }
    : undefined
}

const models = [chatModel, embeddingModel].map(name => ({
  name,
  model: name,
  modified_at: '2026-09-01T10:00:00Z',
  size: 2_000_000_000,
  digest: `sha256:${name}`,
  details: { family: 'llama' }
}))

function boxInventory({ path, body }: Asked): unknown {
  if (path === '/api/version') return { version: '0.32.7' }
  // Both are always in memory; nothing is asked of a model by loading it.
  if (path === '/api/ps') return { models: models.map(model => ({ ...model, size_vram: model.size, context_length: 8_192 })) }
  if (path === '/api/tags') return { models }
  if (path === '/api/generate') return { model: body.model, done: true, done_reason: 'load' }
  if (path !== '/api/show') return undefined
  return {
    details: { family: 'llama' },
    model_info: { 'general.architecture': 'llama', 'llama.context_length': 131_072, 'llama.embedding_length': 4 },
    capabilities: body.model === embeddingModel ? ['embedding'] : ['completion', 'tools', 'insert']
  }
}

function parsedOr(text: string): Record<string, unknown> {
  try {
    return JSON.parse(text) as Record<string, unknown>
  } catch {
    return {}
  }
}
