// How fast the queue is while nothing is broken: what waits for a look instead of being told shows here.

import { readBill } from './bill.ts'
import { createClient } from './client.ts'
import type { Fleet } from './fleet.ts'
import type { History, WorkKind } from './history.ts'
import { ask } from './http.ts'
import { quantile } from './lines.ts'
import { boxSlots, type Machines } from './machines.ts'

export interface Liveness {
  /** A request that has nothing to do with the queue, ms: how busy the machine is with other things. */
  readonly answerP50Ms: number
  /** From a submit to the machine's first sight of it, on an idle fleet, ms. */
  readonly startP50Ms: number
  readonly startP75Ms: number
  /** From the end of one call to the begin of the next on a full machine, ms. */
  readonly gapP50Ms: number
  readonly gapP90Ms: number
  readonly mostAtOnce: number
  /** Jobs of the burst a second, against what the machine could do with no gaps at all. */
  readonly efficiency: number
}

// Told of a job, an idle fleet starts it within 20 to 60 ms (p75). Three workers that look once a second each leave gaps of 333 ms
// and more between two looks, and every third job falls into the longest: that shows in the upper quarter, not always in the median.
const startP75AtMostMs = 130
// Handed over, a place is taken again within 10 to 20 ms (p50), where nobody is told after 100 to 240.
const gapP50AtMostMs = 45
// Both take a few round trips, which are slow on a machine that is busy with other things: some 2 ms each when it is not.
const roundTrips = 8

const singles = 12
const burst = 40
const burstCallMs = 100
const pollMs = 50

/** Measures, and once more if that was slow: what else the machine does passes, a guard that is missing stays missing. */
export async function measureLiveness(ports: {
  readonly fleet: Fleet
  readonly machines: Machines
  readonly history: History
  readonly billPath: string
}): Promise<{ readonly figures: Liveness; readonly violations: readonly string[] }> {
  const first = await measure(ports, 'first')
  if (slowness(first).length === 0) return { figures: first, violations: [] }
  const second = await measure(ports, 'second')
  return { figures: second, violations: slowness(second) }
}

async function measure({ fleet, machines, history, billPath }: Parameters<typeof measureLiveness>[0], name: string): Promise<Liveness> {
  const client = createClient({ fleet, history, signal: AbortSignal.timeout(60_000) })

  // 1. one after another
  machines.setPace({ lowMs: 20, highMs: 30, slowOneIn: 0 })
  const answers: number[] = []
  const waits: number[] = []
  for (let index = 0; index < singles; index++) {
    const before = performance.now()
    await ask(fleet.gateways()[index % 2] as string, { path: '/v1/models' })
    answers.push(performance.now() - before)
    const mark = `${name}-single-${index}`
    const at = Date.now()
    await over(await submitted(mark, 'chat', index), 'chat')
    const begun = readBill(billPath).find(call => call.mark === mark)
    if (begun !== undefined) waits.push(begun.beganAt - at)
  }

  // 2. more than there is room for
  machines.setPace({ lowMs: burstCallMs, highMs: burstCallMs, slowOneIn: 0 })
  const prefix = `${name}-burst-`
  const ids = await Promise.all(Array.from({ length: burst }, (_, index) => submitted(`${prefix}${index}`, 'ollama.generate', index)))
  // One after the other: whoever asks for all of them at once measures himself.
  for (const id of ids) await over(id, 'ollama.generate')
  const calls = readBill(billPath).filter(({ mark }) => mark.startsWith(prefix))
  const begins = calls.map(({ beganAt }) => beganAt).toSorted((a, b) => a - b)
  const ends = calls.flatMap(({ endedAt }) => (endedAt === null ? [] : [endedAt])).toSorted((a, b) => a - b)
  // The first begins fill the places; every later one takes the place of one end.
  const gaps = begins.slice(boxSlots).map((at, index) => at - (ends[index] ?? at))
  const spanMs = (ends.at(-1) ?? 0) - (begins[0] ?? 0)
  const workMs = calls.reduce((sum, { beganAt, endedAt }) => sum + ((endedAt ?? beganAt) - beganAt), 0)
  return {
    answerP50Ms: quantile(answers, 0.5) ?? Number.POSITIVE_INFINITY,
    startP50Ms: quantile(waits, 0.5) ?? Number.POSITIVE_INFINITY,
    startP75Ms: quantile(waits, 0.75) ?? Number.POSITIVE_INFINITY,
    gapP50Ms: quantile(gaps, 0.5) ?? Number.POSITIVE_INFINITY,
    gapP90Ms: quantile(gaps, 0.9) ?? Number.POSITIVE_INFINITY,
    mostAtOnce: Math.max(...begins.map(at => calls.filter(call => call.beganAt <= at && (call.endedAt ?? at) > at).length)),
    efficiency: workMs / boxSlots / Math.max(1, spanMs)
  }

  async function submitted(mark: string, kind: WorkKind, first: number): Promise<string> {
    const [id] = await client.submit({ kind, mark, stream: false }, [first])
    if (id === undefined) throw new Error(`a submit was refused before anything was broken: ${mark}`)
    return id
  }

  async function over(id: string, kind: WorkKind): Promise<void> {
    if (!(await client.finished(id, kind, pollMs))) throw new Error(`job ${id} did not end in peace`)
  }
}

/** Pure. Empty = fast enough for this machine. */
export function slowness({ answerP50Ms, startP75Ms, gapP50Ms, mostAtOnce }: Liveness): string[] {
  const startAtMost = Math.round(startP75AtMostMs + roundTrips * answerP50Ms)
  const gapAtMost = Math.round(gapP50AtMostMs + roundTrips * answerP50Ms)
  return [
    ...(startP75Ms > startAtMost ? [`slow: a job on an idle fleet starts after ${startP75Ms} ms (p75), at most ${startAtMost}`] : []),
    ...(gapP50Ms > gapAtMost ? [`slow: a freed place is taken after ${gapP50Ms} ms (p50), at most ${gapAtMost}`] : []),
    ...(mostAtOnce < boxSlots ? [`slow: a burst of ${burst} jobs ran ${mostAtOnce} at once on ${boxSlots} places`] : [])
  ]
}
