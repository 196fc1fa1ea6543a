import t from 'tap'
import { createBacklog } from '../../queue/backlog.ts'
import type { GatewayError } from '../../routing/errors.ts'
import { createRows } from './rows.ts'

const rows = await createRows(t)
const limits = { maxWaiting: 4, maxWaitingPerSource: 3, maxJobs: 6, maxJobsPerSource: 5 }
const asking = (source: string, interactive: boolean, retryAfterMs = 5_000) => ({ source, interactive, retryAfterMs })

t.beforeEach(async () => {
  await rows.pool.query('delete from jobs')
})

/** What came of so many at once. */
async function outcomes(sent: readonly Promise<unknown>[]): Promise<{ stored: number; refused: GatewayError[] }> {
  const settled = await Promise.allSettled(sent)
  const refused = settled.flatMap(each => (each.status === 'rejected' ? [each.reason as GatewayError] : []))
  return { stored: settled.length - refused.length, refused }
}

t.test('of fifty at once, as many as may are let in', async t => {
  const backlog = createBacklog(rows.pool, limits, () => performance.now())
  const { stored, refused } = await outcomes(
    Array.from({ length: 50 }, () => backlog.admit(asking('a', false), () => rows.job({ source: 'a' })))
  )
  t.equal(stored, limits.maxJobsPerSource)
  for (const error of refused) t.match(error, { code: 'queue_full', status: 429, retryAfterMs: 5_000 })
})

t.test('the bound of all holds for the next source too, and says that it is not its own', async t => {
  const backlog = createBacklog(rows.pool, limits, () => performance.now())
  for (let count = 0; count < 5; count++) await backlog.admit(asking('a', false), () => rows.job({ source: 'a' }))
  await backlog.admit(asking('b', false), () => rows.job({ source: 'b' }))
  await t.rejects(
    backlog.admit(asking('b', false), () => rows.job({ source: 'b' })),
    { code: 'queue_full', status: 503 }
  )
  await t.rejects(
    backlog.admit(asking('a', false), () => rows.job({ source: 'a' })),
    { code: 'queue_full', status: 429 }
  )
})

t.test('requests that somebody waits for and jobs are counted apart', async t => {
  const backlog = createBacklog(rows.pool, limits, () => performance.now())
  for (let count = 0; count < 5; count++) await backlog.admit(asking('a', false), () => rows.job({ source: 'a' }))
  for (let count = 0; count < 3; count++) await backlog.admit(asking('a', true), () => rows.job({ source: 'a', class: count % 2 }))
  await t.rejects(
    backlog.admit(asking('a', true), () => rows.job({ source: 'a', class: 1 })),
    { code: 'queue_full', status: 429 }
  )
})

t.test('what another process has stored counts, and a place that came free is seen', async t => {
  let nowMs = 0
  const here = createBacklog(rows.pool, limits, () => nowMs)
  const there = createBacklog(rows.pool, limits, () => nowMs)
  const store = () => rows.job({ source: 'a' })
  for (let count = 0; count < 3; count++) await here.admit(asking('a', false), store)
  for (let count = 0; count < 2; count++) await there.admit(asking('a', false), store)
  nowMs += 2_000
  await t.rejects(here.admit(asking('a', false), store), { code: 'queue_full', status: 429 })
  await rows.pool.query('delete from jobs where id = (select min(id::text)::uuid from jobs)')
  nowMs += 50
  await here.admit(asking('a', false), store)
  await t.rejects(here.admit(asking('a', false), store), { code: 'queue_full', status: 429 })
})

t.test('what could not be stored takes no room', async t => {
  const backlog = createBacklog(rows.pool, limits, () => 0)
  for (let count = 0; count < 20; count++) {
    await t.rejects(
      backlog.admit(asking('a', false), () => Promise.reject(new Error('disk'))),
      { message: 'disk' }
    )
  }
  t.equal(await backlog.admit(asking('a', false), async () => 'stored'), 'stored')
})

t.test('whoever is refused is told to come back in a second at least, and in a minute at most', async t => {
  const backlog = createBacklog(rows.pool, { ...limits, maxJobsPerSource: 0 }, () => performance.now())
  for (const [retryAfterMs, told] of [
    [0, 1_000],
    [1_234.5, 1_235],
    [1e9, 60_000]
  ] as const) {
    await t.rejects(
      backlog.admit(asking('a', false, retryAfterMs), async () => {}),
      { code: 'queue_full', retryAfterMs: told }
    )
  }
})
