// llm-mcp jobs list: the newest jobs, a line each, no wider than 100 columns.

import { withClient } from '../client.ts'
import { plain, printJson, table } from '../print.ts'
import { age, fieldsOf, type Job, readJob, textOf } from './job.ts'
import type { JobOptions } from './path.ts'

export interface ListOptions extends JobOptions {
  readonly status?: string
  readonly kind?: string
  readonly model?: string
  readonly device?: string
  readonly source?: string
  readonly limit?: number
  readonly after?: string
}

const widthAtMost = 100
const gap = 2
const whereWidth = 12

export async function listCommand(options: ListOptions): Promise<void> {
  const { status, kind, model, device, source, limit, after } = options
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries({ status, kind, model, device, source, limit, after })) {
    if (value !== undefined) query.set(name, String(value))
  }
  await withClient(options, async client => {
    const { body } = await client.ask({ method: 'GET', path: `/v1/jobs${query.size === 0 ? '' : `?${query}`}` })
    if (options.json === true) return printJson(body)
    const jobs = (Array.isArray(body.data) ? body.data : []).map(entry => readJob(fieldsOf(entry) ?? {}))
    if (jobs.length === 0) return console.error('No jobs.')
    console.log(jobTable(jobs, Date.now()))
    if (body.has_more === true) console.error(`There are more: --after ${plain(textOf(body.last_id) ?? '')}`)
  })
}

const head = ['id', 'status', 'kind', 'model', 'where', 'age']
const modelColumn = 3

/** The model has what room the others leave. */
export function jobTable(jobs: readonly Job[], nowMs: number): string {
  const rows = jobs.map(job => [
    job.id,
    job.status === 'queued' && job.position !== null ? `queued ${job.position}` : job.status,
    job.kind,
    job.model ?? '',
    cut(job.device ?? job.provider ?? '', whereWidth),
    age(job.createdAt, nowMs)
  ])
  const widths = head.map((name, column) => Math.max(name.length, ...rows.map(row => row[column]?.length ?? 0)))
  const others = widths.reduce((sum, width, column) => (column === modelColumn ? sum : sum + width), 0)
  const modelWidth = Math.max(head.length, widthAtMost - others - gap * (head.length - 1))
  return table(
    head,
    rows.map(row => row.map((cell, column) => (column === modelColumn ? cut(cell, modelWidth) : cell))),
    [5]
  )
}

function cut(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, width - 1)}…`
}
