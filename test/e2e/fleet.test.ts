// Machines from the outside: found, proposed, approved, limited; and gone, in every way a machine can go, while others are at work.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { type Machine, startMachine } from '../fleet/fleet.ts'
import type { MachineSpec, ModelSpec } from '../fleet/machine.ts'
import { createDatabase } from '../support/cluster.ts'
import { type RunningGateway, startGateway } from '../support/gateway.ts'
import { machine as listening, ollama } from '../support/machines.ts'
import { node, tailnet } from '../support/tailnet.ts'
import { until } from '../support/wait.ts'

const program = fileURLToPath(new URL('../../bin/llm-mcp.js', import.meta.url))
const model = 'llama3.2:3b'
const quick: ModelSpec = { name: model, loadMs: 0, promptTokensPerS: 1e6, tokensPerS: 2_000, slowdown: 0 }
const usual: MachineSpec = { models: [quick], slots: 2, answerTokens: 5, isWarm: true }
type Json = Record<string, unknown>

async function call(
  gateway: RunningGateway,
  path: string,
  init: { method?: string; json?: unknown } = {}
): Promise<{ status: number; body: Json }> {
  const { method = init.json === undefined ? 'GET' : 'POST', json } = init
  const answer = await gateway.fetch(path, { method, ...(json !== undefined && { json, method }) })
  return { status: answer.status, body: (await answer.json()) as Json }
}

const devices = async (gateway: RunningGateway): Promise<Map<string, Json>> =>
  new Map((((await call(gateway, '/v1/devices')).body.data ?? []) as Json[]).map(device => [String(device.id), device]))

const ask = (gateway: RunningGateway, more: Json = {}) =>
  gateway.client().chat.completions.create({ model, messages: [{ role: 'user', content: 'hi' }], ...more } as never)

t.test('a machine that is found is proposed, gets its first prompt after its approval, and none after it was blocked', async t => {
  const { url: databaseUrl } = await createDatabase(t)
  const machine = await startMachine(t, { ...usual, host: '127.0.0.21', port: 21_434 })
  const { command, show } = await tailnet(t, [node('gpu1', '127.0.0.21'), node('off', '127.0.0.22')])
  const gateway = await startGateway(t, {
    databaseUrl,
    env: { TAILSCALE_BIN: command, OLLAMA_PORTS: '21434' }
  })
  t.match(await call(gateway, '/v1/discovery/last'), { status: 404 })
  const run = await call(gateway, '/v1/discovery/run', { method: 'POST' })
  t.match(run, {
    status: 200,
    body: { object: 'discovery_run', added: ['gpu1'], changed: [], gone: [], error: null, tailscale: { state: 'running' } }
  })
  t.match(
    (run.body.unreachable as Json[]).find(({ name }) => name === 'off'),
    { address: '127.0.0.22', reason: 'refused' }
  )
  t.same((await call(gateway, '/v1/discovery/last')).body, run.body)
  t.match((await devices(gateway)).get('gpu1'), { state: 'proposed', origin: 'tailscale', models_found: 1, version: '0.32.7', models: [] })
  await t.rejects(ask(gateway), /does not exist|404/)
  t.same((await machine.bill()).prompts, {})

  t.match(
    await call(gateway, '/v1/devices/gpu1', { method: 'PATCH', json: { state: 'approved', limits: { max_concurrency: 3, watts: 77 } } }),
    {
      status: 200,
      body: { state: 'approved', limits: { max_concurrency: 3, watts: 77 } }
    }
  )
  await until('its model to be there', async () => (await (await gateway.fetch(`/v1/models/${model}`)).status) === 200)
  t.match(await ask(gateway), { choices: [{ message: { content: /^w0/ } }] })
  await until('its limits to hold', async () => (await devices(gateway)).get('gpu1')?.max_concurrency === 3)
  t.match((await devices(gateway)).get('gpu1'), { watts: 77, models: [{ id: model, loaded: true }] })

  await show([])
  t.match((await call(gateway, '/v1/discovery/run', { method: 'POST' })).body, { gone: ['gpu1'], added: [] })
  t.match((await devices(gateway)).get('gpu1'), { state: 'approved', gone_at: String }, 'what was said of it stays')
  await show([node('renamed', '127.0.0.21', { ID: 'n-gpu1' })])
  t.match((await call(gateway, '/v1/discovery/run', { method: 'POST' })).body, { gone: [], added: ['gpu1'] })
  t.match((await devices(gateway)).get('gpu1'), { gone_at: null })

  await call(gateway, '/v1/devices/gpu1', { method: 'PATCH', json: { state: 'blocked' } })
  await until('its model to be gone', async () => (await (await gateway.fetch(`/v1/models/${model}`)).status) === 404)
  t.equal((await machine.bill()).prompts[model], 1)
})

