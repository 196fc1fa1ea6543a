// Benchmarks from the outside: of machines with known speeds, of one that changes, through a kill; and what may not be measured.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { startMachine } from '../fleet/fleet.ts'
import type { MachineSpec, ModelSpec } from '../fleet/machine.ts'
import { createDatabase } from '../support/cluster.ts'
import { newFolder, type RunningGateway, startGateway } from '../support/gateway.ts'
import { startCompatible } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

type Json = Record<string, unknown>

const program = fileURLToPath(new URL('../../bin/llm-mcp.js', import.meta.url))
const model = 'llama3.2:3b'
// A token takes 25 ms: a timer that is late by a millisecond is 4 % of it at most, and the machine catches up.
const known: ModelSpec = { name: model, loadMs: 600, promptTokensPerS: 2_000, tokensPerS: 40, slowdown: 0.5 }
const spec: MachineSpec = { models: [known], slots: 4, answerTokens: 24, isWarm: true }

async function call(
  gateway: RunningGateway,
  path: string,
  init: { method?: string; json?: unknown } = {}
): Promise<{ status: number; body: Json }> {
  const { method = init.json === undefined ? 'GET' : 'POST', json } = init
  const answer = await gateway.fetch(path, { method, ...(json !== undefined && { json, method }) })
  return { status: answer.status, body: (await answer.json()) as Json }
}

async function house(t: Test, { machine = {}, env = {} }: { machine?: Partial<MachineSpec>; env?: Record<string, string> } = {}) {
  const { url: databaseUrl, pool } = await createDatabase(t)
  const box = await startMachine(t, { ...spec, ...machine })
  const folder = await newFolder(t)
  const options = { databaseUrl, folder, env, config: { machines: { box: { url: box.url, max_concurrency: 4 } } } }
  const gateway = await startGateway(t, options)
  return { box, gateway, pool, restart: () => startGateway(t, options) }
}

async function finished(gateway: RunningGateway, id: unknown, ms = 60_000): Promise<Json> {
  return until(
    'the benchmark to be over',
    async () => {
      const { body } = await call(gateway, `/v1/benchmarks/${String(id)}`)
      return body.finished_at === null ? null : body
    },
    ms
  )
}

async function profileOf(gateway: RunningGateway): Promise<Json | null> {
  const { body } = await call(gateway, '/v1/devices/box')
  return (body.models as Json[])[0]?.profile as Json | null
}

function isWithin(t: Test, share: number, [found, truth]: readonly [unknown, number], what: string): void {
  const off = Number(found) / truth - 1
  t.ok(typeof found === 'number' && Math.abs(off) <= share, `${what}: ${String(found)} of ${truth}, ${(off * 100).toFixed(1)} % off`)
}

t.test('a benchmark finds the speeds that its machine was given', async t => {
  const { gateway, box, pool } = await house(t)
  t.equal(await profileOf(gateway), null)
  const asked = await call(gateway, '/v1/benchmarks', { json: { device_id: 'box', model } })
  t.match(asked, { status: 202, body: { object: 'benchmark', state: 'queued', device_id: 'box', provider: 'ollama', model, runs: 3 } })
  const over = await finished(gateway, asked.body.id)
  t.match(over, { state: 'done', error: null, progress: { phase: null, done: 15, of: 15 } }, JSON.stringify(over))
  const result = over.result as Json
  t.match(result, { requests: 15, failures: 0 })
  isWithin(t, 0.1, [result.tokens_per_s, 40], 'tokens/s alone')
  isWithin(t, 0.1, [result.tokens_per_s_at_two, 40 / 1.5], 'tokens/s at two')
  isWithin(t, 0.1, [result.tokens_per_s_at_four, 40 / 2.5], 'tokens/s at four')
  isWithin(t, 0.1, [result.prompt_tokens_per_s, 2_000], 'prompt tokens/s')
  isWithin(t, 0.1, [result.load_ms, 600], 'load')
  t.ok(Number(result.variation) < 0.1, `variation ${String(result.variation)}`)
  t.ok(Number(result.ttft_ms) > 20 && Number(result.ttft_ms) < 300, `ttft ${String(result.ttft_ms)}`)
  t.match(over.phases, { load: { skipped: null, requests: 1 }, four: { requests: 4, failures: 0, error: null } })
  t.equal((await box.bill()).loads, 1)

  const profile = (await profileOf(gateway)) as Json
  isWithin(t, 0.1, [profile.tokens_per_s, 40], 'profile: tokens/s alone')
  isWithin(t, 0.1, [profile.tokens_per_s_at_two, 40 / 1.5], 'profile: tokens/s at two')
  isWithin(t, 0.1, [profile.tokens_per_s_at_four, 40 / 2.5], 'profile: tokens/s at four')
  isWithin(t, 0.1, [profile.prompt_tokens_per_s, 2_000], 'profile: prompt tokens/s')
  t.match(profile, { samples: { answers: 11, loads: 1, failures: 0 } })
  // Also the first of two or four, when its prompt was read before the others came.
  const { prompts } = (profile as { samples: { prompts: number } }).samples
  t.ok(prompts >= 7 && prompts <= 9, `${prompts} prompts`)
  await until('it to be kept', async () => (await pool.query('select from device_models where profile_samples = 11')).rows.length === 1)

  const { rows } = await pool.query('select distinct class, source from jobs')
  t.same(rows, [{ class: 4, source: 'benchmark' }])
  t.match((await call(gateway, `/v1/benchmarks?device=box&model=${model}`)).body, {
    object: 'list',
    data: [{ id: over.id }],
    has_more: false
  })
  t.match((await call(gateway, '/v1/benchmarks?device=other')).body, { data: [] })
})

