// A chat or a completion from any OpenAI-compatible server: bytes pass through as they came, and are only looked at where they must be.

import type { IncomingHttpHeaders } from 'node:http'
import type { Exchange, ExchangeObserver } from '../../outbound/client.ts'
import { cleaned, withoutSecrets } from '../../outbound/said.ts'
import { createSseSplitter, eachEvent, type SseSplitter, sseData } from '../../outbound/sse.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Attempt, AttemptHandle, AttemptObserver, Usage } from '../../routing/types.ts'
import { carriesOutput, countEvents, failureInAnswer, isPlain } from './chunks.ts'
import { compatibleRequest, type Dialect, usageFrom } from './dialect.ts'
import { errorFromFailure, errorFromStatus, inputField, isRecord, parseOrNull, type UpstreamFailure } from './http-errors.ts'
import { requestLimitOf } from './rate-limits.ts'
import { createWatchdog, type Watchdog } from './watchdog.ts'

// Pictures come as base64 inside one event, and may be some megabytes.
const eventBytesAtMost = 16 * 1024 * 1024
const answerBytesAtMost = 64 * 1024 * 1024
const errorBytesAtMost = 64 * 1024
const closeAfterDoneMs = 500
// A machine of ours that shifts its context may write for ever; the largest context there is, where it does not say its own.
const ownTokensAtMost = 131_072

/** Starts one attempt of a chat or a completion. Everything that can go wrong ends in `observer.end`. */
export function compatibleCall(dialect: Dialect, attempt: Attempt, observer: AttemptObserver): AttemptHandle {
  const call = new CompatibleCall(attempt, observer)
  call.start(dialect)
  return call
}

type Mode = 'none' | 'error' | 'json' | 'sse'

/** One attempt. A class, so that a request allocates one object and no closures. */
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
      this.#exchange = dialect.outbound.send(compatibleRequest(dialect, this.#attempt), this)
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
    const limit = requestLimitOf(headers, Date.now())
    if (limit !== null) this.#observer.limits?.(limit)
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

  /** A body that is not a stream: an error, or a whole answer. */
  #answered(): void {
    const { upstream } = this.#attempt.target
    const { operation } = this.#attempt.request
    const param = inputField[operation]
    const bytes = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks)
    if (this.#mode === 'error') {
      const text = withoutSecrets(bytes.toString('utf8'), upstream)
      return this.#fail(errorFromStatus(upstream.id, this.#status, text, this.#headers, param), true)
    }
    const json = parseOrNull(bytes.toString('utf8'))
    const failure = this.#shown(failureInAnswer(json))
    if (isRecord(json) && isRecord(json.usage)) this.#usage = this.#usageOf(json.usage)
    if (failure !== null) return this.#fail(errorFromFailure(upstream.id, failure, param), true)
    if (!isRecord(json) || !Array.isArray(json.choices) || json.choices.length === 0) {
      return this.#unusable(`answered ${this.#status} with JSON that is no ${operation === 'chat' ? 'chat completion' : 'completion'}`)
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
    const { operation } = this.#attempt.request
    const wasComplete = this.#isComplete()
    if (isRecord(chunk.usage)) this.#usage = this.#usageOf(chunk.usage) ?? this.#usage
    const failure = this.#shown(failureInAnswer(chunk))
    if (failure !== null) {
      // After every choice has finished an error changes nothing about the answer (seen: "Token limit reached" behind "length").
      if (wasComplete) return 'withhold'
      const { id } = this.#attempt.target.upstream
      const error = errorFromFailure(id, failure, inputField[operation])
      this.#fail(
        this.#tokenSeen
          ? new GatewayError('upstream_broke', `${id} failed in the middle of its answer`, {
              cause: error,
              quote: cleaned(failure.message)
            })
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
      if (carriesOutput(choice, operation)) tokens = 1
    }
    if (isRecord(chunk.usage) && (choices.length === 0 || (wasComplete && !choices.some(choice => carriesOutput(choice, operation))))) {
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
    return this.#finished.size >= this.#attempt.request.choices
  }

  #succeed(): void {
    this.#over = true
    this.#watchdog.stop()
    this.#exchange?.abort()
    if (this.#usage !== null || this.#usageEvent !== null) this.#observer.usage(this.#usage, this.#usageEvent)
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

  #usageOf(usage: Record<string, unknown>): Usage | null {
    return usageFrom(usage, (this.#dialect as Dialect).chargedNanoUsd(usage))
  }
}