t.test('an address that was given to another node is sent nothing until that node is approved, and is one machine then', async t => {
  const { url: databaseUrl } = await createDatabase(t)
  const machine = await startMachine(t, { ...usual, host: '127.0.0.25', port: 21_434 })
  const { command, show } = await tailnet(t, [node('gpu5', '127.0.0.25')])
  const gateway = await startGateway(t, { databaseUrl, env: { TAILSCALE_BIN: command, OLLAMA_PORTS: '21434' } })
  const discover = async () => (await call(gateway, '/v1/discovery/run', { method: 'POST' })).body
  const approve = (id: string) => call(gateway, `/v1/devices/${id}`, { method: 'PATCH', json: { state: 'approved' } })
  const isListed = async () => (await gateway.fetch(`/v1/models/${model}`)).status === 200
  t.match(await discover(), { added: ['gpu5'] })
  await approve('gpu5')
  await until('its model to be there', isListed)
  await ask(gateway)

  await show([node('stranger', '127.0.0.25')])
  t.match(await discover(), { gone: ['gpu5'], added: ['stranger'] })
  await until('its model to be gone', async () => !(await isListed()))
  await t.rejects(ask(gateway), /does not exist|404/)
  await t.rejects(ask(gateway, { model: `gpu5/${model}` }), /does not exist|404/)
  t.equal((await machine.bill()).prompts[model], 1)

  await approve('stranger')
  await until('its model to be there again', isListed)
  const all = await devices(gateway)
  t.same([all.get('gpu5')?.watts, typeof all.get('stranger')?.watts], [null, 'number'], 'one record of it is in use')
})

t.test('the same by the command line', async t => {
  const { url: databaseUrl } = await createDatabase(t)
  await startMachine(t, { ...usual, version: '0.17.0', host: '127.0.0.24', port: 21_434 })
  const { command } = await tailnet(t, [node('gpu\u001b[31m2', '127.0.0.24')])
  const gateway = await startGateway(t, { databaseUrl, env: { TAILSCALE_BIN: command, OLLAMA_PORTS: '21434' } })
  const cli = async (...args: string[]) => {
    const env = { PATH: process.env.PATH, LLM_MCP_URL: gateway.url, LLM_MCP_KEY: gateway.key }
    const ran = await promisify(execFile)(process.execPath, [program, 'devices', ...args], { env, cwd: gateway.folder }).catch(
      error => error
    )
    return { out: String(ran.stdout), err: String(ran.stderr), code: ran.code ?? 0 }
  }
  t.match(await cli('discover'), { out: /gpu.*127\.0\.0\.24:21434 +1 +new/, err: /Tailscale/, code: 0 })
  const listed = await cli('list')
  t.match(listed, { out: /proposed, old_ollama/, err: /Proposed, and sent nothing yet: llm-mcp devices approve gpu/ })
  t.notMatch(listed.out + listed.err, '\u001b', 'a machine’s name steers no terminal')
  const id = String([...(await devices(gateway)).keys()].find(name => name.startsWith('gpu')))
  t.match(await cli('approve', id, 'nobody'), { out: `${id}  approved`, err: /nobody: .*no machine/, code: 1 })
  t.match(await cli('limits', id), { out: /No limits/ })
  t.match(await cli('limits', id, '--watts', '90', '--deny-model', 'big:*'), { out: /watts +90\ndeny_models +\["big:\*"\]/ })
  t.match(await cli('limits', id, '--unset', 'deny-model'), { out: /^watts +90\n$/ })
  t.match(await cli('limits', id, '--unset', 'speed'), { err: /"speed" is no limit: there are max_concurrency/, code: 1 })
  t.match(await cli('limits', id, '--watts', 'many'), { err: /must be a number/, code: 1 })
  t.match(JSON.parse((await cli('block', id, '--json')).out), { object: 'list', data: [{ id, state: 'blocked' }] })
})

