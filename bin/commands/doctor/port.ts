// Is the port free, or is it our own gateway that answers there?

import { createServer } from 'node:net'
import type { Outbound } from '../../../outbound/client.ts'
import type { Settings } from '../../config.ts'
import { type Finding, fail, ok, reasonOf } from './check.ts'

export interface PortState {
  /** Where our gateway answers now; null = it does not run. */
  readonly gatewayUrl: string | null
  readonly finding: Finding
}

const answerMs = 3_000

export async function portState(outbound: Outbound, settings: Pick<Settings, 'host' | 'port'>, signal: AbortSignal): Promise<PortState> {
  const { host, port } = settings
  if (port === 0) return { gatewayUrl: null, finding: ok('any free port (PORT=0)') }
  const refusal = await tryToListen(host, port)
  if (refusal === null) return { gatewayUrl: null, finding: ok(`${port} on ${host} is free; no gateway is running there`) }
  if (refusal === 'EADDRINUSE') {
    const url = urlOf(host, port)
    const version = await gatewayVersion(outbound, url, signal)
    if (version !== null) return { gatewayUrl: url, finding: ok(`${port} on ${host}: a gateway is running there (${version})`) }
    return {
      gatewayUrl: null,
      finding: fail(`${port} on ${host} is taken by another program`, 'Stop that program, or set PORT to another one.')
    }
  }
  const remedy =
    refusal === 'EACCES'
      ? 'Set PORT to one above 1023: lower ones need rights that this user does not have.'
      : 'Set HOST to an address of this machine, such as 127.0.0.1 or 0.0.0.0.'
  return { gatewayUrl: null, finding: fail(`${port} on ${host} cannot be listened on (${refusal})`, remedy) }
}

/** Null = nobody minds; otherwise the error's code. */
function tryToListen(host: string, port: number): Promise<string | null> {
  return new Promise(resolve => {
    const server = createServer()
    server.once('error', error => resolve((error as NodeJS.ErrnoException).code ?? reasonOf(error)))
    server.listen({ host, port }, () => server.close(() => resolve(null)))
  })
}

/** Null when what answers there is no gateway of ours. */
async function gatewayVersion(outbound: Outbound, url: string, signal: AbortSignal): Promise<string | null> {
  const request = { origin: url, path: '/health', method: 'GET' as const, headers: {}, body: null, connectMs: answerMs }
  try {
    const answer = await outbound.fetchText(request, { maxBytes: 64 * 1024, timeoutMs: answerMs, signal })
    if (answer.headers['x-request-id'] === undefined) return null
    const { status, version, error } = JSON.parse(answer.text) as { status?: unknown; version?: unknown; error?: { message?: unknown } }
    if (answer.status === 200 && status === 'ok' && typeof version === 'string') return `version ${version.slice(0, 40)}`
    // Under a name that it does not answer to without a key, it says so.
    return answer.status === 403 && String(error?.message).includes('LLM_MCP_ALLOWED_HOSTS') ? 'version unknown' : null
  } catch {
    return null
  }
}

/** Where to reach what listens on `host`. */
function urlOf(host: string, port: number): string {
  const reachable = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
  return `http://${reachable.includes(':') ? `[${reachable}]` : reachable}:${port}`
}
