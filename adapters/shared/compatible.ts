// The chat call to any OpenAI-compatible server: bytes pass through as they came, and are only looked at where they must be.

import type { IncomingHttpHeaders } from 'node:http'
import type { Exchange, ExchangeObserver, Outbound } from '../../outbound/client.ts'
import { createSseSplitter, eachEvent, type SseSplitter, sseData } from '../../outbound/sse.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Attempt, AttemptHandle, AttemptObserver, Upstream, Usage } from '../../routing/types.ts'
import {
  cleaned,
  errorFromFailure,
  errorFromStatus,
  failureIn,
  isRecord,
  parseOrNull,
  type UpstreamFailure,
  withoutSecrets
} from './http-errors.ts'
import { createWatchdog, type Watchdog } from './watchdog.ts'

/** What differs between compatible servers. */
export interface Dialect {
  readonly outbound: Outbound
  headers(upstream: Upstream, attempt: Attempt): Record<string, string>
  body(attempt: Attempt): Buffer
  /** The server's own figure of what it charged. */
  chargedNanoUsd(usage: Readonly<Record<string, unknown>>): number | null
}

// Pictures come as base64 inside one event, and may be some megabytes.
const eventBytesAtMost = 16 * 1024 * 1024
const answerBytesAtMost = 64 * 1024 * 1024
const errorBytesAtMost = 64 * 1024
const closeAfterDoneMs = 500
// A machine of ours that shifts its context may write for ever; the largest context there is, where it does not say its own.
const ownTokensAtMost = 131_072

/** Starts one attempt. Everything that can go wrong ends in `observer.end`. */
export function compatibleChat(dialect: Dialect, attempt: Attempt, observer: AttemptObserver): AttemptHandle {
  const call = new CompatibleCall(attempt, observer)
  call.start(dialect)
  return call
}

/** Scheme, host and port of a base URL, and the path before ours. */
export function originOf(baseUrl: string): { origin: string; prefix: string } {
  const url = new URL(baseUrl)
  return { origin: url.origin, prefix: url.pathname === '/' ? '' : url.pathname }
}

/** The body for this target: its own model name, and usage always asked for, unless the server refuses to be asked. */
export function compatibleBody(attempt: Attempt): Buffer {
  const { request, target } = attempt
  const changes: Record<string, unknown> = {}
  if (request.model !== target.model) changes.model = target.model
  if (!target.upstream.streamUsage) {
    if (request.streamOptions !== null) changes.stream_options = undefined
  } else if (request.stream && !request.includeUsage) {
    changes.stream_options = { ...request.streamOptions, include_usage: true }
  }
  return request.body.with(changes)
}

/** OpenAI's usage object as ours; missing or senseless figures are 0. */
export function usageFrom(usage: Readonly<Record<string, unknown>>, chargedNanoUsd: number | null): Usage {
  const prompt = isRecord(usage.prompt_tokens_details) ? usage.prompt_tokens_details : {}
  const completion = isRecord(usage.completion_tokens_details) ? usage.completion_tokens_details : {}
  return {
    promptTokens: count(usage.prompt_tokens),
    completionTokens: count(usage.completion_tokens),
    cachedTokens: count(prompt.cached_tokens),
    reasoningTokens: count(completion.reasoning_tokens),
    providerNanoUsd: chargedNanoUsd,
    busyMs: null
  }
}

function count(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? Math.min(Math.round(value), 1e9) : 0
}

type Mode = 'none' | 'error' | 'json' | 'sse'

/** One attempt. A class, so that a request allocates one object and no closures (facts: the hot path). */
class CompatibleCall implements ExchangeObserver, AttemptHandle {
  readonly #attempt: Attempt
  readonly #observer: AttemptObserver
  readonly #watchdog: Watchdog
  #exchange: Exchange | null = null
  #dialect: Dialect | null = null
  #mode: Mode = 'none'
  #status = 0
  #headers: IncomingHttpHeaders = {}
  #chunks: Buffer[] = []
  #bytes = 0
  #splitter: SseSplitter | null = null
  #tokenSeen = false
  #tokens = 0
  readonly #tokensAtMost: number
  #finished = new Set<number>()
  #usage: Usage | null = null
  #usageEvent: Buffer | null = null
  #done: Buffer[] = []
  /** Events of the block being read that are to be passed on, and the tokens in them. */
  #kept: Buffer[] = []
  #keptTokens = 0
  #over = false

  constructor(attempt: Attempt, observer: AttemptObserver) {
    this.#attempt = attempt
    this.#observer = observer
    const { upstream, contextTokens } = attempt.target
    this.#tokensAtMost = upstream.own ? (contextTokens ?? ownTokensAtMost) : Number.POSITIVE_INFINITY
    this.#watchdog = createWatchdog(attempt.target.upstream.timeouts, phase => this.#expired(phase))
  }

