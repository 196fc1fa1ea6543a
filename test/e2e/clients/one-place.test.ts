// A machine with one place, and clients that ask one after another: their own last answer is never in their way.

import t from 'tap'
import { createDatabase } from '../../support/cluster.ts'
import { startGateway } from '../../support/gateway.ts'
import { chunk, nativeLines, say, sayNatively, startCompatible, startOllama } from '../../support/upstream.ts'
import { until } from '../../support/wait.ts'

const database = await createDatabase(t)
const ollama = await startOllama(t)
const studio = await startCompatible(t, { models: [{ id: 'studio-model', created: 1 }] })
const gateway = await startGateway(t, {
  databaseUrl: database.url,
  config: {
    machines: {
      box: { url: ollama.origin, max_concurrency: 1 },
      studio: { url: `${studio.origin}/v1`, type: 'openai', max_concurrency: 1 }
    }
  }
})
const messages = [{ role: 'user', content: 'Hello' }]

for (const [model, fake] of [
  ['llama3.2:3b', ollama],
  ['studio-model', studio]
] as const) {
  for (const stream of [false, true]) {
    t.test(`${model}: fifty requests in a row find the place free, stream: ${stream}`, async t => {
      const refused: unknown[] = []
      for (let round = 0; round < 50; round++) {
        const answer = await gateway.fetch('/v1/chat/completions', { json: { model, messages, stream } })
        const text = await answer.text()
        if (answer.status !== 200) refused.push(text)
      }
      t.same(refused, [])
      t.equal(fake.running.most, 1)
    })
  }

  t.test(`${model}: who stops an answer may ask again at once`, async t => {
    for (let round = 0; round < 5; round++) {
      fake.behaviour = (call, response) => {
        response.writeHead(200, { 'content-type': fake === ollama ? 'application/x-ndjson' : 'text/event-stream' })
        response.write(fake === ollama ? nativeLines(String(call.body.model), 'x', 'y')[0] : chunk({ role: 'assistant', content: 'x' }))
      }
      const before = fake.aborted.count
      const stop = new AbortController()
      const answer = await gateway.fetch('/v1/chat/completions', { json: { model, messages, stream: true }, signal: stop.signal })
      t.equal(answer.status, 200)
      if (answer.status !== 200) return
      await answer.body?.getReader().read()
      stop.abort()
      await until('the upstream to be closed', () => fake.aborted.count === before + 1)
      fake.behaviour = fake === ollama ? sayNatively('Hello') : say('Hello')
      const next = await gateway.fetch('/v1/chat/completions', { json: { model, messages } })
      t.equal(next.status, 200)
      await next.text()
      t.equal(fake.running.most, 1, 'and the machine never has two')
    }
  })
}
