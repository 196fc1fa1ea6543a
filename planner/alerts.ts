// What people are to be told, and in which words. Pure.

import type { AlertMessage, AlertNews, AlertRow } from '../store/alerts.ts'
import type { ChoreRow } from '../store/chores.ts'
import type { DayFigures, JobStreak, MachineState, StuckQueue } from '../store/troubles.ts'
import { withoutSecrets } from './alerts/secrets.ts'

/** How things are. */
export interface Situation {
  readonly machines: readonly MachineState[]
  readonly stuck: StuckQueue | null
  readonly streaks: readonly JobStreak[]
  readonly chores: readonly ChoreRow[]
}

/** One thing that is well or not. */
export interface Finding {
  readonly subject: string
  readonly state: 'bad' | 'good'
  /** Since when it is bad; null = nobody knows. */
  readonly since: Date | null
  /** What is said when it becomes bad, or well again: HTML. */
  readonly words: string
}

export interface Decision {
  readonly say: readonly (AlertNews & { readonly words: string })[]
  /** Messages that are not old enough for another one: their text is changed. */
  readonly change: readonly { readonly subject: string; readonly message: AlertMessage; readonly words: string }[]
  /** What people were told of, and what is neither well nor bad any more: a machine that was removed. */
  readonly settle: readonly string[]
}

/** Telegram's bound, which counts without tags: with them it holds all the more. */
export const charactersAtMost = 4_096

const nameAtMost = 100
const noteAtMost = 300
const providersAtMost = 5
// Their own, and what no chore of ours is about; the notes of others may one day hold what people wrote.
const unwatched = new Set(['alerts', 'summary'])
const titles: Readonly<Record<string, string>> = {
  'models.sync': 'The sync of the models',
  discovery: 'The look for machines',
  cleanup: 'The cleanup of old jobs'
}

export const summarySubject = 'summary'
const jobsPrefix = 'jobs:'

/** `known`: what people were told, by which the chores and streaks that are well are chosen. */
export function findings(situation: Situation, threshold: number, known: ReadonlyMap<string, AlertRow>): Finding[] {
  const { machines, stuck, streaks, chores } = situation
  return [
    ...machines.map(machine => machineFinding(machine, known)),
    ...machines.map(loadFinding),
    queueFinding(stuck),
    ...streaks.flatMap(streak => streakFinding(streak, threshold)),
    ...chores.flatMap(choreFinding)
  ]
}

function machineFinding({ id, health, note, since }: MachineState, known: ReadonlyMap<string, AlertRow>): Finding {
  const subject = subjectOf('machine:', id)
  if (health === 'down') {
    const words = `<b>Machine away</b>\n${name(id)} is away${since === null ? '' : ` since ${time(since)}`}${because(note)}.`
    return { subject, state: 'bad', since, words }
  }
  const awaySince = known.get(subject)?.since ?? null
  const away = awaySince === null || since === null ? '' : ` It was away from ${time(awaySince)} to ${time(since)}.`
  return { subject, state: 'good', since: null, words: `<b>Machine back</b>\n${name(id)} is back.${away}` }
}

function loadFinding({ id, stuckModel = null }: MachineState): Finding {
  const subject = subjectOf('load:', id)
  if (stuckModel === null) {
    return {
      subject,
      state: 'good',
      since: null,
      words: `<b>Loading goes on</b>\nNothing hangs on ${name(id)} any more, as far as is known.`
    }
  }
  const words = `<b>Loading hangs</b>\n${name(id)} does not finish loading ${name(stuckModel)}. What it has loaded is used, nothing else is loaded there for 10 minutes.`
  return { subject, state: 'bad', since: null, words }
}

function queueFinding(stuck: StuckQueue | null): Finding {
  if (stuck === null) {
    return { subject: 'queue', state: 'good', since: null, words: '<b>Queue moves</b>\nThe queue is not stuck any more.' }
  }
  const { waiting, oldestAt } = stuck
  const jobs = waiting === 1 ? '1 job waits' : `${count(waiting)} jobs wait`
  const words = `<b>Queue stuck</b>\n${jobs}, the oldest since ${time(oldestAt)}, and nothing runs.`
  return { subject: 'queue', state: 'bad', since: oldestAt, words }
}

function streakFinding({ source, model, failures, code }: JobStreak, threshold: number): Finding[] {
  const subject = streakSubject(source, model)
  const whose = `Jobs of ${name(source)} with ${name(model)}`
  // Some failures, and not enough of them: neither well nor bad.
  if (failures > 0 && failures < threshold) return [{ subject, state: 'bad', since: null, words: '' }]
  if (failures === 0) return [{ subject, state: 'good', since: null, words: `<b>Jobs succeed</b>\n${whose} succeed again.` }]
  const why = code === null ? '' : `, the last one with ${name(code)}`
  return [{ subject, state: 'bad', since: null, words: `<b>Jobs fail</b>\n${whose} failed ${count(failures)} times in a row${why}.` }]
}

function choreFinding({ name: chore, succeeded, note }: ChoreRow): Finding[] {
  if (succeeded === null || unwatched.has(chore)) return []
  const subject = subjectOf('chore:', chore)
  const title = titles[chore] ?? `The chore ${name(chore)}`
  if (succeeded) return [{ subject, state: 'good', since: null, words: `<b>Done again</b>\n${title} works again.` }]
  const words = `<b>Failed</b>\n${title} failed${because(titles[chore] === undefined ? null : note)}.`
  return [{ subject, state: 'bad', since: null, words }]
}

