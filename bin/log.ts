// The log: one structured line per request at its end, without prompts and without secrets.

import pino, { type Logger } from 'pino'
import type { RequestLine } from '../gateway/app.ts'
import type { RequestContext } from '../gateway/context.ts'
import { GatewayError } from '../routing/errors.ts'

// What a disk that is full, or a reader that is slow, may make us keep; newer lines are dropped beyond it.
const waitingBytesAtMost = 16 * 1024 * 1024
// So much a pipe takes in one piece (PIPE_BUF): lines of several processes do not mix.
const pipeBytes = 4_096

/**
 * Buffered: lines are written in batches, at the latest after 200 ms, and at `flush`.
 * `isShared`: others write to the same place.
 * A reader that closed its end (a pager, a terminal) is no reason to stop serving: from then on nothing is written.
 */
export function createLog(
  level: string,
  { fd = 1, isShared = false }: { readonly fd?: number; readonly isShared?: boolean } = {}
): { readonly log: Logger; flush(): void } {
  const destination = pino.destination({
    fd,
    sync: false,
    minLength: isShared ? pipeBytes / 2 : pipeBytes,
    maxLength: waitingBytesAtMost,
    ...(isShared && { maxWrite: pipeBytes })
  })
  const timer = setInterval(() => destination.flush(), 200)
  timer.unref()
  // The banner goes there by another way, and warnings of Node's do.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  let isRead = true
  destination.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'EIO') return
    isRead = false
    clearInterval(timer)
    destination.destroy()
  })
  const log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }) },
      serializers: { err: errorFields }
    },
    {
      write(line) {
        if (isRead) destination.write(line)
      }
    }
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

const framesAtMost = 12

/**
 * Of one of ours what may be kept: its message quotes what an upstream said, and that may be a prompt; so do the stack and the cause. Of a
 * cause that nobody foresaw, what kind it is and where it came from.
 */
function errorFields(error: unknown): unknown {
  if (!(error instanceof GatewayError)) return pino.stdSerializers.err(error as Error)
  const { code, logMessage: message, cause } = error
  if (code !== 'internal_error' || !(cause instanceof Error)) return { code, message }
  const at = (cause.stack ?? '').split('\n').filter(line => /^ +at /.test(line))
  return {
    code,
    message,
    cause: { type: cause.name, code: (cause as NodeJS.ErrnoException).code, at: at.slice(0, framesAtMost).join('\n') }
  }
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
      errorMessage: error === null ? undefined : error.logMessage
    },
    'request'
  )
}
