// llm-mcp costs, and the summary behind it: by provider, by person, for people and as JSON.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import type { SummaryObject } from '../../gateway/routes/costs.ts'
import { type CostRow, insertCosts, readCosts } from '../../store/costs.ts'
import { createDatabase } from '../support/cluster.ts'
import { newFolder, startGateway } from '../support/gateway.ts'
import { runCommand } from './run.ts'

const database = await createDatabase(t)
const folder = await newFolder(t)
const gateway = await startGateway(t, { databaseUrl: database.url, env: { OLLAMA_HOST: '' } })
const env = { DATABASE_URL: database.url }

function row(changes: Partial<CostRow>): CostRow {
  return {
    attemptId: randomUUID(),
    requestId: randomUUID(),
    source: 'team',
    subSource: null,
    keyId: null,
    provider: 'openrouter',
    model: 'm',
    deviceId: null,
    outcome: 'ok',
    errorCode: null,
    promptTokens: 10,
    completionTokens: 5,
    cachedTokens: 0,
    reasoningTokens: 0,
    costNanoUsd: 1_000,
    priceSource: 'provider',
    estimated: false,
    ttftMs: 1,
    durationMs: 2,
    startedAt: Date.now(),
    finishedAt: Date.now(),
    ...changes
  }
}

const moved = randomUUID()
await insertCosts(database.pool, [
  row({ subSource: 'alice', costNanoUsd: 2_500_000_000 }),
  row({ subSource: 'alice', costNanoUsd: null, priceSource: 'unknown' }),
  row({ subSource: 'bob', costNanoUsd: 10_000 }),
  row({ requestId: moved, costNanoUsd: 7 }),
  row({ requestId: moved, provider: 'rtx', costNanoUsd: 0, priceSource: 'electricity' }),
  row({ source: 'other', subSource: 'alice', costNanoUsd: 3_000_000_000 }),
  row({ source: 'yesteryear', finishedAt: Date.now() - 400 * 86_400_000 })
])

const person = (source: string, sub: string | null, cost: number, requests: number, attempts: number, unknown = 0) => ({
  source,
  sub_source: sub,
  cost_usd: cost,
  requests,
  prompt_tokens: 10 * attempts,
  completion_tokens: 5 * attempts,
  unknown_price_attempts: unknown
})
const team = [person('team', 'alice', 2.5, 2, 2, 1), person('team', 'bob', 0.00001, 1, 1), person('team', null, 0.000000007, 1, 2)]

t.test('costs by person, the dearest first: one key may be many people', async t => {
  const answer = await gateway.fetch('/v1/costs/summary?period=week')
  const json = (await answer.json()) as SummaryObject
  t.strictSame(json.by_source, [person('other', 'alice', 3, 1, 1), ...team])
  t.match(json, {
    object: 'costs.summary',
    period: 'week',
    source: null,
    total_cost_usd: 5.500010007,
    total_requests: 5,
    unknown_price_attempts: 1
  })
})

t.test('a source sees its own people only', async t => {
  const { key } = (await (await gateway.fetch('/v1/keys', { json: { kind: 'source', source: 'team' } })).json()) as { key: string }
  const json = (await (await gateway.fetch('/v1/costs/summary', { headers: { authorization: `Bearer ${key}` } })).json()) as SummaryObject
  t.equal(json.source, 'team')
  t.strictSame(json.by_source, team)
})

t.test('the command prints what the route answers', async t => {
  for (const period of ['day', 'week', 'month']) {
    const ran = await runCommand(t, { folder, env, args: ['costs', '--period', period, '--json'] })
    t.strictSame(JSON.parse(ran.stdout), await (await gateway.fetch(`/v1/costs/summary?period=${period}`)).json(), period)
    t.equal(ran.code, 0)
  }
  const ran = await runCommand(t, { folder, env, args: ['costs', '--source', 'team', '--json'] })
  t.match(JSON.parse(ran.stdout), { period: 'day', source: 'team', by_source: team })
})

t.test('for people: tables with totals, and what is not in them', async t => {
  const { stdout, code } = await runCommand(t, { folder, env, args: ['costs'] })
  t.equal(code, 0)
  const lines = stdout.trimEnd().split('\n')
  t.same(lines, [
    'Since midnight (UTC): $5.500010, requests: 5',
    '',
    'provider         cost  requests  attempts  tokens in  tokens out',
    'openrouter  $5.500010         5         5         50          25',
    'rtx         $0.000000         1         1         10           5',
    'total       $5.500010         5         6         60          30',
    '',
    'source               cost  requests  tokens in  tokens out',
    'other/alice     $3.000000         1         10           5',
    'team/alice      $2.500000         2         20          10',
    'team/bob        $0.000010         1         10           5',
    'team         $0.000000007         1         20          10',
    '',
    'Not in these sums: attempts whose price nobody knows: 1. Set prices in llm-mcp.yaml.'
  ])
  t.equal(
    (await runCommand(t, { folder, env, args: ['costs', '--source', 'nobody'] })).stdout,
    'Since midnight (UTC), source nobody: $0.000000, requests: 0\n'
  )
})

t.test('a failure is one line on stderr and exit code 1, with --json too', async t => {
  for (const args of [
    ['costs', '--period', 'year'],
    ['costs', '--period', 'year', '--json']
  ]) {
    t.same(await runCommand(t, { folder, env, args }), {
      code: 1,
      stdout: '',
      stderr: 'llm-mcp: --period must be one of day, week, month.\n'
    })
  }
  const away = { DATABASE_URL: 'postgresql://user:canary-password@127.0.0.1:9/none' }
  const ran = await runCommand(t, { folder, env: away, args: ['costs', '--json'] })
  t.same([ran.code, ran.stdout], [1, ''])
  t.match(ran.stderr, /^llm-mcp: The database at 127\.0\.0\.1:9\/none could not be used: .*\n$/)
  t.notMatch(ran.stderr, /canary/)
})

t.test('at most a thousand people are listed, the dearest', async t => {
  await insertCosts(
    database.pool,
    Array.from({ length: 1_005 }, (_, index) => row({ source: 'crowd', subSource: `p${index}`, costNanoUsd: index }))
  )
  const { sources, providers, requests } = await readCosts(database.pool, 'day', 'crowd')
  t.equal(sources.length, 1_000)
  t.equal(sources[0]?.subSource, 'p1004')
  t.equal(requests, 1_005)
  t.equal(providers[0]?.costNanoUsd, (1_004 * 1_005) / 2, 'the totals hold everybody')
})
