// A call whose answer is one JSON body: read to its end within all limits, and judged by whoever made it.

import type { IncomingHttpHeaders } from 'node:http'
import type { Exchange, Outbound, OutboundRequest } from '../../outbound/client.ts'
import { withoutSecrets } from '../../outbound/said.ts'
import { GatewayError, toGatewayError } from '../../routing/errors.ts'
import type { Attempt, AttemptEnd, AttemptHandle, AttemptObserver, Usage } from '../../routing/types.ts'

import { requestLimitOf } from './rate-limits.ts'
import { createWatchdog, type Phase } from './watchdog.ts'

export interface WholeCall {
  readonly outbound: Outbound
  /** How messages name the upstream. */
  readonly where: string
  /** Throws GatewayError when there is no such call. */
  request(): OutboundRequest
  /** What a status that is none of the 200s means; `text` is at most 64 KiB of the body, without our secrets. */
  failure(status: number, headers: IncomingHttpHeaders, text: string): GatewayError
  /** What the body of a success says. */
  read(bytes: Buffer): WholeAnswer
}

export interface WholeAnswer {
  /** Counts also when there is no use in the answer. */
  readonly usage: Usage | null
  readonly result: { readonly body: Buffer; readonly dimensions: number } | GatewayError
}

const answerBytesAtMost = 64 * 1024 * 1024
const errorBytesAtMost = 64 * 1024

/** Starts one attempt. Everything that can go wrong ends in `observer.end`, which never comes from within this call. */
export function wholeCall(call: WholeCall, attempt: Attempt, observer: AttemptObserver): AttemptHandle {
  const { upstream } = attempt.target
  const chunks: Buffer[] = []
  let bytes = 0
  let status = 0
  let headers: IncomingHttpHeaders = {}
  let exchange: Exchange | null = null
  let isOver = false
  let isStarting = true

  const watchdog = createWatchdog(upstream.timeouts, expire)
  try {
    exchange = call.outbound.send(call.request(), { head, data, end, error })
  } catch (thrown) {
    finish({ ok: false, error: toGatewayError(thrown), sent: false })
  }
  isStarting = false
  return { resume() {}, abort }

  function head(code: number, answered: IncomingHttpHeaders): void {
    status = code
    headers = answered
    const limit = requestLimitOf(headers, Date.now())
    if (limit !== null) observer.limits?.(limit)
    if (isRefused()) return
    const encoding = headers['content-encoding']
    const type = String(headers['content-type'] ?? '').toLowerCase()
    if (encoding !== undefined && encoding !== 'identity') {
      unusable(`sent a compressed answer (${String(encoding).slice(0, 20)}) that was not asked for`)
    } else if (!type.includes('json')) {
      unusable(`answered with content type "${type.slice(0, 60) || 'none'}"`)
    } else {
      watchdog.token()
    }
  }

  function data(chunk: Buffer): boolean {
    if (isOver) return true
    watchdog.activity()
    bytes += chunk.length
    const limit = isRefused() ? errorBytesAtMost : answerBytesAtMost
    if (bytes <= limit) chunks.push(chunk)
    else if (isRefused()) refused()
    else unusable(`sent an answer of more than ${limit} bytes`)
    return true
  }

  function end(): void {
    if (isOver) return
    if (isRefused()) return refused()
    let answer: WholeAnswer
    try {
      answer = call.read(Buffer.concat(chunks))
    } catch (thrown) {
      // Nested deeper, or longer once written out, than can be handled: theirs to answer for.
      if (thrown instanceof RangeError) return unusable(`sent an answer that cannot be read (${thrown.message})`)
      return fail(toGatewayError(thrown), true)
    }
    if (answer.usage !== null) observer.usage(answer.usage, null)
    // Whoever hears a figure or a body may call it off.
    if (isOver) return
    if (answer.result instanceof GatewayError) return fail(answer.result, true)
    const { body, dimensions } = answer.result
    observer.body(body)
    finish({ ok: true, dimensions })
  }

  function error(cause: Error & { readonly code?: unknown }, sent: boolean): void {
    if (isOver) return
    // What the status says is worth more than how its body ended.
    if (isRefused()) return refused()
    const code = typeof cause.code === 'string' ? cause.code : cause.name
    fail(
      new GatewayError('upstream_unavailable', `${call.where} could not be reached or dropped the connection (${code}).`, { cause }),
      sent
    )
  }

  function expire(phase: Phase): void {
    if (isRefused()) return refused()
    const { firstTokenMs, idleMs, totalMs } = upstream.timeouts
    const waitedMs = { first_token: firstTokenMs, idle: idleMs, total: totalMs }[phase]
    const said = `${call.where} was silent or slow for too long (${phase}, ${waitedMs} ms).`
    fail(new GatewayError('upstream_unavailable', said, { status: 504 }), exchange?.sent ?? false)
  }

  function isRefused(): boolean {
    return status !== 0 && (status < 200 || status > 299)
  }

  function refused(): void {
    const text = Buffer.concat(chunks).toString('utf8')
    fail(call.failure(status, headers, withoutSecrets(text, upstream)), true)
  }

  function unusable(what: string): void {
    fail(new GatewayError('upstream_unavailable', `${call.where} ${what}.`), true)
  }

  function fail(failure: GatewayError, sent: boolean): void {
    if (isOver) return
    exchange?.abort()
    finish({ ok: false, error: failure, sent })
  }

  function finish(attemptEnd: AttemptEnd): void {
    if (isOver) return
    isOver = true
    watchdog.stop()
    if (isStarting) queueMicrotask(() => observer.end(attemptEnd))
    else observer.end(attemptEnd)
  }

  function abort(): void {
    fail(new GatewayError('client_gone', 'The client went away.'), exchange?.sent ?? false)
  }
}