t.test('a machine that is throttled to a third: its profile follows within 20 requests, and back', async t => {
  const { gateway, box } = await house(t, { machine: { models: [{ ...known, loadMs: 0 }], answerTokens: 10 } })
  const ask = () => gateway.client().chat.completions.create({ model, messages: [{ role: 'user', content: 'hello there' }] })
  for (let count = 0; count < 10; count++) await ask()
  isWithin(t, 0.1, [((await profileOf(gateway)) as Json).tokens_per_s, 40], 'before')
  await box.fault({ throttle: 3 })
  let took = 0
  for (let count = 1; count <= 20; count++) {
    await ask()
    const { tokens_per_s: speed } = (await profileOf(gateway)) as Json
    if (took === 0 && Math.abs(Number(speed) / (40 / 3) - 1) <= 0.1) took = count
  }
  t.comment(`followed after ${took} requests`)
  isWithin(t, 0.1, [((await profileOf(gateway)) as Json).tokens_per_s, 40 / 3], 'after 20')
  await box.fault({ throttle: 1 })
  for (let count = 0; count < 20; count++) await ask()
  isWithin(t, 0.1, [((await profileOf(gateway)) as Json).tokens_per_s, 40], 'after another 20')
})

t.test('a gateway is killed in the middle: the next one goes on, and measures nothing twice that was measured', async t => {
  const { gateway, restart, pool } = await house(t)
  const { body } = await call(gateway, '/v1/benchmarks/run', {
    json: { provider: 'ollama', model, task_type: 'chat', prompt: 'Count to a thousand.', runs: 4, device_id: 'box' }
  })
  await until(
    'it to be in the middle',
    async () => ((await call(gateway, `/v1/benchmarks/${String(body.id)}`)).body.progress as Json).phase === 'alone',
    30_000
  )
  await until(
    'one to run',
    async () => (await pool.query(`select from jobs where metadata ->> 'phase' = 'alone' and status = 'running'`)).rows.length > 0
  )
  await gateway.stop('SIGKILL')
  const next = await restart()
  const over = await finished(next, body.id)
  t.match(over, { state: 'done', progress: { done: 16, of: 16 }, result: { failures: 0, requests: 16 } }, JSON.stringify(over))
  isWithin(t, 0.1, [(over.result as Json).tokens_per_s, 40], 'tokens/s alone')
  const { rows } = await pool.query('select count(*)::integer as count from jobs')
  t.same(rows, [{ count: 16 }], 'no request was made anew')
  const { samples } = (await profileOf(next)) as { samples: Json }
  t.ok(samples.loads === 1 && Number(samples.prompts) >= 4, `what was learned before is known: ${JSON.stringify(samples)}`)
})

t.test('a benchmark waits for people', async t => {
  const { gateway, pool } = await house(t, { machine: { slots: 1 } })
  await call(gateway, '/v1/devices/box', { method: 'PATCH', json: { limits: { max_concurrency: 1 } } })
  await until('one place', async () => (await call(gateway, '/v1/devices/box')).body.max_concurrency === 1)
  const { body } = await call(gateway, '/v1/benchmarks', { json: { model: `box/${model}`, runs: 5 } })
  await until(
    'it to be in the middle',
    async () => ((await call(gateway, `/v1/benchmarks/${String(body.id)}`)).body.progress as Json).phase === 'alone'
  )
  for (let count = 0; count < 3; count++) {
    await gateway.client().chat.completions.create({ model, messages: [{ role: 'user', content: 'hello there' }] })
  }
  const over = await finished(gateway, body.id)
  t.match(over, { state: 'done', phases: { two: { skipped: 'The machine gives 1 at once.' } }, result: { tokens_per_s_at_two: null } })
  isWithin(t, 0.1, [(over.result as Json).tokens_per_s, 40], 'tokens/s alone')
  const { rows } = await pool.query(`select max(attempt_no) as most from jobs where class = 4`)
  t.same(rows, [{ most: 1 }])
})

