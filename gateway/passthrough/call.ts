// One call that is passed through: written down before, handed on piece by piece, booked once, however it ends.

import type { IncomingHttpHeaders, ServerResponse } from 'node:http'
import type { Exchange, ExchangeObserver, Outbound, OutboundRequest } from '../../outbound/client.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Ledger, Outcome } from '../../routing/ports.ts'
import type { Attempt, Caller, Target } from '../../routing/types.ts'
import { type RequestContext, standardHeaders } from '../context.ts'
import { factHeaders, unsentBytes } from '../reply.ts'
import type { OpenStream, Streams } from '../streams.ts'
import { connectionFailure, failureOf } from './failures.ts'
import { clientHeaders, isEventStream, isJson } from './headers.ts'
import { createUsageWatch, type UsageSeen, type UsageWatch } from './usage.ts'

export interface CallPorts {
  readonly ledger: Ledger
  readonly outbound: Outbound
  readonly streams: Streams
}

export interface CallFacts {
  readonly attempt: Attempt
  readonly caller: Caller
  readonly context: RequestContext
  readonly response: ServerResponse
  /** What else belongs on the answer, as it stands now: the caller's limits, CORS. */
  readonly earlierHeaders: () => Record<string, string>
  /** Once, at the end; the tokens used, null when the call failed. */
  readonly settleLimits: (tokens: number | null) => void
  /** What is counted for an answer that does not say what it used. */
  readonly estimatedTokens: number
  /** Answers with an error, if nothing was answered before. */
  readonly refuse: (error: GatewayError) => void
}

export interface Call {
  /** The headers of the answer are told to `onHead`; all else is handled here. */
  send(request: Pick<OutboundRequest, 'path' | 'headers' | 'body'>, onHead: (status: number, headers: IncomingHttpHeaders) => void): void
  /** Takes the response over. Returns false when the answer is none to be passed on: then the call has failed, or reads on to say why. */
  accept(status: number, headers: IncomingHttpHeaders): boolean
  fail(error: GatewayError): void
}

const answerBytesAtMost = 256 * 1024 * 1024
const errorBytesAtMost = 64 * 1024
const errorAtLatestMs = 10_000
// A reader that takes nothing for so long is gone, whatever its socket says.
const stalledMs = 30_000
// Above it setTimeout fires at once.
const longestTimerMs = 2_147_483_647