t.test('a rule of the configuration approves by tag, and limits of a machine say which of its models are used', async t => {
  const { url: databaseUrl } = await createDatabase(t)
  const models = [quick, { ...quick, name: 'big:70b', bytes: 40e9 }, { ...quick, name: 'private:1b' }]
  await startMachine(t, { ...usual, models, host: '127.0.0.23', port: 21_434 })
  const { command } = await tailnet(t, [node('tagged', '127.0.0.23', { Tags: ['tag:gpu'] })])
  const gateway = await startGateway(t, {
    databaseUrl,
    config: { discovery: { approve: { tags: ['tag:gpu'] } } },
    env: { TAILSCALE_BIN: command, OLLAMA_PORTS: '21434', DEVICE_LIMITS_JSON: '{"*": {"max_size_gb": 10}}' }
  })
  t.match((await call(gateway, '/v1/discovery/run', { method: 'POST' })).body, { added: ['tagged'] })
  const names = async () => (((await devices(gateway)).get('tagged')?.models ?? []) as Json[]).map(({ id }) => id)
  await until('two models', async () => (await names()).length === 2)
  t.same((await names()).toSorted(), [model, 'private:1b'])
  await call(gateway, '/v1/devices/tagged', { method: 'PATCH', json: { limits: { deny_models: ['private:*'] } } })
  await until('one model', async () => (await names()).length === 1)
  await call(gateway, '/v1/devices/tagged', { method: 'PATCH', json: { limits: { deny_models: null, max_size_gb: 100 } } })
  await until('three models', async () => (await names()).length === 3)
})

t.test('a machine that is taken out of the configuration is gone, keeps its history, and comes back with it', async t => {
  const { url: databaseUrl, pool } = await createDatabase(t)
  const [kept, removed] = await Promise.all([startMachine(t, usual), startMachine(t, { ...usual, models: [{ ...quick, name: 'own:1b' }] })])
  const both = { kept: { url: kept.url }, removed: { url: removed.url } }
  const isUp = (gateway: RunningGateway, id: string) => async () => (await devices(gateway)).get(id)?.health === 'up'
  const first = await startGateway(t, { databaseUrl, config: { machines: both } })
  await until('both to be up', async () => (await isUp(first, 'kept')()) && (await isUp(first, 'removed')()))
  const job = { kind: 'chat', model: 'own:1b', payload: { messages: [{ role: 'user', content: 'hi' }] } }
  const id = String((await call(first, '/v1/jobs', { json: job })).body.id)
  await until('the job to be done', async () => (await call(first, `/v1/jobs/${id}`)).body.status === 'done')

  // Another gateway still has it: it is in use there.
  const second = await startGateway(t, { databaseUrl, config: { machines: { kept: both.kept } } })
  t.match((await devices(second)).get('removed'), { gone_at: null, health: 'up' })
  await second.stop()
  await first.stop()

  const next = await startGateway(t, { databaseUrl, config: { machines: { kept: both.kept } } })
  const all = await devices(next)
  t.match(all.get('removed'), { state: 'approved', gone_at: String, health: 'unknown', watts: null })
  t.match(all.get('kept'), { gone_at: null })
  t.match((await call(next, '/v1/dashboard')).body.issues, [], 'nobody has to do anything')
  t.match(await call(next, `/v1/jobs/${id}`), { body: { status: 'done', device: 'removed' } })
  await t.rejects(ask(next, { model: 'own:1b' }), /does not exist|404/)
  const env = { PATH: process.env.PATH, LLM_MCP_URL: next.url, LLM_MCP_KEY: next.key }
  const { stdout } = await promisify(execFile)(process.execPath, [program, 'devices', 'list'], { env, cwd: next.folder })
  t.match(stdout, /removed +approved, gone +unknown/)
  await next.stop()

  const last = await startGateway(t, { databaseUrl, config: { machines: both } })
  t.match((await devices(last)).get('removed'), { gone_at: null })
  await until('it to be up', isUp(last, 'removed'))
  t.match(await ask(last, { model: 'own:1b' }), { choices: [{}] })
  const { rows } = await pool.query(`select kind from device_events where device_id = 'removed' and kind in ('gone', 'found') order by id`)
  t.same(
    rows.map(({ kind }) => kind),
    ['gone', 'found']
  )
})

