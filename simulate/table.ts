// The rows of a comparison as a table for people.

import type { Row } from './types.ts'

type Column = readonly [title: string, of: (row: Row) => string]

const columns: readonly Column[] = [
  ['policy', ({ policy }) => policy],
  ['mean s', ({ meanS }) => meanS.toFixed(2)],
  ['p95 s', ({ p95S }) => p95S.toFixed(1)],
  ['miss %', ({ missPct }) => missPct.toFixed(1)],
  ['$ total (cloud+energy)', row => `${row.usd.toFixed(4)} (${row.usdCloud.toFixed(4)}+${row.usdEnergy.toFixed(4)})`],
  ['score', ({ score }) => score.toFixed(3)],
  ['regret %', ({ regretPct }) => known(regretPct)],
  ['ETA error %', ({ etaMedianErrorPct }) => known(etaMedianErrorPct)],
  ['p90 cov %', ({ etaP90CoveragePct }) => known(etaP90CoveragePct)],
  ['worst 10 min', ({ worstWindowCoveragePct }) => known(worstWindowCoveragePct)],
  ['p90/p50', ({ p90p50Median }) => known(p90p50Median, 2)],
  ['loads', ({ loads }) => loads.toFixed(0)],
  ['429s', ({ provider429 }) => provider429.toFixed(0)],
  [
    'share %',
    ({ shares }) =>
      Object.values(shares)
        .map(each => each.toFixed(0))
        .join('/')
  ],
  ['unfinished', ({ unfinished }) => unfinished.toFixed(0)]
]

// More nodes than that have no shares that could be read in a line.
const nodesShown = 8

/** In columns of even width; the interactive requests alone in the times and misses, all in the score. */
export function table(rows: readonly Row[]): string {
  const shown = columns.filter(([title]) => title !== 'share %' || Object.keys(rows[0]?.shares ?? {}).length <= nodesShown)
  const lines = [shown.map(([title]) => title), ...rows.map(row => shown.map(([, of]) => of(row)))]
  const widths = shown.map((_, index) => Math.max(...lines.map(line => line[index]?.length ?? 0)))
  const padded = (cell: string, index: number): string => (index === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[index] ?? 0))
  return lines.map(line => line.map(padded).join('  ')).join('\n')
}

const known = (value: number | null, digits = 0): string => (value === null ? '-' : value.toFixed(digits))
