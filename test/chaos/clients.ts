// Clients that never give up: they submit, sometimes twice, follow their jobs over every cut, and hold lines.

import { setMaxListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import type { Chance } from './chance.ts'
import { createClient } from './client.ts'
import type { Fleet } from './fleet.ts'
import { framesOf } from './frames.ts'
import type { History, WorkKind } from './history.ts'
import { send } from './http.ts'
import { createReading } from './reading.ts'

export interface Clients {
  /** Nothing new is begun; resolves when all that was begun has ended, or `false` after `ms`. */
  drain(ms: number): Promise<boolean>
  /** Jobs that were acknowledged and have not been seen to end. */
  open(): readonly string[]
}

export interface ClientsPorts {
  readonly fleet: Fleet
  readonly history: History
  readonly chance: Chance
  /** Loops that submit jobs. */
  readonly submitters: number
  /** Loops of requests whose clients hold the line. */
  readonly callers: number
}

const kinds: readonly WorkKind[] = ['chat', 'chat', 'ollama.generate', 'openai.chat', 'embed', 'echo']
const pollMs = 150

export function startClients({ fleet, history, chance, submitters, callers }: ClientsPorts): Clients {
  const ending = new AbortController()
  const gone = new AbortController()
  // One pause of each loop.
  setMaxListeners(submitters + callers, gone.signal)
  const client = createClient({ fleet, history, signal: gone.signal })
  const open = new Set<string>()
  let marks = 0
  const loops = [
    ...Array.from({ length: submitters }, () => loop(submitter(chance.fork()))),
    ...Array.from({ length: callers }, () => loop(caller(chance.fork())))
  ]

  async function loop(turn: () => Promise<void>): Promise<void> {
    while (!ending.signal.aborted) await turn()
  }

  function submitter(chance: Chance): () => Promise<void> {
    return async () => {
      const kind = chance.pick(kinds)
      const stream = (kind === 'chat' || kind === 'openai.chat') && chance.oneIn(2)
      const first = chance.below(2)
      const [id] = await client.submit({ kind, mark: `job-${++marks}`, stream }, chance.oneIn(10) ? [first, first + 1] : [first])
      if (id === undefined) return
      open.add(id)
      if (stream) await follow(id, chance)
      if (await client.finished(id, kind, pollMs)) open.delete(id)
    }
  }

  /** Reads the stream to its end. A connection now and then is closed on purpose. */
  async function follow(id: string, chance: Chance): Promise<void> {
    const reading = createReading()
    for (let connections = 1; !gone.signal.aborted; connections++) {
      const gateway = fleet.gateways().length === 0 ? undefined : chance.pick(fleet.gateways())
      if (gateway !== undefined) await readOn(id, { gateway, reading, patienceMs: chance.oneIn(4) ? chance.between(20, 400) : 4_000 })
      if (reading.isOver()) {
        history.write({ t: 'streamed', id, reading: reading.done(connections) })
        return
      }
      await pause(50)
    }
  }

  async function readOn(
    id: string,
    { gateway, reading, patienceMs }: { gateway: string; reading: ReturnType<typeof createReading>; patienceMs: number }
  ): Promise<void> {
    const lastId = reading.lastId()
    const cut = AbortSignal.any([AbortSignal.timeout(Math.ceil(patienceMs)), gone.signal])
    try {
      const response = await send(
        gateway,
        { path: `/v1/jobs/${id}/stream`, headers: lastId === null ? {} : { 'last-event-id': lastId } },
        cut
      )
      if (response.status !== 200) {
        if (response.status < 500) client.refused(`stream of ${id}`, { status: response.status, text: await response.text() })
        return
      }
      for await (const frame of framesOf(response)) {
        // The gateway's own farewell; where we were is where we go on.
        if (frame.event === 'error') return
        reading.take(frame)
      }
    } catch {
      // Cut: by us, by a kill, by the end of a gateway.
    }
  }

  function caller(chance: Chance): () => Promise<void> {
    return async () => {
      const mark = `call-${++marks}`
      const stream = chance.oneIn(2)
      const gateway = fleet.gateways().length === 0 ? undefined : chance.pick(fleet.gateways())
      if (gateway !== undefined) await client.call(gateway, mark, stream)
      await pause(chance.between(20, 300))
    }
  }

  function pause(ms: number): Promise<void> {
    return delay(ms, undefined, { signal: gone.signal }).catch(() => {})
  }

  return {
    async drain(ms) {
      ending.abort()
      const late = AbortSignal.timeout(Math.ceil(ms))
      late.addEventListener('abort', () => gone.abort())
      await Promise.all(loops)
      return !gone.signal.aborted
    },
    open: () => [...open]
  }
}
