// llm-mcp route: where a request would go, for people and as JSON.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { adminKey, newFolder, startGateway } from '../support/gateway.ts'
import { startCompatible } from '../support/upstream.ts'
import { until } from '../support/wait.ts'
import { runCommand } from './run.ts'

const database = await createDatabase(t)
const upstreams = [await startCompatible(t), await startCompatible(t)]
const price = (usd: number) => ({ input_usd_per_1m: usd, output_usd_per_1m: usd })
const gateway = await startGateway(t, {
  databaseUrl: database.url,
  env: { OLLAMA_HOST: '' },
  config: {
    providers: Object.fromEntries(
      ['low', 'high'].map((name, at) => [name, { base_url: `${upstreams[at]?.origin}/v1`, api_key: `sk-${name}-00000000000` }])
    ),
    prices: { 'low/gpt-4o-mini': price(1), 'high/gpt-4o-mini': price(5) }
  }
})
await until(
  'the lists to be read',
  async () => (await (await gateway.fetch('/v1/models')).text()).includes('"high/gpt-4o-mini"') || undefined,
  3_000
).catch(() => {})
const folder = await newFolder(t)
const env = { LLM_MCP_URL: gateway.url, LLM_MCP_KEY: adminKey }
const run = (...args: string[]) => runCommand(t, { folder, args: ['route', ...args], env })

t.test('the decision is told in a sentence, and each target in a line', async t => {
  const { code, stdout } = await run('gpt-4o-mini', '--tokens', '1000', '--max-tokens', '100')
  t.equal(code, 0)
  t.match(stdout, /^Rented from low; next best high\/gpt-4o-mini is \$[\d.]+ dearer/)
  t.match(stdout, /It runs by "balanced": [\d.]+ s likely, [\d.]+ s nine times of ten, \$0\.00\d+\./)
  t.match(stdout, /\n1 +low\/gpt-4o-mini +[\d.]+ s +\$0\.00\d+ +chosen\n2 +high\/gpt-4o-mini /)
})

t.test('what would be refused is told as such', async t => {
  const { code, stdout } = await run('gpt-4o-mini', '--max-cost-usd', '0.0000001')
  t.equal(code, 0)
  t.match(stdout, /^It would be refused with 400 no_target_within_budget: .*\n/)
  t.match(stdout, /\n- +low\/gpt-4o-mini .* max_cost/)
  const wrong = await run('gpt-4o-mini', '--max-cost-usd', 'much')
  t.same([wrong.code, wrong.stdout], [1, ''])
  t.match(wrong.stderr, /x-llm-mcp-max-cost-usd must be dollars/)
})

t.test('with --json it is what the gateway says', async t => {
  const { code, stdout } = await run('gpt-4o-mini', '--route', 'cost', '--json')
  t.equal(code, 0)
  t.match(JSON.parse(stdout), { object: 'route', id: null, policy: 'cost', chosen: { target: 'low/gpt-4o-mini' } })
  t.same(
    upstreams.flatMap(({ calls }) => calls.filter(({ method }) => method === 'POST')),
    []
  )
})
