// A run as people read it: in the terminal, and in bench/chaos.md.

import { cpus } from 'node:os'
import type { RunReport } from './run.ts'

const shownViolations = 40

export function reportText({ seed, seconds, violations, liveness, verdict, faults, drainedMs, folder }: RunReport): string {
  const rows: readonly (readonly [string, string])[] = [
    ['seed', String(seed)],
    ['time', `${seconds.toFixed(0)} s`],
    ['kills (SIGKILL)', String(faults.kill)],
    ['stops (SIGSTOP)', String(faults.stop)],
    ['PostgreSQL kills', String(faults.postgres)],
    ['starts that gave up', String(faults.ended)],
    ...(liveness === null
      ? []
      : ([
          ['a bare request (p50)', `${liveness.answerP50Ms.toFixed(0)} ms`],
          ['submit to start, idle (p50 / p75)', `${liveness.startP50Ms.toFixed(0)} / ${liveness.startP75Ms.toFixed(0)} ms`],
          ['end of a call to the next, full machine (p50 / p90)', `${liveness.gapP50Ms.toFixed(0)} / ${liveness.gapP90Ms.toFixed(0)} ms`],
          ['use of a full machine', `${(liveness.efficiency * 100).toFixed(0)} %`]
        ] as const)),
    ...(verdict === null
      ? []
      : ([
          ['jobs acknowledged', String(verdict.acknowledged)],
          ['lost', String(verdict.lost)],
          ['doubled, or changed after their end', String(verdict.doubled)],
          ['given up (their processes died five times)', String(verdict.givenUp)],
          ['late writers refused', String(verdict.lateWriters)],
          ['streams resumed', String(verdict.resumedStreams)],
          ['interactive answered / failed aloud', `${verdict.interactive.answered} / ${verdict.interactive.failed}`],
          ['calls on the bill / charges', `${verdict.charges.billed} / ${verdict.charges.charged}`],
          ['charged, sent and never arrived', String(verdict.charges.notArrived)],
          ['most calls at once (of processes awake)', `${verdict.concurrency.most} (${verdict.concurrency.mostAwake})`],
          ['interrupted by a kill, begun again, own machine (count, p50, max)', recovery(verdict.recovery.box)],
          ['the same, rented', recovery(verdict.recovery.openai)]
        ] as const)),
    ['drained after the last fault', drainedMs === null ? 'no' : `${(drainedMs / 1_000).toFixed(1)} s`],
    ['violations', String(violations.length)]
  ]
  const width = Math.max(...rows.map(([name]) => name.length))
  return [
    ...rows.map(([name, value]) => `| ${name.padEnd(width)} | ${value} |`),
    ...violations.slice(0, shownViolations).map(violation => `- ${violation}`),
    ...(violations.length > shownViolations ? [`- … ${violations.length - shownViolations} more`] : []),
    ...(folder === null ? [] : [`history, bill and logs: ${folder}`])
  ].join('\n')
}

/** The page of the long form. */
export function reportPage(report: RunReport, command: string): string {
  const [first = '', ...rest] = reportText({ ...report, folder: null }).split('\n')
  return [
    '# Chaos',
    '',
    'Two gateways and three workers on one embedded PostgreSQL under random SIGKILL and SIGSTOP, judged by the clients’',
    'acknowledgements, the pretended machines’ own bill, and HTTP. Written by the run itself:',
    '',
    `    ${command}`,
    '',
    `Node ${process.versions.node}, ${cpus().length} cores.`,
    '',
    '| | |',
    '|---|---|',
    first,
    ...rest,
    ''
  ].join('\n')
}

function recovery({ count, p50, max }: { readonly count: number; readonly p50: number | null; readonly max: number | null }): string {
  return count === 0 ? 'none' : `${count}, ${p50?.toFixed(0)} ms, ${max?.toFixed(0)} ms`
}
