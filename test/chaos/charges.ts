// Money against the bill: every call of a machine has one charge, and no charge stands for nothing. Pure.

import type { Call } from './bill.ts'
import { dollarsPerBoxCall, dollarsPerRentedCall } from './fleet.ts'
import type { SeenJob } from './jobs.ts'
import { boxSlots } from './machines.ts'

/** GET /v1/costs/summary, as far as it is needed. */
export interface CostSummary {
  readonly unknown_price_attempts: number
  readonly by_provider: readonly { readonly provider: string; readonly attempts: number; readonly cost_usd: number }[]
}

export interface Charges {
  readonly billed: number
  readonly charged: number
  /** Charged because nobody knows what became of them; they never came to the machine. */
  readonly notArrived: number
  readonly violations: readonly string[]
}

const providers = [
  ['box', 'ollama'],
  ['openai', 'openai']
] as const

/** `faultIn`: whether anything was broken between two times; only then may an attempt be charged that no bill knows. */
export function chargesOf({
  calls,
  summary,
  jobs,
  faultIn
}: {
  readonly calls: readonly Call[]
  readonly summary: CostSummary
  readonly jobs: readonly { readonly job: SeenJob; readonly mark: string; readonly from: number; readonly to: number }[]
  readonly faultIn: (from: number, to: number) => boolean
}): Charges {
  const violations: string[] = []
  let [billed, charged] = [0, 0]
  for (const [upstream, provider] of providers) {
    const onBill = calls.filter(call => call.upstream === upstream).length
    const row = summary.by_provider.find(given => given.provider === provider)
    const inBooks = row?.attempts ?? 0
    billed += onBill
    charged += inBooks
    if (inBooks < onBill) violations.push(`charge missing: ${onBill} calls of ${upstream}, ${inBooks} charges`)
    // A request costs a dollar, whatever becomes of it: the sum counts attempts once more.
    if (upstream === 'openai' && Math.round((row?.cost_usd ?? 0) / dollarsPerRentedCall) < onBill) {
      violations.push(`charge missing: ${onBill} calls of openai, $${row?.cost_usd} booked`)
    }
  }
  if (summary.unknown_price_attempts > 0) violations.push(`${summary.unknown_price_attempts} charges have no price`)

  const byMark = Map.groupBy(calls, ({ mark }) => mark)
  for (const { job, mark, from, to } of jobs) {
    const own = byMark.get(mark) ?? []
    const fault = job.kind === 'openai.chat' ? rentedFault(job, own) : job.kind === 'echo' ? null : boxFault(job, own)
    if (fault === null || (fault.isMore && faultIn(from, to))) continue
    violations.push(
      `charge ${fault.isMore ? 'doubled' : 'missing'}: job ${job.id} (${mark}, ${job.kind}) had ${own.length} calls and costs ${job.cost_usd}`
    )
  }
  return { billed, charged, notArrived: Math.max(0, charged - billed), violations }
}

interface Fault {
  readonly isMore: boolean
}

function rentedFault({ cost_usd }: SeenJob, calls: readonly Call[]): Fault | null {
  const paid = Math.round((cost_usd ?? 0) / dollarsPerRentedCall)
  return paid === calls.length ? null : { isMore: paid > calls.length }
}

/**
 * A whole answer costs a fixed sum, shared with those that ran beside it, one that was cut as long as it took, and one whose process died
 * nothing: so bounds. How many charges there are is counted apart.
 */
function boxFault({ cost_usd, status }: SeenJob, calls: readonly Call[]): Fault | null {
  const paid = cost_usd ?? 0
  const cutMs = calls.reduce((sum, { cut, beganAt, endedAt }) => sum + (cut ? (endedAt ?? beganAt) - beganAt : 0), 0)
  const whole = calls.filter(({ cut }) => !cut).length
  // A cut is noticed on both sides, a little later on one of them.
  const most = dollarsPerBoxCall * (whole + (cutMs + 1_000 * (calls.length - whole)) / 1_000) + 1e-9
  if (paid > most) return { isMore: true }
  return status === 'done' && paid < dollarsPerBoxCall / boxSlots - 1e-9 ? { isMore: false } : null
}
