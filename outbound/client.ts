// The one way out: undici pools, one per origin. No redirects, no decompression, caps on bytes and time.

import type { IncomingHttpHeaders } from 'node:http'
import { type Dispatcher, Pool } from 'undici'

export interface OutboundRequest {
  /** Scheme, host and port, e.g. `https://api.openai.com`. */
  readonly origin: string
  /** With the query, beginning with a slash. */
  readonly path: string
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  readonly headers: Readonly<Record<string, string>>
  /** Sent as `x-client-request-id`, beside the headers that are the same for many requests. */
  readonly clientRequestId?: string
  readonly body: Buffer | string | null
  readonly connectMs: number
}

/** Callbacks of one exchange, in this order; `error` replaces whatever would have come after it. */
export interface ExchangeObserver {
  head(status: number, headers: IncomingHttpHeaders): void
  /** False = stop reading until `resume`. */
  data(chunk: Buffer): boolean
  end(): void
  /** `sent` false: the connection was never made, so nothing can have arrived. */
  error(error: Error, sent: boolean): void
}

export interface Exchange {
  /** False while no connection stands: nothing can have arrived yet. */
  readonly sent: boolean
  resume(): void
  /** Closes the connection at once; no callback comes after it. */
  abort(): void
}

export interface TextLimits {
  readonly maxBytes: number
  readonly timeoutMs: number
  readonly signal?: AbortSignal
}

export interface TextAnswer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
}

export interface Outbound {
  send(request: OutboundRequest, observer: ExchangeObserver): Exchange
  /** A whole answer, as text; any status is one. Throws on a connection error, on too many bytes, on a time-out, when called off. */
  fetchText(request: OutboundRequest, limits: TextLimits): Promise<TextAnswer>
  close(): Promise<void>
}

/**
 * Header, body and idle timeouts are the caller's business (it knows what a first token is),
 * so undici's are off; only the time to connect is watched here.
 */
export function createOutbound(): Outbound {
  const pools = new Map<string, Pool>()

  function poolOf(origin: string, connectMs: number): Pool {
    const key = `${origin} ${connectMs}`
    let pool = pools.get(key)
    if (pool === undefined) {
      pool = new Pool(origin, {
        connections: 16_384,
        pipelining: 1,
        headersTimeout: 0,
        bodyTimeout: 0,
        keepAliveTimeout: 30_000,
        maxHeaderSize: 32 * 1024,
        connect: socketOptions(connectMs)
      })
      pools.set(key, pool)
    }
    return pool
  }

  function send(request: OutboundRequest, observer: ExchangeObserver): Exchange {
    const handler = new ExchangeHandler(observer)
    const options: Dispatcher.DispatchOptions = {
      origin: request.origin,
      path: request.path,
      method: request.method,
      headers: headersOf(request),
      body: request.body
    }
    poolOf(request.origin, request.connectMs).dispatch(options, handler)
    return handler
  }

  function fetchText(request: OutboundRequest, { maxBytes, timeoutMs, signal }: TextLimits): Promise<TextAnswer> {
    return new Promise((resolve, reject) => {
      let status = 0
      let headers: IncomingHttpHeaders = {}
      let bytes = 0
      let exchange: Exchange | null = null
      const chunks: Buffer[] = []
      const timer = setTimeout(() => fail(new Error(`no whole answer within ${timeoutMs} ms`)), timeoutMs)
      const cancel = (): void => fail(signal?.reason instanceof Error ? signal.reason : new Error('called off'))
      const over = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', cancel)
      }
      const fail = (error: Error): void => {
        over()
        exchange?.abort()
        reject(error)
      }
      signal?.addEventListener('abort', cancel, { once: true })
      if (signal?.aborted === true) return cancel()
      exchange = send(request, {
        head(code, head) {
          status = code
          headers = head
        },
        data(chunk) {
          bytes += chunk.length
          if (bytes > maxBytes) fail(new Error(`the answer is larger than ${maxBytes} bytes`))
          else chunks.push(chunk)
          return true
        },
        end() {
          over()
          resolve({ status, headers, text: Buffer.concat(chunks).toString('utf8') })
        },
        error: fail
      })
    })
  }

  async function close(): Promise<void> {
    await Promise.all([...pools.values()].map(pool => pool.destroy()))
    pools.clear()
  }

  return { send, fetchText, close }
}

/** As a list of names and values. Compressed answers are refused by not asking for any: no decompression bombs. */
function headersOf({ headers, clientRequestId }: OutboundRequest): string[] {
  const list = ['accept-encoding', 'identity']
  if (clientRequestId !== undefined) list.push('x-client-request-id', clientRequestId)
  for (const name in headers) if (name.toLowerCase() !== 'accept-encoding') list.push(name, headers[name] as string)
  return list
}

/** `highWaterMark` goes on to node:net: what a reader that stands still keeps waiting is memory, so no more of it than a piece. */
function socketOptions(timeout: number): { timeout: number; noDelay: boolean; highWaterMark: number } {
  return { timeout, noDelay: true, highWaterMark: 16 * 1024 }
}

/** undici's handler: one object per exchange, no closures on the hot path. */
class ExchangeHandler implements Dispatcher.DispatchHandler, Exchange {
  readonly #observer: ExchangeObserver
  #controller: Dispatcher.DispatchController | null = null
  #over = false

  constructor(observer: ExchangeObserver) {
    this.#observer = observer
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    if (this.#over) controller.abort(new Error('aborted'))
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: IncomingHttpHeaders): void {
    if (this.#over || status < 200) return
    this.#observer.head(status, headers)
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#over) return
    if (!this.#observer.data(chunk)) controller.pause()
  }

  onResponseEnd(): void {
    if (this.#over) return
    this.#over = true
    this.#observer.end()
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#over) return
    this.#over = true
    // undici calls onRequestStart only once a connection stands.
    this.#observer.error(error, this.#controller !== null)
  }

  get sent(): boolean {
    return this.#controller !== null
  }

  resume(): void {
    this.#controller?.resume()
  }

  abort(): void {
    if (this.#over) return
    this.#over = true
    this.#controller?.abort(new Error('aborted'))
  }
}
