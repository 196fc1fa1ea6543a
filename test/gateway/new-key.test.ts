import t from 'tap'
import { hashKey } from '../../gateway/keys.ts'
import { createKey, readNewKey } from '../../gateway/new-key.ts'
import { keyObject } from '../../gateway/routes/keys.ts'
import { GatewayError } from '../../routing/errors.ts'
import { uuidv7 } from '../../routing/ids.ts'
import { findKey, insertKey, noRules } from '../../store/keys.ts'
import { createDatabase } from '../support/cluster.ts'

const later = '2999-01-31T00:00:00Z'

t.test('a key is for somebody, and of a kind', async t => {
  const cases: readonly [body: Record<string, unknown>, expected: Record<string, unknown>][] = [
    [{ source: 'me' }, { kind: 'source', source: 'me', name: '', expiresAt: null }],
    [
      { source: 'me', name: 'laptop', expires_at: later },
      { kind: 'source', source: 'me', name: 'laptop', expiresAt: new Date(later) }
    ],
    [{ kind: 'admin' }, { kind: 'admin', source: 'admin', name: '', expiresAt: null }],
    [
      { kind: 'worker', source: 'gpu-1' },
      { kind: 'worker', source: 'gpu-1', name: '', expiresAt: null }
    ],
    [{ kind: 'metrics' }, { kind: 'metrics', source: 'metrics', name: '', expiresAt: null }],
    [
      { source: 'a.b_c-d@e:f+g', kind: null, name: null, expires_at: null },
      { kind: 'source', source: 'a.b_c-d@e:f+g', name: '', expiresAt: null }
    ],
    [
      { source: 's'.repeat(128), name: 'n'.repeat(200) },
      { kind: 'source', source: 's'.repeat(128), name: 'n'.repeat(200), expiresAt: null }
    ]
  ]
  for (const [body, expected] of cases) t.strictSame({ ...readNewKey(body) }, { ...expected, ...noRules })
})

t.test('a key of a source may have limits, models, providers, a weight, and be shared by people', async t => {
  const { limits: noLimits } = noRules
  const cases: readonly [body: Record<string, unknown>, expected: Record<string, unknown>][] = [
    [{ limits: {}, models: null, providers: null, weight: null, trust_user_header: null }, {}],
    [{ limits: null }, {}],
    [{ limits: { requests_per_minute: 60 } }, { limits: { ...noLimits, requestsPerMinute: 60 } }],
    [
      { limits: { requests_per_minute: 1, tokens_per_minute: 1e12, concurrent_requests: null } },
      { limits: { ...noLimits, requestsPerMinute: 1, tokensPerMinute: 1e12 } }
    ],
    [{ limits: { concurrent_requests: 3 } }, { limits: { ...noLimits, concurrentRequests: 3 } }],
    [{ models: ['qwen3:*', 'local', 'qwen3:*', 'hf.co/a-b/ü*'] }, { models: ['qwen3:*', 'local', 'hf.co/a-b/ü*'] }],
    [
      { providers: ['openai'], weight: 0.01, trust_user_header: true },
      { providers: ['openai'], weight: 0.01, trustUserHeader: true }
    ],
    [
      { models: Array.from({ length: 200 }, (_, index) => `${index}`.padEnd(256, 'm')), weight: 100 },
      { models: Array.from({ length: 200 }, (_, index) => `${index}`.padEnd(256, 'm')), weight: 100 }
    ]
  ]
  for (const [body, expected] of cases) {
    const read = readNewKey({ source: 'me', ...body })
    t.strictSame({ ...read }, { kind: 'source', source: 'me', name: '', expiresAt: null, ...noRules, ...expected })
  }
})

