// The way back to an OpenAI client: JSON or server-sent events, straight onto the response: replying with a stream of Fastify's costs 35 us.

import type { ServerResponse } from 'node:http'
import { formatUsd } from '../routing/cost.ts'
import type { Run } from '../routing/dispatch.ts'
import { GatewayError, toGatewayError } from '../routing/errors.ts'
import type { Reply, ReplyFacts, RunSummary } from '../routing/ports.ts'
import { providerOf } from '../routing/targets.ts'
import { type RequestContext, standardHeaders } from './context.ts'
import { errorReply } from './plugins/errors.ts'
import type { Presenter } from './presenter.ts'
import type { OpenStream, Streams } from './streams.ts'

const keepAlive = Buffer.from(': keep-alive\n\n')
// Status and headers wait for the first token this long, then go out without it.
const headersAtLatestMs = 10_000
// Proxies and clients give a silent connection up after 15 s and more.
const keepAliveMs = 12_000
// A reader that takes nothing for so long is gone, whatever its socket says.
const stalledMs = 30_000

const streamHeaders = {
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
  onOver
}: {
  response: ServerResponse
  context: RequestContext
  stream: boolean
  streams: Streams
  presenter: Presenter
  /** Hints left out on the way in. */
  dropped: readonly string[]
  /** After everything else, once. */
  onOver: (summary: RunSummary) => void
}): ClientReply {
  const openedAt = performance.now()
  let run: Run | null = null
  let lastWriteAt = openedAt
  let pendingBytes = 0
  let pendingSince = openedAt
  const open: OpenStream = { tick, end: error => run?.cancel(error) }
  streams.add(open)
  response.on('close', closed)
  response.on('drain', drained)

  function closed(): void {
    streams.remove(open)
    // After the answer's end this finds nothing left to cancel.
    run?.cancel(null)
  }

  function drained(): void {
    run?.resume()
  }

  function tick(now: number): void {
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
    if (now - lastWriteAt >= keepAliveMs) write(keepAlive)
  }

  function openStream(facts: ReplyFacts | null): void {
    response.writeHead(200, { ...standardHeaders(context), ...streamHeaders, ...(facts === null ? {} : factHeaders(shown(facts))) })
    const opening = presenter.open()
    if (opening !== null) write(opening)
    if (facts === null) write(keepAlive)
  }

  function shown(facts: ReplyFacts): ReplyFacts {
    return dropped.length === 0 ? facts : { ...facts, dropped: [...dropped, ...facts.dropped] }
  }

  function write(bytes: Buffer): boolean {
    lastWriteAt = performance.now()
    return response.write(bytes)
  }

  function send(status: number, headers: Readonly<Record<string, string>>, body: Buffer | string): void {
    response.writeHead(status, { ...standardHeaders(context), ...headers, 'content-length': Buffer.byteLength(body) })
    response.end(body)
  }

  let facts: ReplyFacts | null = null

  return {
    attach(attached) {
      run = attached
    },
    start(known) {
      facts = known
      if (stream && !response.headersSent) openStream(known)
    },
    frames(events) {
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
      let answer: Buffer
      try {
        answer = presenter.body(json)
      } catch (error) {
        return this.fail(toGatewayError(error))
      }
      send(200, { 'content-type': 'application/json; charset=utf-8', ...(facts === null ? {} : factHeaders(shown(facts))) }, answer)
    },
    finish(done) {
      response.end(presenter.finish(done))
    },
    fail(failure) {
      const error = presenter.error(failure)
      context.error = error
      if (response.destroyed) return
      if (response.headersSent) {
        // A clean end without [DONE] would be taken for a whole answer.
        response.end(presenter.fail(error))
        return
      }
      const answer = errorReply(error)
      send(answer.status, answer.headers, answer.body)
    },
    over(summary: RunSummary) {
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
export function factHeaders({ target, reason, nanoUsd, dropped }: ReplyFacts): Record<string, string> {
  const { upstream } = target
  return {
    'x-llm-mcp-provider': providerOf(upstream),
    'x-llm-mcp-model': headerSafe(target.model),
    ...(upstream.device === null ? {} : { 'x-llm-mcp-device': upstream.device.id }),
    'x-llm-mcp-reason': reason,
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