/** Throws what the ledger throws when the intent cannot be written down: then nothing was begun. */
export function startCall({ ledger, outbound, streams }: CallPorts, facts: CallFacts): Call {
  const { attempt, context, response } = facts
  const { upstream } = attempt.target
  const { timeouts } = upstream
  // A price by tokens says nothing of an answer without any.
  const unpriced = { ...attempt, target: withoutPrice(attempt.target) }
  ledger.begin(unpriced, facts.caller)
  const startedAt = performance.now()
  let exchange: Exchange | null = null
  let phase: 'waiting' | 'answering' | 'failing' | 'over' = 'waiting'
  let bytes = 0
  let ttftMs: number | null = null
  let watch: UsageWatch | null = null
  let failing: { readonly status: number; readonly headers: IncomingHttpHeaders; readonly chunks: Buffer[] } | null = null
  let unsent = 0
  let unsentSince = startedAt
  let silence: NodeJS.Timeout | undefined
  const limit = setTimeout(() => fail(late('the whole answer', timeouts.totalMs)), Math.min(timeouts.totalMs, longestTimerMs))
  const open: OpenStream = { tick, end: fail }
  streams.add(open)
  response.on('close', left)
  response.on('drain', drained)

  function left(): void {
    over(new GatewayError('client_gone', 'The client closed the connection.'), null)
  }

  function drained(): void {
    if (phase !== 'answering') return
    expect('the next piece of the answer', timeouts.idleMs)
    exchange?.resume()
  }

  function tick(now: number): void {
    const left = unsentBytes(response)
    if (left !== unsent) {
      unsent = left
      unsentSince = now
    } else if (left > 0 && now - unsentSince > stalledMs) {
      response.destroy()
    }
  }

  /** From now on nothing may come for so long. */
  function expect(what: string, ms: number): void {
    clearTimeout(silence)
    silence = setTimeout(() => fail(late(what, ms)), Math.min(ms, longestTimerMs))
  }

  function late(what: string, ms: number): GatewayError {
    return new GatewayError(
      phase === 'answering' ? 'upstream_broke' : 'upstream_unavailable',
      `${upstream.id}: ${what} did not come within ${ms} ms.`,
      {
        status: 504
      }
    )
  }

  function send(
    request: Pick<OutboundRequest, 'path' | 'headers' | 'body'>,
    onHead: (status: number, headers: IncomingHttpHeaders) => void
  ): void {
    if (phase !== 'waiting') return
    const observer: ExchangeObserver = {
      head: (status, headers) => {
        if (phase === 'waiting') onHead(status, headers)
      },
      data,
      end: ended,
      error: error => fail(broken(error))
    }
    expect('the beginning of an answer', timeouts.connectMs + timeouts.firstTokenMs)
    exchange = outbound.send(
      { ...request, origin: new URL(upstream.baseUrl).origin, method: 'POST', connectMs: timeouts.connectMs },
      observer
    )
  }

  function broken(error: Error): GatewayError {
    if (phase !== 'answering') return connectionFailure(upstream, error)
    return new GatewayError('upstream_broke', `${upstream.id} broke its answer off.`, { cause: error })
  }

  function accept(status: number, headers: IncomingHttpHeaders): boolean {
    if (phase !== 'waiting') return false
    const refused = refusalOf(status, headers)
    if (refused !== null) {
      fail(refused)
      return false
    }
    if (status >= 400) {
      phase = 'failing'
      failing = { status, headers, chunks: [] }
      clearTimeout(silence)
      silence = setTimeout(told, errorAtLatestMs)
      return false
    }
    phase = 'answering'
    context.stream = isEventStream(headers)
    if (context.stream || isJson(headers)) watch = createUsageWatch(upstream.adapter === 'openrouter')
    Object.assign(context.headers, facts.earlierHeaders())
    response.writeHead(status, {
      ...standardHeaders(context),
      ...clientHeaders(headers, attempt.target.upstream),
      ...factHeaders({ target: attempt.target, reason: 'only_target', nanoUsd: null, dropped: [] })
    })
    // Whoever waits for a stream wants to know that it has begun.
    response.flushHeaders()
    expect('the next piece of the answer', timeouts.idleMs)
    return true
  }

  /** Answers that are nobody's to see. */
  function refusalOf(status: number, headers: IncomingHttpHeaders): GatewayError | null {
    const encoding = headers['content-encoding']
    const unavailable = (what: string): GatewayError => new GatewayError('upstream_unavailable', `${upstream.id} ${what}.`)
    if (encoding !== undefined && encoding.trim().toLowerCase() !== 'identity')
      return unavailable('sent a compressed answer, which was not asked for')
    if (status < 200 || status > 599) return unavailable(`answered with the status ${status}`)
    if (status >= 300 && status < 400) return unavailable(`answered ${status}, and redirects are not followed`)
    if (Number(headers['content-length'] ?? 0) > answerBytesAtMost) return unavailable('sent an answer larger than 256 MiB')
    return null
  }

  function data(chunk: Buffer): boolean {
    if (phase === 'failing') {
      bytes += chunk.length
      failing?.chunks.push(chunk)
      if (bytes >= errorBytesAtMost) told()
      return true
    }
    if (phase !== 'answering') return true
    ttftMs ??= performance.now() - startedAt
    bytes += chunk.length
    if (bytes > answerBytesAtMost) {
      fail(new GatewayError('upstream_broke', `${upstream.id} sent an answer larger than 256 MiB.`))
      return true
    }
    watch?.see(chunk)
    const hasRoom = response.write(chunk)
    // While the reader is full, the silence is not the provider's.
    if (hasRoom) silence?.refresh()
    else clearTimeout(silence)
    return hasRoom
  }

  function ended(): void {
    if (phase === 'failing') return told()
    if (phase !== 'answering') return fail(connectionFailure(upstream, new Error('the answer ended before it began')))
    over(null, watch?.end() ?? null)
    response.end()
  }

  /** What is known of a failure is all that will be asked. */
  function told(): void {
    if (failing === null) return
    const text = Buffer.concat(failing.chunks).subarray(0, errorBytesAtMost).toString('utf8')
    fail(failureOf(upstream, { status: failing.status, headers: failing.headers, text }))
  }

  function fail(error: GatewayError): void {
    if (phase === 'over') return
    const wasAnswering = phase === 'answering'
    over(error, null)
    context.error = error
    // A clean end would be taken for a whole answer.
    if (wasAnswering) response.destroy()
    else if (!response.destroyed) {
      Object.assign(context.headers, facts.earlierHeaders())
      facts.refuse(error)
    }
  }

  /** The one end of every call. */
  function over(error: GatewayError | null, seen: UsageSeen | null): void {
    if (phase === 'over') return
    phase = 'over'
    clearTimeout(limit)
    clearTimeout(silence)
    response.off('close', left)
    response.off('drain', drained)
    streams.remove(open)
    const sent = exchange?.sent === true
    exchange?.abort()
    const { target } = attempt
    const durationMs = performance.now() - startedAt
    const outcome: Outcome = error === null ? 'ok' : error.code === 'client_gone' ? 'aborted' : 'failed'
    const usage = seen?.usage ?? null
    ttftMs ??= error === null ? durationMs : null
    const settled = ledger.settle(isPriced(target, seen) ? attempt : unpriced, {
      outcome,
      usage,
      tokensSeen: 0,
      sent,
      error,
      durationMs,
      ttftMs
    })
    context.error ??= error
    context.summary = {
      outcome,
      error,
      target,
      attempts: 1,
      rejected: [],
      usage,
      nanoUsd: settled.nanoUsd,
      ttftMs,
      calls: [{ attemptId: attempt.id, target, outcome, error, startedAt, durationMs, ttftMs, usage, settled }]
    }
    facts.settleLimits(error !== null ? null : usage === null ? facts.estimatedTokens : usage.promptTokens + usage.completionTokens)
  }

  return { send, accept, fail }
}

function withoutPrice(target: Target): Target {
  return target.price.tokens === null ? target : { ...target, price: { source: 'unknown', tokens: null } }
}

/** The registry's prices are for text; whoever sets one by hand knows what for. */
function isPriced(target: Target, seen: UsageSeen | null): boolean {
  return seen !== null && (!seen.hasMedia || target.price.source === 'config')
}
