// The way back to an OpenAI client: JSON or server-sent events, straight onto the response: replying with a stream of Fastify's costs 35 us.

import type { ServerResponse } from 'node:http'
import { formatUsd } from '../routing/cost.ts'
import { GatewayError, toGatewayError } from '../routing/errors.ts'
import { deadlineExceeded } from '../routing/patience.ts'
import type { Reply, ReplyFacts, RunSummary } from '../routing/ports.ts'
import type { Run } from '../routing/run.ts'
import { providerOf } from '../routing/targets.ts'
import type { Patience } from '../routing/types.ts'
import { type BodyWriter, createBodyWriter } from './chunked.ts'
import { type RequestContext, standardHeaders } from './context.ts'
import { errorReply } from './plugins/errors.ts'
import type { Presenter } from './presenter.ts'
import type { OpenStream, Streams } from './streams.ts'
import { queuedComment, remainingMs } from './waiting.ts'

export const keepAlive = Buffer.from(': keep-alive\n\n')
// Status and headers wait for the first token this long, then go out without it.
const headersAtLatestMs = 10_000
// Whoever is queued is told so after this long, counted from the arrival of its request.
const queuedHeadersAtLatestMs = 2_000
// Proxies and clients give a silent connection up after 15 s and more.
export const keepAliveMs = 12_000
// A reader that takes nothing for so long is gone, whatever its socket says.
export const stalledMs = 30_000

// Larger ones cost more to copy than a second piece does.
const inOnePieceBytes = 16 * 1024

export const streamHeaders = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no'
}

export interface ClientReply extends Reply {
  /** Ties the reply to the run that feeds it. */
  attach(run: Run): void
}

/** The reply for one request on a response nobody else writes to. */
export function createReply({
  response,
  context,
  stream,
  streams,
  presenter,
  dropped,
  patience,
  onOver
}: {
  response: ServerResponse
  context: RequestContext
  stream: boolean
  streams: Streams
  presenter: Presenter
  /** Hints left out on the way in. */
  dropped: readonly string[]
  /** Null: no deadline, and the run ends with its client. */
  patience: Patience | null
  /** After everything else, once. */
  onOver: (summary: RunSummary) => void
}): ClientReply {
  const openedAt = performance.now()
  let run: Run | null = null
  let lastWriteAt = openedAt
  let pendingBytes = 0
  let pendingSince = openedAt
  let facts: ReplyFacts | null = null
  /** Of a stream, once its head is out. */
  let writer: BodyWriter | null = null
  let isOver = false
  // The run goes on for nobody: what it says is thrown away.
  let isGone = false
  /** Where the request stands, as a comment; null when it does not wait. */
  let place: string | null = null
  let placeTold: string | null = null
  let headersTimer: NodeJS.Timeout | null = null
  const deadlineTimer = startDeadline()
  const open: OpenStream = { tick, end: error => run?.cancel(error), place: null }
  streams.add(open)
  response.on('close', closed)
  response.on('drain', drained)

  function startDeadline(): NodeJS.Timeout | undefined {
    const leftMs = remainingMs(patience, context.startedAt)
    if (leftMs === null) return undefined
    return setTimeout(() => run?.cancel(deadlineExceeded(patience, stream)), Math.max(0, leftMs))
  }

  function stopTimers(): void {
    stopWaiting()
    clearTimeout(deadlineTimer)
  }

  function stopWaiting(): void {
    place = null
    if (headersTimer !== null) clearTimeout(headersTimer)
    headersTimer = null
  }

  function closed(): void {
    if (patience?.onDisconnect === 'finish' && run !== null && !isOver) {
      // It stays among the open ones, so that a shutdown waits for it, and ends it when it takes too long.
      isGone = true
      stopWaiting()
      return run.resume()
    }
    streams.remove(open)
    stopTimers()
    // After the answer's end this finds nothing left to cancel.
    run?.cancel(null)
  }

  function drained(): void {
    run?.resume()
  }

  function tick(now: number): void {
    if (isGone) return
    const pending = unsentBytes(response)
    if (pending !== pendingBytes) {
      pendingBytes = pending
      pendingSince = now
    } else if (pending > 0 && now - pendingSince > stalledMs) {
      response.destroy()
      return
    }
    if (!stream || response.writableEnded || response.writableNeedDrain) return
    if (!response.headersSent) {
      if (now - openedAt >= headersAtLatestMs) openStream(null)
      else return
    }
    tellPlace()
    if (now - lastWriteAt >= keepAliveMs) write(keepAlive)
  }

  function openStream(facts: ReplyFacts | null): void {
    response.writeHead(200, { ...standardHeaders(context), ...streamHeaders, ...(facts === null ? {} : factHeaders(shown(facts))) })
    writer = createBodyWriter(response)
    const opening = presenter.open()
    if (opening !== null) write(opening)
    if (place !== null) tellPlace()
    else if (facts === null) write(keepAlive)
  }

  function openQueued(): void {
    if (!response.headersSent) openStream(null)
  }

  /** Once each; a reader that is full gets the last one when it has room. */
  function tellPlace(): void {
    if (place === null || place === placeTold || response.writableNeedDrain) return
    placeTold = place
    write(Buffer.from(place))
  }

  function shown(facts: ReplyFacts): ReplyFacts {
    return dropped.length === 0 ? facts : { ...facts, dropped: [...dropped, ...facts.dropped] }
  }

  function write(bytes: Buffer): boolean {
    lastWriteAt = performance.now()
    return writer === null || writer.write(bytes)
  }

  function send(status: number, headers: Readonly<Record<string, string>>, body: Buffer | string): void {
    response.writeHead(status, { ...standardHeaders(context), ...headers, 'content-length': Buffer.byteLength(body) })
    // Node sends the head together with a string in one piece, with a buffer in two: each byte as a character of latin1 is the same on the wire.
    if (body instanceof Buffer && body.length <= inOnePieceBytes) response.end(body.toString('latin1'), 'latin1')
    else response.end(body)
  }

  return {
    attach(attached) {
      run = attached
    },
    waiting(now) {
      if (isGone || facts !== null) return
      context.headers['x-llm-mcp-job-id'] = now.jobId
      // A whole answer is simply held.
      if (!stream) return
      place = queuedComment(now)
      if (response.headersSent) return tellPlace()
      const leftMs = context.startedAt + queuedHeadersAtLatestMs - performance.now()
      headersTimer ??= setTimeout(openQueued, Math.max(0, leftMs))
    },
    start(known) {
      stopWaiting()
      facts = known
      if (isGone) return
      // A whole answer must be there in time, a stream its first token.
      if (stream) clearTimeout(deadlineTimer)
      if (stream && !response.headersSent) openStream(known)
    },
    frames(events) {
      if (isGone) return true
      let bytes: Buffer | null
      try {
        bytes = presenter.frames(events)
      } catch (error) {
        run?.cancel(toGatewayError(error))
        return true
      }
      return bytes === null || bytes.length === 0 ? !response.writableNeedDrain : write(bytes)
    },
    body(json) {
      stopTimers()
      if (isGone) return
      let answer: Buffer
      try {
        answer = presenter.body(json)
      } catch (error) {
        return this.fail(toGatewayError(error))
      }
      send(200, { 'content-type': 'application/json; charset=utf-8', ...(facts === null ? {} : factHeaders(shown(facts))) }, answer)
    },
    finish(done) {
      if (isGone) return
      writer?.end(presenter.finish(done))
    },
    fail(failure) {
      stopTimers()
      const error = presenter.error(failure)
      context.error = error
      if (response.destroyed) return
      if (response.headersSent) {
        // A clean end without [DONE] would be taken for a whole answer.
        writer?.end(presenter.fail(error))
        return
      }
      const answer = errorReply(error)
      send(answer.status, answer.headers, answer.body)
    },
    over(summary: RunSummary) {
      isOver = true
      stopTimers()
      if (isGone) streams.remove(open)
      context.summary = summary
      context.error ??= summary.error
      onOver(summary)
    }
  }
}

