// Begins attempts for the conformance suite and says what holds of every one of them.

import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import type { Test } from 'tap'
import { loadAdapters } from '../../adapters/shared/scan.ts'
import { createOutbound } from '../../outbound/client.ts'
import type {
  Adapter,
  AttemptEnd,
  AttemptHandle,
  AttemptObserver,
  ModelRequest,
  Operation,
  Target,
  Timeouts,
  Usage
} from '../../routing/types.ts'

/** What a request is read with. */
export const knobs = { requestId: 'r', localOnly: false }

/** A request as it is received. */
export const asBytes = (body: object) => Buffer.from(JSON.stringify(body))

const long: Timeouts = { connectMs: 2_000, firstTokenMs: 30_000, idleMs: 30_000, totalMs: 30_000 }

/** The base URL of a server that is gone. */
export async function nobody(fake: { readonly basePath: string }): Promise<string> {
  const server = createTcpServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return `http://127.0.0.1:${port}${fake.basePath}`
}

/** What an attempt has told so far. */
export interface Heard {
  readonly calls: string[]
  readonly frames: Buffer[]
  tokens: number
  body: Buffer | null
  usage: Usage | null
  usageEvent: Buffer | null
  end: AttemptEnd | null
  readonly ended: Promise<void>
  readonly handle: AttemptHandle
}

/** What is asked of whom. */
export interface Call {
  readonly operation: Operation
  readonly request: ModelRequest
  readonly baseUrl: string
  readonly timeouts?: Partial<Timeouts>
  /** Told before each callback is over; what `frames` returns. */
  readonly told?: (heard: Heard, what: keyof AttemptObserver) => boolean
}

/** Begins an attempt of this adapter and hears all it tells. */
export function start(adapter: Adapter, { operation, request, baseUrl, timeouts = {}, told = () => true }: Call): Heard {
  const target: Target = {
    id: 'up/m',
    upstream: {
      id: 'up',
      adapter: adapter.name,
      own: false,
      baseUrl,
      apiKey: 'k',
      headers: {},
      device: null,
      timeouts: { ...long, ...timeouts },
      models: null,
      auto: [],
      streamUsage: true,
      registryId: null
    },
    model: 'm',
    contextTokens: 8_192,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete', 'embed'],
    loaded: true,
    price: { source: 'unknown', tokens: null },
    createdAt: 0
  }
  const { promise, resolve } = Promise.withResolvers<void>()
  const heard: Omit<Heard, 'handle'> & { handle: AttemptHandle | null } = {
    calls: [],
    frames: [],
    tokens: 0,
    body: null,
    usage: null,
    usageEvent: null,
    end: null,
    ended: promise,
    handle: null
  }
  const tell = (what: keyof AttemptObserver): boolean => {
    heard.calls.push(what)
    return told(heard as Heard, what)
  }
  const perform = adapter[operation]
  if (perform === undefined) throw new Error(`${adapter.name} cannot ${operation}`)
  heard.handle = perform.call(
    adapter,
    { id: '01990000-0000-7000-8000-000000000001', target, request },
    {
      frames(events, tokens) {
        heard.frames.push(events)
        heard.tokens += tokens
        return tell('frames')
      },
      body(json) {
        heard.body = json
        tell('body')
      },
      usage(usage, event) {
        heard.usage = usage
        heard.usageEvent = event
        tell('usage')
      },
      end(end) {
        heard.end = end
        tell('end')
        resolve()
      }
    }
  )
  return heard as Heard
}

/** What holds of every attempt that is over. */
export function faultsOf({ calls, end, usage }: Heard, stream: boolean): string[] {
  const faults: string[] = []
  const count = (what: string) => calls.filter(call => call === what).length
  if (count('end') !== 1) faults.push(`ended ${count('end')} times`)
  if (calls.at(-1) !== 'end') faults.push(`called after its end: ${calls}`)
  if (count('usage') > 1) faults.push('usage twice')
  if (count('body') > 1) faults.push('two bodies')
  if (count(stream ? 'body' : 'frames') > 0) faults.push(`a ${stream ? 'body for a stream' : 'stream for a body'}`)
  if (end?.ok === true && !stream && count('body') !== 1) faults.push('no body')
  if (end !== null && !end.ok && end.error.name !== 'GatewayError') faults.push(`ended with ${end.error}`)
  const { timings = {}, ...figures } = usage ?? {}
  const isSane = [...Object.values(figures), ...Object.values(timings)].every(
    figure => figure === null || (Number.isFinite(figure) && Number(figure) >= 0)
  )
  const isWhole = Object.entries(figures).every(([, figure]) => figure === null || Number.isInteger(figure))
  if (!isSane || !isWhole) {
    faults.push(`senseless figures: ${JSON.stringify(usage)}`)
  }
  return faults
}

/** The adapter of this name, found as the program finds it. */
export async function adapterFor(t: Test, name: string): Promise<Adapter> {
  const outbound = createOutbound()
  t.teardown(() => outbound.close())
  let id = 0
  const adapters = await loadAdapters({ outbound, reasoningField: 'reasoning', now: Date.now, randomId: () => `id${id++}` })
  const adapter = adapters.get(name)
  if (adapter === undefined) throw new Error(`no adapter is called ${name}`)
  return adapter
}
