// A provider that sends as much as its reader takes, or answers late, and keeps a bill of what it was made to do; on the same port of other
// addresses, machines that take their time and say so.
//
// What it is to do stands in the prompt: `[[flood <MB>]]`, or `[[after <ms>]]`.

import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

const model = 'gpt-4o-mini'
const bill = { begun: 0, finished: 0, sentMb: 0 }
const usage = { prompt_tokens: 10, completion_tokens: 1, total_tokens: 11 }
const whole = JSON.stringify({
  id: 'chatcmpl-load',
  object: 'chat.completion',
  created: 1_760_000_000,
  model,
  choices: [{ index: 0, message: { role: 'assistant', content: 'late' }, finish_reason: 'stop' }],
  usage
})
const event = (delta: object, reason: string | null): string =>
  `data: ${JSON.stringify({ id: 'chatcmpl-load', object: 'chat.completion.chunk', created: 1_760_000_000, model, choices: [{ index: 0, delta, finish_reason: reason }] })}\n\n`
const piece = Buffer.from(event({ content: 'x'.repeat(1_000) }, null).repeat(64))

async function flood(response: ServerResponse, bytes: number): Promise<void> {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  for (let sent = 0; sent < bytes && !response.destroyed; sent += piece.length) {
    bill.sentMb += piece.length / 1e6
    if (!response.write(piece)) await drained(response)
  }
  if (response.destroyed) return
  bill.finished++
  response.end(`${event({}, 'stop')}data: [DONE]\n\n`)
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise(resolve => {
    const over = (): void => {
      response.off('drain', over).off('close', over)
      resolve()
    }
    response.on('drain', over).on('close', over)
  })
}

function late(response: ServerResponse, ms: number): void {
  const timer = setTimeout(() => {
    bill.finished++
    response.writeHead(200, { 'content-type': 'application/json' }).end(whole)
  }, ms)
  response.on('close', () => clearTimeout(timer))
}

const machineModel = { name: 'llama3.2:1b', model: 'llama3.2:1b', size: 1_300_000_000, digest: 'a'.repeat(64) }
const details = { family: 'llama', parameter_size: '1.2B', quantization_level: 'Q8_0', format: 'gguf' }
const lists: Readonly<Record<string, object>> = {
  '/v1/models': { object: 'list', data: [{ id: model, object: 'model' }] },
  '/api/version': { version: '0.31.0' },
  '/api/tags': { models: [{ ...machineModel, modified_at: '2026-11-01T00:00:00Z', details }] },
  '/api/show': { details, model_info: { 'general.architecture': 'llama', 'llama.context_length': 131_072 }, capabilities: ['completion'] },
  '/api/ps': { models: [{ ...machineModel, size_vram: 1_300_000_000, expires_at: '2030-01-01T00:00:00Z', context_length: 8_192 }] }
}

/** So many tokens, one after another; what it took is in the last line. */
const tokens = 8
const tokenMs = 500
function speak(response: ServerResponse): void {
  const head = { model: machineModel.model, created_at: '2026-11-01T00:00:00Z' }
  response.writeHead(200, { 'content-type': 'application/x-ndjson' }).flushHeaders()
  let said = 0
  const timer = setInterval(() => {
    said++
    response.write(`${JSON.stringify({ ...head, message: { role: 'assistant', content: 'word ' }, done: false })}\n`)
    if (said < tokens) return
    clearInterval(timer)
    const counts = {
      prompt_eval_count: 20,
      prompt_eval_duration: 1e6,
      eval_count: tokens,
      eval_duration: tokens * tokenMs * 1e6,
      load_duration: 1e6
    }
    const last = { ...head, message: { role: 'assistant', content: '' }, done: true, done_reason: 'stop', ...counts }
    response.end(`${JSON.stringify(last)}\n`)
  }, tokenMs)
  response.on('close', () => clearInterval(timer))
}

function serve(request: IncomingMessage, response: ServerResponse): void {
  let body = ''
  request.setEncoding('latin1').on('data', part => {
    // What it is to do stands at the beginning.
    if (body.length < 4_096) body += part
  })
  request.on('end', () => {
    const list = lists[request.url ?? '']
    if (list !== undefined) return response.end(JSON.stringify(list))
    if (request.url === '/api/chat') return speak(response)
    if (request.url !== '/v1/chat/completions') return response.writeHead(404).end()
    bill.begun++
    const [, what, number] = /\[\[(flood|after) (\d+)\]\]/.exec(body) ?? []
    if (what === 'flood') flood(response, Number(number) * 2 ** 20).catch(() => response.destroy())
    else late(response, Number(number ?? 0))
  })
}

let port = 0
for (const address of ['127.0.0.1', ...process.argv.slice(2)]) {
  const server = createServer(serve).listen(port, address)
  await once(server, 'listening')
  port = (server.address() as AddressInfo).port
}
process.send?.({ port })
process.on('message', () => process.send?.({ bill }))
process.on('disconnect', () => process.exit(0))
