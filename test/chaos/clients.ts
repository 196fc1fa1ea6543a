// Clients that never give up: they submit, sometimes twice, follow their jobs over every cut, and write down what they were told.

import { setMaxListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import type { Chance } from './chance.ts'
import type { Fleet } from './fleet.ts'
import { framesOf } from './frames.ts'
import type { Answer, History, WorkKind } from './history.ts'
import { askUntilAnswered, type Said, send } from './http.ts'
import { bodyOf, resultText, type SeenJob, terminal } from './jobs.ts'
import { chatModel } from './machines.ts'
import { createReading, deltaOf } from './reading.ts'

export interface Clients {
  /** Nothing new is begun; resolves when all that was begun has ended, or `false` after `ms`. */
  drain(ms: number): Promise<boolean>
  /** Jobs that were acknowledged and have not been seen to end. */
  open(): readonly string[]
}

export interface ClientPorts {
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

export function startClients({ fleet, history, chance, submitters, callers }: ClientPorts): Clients {
  const ending = new AbortController()
  const gone = new AbortController()
  // One pause of each loop.
  setMaxListeners(submitters + callers, gone.signal)
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
      const mark = `job-${++marks}`
      const stream = (kind === 'chat' || kind === 'openai.chat') && chance.oneIn(2)
      const key = `key-${mark}`
      const body = bodyOf(kind, mark, stream)
      history.write({ t: 'submit', key, mark, kind })
      const times = chance.oneIn(10) ? 2 : 1
      const submits = Array.from({ length: times }, (_, index) => submit({ key, body, first: chance.below(2) + index }))
      const id = (await Promise.all(submits)).find(given => given !== null)
      if (id === undefined) return
      open.add(id)
      if (stream) await follow(id, chance)
      await finish(id, kind, chance)
    }
  }

  async function submit({ key, body, first }: { key: string; body: object; first: number }): Promise<string | null> {
    const asking = { path: '/v1/jobs', json: body, headers: { 'idempotency-key': key }, timeoutMs: 1_500 }
    const said = await askUntilAnswered({ fleet, signal: gone.signal, first }, asking)
    if (said === null) return null
    const id = said.status < 300 ? (JSON.parse(said.text) as { id?: unknown }).id : undefined
    if (typeof id !== 'string') {
      refused(`submit ${key}`, said)
      return null
    }
    history.write({ t: 'ack', key, id, status: said.status })
    return id
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
        if (response.status < 500) refused(`stream of ${id}`, { status: response.status, text: await response.text() })
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

  async function finish(id: string, kind: WorkKind, chance: Chance): Promise<void> {
    for (;;) {
      const said = await askUntilAnswered({ fleet, signal: gone.signal, first: chance.below(2) }, { path: `/v1/jobs/${id}` })
      if (said === null) return
      if (said.status !== 200) {
        refused(`job ${id}`, said)
        return
      }
      const job = JSON.parse(said.text) as SeenJob
      if (terminal.includes(job.status)) {
        open.delete(id)
        history.write({ t: 'finished', id, status: job.status, text: resultText(kind, job.result) })
        return
      }
      await pause(pollMs)
    }
  }

  function caller(chance: Chance): () => Promise<void> {
    return async () => {
      const mark = `call-${++marks}`
      const stream = chance.oneIn(2)
      const gateway = fleet.gateways().length === 0 ? undefined : chance.pick(fleet.gateways())
      if (gateway !== undefined) history.write({ t: 'asked', mark, stream, answer: await chat(gateway, mark, stream) })
      await pause(chance.between(20, 300))
    }
  }

  async function chat(gateway: string, mark: string, stream: boolean): Promise<Answer> {
    const json = { model: chatModel, stream, messages: [{ role: 'user', content: `[[${mark}]] Say something.` }] }
    let text = ''
    let isWhole = false
    try {
      const signal = AbortSignal.any([AbortSignal.timeout(15_000), gone.signal])
      const response = await send(gateway, { path: '/v1/chat/completions', json }, signal)
      if (response.status !== 200) return { outcome: 'failed', status: response.status, text: await response.text() }
      if (!stream) return { outcome: 'answered', text: resultText('chat', await response.json()) ?? '' }
      for await (const { event, data } of framesOf(response)) {
        if (data === '[DONE]') isWhole = true
        else if (event === 'error' || data.startsWith('{"error"')) return { outcome: 'failed', status: 200, text: data }
        else text += deltaOf(JSON.parse(data) as Record<string, unknown>)
      }
    } catch (error) {
      return { outcome: 'failed', status: 0, text: String(error) }
    }
    return isWhole ? { outcome: 'answered', text } : { outcome: 'truncated', text }
  }

  function refused(what: string, { status, text }: Pick<Said, 'status' | 'text'>): void {
    history.write({ t: 'refused', what, status, text: text.slice(0, 300) })
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
