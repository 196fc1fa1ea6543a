// How a client waits: what it says of it (`x-llm-mcp-deadline-ms`, `x-llm-mcp-on-disconnect`), and what it is told meanwhile.

import type { IncomingHttpHeaders } from 'node:http'
import { GatewayError } from '../routing/errors.ts'
import { deadlineName } from '../routing/patience.ts'
import type { WaitingPlace } from '../routing/ports.ts'
import type { Patience } from '../routing/types.ts'

const disconnectName = 'x-llm-mcp-on-disconnect'
const deadlineMsAtMost = 86_400_000

/** Null where a request says nothing of it. Throws GatewayError `invalid_request` for what cannot be read. */
export function patienceOf(headers: IncomingHttpHeaders): Patience | null {
  const deadlineMs = deadlineMsOf(headers)
  const disconnect = headers[disconnectName]
  if (deadlineMs === null && disconnect === undefined) return null
  return {
    deadlineMs,
    onDisconnect: disconnect === undefined ? 'cancel' : readDisconnect(String(disconnect).trim().toLowerCase())
  }
}

/** Null without one. Throws GatewayError `invalid_request` for what cannot be read. */
export function deadlineMsOf(headers: IncomingHttpHeaders): number | null {
  const deadline = headers[deadlineName]
  return deadline === undefined ? null : readDeadline(String(deadline).trim())
}

function readDeadline(text: string): number {
  const ms = /^[0-9]{1,8}$/.test(text) ? Number(text) : 0
  if (ms >= 1 && ms <= deadlineMsAtMost) return ms
  throw new GatewayError('invalid_request', `${deadlineName} must be a whole number from 1 to ${deadlineMsAtMost}.`, {
    param: deadlineName
  })
}

function readDisconnect(text: string): Patience['onDisconnect'] {
  if (text === 'cancel' || text === 'finish') return text
  throw new GatewayError('invalid_request', `${disconnectName} must be "cancel" or "finish".`, { param: disconnectName })
}

/** What is left of the deadline of a request that arrived at `startedAt`; null without one, 0 or less when it has passed. */
export function remainingMs(patience: Patience | null, startedAt: number): number | null {
  return patience === null || patience.deadlineMs === null ? null : startedAt + patience.deadlineMs - performance.now()
}

/** A comment of server-sent events, which no client takes for a token: `: queued position=3 eta_ms=1200`. */
export function queuedComment({ position, etaMs }: WaitingPlace): string {
  const place = position === null ? '' : ` position=${position}`
  const eta = etaMs === null ? '' : ` eta_ms=${Math.round(etaMs.p50)}`
  return `: queued${place}${eta}\n\n`
}
