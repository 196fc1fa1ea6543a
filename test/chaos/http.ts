// How the clients talk to the gateways: plain HTTP, every wait with an end.

import { adminKey, type Fleet } from './fleet.ts'

export interface Said {
  readonly status: number
  readonly text: string
  readonly headers: Headers
}

export interface Asking {
  readonly path: string
  readonly json?: unknown
  readonly headers?: Readonly<Record<string, string>>
  readonly timeoutMs?: number
}

/** The whole answer. Rejects when the gateway is gone, or silent for `timeoutMs` (default 5,000). */
export async function ask(gateway: string, { timeoutMs = 5_000, ...asking }: Asking): Promise<Said> {
  const response = await send(gateway, asking, AbortSignal.timeout(Math.ceil(timeoutMs)))
  return { status: response.status, text: await response.text(), headers: response.headers }
}

export function send(gateway: string, { path, json, headers }: Asking, signal: AbortSignal): Promise<Response> {
  return fetch(`${gateway}${path}`, {
    ...(json === undefined ? {} : { method: 'POST', body: JSON.stringify(json) }),
    headers: { authorization: `Bearer ${adminKey}`, ...(json === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
    signal
  })
}

/** Asks one gateway after the other until one answers with something other than "later"; null once `signal` has fired. */
export async function askUntilAnswered(
  { fleet, signal, first }: { readonly fleet: Fleet; readonly signal: AbortSignal; readonly first: number },
  asking: Asking
): Promise<Said | null> {
  for (let turn = first; !signal.aborted; turn++) {
    const gateways = fleet.gateways()
    const gateway = gateways[turn % Math.max(1, gateways.length)]
    if (gateway !== undefined) {
      try {
        const said = await ask(gateway, asking)
        if (said.status !== 429 && said.status < 500) return said
      } catch {
        // Killed or frozen under our hands: the next one.
      }
    }
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  return null
}
