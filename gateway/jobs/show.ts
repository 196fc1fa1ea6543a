// A job as an answer. One with a large result is read in its turn and written in pieces, at the pace of its reader.

import { once } from 'node:events'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { JobOutlook, JobRecord, Jobs } from '../../queue/types.ts'
import { headersSoFar, standardHeaders } from '../context.ts'
import type { OpenStream, Streams } from '../streams.ts'
import { jobJson, jobParts } from './object.ts'

export interface Shown {
  readonly job: JobRecord
  readonly outlook: JobOutlook
  /** What its webhooks are signed with; null = it is not told. */
  readonly secret?: string | null
}

const pieceBytes = 64 * 1024

/** Its result is there, and too large to come along. */
export function isApart({ result, resultBytes }: JobRecord): boolean {
  return result === null && resultBytes !== null
}

/** Sends the job with the status and the headers of `reply`. Rejects with GatewayError while nothing is sent. */
export async function showJob(
  { jobs, streams }: { readonly jobs: Pick<Jobs, 'result'>; readonly streams: Streams },
  { request, reply, shown }: { readonly request: FastifyRequest; readonly reply: FastifyReply; readonly shown: Shown }
): Promise<FastifyReply> {
  const { job, outlook, secret = null } = shown
  reply.type('application/json; charset=utf-8')
  if (!isApart(job)) return reply.send(jobJson(job, outlook, secret))
  const response = reply.raw
  const left = new AbortController()
  response.once('close', () => left.abort())
  if (response.destroyed) left.abort()
  const { bytes, release } = await jobs.result(job, left.signal)
  const open: OpenStream = { tick() {}, end: () => response.destroy() }
  streams.add(open)
  try {
    const parts = jobParts({ ...job, result: bytes }, outlook, secret)
    const length = parts.reduce((sum, part) => sum + part.length, 0)
    reply.hijack()
    response.writeHead(reply.statusCode, { ...headersSoFar(reply), ...standardHeaders(request.context), 'content-length': length })
    for (const piece of piecesOf(parts)) if (!response.write(piece)) await once(response, 'drain', { signal: left.signal })
    response.end()
  } catch (thrown) {
    // Its client left in the middle.
    if (!left.signal.aborted) throw thrown
  } finally {
    streams.remove(open)
    release()
  }
  return reply
}

/** The same bytes, none of them copied, in pieces that a socket takes one by one. */
export function piecesOf(parts: readonly Buffer[]): readonly Buffer[] {
  return parts.flatMap(part => {
    if (part.length <= pieceBytes) return [part]
    return Array.from({ length: Math.ceil(part.length / pieceBytes) }, (_, index) =>
      part.subarray(index * pieceBytes, (index + 1) * pieceBytes)
    )
  })
}