/** Of whom people were told that their jobs fail. */
export function toldStreaks(rows: readonly AlertRow[]): { readonly source: string; readonly model: string }[] {
  return rows.flatMap(({ subject, told }) => {
    if (told !== 'bad' || !subject.startsWith(jobsPrefix)) return []
    try {
      const [source, model] = JSON.parse(subject.slice(jobsPrefix.length)) as [string, string]
      return [{ source, model }]
    } catch {
      // It was too long to be kept whole.
      return []
    }
  })
}

function streakSubject(source: string, model: string): string {
  return subjectOf(jobsPrefix, JSON.stringify([source, model]))
}

function subjectOf(prefix: string, id: string): string {
  return `${prefix}${id}`.slice(0, 1_000).toWellFormed()
}

/** Only what changed since people were told last is news; within 10 minutes of a message nothing is, but it may be changed. */
export function decide(found: readonly Finding[], known: ReadonlyMap<string, AlertRow>): Decision {
  const say: (AlertNews & { words: string })[] = []
  const change: { subject: string; message: AlertMessage; words: string }[] = []
  const bySubject = new Map(found.map(finding => [finding.subject, finding]))
  for (const { subject, state, since, words } of bySubject.values()) {
    const row = known.get(subject)
    const told = row?.told ?? null
    if ((told ?? 'good') === state || words === '') continue
    if (row?.isRecent !== true) say.push({ subject, told, telling: state, since, words })
    else if (state === 'good' && row.message !== null) change.push({ subject, message: row.message, words })
  }
  const settle = [...known.values()].filter(({ subject, told }) => told === 'bad' && !bySubject.has(subject)).map(({ subject }) => subject)
  return { say, change, settle }
}

/** All of it as one message; what does not fit is counted. */
export function together(words: readonly string[]): string {
  const more = (left: number): string => `\n\nAnd ${count(left)} more.`
  let text = ''
  for (const [index, part] of words.entries()) {
    const next = text === '' ? part : `${text}\n\n${part}`
    const left = words.length - index - 1
    if (next.length + (left === 0 ? 0 : more(left).length) > charactersAtMost) return text + more(left + 1)
    text = next
  }
  return text
}

export interface DaySummary {
  readonly day: string
  readonly hour: number
  /** Of the 24 hours that ended on `day` at `hour` o'clock UTC; the rest is how things are now. */
  readonly figures: DayFigures
  readonly machines: readonly MachineState[]
  readonly waiting: number
}

export function summaryWords({ day, hour, figures, machines, waiting }: DaySummary): string {
  const { requests, calls, failedCalls, tokens, nanoUsd, unpriced, providers, jobsDone, jobsFailed, jobsCancelled } = figures
  const away = machines.filter(({ health }) => health === 'down')
  const lines = [
    `<b>The day until ${day} ${String(hour).padStart(2, '0')}:00 UTC</b>`,
    `Requests: ${count(requests)} (${count(calls)} calls, ${count(failedCalls)} failed), ${count(tokens)} tokens`,
    `Cost: ${dollars(nanoUsd)}${unpriced === 0 ? '' : `, and ${count(unpriced)} calls without a known price`}`,
    ...providers
      .slice(0, providersAtMost)
      .map(({ provider, calls, nanoUsd }) => `· ${name(provider)}: ${count(calls)} calls, ${dollars(nanoUsd)}`),
    ...(providers.length > providersAtMost ? [`· and ${count(providers.length - providersAtMost)} more`] : []),
    `Jobs: ${count(jobsDone)} done, ${count(jobsFailed)} failed, ${count(jobsCancelled)} cancelled, ${waiting > 999 ? 'over 999' : count(waiting)} waiting now`,
    machines.length === 0
      ? 'Machines: none'
      : `Machines: ${count(machines.length - away.length)} of ${count(machines.length)} are there${away.length === 0 ? '' : `; away: ${someNames(away)}`}`
  ]
  return lines.join('\n')
}

function someNames(machines: readonly MachineState[]): string {
  const most = 5
  const more = machines.length - most
  return (
    machines
      .slice(0, most)
      .map(({ id }) => name(id))
      .join(', ') + (more > 0 ? ` and ${count(more)} more` : '')
  )
}

function because(note: string | null): string {
  return note === null ? '' : `: ${quoted(note, noteAtMost)}`
}

function name(text: string): string {
  return quoted(text, nameAtMost)
}

/** Somebody else's text, as code, in which Telegram makes neither links nor mentions of anything. */
function quoted(text: string, most: number): string {
  return `<code>${shown(text, most)}</code>`
}

/** One line, short, without anything that looks like a key or turns the direction of writing; escaped. */
function shown(text: string, most: number): string {
  const line = withoutSecrets(text.slice(0, 10 * most), null)
  const short = line.length > most ? `${line.slice(0, most).replace(/[\ud800-\udbff]$/, '')}…` : line
  return (short === '' ? '?' : short).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

function time(at: Date): string {
  return `${at.toISOString().slice(0, 16).replace('T', ' ')} UTC`
}

const grouped = new Intl.NumberFormat('en-US')

function count(value: number): string {
  return value > 1e12 ? 'over a trillion' : grouped.format(value)
}

function dollars(nanoUsd: number): string {
  const usd = nanoUsd / 1e9
  if (usd > 0 && usd < 0.0001) return 'less than $0.0001'
  return `$${usd === 0 || usd >= 1 ? usd.toFixed(2) : usd.toFixed(4)}`
}
