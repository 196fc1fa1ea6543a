// Judges a run by what the clients were told, what the machines billed, and what HTTP says in the end. Pure.

import { type Call, textOf } from './bill.ts'
import { type CostSummary, chargesOf } from './charges.ts'
import { type Concurrency, concurrencyOf } from './concurrency.ts'
import type { HistoryLine, WorkKind } from './history.ts'
import { resultText, type SeenJob, terminal } from './jobs.ts'
import { quantile } from './lines.ts'

export interface Evidence {
  readonly history: readonly HistoryLine[]
  readonly calls: readonly Call[]
  /** By id; null = nobody knows it (404). */
  readonly jobs: ReadonlyMap<string, SeenJob | null>
  /** Null: the books are not closed yet, and money is not looked at. */
  readonly summary: CostSummary | null
  /** Of the box. */
  readonly limit: number
}

export interface Verdict {
  /** Empty = all is well. */
  readonly violations: readonly string[]
  readonly acknowledged: number
  readonly lost: number
  readonly doubled: number
  /** Ended in an error because their processes died again and again. */
  readonly givenUp: number
  /** Attempts of frozen processes that ended after another had taken the job over. */
  readonly lateWriters: number
  readonly resumedStreams: number
  readonly interactive: { readonly answered: number; readonly failed: number }
  readonly charges: { readonly billed: number; readonly charged: number; readonly notArrived: number }
  readonly concurrency: Concurrency
  /** From a kill to the next begin of a job it interrupted, ms. */
  readonly recovery: Readonly<
    Record<'box' | 'openai', { readonly count: number; readonly p50: number | null; readonly max: number | null }>
  >
}

interface Acknowledged {
  readonly id: string
  readonly key: string
  readonly mark: string
  readonly kind: WorkKind
  readonly submittedAt: number
}

// What a fault interrupts may be noticed a little before or after.
const shadowMs = 6_000

