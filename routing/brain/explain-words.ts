// The sentences of an explanation: for people, in plain words. Pure.

import type { Decision } from '../decide.ts'
import type { Chosen, Explained, FailedCall, Over } from './explain.ts'
import type { Planned } from './plan.ts'
import type { Estimate } from './types.ts'

const nameAtMost = 120

export interface ChosenTarget {
  readonly target: string
  readonly estimate: Estimate | null
  readonly shown: Chosen
}

/** How it differs from the one that was chosen. */
export function comparison(other: Estimate, chosen: Estimate, isByScore: boolean): string {
  const seconds = other.etaS - chosen.etaS
  const said: string[] = []
  if (other.usd === null || !Number.isFinite(other.usd)) said.push('price unknown')
  else if (chosen.usd !== null && Number.isFinite(chosen.usd)) {
    const dollars = other.usd - chosen.usd
    if (Math.abs(dollars) > 1e-9) said.push(dollars > 0 ? `${usdText(dollars)} dearer` : `${usdText(-dollars)} cheaper`)
  }
  if (Math.abs(seconds) >= 0.05)
    said.push(seconds > 0 ? `${secondsText(seconds)} slower${mostly(other, chosen)}` : `${secondsText(-seconds)} faster`)
  if (other.missShare <= 1 && other.missShare - chosen.missShare > 0.05)
    said.push(`late in ${Math.round(other.missShare * 100)} % of cases`)
  if (other.othersUsd - chosen.othersUsd > 1e-9 && other.etaS <= chosen.etaS) said.push('others would wait longer')
  if (said.length === 0) return isByScore ? 'as good' : 'later in the given order'
  return said.join(', ')
}

/** What of it makes it slower, where one part is most of it. */
function mostly(other: Estimate, chosen: Estimate): string {
  let most = 0
  let what = ''
  const part = (seconds: number, name: string): void => {
    if (seconds <= most) return
    most = seconds
    what = name
  }
  part(other.waitS - chosen.waitS, other.option.site.own === null ? ' (waits for its limit)' : ' (waits for a place)')
  part(other.loadS - chosen.loadS, ' (loads the model)')
  part(other.prefillS - chosen.prefillS, ' (reads the prompt)')
  part(other.decodeS - chosen.decodeS, ' (writes slower)')
  return most > (other.etaS - chosen.etaS) / 2 ? what : ''
}

interface Reasons {
  readonly weighed: Planned | null
  readonly chosen: ChosenTarget | null
  /** The best of those that could have answered in its stead. */
  readonly second: Estimate | undefined
  readonly isOnly: boolean
}

export function whyOf(explained: Explained, reasons: Reasons): string {
  const { decision, over } = explained
  const { chosen } = reasons
  if (decision.action === 'refuse') return decision.error.logMessage
  if (chosen === null) return 'It waits until something that can answer is free.'
  const after = over === undefined ? '' : afterFailures(over)
  if (over?.reason === 'waited' && decision.action === 'run' && after === '') return `Its turn came: ${placeText(chosen)}.`
  return `${passedOver(decision, chosen)}${decidedFor(explained, { ...reasons, chosen })}${after}`
}

function decidedFor(
  { decision, request }: Explained,
  { weighed, chosen, second, isOnly }: Reasons & { readonly chosen: ChosenTarget }
): string {
  const place = placeText(chosen)
  const reason = decision.action === 'run' ? decision.reason : ''
  if (second === undefined || chosen.estimate === null) {
    const isLeft = weighed?.estimates.length === 1 || reason === 'only_sound'
    const said =
      isOnly && (isLeft || reason === 'only_target') ? 'the only target that can answer now' : isLeft ? 'the only one that works' : ''
    return `${capital(place)}${said === '' ? '' : `: ${said}`}.`
  }
  if (decision.planned === undefined || reason === 'given_order') {
    const list = request.fallbacks === undefined && request.preference === undefined ? 'given order' : 'order of the request'
    return `First in the ${list}: ${place}; next is ${short(second.option.id)}.`
  }
  return `${capital(place)}; next best ${short(second.option.id)} is ${comparison(second, chosen.estimate, true)}.`
}

/** The one that was meant first, where it turned out to have no room. */
function passedOver(decision: Decision, chosen: ChosenTarget): string {
  if (decision.action !== 'run' || decision.ranked[0] === undefined || decision.ranked[0].id === chosen.target) return ''
  const { id } = decision.ranked[0]
  const reason = decision.rejected.find(({ target }) => target === id)?.reason
  if (reason === 'full') return `${capital(short(id))} was full by then. `
  if (reason === 'no_place') return `Whether ${short(id)} had a place could not be found out. `
  return reason === 'no_load' ? `${capital(short(id))} could not load the model then. ` : ''
}

/** Who failed, and who answered then. */
function afterFailures({ summary: { calls, outcome, target }, reason }: NonNullable<Explained['over']>): string {
  const [first, ...more] = failedOf(calls)
  if (first === undefined) return ''
  const others = more.length === 0 ? '' : `, and ${more.length} more`
  const then =
    outcome !== 'ok' || target === null ? '' : `; ${short(target.id)} answered${reason === 'waited' ? ' when its turn came' : ''}`
  return ` ${capital(short(first.target))} failed (${first.error})${others}${then}.`
}

export function failedOf(calls: Over['calls']): FailedCall[] {
  return calls.flatMap(({ target, error }) => (error == null ? [] : [{ target: short(target.id), error: error.publicCode }]))
}

/** Where it goes, and how that stands. */
function placeText({ shown, estimate }: ChosenTarget): string {
  const own = estimate?.option.site.own ?? null
  const where = short(shown.device ?? shown.provider)
  if (estimate === null) return shown.target
  if (own === null)
    return estimate.waitS > 0 ? `rented from ${where}, after ${secondsText(estimate.waitS)} of its limit` : `rented from ${where}`
  const used = `${own.busyS.length} of ${own.slots} places used`
  if (estimate.waitS > 0) return `waits ${secondsText(estimate.waitS)} for ${where}, ${used}`
  if (estimate.isCold) return `loads the model on ${where} in ${secondsText(estimate.loadS)}`
  const cached = estimate.option.cachedTokens > 0 ? `, which has read ${estimate.option.cachedTokens} tokens of it already` : ''
  return `in memory on ${where}, ${used}${cached}`
}

function secondsText(value: number): string {
  return Number.isFinite(value) ? `${value.toFixed(1)} s` : 'endlessly'
}

/** Without an exponent. */
function usdText(value: number): string {
  return `$${value.toFixed(value >= 0.01 ? 4 : 7).replace(/0+$/, '')}`
}

function capital(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1)
}

export function short(text: string, most = nameAtMost): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`
}
