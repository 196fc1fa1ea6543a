// What needs a person, in plain words.

import t from 'tap'
import { issuesOf } from '../../gateway/fleet/issues.ts'
import type { Snapshot } from '../../store/dashboard.ts'
import type { DeviceRecord } from '../../store/fleet.ts'

const nowMs = Date.parse('2026-11-20T10:00:00Z')
const minutesAgo = (minutes: number): Date => new Date(nowMs - minutes * 60_000)

function snapshot(changes: Partial<Snapshot> = {}): Snapshot {
  const nothing = { nanoUsd: 0, unknown: 0 }
  return {
    jobs: { queued: 0, running: 0, done: 0, error: 0, cancelled: 0 },
    running: [],
    oldestWaitingAt: null,
    processes: [{ id: 'p', host: 'h', role: 'all', version: '1', startedAt: minutesAgo(60) }],
    costs: { today: nothing, week: nothing, month: nothing },
    failedChores: [],
    ...changes
  }
}

function device(id: string, changes: Partial<DeviceRecord> = {}): DeviceRecord {
  return { id, state: 'approved', health: 'up', healthNote: null, healthAt: null, goneAt: null, marks: [], ...changes } as DeviceRecord
}

const texts = (given: Snapshot, devices: readonly DeviceRecord[] = []): string[] =>
  issuesOf(given, devices, nowMs).map(({ severity, text }) => `${severity}: ${text}`)

t.test('where all is well, nothing is said', async t => {
  t.same(texts(snapshot(), [device('rtx')]), [])
})

t.test('a queue is stuck when jobs wait for more than a minute and none runs', async t => {
  const jobs = { queued: 3, running: 0, done: 0, error: 0, cancelled: 0 }
  t.same(texts(snapshot({ jobs, oldestWaitingAt: minutesAgo(5) })), ['error: 3 jobs wait, the first for 5 min, and none runs.'])
  t.same(texts(snapshot({ jobs, oldestWaitingAt: minutesAgo(0.5) })), [])
  t.same(texts(snapshot({ jobs: { ...jobs, running: 1 }, oldestWaitingAt: minutesAgo(5) })), [])
  t.match(texts(snapshot({ jobs: { ...jobs, queued: 1 }, oldestWaitingAt: minutesAgo(5), processes: [] })), [
    /^error: 1 job waits.*no process runs jobs/
  ])
})

t.test('a machine that was taken out of the configuration is nobody’s trouble; one that is not found any more is', async t => {
  const left = { goneAt: minutesAgo(5), health: 'down', marks: ['old_ollama'] } as const
  t.same(texts(snapshot(), [device('removed', { ...left, origin: 'config' })]), [])
  t.match(texts(snapshot(), [device('lost', { goneAt: minutesAgo(5), origin: 'tailscale' })]), [/^warning: The machine lost is gone/])
})

t.test('a machine that does not finish a load, unless it is away', async t => {
  const stuck = { stuckModel: 'big:70b', stuckUntil: minutesAgo(-9) }
  t.match(texts(snapshot(), [device('rtx', stuck), device('dead', { ...stuck, health: 'down' })]), [
    /^error: The machine dead is away/,
    /^error: The machine rtx does not finish loading "big:70b": nothing is loaded there until 2026-11-20T10:09:00.000Z, what is in its memory is used/
  ])
})

t.test('machines: away, marked, proposed; the most urgent first', async t => {
  t.same(
    texts(snapshot(), [
      device('new', { state: 'proposed', health: 'unknown' }),
      device('left', { state: 'proposed', goneAt: minutesAgo(1) }),
      device('old', { marks: ['old_ollama'] }),
      device('dead', { health: 'down', healthNote: 'it is silent', healthAt: minutesAgo(2) }),
      device('unwanted', { state: 'blocked', health: 'down', marks: ['old_ollama'] })
    ]),
    [
      'error: The machine dead is away: it is silent, since 2026-11-20T09:58:00.000Z.',
      'warning: The machine old runs an Ollama before 0.17.1, which can be made to give away its memory (CVE-2026-7482): update it.',
      'info: 1 machine found and not approved: new.'
    ]
  )
})

t.test('a machine that is gone, and one whose models cannot be read, unless it is away', async t => {
  const url = 'http://100.101.1.1:11434'
  const error = 'GET http://100.101.1.2:11434/api/tags: 500'
  const devices = [
    device('left', { url, goneAt: minutesAgo(2) }),
    device('stranger', { url, state: 'blocked' }),
    device('moved', { url: 'http://100.101.1.3:11434', goneAt: minutesAgo(2) }),
    { ...device('odd', { url: 'http://100.101.1.2:11434' }), error },
    { ...device('dead', { url: 'http://100.101.1.4:11434', health: 'down' }), error }
  ]
  t.same(texts(snapshot(), devices), [
    'error: The machine dead is away.',
    'warning: The machine left is gone: it is not found any more, since 2026-11-20T09:58:00.000Z, and its address is now that of stranger.',
    'warning: The machine moved is gone: it is not found any more, since 2026-11-20T09:58:00.000Z.',
    `warning: The models of the machine odd cannot be read: ${error}.`
  ])
})

t.test('chores that failed, and calls whose price nobody knows', async t => {
  t.same(
    texts(
      snapshot({
        failedChores: [{ name: 'models.sync', note: 'openrouter: 503', finishedAt: minutesAgo(1) }],
        costs: { today: { nanoUsd: 1, unknown: 2 }, week: { nanoUsd: 1, unknown: 2 }, month: { nanoUsd: 1, unknown: 9 } }
      })
    ),
    [
      'warning: models.sync failed when it was done last: openrouter: 503.',
      'warning: The price of 2 calls of today is unknown, and in no sum: set it under prices in llm-mcp.yaml.'
    ]
  )
})
