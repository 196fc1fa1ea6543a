// Own machines: their limit is exact, their context is respected, and nobody is charged for what never ran.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { type Behaviour, nativeLines, startCompatible, startOllama } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const database = await createDatabase(t)
const ollama = await startOllama(t)
const studio = await startCompatible(t, { models: [{ id: 'local-model', max_model_len: 4_096 }] })
const config = {
  machines: {
    box: { url: ollama.origin, max_concurrency: 4, vram_gb: 8, watts: 200 },
    studio: { url: `${studio.origin}/v1`, type: 'openai', max_concurrency: 1 }
  }
}
const gateways = [
  await startGateway(t, { databaseUrl: database.url, config }),
  await startGateway(t, { databaseUrl: database.url, config })
] as const
const [gateway] = gateways
for (const one of gateways) {
  await until('the list', async () => (await (await one.fetch('/v1/models')).text()).includes('llama3.2:3b'))
}
const chat = { model: 'llama3.2:3b', messages: [{ role: 'user', content: 'hi' }] }

/** Holds every call until `open` is called. */
function gate(): { behaviour: Behaviour; open(): void } {
  const waiting: (() => void)[] = []
  let isOpen = false
  return {
    behaviour(call, response) {
      const answer = (): void => {
        response.writeHead(200, { 'content-type': 'application/x-ndjson' })
        response.end(nativeLines(String(call.body.model), 'Hel', 'lo').join(''))
      }
      if (isOpen) answer()
      else waiting.push(answer)
    },
    open() {
      isOpen = true
      for (const answer of waiting) answer()
    }
  }
}

t.test('24 callers of two gateways on a machine with 4 slots: it never sees 5, and the others wait for their turn', async t => {
  const held = gate()
  ollama.behaviour = held.behaviour
  ollama.running.most = 0
  const answers = Array.from({ length: 24 }, (_, index) =>
    (index % 2 === 0 ? gateways[0] : gateways[1]).fetch('/v1/chat/completions', { json: chat })
  )
  await until('all others to wait', async () => (await queued()) === 20 && ollama.running.now === 4)
  held.open()
  for (const answer of answers) t.equal((await answer).status, 200)
  t.equal(ollama.running.most, 4)
})

async function queued(): Promise<number> {
  const { rows } = await database.pool.query(`select count(*)::int as waiting from jobs where status = 'queued'`)
  return rows[0].waiting
}

t.test('waves of callers that come, go and give up: still never 5, and in the end every slot is free', async t => {
  ollama.running.most = 0
  ollama.behaviour = (call, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    const [first, ...rest] = nativeLines(String(call.body.model), 'a', 'b')
    response.write(first)
    setTimeout(() => response.end(rest.join('')), 5 + Math.random() * 20)
  }
  let done = 0
  async function caller(number: number): Promise<void> {
    for (let round = 0; round < 12; round++) {
      const quits = (number + round) % 3 === 0
      const controller = new AbortController()
      const answer = gateways[number % 2 === 0 ? 0 : 1].fetch('/v1/chat/completions', {
        json: { ...chat, stream: true },
        signal: controller.signal
      })
      if (quits) setTimeout(() => controller.abort(), Math.random() * 15)
      await answer.then(response => response.text()).catch(() => '')
      done++
    }
  }
  await Promise.all(Array.from({ length: 24 }, (_, number) => caller(number)))
  t.equal(done, 288)
  t.ok(ollama.running.most <= 4, `it saw ${ollama.running.most}`)
  t.ok(ollama.running.most > 1)
  await until('every slot to be free', async () => {
    const { rows } = await database.pool.query('select count(*)::int as taken from device_slots where attempt_id is not null')
    return rows[0].taken === 0
  })
})

t.test('a killed gateway gives its slots back within seconds', async t => {
  const third = await startGateway(t, { databaseUrl: database.url, config })
  // It has seen the model loaded: otherwise all but the first would wait for that.
  t.equal((await third.fetch('/v1/chat/completions', { json: chat })).status, 200)
  const held = gate()
  ollama.behaviour = held.behaviour
  const lost = Array.from({ length: 4 }, () => third.fetch('/v1/chat/completions', { json: chat }).catch(() => null))
  await until('the machine to be full', () => ollama.running.now === 4)
  const waiting = gateway.fetch('/v1/chat/completions', { json: chat })
  await until('it to wait', async () => (await queued()) === 1)
  await third.stop('SIGKILL')
  await Promise.all(lost)
  held.open()
  t.equal((await waiting).status, 200)
})

