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

t.test('what is not the fault of a row is thrown', async t => {
  for (const code of ['53100', '57P01', 'ECONNREFUSED', undefined]) {
    const error = Object.assign(new Error('away'), { code })
    await t.rejects(storeRows({ insert: () => Promise.reject(error), log: () => t.fail('not to be given up') }, [row(1), row(2)]), {
      message: 'away'
    })
  }
})