t.test('what is wrong is named, and what is not kept is refused', async t => {
  const cases: readonly [body: Record<string, unknown>, param: string][] = [
    [{}, 'source'],
    [{ source: '' }, 'source'],
    [{ source: 'a b' }, 'source'],
    [{ source: 'a\n' }, 'source'],
    [{ source: 5 }, 'source'],
    [{ source: 's'.repeat(129) }, 'source'],
    [{ source: 'me', kind: 'root' }, 'kind'],
    [{ source: 'me', kind: ['admin'] }, 'kind'],
    [{ source: 'me', name: 5 }, 'name'],
    [{ source: 'me', name: 'n'.repeat(201) }, 'name'],
    [{ source: 'me', expires_at: 'soon' }, 'expires_at'],
    [{ source: 'me', expires_at: 5 }, 'expires_at'],
    [{ source: 'me', expires_at: '2020-01-01T00:00:00Z' }, 'expires_at'],
    [{ source: 'me', max_usd_per_day: 5 }, 'max_usd_per_day'],
    [{ source: 'me', limits: { dollars_per_day: 5 } }, 'limits.dollars_per_day'],
    [{ source: 'me', limits: { ['x'.repeat(1_000)]: 5 } }, `limits.${'x'.repeat(53)}`],
    [{ source: 'me', limits: 5 }, 'limits'],
    [{ source: 'me', limits: [5] }, 'limits'],
    [{ source: 'me', limits: { requests_per_minute: 0 } }, 'limits.requests_per_minute'],
    [{ source: 'me', limits: { requests_per_minute: 1.5 } }, 'limits.requests_per_minute'],
    [{ source: 'me', limits: { requests_per_minute: '60' } }, 'limits.requests_per_minute'],
    [{ source: 'me', limits: { requests_per_minute: Number.NaN } }, 'limits.requests_per_minute'],
    [{ source: 'me', limits: { requests_per_minute: 1e9 + 1 } }, 'limits.requests_per_minute'],
    [{ source: 'me', limits: { tokens_per_minute: -1 } }, 'limits.tokens_per_minute'],
    [{ source: 'me', limits: { tokens_per_minute: 1e12 + 1 } }, 'limits.tokens_per_minute'],
    [{ source: 'me', limits: { concurrent_requests: 1e6 + 1 } }, 'limits.concurrent_requests'],
    [{ source: 'me', models: 'qwen3' }, 'models'],
    [{ source: 'me', models: [] }, 'models'],
    [{ source: 'me', models: [''] }, 'models'],
    [{ source: 'me', models: ['a b'] }, 'models'],
    [{ source: 'me', models: ['a\n'] }, 'models'],
    [{ source: 'me', models: [5] }, 'models'],
    [{ source: 'me', models: ['m'.repeat(257)] }, 'models'],
    [{ source: 'me', models: Array.from({ length: 201 }, (_, index) => `m${index}`) }, 'models'],
    [{ source: 'me', providers: ['p'.repeat(129)] }, 'providers'],
    [{ source: 'me', providers: {} }, 'providers'],
    [{ source: 'me', weight: 0 }, 'weight'],
    [{ source: 'me', weight: 100.5 }, 'weight'],
    [{ source: 'me', weight: Number.NaN }, 'weight'],
    [{ source: 'me', weight: '2' }, 'weight'],
    [{ source: 'me', trust_user_header: 'yes' }, 'trust_user_header'],
    [{ kind: 'admin', limits: { requests_per_minute: 5 } }, 'limits'],
    [{ kind: 'worker', source: 'gpu-1', models: ['a'] }, 'models'],
    [{ kind: 'metrics', providers: ['a'] }, 'providers'],
    [{ kind: 'admin', weight: 2 }, 'weight'],
    [{ kind: 'admin', trust_user_header: true }, 'trust_user_header'],
    [{ source: 'me', ['x'.repeat(1_000)]: 5 }, 'x'.repeat(60)]
  ]
  for (const [body, param] of cases) {
    const error = thrownBy(() => readNewKey(body))
    t.strictSame(
      [error.code, error.param, error.publicCode],
      ['invalid_request', param, 'invalid_value'],
      JSON.stringify(body).slice(0, 80)
    )
    t.ok(error.message.length < 250, error.message)
  }
})

