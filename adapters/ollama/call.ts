// One streamed call to Ollama, from its first byte to its last, whatever it is about: always streamed, so that silence can be seen.

import type { IncomingHttpHeaders } from 'node:http'
import type { Exchange, Outbound, OutboundRequest } from '../../outbound/client.ts'
import { createLineSplitter } from '../../outbound/ndjson.ts'
import { withoutSecrets } from '../../outbound/said.ts'
import { type ErrorOptions, GatewayError, toGatewayError } from '../../routing/errors.ts'
import type { Attempt, AttemptEnd, AttemptHandle, AttemptObserver } from '../../routing/types.ts'
import { inputField } from '../shared/http-errors.ts'
import { createWatchdog, type Phase } from '../shared/watchdog.ts'
import { failureOfStatus, failureOfText } from './failures.ts'
import { carriesOutput, type NativeLine, usageOf } from './lines.ts'
import { toOutbound } from './origin.ts'
import type { Json } from './values.ts'
import type { Assembly, EventWriter, ReasoningField, ReplyPorts } from './writing.ts'

export interface OllamaPorts {
  readonly outbound: Outbound
  /** The field for a model's thoughts; OpenAI has none, and clients disagree. */
  readonly reasoningField: ReasoningField
  /** Epoch ms. */
  readonly now: () => number
  readonly randomId: () => string
}

/** What a call is about: its request, its lines, and what they become. */
export interface Speech {
  readonly path: string
  /** Throws GatewayError for what cannot be said to Ollama. */
  native(attempt: Attempt): Json
  /** Null when the line is not what Ollama writes. */
  readLine(text: string): NativeLine | null
  /** Does the client get to see a piece of its answer by this line? */
  isShown(line: NativeLine): boolean
  createWriter(ports: ReplyPorts, includeUsage: boolean): EventWriter
  createAssembly(ports: ReplyPorts, maxBytes: number): Assembly
}

const mebibyte = 1024 * 1024
const largestErrorBytes = 64 * 1024
const largestAnswerBytes = 32 * mebibyte
// After the last line only the end of the HTTP body is due; waiting for it keeps the connection usable.
const drainMs = 1000

