// A provider and a machine in one, straight on sockets: an answer costs it as little as it can, so that what is measured is what stands before it.
//
// What it is to stream stands in the prompt: `[[<tokens>x<ms between them>]]`. Each token's text is `#<number>@<ns of the machine's clock>;`, so that
// its reader knows what was lost, what changed places, and how old it is.

import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'

const model = 'gpt-4o-mini'
const usage = { prompt_tokens: 200, completion_tokens: 20, total_tokens: 220 }
const content = 'It is the speed of what stands before a model that is measured here.'
const ollamaCounts = {
  done: true,
  done_reason: 'stop',
  total_duration: 5_000_000,
  load_duration: 100_000,
  prompt_eval_count: 200,
  prompt_eval_duration: 1_000_000,
  eval_count: 20,
  eval_duration: 3_000_000
}

const chat = whole({
  id: 'chatcmpl-speed',
  object: 'chat.completion',
  created: 1_760_000_000,
  model,
  choices: [{ index: 0, message: { role: 'assistant', content, refusal: null }, logprobs: null, finish_reason: 'stop' }],
  usage
})
const machineChat = whole({
  model: 'llama3.2:1b',
  created_at: '2026-11-01T00:00:00.000000Z',
  message: { role: 'assistant', content },
  ...ollamaCounts
})
const lists: Readonly<Record<string, Buffer>> = {
  '/v1/models': whole({ object: 'list', data: [{ id: model, object: 'model', created: 1_760_000_000, owned_by: 'speed' }] }),
  '/api/version': whole({ version: '0.31.0' }),
  '/api/tags': whole({
    models: [
      {
        name: 'llama3.2:1b',
        model: 'llama3.2:1b',
        size: 1_300_000_000,
        digest: 'a'.repeat(64),
        modified_at: '2026-11-01T00:00:00Z',
        details: { family: 'llama', parameter_size: '1.2B', quantization_level: 'Q8_0', format: 'gguf' }
      }
    ]
  }),
  '/api/show': whole({
    details: { family: 'llama', parameter_size: '1.2B', quantization_level: 'Q8_0', format: 'gguf' },
    model_info: { 'general.architecture': 'llama', 'llama.context_length': 131_072 },
    capabilities: ['completion', 'tools']
  }),
  '/api/ps': whole({
    models: [
      {
        name: 'llama3.2:1b',
        model: 'llama3.2:1b',
        size: 1_300_000_000,
        size_vram: 1_300_000_000,
        digest: 'a'.repeat(64),
        expires_at: '2030-01-01T00:00:00Z',
        context_length: 8_192
      }
    ]
  })
}
const notFound = Buffer.from('HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n')

function whole(body: object): Buffer {
  const text = JSON.stringify(body)
  return Buffer.from(`HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`)
}

interface Stream {
  readonly socket: Socket
  readonly isMachine: boolean
  readonly tokens: number
  readonly everyMs: number
  readonly startedAt: number
  sent: number
}

/** Streams by the millisecond in which their next token is due. */
const due = new Map<number, Stream[]>()
let isTicking = false

function schedule(stream: Stream): void {
  const at = Math.round(stream.startedAt + stream.sent * stream.everyMs)
  const others = due.get(at)
  if (others === undefined) due.set(at, [stream])
  else others.push(stream)
  if (isTicking) return
  isTicking = true
  setImmediate(tick, at)
}

function tick(from: number): void {
  const now = Math.floor(performance.now())
  let at = from
  for (; at <= now; at++) {
    const streams = due.get(at)
    if (streams === undefined) continue
    due.delete(at)
    for (const stream of streams) send(stream)
  }
  isTicking = due.size > 0
  if (isTicking) setTimeout(tick, 1, Math.min(at, ...due.keys()))
}

function send(stream: Stream): void {
  const { socket, isMachine, tokens } = stream
  if (socket.destroyed) return
  if (stream.sent === tokens) return void socket.write(isMachine ? lastLines : lastEvents)
  const text = `#${stream.sent++}@${process.hrtime.bigint()};`
  socket.write(chunk(isMachine ? lineOf(text) : eventOf(text)))
  schedule(stream)
}

function eventOf(text: string, reason: string | null = null): string {
  return `data: {"id":"chatcmpl-speed-0123456789abcdef01","object":"chat.completion.chunk","created":1760000000,"model":"${model}","service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{"index":0,"delta":{"content":"${text}"},"logprobs":null,"finish_reason":${JSON.stringify(reason)}}],"usage":null}\n\n`
}

function lineOf(text: string): string {
  return `{"model":"llama3.2:1b","created_at":"2026-11-01T00:00:00.000000Z","message":{"role":"assistant","content":"${text}"},"done":false}\n`
}

function chunk(text: string): string {
  return `${text.length.toString(16)}\r\n${text}\r\n`
}

const lastEvents = Buffer.from(
  `${chunk(eventOf('', 'stop'))}${chunk(`data: ${JSON.stringify({ id: 'chatcmpl-speed', object: 'chat.completion.chunk', created: 1_760_000_000, model, choices: [], usage })}\n\n`)}${chunk('data: [DONE]\n\n')}0\r\n\r\n`
)
const lastLines = Buffer.from(
  `${chunk(`${JSON.stringify({ model: 'llama3.2:1b', created_at: '2026-11-01T00:00:00Z', message: { role: 'assistant', content: '' }, ...ollamaCounts })}\n`)}0\r\n\r\n`
)
const eventHead = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n'
const lineHead = 'HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n'

function serve(socket: Socket): void {
  let held: Buffer | null = null
  socket.on('error', () => socket.destroy())
  socket.on('data', bytes => {
    let rest = held === null ? bytes : Buffer.concat([held, bytes])
    held = null
    for (;;) {
      const end = rest.indexOf('\r\n\r\n')
      if (end < 0) break
      const head = rest.toString('latin1', 0, end)
      const length = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0)
      if (rest.length < end + 4 + length) break
      answer(socket, head, rest.subarray(end + 4, end + 4 + length))
      rest = rest.subarray(end + 4 + length)
    }
    if (rest.length > 0) held = rest
  })
}

function answer(socket: Socket, head: string, body: Buffer): void {
  const path = head.slice(head.indexOf(' ') + 1, head.indexOf(' ', head.indexOf(' ') + 1))
  const isMachine = path === '/api/chat'
  if (!isMachine && path !== '/v1/chat/completions') return void socket.write(lists[path] ?? notFound)
  const at = body.indexOf('[[')
  if (at < 0) return void socket.write(isMachine ? machineChat : chat)
  const [, tokens, everyMs] = /\[\[(\d+)x(\d+)\]\]/.exec(body.toString('latin1', at, at + 24)) ?? []
  const stream = { socket, isMachine, tokens: Number(tokens), everyMs: Number(everyMs), startedAt: performance.now(), sent: 0 }
  // The head and the first token in one piece, as whoever sends without delay does.
  socket.cork()
  socket.write(isMachine ? lineHead : eventHead)
  send(stream)
  socket.uncork()
}

// The provider, and on the same port of other addresses the machines.
let port = 0
for (const address of ['127.0.0.1', ...process.argv.slice(2)]) {
  const server = createServer({ noDelay: true }, serve).listen(port, address)
  await once(server, 'listening')
  port = (server.address() as { port: number }).port
}
process.send?.({ port })
process.on('disconnect', () => process.exit(0))
