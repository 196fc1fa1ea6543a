import t from 'tap'
import { hashKey } from '../../gateway/keys.ts'
import { createKey, readNewKey } from '../../gateway/new-key.ts'
import { GatewayError } from '../../routing/errors.ts'
import { uuidv7 } from '../../routing/ids.ts'
import { findKey } from '../../store/keys.ts'
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
  for (const [body, expected] of cases) t.strictSame({ ...readNewKey(body) }, expected)
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
    [{ source: 'me', ['x'.repeat(1_000)]: 5 }, 'x'.repeat(60)]
  ]
  for (const [body, param] of cases) {
    const error = thrownBy(() => readNewKey(body))
    t.strictSame(
      [error.code, error.param, error.publicCode],
      ['invalid_request', param, 'invalid_value'],
      JSON.stringify(body).slice(0, 80)
    )
    t.ok(error.message.length < 250)
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
