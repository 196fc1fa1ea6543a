// The line of a request beside what pino itself writes of the same fields.

import pino from 'pino'
import t from 'tap'
import { levelOf, requestLine } from '../bin/request-line.ts'
import type { RequestLine } from '../gateway/app.ts'
import { newContext, type RequestContext } from '../gateway/context.ts'
import { nothingRan } from '../queue/overflow.ts'
import { GatewayError } from '../routing/errors.ts'
import type { RunSummary } from '../routing/ports.ts'

const atMs = Date.UTC(2026, 10, 22, 9, 30, 0, 7)

function contextOf(changes: Partial<RequestContext> = {}): RequestContext {
  return { ...newContext('019ab0c2-0000-7000-8000-000000000001', null), ...changes }
}

const line: RequestLine = { method: 'POST', route: '/v1/chat/completions', status: 200, retryCount: 1 }
const caller = { keyId: null, source: 'a "b"\n\u2028', subSource: null, kind: 'admin', models: null, providers: null } as const
const usage = { promptTokens: 3, completionTokens: 5, cachedTokens: 0, reasoningTokens: 0, providerNanoUsd: null, busyMs: null }

const summaryOf = (changes: Partial<RunSummary>): RunSummary => ({ ...nothingRan, outcome: 'ok', ...changes })

/** Without what the clock says. */
function written(level: string, context: RequestContext, of: RequestLine = line): Record<string, unknown> {
  const text = requestLine(level, context, of, atMs)
  t.match(text, /\n$/)
  t.equal(text.indexOf('\n'), text.length - 1, 'one line')
  const { durationMs, ...rest } = JSON.parse(text)
  t.type(durationMs, 'number')
  return rest
}

function byPino(fields: Record<string, unknown>): Record<string, unknown> {
  let text = ''
  const log = pino(
    { base: null, timestamp: () => `,"time":"${new Date(atMs).toISOString()}"`, formatters: { level: label => ({ level: label }) } },
    { write: given => (text += given) }
  )
  log.info(fields, 'request')
  return JSON.parse(text)
}

t.test('what is known is written as pino would, and nothing else', async t => {
  const begins = { requestId: contextOf().id, ...line }
  t.strictSame(written('info', contextOf()), byPino(begins))
  const asked = contextOf({ caller, model: 'mödel "x"', stream: true })
  t.strictSame(written('info', asked), byPino({ ...begins, source: caller.source, keyId: null, model: asked.model, stream: true }))
  const target = { id: 'openai/gpt-4o-mini' } as RunSummary['target']
  const summary = summaryOf({ target, attempts: 2, usage, nanoUsd: 0, ttftMs: 12.4, rejected: [{ target: 'box/x', reason: 'full' }] })
  t.strictSame(
    written('info', contextOf({ summary })),
    byPino({
      ...begins,
      outcome: 'ok',
      target: 'openai/gpt-4o-mini',
      attempts: 2,
      rejected: [{ target: 'box/x', reason: 'full' }],
      ttftMs: 12,
      promptTokens: 3,
      completionTokens: 5,
      nanoUsd: 0
    })
  )
  const error = new GatewayError('no_capacity', 'Every machine for "x" is busy.')
  t.strictSame(
    written('info', contextOf({ error, summary: summaryOf({ outcome: 'failed' }) })),
    byPino({ ...begins, outcome: 'failed', attempts: 0, error: 'no_capacity', errorMessage: error.logMessage })
  )
})

t.test('of many that were rejected the first twenty are named', async t => {
  const rejected = Array.from({ length: 30 }, (_, at) => ({ target: `t${at}`, reason: 'down' as const }))
  t.same(written('info', contextOf({ summary: summaryOf({ rejected }) })).rejected, rejected.slice(0, 20))
})

t.test('failures of ours are warnings, probes that are well say nothing', async t => {
  const level = (status: number, route: string, error: GatewayError | null = null): string => levelOf({ error }, { ...line, status, route })
  t.equal(level(200, '/v1/models'), 'info')
  t.equal(level(200, '/health'), 'debug')
  t.equal(level(503, '/ready'), 'warn')
  t.equal(level(502, '/v1/models', new GatewayError('upstream_unavailable', 'x')), 'warn')
  t.equal(level(503, '/v1/models', new GatewayError('no_capacity', 'x')), 'info')
  t.equal(level(503, '/v1/models', new GatewayError('server_draining', 'x')), 'info')
})
