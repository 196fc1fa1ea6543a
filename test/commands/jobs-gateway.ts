// A gateway's jobs API as a script: each call is answered by what the test put there, over a real socket.

import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Test } from 'tap'

export const key = 'sk-llm-canary-of-the-jobs-commands'
export const id = '019a2b3c-4d5e-7f60-8a1b-2c3d4e5f6071'
export const otherId = '019a2b3c-4d5e-7f60-8a1b-2c3d4e5f6072'

export interface JobsCall {
  readonly method: string
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly body: unknown
}

export interface FakeJobs {
  readonly url: string
  readonly calls: JobsCall[]
  /** By `METHOD path`, without the query. */
  readonly answers: Map<string, (response: ServerResponse, call: JobsCall) => void>
}

export async function startJobsGateway(t: Test): Promise<FakeJobs> {
  const calls: JobsCall[] = []
  const answers: FakeJobs['answers'] = new Map()
  const sockets = new Set<Socket>()
  const server = createServer((request, response) => {
    let text = ''
    request.on('data', chunk => {
      text += chunk
    })
    request.on('end', () => {
      const { method = '', url = '', headers } = request
      const call = { method, path: url, headers, body: text === '' ? null : JSON.parse(text) }
      calls.push(call)
      if (headers.authorization !== `Bearer ${key}`) return refuse(response, 401, `Unknown key ${headers.authorization}`)
      const answer = answers.get(`${method} ${url.split('?')[0]}`)
      if (answer === undefined) refuse(response, 404, 'There is no job with this id.')
      else answer(response, call)
    })
  })
  server.on('connection', socket => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise<void>(resolve => server.close(() => resolve()))
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, calls, answers }
}

export function give(status: number, body: unknown, headers: Readonly<Record<string, string>> = {}) {
  return (response: ServerResponse): void => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers })
    response.end(JSON.stringify(body))
  }
}

export function refuse(response: ServerResponse, status: number, message: string): void {
  give(status, { error: { message, type: 'invalid_request_error', param: null, code: null } })(response)
}

/** A job object as the API shows it. */
export function jobObject(more: object = {}): Record<string, unknown> {
  return {
    id,
    job_id: id,
    object: 'job',
    kind: 'chat',
    model: 'llama3.2:3b',
    status: 'queued',
    priority: 'normal',
    source: 'me',
    position: 3,
    eta_ms: { p50: 1200, p90: 2400 },
    attempts: 0,
    max_attempts: 3,
    device: null,
    provider: null,
    created_at: '2026-11-01T10:00:00.000Z',
    started_at: null,
    first_token_at: null,
    finished_at: null,
    deadline_at: null,
    cost_usd: null,
    usage: null,
    result: null,
    error: null,
    metadata: null,
    stream: false,
    webhook: null,
    ...more
  }
}

export function doneJob(content: string, more: object = {}): Record<string, unknown> {
  return jobObject({
    status: 'done',
    position: null,
    eta_ms: null,
    attempts: 1,
    device: 'rtx',
    provider: 'ollama',
    started_at: '2026-11-01T10:00:01.000Z',
    first_token_at: '2026-11-01T10:00:02.000Z',
    finished_at: '2026-11-01T10:00:04.000Z',
    cost_usd: 0.000012,
    usage: { prompt_tokens: 9, completion_tokens: 20, total_tokens: 29 },
    result: { object: 'chat.completion', choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' }] },
    ...more
  })
}

const at = '2026-11-01T10:00:00.000Z'

/** The events of a stream, as they stand on the line. */
export const sse = {
  status: (position: number, p50 = 1200) =>
    `event: status\ndata: ${JSON.stringify({ type: 'status', status: 'queued', position, eta_ms: { p50, p90: 2 * p50 }, ts: at })}\n\n`,
  attempt: (attempt: number) => `event: attempt\nid: ${attempt}-0\ndata: ${JSON.stringify({ type: 'attempt', attempt, ts: at })}\n\n`,
  chunk: (eventId: string, content: string) =>
    `id: ${eventId}\ndata: ${JSON.stringify({ id: 'chatcmpl-1', object: 'chat.completion.chunk', choices: [{ index: 0, delta: { content } }] })}\n\n`,
  result: (eventId: string, job: object) => `event: result\nid: ${eventId}\ndata: ${JSON.stringify(job)}\n\n`,
  end: (eventId: string, status: string) => `event: end\nid: ${eventId}\ndata: ${JSON.stringify({ type: 'end', status, ts: at })}\n\n`
}

/** Writes the events, and ends the connection unless it is to stay. */
export function tell(response: ServerResponse, events: readonly string[], stays = false): void {
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
  response.write(events.join(''))
  if (!stays) response.end()
}
