// The way back to an OpenAI client: JSON or server-sent events, straight onto the response: replying with a stream of Fastify's costs 35 us.

import type { ServerResponse } from 'node:http'
import { formatUsd } from '../routing/cost.ts'
import { GatewayError, toGatewayError } from '../routing/errors.ts'
import { deadlineExceeded } from '../routing/patience.ts'
import type { Reply, ReplyFacts, RunSummary, WaitingPlace } from '../routing/ports.ts'
import type { Run } from '../routing/run-ports.ts'
import { providerOf } from '../routing/targets.ts'
import type { Patience } from '../routing/types.ts'
import { type BodyWriter, createBodyWriter } from './chunked.ts'
import { addStandard, type RequestContext } from './context.ts'
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

export interface ReplyParts {
  readonly response: ServerResponse
  readonly context: RequestContext
  readonly stream: boolean
  readonly streams: Streams
  readonly presenter: Presenter
  /** Hints left out on the way in. */
  readonly dropped: readonly string[]
  /** Null: no deadline, and the run ends with its client. */
  readonly patience: Patience | null
  /** After everything else, once. */
  readonly onOver: (summary: RunSummary) => void
}

/** The reply for one request on a response nobody else writes to. */
export function createReply(parts: ReplyParts): ClientReply {
  const reply = new ResponseReply(parts)
  reply.open()
  return reply
}

/** A class, so that an answer is one object and not twenty functions. */
class ResponseReply implements ClientReply, OpenStream {
  readonly #parts: ReplyParts
  readonly #response: ServerResponse
  readonly #openedAt = performance.now()
  #run: Run | null = null
  #lastWriteAt = this.#openedAt
  #pendingBytes = 0
  #pendingSince = this.#openedAt
  #facts: ReplyFacts | null = null
  /** Of a stream, once its head is out. */
  #writer: BodyWriter | null = null
  #isOver = false
  // The run goes on for nobody: what it says is thrown away.
  #isGone = false
  /** Where the request stands, as a comment; null when it does not wait. */
  #waitsAt: string | null = null
  #waitsAtTold: string | null = null
  #headersTimer: NodeJS.Timeout | null = null
  #deadlineTimer: NodeJS.Timeout | null = null
  /** The open ones' own. */
  place: number | null = null

  constructor(parts: ReplyParts) {
    this.#parts = parts
    this.#response = parts.response
  }