t.test('what is wrong with a machine’s body is said, and nothing is changed', async t => {
  const { url: databaseUrl } = await createDatabase(t)
  const machine = await startMachine(t, usual)
  const gateway = await startGateway(t, { databaseUrl, config: { machines: { box: { url: machine.url } } } })
  const cases: readonly [json: unknown, message: RegExp][] = [
    [{}, /nothing to change/],
    [{ state: 'maybe' }, /proposed, approved, blocked/],
    [{ state: 'proposed' }, /in the configuration/],
    [{ watts: 3 }, /only "state" and "limits"/],
    [{ limits: [] }, /an object/],
    [{ limits: { max_concurrency: 0 } }, /integer from 1 to 64/],
    [{ limits: { max_concurrency: 1.5 } }, /integer/],
    [{ limits: { max_context_k: 0 } }, /a number from 1 to/],
    [{ limits: { vram_gb: '24' } }, /a number from 0/],
    [{ limits: { allow_models: 'a' } }, /list of up to 200/],
    [{ limits: { allow_models: ['a b'] } }, /list of up to 200/],
    [{ limits: { __proto__: 1, constructor: 1 } }, /limits\.constructor/]
  ]
  for (const [json, message] of cases) {
    const { status, body } = await call(gateway, '/v1/devices/box', { method: 'PATCH', json })
    t.equal(status, 400, JSON.stringify(json))
    t.match(body, { error: { type: 'invalid_request_error', message } })
  }
  t.match(await call(gateway, '/v1/devices/nobody', { method: 'PATCH', json: { state: 'blocked' } }), { status: 404 })
  t.match(await call(gateway, '/v1/devices/nobody'), { status: 404 })
  t.match(await call(gateway, '/v1/devices/offline', { json: { device_id: 5 } }), { status: 400 })
  t.match(await call(gateway, '/v1/devices/%00'), { status: 404 })
  t.match(await call(gateway, '/v1/devices/%00', { method: 'PATCH', json: { state: 'blocked' } }), { status: 404 })
  t.match(await call(gateway, '/v1/devices/offline', { json: { device_id: '\0' } }), { status: 404 })
  t.match(await call(gateway, '/v1/devices/offline', { json: { device_id: 'box', reason: 'so\0' } }), { status: 200 })
  t.match(await call(gateway, '/v1/devices/offline', { json: { device_id: 'nobody' } }), { status: 404 })
  t.match((await devices(gateway)).get('box'), { state: 'approved', limits: null, origin: 'config' })
})

/** Two machines and a gateway, which has looked at both. */
async function house(t: Test, spec: Partial<MachineSpec> = {}) {
  const { url: databaseUrl } = await createDatabase(t)
  const machines = [await startMachine(t, { ...usual, ...spec }), await startMachine(t, { ...usual, ...spec })] as const
  const config = {
    machines: {
      first: { url: machines[0].url, max_concurrency: 4 },
      second: { url: machines[1].url, max_concurrency: 4 }
    }
  }
  const gateway = await startGateway(t, { databaseUrl, config })
  await until('both to be up', async () => {
    const all = await devices(gateway)
    return ['first', 'second'].every(id => all.get(id)?.health === 'up')
  })
  return { machines, gateway }
}

/** A stream on the first machine, with its first token read; and what becomes of it. */
async function streamOn(gateway: RunningGateway): Promise<{ first: Promise<void>; end: Promise<string> }> {
  const response = await gateway.fetch('/v1/chat/completions', {
    json: { model: `first/${model}`, stream: true, messages: [{ role: 'user', content: 'go on' }] }
  })
  let text = ''
  const began = Promise.withResolvers<void>()
  const end = (async () => {
    for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
      text += Buffer.from(chunk).toString('utf8')
      if (text.includes('w0')) began.resolve()
    }
    return text
  })()
  return { first: began.promise, end }
}

const slow: Partial<MachineSpec> = { models: [{ ...quick, tokensPerS: 20 }], answerTokens: 10_000, slots: 4 }
const short: Partial<MachineSpec> = { models: [{ ...quick, tokensPerS: 20 }], answerTokens: 30, slots: 4 }