  start(dialect: Dialect): void {
    const { upstream } = this.#attempt.target
    this.#dialect = dialect
    try {
      const { origin, prefix } = originOf(upstream.baseUrl)
      this.#exchange = dialect.outbound.send(
        {
          origin,
          path: `${prefix}/chat/completions`,
          method: 'POST',
          headers: dialect.headers(upstream, this.#attempt),
          body: dialect.body(this.#attempt),
          connectMs: upstream.timeouts.connectMs
        },
        this
      )
    } catch (thrown) {
      this.#fail(
        thrown instanceof GatewayError
          ? thrown
          : new GatewayError('internal_error', `The request to ${upstream.id} could not be made.`, { cause: thrown }),
        false
      )
    }
  }

  head(status: number, headers: IncomingHttpHeaders): void {
    this.#status = status
    this.#headers = headers
    this.#watchdog.activity()
    const type = String(headers['content-type'] ?? '').toLowerCase()
    const encoding = headers['content-encoding']
    if (status < 200 || status > 299) {
      this.#mode = 'error'
    } else if (encoding !== undefined && encoding !== 'identity') {
      this.#unusable(`sent a compressed answer (${String(encoding).slice(0, 20)}) that was not asked for`)
    } else if (type.startsWith('text/event-stream') && this.#attempt.request.stream) {
      this.#mode = 'sse'
      this.#splitter = createSseSplitter(eventBytesAtMost)
    } else if (type.includes('json')) {
      this.#mode = 'json'
      this.#watchdog.token()
    } else {
      this.#unusable(`answered with content type "${type.slice(0, 60) || 'none'}"`)
    }
  }

