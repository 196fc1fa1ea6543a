import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const main = fileURLToPath(new URL('../../simulate/main.ts', import.meta.url))
const light = fileURLToPath(new URL('../scenarios/03_light.json', import.meta.url))

interface Ran {
  readonly code: number
  readonly out: string
  readonly err: string
}

function run(...words: readonly string[]): Promise<Ran> {
  return new Promise(resolve => {
    execFile(process.execPath, [main, ...words], { timeout: 60_000 }, (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? -1), out, err })
    })
  })
}

t.test('--json prints scenario, seeds and rows, and nothing else', async t => {
  const { code, out } = await run(light, '--policy', 'least_busy', '--seeds', '1', '--json')
  t.equal(code, 0)
  const answer = JSON.parse(out)
  t.same(Object.keys(answer), ['scenario', 'seeds', 'rows'])
  t.match(answer, { scenario: '03_light', seeds: 1, rows: [{ policy: 'least_busy', unfinished: 0 }] })
  const [row] = answer.rows
  const keys =
    'policy requests unfinished meanS p95S missPct usd usdCloud usdEnergy score regretPct etaMedianErrorPct etaP90CoveragePct p90p50Median'
  for (const key of [...keys.split(' '), 'loads', 'provider429', 'shares']) t.ok(key in row, key)
  t.ok(row.regretPct > 0, 'held against the oracle, which was not asked for')
})

t.test('without --json it is a table with a line for each policy', async t => {
  const { code, out } = await run(light, '--policy', 'cloud_fastest', '--seeds', '1')
  t.equal(code, 0)
  const lines = out.trim().split('\n')
  t.match(lines[0], /^03_light: .* requests, mean of 1$/)
  t.match(lines[2], /^policy .* unfinished$/)
  t.match(lines[3], /^cloud_fastest .* 0\/0\/0\/0\/100 +0$/)
  t.equal(lines.length, 4)
})

t.test('what cannot be asked for is said in a line, with code 2 and nothing on the output', async t => {
  const table: readonly (readonly [readonly string[], RegExp])[] = [
    [[], /^Name one scenario file\.\nnpm run simulate/],
    [[light, light], /^Name one scenario file\./],
    [[light, '--policy', 'toString'], /^There is no policy toString\./],
    [[light, '--seeds', '0'], /^--seeds must be a whole number above 0, not 0\./],
    [[light, '--nonsense'], /^Unknown option '--nonsense'/],
    [['/nowhere.json'], /^\/nowhere\.json: cannot be read \(ENOENT\)\n$/],
    [[main], /main\.ts: is no JSON/]
  ]
  for (const [words, message] of table) {
    const { code, out, err } = await run(...words)
    t.match({ code, out }, { code: 2, out: '' }, words.join(' '))
    t.match(err, message)
  }
})
