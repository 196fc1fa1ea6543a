// How fast the queue is while nothing is broken: what waits for a poll instead of a wake-up shows here.

import { setTimeout as delay } from 'node:timers/promises'
import { readBill } from './bill.ts'
import type { Fleet } from './fleet.ts'
import type { History, WorkKind } from './history.ts'
import { askUntilAnswered } from './http.ts'
import { bodyOf, resultText, type SeenJob, terminal } from './jobs.ts'
import { quantile } from './lines.ts'
import { boxSlots, type Machines } from './machines.ts'

export interface Liveness {
  /** A request that has nothing to do with the queue, ms: how busy the machine is with other things. */
  readonly answerP50Ms: number
  /** From a submit to the machine's first sight of it, on an idle fleet, ms. */
  readonly startP50Ms: number
  readonly startMaxMs: number
  /** From the end of one call to the begin of the next on a full machine, ms. */
  readonly gapP50Ms: number
  readonly gapP90Ms: number
  readonly mostAtOnce: number
  /** Jobs of the burst a second, against what the machine could do with no gaps at all. */
  readonly efficiency: number
}

// An idle fleet starts a job within some 20 ms, by the poll alone after 500 ms on average. Each takes a few round trips,
// which are slow on a machine that is busy with other things.
const startP50AtMostMs = 200
// Handed over, a place is taken again within some 10 ms.
const gapP50AtMostMs = 50
const roundTrips = 8

const single = 9
const burst = 24
const burstCallMs = 100

export async function measureLiveness(ports: {
  readonly fleet: Fleet
  readonly machines: Machines
  readonly history: History
  readonly billPath: string
}): Promise<{ readonly figures: Liveness; readonly violations: readonly string[] }> {
  const { fleet, machines, history, billPath } = ports
  const signal = AbortSignal.timeout(60_000)
  machines.setPace({ lowMs: 20, highMs: 30, slowOneIn: 0 })
  const answers: number[] = []
  for (let index = 0; index < single; index++) {
    const before = performance.now()
    await askUntilAnswered({ fleet, signal, first: index }, { path: '/v1/models' })
    answers.push(performance.now() - before)
  }
  const waits: number[] = []
  for (let index = 0; index < single; index++) {
    const mark = `job-single-${index}`
    const before = Date.now()
    const id = await submit('chat', mark, index)
    await finished(id, 'chat')
    const begun = readBill(billPath).find(call => call.mark === mark)
    if (begun !== undefined) waits.push(begun.beganAt - before)
  }

  machines.setPace({ lowMs: burstCallMs, highMs: burstCallMs, slowOneIn: 0 })
  const ids = await Promise.all(Array.from({ length: burst }, (_, index) => submit('ollama.generate', `job-burst-${index}`, index)))
  for (const id of ids) await finished(id, 'ollama.generate')
  const calls = readBill(billPath).filter(({ mark }) => mark.startsWith('job-burst-'))
  const begins = calls.map(({ beganAt }) => beganAt).toSorted((a, b) => a - b)
  const ends = calls.flatMap(({ endedAt }) => (endedAt === null ? [] : [endedAt])).toSorted((a, b) => a - b)
  // The first begins fill the places; every later one takes the place of one end.
  const gaps = begins.slice(boxSlots).map((at, index) => at - (ends[index] ?? at))
  const mostAtOnce = Math.max(...begins.map(at => calls.filter(call => call.beganAt <= at && (call.endedAt ?? at) > at).length))
  const spanMs = (ends.at(-1) ?? 0) - (begins[0] ?? 0)
  const workMs = calls.reduce((sum, { beganAt, endedAt }) => sum + ((endedAt ?? beganAt) - beganAt), 0)
  const figures: Liveness = {
    answerP50Ms: quantile(answers, 0.5) ?? Number.POSITIVE_INFINITY,
    startP50Ms: quantile(waits, 0.5) ?? Number.POSITIVE_INFINITY,
    startMaxMs: quantile(waits, 1) ?? Number.POSITIVE_INFINITY,
    gapP50Ms: quantile(gaps, 0.5) ?? Number.POSITIVE_INFINITY,
    gapP90Ms: quantile(gaps, 0.9) ?? Number.POSITIVE_INFINITY,
    mostAtOnce,
    efficiency: workMs / boxSlots / Math.max(1, spanMs)
  }
  return { figures, violations: slowness(figures) }

  async function submit(kind: WorkKind, mark: string, first: number): Promise<string> {
    const key = `key-${mark}`
    history.write({ t: 'submit', key, mark, kind })
    const said = await askUntilAnswered(
      { fleet, signal, first },
      { path: '/v1/jobs', json: bodyOf(kind, mark, false), headers: { 'idempotency-key': key } }
    )
    const id = said !== null && said.status < 300 ? String((JSON.parse(said.text) as SeenJob).id) : null
    if (said === null || id === null) throw new Error(`a submit was refused before anything was broken: ${said?.status} ${said?.text}`)
    history.write({ t: 'ack', key, id, status: said.status })
    return id
  }

  async function finished(id: string, kind: WorkKind): Promise<void> {
    for (let turn = 0; !signal.aborted; turn++) {
      const said = await askUntilAnswered({ fleet, signal, first: turn }, { path: `/v1/jobs/${id}` })
      const job = said?.status === 200 ? (JSON.parse(said.text) as SeenJob) : null
      if (job !== null && terminal.includes(job.status)) {
        history.write({ t: 'finished', id, status: job.status, text: resultText(kind, job.result) })
        return
      }
      // Whoever asks more often measures himself.
      await delay(50)
    }
    throw new Error(`job ${id} did not end in peace`)
  }
}

function slowness({ answerP50Ms, startP50Ms, gapP50Ms, mostAtOnce }: Liveness): string[] {
  const startAtMost = Math.round(startP50AtMostMs + roundTrips * answerP50Ms)
  const gapAtMost = Math.round(gapP50AtMostMs + roundTrips * answerP50Ms)
  return [
    ...(startP50Ms > startAtMost ? [`slow: a job on an idle fleet starts after ${startP50Ms} ms (p50), at most ${startAtMost}`] : []),
    ...(gapP50Ms > gapAtMost ? [`slow: a freed place is taken after ${gapP50Ms} ms (p50), at most ${gapAtMost}`] : []),
    ...(mostAtOnce < boxSlots ? [`slow: a burst of ${burst} jobs ran ${mostAtOnce} at once on ${boxSlots} places`] : []),
    ...(mostAtOnce > boxSlots ? [`concurrency: a burst of ${burst} jobs ran ${mostAtOnce} at once on ${boxSlots} places`] : [])
  ]
}
