// Tells people what they should know: looks how things are, and sends what is new, once for all processes.

import {
  beginDays,
  channelFails,
  channelWorks,
  claimAlerts,
  confirmAlerts,
  dropAlertMessage,
  forgetAlerts,
  readAlerts,
  readChannels,
  releaseAlerts,
  settleAlerts
} from '../../store/alerts.ts'
import { listChores } from '../../store/chores.ts'
import type { Pool } from '../../store/pool.ts'
import { dayFigures, jobStreaks, lastDay, machineStates, stuckQueue, waitingJobs } from '../../store/troubles.ts'
import { type Decision, decide, findings, summarySubject, summaryWords, together, toldStreaks } from '../alerts.ts'
import type { Channel, Delivery } from './telegram.ts'

export interface AlertsPorts {
  readonly pool: Pool
  /** In the order in which they are tried. */
  readonly channels: readonly Channel[]
  /** How many jobs of a source with a model fail in a row before it is told. */
  readonly failThreshold: number
  readonly newId: () => string
  readonly log: (message: string, error: unknown) => void
}

/** Both are chores: they return a figure or two, and throw only when the database is away. */
export interface Alerts {
  /** Says what changed since people were told last. Safe to run in several processes at once. */
  look(signal: AbortSignal): Promise<string>
  /** Says the figures of the day that ended at 08:00 UTC, unless that was done; the first day ends after the first call. */
  summary(signal: AbortSignal): Promise<string>
}

type News = Decision['say'][number]
type Change = Decision['change'][number]

const stuckMinutes = 5
/** UTC: the processes of one cluster may stand in several time zones. */
const summaryHour = 8
// More of them in one look become one message: Telegram takes 20 a minute, and a person fewer.
const singlesAtMost = 3
const changesAtMost = 5

export function createAlerts({ pool, channels, failThreshold, newId, log }: AlertsPorts): Alerts {
  async function look(signal: AbortSignal): Promise<string> {
    const rows = await readAlerts(pool)
    const known = new Map(rows.map(row => [row.subject, row]))
    // The summary is of another kind, and its row is not about anything that is well or not.
    known.delete(summarySubject)
    const situation = {
      machines: await machineStates(pool),
      stuck: await stuckQueue(pool, stuckMinutes),
      streaks: await jobStreaks(pool, failThreshold, toldStreaks(rows)),
      chores: await listChores(pool)
    }
    signal.throwIfAborted()
    const { say, change, settle } = decide(findings(situation, failThreshold, known), known)
    await settleAlerts(pool, settle)
    await forgetAlerts(pool)
    const open = await openChannels()
    if (open.length === 0) return `${say.length + change.length} wait: Telegram wants to be left alone for a while`
    let changed = 0
    for (const one of change.slice(0, changesAtMost)) {
      if (!(await changeMessage(open, one, signal))) break
      changed += 1
    }
    const said = await sayAll(open, say, signal)
    return `${said} of ${say.length} told, ${changed} of ${change.length} messages changed`
  }

  async function sayAll(open: readonly Channel[], news: readonly News[], signal: AbortSignal): Promise<number> {
    const groups = news.length > singlesAtMost ? [news] : news.map(one => [one])
    let said = 0
    for (const group of groups) {
      const outcome = await sayTogether(open, group, signal)
      said += outcome.said
      if (!outcome.goOn) break
    }
    return said
  }

  async function sayTogether(
    open: readonly Channel[],
    news: readonly News[],
    signal: AbortSignal
  ): Promise<{ said: number; goOn: boolean }> {
    const claim = newId()
    const ours = await claimAlerts(pool, claim, news)
    const mine = news.filter(({ subject }) => ours.has(subject))
    if (mine.length === 0) return { said: 0, goOn: true }
    const { channel, delivery } = await deliver(open, together(mine.map(({ words }) => words)), signal)
    if (delivery.arrived) {
      // A message about several subjects cannot be changed for one of them.
      const id = mine.length === 1 ? delivery.messageId : null
      await confirmAlerts(pool, claim, id === null ? null : { channel, id })
      return { said: mine.length, goOn: true }
    }
    // What is refused for itself, or may have arrived, keeps its claim, and has another chance in 10 minutes.
    if (delivery.isCertain && !delivery.isOfMessage) await releaseAlerts(pool, claim)
    return { said: 0, goOn: delivery.isOfMessage }
  }

  /** The first channel that takes it; otherwise the failure of the last one, which is certain when all were. */
  async function deliver(
    open: readonly Channel[],
    html: string,
    signal: AbortSignal
  ): Promise<{ readonly channel: string; readonly delivery: Delivery }> {
    let isCertain = true
    let last: { channel: string; delivery: Delivery } | null = null
    for (const { name, send } of open) {
      const delivery = await send(html, signal)
      await note(name, delivery, signal)
      if (delivery.arrived) return { channel: name, delivery }
      isCertain = isCertain && delivery.isCertain
      last = { channel: name, delivery: { ...delivery, isCertain } }
      if (signal.aborted) break
    }
    if (last === null) throw new Error('there is no way to people')
    return last
  }

  /** False when nothing more can be sent for now. */
  async function changeMessage(open: readonly Channel[], { subject, message, words }: Change, signal: AbortSignal): Promise<boolean> {
    const channel = open.find(({ name }) => name === message.channel)
    // It was sent by a way that is closed or not in use any more: it is said anew in its time.
    if (channel === undefined) return true
    const delivery = await channel.edit(message.id, words, signal)
    if (delivery.arrived) await settleAlerts(pool, [subject])
    else if (delivery.isOfMessage) await dropAlertMessage(pool, message)
    // A message that was deleted says nothing about the channel.
    if (delivery.arrived || !delivery.isOfMessage) await note(message.channel, delivery, signal)
    return delivery.arrived || delivery.isOfMessage
  }

  async function openChannels(): Promise<Channel[]> {
    const resting = new Set((await readChannels(pool)).filter(({ isResting }) => isResting).map(({ name }) => name))
    return channels.filter(({ name }) => !resting.has(name))
  }

  /** An outage is logged once, by whichever process sees it first. */
  async function note(name: string, delivery: Delivery, signal: AbortSignal): Promise<void> {
    if (delivery.arrived) return channelWorks(pool, name)
    // Broken off by ourselves.
    if (signal.aborted) return
    const isNew = await channelFails(pool, { name, restMs: delivery.restMs, note: delivery.reason })
    if (isNew) log(`messages to people do not get through by ${name}; it is tried again and again`, new Error(delivery.reason))
  }

  async function summary(signal: AbortSignal): Promise<string> {
    const day = await lastDay(pool, summaryHour)
    await beginDays(pool, summarySubject, day)
    const row = (await readAlerts(pool)).find(({ subject }) => subject === summarySubject)
    if (row === undefined || row.told === day || row.isRecent) return 'nothing is due'
    const open = await openChannels()
    if (open.length === 0) return 'it waits: Telegram wants to be left alone for a while'
    const figures = await dayFigures(pool, day, summaryHour)
    const words = summaryWords({ day, hour: summaryHour, figures, machines: await machineStates(pool), waiting: await waitingJobs(pool) })
    signal.throwIfAborted()
    const { said } = await sayTogether(open, [{ subject: summarySubject, told: row.told, telling: day, since: null, words }], signal)
    return said === 1 ? `the day until ${day} was told` : 'it was not told'
  }

  return { look, summary }
}
