// What machines have in memory is commanded: a model that pays is loaded, one in use stays, a load that hangs stops nothing else.

import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { type Machine, startMachine } from '../fleet/fleet.ts'
import type { ModelSpec } from '../fleet/machine.ts'
import { createDatabase } from '../support/cluster.ts'
import { type RunningGateway, startGateway } from '../support/gateway.ts'
import { speak } from '../support/mind.ts'
import { startCompatible } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

type Json = Record<string, unknown>
const gb = 1024 ** 3
const rentedMs = 700

function model(name: string, changes: Partial<ModelSpec> = {}): ModelSpec {
  return { name, loadMs: 300, promptTokensPerS: 1e5, tokensPerS: 500, slowdown: 0, bytes: 0.5 * gb, contextTokens: 4_096, ...changes }
}

/** A machine with these models, the first of them in memory, and a provider that rents all of them, not dear and not for nothing. */
async function house(t: Test, models: readonly ModelSpec[], { vramGb = 24, output = 0.1, answerTokens = 5 } = {}) {
  const { url: databaseUrl, pool } = await createDatabase(t)
  const machine = await startMachine(t, { models, slots: 4, answerTokens })
  const names = models.map(({ name }) => name)
  const answer = speak()
  const cloud = await startCompatible(t, {
    models: names.map(id => ({ id, object: 'model', created: 1, owned_by: 'x' })),
    // As long as a rented model usually takes: one that answers at once would be worth no load.
    behaviour: async (call, response, request) => {
      await sleep(rentedMs)
      return answer(call, response, request)
    }
  })
  const [first] = names
  await fetch(`${machine.url}/api/generate`, { method: 'POST', body: JSON.stringify({ model: first, keep_alive: '1h' }) })
  const options = {
    databaseUrl,
    config: {
      machines: { box: { url: machine.url, max_concurrency: 4, vram_gb: vramGb } },
      providers: { rent: { base_url: `${cloud.origin}/v1`, api_key: 'sk-cloud-000000000000' } },
      prices: Object.fromEntries(names.map(name => [`rent/${name}`, { input_usd_per_1m: 0.05, output_usd_per_1m: output }]))
    }
  }
  const start = async (t: Test): Promise<RunningGateway> => {
    const gateway = await startGateway(t, options)
    await until('both to be listed', async () => {
      const { data } = (await (await gateway.fetch('/v1/models')).json()) as { data: { id: string; x_llm_mcp?: { targets?: unknown[] } }[] }
      return names.every(name => data.some(({ id }) => id === name)) && cloud.calls.length > 0
    })
    return gateway
  }
  return { machine, cloud, pool, start, gateway: await start(t) }
}

/** Who answered. */
async function ask(gateway: RunningGateway, name: string, more: Json = {}): Promise<string> {
  const response = await gateway.fetch('/v1/chat/completions', {
    json: { model: name, messages: [{ role: 'user', content: 'Tell me something about the sea.' }], ...more }
  })
  const text = await response.text()
  if (response.status !== 200) throw new Error(`${response.status}: ${text}`)
  return String(response.headers.get('x-llm-mcp-device') ?? response.headers.get('x-llm-mcp-provider'))
}

const commands = async (machine: Machine): Promise<readonly string[]> => (await machine.bill()).commands.slice(1)

t.test('a model that is asked for again and again is loaded, and from then on the machine answers', async t => {
  const { machine, gateway } = await house(t, [model('first'), model('wanted')])
  const by: string[] = [await ask(gateway, 'wanted')]
  t.same(by, ['rent'], 'one request is not worth a load')
  for (let count = 0; count < 40 && by.at(-1) !== 'box'; count++) by.push(await ask(gateway, 'wanted'))
  t.comment(`answered by ${by.join(' ')}`)
  t.same(await commands(machine), ['load wanted'], 'by command, not by a request that waits for it')
  t.equal(by.at(-1), 'box')
  t.equal(await ask(gateway, 'wanted'), 'box')
  t.equal((await machine.bill()).loads, 2)
  const { data } = (await (await gateway.fetch('/v1/devices')).json()) as { data: { models: { id: string; profile: Json | null }[] }[] }
  const [box] = data
  t.match(box?.models.find(({ id }) => id === 'wanted')?.profile, { load_ms: Number }, 'how long it took is known')
})

