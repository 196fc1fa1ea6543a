// When jobs that wait will probably be answered: what was planned for them, what is told of it, and for how long it holds.

import t from 'tap'
import { createForecasts } from '../../queue/forecasts.ts'
import { createOutlook } from '../../queue/jobs.ts'
import type { JobRecord } from '../../queue/types.ts'
import type { Planned } from '../../routing/brain/plan.ts'
import type { Decision } from '../../routing/decide.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Pool } from '../../store/pool.ts'

type Eta = { readonly p50: number; readonly p90: number } | null

const weighed: Decision = { action: 'enqueue', feasible: [], rejected: [], planned: {} as Planned }
const listed: Decision = { action: 'enqueue', feasible: [], rejected: [] }
const refused: Decision = { action: 'refuse', error: new GatewayError('no_capacity', 'down'), rejected: [] }
const job = (id: string) => ({ id, request: {}, caller: {} })
const long = { p50: 26_800, p90: 40_000 }

function house(eta: () => Eta = () => long) {
  let nowMs = 0
  let asked = 0
  const forecasts = createForecasts({
    eta() {
      asked++
      return eta()
    },
    now: () => nowMs
  })
  return {
    forecasts,
    asked: () => asked,
    pass(ms: number) {
      nowMs += ms
    }
  }
}

t.test('what was planned last is told, less the time that has passed, and for some seconds', async t => {
  const { forecasts, pass } = house()
  t.equal(forecasts.of('a'), null)
  forecasts.planned([job('a')], [weighed])
  t.same(forecasts.of('a'), { etaMs: long, isAlone: false })
  pass(2_000)
  t.same(forecasts.of('a'), { etaMs: { p50: 24_800, p90: 38_000 }, isAlone: false })
  pass(3_001)
  t.equal(forecasts.of('a'), null)
})

t.test('it is never negative', async t => {
  const { forecasts, pass } = house(() => ({ p50: 10, p90: 2_000 }))
  forecasts.planned([job('a')], [weighed])
  pass(1_000)
  t.same(forecasts.of('a')?.etaMs, { p50: 0, p90: 1_000 })
})

t.test('what nothing can run has no time; of what nobody can tell nothing is known', async t => {
  let eta: Eta = long
  const { forecasts, pass } = house(() => eta)
  forecasts.planned([job('a'), job('b')], [refused, weighed])
  t.same([forecasts.of('a')?.etaMs, forecasts.of('b')?.etaMs], [null, long])
  pass(1_000)
  eta = null
  forecasts.planned([job('b')], [weighed])
  t.equal(forecasts.of('b'), null)
})

t.test('what a client was told when it began to wait holds until it is planned', async t => {
  const { forecasts } = house(() => ({ p50: 5_000, p90: 9_000 }))
  forecasts.arrived('a', long)
  forecasts.arrived('b', null)
  t.same([forecasts.of('a'), forecasts.of('b')], [{ etaMs: long, isAlone: true }, null])
  forecasts.planned([job('a')], [weighed])
  t.same(forecasts.of('a'), { etaMs: { p50: 5_000, p90: 9_000 }, isAlone: false })
})

t.test('looks that follow each other at once are not all reckoned', async t => {
  const { forecasts, asked, pass } = house()
  for (let looks = 0; looks < 10; looks++) forecasts.planned([job('a')], [listed])
  t.equal(asked(), 1)
  pass(200)
  forecasts.planned([job('a')], [listed])
  t.equal(asked(), 2)
})

t.test('a job is told what was planned for it; else, what answers took lately', async t => {
  const { forecasts } = house()
  const places = [1, 3, 1, 3, 40].map((position, at) => ({ id: 'abcde'[at], position }))
  const pool = { query: async () => ({ rows: places }) } as unknown as Pool
  forecasts.planned(['a', 'b'].map(job), [weighed, refused])
  forecasts.planned(['c', 'd'].map(job), [listed, listed])
  const outlook = createOutlook(pool, () => ({ each: 20_000, atOnce: 2 }), forecasts.of)
  const of = await outlook(places.map(({ id }) => ({ id, lane: 'l', status: 'queued' }) as JobRecord))
  t.same(
    places.map(({ id }) => of.get(id as string)),
    [
      { position: 1, etaMs: long },
      { position: 3, etaMs: null },
      // Of a list nobody weighs what comes before: at its head that is nothing, further back what answers took says more.
      { position: 1, etaMs: long },
      { position: 3, etaMs: { p50: 50_000, p90: 100_000 } },
      { position: 40, etaMs: { p50: 420_000, p90: 840_000 } }
    ]
  )
  const none = await createOutlook(pool, () => null, forecasts.of)([{ id: 'e', lane: 'l', status: 'queued' } as JobRecord])
  t.same(none.get('e'), { position: 40, etaMs: null }, 'its machines are away')
})
