// The log: one structured line per request at its end, without prompts and without secrets.

import pino, { type Logger } from 'pino'
import type { RequestContext } from '../gateway/context.ts'

/** Buffered: lines are written in batches, at the latest after 200 ms, and at `flush`. */
export function createLog(level: string): { readonly log: Logger; flush(): void } {
  const destination = pino.destination({ fd: 1, sync: false, minLength: 4_096 })
  // A reader that closed its end (a pager, a pipe) is no reason to stop serving.
  destination.on('error', () => {})
  const timer = setInterval(() => destination.flush(), 200)
  timer.unref()
  const log = pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime, formatters: { level: label => ({ level: label }) } },
    destination
  )
  return {
    log,
    flush() {
      try {
        destination.flushSync()
      } catch {
        // Nothing was open yet, or nobody reads: nothing to save.
      }
    }
  }
}

export interface RequestLine {
  readonly method: string
  readonly route: string
  readonly status: number
  readonly retryCount: number
}

/** Its names are those of the wire and the tables; times in ms, money in nano-dollars. */
export function logRequest(log: Logger, context: RequestContext, line: RequestLine): void {
  const { summary, error, caller } = context
  const failed = line.status >= 500 && error?.code !== 'no_capacity' && error?.code !== 'server_draining'
  // Probes come every few seconds, and say nothing when they are well.
  const isProbe = line.route === '/health' || line.route === '/ready'
  log[failed ? 'warn' : isProbe && line.status === 200 ? 'debug' : 'info'](
    {
      requestId: context.id,
      ...line,
      durationMs: Math.round(performance.now() - context.startedAt),
      source: caller?.source,
      keyId: caller?.keyId,
      model: context.model ?? undefined,
      stream: context.model === null ? undefined : context.stream,
      ...(summary === null
        ? {}
        : {
            outcome: summary.outcome,
            target: summary.target?.id,
            attempts: summary.attempts,
            rejected: summary.rejected.length === 0 ? undefined : summary.rejected.slice(0, 20),
            ttftMs: summary.ttftMs === null ? undefined : Math.round(summary.ttftMs),
            promptTokens: summary.usage?.promptTokens,
            completionTokens: summary.usage?.completionTokens,
            nanoUsd: summary.nanoUsd ?? undefined
          }),
      error: error === null ? undefined : error.code,
      errorMessage: error === null ? undefined : error.message
    },
    'request'
  )
}