t.test('the same benchmark asked for again while it runs is the one that runs', async t => {
  const { gateway, pool } = await house(t, { machine: { answerTokens: 10 } })
  const ask = () => call(gateway, '/v1/benchmarks', { json: { device_id: 'box', model, runs: 1 } })
  const [first, second] = await Promise.all([ask(), ask()])
  await until('it to run', async () => (await call(gateway, `/v1/benchmarks/${String(first.body.id)}`)).body.state === 'running', 30_000)
  const third = await ask()
  t.same([second.body.id, third.body.id, third.status], [first.body.id, first.body.id, 202])
  t.match(await finished(gateway, first.body.id), { state: 'done' })
  t.match((await call(gateway, '/v1/benchmarks')).body, { data: [{ id: first.body.id }] })
  const { rows } = await pool.query('select count(*)::integer as count from jobs')
  t.same(rows, [{ count: 13 }], 'it was measured once')
  t.not((await ask()).body.id, first.body.id, 'and anew when it is over')
})

for (const how of ['the benchmark', 'one of its jobs'] as const) {
  t.test(`${how} is cancelled: the request ends at once, and the profile is as before`, async t => {
    // Two tokens a second: an answer of 128 takes a minute.
    const { gateway, box, pool } = await house(t, { machine: { models: [{ ...known, tokensPerS: 2 }], answerTokens: 128 } })
    await gateway.client().chat.completions.create({ model, max_tokens: 8, messages: [{ role: 'user', content: 'hello there' }] })
    const before = await profileOf(gateway)
    t.match(before, { samples: { answers: 1 } })
    const { body } = await call(gateway, '/v1/benchmarks', { json: { device_id: 'box', model } })
    const id = String(body.id)
    const path = `/v1/benchmarks/${id}`
    // The load and three prompts were measured by then.
    await until('it to answer', async () => ((await call(gateway, path)).body.progress as Json).phase === 'alone', 30_000)
    await until('the machine to be at it', async () => (await box.bill()).answering === 1)
    const waiting = await call(gateway, '/v1/benchmarks', { json: { device_id: 'box', model, runs: 2 } })
    t.match(await call(gateway, `/v1/benchmarks/${String(waiting.body.id)}/cancel`, { method: 'POST' }), {
      status: 200,
      body: { state: 'cancelled', started_at: null, progress: { done: 0 } }
    })

    const beganAt = performance.now()
    if (how === 'the benchmark') {
      t.match(await call(gateway, `${path}/cancel`, { method: 'POST' }), { status: 200, body: { id, state: 'cancelled', result: null } })
    } else {
      const { rows } = await pool.query(`select id from jobs where status = 'running'`)
      t.match(await call(gateway, `/v1/jobs/${rows[0].id}/cancel`, { method: 'POST' }), { body: { status: 'cancelled' } })
    }
    await until('the machine to be free', async () => (await box.bill()).answering === 0)
    t.comment(`free after ${Math.round(performance.now() - beganAt)} ms`)
    t.ok(performance.now() - beganAt < 2_000)
    t.match(await finished(gateway, id, 5_000), { state: 'cancelled', error: 'It was cancelled.', finished_at: String })
    // Whoever worked on it has let it go when the machine's next one begins.
    const next = await call(gateway, '/v1/benchmarks', { json: { device_id: 'box', model, runs: 5 } })
    await until('the next one to begin', async () => {
      return (await call(gateway, `/v1/benchmarks/${String(next.body.id)}`)).body.state === 'running'
    })
    t.same(await profileOf(gateway), before)
    t.match(await call(gateway, `/v1/benchmarks/${String(next.body.id)}/cancel`, { method: 'POST' }), { body: { state: 'cancelled' } })
    const { rows: open } = await pool.query(`select phase from (select metadata ->> 'phase' as phase, status from jobs) as job
      where phase <> 'load' and status not in ('done', 'cancelled')`)
    t.same(open, [], 'nothing of it goes on')
    t.match(await call(gateway, `${path}/cancel`, { method: 'POST' }), { status: 200, body: { state: 'cancelled' } }, 'safe twice')
    t.match(await call(gateway, `/v1/benchmarks/${'0'.repeat(8)}-0000-7000-8000-${'0'.repeat(12)}/cancel`, { method: 'POST' }), {
      status: 404
    })
  })
}

