// Asks a machine something that costs it nothing, and looks whether what answers is what is meant to be there.

import type { Outbound } from '../../outbound/client.ts'
import type { Upstream } from '../../routing/types.ts'

/** Of an error: something answered, but nothing that we could send a prompt to. */
export const otherServer = 'ERR_OTHER_SERVER'

type Asked = Pick<Upstream, 'adapter' | 'baseUrl' | 'headers' | 'apiKey' | 'timeouts'>

interface Beginning {
  readonly text: string
  readonly isWhole: boolean
}

// A list of models may be large, and its beginning says enough; a version is small.
const readBytes = 64 * 1024

/**
 * Resolves with the version of an Ollama, with null for other servers, which must answer with JSON, whatever its status.
 * Rejects with the code `otherServer` when something else answers, or as sockets do.
 */
export async function askMachine(outbound: Pick<Outbound, 'send'>, upstream: Asked, signal: AbortSignal): Promise<string | null> {
  const { origin, pathname } = new URL(upstream.baseUrl)
  const isOllama = upstream.adapter === 'ollama'
  const answer = await beginningOf(
    outbound,
    {
      origin,
      path: `${pathname.replace(/\/$/, '')}${isOllama ? '/api/version' : '/models'}`,
      method: 'GET',
      headers: { ...upstream.headers, ...(upstream.apiKey === null ? {} : { authorization: `Bearer ${upstream.apiKey}` }) },
      body: null,
      connectMs: upstream.timeouts.connectMs
    },
    signal
  ).catch((error: unknown) => {
    // It does not even speak HTTP.
    if (error instanceof Error && error.name === 'HTTPParserError') throw otherServerError(error)
    throw error
  })
  const version = isOllama ? versionOf(answer) : null
  if (isOllama ? version === null : !/^\s*[[{]/.test(answer.text)) throw otherServerError()
  return version
}

function versionOf({ text, isWhole }: Beginning): string | null {
  if (!isWhole) return null
  try {
    const version: unknown = JSON.parse(text)?.version
    return typeof version === 'string' && /^[\w.+-]{1,64}$/.test(version) ? version : null
  } catch {
    return null
  }
}

function otherServerError(cause?: unknown): Error {
  return Object.assign(new Error('something else answers there', { cause }), { code: otherServer })
}

/** What comes first of an answer; the rest of a large one is not read. */
function beginningOf(outbound: Pick<Outbound, 'send'>, request: Parameters<Outbound['send']>[0], signal: AbortSignal): Promise<Beginning> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let bytes = 0
    const over = (): void => signal.removeEventListener('abort', cancel)
    const finish = (isWhole: boolean): void => {
      over()
      resolve({ text: Buffer.concat(chunks).toString('utf8'), isWhole })
    }
    const cancel = (): void => {
      over()
      exchange?.abort()
      reject(signal.reason)
    }
    let exchange: ReturnType<Outbound['send']> | null = null
    if (signal.aborted) return reject(signal.reason)
    signal.addEventListener('abort', cancel, { once: true })
    exchange = outbound.send(request, {
      head() {},
      data(chunk) {
        chunks.push(chunk)
        bytes += chunk.length
        if (bytes <= readBytes) return true
        exchange?.abort()
        finish(false)
        return false
      },
      end: () => finish(true),
      error(error) {
        over()
        reject(error)
      }
    })
  })
}
