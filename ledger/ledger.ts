// Books every attempt once: journal first, then in batches to the database, off the request path.

import { costOf } from '../routing/cost.ts'
import { Passing } from '../routing/places.ts'
import type { Ledger, Settled, Settlement } from '../routing/ports.ts'
import { providerOf } from '../routing/targets.ts'
import type { Attempt, Caller, Usage } from '../routing/types.ts'
import type { CostRow } from '../store/costs.ts'
import type { Journal } from './journal.ts'
import { storeRows } from './store-rows.ts'

export interface LedgerPorts {
  readonly journal: Journal
  readonly insert: (rows: readonly CostRow[]) => Promise<void>
  readonly usdPerKwh: number
  /** Epoch, ms. */
  readonly now: () => number
  readonly log: (message: string, error: unknown) => void
}

export interface RunningLedger extends Ledger {
  /** What these attempts cost, as far as it is not stored yet: for whoever writes it together with something else. */
  unstored(attemptIds: readonly string[]): CostRow[]
  /** Writes what waits; resolves when it is stored, or when `ms` have passed. */
  flush(ms: number): Promise<void>
  close(): Promise<void>
}

const flushEveryMs = 100
const batchRows = 500
// Rows kept in memory while the database is away; the journal on disk keeps them all, and they are booked at the next start.
const waitingRowsAtMost = 50_000

export function createLedger(ports: LedgerPorts): RunningLedger {
  const intents = new Passing<CostRow>()
  let waiting: CostRow[] = []
  // Their line is written with that of the next attempt, at the latest when this turn of the loop is over: each write costs a system call.
  let unwritten: CostRow[] = []
  let flushing: Promise<void> | null = null
  let failures = 0
  let overflowed = false
  let timer: NodeJS.Timeout | null = null
  let closed = false

  function begin(attempt: Attempt, caller: Caller): void {
    const row = intentRow(attempt, caller)
    ports.journal.intent(row, unwritten)
    unwritten = []
    intents.set(attempt.id, row)
  }

  function writeSettled(): void {
    const rows = unwritten
    unwritten = []
    if (rows.length === 0) return
    try {
      ports.journal.settle(...rows)
    } catch (error) {
      // The answers are there and the rows still go to the database; only a kill before that would book the estimates.
      ports.log('the journal could not be written', error)
    }
  }

  function settle(attempt: Attempt, settlement: Settlement): Settled {
    const intent = intents.get(attempt.id)
    if (intent === undefined) throw new Error(`attempt ${attempt.id} was settled twice or never begun`)
    intents.delete(attempt.id)
    const row = settledRow(intent, attempt, settlement)
    if (unwritten.push(row) === 1) setImmediate(writeSettled)
    if (waiting.length < waitingRowsAtMost) waiting.push(row)
    else if (!overflowed) {
      overflowed = true
      ports.log('costs wait in the journal only: the database has been away for too long', null)
    }
    schedule(flushEveryMs)
    return {
      nanoUsd: row.costNanoUsd,
      estimated: row.estimated,
      promptTokens: row.promptTokens,
      completionTokens: row.completionTokens
    }
  }

  function schedule(ms: number): void {
    if (timer !== null || closed) return
    timer = setTimeout(() => {
      timer = null
      void run()
    }, ms)
    timer.unref()
  }

  /** One batch after another until nothing waits or one fails; only one such run at a time. */
  function run(): Promise<void> {
    flushing ??= write().finally(() => {
      flushing = null
      if (waiting.length > 0) schedule(Math.min(5_000, flushEveryMs * 2 ** failures))
    })
    return flushing
  }

  async function write(): Promise<void> {
    while (waiting.length > 0) {
      const batch = waiting.slice(0, batchRows)
      try {
        await storeRows(ports, batch)
      } catch (error) {
        if (failures++ === 0) ports.log('costs could not be stored; they are kept and tried again', error)
        return
      }
      failures = 0
      waiting = waiting.slice(batch.length)
      ports.journal.stored(batch)
    }
  }

  async function flush(ms: number): Promise<void> {
    let isOver = false
    let wake = () => {}
    const end = new Promise<void>(resolve => {
      wake = resolve
    })
    const limit = setTimeout(() => {
      isOver = true
      wake()
    }, ms)
    const untilStored = async () => {
      while (waiting.length > 0 && !isOver) {
        await run()
        // A database that restarts is back within seconds; what is not stored now waits for the next start.
        if (waiting.length > 0) await Promise.race([end, new Promise(resolve => setTimeout(resolve, flushEveryMs))])
      }
    }
    await Promise.race([end, untilStored()])
    clearTimeout(limit)
  }

  // Before the call, an attempt is worth what its prompt costs: that much is sure to be charged if nobody ever hears of it again.
  function intentRow(attempt: Attempt, caller: Caller): CostRow {
    const at = ports.now()
    const { target, request } = attempt
    const usage = estimatedUsage(attempt, 0, target.upstream.device === null ? null : 0)
    const cost = costOf(target, usage, ports.usdPerKwh)
    return {
      attemptId: attempt.id,
      requestId: request.id,
      jobId: request.jobId ?? null,
      source: caller.source,
      subSource: caller.subSource,
      keyId: caller.keyId,
      provider: providerOf(target.upstream),
      model: target.model,
      deviceId: target.upstream.device?.id ?? null,
      outcome: 'lost',
      errorCode: 'process_lost',
      promptTokens: usage.promptTokens,
      completionTokens: 0,
      cachedTokens: 0,
      reasoningTokens: 0,
      costNanoUsd: cost.nanoUsd,
      priceSource: cost.source,
      estimated: true,
      ttftMs: null,
      durationMs: 0,
      startedAt: at,
      finishedAt: at
    }
  }

  function settledRow(intent: CostRow, attempt: Attempt, settlement: Settlement): CostRow {
    const own = attempt.target.upstream.device !== null
    const { usage: whole, estimated } = figures(attempt, settlement, own)
    const usage = whole.busyMs === null ? whole : { ...whole, busyMs: whole.busyMs / (settlement.sharedBy ?? 1) }
    // What never left us, and what the upstream turned down before it began, costs nothing and is known to.
    const counted = usage.promptTokens > 0 || usage.completionTokens > 0 || usage.providerNanoUsd !== null
    const charged = settlement.outcome === 'ok' || counted || estimated || own
    const cost = charged ? costOf(attempt.target, usage, ports.usdPerKwh) : { nanoUsd: 0, source: 'free' as const }
    return {
      ...intent,
      outcome: settlement.outcome,
      errorCode: settlement.error?.code ?? null,
      promptTokens: usage.promptTokens,
      completionTokens: usage.completionTokens,
      cachedTokens: Math.min(usage.cachedTokens, usage.promptTokens),
      reasoningTokens: usage.reasoningTokens,
      costNanoUsd: cost.nanoUsd,
      priceSource: cost.source,
      estimated,
      ttftMs: settlement.ttftMs === null ? null : Math.round(settlement.ttftMs),
      durationMs: Math.round(settlement.durationMs),
      finishedAt: ports.now()
    }
  }

  return {
    begin,
    settle,
    unstored: attemptIds => waiting.filter(row => attemptIds.includes(row.attemptId)),
    flush,
    async close() {
      closed = true
      if (timer !== null) clearTimeout(timer)
      writeSettled()
      await flush(3_000)
      ports.journal.close()
    }
  }
}

