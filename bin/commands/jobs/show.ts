// llm-mcp jobs show: everything about one job, its answer last.

import { withClient } from '../client.ts'
import { plain, printJson } from '../print.ts'
import { age, answerText, dollars, type Job, readJob, seconds } from './job.ts'
import { type JobOptions, jobPath } from './path.ts'

export async function showCommand(id: string, options: JobOptions): Promise<void> {
  await withClient(options, async client => {
    const { body } = await client.ask({ method: 'GET', path: jobPath(id) })
    if (options.json === true) printJson(body)
    else console.log(jobPage(readJob(body), Date.now()))
  })
}

export function jobPage(job: Job, nowMs: number): string {
  const rows: readonly (readonly [string, string | null])[] = [
    ['status', job.status],
    ['kind', job.kind],
    ['model', job.model],
    ['priority', job.priority],
    ['source', job.source],
    ['position', job.position === null ? null : String(job.position)],
    ['ETA', job.etaMs === null ? null : `${seconds(job.etaMs.p50)} (at most ${seconds(job.etaMs.p90)}, nine times of ten)`],
    ['attempts', job.attempts === null ? null : `${job.attempts}${job.maxAttempts === null ? '' : ` of ${job.maxAttempts}`}`],
    ['where', whereOf(job)],
    ['created', job.createdAt === null ? null : `${job.createdAt}  (${age(job.createdAt, nowMs)} ago)`],
    ['started', sinceCreation(job, job.startedAt)],
    ['first token', sinceCreation(job, job.firstTokenAt)],
    ['finished', sinceCreation(job, job.finishedAt)],
    ['deadline', job.deadlineAt],
    ['tokens', job.promptTokens === null ? null : `${job.promptTokens} in, ${job.completionTokens ?? 0} out`],
    ['cost', job.costUsd === null ? null : dollars(job.costUsd)],
    ['webhook', job.webhook === null ? null : [job.webhook.status, job.webhook.url, job.webhook.error].filter(Boolean).join('  ')],
    ...job.metadata.map(([key, value]) => ['metadata', `${key}=${value}`] as const),
    ['error', job.error === null ? null : `${job.error.code === null ? '' : `${job.error.code}: `}${job.error.message}`]
  ]
  const facts = rows.flatMap(([name, value]) => (value === null || value === '' ? [] : [`${name.padEnd(13)}${plain(value)}`]))
  const answer = answerText(job)
  return [`job          ${plain(job.id)}`, ...facts, ...(answer === '' ? [] : ['', printable(answer)])].join('\n')
}

function whereOf({ device, provider }: Job): string | null {
  return device === null || provider === null ? (device ?? provider) : `${device} (${provider})`
}

function sinceCreation({ createdAt }: Job, at: string | null): string | null {
  if (at === null || createdAt === null) return at
  return `${at}  (after ${seconds(Date.parse(at) - Date.parse(createdAt))})`
}

/** With its lines, and nothing that could steer a terminal. */
function printable(text: string): string {
  return text.split('\n').map(plain).join('\n')
}