function thrownBy(act: () => unknown): GatewayError {
  try {
    act()
  } catch (error) {
    if (error instanceof GatewayError) return error
    throw error
  }
  throw new Error('it was taken')
}

t.test('a key is stored as its hash and is shown once', async t => {
  const { pool } = await createDatabase(t)
  const request = readNewKey({ source: 'me', name: 'laptop', expires_at: later })
  const made = await createKey(pool, uuidv7(Date.now()), request)
  if (made === null) throw new Error('it was not made')
  t.match(made.key, /^sk-llm-[\w-]{43}$/)
  t.match(await findKey(pool, hashKey(made.key)), {
    id: made.record.id,
    source: 'me',
    name: 'laptop',
    kind: 'source',
    prefix: made.key.slice(0, 11)
  })
  const { rows } = await pool.query('select to_jsonb(api_keys) as row from api_keys')
  t.equal(rows.length, 1)
  t.notOk(JSON.stringify(rows).includes(made.key.slice(12)), 'nothing of it is anywhere')

  const given = 'chosen-by-the-operator-0123456789'
  t.equal((await createKey(pool, uuidv7(Date.now()), request, given))?.key, given)
  t.equal(await createKey(pool, uuidv7(Date.now()), request, given), null, 'the same key twice is one')
})

t.test('what a key may use is stored with it', async t => {
  const { pool } = await createDatabase(t)
  const rules = {
    limits: { requestsPerMinute: 1_000_000_000, tokensPerMinute: 1_000_000_000_000, concurrentRequests: 3 },
    models: ['qwen3:*', 'a"b,{c}'],
    providers: ['openai'],
    weight: 0.25,
    trustUserHeader: true
  }
  const body = {
    source: 'team',
    limits: { requests_per_minute: 1_000_000_000, tokens_per_minute: 1_000_000_000_000, concurrent_requests: 3 },
    models: rules.models,
    providers: rules.providers,
    weight: rules.weight,
    trust_user_header: true
  }
  const made = await createKey(pool, uuidv7(Date.now()), readNewKey(body))
  if (made === null) throw new Error('it was not made')
  t.match(made.record, rules)
  const found = await findKey(pool, hashKey(made.key))
  t.strictSame(found, made.record)
  if (found === null) return
  t.match(keyObject(found), {
    limits: body.limits,
    models: rules.models,
    providers: ['openai'],
    weight: 0.25,
    trust_user_header: true
  })

  const some = await createKey(pool, uuidv7(Date.now()), readNewKey({ source: 'team', limits: { tokens_per_minute: 5 } }))
  t.strictSame(some && keyObject(some.record).limits, { tokens_per_minute: 5 })
  const free = await createKey(pool, uuidv7(Date.now()), { kind: 'admin', source: 'admin', name: '', expiresAt: null })
  if (free === null) throw new Error('it was not made')
  t.match(free.record, noRules)
  t.match(keyObject(free.record), { limits: null, models: null, providers: null, weight: 1, trust_user_header: false })
})

t.test('the database itself refuses rules that nobody would keep', async t => {
  const { pool } = await createDatabase(t)
  const key = { id: '', kind: 'source' as const, source: 'me', name: '', prefix: 'sk-llm-aaaa', expiresAt: null }
  const limits = (changes: Partial<(typeof noRules)['limits']>) => ({ limits: { ...noRules.limits, ...changes } })
  const cases = [
    limits({ requestsPerMinute: 0 }),
    limits({ tokensPerMinute: 0 }),
    limits({ concurrentRequests: -1 }),
    { models: [] },
    { providers: [] },
    { weight: 0 },
    { weight: 101 },
    { kind: 'admin' as const, ...limits({ requestsPerMinute: 5 }) },
    { kind: 'worker' as const, trustUserHeader: true }
  ]
  for (const [index, rules] of cases.entries()) {
    const id = uuidv7(Date.now())
    await t.rejects(insertKey(pool, { ...key, id, hash: hashKey(`${index}`), ...rules }), { code: '23514' }, JSON.stringify(rules))
  }
})