t.test('a compatible server on a machine of ours has slots and electricity too', async t => {
  const answer = await gateway.fetch('/v1/chat/completions', { json: { ...chat, model: 'studio/local-model' } })
  t.equal(answer.status, 200)
  t.equal(answer.headers.get('x-llm-mcp-device'), 'studio')
  const row = await until(
    'its cost',
    async () => (await database.pool.query(`select * from llm_costs where device_id = 'studio' and outcome = 'ok'`)).rows[0]
  )
  t.match(row, { provider: 'studio', price_source: 'electricity', estimated: false })
})

t.test('the context is chosen by memory, pinned, and the same for every gateway', async t => {
  const { rows } = await database.pool.query(`select model, num_ctx from device_models where device_id = 'box'`)
  // 28 layers x 8 heads x 128 x 2 x 2 bytes = 114,688 a token: 2.2 GB of weights leave room for 32k in 92 % of 8 GiB.
  t.same(rows, [{ model: 'llama3.2:3b', num_ctx: 32_768 }])
  ollama.calls.length = 0
  ollama.behaviour = gateNow
  for (const one of gateways) await one.fetch('/v1/chat/completions', { json: chat })
  const sizes = ollama.calls.filter(call => call.path === '/api/chat').map(call => (call.body.options as { num_ctx: number }).num_ctx)
  t.same(sizes, [32_768, 32_768])
})

const gateNow: Behaviour = (call, response) => {
  response.writeHead(200, { 'content-type': 'application/x-ndjson' })
  response.end(nativeLines(String(call.body.model), 'ok').join(''))
}

t.test('a prompt at 95 % of the context passes, at 105 % it is refused, and never cut', async t => {
  // A machine that counts a token for every word, and refuses what does not fit, because it was told not to truncate.
  ollama.behaviour = (call, response, request) => {
    const words = (call.body.messages as { content: string }[]).flatMap(({ content }) => content.split(' ')).length
    const { num_ctx: context } = call.body.options as { num_ctx: number }
    if (call.body.truncate !== false || call.body.shift !== false) return void response.writeHead(500).end()
    if (words > context) {
      response.writeHead(400, { 'content-type': 'application/json' })
      return void response.end(JSON.stringify({ error: 'the prompt is longer than the context length of the model' }))
    }
    void gateNow(call, response, request)
  }
  const prompt = (share: number): object => ({
    ...chat,
    messages: [
      {
        role: 'user',
        content: Array(Math.round(32_768 * share))
          .fill('word')
          .join(' ')
      }
    ]
  })
  t.equal((await gateway.fetch('/v1/chat/completions', { json: prompt(0.95) })).status, 200)
  for (const stream of [false, true]) {
    const over = await gateway.fetch('/v1/chat/completions', { json: { ...prompt(1.05), stream } })
    t.equal(over.status, 400)
    t.match(await over.json(), { error: { code: 'context_length_exceeded', type: 'invalid_request_error', param: 'messages' } })
  }
  const calls = ollama.calls.length
  const far = await gateway.fetch('/v1/chat/completions', { json: prompt(4) })
  t.equal(far.status, 400)
  t.match(await far.json(), { error: { code: 'context_length_exceeded' } })
  t.equal(
    ollama.calls.filter(call => call.path === '/api/chat').length,
    ollama.calls.slice(0, calls).filter(call => call.path === '/api/chat').length,
    'refused at once, without asking the machine'
  )
})

t.test('a picture of 4 MB passes, and is not counted as text', async t => {
  ollama.behaviour = gateNow
  const data = Buffer.alloc(4 * 1024 * 1024, 7).toString('base64')
  const answer = await gateway.fetch('/v1/chat/completions', {
    json: {
      ...chat,
      messages: [
        {
          role: 'user',
          content: [
            { type: 'text', text: 'What is this?' },
            { type: 'image_url', image_url: { url: `data:image/png;base64,${data}` } }
          ]
        }
      ]
    }
  })
  t.equal(answer.status, 200, await answer.clone().text())
  const sent = ollama.calls.findLast(({ body }) => body.messages !== undefined)?.body.messages as { content: string; images: string[] }[]
  t.equal(sent[0]?.images[0]?.length, data.length)
  t.equal(sent[0]?.content, 'What is this?')
})
