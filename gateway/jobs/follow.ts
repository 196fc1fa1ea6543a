// GET /v1/jobs/{id}/stream: what happens to a job, as server-sent events straight onto the response, at the pace of their reader.

import type { ServerResponse } from 'node:http'
import type { EventId, JobEvent, JobWatch } from '../../queue/types.ts'
import { type GatewayError, toGatewayError } from '../../routing/errors.ts'
import { type RequestContext, standardHeaders } from '../context.ts'
import { invalid } from '../fields.ts'
import { keepAlive, keepAliveMs, stalledMs, streamHeaders, unsentBytes } from '../reply.ts'
import type { OpenStream, Streams } from '../streams.ts'
import { jobJson, noOutlook } from './object.ts'

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

/** Answers on the raw response, and never throws; a failure is the last event, `error`. The watch is closed when it is over. */
export function follow({
  response,
  context,
  streams,
  watch,
  now
}: {
  readonly response: ServerResponse
  readonly context: RequestContext
  readonly streams: Streams
  readonly watch: JobWatch
  /** Epoch, ms. */
  readonly now: () => number
}): void {
  let lastWriteAt = performance.now()
  let pendingBytes = 0
  let pendingSince = lastWriteAt
  let isOver = false
  let wake: (() => void) | null = null
  const open: OpenStream = { tick, end: fail }
  streams.add(open)
  response.on('close', closed)
  response.on('drain', drained)
  // The client left while its job was looked up: nobody else would tell.
  if (response.destroyed) return closed()
  response.writeHead(200, { ...standardHeaders(context), ...streamHeaders })
  response.flushHeaders()
  pump().catch((error: unknown) => fail(toGatewayError(error)))

  async function pump(): Promise<void> {
    for (;;) {
      const events = await watch.next()
      if (isOver) return
      if (events === null) return finish()
      for (const event of events) {
        if (!write(frameOf(event, now))) await roomAgain()
        if (isOver) return
      }
    }
  }

  function write(frame: Buffer): boolean {
    // Its `close` is on the way.
    if (response.destroyed) return false
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
    if (!isOver && !response.writableNeedDrain && at - lastWriteAt >= keepAliveMs) write(keepAlive)
  }

  /** Without an `end` before it, the client comes back with the id of the last event it has. */
  function fail(error: GatewayError): void {
    if (isOver) return
    context.error = error
    write(Buffer.from(`event: error\ndata: ${JSON.stringify(error.body())}\n\n`))
    finish()
  }

  function finish(): void {
    isOver = true
    watch.close()
    response.end()
  }

  function closed(): void {
    streams.remove(open)
    if (!isOver) watch.close()
    isOver = true
    drained()
  }
}

function frameOf(event: JobEvent, now: () => number): Buffer {
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
    case 'result':
      return Buffer.concat([
        Buffer.from(`event: result\nid: ${idOf(event.id)}\ndata: `),
        jobJson(event.job, noOutlook),
        Buffer.from('\n\n')
      ])
    case 'end': {
      const data = { type: 'end', status: event.status, ts: event.at.toISOString() }
      return Buffer.from(`event: end\nid: ${idOf(event.id)}\ndata: ${JSON.stringify(data)}\n\n`)
    }
  }
}

function idOf({ attempt, seq }: EventId): string {
  return `${attempt}-${seq}`
}
