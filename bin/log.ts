// The log: one structured line per request at its end, without prompts and without secrets.

import pino, { type Logger } from 'pino'
import type { RequestLine } from '../gateway/app.ts'
import type { RequestContext } from '../gateway/context.ts'
import { GatewayError } from '../routing/errors.ts'
import { levelOf, requestLine } from './request-line.ts'

// What a disk that is full, or a reader that is slow, may make us keep; newer lines are dropped beyond it.
const waitingBytesAtMost = 16 * 1024 * 1024
// So much a pipe takes in one piece (PIPE_BUF): lines of several processes do not mix.
const pipeBytes = 4_096
// A character takes three bytes at most.
const pieceLength = Math.floor(pipeBytes / 3)

export interface Log {
  readonly log: Logger
  /** The line of one request, at its end. */
  request(context: RequestContext, line: RequestLine): void
  /** Writes what waits. */
  flush(): void
}

/**
 * Buffered: lines are written in batches, at the latest after 200 ms, and at `flush`.
 * `isShared`: others write to the same place.
 * A reader that closed its end (a pager, a terminal) is no reason to stop serving: from then on nothing is written.
 */
export function createLog(level: string, { fd = 1, isShared = false }: { readonly fd?: number; readonly isShared?: boolean } = {}): Log {
  const destination = pino.destination({
    fd,
    sync: false,
    minLength: isShared ? pipeBytes / 2 : pipeBytes,
    maxLength: waitingBytesAtMost,
    ...(isShared && { maxWrite: pipeBytes })
  })
  let isRead = true
  // The destination measures all that it holds again with each line: it gets them by the piece.
  let piece = ''
  const handOver = (): void => {
    if (piece !== '' && isRead) destination.write(piece)
    piece = ''
  }
  const timer = setInterval(() => {
    handOver()
    destination.flush()
  }, 200)
  timer.unref()
  // The banner goes there by another way, and warnings of Node's do.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  destination.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'EIO') return
    isRead = false
    clearInterval(timer)
    destination.destroy()
  })
  const write = (line: string): void => {
    if (piece.length + line.length > pieceLength) handOver()
    piece += line
  }
  const log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }) },
      serializers: { err: errorFields }
    },
    { write }
  )
  return {
    log,
    request(context, line) {
      const level = levelOf(context, line)
      if (log.isLevelEnabled(level)) write(requestLine(level, context, line, Date.now()))
    },
    flush() {
      try {
        handOver()
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
