// A gateway's model routes over real sockets, in front of a dispatch that is driven by hand.

import { request as httpRequest, type IncomingMessage } from 'node:http'
import Fastify from 'fastify'
import type { Test } from 'tap'
import type { AnswerPorts } from '../../gateway/answer.ts'
import type { RequestContext } from '../../gateway/context.ts'
import type { Admission } from '../../gateway/limits.ts'
import { registerErrors } from '../../gateway/plugins/errors.ts'
import { registerRequests } from '../../gateway/plugins/requests.ts'
import { registerChat } from '../../gateway/routes/chat.ts'
import { registerCompletions } from '../../gateway/routes/completions.ts'
import { registerEmbeddings } from '../../gateway/routes/embeddings.ts'
import { registerResponses } from '../../gateway/routes/responses.ts'
import { createStreams, type Streams } from '../../gateway/streams.ts'
import type { Dispatch } from '../../routing/dispatch.ts'
import type { GatewayError } from '../../routing/errors.ts'
import { uuidv7 } from '../../routing/ids.ts'
import type { Reply, ReplyFacts, RunSummary } from '../../routing/ports.ts'
import type { Caller, ModelRequest } from '../../routing/types.ts'
import { until } from '../support/wait.ts'

export const jobId = '0192f000-0000-7000-8000-000000000001'
const caller: Caller = { keyId: 'key', source: 'me', subSource: null, kind: 'source', models: null, providers: null }

export const facts: ReplyFacts = {
  target: { id: 'home/m', model: 'm', upstream: { id: 'home', adapter: 'ollama', own: true, device: { id: 'box' } } },
  reason: 'waited',
  nanoUsd: null,
  dropped: []
} as unknown as ReplyFacts

export interface StartedRun {
  readonly request: ModelRequest
  readonly reply: Reply
  /** What it was cancelled with; a run that is cancelled ends, as the real one does. */
  cancelled: GatewayError | 'silent' | null
  resumed: number
  over(outcome?: RunSummary['outcome']): void
}

export interface Served {
  readonly url: string
  readonly runs: StartedRun[]
  readonly streams: Streams
  readonly contexts: RequestContext[]
  /** The tokens that each request was settled with. */
  readonly settled: (number | null)[]
  /** The run of the next request. */
  next(): Promise<StartedRun>
}

export async function serve(
  t: Test,
  {
    plan = () => ({ action: 'enqueue', feasible: [], rejected: [] }),
    jobs,
    admit
  }: { plan?: Dispatch['plan']; jobs?: AnswerPorts['jobs']; admit?: (admission: Admission) => Promise<Admission> | Admission } = {}
): Promise<Served> {
  const runs: StartedRun[] = []
  const settled: (number | null)[] = []
  const contexts: RequestContext[] = []
  const streams = createStreams()
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(async () => {
    streams.close()
    await app.close()
  })
  app.decorate('knownRoutes', [])
  registerRequests(app, { newId: () => uuidv7(Date.now()), logRequest: context => contexts.push(context) })
  registerErrors(app, (message, error) => t.fail(message, { error }))
  app.addHook('onRequest', (request, _reply, done) => {
    request.context.caller = caller
    request.context.key = { limits: {}, weight: 2, trustUserHeader: false } as never
    done()
  })
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
  const admission: Admission = { headers: () => ({ 'x-ratelimit-limit-requests': '9' }), settle: tokens => settled.push(tokens) }
  const ports: AnswerPorts & { readonly prefixes: readonly string[] } = {
    dispatch: { plan, canCarry: () => false, run },
    streams,
    limits: { admit: () => admit?.(admission) ?? admission, headersOf: () => ({}), close: async () => {} },
    ...(jobs === undefined ? {} : { jobs }),
    prefixes: ['/v1']
  }
  registerChat(app, ports)
  registerCompletions(app, ports)
  registerEmbeddings(app, ports)
  registerResponses(app, { ...ports, newId: () => uuidv7(Date.now()) })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })

  function run(request: ModelRequest, _caller: Caller, reply: Reply): ReturnType<Dispatch['run']> {
    let isOver = false
    const started: StartedRun = {
      request,
      reply,
      cancelled: null,
      resumed: 0,
      over(outcome = 'ok') {
        if (isOver) return
        isOver = true
        reply.over(summaryOf(outcome))
      }
    }
    runs.push(started)
    return {
      resume() {
        started.resumed++
      },
      cancel(error) {
        if (isOver || started.cancelled !== null) return
        started.cancelled = error ?? 'silent'
        if (error !== null) reply.fail(error)
        started.over('aborted')
      }
    }
  }

  return { url, runs, streams, contexts, settled, next: () => until('the request to come', () => runs.shift()) }
}

function summaryOf(outcome: RunSummary['outcome']): RunSummary {
  return { outcome, error: null, target: null, attempts: 0, rejected: [], usage: null, nanoUsd: null, ttftMs: null, calls: [] }
}

export interface Asked {
  /** When the headers came. */
  readonly response: Promise<IncomingMessage>
  /** What has come of the body so far. */
  text(): string
  /** The whole body, at its end. */
  whole(): Promise<string>
  leave(): void
}

/** Asks over a connection of its own, reading all the time. */
export function ask(url: string, body: object, headers: Record<string, string> = {}): Asked {
  let text = ''
  let hasEnded = false
  const sent = httpRequest(url, { method: 'POST', agent: false, headers: { 'content-type': 'application/json', ...headers } })
  const response = new Promise<IncomingMessage>((resolve, reject) => {
    sent.on('error', reject)
    sent.on('response', answer => {
      answer.setEncoding('utf8')
      answer.on('data', piece => {
        text += piece
      })
      answer.on('error', () => {})
      answer.on('end', () => {
        hasEnded = true
      })
      resolve(answer)
    })
  })
  // Whoever leaves hears nothing any more, and that is no fault.
  response.catch(() => {})
  sent.end(JSON.stringify(body))
  return {
    response,
    text: () => text,
    whole: async () => {
      await response
      await until('the end of the answer', () => hasEnded)
      return text
    },
    leave: () => sent.destroy()
  }
}

export const chat = { model: 'm', messages: [{ role: 'user', content: 'hi' }] }

export function chunk(content: string): Buffer {
  const choices = [{ index: 0, delta: { content }, finish_reason: null }]
  return Buffer.from(`data: ${JSON.stringify({ id: 'a', object: 'chat.completion.chunk', created: 7, model: 'm', choices })}\n\n`)
}