t.test('a model in use is never thrown out; when nobody uses it, it makes room', async t => {
  const { machine, gateway } = await house(
    t,
    [model('used', { tokensPerS: 20, bytes: 6 * gb }), model('wanted', { tokensPerS: 5_000, bytes: 6 * gb })],
    {
      vramGb: 10,
      output: 20,
      answerTokens: 10_000
    }
  )
  const leaving = new AbortController()
  const stream = await gateway.fetch('/v1/chat/completions', {
    json: { model: 'used', stream: true, messages: [{ role: 'user', content: 'go on' }] },
    signal: leaving.signal
  })
  const reader = (stream.body as ReadableStream<Uint8Array>).getReader()
  await reader.read()
  t.equal((await machine.bill()).loaded[0], 'used')
  const by = new Set<string>()
  for (let count = 0; count < 30; count++) by.add(await ask(gateway, 'wanted'))
  t.same([...by], ['rent'])
  t.same(await commands(machine), [], 'there is no room as long as it answers')
  leaving.abort()
  await until('the machine to answer', async () => (await ask(gateway, 'wanted')) === 'box')
  t.equal((await commands(machine))[0], 'unload used')
  const bill = await machine.bill()
  t.same(bill.unloadedInUse, [])
  t.same(bill.loaded, ['wanted'])
  t.equal(bill.mostLoadsAtOnce, 1)
})

t.test('two models are not loaded at once', async t => {
  const { machine, gateway } = await house(t, [model('first'), model('one', { loadMs: 1_500 }), model('other', { loadMs: 1_500 })])
  await until('both to be loaded', async () => {
    await Promise.all([ask(gateway, 'one'), ask(gateway, 'other')])
    return (await machine.bill()).loaded.length === 3
  })
  const bill = await machine.bill()
  t.equal(bill.mostLoadsAtOnce, 1)
  t.same(bill.commands.slice(1).toSorted(), ['load one', 'load other'])
})

t.test('a load that hangs: what is loaded answers, the rest is rented, and people are told', async t => {
  const { machine, gateway } = await house(t, [model('first'), model('stuck'), model('third')])
  await machine.fault({ stuckLoad: 'stuck' })
  for (let count = 0; count < 100 && (await commands(machine)).length === 0; count++) await ask(gateway, 'stuck')
  t.same(await commands(machine), ['load stuck'])
  // Nobody asks about this machine while it gets stuck.
  const issue = await until(
    'it is told',
    async () => {
      const { issues } = (await (await gateway.fetch('/v1/dashboard')).json()) as {
        issues: { subject: string; severity: string; text: string }[]
      }
      return issues.find(({ subject }) => subject === 'box')
    },
    40_000
  )
  t.match(issue, { severity: 'error', text: /does not finish loading "stuck"/ })
  t.equal(await ask(gateway, 'first'), 'box', 'what it has loaded is used')
  for (const name of ['stuck', 'third']) {
    const by = new Set<string>()
    for (let count = 0; count < 20; count++) by.add(await ask(gateway, name))
    t.same([...by], ['rent'], name)
  }
  t.same(await commands(machine), ['load stuck'], 'nothing else is loaded there')
  await machine.fault({ stuckLoad: null })
  await until('it ends well after all, and is used', async () => (await ask(gateway, 'stuck')) === 'box')
  await until('and is told no more', async () => {
    const { issues } = (await (await gateway.fetch('/v1/dashboard')).json()) as { issues: { subject: string }[] }
    return !issues.some(({ subject }) => subject === 'box')
  })
})

t.test('what was learned of answers is there after a restart', async t => {
  const { pool, start, gateway } = await house(t, [model('first')])
  const answers = async (): Promise<number> => {
    const { rows } = await pool.query(`select state -> 'lengths' -> 'all' as counts from brain_state order by saved_at desc limit 1`)
    return (rows[0]?.counts as number[] | undefined)?.reduce((sum, count) => sum + count, 0) ?? 0
  }
  for (let count = 0; count < 6; count++) await ask(gateway, 'first')
  await gateway.stop()
  t.ok(Math.abs((await answers()) - 6) < 0.1)
  const next = await start(t)
  await ask(next, 'first')
  await until('it is written down while it runs', async () => (await answers()) > 6.9)
  await next.stop()
  t.ok(Math.abs((await answers()) - 7) < 0.1, 'the new one on top of the old ones')
})
