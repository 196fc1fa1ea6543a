// Figures of a bench: measured, judged, printed, and written where they are published.

import { readFileSync, writeFileSync } from 'node:fs'
import { cpus, loadavg } from 'node:os'

export interface Row {
  readonly name: string
  readonly figure: string
  /** Null: reported only. */
  readonly bound: string | null
  readonly isMet: boolean
}

export interface Times {
  readonly p50: number
  readonly p99: number
  readonly count: number
}

/** Milliseconds. */
export function timesOf(values: readonly number[]): Times {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
  return { p50: at(0.5), p99: at(0.99), count: sorted.length }
}

export function timesRow(name: string, times: Times, bound: { readonly p50?: number; readonly p99?: number } | null): Row {
  return {
    name,
    figure: `p50 ${times.p50.toFixed(2)} ms, p99 ${times.p99.toFixed(2)} ms (${times.count})`,
    bound:
      bound === null
        ? null
        : Object.entries(bound)
            .map(([share, ms]) => `${share} ≤ ${ms} ms`)
            .join(', '),
    isMet: bound === null || (times.p50 <= (bound.p50 ?? Number.POSITIVE_INFINITY) && times.p99 <= (bound.p99 ?? Number.POSITIVE_INFINITY))
  }
}

export function rateRow(name: string, perSecond: number, least: number | null): Row {
  return {
    name,
    figure: `${Math.round(perSecond).toLocaleString('en')}/s`,
    bound: least === null ? null : `≥ ${least.toLocaleString('en')}/s`,
    isMet: least === null || perSecond >= least
  }
}

/** Prints the table and puts it into `file` under `title`, in the place of the last one with that title. */
export function publish(file: URL, title: string, label: string, rows: readonly Row[]): void {
  const load = loadavg()
    .map(value => value.toFixed(1))
    .join(' ')
  const table = [
    `## ${title}`,
    '',
    `${new Date().toISOString().slice(0, 10)}; ${label}; Node ${process.version}; ${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}; load ${load}`,
    '',
    '| case | measured | bound | |',
    '|---|---|---|---|',
    ...rows.map(
      ({ name, figure, bound, isMet }) =>
        `| ${name} | ${figure} | ${bound ?? 'reported'} | ${bound === null ? '' : isMet ? 'met' : '**missed**'} |`
    ),
    ''
  ].join('\n')
  process.stdout.write(`${table}\n`)
  const before = read(file)
  const others = before.split(/^(?=## )/m).filter(part => part.startsWith('## ') && !part.startsWith(`## ${title}\n`))
  const head = before.split(/^## /m)[0] ?? ''
  writeFileSync(file, `${head.trim() === '' ? '# Measurements\n' : head.trim()}\n\n${[...others, table].join('').trim()}\n`)
}

function read(file: URL): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
