// The line of a request in the log, as pino would write it. Put together here: pino takes 3 kB of memory for each, and there is one a request.

import type { RequestLine } from '../gateway/app.ts'
import type { RequestContext } from '../gateway/context.ts'

const rejectedAtMost = 20

/** What a request is worth in the log. Probes come every few seconds, and say nothing when they are well. */
export function levelOf({ error }: Pick<RequestContext, 'error'>, { status, route }: RequestLine): 'warn' | 'debug' | 'info' {
  if (status >= 500 && error?.code !== 'no_capacity' && error?.code !== 'server_draining') return 'warn'
  return status === 200 && (route === '/health' || route === '/ready') ? 'debug' : 'info'
}

/**
 * JSON and a line feed. The names are those of the wire and the tables; times in ms, money in nano-dollars; `nowMs`: epoch. What is not
 * known is left out.
 */
export function requestLine(level: string, context: RequestContext, line: RequestLine, nowMs: number): string {
  const { summary, error, caller, model } = context
  let text = `{"level":"${level}","time":"${isoTime(nowMs)}","requestId":"${context.id}","method":${quoted(line.method)},"route":${quoted(line.route)}`
  text += `,"status":${line.status},"retryCount":${line.retryCount},"durationMs":${Math.round(performance.now() - context.startedAt)}`
  if (caller !== null) text += `,"source":${quoted(caller.source)},"keyId":${caller.keyId === null ? null : quoted(caller.keyId)}`
  if (model !== null) text += `,"model":${quoted(model)},"stream":${context.stream}`
  if (summary !== null) {
    const { outcome, target, attempts, rejected, ttftMs, usage, nanoUsd } = summary
    text += `,"outcome":"${outcome}"`
    if (target !== null) text += `,"target":${quoted(target.id)}`
    text += `,"attempts":${attempts}`
    if (rejected.length > 0) text += `,"rejected":${JSON.stringify(rejected.slice(0, rejectedAtMost))}`
    if (ttftMs !== null) text += `,"ttftMs":${Math.round(ttftMs)}`
    if (usage !== null) text += `,"promptTokens":${usage.promptTokens},"completionTokens":${usage.completionTokens}`
    if (nanoUsd !== null) text += `,"nanoUsd":${nanoUsd}`
  }
  if (error !== null) text += `,"error":"${error.code}","errorMessage":${quoted(error.logMessage)}`
  return `${text},"msg":"request"}\n`
}

const plain = /^[\w ./:@*{}-]*$/

/** As JSON. Most of them are names. */
function quoted(text: string): string {
  return text.length <= 64 && plain.test(text) ? `"${text}"` : JSON.stringify(text)
}

let lastMs = Number.NaN
let lastTime = ''

/** Many requests end in one millisecond. */
function isoTime(nowMs: number): string {
  if (nowMs !== lastMs) {
    lastMs = nowMs
    lastTime = new Date(nowMs).toISOString()
  }
  return lastTime
}
