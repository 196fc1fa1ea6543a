// The gateway's HTTP API as the commands use it: one answer or one stream, and in one line what went wrong.

import { createOutbound, type OutboundRequest } from '../../outbound/client.ts'
import { createSseSplitter } from '../../outbound/sse.ts'
import { type ClientOptions, readClientSettings } from '../config/client.ts'
import { reasonOf } from './doctor/check.ts'
import { createRedactor } from './doctor/secrets.ts'
import { eventsOf, type StreamEvent } from './jobs/events.ts'
import { plain } from './print.ts'

export interface Call {
  readonly method: 'GET' | 'PATCH' | 'POST'
  /** Below the gateway's address, with the query. */
  readonly path: string
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

export interface Answer {
  readonly replayed: boolean
  readonly body: Readonly<Record<string, unknown>>
}

/** How a stream stopped before its end: worth another try. */
export interface Cut {
  readonly reason: string
  /** 0 = nothing was said. */
  readonly retryAfterMs: number
}

export interface StreamOptions {
  readonly path: string
  /** What came last; null = from the beginning. */
  readonly lastEventId: string | null
  readonly signal: AbortSignal
  /** The gateway has accepted the request. */
  readonly onOpen: () => void
  readonly onEvent: (event: StreamEvent) => void
  /** Anything came, were it a comment. */
  readonly onHeard: () => void
}

export interface GatewayClient {
  /** Throws an Error whose message is the whole story, on one line. */
  ask(call: Call): Promise<Answer>
  /** Resolves when the connection is over, whoever ended it. Throws as `ask` does where another try would be in vain. */
  stream(options: StreamOptions): Promise<Cut>
  close(): Promise<void>
}

const connectMs = 5_000
const answerMs = 30_000
// The gateway sends a comment after 12 s without an event.
const silenceMs = 40_000
// A result is as large as a provider's answer may be.
const bytesAtMost = 128 * 1024 * 1024

/** Does `work` with a client of the gateway that the options and the environment name. */
export async function withClient<T>(options: ClientOptions, work: (client: GatewayClient) => Promise<T>): Promise<T> {
  const client = createClient(await readClientSettings(options))
  try {
    return await work(client)
  } finally {
    await client.close()
  }
}

function createClient({ url, key }: { readonly url: string; readonly key: string | null }): GatewayClient {
  const outbound = createOutbound()
  const { origin, pathname } = new URL(url)
  const redact = createRedactor(key === null ? [] : [key])

  function requestOf({ method, path, body, headers }: Call): OutboundRequest {
    return {
      origin,
      path: `${pathname === '/' ? '' : pathname}${path}`,
      method,
      headers: {
        ...(key === null ? {} : { authorization: `Bearer ${key}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers
      },
      body: body === undefined ? null : JSON.stringify(body),
      connectMs
    }
  }

  async function ask(call: Call): Promise<Answer> {
    const answer = await outbound.fetchText(requestOf(call), { maxBytes: bytesAtMost, timeoutMs: answerMs }).catch((error: unknown) => {
      throw new Error(`${silent(error)} Start it with "npm start", or say where it is with --url or LLM_MCP_URL.`)
    })
    if (answer.status >= 300) throw refusal(answer.status, answer.text)
    const body = objectOf(answer.text)
    if (body === null) throw new Error(`What answers at ${url} is no gateway of llm-mcp.`)
    return { body, replayed: answer.headers['idempotent-replayed'] === 'true' }
  }

  function stream({ path, lastEventId, signal, onOpen, onEvent, onHeard }: StreamOptions): Promise<Cut> {
    const headers = { accept: 'text/event-stream', ...(lastEventId === null ? {} : { 'last-event-id': lastEventId }) }
    const splitter = createSseSplitter(bytesAtMost)
    return new Promise((resolve, reject) => {
      let status = 0
      let retryAfterMs = 0
      let refused = ''
      let reason = 'the connection was closed'
      const silence = setTimeout(() => stop({ reason: `silent for ${silenceMs / 1_000} s`, retryAfterMs }), silenceMs)
      const calledOff = (): void => stop({ reason: 'called off', retryAfterMs: 0 })
      const stop = (cut: Cut): void => {
        over()
        exchange.abort()
        resolve(cut)
      }
      const over = (): void => {
        clearTimeout(silence)
        signal.removeEventListener('abort', calledOff)
      }
      const exchange = outbound.send(requestOf({ method: 'GET', path, headers }), {
        head(code, head) {
          silence.refresh()
          status = code
          retryAfterMs = Math.max(0, Number(head['retry-after']) || 0) * 1_000
          if (status === 200) onOpen()
        },
        data(chunk) {
          silence.refresh()
          if (status !== 200) {
            refused = (refused + chunk.toString('utf8')).slice(0, 64 * 1024)
            return true
          }
          try {
            const block = splitter.push(chunk)
            const events = block === null ? [] : eventsOf(block)
            const failures = events.filter(({ event }) => event === 'error')
            // The last words of a connection are no sign that the next one will do better.
            if (failures.length === 0 || failures.length < events.length) onHeard()
            for (const event of events) {
              if (event.event === 'error') reason = messageOf(event.data) ?? reason
              else onEvent(event)
            }
          } catch (error) {
            over()
            exchange.abort()
            reject(error)
          }
          return true
        },
        end() {
          over()
          if (status === 200) return resolve({ reason, retryAfterMs })
          if (status === 429 || status >= 500) return resolve({ reason: refusal(status, refused).message, retryAfterMs })
          reject(refusal(status, refused))
        },
        error(error) {
          over()
          resolve({ reason: silent(error), retryAfterMs })
        }
      })
      signal.addEventListener('abort', calledOff, { once: true })
      if (signal.aborted) calledOff()
    })
  }

  function silent(error: unknown): string {
    const code = (error as { code?: unknown }).code
    return `No gateway answers at ${url} (${plain(typeof code === 'string' && /^E[A-Z]+$/.test(code) ? code : reasonOf(error))}).`
  }

  function refusal(status: number, text: string): Error {
    if (status === 401) {
      return new Error(
        key === null
          ? `The gateway at ${url} wants a key: set LLM_MCP_KEY, or give --key.`
          : `The gateway at ${url} does not accept this key (401).`
      )
    }
    const said = messageOf(objectOf(text))
    if (said !== null) return new Error(said)
    return new Error(`${url} answered ${status}, and not as a gateway of llm-mcp does.`)
  }

  /** Of an error as OpenAI forms them; null when it is none. */
  function messageOf(body: Readonly<Record<string, unknown>> | null): string | null {
    const said = (body?.error as { message?: unknown } | null | undefined)?.message
    return typeof said === 'string' && said !== '' ? plain(redact(said)) : null
  }

  return { ask, stream, close: outbound.close }
}

/** Null when the text is not a JSON object. */
function objectOf(text: string): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null
  } catch {
    return null
  }
}