/** Starts one attempt. Everything that can go wrong ends in `observer.end`, which never comes from within this call. */
export function ollamaCall(ports: OllamaPorts, speech: Speech, attempt: Attempt, observer: AttemptObserver): AttemptHandle {
  const { request, target } = attempt
  const where = `Ollama (${target.id})`
  const replyPorts = { ...ports, model: target.model }
  const input = inputField[request.operation]
  const writer = speech.createWriter(replyPorts, request.includeUsage)
  const assembly = speech.createAssembly(replyPorts, largestAnswerBytes)
  const splitter = createLineSplitter(readLine)
  const errorBody: Buffer[] = []
  let errorBytes = 0
  let status = 0
  let headers: IncomingHttpHeaders = {}
  let hasBegun = false
  let hasToken = false
  let last: NativeLine | null = null
  let fault: GatewayError | null = null
  let isFull = false
  let isOver = false
  let drain: NodeJS.Timeout | undefined
  let exchange: Exchange | null = null
  // The caller has no handle yet.
  let isStarting = true

  const watchdog = createWatchdog(target.upstream.timeouts, expire)
  try {
    exchange = ports.outbound.send(nativeRequest(speech, attempt), { head, data, end, error })
  } catch (thrown) {
    finish({ ok: false, error: toGatewayError(thrown), sent: false })
  }
  isStarting = false
  return { resume, abort }

  function head(code: number, answered: IncomingHttpHeaders): void {
    status = code
    headers = answered
    if (status === 200 && !isNdjson(headers)) {
      fail(
        new GatewayError(
          'upstream_unavailable',
          `${where} answered with content-type ${String(headers['content-type']).slice(0, 100)} instead of NDJSON.`
        )
      )
    }
  }

  function data(chunk: Buffer): boolean {
    if (isOver) return true
    if (isRefused()) return collectError(chunk)
    watchdog.activity()
    split(() => splitter.push(chunk))
    deliver()
    return isOver || !isFull
  }

  function end(): void {
    clearTimeout(drain)
    if (isOver) return
    if (isRefused()) {
      fail(statusFailure())
    } else {
      split(splitter.end)
      fault ??= last === null ? broken('ended its answer before it was done') : null
      deliver()
    }
  }

  function error(cause: Error & { readonly code?: unknown }, sent: boolean): void {
    clearTimeout(drain)
    if (isOver) return
    const reason = typeof cause.code === 'string' ? cause.code : cause.message
    const what = status === 0 ? 'could not be reached' : 'broke the connection'
    fail(isRefused() ? statusFailure() : broken(`${what} (${reason})`, { cause }), sent)
  }

  function collectError(chunk: Buffer): boolean {
    errorBody.push(chunk)
    errorBytes += chunk.length
    if (errorBytes >= largestErrorBytes) fail(statusFailure())
    return true
  }

  function statusFailure(): GatewayError {
    return failureOfStatus(
      where,
      status,
      headers,
      withoutSecrets(Buffer.concat(errorBody).toString('utf8', 0, largestErrorBytes), target.upstream),
      input
    )
  }

  function split(step: () => void): void {
    try {
      step()
    } catch (thrown) {
      if (!(thrown instanceof RangeError)) throw thrown
      fault ??= broken(`sent what is not an answer: ${thrown.message}`)
    }
  }

  function readLine(text: string): void {
    if (fault !== null || last !== null) return
    const line = speech.readLine(text)
    if (line === null) {
      fault = broken('sent a line that is not one of its answers')
    } else if (line.error !== null) {
      const quote = withoutSecrets(line.error, target.upstream)
      fault = hasToken ? broken('broke off with an error', { quote }) : failureOfText(where, quote, input)
    } else {
      // Also by what the client does not get to see: from now on pauses count.
      if (!hasBegun && carriesOutput(line)) {
        hasBegun = true
        watchdog.token()
        observer.begun?.()
      }
      hasToken ||= speech.isShown(line)
      if (line.done) last = line
      if (request.stream) writer.add(line)
      else if (!assembly.add(line)) fault = broken(`gave an answer larger than ${largestAnswerBytes} bytes`)
    }
  }

  /** Everything the last network chunk brought: tokens first, then what became of the answer. */
  function deliver(): void {
    const batch = writer.take()
    if (batch !== null) {
      // Set before: the reader may call `resume` while it is being told.
      isFull = true
      if (observer.frames(batch.events, batch.tokens)) resume()
      else if (isFull) watchdog.pause()
    }
    if (isOver) return
    if (fault !== null) fail(fault)
    else if (last !== null) complete(last)
  }

  function complete(line: NativeLine): void {
    const usage = usageOf(line)
    observer.usage(usage, request.stream ? writer.usageEvent(usage) : null)
    if (!request.stream && !isOver) observer.body(assembly.body(usage))
    if (isOver) return
    finish({ ok: true })
    drain = setTimeout(() => exchange?.abort(), drainMs)
  }

  function expire(phase: Phase): void {
    const { firstTokenMs, idleMs, totalMs } = target.upstream.timeouts
    const reason = {
      first_token: `gave no token within ${firstTokenMs} ms`,
      idle: `fell silent for ${idleMs} ms`,
      total: `was not done within ${totalMs} ms`
    }
    fail(isRefused() ? statusFailure() : broken(reason[phase], { status: 504 }))
  }

  function isRefused(): boolean {
    return status !== 0 && status !== 200
  }

  /** Another target may take over until the client has seen a token; after that the answer is broken. */
  function broken(what: string, options: ErrorOptions = {}): GatewayError {
    const message = options.quote === undefined ? `${where} ${what}.` : `${where} ${what}`
    return hasToken && request.stream
      ? new GatewayError('upstream_broke', message, {
          cause: options.cause,
          ...(options.quote === undefined ? {} : { quote: options.quote })
        })
      : new GatewayError('upstream_unavailable', message, options)
  }

  function fail(error: GatewayError, sent = exchange?.sent ?? false): void {
    if (isOver) return
    exchange?.abort()
    finish({ ok: false, error, sent })
  }

  function finish(attemptEnd: AttemptEnd): void {
    if (isOver) return
    isOver = true
    watchdog.stop()
    if (isStarting) queueMicrotask(() => observer.end(attemptEnd))
    else observer.end(attemptEnd)
  }

  function resume(): void {
    if (!isFull) return
    isFull = false
    watchdog.resume()
    exchange?.resume()
  }

  function abort(): void {
    clearTimeout(drain)
    exchange?.abort()
    finish({ ok: false, error: new GatewayError('client_gone', 'The client went away.'), sent: exchange?.sent ?? false })
  }
}

function nativeRequest(speech: Speech, attempt: Attempt): OutboundRequest {
  const { id, target } = attempt
  const native = speech.native(attempt)
  try {
    return toOutbound(target.upstream, speech.path, native, { 'x-client-request-id': id })
  } catch (thrown) {
    // Before Node 26 JSON.stringify has no more stack for what JSON.parse could still read.
    if (thrown instanceof RangeError)
      throw new GatewayError('invalid_request', 'The request is too large or nested too deeply.', { cause: thrown })
    throw thrown
  }
}

function isNdjson(headers: IncomingHttpHeaders): boolean {
  const type = String(headers['content-type']).split(';')[0]?.trim().toLowerCase()
  return type === 'application/x-ndjson' || type === 'application/json'
}
