// Speaks Ollama's native API: OpenAI's chat in and out, /api/chat in between, always streamed upstream.

import type { IncomingHttpHeaders } from 'node:http'
import type { Exchange, Outbound } from '../outbound/client.ts'
import { createLineSplitter } from '../outbound/ndjson.ts'
import { GatewayError, toGatewayError } from '../routing/errors.ts'
import type { Adapter, Attempt, AttemptEnd, AttemptHandle, AttemptObserver, Feature } from '../routing/types.ts'
import { failureOfStatus, failureOfText } from './ollama/failures.ts'
import { createInventory } from './ollama/inventory.ts'
import { carriesOutput, type NativeLine, parseLine, usageOf } from './ollama/lines.ts'
import { toOutbound } from './ollama/origin.ts'
import { createAssembly, createEventWriter, type ReasoningField } from './ollama/reply.ts'
import { toNativeChat } from './ollama/request.ts'
import { withoutSecrets } from './shared/http-errors.ts'
import { createWatchdog, type Phase } from './shared/watchdog.ts'

export interface OllamaPorts {
  readonly outbound: Outbound
  /** The field for a model's thoughts; OpenAI has none, and clients disagree. */
  readonly reasoningField: ReasoningField
  /** Epoch ms. */
  readonly now: () => number
  readonly randomId: () => string
}

const features: ReadonlySet<Feature> = new Set(['json_object', 'json_schema', 'logprobs', 'reasoning', 'tools', 'vision'])

const mebibyte = 1024 * 1024
const largestErrorBytes = 64 * 1024
const largestAnswerBytes = 32 * mebibyte
// After the last line only the end of the HTTP body is due; waiting for it keeps the connection usable.
const drainMs = 1000

export function createAdapter(ports: OllamaPorts): Adapter {
  return {
    name: 'ollama',
    features,
    chat: (attempt, observer) => chat(ports, attempt, observer),
    listModels: createInventory(ports.outbound)
  }
}

function chat(ports: OllamaPorts, attempt: Attempt, observer: AttemptObserver): AttemptHandle {
  const { request, target } = attempt
  const where = `Ollama (${target.id})`
  const replyPorts = { ...ports, model: target.model }
  const writer = createEventWriter(replyPorts, request.includeUsage)
  const assembly = createAssembly(replyPorts, largestAnswerBytes)
  const splitter = createLineSplitter(readLine)
  const errorBody: Buffer[] = []
  let errorBytes = 0
  let status = 0
  let headers: IncomingHttpHeaders = {}
  let hasToken = false
  let last: NativeLine | null = null
  let fault: GatewayError | null = null
  let isFull = false
  let isOver = false
  let drain: NodeJS.Timeout | undefined
  let exchange: Exchange | null = null
  // `end` is never called from within `chat`: the caller has no handle yet.
  let isStarting = true

  const watchdog = createWatchdog(target.upstream.timeouts, expire)
  try {
    exchange = ports.outbound.send(nativeRequest(attempt), { head, data, end, error })
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
      withoutSecrets(Buffer.concat(errorBody).toString('utf8', 0, largestErrorBytes), target.upstream)
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
    const line = parseLine(text)
    if (line === null) {
      fault = broken('sent a line that is not one of its answers')
    } else if (line.error !== null) {
      fault = hasToken ? broken(`broke off with an error: ${line.error}`) : failureOfText(where, line.error)
    } else {
      if (!hasToken && carriesOutput(line)) {
        hasToken = true
        watchdog.token()
      }
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
  function broken(what: string, options: { readonly status?: number; readonly cause?: unknown } = {}): GatewayError {
    const message = `${where} ${what}.`
    return hasToken && request.stream
      ? new GatewayError('upstream_broke', message, { cause: options.cause })
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

function nativeRequest({ id, request, target }: Attempt) {
  const native = toNativeChat(request.body.json(), target)
  try {
    return toOutbound(target.upstream, '/api/chat', native, { 'x-client-request-id': id })
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
