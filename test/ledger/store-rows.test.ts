// One row that the database refuses does not hold up the others; a database that is away loses none.

import t from 'tap'
import { storeRows } from '../../ledger/store-rows.ts'
import { type CostRow, insertCosts } from '../../store/costs.ts'
import { createDatabase } from '../support/cluster.ts'

function row(number: number, more: Partial<CostRow> = {}): CostRow {
  return {
    attemptId: `01a1fd37-5d11-7d28-9be4-${String(number).padStart(12, '0')}`,
    requestId: '01a1fd37-5d11-7d28-9be4-415923be313e',
    source: 'me',
    subSource: null,
    keyId: null,
    provider: 'openai',
    model: 'm',
    deviceId: null,
    outcome: 'ok',
    errorCode: null,
    promptTokens: 1,
    completionTokens: 1,
    cachedTokens: 0,
    reasoningTokens: 0,
    costNanoUsd: 5,
    priceSource: 'config',
    estimated: false,
    ttftMs: 1,
    durationMs: 1,
    startedAt: 1,
    finishedAt: 1,
    ...more
  }
}

t.test('a row that cannot be stored is logged, the others are stored, and twice is once', async t => {
  const { pool } = await createDatabase(t)
  const said: string[] = []
  const ports = { insert: (rows: readonly CostRow[]) => insertCosts(pool, rows), log: (message: string) => said.push(message) }
  const rows = [row(1), row(2, { model: 'a\u0000b' }), row(3, { promptTokens: -1 }), row(4)]
  await storeRows(ports, rows)
  await storeRows(ports, [row(1), row(5)])
  const { rows: stored } = await pool.query('select attempt_id from llm_costs order by attempt_id')
  t.same(
    stored.map(({ attempt_id }) => attempt_id),
    [row(1), row(4), row(5)].map(({ attemptId }) => attemptId)
  )
  t.equal(said.length, 2)
  t.match(said[0], /0002: openai, 5 nano-dollars/)
})

t.test('what was booked as lost gives way to what really came of it, and nothing else gives way to anything', async t => {
  const { pool } = await createDatabase(t)
  const ports = { insert: (rows: readonly CostRow[]) => insertCosts(pool, rows), log: () => t.fail('refused') }
  const lost = (number: number) =>
    row(number, { outcome: 'lost', errorCode: 'process_lost', costNanoUsd: 100, estimated: true, ttftMs: null })
  const booked = async () => {
    const { rows } = await pool.query(`
      select right(attempt_id::text, 1) as id, outcome, error_code, prompt_tokens::int, completion_tokens::int, cached_tokens::int,
             reasoning_tokens::int, cost_nano_usd::int, price_source, estimated, ttft_ms, duration_ms,
             (extract(epoch from finished_at) * 1000)::int as finished
        from llm_costs order by attempt_id`)
    return rows
  }
  const real = {
    outcome: 'failed',
    errorCode: 'upstream_broke',
    promptTokens: 40,
    completionTokens: 7,
    cachedTokens: 3,
    reasoningTokens: 2,
    costNanoUsd: 77,
    priceSource: 'provider',
    estimated: false,
    ttftMs: 12,
    durationMs: 34,
    finishedAt: 56
  } as const
  await storeRows(ports, [lost(1), lost(2), row(3)])
  await storeRows(ports, [row(1, real), row(4)])
  const expected = [
    {
      id: '1',
      outcome: 'failed',
      error_code: 'upstream_broke',
      prompt_tokens: 40,
      completion_tokens: 7,
      cached_tokens: 3,
      reasoning_tokens: 2,
      cost_nano_usd: 77,
      price_source: 'provider',
      estimated: false,
      ttft_ms: 12,
      duration_ms: 34,
      finished: 56
    },
    { id: '2', outcome: 'lost', cost_nano_usd: 100 },
    { id: '3', outcome: 'ok', cost_nano_usd: 5 },
    { id: '4', outcome: 'ok', cost_nano_usd: 5 }
  ]
  t.match(await booked(), expected)
  // The journal is read once more, and an insert whose answer was lost is written again.
  await storeRows(ports, [lost(1), { ...lost(2), costNanoUsd: 999 }, lost(3), row(4, { costNanoUsd: 999 })])
  await storeRows(ports, [row(1, { costNanoUsd: 999 }), row(3, { outcome: 'aborted' })])
  t.match(await booked(), expected)
})

t.test('what is not the fault of a row is thrown', async t => {
  for (const code of ['53100', '57P01', 'ECONNREFUSED', undefined]) {
    const error = Object.assign(new Error('away'), { code })
    await t.rejects(storeRows({ insert: () => Promise.reject(error), log: () => t.fail('not to be given up') }, [row(1), row(2)]), {
      message: 'away'
    })
  }
})
