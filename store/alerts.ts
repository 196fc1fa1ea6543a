// What people are told: what they know already, and who is telling them; and which ways to them are closed.

import type { Pool } from './pool.ts'

export interface AlertRow {
  readonly subject: string
  /** What people were told last: `bad` or `good`; of the daily summary, its day. Null = nothing yet. */
  readonly told: string | null
  /** Something was said of it in the last 10 minutes, or somebody is at it. */
  readonly isRecent: boolean
  /** Since when it is bad, or was. */
  readonly since: Date | null
  /** The last message, where it can still be changed. */
  readonly message: AlertMessage | null
}

export interface AlertMessage {
  readonly channel: string
  readonly id: string
}

/** Something to be said. `told` is what people knew when that was decided. */
export interface AlertNews {
  readonly subject: string
  readonly told: string | null
  readonly telling: string
  readonly since: Date | null
}

// More than anybody reads.
const alertsAtMost = 10_000

export async function readAlerts(pool: Pool): Promise<AlertRow[]> {
  const { rows } = await pool.query({
    name: 'alerts.read',
    text: `
select subject, told, since, channel, message_id as "messageId", coalesce(said_at > now() - interval '10 minutes', false) as "isRecent"
  from alerts
 order by subject
 limit ${alertsAtMost}`
  })
  return rows.map(({ subject, told, since, channel, messageId, isRecent }) => ({
    subject,
    told,
    since,
    isRecent,
    message: channel === null || messageId === null ? null : { channel, id: messageId }
  }))
}

const claimSql = `
with given as (
  select *
    from jsonb_to_recordset($2::jsonb) as row (subject text, told text, telling text, since timestamptz)
)
insert into alerts (subject, telling, since, said_at, claim)
select subject, telling, since, now(), $1
  from given
 order by subject
    on conflict (subject) do update
   set telling = excluded.telling,
       since = coalesce(excluded.since, alerts.since),
       said_at = excluded.said_at,
       claim = excluded.claim
 where (alerts.said_at is null or alerts.said_at <= now() - interval '10 minutes')
   and alerts.told is not distinct from (select told from given where given.subject = alerts.subject)
returning subject`

/**
 * Which of these the caller is to say: nobody else says anything of them in the next 10 minutes, over all processes, whatever becomes
 * of the caller. Follow it with `confirmAlerts`, or with `releaseAlerts` where it is certain that nothing arrived.
 */
export async function claimAlerts(pool: Pool, claim: string, news: readonly AlertNews[]): Promise<Set<string>> {
  const { rows } = await pool.query({ name: 'alerts.claim', text: claimSql, values: [claim, JSON.stringify(news)] })
  return new Set(rows.map(({ subject }) => subject))
}

/** It was said; `message` is where it can be changed. */
export async function confirmAlerts(pool: Pool, claim: string, message: AlertMessage | null): Promise<void> {
  await pool.query({
    name: 'alerts.confirm',
    text: `
update alerts
   set told = telling, said_at = now(), telling = null, claim = null, channel = $2, message_id = $3
 where claim = $1`,
    values: [claim, message?.channel ?? null, message?.id ?? null]
  })
}

/** It was not said, and may be at once. */
export async function releaseAlerts(pool: Pool, claim: string): Promise<void> {
  await pool.query({
    name: 'alerts.release',
    text: 'update alerts set said_at = null, telling = null, claim = null where claim = $1',
    values: [claim]
  })
}

/** People know that these are well again, or need not know: their messages were changed, or what they were about is gone. */
export async function settleAlerts(pool: Pool, subjects: readonly string[]): Promise<void> {
  await pool.query({
    name: 'alerts.settle',
    text: `update alerts set told = 'good', channel = null, message_id = null where subject = any ($1::text[]) and told = 'bad'`,
    values: [subjects]
  })
}

/** The message cannot be changed any more. */
export async function dropAlertMessage(pool: Pool, { channel, id }: AlertMessage): Promise<void> {
  await pool.query({
    name: 'alerts.drop_message',
    text: 'update alerts set channel = null, message_id = null where channel = $1 and message_id = $2',
    values: [channel, id]
  })
}

/** What was well for a day, or never said, needs no row. */
export async function forgetAlerts(pool: Pool): Promise<void> {
  await pool.query({
    name: 'alerts.forget',
    text: `
delete from alerts
 where coalesce(told, 'good') = 'good'
   and coalesce(said_at, '-infinity') < now() - interval '1 day'`
  })
}

/** The days of a subject that is told once a day begin with `day`; does nothing when they have begun. */
export async function beginDays(pool: Pool, subject: string, day: string): Promise<void> {
  await pool.query({
    name: 'alerts.begin_days',
    text: 'insert into alerts (subject, told) values ($1, $2) on conflict do nothing',
    values: [subject, day]
  })
}

export interface AlertChannel {
  readonly name: string
  /** It asked to be left alone for a while. */
  readonly isResting: boolean
}

export async function readChannels(pool: Pool): Promise<AlertChannel[]> {
  const { rows } = await pool.query({
    name: 'alerts.channels',
    text: `select name, coalesce(resumes_at > now(), false) as "isResting" from alert_channels order by name`
  })
  return rows
}

/** True when that is new: the first failure since it worked last, over all processes. */
export async function channelFails(
  pool: Pool,
  failure: { readonly name: string; readonly restMs: number; readonly note: string }
): Promise<boolean> {
  const { rows } = await pool.query({
    name: 'alerts.channel_fails',
    text: `
insert into alert_channels (name, failing_since, resumes_at, note)
values ($1, now(), now() + make_interval(secs => $2 / 1000.0), left($3, 2000))
    on conflict (name) do update
   set failing_since = coalesce(alert_channels.failing_since, excluded.failing_since),
       resumes_at = excluded.resumes_at,
       note = excluded.note
returning failing_since = now() as "isNew"`,
    values: [failure.name, failure.restMs, failure.note]
  })
  return rows[0].isNew
}

export async function channelWorks(pool: Pool, name: string): Promise<void> {
  await pool.query({
    name: 'alerts.channel_works',
    text: 'update alert_channels set failing_since = null, resumes_at = null where name = $1 and failing_since is not null',
    values: [name]
  })
}