export function check({ history, calls, jobs, summary, limit }: Evidence): Verdict {
  const violations: string[] = []
  const faults = history.flatMap(line => (line.t === 'fault' && line.kind !== 'start' && line.kind !== 'ready' ? [line] : []))
  const faultIn = (from: number, to: number): boolean => faults.some(({ at }) => at >= from - shadowMs && at <= to + shadowMs)
  const byText = new Map(calls.map(call => [textOf(call.call), call]))
  const acks = acknowledgedOf(history, violations)
  // The first sight of an end is what every later one is held against.
  const finished = new Map(history.flatMap(line => (line.t === 'finished' ? [[line.id, line] as const] : [])).toReversed())
  const ofJobs = new Set([...acks.values()].map(({ mark }) => mark))
  let [lost, doubled, givenUp] = [0, 0, 0]

  // 1. every acknowledged job ended once, with the result of one call of its own
  for (const { id, mark, kind } of acks.values()) {
    const job = jobs.get(id) ?? null
    if (job === null || !terminal.includes(job.status)) {
      lost++
      violations.push(
        job === null ? `lost: job ${id} (${mark}) was acknowledged and is unknown` : `stuck: job ${id} (${mark}) is ${job.status}`
      )
      continue
    }
    if (job.status !== 'done') {
      if (job.error?.code === 'process_lost') givenUp++
      else violations.push(`failed: job ${id} (${mark}) is ${job.status}: ${job.error?.code} ${job.error?.message}`)
      continue
    }
    const text = resultText(kind, job.result)
    const wrong = kind === 'echo' ? (text?.includes(`[[${mark}]]`) ? null : 'is not its payload') : whyWrong(text, mark)
    if (wrong !== null) violations.push(`result: that of job ${id} (${mark}, ${kind}) ${wrong}: ${JSON.stringify(text)}`)
    const first = finished.get(id)
    if (first !== undefined && (first.status !== job.status || first.text !== text)) {
      doubled++
      violations.push(
        `late writer: job ${id} (${mark}) was ${first.status} with ${JSON.stringify(first.text)}, and became ${JSON.stringify(text)}`
      )
    }
  }

  // 2. one job for one key, one call for one attempt
  for (const [key, ids] of Map.groupBy(
    history.flatMap(line => (line.t === 'ack' ? [line] : [])),
    ({ key }) => key
  )) {
    const distinct = new Set(ids.map(({ id }) => id))
    if (distinct.size <= 1) continue
    doubled++
    violations.push(`doubled: ${key} became ${distinct.size} jobs: ${[...distinct].join(', ')}`)
  }
  for (const [attempt, same] of Map.groupBy(calls, call => call.attempt)) {
    if (same.length > 1) violations.push(`attempt ${attempt} made ${same.length} calls: ${same.map(({ call }) => call).join(', ')}`)
  }

  // 3. streams say what the result says, every event once and in order
  let resumedStreams = 0
  for (const line of history) {
    if (line.t !== 'streamed') continue
    const { reading, id } = line
    if (reading.connections > 1) resumedStreams++
    for (const fault of reading.faults) violations.push(`stream: ${fault} (job ${id}, ${reading.connections} connections)`)
    const job = jobs.get(id) ?? null
    const ack = acks.get(id)
    if (job === null || ack === undefined || job.status !== 'done') continue
    if (reading.text !== resultText(ack.kind, job.result))
      violations.push(`stream: job ${id} ended with ${JSON.stringify(reading.text)}, not with its result`)
  }

  // 4. who holds the line gets one call's answer, or hears that there is none
  const interactive = { answered: 0, failed: 0 }
  for (const line of history) {
    if (line.t === 'refused') violations.push(`refused: ${line.what}: ${line.status} ${line.text}`)
    if (line.t === 'fault' && line.kind === 'ended' && line.note?.startsWith('after'))
      violations.push(`ended by itself: ${line.process}, ${line.note}`)
    if (line.t !== 'asked') continue
    const { answer, mark } = line
    if (answer.outcome === 'failed') {
      interactive.failed++
      // 499: its process was taken for dead while it waited.
      if (answer.status >= 400 && answer.status < 429) violations.push(`refused: ${mark}: ${answer.status} ${answer.text}`)
    } else if (answer.outcome === 'truncated') violations.push(`truncated: ${mark} ended as if whole after ${JSON.stringify(answer.text)}`)
    else {
      interactive.answered++
      const wrong = whyWrong(answer.text, mark)
      if (wrong !== null) violations.push(`answer: that of ${mark} ${wrong}: ${JSON.stringify(answer.text)}`)
    }
  }

  // 5. money
  const ended = [...acks.values()].flatMap(({ id, mark, submittedAt }) => {
    const job = jobs.get(id) ?? null
    return job === null ? [] : [{ job, mark, from: submittedAt, to: finished.get(id)?.at ?? Number.POSITIVE_INFINITY }]
  })
  const charges =
    summary === null ? { billed: 0, charged: 0, notArrived: 0, violations: [] } : chargesOf({ calls, summary, faultIn, jobs: ended })
  violations.push(...charges.violations)
  // A fault catches an attempt between its line in the journal and the machine now and then, not every time.
  if (charges.notArrived > faults.length)
    violations.push(`charge doubled: ${charges.notArrived} charges more than calls, after ${faults.length} faults`)

  // 6. the limit of the machine
  const concurrency = concurrencyOf(calls, history, limit)
  for (const { at, running, ofFrozen } of concurrency.excesses) {
    violations.push(`concurrency: ${running} calls at once on ${limit} places at ${at}, ${ofFrozen} of them of frozen processes`)
  }

  return {
    violations,
    acknowledged: acks.size,
    lost,
    doubled,
    givenUp,
    lateWriters: lateWritersOf(calls, history),
    resumedStreams,
    interactive,
    charges: { billed: charges.billed, charged: charges.charged, notArrived: charges.notArrived },
    concurrency,
    recovery: { box: recoveryOf('box'), openai: recoveryOf('openai') }
  }

  function whyWrong(text: string | null, mark: string): string | null {
    const call = byText.get(text ?? '')
    if (call === undefined) return 'is no call’s'
    if (call.mark !== mark) return `belongs to ${call.mark}`
    return call.cut ? `is that of call ${call.call}, which was cut` : null
  }

  function recoveryOf(upstream: 'box' | 'openai'): Verdict['recovery']['box'] {
    const gaps = faults.flatMap(fault => (fault.kind === 'kill' ? interruptedBy(fault) : []))
    return { count: gaps.length, p50: quantile(gaps, 0.5), max: quantile(gaps, 1) }

    function interruptedBy({ process, at }: { readonly process: string; readonly at: number }): number[] {
      return calls.flatMap(({ upstream: where, door, cut, endedAt, mark }) => {
        // Its connection goes with the process, within some ms.
        const wasCut = cut && endedAt !== null && endedAt >= at - 5 && endedAt <= at + 200
        if (where !== upstream || door !== process || !wasCut || !ofJobs.has(mark)) return []
        const next = calls.find(later => later.mark === mark && later.beganAt > at)
        return next === undefined ? [] : [next.beganAt - at]
      })
    }
  }
}

function acknowledgedOf(history: readonly HistoryLine[], violations: string[]): Map<string, Acknowledged> {
  const submits = new Map(history.flatMap(line => (line.t === 'submit' ? [[line.key, line] as const] : [])))
  const acks = new Map<string, Acknowledged>()
  for (const line of history) {
    if (line.t !== 'ack') continue
    const submit = submits.get(line.key)
    if (submit === undefined) {
      violations.push(`acknowledged and never submitted: ${line.key}`)
      continue
    }
    const known = acks.get(line.id)
    if (known !== undefined && known.key !== line.key) violations.push(`doubled: ${known.key} and ${line.key} are one job, ${line.id}`)
    acks.set(line.id, { id: line.id, key: line.key, mark: submit.mark, kind: submit.kind, submittedAt: submit.at })
  }
  return acks
}

/** Whole answers that waited in a frozen process while the job was run again: proof that the fence had something to do. */
function lateWritersOf(calls: readonly Call[], history: readonly HistoryLine[]): number {
  const wakings = history.flatMap(line => (line.t === 'fault' && line.kind === 'continue' ? [line] : []))
  return wakings.reduce((sum, { process, at }) => {
    const stop = history.findLast(line => line.t === 'fault' && line.kind === 'stop' && line.process === process && line.at < at)
    const held = calls.filter(
      call => call.door === process && !call.cut && call.beganAt < (stop?.at ?? at) && (call.endedAt ?? 0) > (stop?.at ?? at)
    )
    return (
      sum + held.filter(call => calls.some(other => other.mark === call.mark && other.beganAt > call.beganAt && other.beganAt < at)).length
    )
  }, 0)
}