for (const [how, away, atMostMs] of [
  ['is killed', (machine: Machine) => machine.kill(), 2_000],
  ['falls silent', async (machine: Machine) => machine.freeze(), 5_000]
] as const) {
  t.test(`a machine ${how}: its jobs run elsewhere, its streams end with an error, and it is told`, async t => {
    const { machines, gateway } = await house(t, short)
    const [first, second] = machines
    const { first: began, end } = await streamOn(gateway)
    await began
    const ids: string[] = []
    for (let count = 0; count < 3; count++) {
      const body = { kind: 'chat', model, payload: { messages: [{ role: 'user', content: `job ${count}` }] } }
      ids.push(String((await call(gateway, '/v1/jobs', { json: body })).body.id))
    }
    const whereOf = async (id: string) => (await call(gateway, `/v1/jobs/${id}`)).body
    await until('the jobs to run', async () => (await Promise.all(ids.map(whereOf))).every(({ status }) => status === 'running'))
    const on = (await Promise.all(ids.map(whereOf))).filter(({ device }) => device === 'first').map(({ id }) => String(id))
    const before = (await second.bill()).prompts[model] ?? 0
    const beganAt = performance.now()
    await away(first)
    if (on.length > 0) {
      await until(
        'the jobs to run on the other machine',
        async () => ((await second.bill()).prompts[model] ?? 0) >= before + on.length,
        20_000
      )
    }
    const tookMs = performance.now() - beganAt
    t.comment(`${on.length} jobs ran on the other machine after ${tookMs.toFixed(0)} ms (bound ${atMostMs})`)
    t.match(await end, /data: \{"error":\{.*"(machine_lost|upstream_broke)/s)
    await until('it is told to be down', async () => (await devices(gateway)).get('first')?.health === 'down')
    t.match((await call(gateway, '/v1/dashboard')).body, {
      object: 'dashboard',
      issues: [{ severity: 'error', text: /is away/ }],
      processes: [{ role: 'all' }],
      costs: { today: { cost_usd: Number }, month: {} },
      jobs: { queued: Number, running: Number }
    })
    for (const id of ids) await until(`job ${id} to be done`, async () => (await whereOf(id)).status === 'done', 20_000)
    for (const id of on) t.match(await whereOf(id), { device: 'second', attempts: 1 }, 'that was not the job’s fault')
    t.match(await ask(gateway, { max_tokens: 1 }), { choices: [{}] }, 'requests go to the other one')

    if (how === 'falls silent') first.thaw()
    else await first.restart()
    await until('it is up again', async () => (await devices(gateway)).get('first')?.health === 'up')
    const said = gateway.lines().flatMap(({ device, msg }) => (device === 'first' ? [msg] : []))
    t.ok(said.includes('a machine is away') && said.includes('a machine is here'), 'and the log says both')
  })
}

t.test('a machine that answers /api/version after 2 s while it reads a long prompt is not given up', async t => {
  const reading: Partial<MachineSpec> = { models: [{ ...quick, promptTokensPerS: 1 }], slots: 4 }
  const { machines, gateway } = await house(t, reading)
  await machines[0].fault({ versionMs: 2_000 })
  // 6 s of reading without a token, at one token a second.
  const answer = ask(gateway, { model: `first/${model}` })
  await t.resolves(answer)
  t.equal((await devices(gateway)).get('first')?.health, 'up')
  t.notOk(
    gateway.lines().some(({ msg, device }) => msg === 'a machine is away' && device === 'first'),
    'it was never declared down'
  )
})

t.test('an Ollama with a known flaw is marked', async t => {
  const { gateway } = await house(t, { version: '0.17.0' })
  await until('it is marked', async () => (await devices(gateway)).get('first')?.version === '0.17.0')
  t.same((await devices(gateway)).get('first')?.marks, ['old_ollama'])
})

t.test('another server in the place of a machine gets no prompts, and is told of', async t => {
  const { url: databaseUrl } = await createDatabase(t)
  let isOther = false
  let prompts = 0
  const honest = ollama([model])
  const { port } = await listening(
    t,
    '127.0.0.1',
    (request, response) => {
      if (request.url === '/api/chat') prompts++
      if (isOther) response.end('{"hello":1}')
      else honest(request, response)
    },
    0
  )
  const gateway = await startGateway(t, { databaseUrl, config: { machines: { box: { url: `http://127.0.0.1:${port}` } } } })
  await until('it to be up', async () => (await devices(gateway)).get('box')?.health === 'up')
  isOther = true
  await until('it to be down', async () => {
    await call(gateway, '/v1/devices/offline', { json: { device_id: 'box' } })
    return (await devices(gateway)).get('box')?.health === 'down'
  })
  t.match((await devices(gateway)).get('box'), { health_note: 'something else answers there' })
  t.match((await call(gateway, '/v1/dashboard')).body, { issues: [{ subject: 'box', text: /is away: something else answers there/ }] })
  await t.rejects(ask(gateway))
  t.equal(prompts, 0)
})

t.test('a hint that a machine is away is checked', async t => {
  const { machines, gateway } = await house(t, slow)
  t.match(await call(gateway, '/v1/devices/offline', { json: { device_id: 'first', reason: 'I tripped over the cable' } }), {
    status: 200,
    body: { health: 'up' }
  })
  await machines[0].kill()
  t.match(await call(gateway, '/v1/devices/offline', { json: { device_id: 'first' } }), { status: 200 })
  await until('it is down', async () => (await devices(gateway)).get('first')?.health === 'down')
})