/** What the reader has not taken yet: in Node's buffers, and in a write the kernel has only taken in part. */
export function unsentBytes(response: ServerResponse): number {
  const handle = (response.socket as { _handle?: { writeQueueSize?: number } | null } | null)?._handle
  return response.writableLength + (handle?.writeQueueSize ?? 0)
}

/** `x-llm-mcp-*`: who answers, why, for how much, and what was left out. */
export function factHeaders({ target, reason, nanoUsd, dropped, etaMs }: ReplyFacts): Record<string, string> {
  const { upstream } = target
  return {
    'x-llm-mcp-provider': providerOf(upstream),
    'x-llm-mcp-model': headerSafe(target.model),
    ...(upstream.device === null ? {} : { 'x-llm-mcp-device': upstream.device.id }),
    'x-llm-mcp-reason': reason,
    ...(etaMs === undefined ? {} : { 'x-llm-mcp-eta-ms': String(etaMs.p50) }),
    ...(dropped.length === 0 ? {} : { 'x-llm-mcp-dropped': droppedNames(dropped) }),
    ...(nanoUsd === null ? {} : { 'x-llm-mcp-cost-usd': formatUsd(nanoUsd) })
  }
}

/** A header has its limits, and what a client sends has none. */
function droppedNames(names: readonly string[]): string {
  return [...new Set(names)]
    .slice(0, 32)
    .map(name => headerSafe(name.slice(0, 64)))
    .join(', ')
}

/** Model names come from machines and lists; a header takes visible ASCII only. */
function headerSafe(text: string): string {
  return /^[\x20-\x7e]*$/.test(text) ? text : encodeURIComponent(text)
}

export function drainingError(): GatewayError {
  return new GatewayError('server_draining', 'The gateway is shutting down.', { retryAfterMs: 1_000 })
}
