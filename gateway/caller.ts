// Whom a request counts for: its source, or the person behind a key that many share, with limits and costs of their own.

import { isUtf8 } from 'node:buffer'
import { hash } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import type { Caller } from '../routing/types.ts'

const lengthAtMost = 128

/**
 * From `X-OpenWebUI-User-Id`, or else the body's `user`; null where neither says anything. Whatever a client sends there becomes
 * a name that logs and tables can hold: long or odd ones by their hash.
 */
export function subSourceOf(header: string | string[] | undefined, user: () => unknown): string | null {
  const given = header === undefined ? user() : asSent(String(header))
  if (typeof given !== 'string' || given.trim() === '') return null
  const name = given.trim()
  return name.length <= lengthAtMost && /^[\w.@:+-]+$/.test(name) ? name : `sha256:${hash('sha256', name, 'hex').slice(0, 32)}`
}

/** Node reads headers as latin1; most programs write names into them as UTF-8. */
function asSent(header: string): string {
  const bytes = Buffer.from(header, 'latin1')
  return isUtf8(bytes) ? bytes.toString('utf8') : header
}

/** The caller of a request, or the person behind a key that many share. `user`: what the body says, asked only where it counts. */
export function callerOf({ context, headers }: FastifyRequest, user: () => unknown): Caller {
  const caller = context.caller as Caller
  if (context.key?.trustUserHeader !== true) return caller
  return { ...caller, subSource: subSourceOf(headers['x-openwebui-user-id'], user) }
}

/** Whose limits a caller uses: a source's, or a person's behind it. */
export function limitsName({ source, subSource }: Caller): string {
  return subSource === null ? source : `${source}/${subSource}`
}
