// One question to a machine that may be anybody's: bounded in bytes and time, no redirects, no page is read.

import type { Exchange, Outbound } from '../../outbound/client.ts'

export type Reason = 'refused' | 'silent' | 'host_check' | 'not_a_model_server' | 'hostile' | 'outside'

/** Why a machine is not one for us. The message is for people, and holds nothing of what the machine sent. */
export class ProbeError extends Error {
  readonly reason: Reason
  /** Not even a connection was made in time: the first packet may just have been lost. */
  readonly unconnected: boolean

  constructor(reason: Reason, message: string, { unconnected = false }: { readonly unconnected?: boolean } = {}) {
    super(message)
    this.reason = reason
    this.unconnected = unconnected
  }
}

export interface Question {
  readonly origin: string
  readonly path: string
  readonly maxBytes: number
  readonly connectMs: number
  /** For all of it. */
  readonly timeoutMs: number
  readonly signal?: AbortSignal
}

export interface Answer {
  readonly status: number
  readonly isPage: boolean
  /** Read only of a 200 or 403 that is no page. */
  readonly bytes: Buffer
}

/** Throws ProbeError, and the reason of the signal. */
export function ask(outbound: Outbound, question: Question): Promise<Answer> {
  const { origin, path, maxBytes, connectMs, timeoutMs, signal } = question
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let bytes = 0
    let status = 0
    let exchange: Exchange | null = null
    let isOver = false
    const timers = [
      setTimeout(() => fail(new ProbeError('silent', 'It did not answer in time.')), timeoutMs),
      // undici's own clock for connections is up to half a second late.
      setTimeout(() => {
        if (exchange?.sent !== true) fail(unconnected())
      }, connectMs)
    ]
    const cancel = (): void => fail(signal?.reason)

    function settle(act: () => void): void {
      if (isOver) return
      isOver = true
      for (const timer of timers) clearTimeout(timer)
      signal?.removeEventListener('abort', cancel)
      exchange?.abort()
      act()
    }
    const fail = (error: unknown): void => settle(() => reject(error))
    const succeed = (isPage: boolean): void => settle(() => resolve({ status, isPage, bytes: Buffer.concat(chunks) }))

    signal?.addEventListener('abort', cancel, { once: true })
    if (signal?.aborted === true) return cancel()
    const request = { origin, path, method: 'GET', headers: { accept: 'application/json' }, body: null, connectMs } as const
    exchange = outbound.send(request, {
      head(code, headers) {
        status = code
        if (code >= 300 && code < 400) return fail(new ProbeError('hostile', 'It redirects, and no redirect is followed.'))
        const isPage = /html/i.test(headers['content-type'] ?? '')
        if (isPage || (code !== 200 && code !== 403)) return succeed(isPage)
        if (Number(headers['content-length'] ?? 0) > maxBytes) fail(tooMuch(maxBytes))
      },
      data(chunk) {
        if (isOver) return false
        bytes += chunk.length
        if (bytes > maxBytes) fail(tooMuch(maxBytes))
        else chunks.push(chunk)
        return !isOver
      },
      end: () => succeed(false),
      error: (error, sent) => fail(failureOf(error, sent))
    })
    // Over before there was an exchange to end.
    if (isOver) exchange.abort()
  })
}

function failureOf(error: Error, sent: boolean): ProbeError {
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  if (code === 'ECONNREFUSED') return new ProbeError('refused', 'Nothing listens on this port, or only for that machine itself.')
  if (code === 'UND_ERR_HEADERS_OVERFLOW') {
    return new ProbeError('hostile', 'It sent more headers than are read.')
  }
  if (error.name === 'HTTPParserError') return new ProbeError('not_a_model_server', 'What answers does not speak HTTP.')
  if (sent) return new ProbeError('silent', 'It closed the connection without a whole answer.')
  if (code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ETIMEDOUT') return unconnected()
  return new ProbeError('silent', `It cannot be reached${/^[A-Z][A-Z0-9_]{1,40}$/.test(code) ? ` (${code})` : ''}.`)
}

function unconnected(): ProbeError {
  return new ProbeError('silent', 'It does not take connections: it is off, or a rule of the network drops them.', { unconnected: true })
}

function tooMuch(maxBytes: number): ProbeError {
  return new ProbeError('hostile', `Its answer is larger than ${maxBytes / 1024} KiB.`)
}
