// One gateway among several on this machine (WORKERS): what it tells its supervisor, and what it asks of the others by way of it.

import cluster from 'node:cluster'
import { randomUUID } from 'node:crypto'

/** Between a worker and its supervisor, both ways. */
export type Message =
  | { readonly what: 'ready' }
  /** Whoever gets it answers with its own. */
  | { readonly what: 'metrics?'; readonly id: string }
  /** So many are asked. */
  | { readonly what: 'asked'; readonly id: string; readonly count: number }
  | { readonly what: 'metrics'; readonly id: string; readonly metrics: readonly unknown[] }

export interface Siblings {
  /** The one whose start is the start of all. */
  readonly isFirst: boolean
  /** It serves from now on. */
  ready(): void
  /** What the others have counted, one list each. Rejects when one of them does not answer within two seconds: a sum without it would be wrong. */
  metrics(): Promise<readonly (readonly unknown[])[]>
  /** What is told to others that ask. */
  answer(own: () => Promise<readonly unknown[]>): void
}

const answerWithinMs = 2_000

/** Null where this process is alone. */
export function joinSiblings(): Siblings | null {
  const { worker } = cluster
  if (worker === undefined) return null
  let own: () => Promise<readonly unknown[]> = () => Promise.resolve([])
  const asking = new Map<string, Question>()

  process.on('message', (message: Message) => {
    if (message.what === 'metrics?') void tell(message.id)
    else if (message.what === 'asked') asking.get(message.id)?.expect(message.count)
    else if (message.what === 'metrics') asking.get(message.id)?.take(message.metrics)
  })

  /** Who asks and hears nothing fails by its clock. */
  async function tell(id: string): Promise<void> {
    const metrics = await own().catch(() => null)
    if (metrics !== null) send({ what: 'metrics', id, metrics })
  }

  return {
    isFirst: worker.id === 1,
    ready: () => send({ what: 'ready' }),
    metrics() {
      const id = randomUUID()
      const question = ask()
      asking.set(id, question)
      send({ what: 'metrics?', id })
      return question.answers.finally(() => asking.delete(id))
    },
    answer(given) {
      own = given
    }
  }
}

interface Question {
  expect(count: number): void
  take(metrics: readonly unknown[]): void
  readonly answers: Promise<readonly (readonly unknown[])[]>
}

function ask(): Question {
  const taken: (readonly unknown[])[] = []
  let expected = Number.POSITIVE_INFINITY
  const { promise, resolve, reject } = Promise.withResolvers<readonly (readonly unknown[])[]>()
  const limit = setTimeout(() => reject(new Error(`a worker did not say what it has counted within ${answerWithinMs} ms`)), answerWithinMs)
  const look = (): void => {
    if (taken.length < expected) return
    clearTimeout(limit)
    resolve(taken)
  }
  return {
    expect(count) {
      expected = count
      look()
    },
    take(metrics) {
      taken.push(metrics)
      look()
    },
    answers: promise
  }
}

/** A supervisor that is gone needs to hear nothing. */
function send(message: Message): void {
  if (process.connected) process.send?.(message)
}