  open(): void {
    const { patience, context, streams, stream } = this.#parts
    const response = this.#response
    const leftMs = remainingMs(patience, context.startedAt)
    if (leftMs !== null) this.#deadlineTimer = setTimeout(() => this.#run?.cancel(deadlineExceeded(patience, stream)), Math.max(0, leftMs))
    streams.add(this)
    response.on('close', () => this.#closed())
    // Of a whole answer there is one write.
    if (stream) response.on('drain', () => this.#run?.resume())
  }

  attach(run: Run): void {
    this.#run = run
  }

  // 1. what the run tells

  waiting(now: WaitingPlace): void {
    const { context, stream } = this.#parts
    if (this.#isGone || this.#facts !== null) return
    context.headers['x-llm-mcp-job-id'] = now.jobId
    // A whole answer is simply held.
    if (!stream) return
    this.#waitsAt = queuedComment(now)
    if (this.#response.headersSent) return this.#tellPlace()
    const leftMs = context.startedAt + queuedHeadersAtLatestMs - performance.now()
    this.#headersTimer ??= setTimeout(() => this.#openQueued(), Math.max(0, leftMs))
  }

  start(known: ReplyFacts): void {
    const { stream } = this.#parts
    this.#stopWaiting()
    this.#facts = known
    if (this.#isGone || !stream) return
    // A whole answer must be there in time, a stream its first token.
    this.#stopDeadline()
    if (!this.#response.headersSent) this.#openStream(known)
  }

  frames(events: Buffer): boolean {
    if (this.#isGone) return true
    let bytes: Buffer | null
    try {
      bytes = this.#parts.presenter.frames(events)
    } catch (error) {
      this.#run?.cancel(toGatewayError(error))
      return true
    }
    return bytes === null || bytes.length === 0 ? !this.#response.writableNeedDrain : this.#write(bytes)
  }

  body(json: Buffer): void {
    this.#stopTimers()
    if (this.#isGone) return
    let answer: Buffer
    try {
      answer = this.#parts.presenter.body(json)
    } catch (error) {
      return this.fail(toGatewayError(error))
    }
    const headers: Record<string, string> = { 'content-type': 'application/json; charset=utf-8' }
    if (this.#facts !== null) addFacts(headers, this.#shown(this.#facts))
    this.#send(200, headers, answer)
  }

  finish(done: Buffer | null): void {
    if (!this.#isGone) this.#writer?.end(this.#parts.presenter.finish(done))
  }

  fail(failure: GatewayError): void {
    const { presenter, context } = this.#parts
    const response = this.#response
    this.#stopTimers()
    const error = presenter.error(failure)
    context.error = error
    if (response.destroyed) return
    if (response.headersSent) {
      // A clean end without [DONE] would be taken for a whole answer.
      this.#writer?.end(presenter.fail(error))
      return
    }
    const answer = errorReply(error)
    this.#send(answer.status, { ...answer.headers }, answer.body)
  }

  over(summary: RunSummary): void {
    const { context, streams, onOver } = this.#parts
    this.#isOver = true
    this.#stopTimers()
    if (this.#isGone) streams.remove(this)
    context.summary = summary
    context.error ??= summary.error
    onOver(summary)
  }

  // 2. what the clock of all open answers tells

  tick(now: number): void {
    if (this.#isGone) return
    const response = this.#response
    const pending = unsentBytes(response)
    if (pending !== this.#pendingBytes) {
      this.#pendingBytes = pending
      this.#pendingSince = now
    } else if (pending > 0 && now - this.#pendingSince > stalledMs) {
      response.destroy()
      return
    }
    if (!this.#parts.stream || response.writableEnded || response.writableNeedDrain) return
    if (!response.headersSent) {
      if (now - this.#openedAt >= headersAtLatestMs) this.#openStream(null)
      else return
    }
    this.#tellPlace()
    if (now - this.#lastWriteAt >= keepAliveMs) this.#write(keepAlive)
  }

  end(error: GatewayError): void {
    this.#run?.cancel(error)
  }

  // 3. the client

  #closed(): void {
    const { patience, streams } = this.#parts
    if (patience?.onDisconnect === 'finish' && this.#run !== null && !this.#isOver) {
      // It stays among the open ones, so that a shutdown waits for it, and ends it when it takes too long.
      this.#isGone = true
      this.#stopWaiting()
      return this.#run.resume()
    }
    streams.remove(this)
    this.#stopTimers()
    // After the answer's end this finds nothing left to cancel.
    this.#run?.cancel(null)
  }

  #stopTimers(): void {
    this.#stopWaiting()
    this.#stopDeadline()
  }

  #stopWaiting(): void {
    this.#waitsAt = null
    if (this.#headersTimer !== null) clearTimeout(this.#headersTimer)
    this.#headersTimer = null
  }

  #stopDeadline(): void {
    if (this.#deadlineTimer !== null) clearTimeout(this.#deadlineTimer)
    this.#deadlineTimer = null
  }

  #openStream(facts: ReplyFacts | null): void {
    const { context, presenter } = this.#parts
    const headers: Record<string, string> = { ...streamHeaders }
    if (facts !== null) addFacts(headers, this.#shown(facts))
    addStandard(headers, context)
    this.#response.writeHead(200, headers)
    this.#writer = createBodyWriter(this.#response)
    const opening = presenter.open()
    if (opening !== null) this.#write(opening)
    if (this.#waitsAt !== null) this.#tellPlace()
    else if (facts === null) this.#write(keepAlive)
  }

  #openQueued(): void {
    if (!this.#response.headersSent) this.#openStream(null)
  }

  /** Once each; a reader that is full gets the last one when it has room. */
  #tellPlace(): void {
    if (this.#waitsAt === null || this.#waitsAt === this.#waitsAtTold || this.#response.writableNeedDrain) return
    this.#waitsAtTold = this.#waitsAt
    this.#write(Buffer.from(this.#waitsAt))
  }

  #shown(facts: ReplyFacts): ReplyFacts {
    const { dropped } = this.#parts
    return dropped.length === 0 ? facts : { ...facts, dropped: [...dropped, ...facts.dropped] }
  }

  #write(bytes: Buffer): boolean {
    this.#lastWriteAt = performance.now()
    return this.#writer === null || this.#writer.write(bytes)
  }

  #send(status: number, headers: Record<string, string>, body: Buffer | string): void {
    const response = this.#response
    headers['content-length'] = String(Buffer.byteLength(body))
    addStandard(headers, this.#parts.context)
    response.writeHead(status, headers)
    if (body instanceof Buffer && body.length <= inOnePieceBytes) setImmediate(endInOnePiece, response, body)
    else response.end(body)
  }
}

/**
 * At the end of this turn of the loop, together with all other answers that came in it (see outbound/turn.ts; `end` lets nobody hold it back).
 * Node sends the head together with a string in one piece, with a buffer in two: each byte as a character of latin1 is the same on the wire.
 */
function endInOnePiece(response: ServerResponse, body: Buffer): void {
  response.end(body.toString('latin1'), 'latin1')
}

/** What the reader has not taken yet: in Node's buffers, and in a write the kernel has only taken in part. */
export function unsentBytes(response: ServerResponse): number {
  const handle = (response.socket as { _handle?: { writeQueueSize?: number } | null } | null)?._handle
  return response.writableLength + (handle?.writeQueueSize ?? 0)
}

/** `x-llm-mcp-*`: who answers, why, for how much, and what was left out. */
export function factHeaders(facts: ReplyFacts): Record<string, string> {
  const headers: Record<string, string> = {}
  addFacts(headers, facts)
  return headers
}

function addFacts(headers: Record<string, string>, { target, reason, nanoUsd, dropped, etaMs }: ReplyFacts): void {
  const { upstream } = target
  headers['x-llm-mcp-provider'] = providerOf(upstream)
  headers['x-llm-mcp-model'] = headerSafe(target.model)
  if (upstream.device !== null) headers['x-llm-mcp-device'] = upstream.device.id
  headers['x-llm-mcp-reason'] = reason
  if (etaMs !== undefined) headers['x-llm-mcp-eta-ms'] = String(etaMs.p50)
  if (dropped.length > 0) headers['x-llm-mcp-dropped'] = droppedNames(dropped)
  if (nanoUsd !== null) headers['x-llm-mcp-cost-usd'] = formatUsd(nanoUsd)
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
