import t from 'tap'
import { nearest } from '../../routing/nearest.ts'

const models = [
  'llama3.2:3b',
  'llama3.2:1b',
  'qwen3:32b',
  'qwen3-coder:30b',
  'openai/gpt-4o-mini',
  'openai/gpt-4.1-mini',
  'openrouter/anthropic/claude-sonnet-4.5',
  'nomic-embed-text'
]

t.test('the likeliest name comes first', async t => {
  const cases: readonly [name: string, candidates: readonly string[], first: string | undefined][] = [
    ['max_concurency', ['url', 'max_concurrency', 'watts'], 'max_concurrency'],
    ['LLAMA3.2:3B', models, 'llama3.2:3b'],
    ['lama3.2:3b', models, 'llama3.2:3b'],
    ['llama3.2:70b', models, 'llama3.2:1b'],
    ['gpt-4o-mni', models, 'openai/gpt-4o-mini'],
    ['gpt-4o-mini', models, 'openai/gpt-4o-mini'],
    ['openrouter/openai/gpt-4o-mini:free', models, 'openai/gpt-4o-mini'],
    ['claude-sonnet', models, 'openrouter/anthropic/claude-sonnet-4.5'],
    ['anthropic/claude-sonnet-4-5', models, 'openrouter/anthropic/claude-sonnet-4.5'],
    ['qwen3', models, 'qwen3:32b'],
    ['nomic-embed-text:latest', models, 'nomic-embed-text'],
    ['ulr', ['api_key', 'url'], 'url'],
    ['ur', ['api_key', 'url'], 'url'],
    ['mistral', models, undefined],
    ['foo', ['role', 'auth', 'config'], undefined],
    ['', models, undefined],
    ['  ', models, undefined],
    ['x', [], undefined]
  ]
  for (const [name, candidates, first] of cases) t.equal(nearest(name, candidates, 3)[0], first, `"${name}"`)
})

t.test('a swap of neighbours is one error, and an error costs less than another vendor or a part', async t => {
  t.same(nearest('abcd', ['abdc', 'abxx', 'vendor/abcd:1', 'xx-abcd-xx'], 10), ['abdc', 'vendor/abcd:1', 'xx-abcd-xx'])
})

t.test('equally near names come shortest first, then by the alphabet, whatever the order of the candidates', async t => {
  const names = ['model-c', 'model-a', 'model-bb', 'model-b']
  const expected = ['model-a', 'model-b', 'model-c', 'model-bb']
  t.same(nearest('model-x', names, 4), expected)
  t.same(nearest('model-x', names.toReversed(), 4), expected)
})

t.test('a candidate is named once, as it is spelled, and never more than the limit', async t => {
  t.same(nearest('gpt', ['GPT', 'GPT', 'gpt2'], 5), ['GPT', 'gpt2'])
  t.same(nearest('gpt', ['GPT', 'gpt2'], 1), ['GPT'])
  t.same(nearest('gpt', ['GPT'], 0), [])
})

t.test('only the first 5,000 candidates are looked at', async t => {
  let taken = 0
  function* candidates() {
    for (;;) yield `candidate-${taken++}`
  }
  t.same(nearest('candidate-4999', candidates(), 1), ['candidate-4999'])
  t.equal(taken, 5001)
  taken = 0
  t.equal(nearest('candidate-5001', candidates(), 9).includes('candidate-5001'), false)
})

t.test('the distance is the one of the whole table, though only a band of it is filled in', async t => {
  let state = 1
  const random = (below: number) => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
    return Math.floor(state / 65_536) % below
  }
  const word = () => Array.from({ length: 1 + random(20) }, () => 'ab'[random(2)]).join('')
  for (let round = 0; round < 20_000; round++) {
    const [name, candidate] = [word(), word()]
    const allowed = Math.min(6, Math.max(1, Math.floor(name.length / 3)))
    const isPart = Math.min(name.length, candidate.length) >= 3 && (name.includes(candidate) || candidate.includes(name))
    const near = nearest(name, [candidate], 1).length === 1
    if (near !== (isPart || wholeTable(name, candidate) <= allowed)) t.fail(`${name} ${candidate}`)
  }
})

/** Optimal string alignment, by the book. */
function wholeTable(a: string, b: string): number {
  const edits = new Map<string, number>()
  const at = (row: number, column: number) => edits.get(`${row},${column}`) ?? 0
  for (let row = 0; row <= a.length; row++) {
    for (let column = 0; column <= b.length; column++) {
      const choices =
        row === 0 || column === 0
          ? [row + column]
          : [at(row - 1, column) + 1, at(row, column - 1) + 1, at(row - 1, column - 1) + (a[row - 1] === b[column - 1] ? 0 : 1)]
      if (row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]) choices.push(at(row - 2, column - 2) + 1)
      edits.set(`${row},${column}`, Math.min(...choices))
    }
  }
  return at(a.length, b.length)
}

t.test('long names are cut, and 5,000 of them are compared in bounded time', async t => {
  const long = 'a'.repeat(100_000)
  t.same(nearest(`${long}x`, [`${long}y`], 1), [`${long}y`])
  t.equal(
    nearest(`${'a'.repeat(200)}x`, [`${'a'.repeat(200)}${'y'.repeat(100)}`], 1).length,
    1,
    'what comes after 200 characters does not count'
  )
  const candidates = Array.from({ length: 5_000 }, (_, index) => `${'a'.repeat(190)}${index}`)
  const start = process.cpuUsage()
  t.equal(nearest(`${'a'.repeat(190)}zzzzzz`, candidates, 3).length, 3)
  const { user } = process.cpuUsage(start)
  // 0.1 s on a 2-core machine; every cell of every table would be ten times that.
  t.ok(user < 1_000_000, `took ${user} us`)
})
