// One attempt on one adapter against a fake server, to its end: what the tests of embeddings and completions are made of.

import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { loadAdapters } from '../../adapters/shared/scan.ts'
import { createOutbound } from '../../outbound/client.ts'
import type { Adapter, AttemptEnd, ModelRequest, Target, Upstream, Usage } from '../../routing/types.ts'

export type Json = Record<string, unknown>

export interface Received {
  readonly path: string
  readonly text: string
  readonly json: Json
}

export type Answer = (response: ServerResponse, received: Received) => void

export interface Outcome {
  readonly end: AttemptEnd
  readonly frames: string
  readonly tokens: readonly number[]
  readonly body: Buffer | null
  /** The same, parsed. */
  readonly json: Json
  readonly usage: Usage | null
  readonly usageEvent: string | null
  /** What the server was sent. */
  readonly received: readonly Received[]
}

export interface Changes {
  readonly upstream?: Partial<Upstream>
  readonly target?: Partial<Target>
}

export const knobs = { requestId: 'r', localOnly: false }
export const asBytes = (body: object) => Buffer.from(JSON.stringify(body))

/** A 200 with this JSON. */
export const sayJson =
  (body: object | string): Answer =>
  response =>
    response.writeHead(200, { 'content-type': 'application/json' }).end(typeof body === 'string' ? body : JSON.stringify(body))

export async function loadAdapter(t: Test, name: string): Promise<Adapter> {
  const outbound = createOutbound()
  t.teardown(() => outbound.close())
  let id = 0
  const adapters = await loadAdapters({ outbound, reasoningField: 'reasoning', now: () => 1_790_000_000_999, randomId: () => `r${id++}` })
  const adapter = adapters.get(name)
  if (adapter === undefined) throw new Error(`no adapter is called ${name}`)
  return adapter
}

export function targetOf(adapter: string, baseUrl: string, { upstream = {}, target = {} }: Changes = {}): Target {
  return {
    id: 'up/m',
    model: 'm',
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete', 'embed'],
    loaded: true,
    price: { source: 'unknown', tokens: null },
    createdAt: 0,
    ...target,
    upstream: {
      id: 'up',
      adapter,
      own: false,
      baseUrl,
      apiKey: 'secret-key',
      headers: {},
      device: null,
      timeouts: { connectMs: 2_000, firstTokenMs: 20_000, idleMs: 20_000, totalMs: 20_000 },
      models: null,
      auto: [],
      streamUsage: true,
      registryId: null,
      ...upstream
    }
  }
}

/** Carries the request out on a server that answers like this. */
export async function perform(t: Test, name: string, request: ModelRequest, answer: Answer, changes: Changes = {}): Promise<Outcome> {
  const received: Received[] = []
  const server = createServer((incoming, response) => {
    const chunks: Buffer[] = []
    incoming.on('data', chunk => chunks.push(chunk))
    incoming.on('end', () => {
      const text = Buffer.concat(chunks).toString()
      const call = { path: incoming.url ?? '', text, json: JSON.parse(text) as Json }
      received.push(call)
      answer(response, call)
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  const adapter = await loadAdapter(t, name)
  const target = targetOf(name, `http://127.0.0.1:${(server.address() as AddressInfo).port}`, changes)
  return new Promise((resolve, reject) => {
    const frames: Buffer[] = []
    const tokens: number[] = []
    let body: Buffer | null = null
    let usage: Usage | null = null
    let usageEvent: string | null = null
    const operation = adapter[request.operation]
    if (operation === undefined) return reject(new Error(`${name} cannot ${request.operation}`))
    operation.call(
      adapter,
      { id: 'attempt-1', request, target },
      {
        frames(events, count) {
          frames.push(events)
          tokens.push(count)
          return true
        },
        body(json) {
          body = json
        },
        usage(figures, event) {
          usage = figures
          usageEvent = event === null ? null : event.toString()
        },
        end(end) {
          const json = body === null ? {} : (JSON.parse(body.toString()) as Json)
          resolve({ end, frames: Buffer.concat(frames).toString(), tokens, body, json, usage, usageEvent, received })
        }
      }
    )
  })
}

/** The chunks of an SSE text; throws on anything that is not `data: <json>` and a blank line. */
export function chunksOf(text: string): Json[] {
  return text
    .split('\n\n')
    .filter(event => event !== '')
    .map(event => {
      if (!event.startsWith('data: ') || event.includes('\n')) throw new Error(`not one data line: ${event}`)
      return JSON.parse(event.slice(6))
    })
}
