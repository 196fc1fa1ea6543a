// One client: it asks the gateways until one of them tells it something, and writes down what it was told.

import { setTimeout as delay } from 'node:timers/promises'
import type { Fleet } from './fleet.ts'
import { framesOf } from './frames.ts'
import type { Answer, History, WorkKind } from './history.ts'
import { askUntilAnswered, type Said, send } from './http.ts'
import { bodyOf, resultText, type SeenJob, terminal } from './jobs.ts'
import { chatModel } from './machines.ts'
import { deltaOf } from './reading.ts'

export interface Work {
  readonly kind: WorkKind
  /** No two jobs have the same; it makes the idempotency key. */
  readonly mark: string
  readonly stream: boolean
}

export interface Client {
  /** Submits one job once for each of `firsts`, all at once, each beginning at that gateway. What was acknowledged, by id. */
  submit(work: Work, firsts: readonly number[]): Promise<string[]>
  /** Looks at a job every `everyMs` until it is over; false when it is unknown, or when nobody waits any more. */
  finished(id: string, kind: WorkKind, everyMs: number): Promise<boolean>
  /** A request whose client holds the line. */
  call(gateway: string, mark: string, stream: boolean): Promise<void>
  /** A gateway said to a good request what no healthy one says. */
  refused(what: string, said: Pick<Said, 'status' | 'text'>): void
}

export interface ClientPorts {
  readonly fleet: Fleet
  readonly history: History
  /** It gives up when this has fired. */
  readonly signal: AbortSignal
}

export function createClient({ fleet, history, signal }: ClientPorts): Client {
  async function submit({ kind, mark, stream }: Work, firsts: readonly number[]): Promise<string[]> {
    const key = `key-${mark}`
    const asking = { path: '/v1/jobs', json: bodyOf(kind, mark, stream), headers: { 'idempotency-key': key }, timeoutMs: 1_500 }
    history.write({ t: 'submit', key, mark, kind })
    const ids = await Promise.all(
      firsts.map(async first => {
        const said = await askUntilAnswered({ fleet, signal, first }, asking)
        if (said === null) return []
        const id = said.status < 300 ? (JSON.parse(said.text) as { id?: unknown }).id : undefined
        if (typeof id !== 'string') {
          refused(`submit ${key}`, said)
          return []
        }
        history.write({ t: 'ack', key, id, status: said.status })
        return [id]
      })
    )
    return ids.flat()
  }

  async function finished(id: string, kind: WorkKind, everyMs: number): Promise<boolean> {
    for (let turn = 0; ; turn++) {
      const said = await askUntilAnswered({ fleet, signal, first: turn }, { path: `/v1/jobs/${id}` })
      if (said === null) return false
      if (said.status !== 200) {
        refused(`job ${id}`, said)
        return false
      }
      const job = JSON.parse(said.text) as SeenJob
      if (terminal.includes(job.status)) {
        history.write({ t: 'finished', id, status: job.status, text: resultText(kind, job.result) })
        return true
      }
      await delay(everyMs, undefined, { signal }).catch(() => {})
    }
  }

  async function call(gateway: string, mark: string, stream: boolean): Promise<void> {
    history.write({ t: 'asked', mark, stream, answer: await chat(gateway, mark, stream) })
  }

  async function chat(gateway: string, mark: string, stream: boolean): Promise<Answer> {
    const json = { model: chatModel, stream, messages: [{ role: 'user', content: `[[${mark}]] Say something.` }] }
    let text = ''
    let isWhole = false
    try {
      const response = await send(gateway, { path: '/v1/chat/completions', json }, AbortSignal.any([AbortSignal.timeout(15_000), signal]))
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

  return { submit, finished, call, refused }
}
