// kill -9 in the middle of streams: after the next start every line of the upstream's own bill has exactly one cost row.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { newFolder, type RunningGateway, startGateway } from '../support/gateway.ts'
import { type Behaviour, chunk, nativeLines, startCompatible, startOllama } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const cycles = 50
const folder = await newFolder(t)
const bill = join(folder, 'bill.ndjson')
const database = await createDatabase(t)
const slow: Behaviour = (_call, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  let left = 6
  const timer = setInterval(() => {
    if (left-- > 0) response.write(chunk({ role: 'assistant', content: 'word ' }))
    else response.end(`${chunk({}, {}, 'stop')}data: [DONE]\n\n`)
  }, 5)
  response.on('close', () => clearInterval(timer))
}
const slowNative: Behaviour = (call, response) => {
  response.writeHead(200, { 'content-type': 'application/x-ndjson' })
  const lines = nativeLines(String(call.body.model), 'a ', 'b ', 'c ', 'd ')
  const timer = setInterval(() => {
    const line = lines.shift()
    if (line === undefined) response.end()
    else response.write(line)
  }, 5)
  response.on('close', () => clearInterval(timer))
}
const openai = await startCompatible(t, { behaviour: slow, billPath: bill })
const ollama = await startOllama(t, { behaviour: slowNative, billPath: bill })

function billed(): string[] {
  return readFileSync(bill, 'utf8')
    .trim()
    .split('\n')
    .map(line => (JSON.parse(line) as { attempt: string }).attempt)
}

async function start(): Promise<RunningGateway> {
  return startGateway(t, {
    databaseUrl: database.url,
    folder,
    config: {
      machines: { box: { url: ollama.origin, max_concurrency: 4 } },
      providers: { openai: { base_url: `${openai.origin}/v1`, api_key: 'sk-openai-0000000000', models: ['gpt-4o-mini'] } }
    }
  })
}

/** Callers that never stop asking, until the gateway is gone. */
async function call(gateway: RunningGateway, model: string): Promise<void> {
  for (;;) {
    try {
      const response = await gateway.fetch('/v1/chat/completions', {
        json: { model, stream: true, messages: [{ role: 'user', content: 'hi' }] }
      })
      await response.text()
    } catch {
      return
    }
  }
}

t.test(`${cycles} kills in the middle of streams: nothing is lost, nothing is booked twice`, async t => {
  for (let cycle = 0; cycle < cycles; cycle++) {
    const gateway = await start()
    const before = cycle === 0 ? 0 : billed().length
    const callers = ['openai/gpt-4o-mini', 'openai/gpt-4o-mini', 'llama3.2:3b', 'llama3.2:3b'].map(model => call(gateway, model))
    // Killed at another point each time: after a few calls, and some time into them.
    await until(
      'some calls',
      () =>
        openai.calls.length + ollama.calls.length > 0 &&
        openai.running.now + ollama.running.now > 0 &&
        billed().length > before + (cycle % 5)
    )
    await new Promise(resolve => setTimeout(resolve, Math.random() * 60))
    await gateway.stop('SIGKILL')
    await Promise.all(callers)
  }
  const last = await start()
  const attempts = billed()
  t.equal(new Set(attempts).size, attempts.length)
  const rows = await until('every line of the bill to be booked', async () => {
    const { rows } = await database.pool.query('select attempt_id, outcome, estimated, cost_nano_usd, provider from llm_costs')
    const booked = new Set(rows.map(row => row.attempt_id))
    return attempts.every(attempt => booked.has(attempt)) ? rows : null
  })
  t.equal(new Set(rows.map(row => row.attempt_id)).size, rows.length)
  const lost = rows.filter(row => row.outcome === 'lost')
  t.ok(lost.length >= cycles / 2, `${lost.length} of ${rows.length} were in the air`)
  t.ok(lost.every(row => row.estimated === true && (row.provider !== 'openai' || Number(row.cost_nano_usd) > 0)))
  t.comment(`${attempts.length} lines on the bill, ${rows.length} rows, ${lost.length} of them lost in the air`)
  t.equal((await last.stop()).code, 0)
})