t.test('what may not be measured is refused, and who pays anyway is written down', async t => {
  const { url: databaseUrl } = await createDatabase(t)
  const upstream = await startCompatible(t)
  const box = await startMachine(t, { ...spec, models: [known, { ...known, name: 'embed:1b', embedding: true }] })
  const gateway = await startGateway(t, {
    databaseUrl,
    config: {
      machines: { box: { url: box.url } },
      providers: {
        dear: {
          type: 'openai',
          base_url: `${upstream.origin}/v1`,
          api_key: 'sk-dear-0123456789',
          models: ['gold', 'mystery', 'tin']
        }
      },
      prices: {
        'dear/gold': { input_usd_per_1m: 20, output_usd_per_1m: 60 },
        'dear/tin': { input_usd_per_1m: 1, output_usd_per_1m: 2 }
      }
    },
    env: { BENCHMARK_MAX_PRICE_PER_1M: '5' }
  })
  const refused = async (json: Json, status: number, message: RegExp) => {
    const answer = await call(gateway, '/v1/benchmarks', { json })
    t.equal(answer.status, status, JSON.stringify(json))
    t.match(answer.body, { error: { message } }, JSON.stringify(answer.body))
  }
  await refused(
    { provider: 'dear', model: 'gold' },
    400,
    /"dear\/gold" costs \$40 .*\(\$20\).*\(\$60\).*up to \$5 \(BENCHMARK_MAX_PRICE_PER_1M\)/
  )
  await refused({ provider: 'dear', model: 'mystery' }, 400, /price of "dear\/mystery" is unknown.*\$5/)
  await refused({}, 400, /model/)
  await refused({ model: 5 }, 400, /string/)
  await refused({ model: 'nothing' }, 404, /no model "nothing"/)
  await refused({ device_id: 'nobody', model }, 404, /"nobody"/)
  await refused({ device_id: 'box', model: 'embed:1b' }, 400, /does not answer chat/)
  await refused({ model, task_type: 'embed' }, 400, /task_type/)
  for (const runs of [0, 21, 1.5, '3']) await refused({ model, runs }, 400, /runs/)
  t.match((await call(gateway, '/v1/benchmarks')).body, { data: [] }, 'nothing of it was kept')
  t.match(await call(gateway, '/v1/benchmarks/nothing'), { status: 404 })

  const paid = await call(gateway, '/v1/benchmarks', { json: { provider: 'dear', model: 'gold', runs: 1, pay: true } })
  t.match(paid, { status: 202, body: { pays_anyway: true, requested_by: 'admin', device_id: null, provider: 'dear' } })
  t.match(await call(gateway, '/v1/benchmarks', { json: { model: 'dear/tin', runs: 1 } }), { status: 202, body: { pays_anyway: false } })
  t.match(await finished(gateway, paid.body.id), { state: 'done', phases: { load: { skipped: /rented/ } }, result: { load_ms: null } })
})

t.test('llm-mcp bench device measures, shows how far it is, and what came of it', async t => {
  const { gateway } = await house(t, { machine: { answerTokens: 8 } })
  const bench = (...args: string[]) =>
    new Promise<{ code: unknown; stdout: string; stderr: string }>(resolve => {
      const env = { PATH: process.env.PATH, HOME: gateway.folder, LLM_MCP_URL: gateway.url, LLM_MCP_KEY: gateway.key }
      execFile(process.execPath, [program, 'bench', ...args], { env, cwd: gateway.folder }, (error, stdout, stderr) => {
        resolve({ code: error?.code ?? 0, stdout, stderr })
      })
    })
  const run = (...args: string[]) => bench('device', ...args)
  const shown = await run('box', '--runs', '1')
  t.equal(shown.code, 0, shown.stderr)
  t.match(shown.stdout, /model +load +prompt\/s +tokens\/s +at 2 +at 4/)
  t.match(shown.stdout, /llama3\.2:3b/)
  t.match(shown.stderr, /llama3\.2:3b: (alone|[24] at once), \d+ of 13/)
  const json = await run('box', '--model', model, '--runs', '1', '--json')
  t.match(JSON.parse(json.stdout), { object: 'list', data: [{ state: 'done', result: { failures: 0 } }] })
  const { id } = JSON.parse(json.stdout).data[0]
  t.match(await bench('cancel', id), { code: 0, stdout: `${id}  ${model}  done\n` }, 'one that is over stays as it is')
  t.match(await bench('cancel', 'nothing'), { code: 1, stderr: /no benchmark/ })
  const wrong = await run('nobody')
  t.equal(wrong.code, 1)
  t.match(wrong.stderr, /no machine/)
})
