// GET /v1/jobs/{id}/stream: what happens to a job, as server-sent events straight onto the response, at the pace of their reader.

import type { ServerResponse } from 'node:http'
import type { EventId, JobEvent, Jobs, JobWatch } from '../../queue/types.ts'
import { type GatewayError, toGatewayError } from '../../routing/errors.ts'
import { type RequestContext, standardHeaders } from '../context.ts'
import { invalid } from '../fields.ts'
import { errorReply } from '../plugins/errors.ts'
import { keepAlive, keepAliveMs, stalledMs, streamHeaders, unsentBytes } from '../reply.ts'
import type { OpenStream, Streams } from '../streams.ts'
import { jobParts, noOutlook } from './object.ts'
import { isApart, piecesOf } from './show.ts'

/** From `Last-Event-ID`, or else `?last_event_id=`; null where neither is given. Throws GatewayError `invalid_request`. */
export function readLastEventId(header: string | string[] | undefined, query: unknown): EventId | null {
  const value = header ?? (query as Readonly<Record<string, unknown>>).last_event_id
  if (value === undefined) return null
  const [, attempt, seq] = (typeof value === 'string' ? /^(\d{1,10})-(\d{1,10})$/.exec(value) : null) ?? []
  const id = { attempt: Number(attempt), seq: Number(seq) }
  if (!(id.attempt <= largestNumber && id.seq <= largestNumber)) throw invalid('last_event_id', 'the id of an event, such as 1-42')
  return id
}

// PostgreSQL's integer.
const largestNumber = 2_147_483_647

// Status and headers come with the first event; one who waits for it longer gets them without.
const headersAtLatestMs = 1_000

/**
 * Answers on the raw response, and never throws; a failure is the last event, `error`, or an answer of its own where nothing was sent.
 * A reader for whom nothing is left gets a 204, after which an EventSource does not come back. The watch is closed when it is over.
 */
export function follow({
  response,
  context,
  streams,
  watch,
  result,
  now
}: {
  readonly response: ServerResponse
  readonly context: RequestContext
  readonly streams: Streams
  readonly watch: JobWatch
  /** Reads a large one. */
  readonly result: Jobs['result']
  /** Epoch, ms. */
  readonly now: () => number
}): void {
  const openedAt = performance.now()
  let lastWriteAt = openedAt
  let pendingBytes = 0
  let pendingSince = openedAt
  let isOver = false
  /** A part of an event is written, and nothing else may come before the rest of it. */
  let isWithin = false
  let wake: (() => void) | null = null
  const left = new AbortController()
  const open: OpenStream = { tick, end: fail }
  streams.add(open)
  response.on('close', closed)
  response.on('drain', drained)
  // The client left while its job was looked up: nobody else would tell.
  if (response.destroyed) return closed()
  pump().catch((error: unknown) => fail(toGatewayError(error)))

  async function pump(): Promise<void> {
    for (;;) {
      const events = await watch.next()
      if (isOver) return
      if (events === null) return finish()
      for (const event of events) {
        await writeEvent(event)
        if (isOver) return
      }
    }
  }

  async function writeEvent(event: JobEvent): Promise<void> {
    if (event.type !== 'result') {
      if (!write(frameOf(event, now))) await roomAgain()
      return
    }
    const held = isApart(event.job) ? await result(event.job, left.signal) : null
    try {
      const job = held === null ? event.job : { ...event.job, result: held.bytes }
      const pieces = piecesOf([
        Buffer.from(`event: result\nid: ${idOf(event.id)}\ndata: `),
        ...jobParts(job, noOutlook),
        Buffer.from('\n\n')
      ])
      for (const [index, piece] of pieces.entries()) {
        if (isOver) return
        isWithin = index + 1 < pieces.length
        if (!write(piece)) await roomAgain()
      }
    } finally {
      held?.release()
    }
  }

  function begin(): void {
    if (response.headersSent) return
    response.writeHead(200, { ...standardHeaders(context), ...streamHeaders })
    response.flushHeaders()
  }

  function write(frame: Buffer): boolean {
    // Its `close` is on the way.
    if (response.destroyed) return false
    begin()
    lastWriteAt = performance.now()
    return response.write(frame)
  }

  function roomAgain(): Promise<void> {
    return new Promise(resolve => {
      wake = resolve
    })
  }

  function drained(): void {
    wake?.()
    wake = null
  }

  function tick(at: number): void {
    const pending = unsentBytes(response)
    if (pending !== pendingBytes) {
      pendingBytes = pending
      pendingSince = at
    } else if (pending > 0 && at - pendingSince > stalledMs) {
      response.destroy()
      return
    }
    if (isOver || response.writableNeedDrain) return
    if (at - openedAt >= headersAtLatestMs) begin()
    if (!isWithin && at - lastWriteAt >= keepAliveMs) write(keepAlive)
  }

  /** Without an `end` before it, the client comes back with the id of the last event it has. */
  function fail(error: GatewayError): void {
    if (isOver) return
    context.error = error
    isOver = true
    watch.close()
    left.abort()
    drained()
    if (response.destroyed) return
    if (response.headersSent) {
      // An event that ends in its middle is none.
      response.end(isWithin ? undefined : `event: error\ndata: ${JSON.stringify(error.body())}\n\n`)
      return
    }
    const { status, headers, body } = errorReply(error)
    response.writeHead(status, { ...standardHeaders(context), ...headers }).end(body)
  }

  function finish(): void {
    isOver = true
    watch.close()
    if (!response.headersSent) response.writeHead(204, standardHeaders(context))
    response.end()
  }

  function closed(): void {
    streams.remove(open)
    if (!isOver) watch.close()
    isOver = true
    left.abort()
    drained()
  }
}

function frameOf(event: Exclude<JobEvent, { type: 'result' }>, now: () => number): Buffer {
  switch (event.type) {
    case 'status': {
      const { position, etaMs } = event.outlook
      const data = { type: 'status', status: event.status, position, eta_ms: etaMs, ts: new Date(now()).toISOString() }
      return Buffer.from(`event: status\ndata: ${JSON.stringify(data)}\n\n`)
    }
    case 'attempt': {
      const data = { type: 'attempt', attempt: event.id.attempt, ts: event.at.toISOString() }
      return Buffer.from(`event: attempt\nid: ${idOf(event.id)}\ndata: ${JSON.stringify(data)}\n\n`)
    }
    case 'chunk':
      return Buffer.from(`id: ${idOf(event.id)}\ndata: ${event.json.replace(/[\r\n]/g, ' ')}\n\n`)
    case 'end': {
      const data = { type: 'end', status: event.status, ts: event.at.toISOString() }
      return Buffer.from(`event: end\nid: ${idOf(event.id)}\ndata: ${JSON.stringify(data)}\n\n`)
    }
  }
}

function idOf({ attempt, seq }: EventId): string {
  return `${attempt}-${seq}`
}