  data(chunk: Buffer): boolean {
    if (this.#over) return true
    this.#watchdog.activity()
    if (this.#mode === 'sse') return this.#stream(chunk)
    this.#bytes += chunk.length
    const limit = this.#mode === 'error' ? errorBytesAtMost : answerBytesAtMost
    if (this.#bytes <= limit) {
      this.#chunks.push(chunk)
    } else if (this.#mode === 'error') {
      this.#answered()
    } else {
      this.#unusable(`sent an answer of more than ${limit} bytes`)
    }
    return true
  }

  end(): void {
    if (this.#over) return
    if (this.#mode === 'sse') this.#streamEnded()
    else this.#answered()
  }

  error(error: Error, sent: boolean): void {
    if (this.#over) return
    // What the status says is worth more than how its body ended.
    if (this.#mode === 'error') return this.#answered()
    const { id } = this.#attempt.target.upstream
    const code = (error as NodeJS.ErrnoException).code ?? error.name
    if (!this.#tokenSeen) {
      this.#fail(
        new GatewayError('upstream_unavailable', `${id} could not be reached or dropped the connection (${code}).`, { cause: error }),
        sent
      )
    } else if (this.#isWhole()) {
      this.#succeed()
    } else {
      this.#fail(
        new GatewayError('upstream_broke', `${id} dropped the connection in the middle of its answer (${code}).`, { cause: error }),
        true
      )
    }
  }

  resume(): void {
    this.#watchdog.resume()
    this.#exchange?.resume()
  }

  abort(): void {
    if (this.#over) return
    this.#fail(new GatewayError('client_gone', 'The client went away.'), this.#exchange?.sent ?? false)
  }

  /** A body that is not a stream: an error, or a whole chat completion. */
  #answered(): void {
    const { upstream } = this.#attempt.target
    const bytes = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks)
    if (this.#mode === 'error') {
      return this.#fail(errorFromStatus(upstream.id, this.#status, withoutSecrets(bytes.toString('utf8'), upstream), this.#headers), true)
    }
    const json = parseOrNull(bytes.toString('utf8'))
    const failure = this.#shown(failureIn(json) ?? failureInChoices(json))
    if (isRecord(json) && isRecord(json.usage)) this.#usage = this.#usageOf(json.usage)
    if (failure !== null) return this.#fail(errorFromFailure(upstream.id, failure), true)
    if (!isRecord(json) || !Array.isArray(json.choices) || json.choices.length === 0) {
      return this.#unusable(`answered ${this.#status} with JSON that is no chat completion`)
    }
    if (this.#attempt.request.stream) return this.#unusable('answered a streamed request with one JSON body')
    this.#over = true
    this.#watchdog.stop()
    if (this.#usage !== null) this.#observer.usage(this.#usage, null)
    this.#observer.body(bytes)
    this.#observer.end({ ok: true })
  }

  #stream(chunk: Buffer): boolean {
    let block: Buffer | null
    try {
      block = (this.#splitter as SseSplitter).push(chunk)
    } catch (error) {
      this.#malformed((error as Error).message)
      return true
    }
    return block === null || this.#block(block)
  }

  /** Whole events. Most are passed on unseen; false = the reader is full. */
  #block(block: Buffer): boolean {
    if (this.#tokenSeen && this.#done.length === 0 && isPlain(block)) return this.#pass(block, countEvents(block))
    eachEvent(block, (start, end) => {
      if (this.#over) return
      const event = block.subarray(start, end)
      const carried = this.#event(event)
      if (carried === 'withhold') return
      this.#kept.push(event)
      this.#keptTokens += carried
    })
    return this.#over || this.#passKept()
  }

  #passKept(): boolean {
    const kept = this.#kept
    const tokens = this.#keptTokens
    if (kept.length === 0) return true
    this.#kept = []
    this.#keptTokens = 0
    return this.#pass(kept.length === 1 ? (kept[0] as Buffer) : Buffer.concat(kept), tokens)
  }

  #pass(events: Buffer, tokens: number): boolean {
    this.#tokens += tokens
    if (this.#tokens > this.#tokensAtMost) {
      this.#fail(
        new GatewayError('upstream_broke', `${this.#attempt.target.upstream.id} ran on for more than ${this.#tokensAtMost} tokens.`),
        true
      )
      return true
    }
    if (tokens > 0 && !this.#tokenSeen) {
      this.#tokenSeen = true
      this.#watchdog.token()
    }
    const more = this.#observer.frames(events, tokens)
    if (!more) this.#watchdog.pause()
    return more
  }

  /** How many tokens an event carries, or that it is not to be passed on. */
  #event(event: Buffer): number | 'withhold' {
    if (this.#done.length > 0) {
      this.#done.push(event)
      return 'withhold'
    }
    const data = sseData(event)
    if (data === null) return 0
    if (data.startsWith('[DONE]')) {
      this.#done.push(event)
      // The end of the body comes with it; a server that forgets to close must not hold the reader.
      setTimeout(() => this.#streamEnded(), closeAfterDoneMs).unref()
      return 'withhold'
    }
    const chunk = parseOrNull(data)
    if (!isRecord(chunk)) {
      this.#malformed('an event is not a JSON object')
      return 'withhold'
    }
    return this.#chunk(chunk, event)
  }

  #chunk(chunk: Record<string, unknown>, event: Buffer): number | 'withhold' {
    const choices = Array.isArray(chunk.choices) ? chunk.choices.filter(isRecord) : []
    const wasComplete = this.#isComplete()
    if (isRecord(chunk.usage)) this.#usage = this.#usageOf(chunk.usage)
    const failure = this.#shown(failureIn(chunk) ?? failureInChoices(chunk))
    if (failure !== null) {
      // After every choice has finished an error changes nothing about the answer (seen: "Token limit reached" behind "length").
      if (wasComplete) return 'withhold'
      const { id } = this.#attempt.target.upstream
      const error = errorFromFailure(id, failure)
      this.#fail(
        this.#tokenSeen
          ? new GatewayError('upstream_broke', `${id} failed in the middle of its answer: ${cleaned(failure.message)}`, { cause: error })
          : error,
        true
      )
      return 'withhold'
    }
    let tokens = 0
    for (const choice of choices) {
      if (typeof choice.finish_reason === 'string' && choice.finish_reason !== '') {
        this.#finished.add(typeof choice.index === 'number' ? choice.index : 0)
        tokens = 1
      }
      if (carriesOutput(choice.delta)) tokens = 1
    }
    if (isRecord(chunk.usage) && (choices.length === 0 || (wasComplete && !choices.some(choice => carriesOutput(choice.delta))))) {
      // The final usage event; one that repeats the finish (OpenRouter) goes out in OpenAI's form.
      const isCanonical = Array.isArray(chunk.choices) && choices.length === 0
      this.#usageEvent = isCanonical ? event : Buffer.from(`data: ${JSON.stringify({ ...chunk, choices: [] })}\n\n`)
      return 'withhold'
    }
    return tokens
  }

  #streamEnded(): void {
    if (this.#over) return
    const rest = (this.#splitter as SseSplitter).rest()
    if (rest.length > 0) {
      // A last event without its blank line: the terminator, or what was cut off.
      if (sseData(rest)?.startsWith('[DONE]') === true) this.#done.push(rest)
      else if (this.#done.length > 0) this.#done.push(rest)
      else if (parseOrNull(sseData(rest) ?? '') !== null) this.#block(Buffer.concat([rest, Buffer.from('\n\n')]))
    }
    if (this.#over) return
    if (this.#isWhole()) return this.#succeed()
    this.#malformed('the stream ended before the answer was complete')
  }

  /** Nothing is missing if the stream ends here. */
  #isWhole(): boolean {
    return this.#done.length > 0 ? this.#tokenSeen || this.#finished.size > 0 : this.#isComplete()
  }

  /** Every choice asked for has its finish_reason. */
  #isComplete(): boolean {
    const asked = this.#attempt.request.needs.includes('n') ? Number(this.#attempt.request.body.json().n) : 1
    return this.#finished.size >= asked
  }

  #succeed(): void {
    this.#over = true
    this.#watchdog.stop()
    this.#exchange?.abort()
    if (this.#usage !== null) this.#observer.usage(this.#usage, this.#usageEvent)
    this.#observer.end(this.#done.length === 0 ? { ok: true } : { ok: true, done: Buffer.concat(this.#done) })
  }

  #fail(error: GatewayError, sent: boolean): void {
    if (this.#over) return
    // What came in one piece with the failure, but before it, belongs to an answer that has begun.
    if (this.#tokenSeen) this.#passKept()
    if (this.#over) return
    this.#over = true
    this.#watchdog.stop()
    this.#exchange?.abort()
    if (this.#usage !== null) this.#observer.usage(this.#usage, null)
    this.#observer.end({ ok: false, error, sent })
  }

  #unusable(what: string): void {
    this.#fail(new GatewayError('upstream_unavailable', `${this.#attempt.target.upstream.id} ${what}.`), true)
  }

  #malformed(what: string): void {
    const said = `${this.#attempt.target.upstream.id} sent a broken stream: ${what}.`
    this.#fail(new GatewayError(this.#tokenSeen ? 'upstream_broke' : 'upstream_unavailable', said), true)
  }

  #expired(phase: string): void {
    if (this.#mode === 'error') return this.#answered()
    if (this.#tokenSeen && this.#isWhole()) return this.#succeed()
    const { id, timeouts } = this.#attempt.target.upstream
    const waited = phase === 'first_token' ? timeouts.firstTokenMs : phase === 'idle' ? timeouts.idleMs : timeouts.totalMs
    const said = `${id} was silent or slow for too long (${phase}, ${waited} ms).`
    this.#fail(
      new GatewayError(this.#tokenSeen ? 'upstream_broke' : 'upstream_unavailable', said, { status: 504 }),
      this.#exchange?.sent ?? false
    )
  }

  /** A failure as it may be told to others. */
  #shown(failure: UpstreamFailure | null): UpstreamFailure | null {
    return failure === null ? null : { ...failure, message: withoutSecrets(failure.message, this.#attempt.target.upstream) }
  }

  #usageOf(usage: Record<string, unknown>): Usage {
    return usageFrom(usage, (this.#dialect as Dialect).chargedNanoUsd(usage))
  }
}

/** A choice's own error (OpenRouter, in a 200). */
function failureInChoices(json: unknown): ReturnType<typeof failureIn> {
  if (!isRecord(json) || !Array.isArray(json.choices)) return null
  for (const choice of json.choices) {
    const failure = failureIn(choice)
    if (failure !== null) return failure
  }
  return null
}

/** Does a delta carry something of the answer, as opposed to a role or empty strings? */
function carriesOutput(delta: unknown): boolean {
  if (!isRecord(delta)) return false
  for (const [key, value] of Object.entries(delta)) {
    if (key === 'role' || value === null || value === '') continue
    if (Array.isArray(value) && value.length === 0) continue
    return true
  }
  return false
}

// Searched for in every block of a running stream. Quotes inside of texts are escaped, so none of these can be text.
const markers = ['"usage":{', '"usage": {', '"error"', '"finish_reason":"', '"finish_reason": "', '[DONE]'].map(text => Buffer.from(text))

/** True when every event of the block is a JSON object or a comment, by its first and last bytes, and none says anything special. */
function isPlain(block: Buffer): boolean {
  for (const marker of markers) {
    if (block.includes(marker)) return false
  }
  let plain = true
  eachEvent(block, (start, end) => {
    if (plain && block[start] !== 0x3a) plain = isObjectEvent(block, start, end)
  })
  return plain
}

/** `data: {"` or `data:{"` at the start, `}` at the end. */
function isObjectEvent(block: Buffer, start: number, end: number): boolean {
  let last = end - 1
  while (last > start && (block[last] === 0x0a || block[last] === 0x0d)) last--
  const brace = block[start + 5] === 0x20 ? start + 6 : start + 5
  return block[start] === 0x64 && block[start + 4] === 0x3a && block[brace] === 0x7b && block[brace + 1] === 0x22 && block[last] === 0x7d
}

function countEvents(block: Buffer): number {
  let events = 0
  eachEvent(block, start => {
    if (block[start] === 0x64) events++
  })
  return events
}