/** The figures to book, and whether anybody counted them. */
function figures(attempt: Attempt, settlement: Settlement, own: boolean): { usage: Usage; estimated: boolean } {
  if (settlement.usage !== null) {
    const usage = own && settlement.usage.busyMs === null ? { ...settlement.usage, busyMs: settlement.durationMs } : settlement.usage
    return { usage, estimated: false }
  }
  const began = settlement.outcome === 'ok' || settlement.tokensSeen > 0 || (settlement.sent && mayHaveBegun(settlement, own))
  if (!began) return { usage: { ...nothing, busyMs: own ? 0 : null }, estimated: false }
  return { usage: estimatedUsage(attempt, settlement.tokensSeen, own ? settlement.durationMs : null), estimated: true }
}

const nothing: Usage = { promptTokens: 0, completionTokens: 0, cachedTokens: 0, reasoningTokens: 0, providerNanoUsd: null, busyMs: null }

/** After a refusal nothing is charged; after a time-out, a cut or a client's leaving, something may be. */
function mayHaveBegun(settlement: Settlement, own: boolean): boolean {
  const code = settlement.error?.code
  // A machine of ours has worked for as long as it was at it, whatever came of it.
  if (own && code === 'upstream_unavailable') return true
  if (code === 'client_gone' || code === 'upstream_broke') return true
  return code === 'upstream_unavailable' && (settlement.error?.status === 504 || settlement.error?.cause !== undefined)
}

function estimatedUsage(attempt: Attempt, completionTokens: number, busyMs: number | null): Usage {
  return { ...nothing, promptTokens: attempt.request.prompt.expected, completionTokens, busyMs }
}
