// Secrets stay ours: a key that an upstream quotes, and an admin key that nobody would have seen.

import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { newFolder, startGateway } from '../support/gateway.ts'
import { answerJson, type Behaviour, chunk, startCompatible } from '../support/upstream.ts'

const secret = 'hunter2CanarySecretXYZ'

t.test('a key that the upstream quotes reaches neither the client nor the log', async t => {
  const database = await createDatabase(t)
  const upstream = await startCompatible(t)
  const gateway = await startGateway(t, {
    databaseUrl: database.url,
    config: { providers: { rent: { base_url: `${upstream.origin}/v1`, api_key: secret, models: ['m'] } } }
  })
  const quote = { error: { message: `Incorrect API key provided: ${secret}.` } }
  const midway: Behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.end(`${chunk({ content: 'x' })}data: ${JSON.stringify(quote)}\n\n`)
  }
  for (const behaviour of [answerJson(401, quote), answerJson(400, quote), answerJson(500, secret), answerJson(200, quote), midway]) {
    upstream.behaviour = behaviour
    const answer = await gateway.fetch('/v1/chat/completions', {
      json: { model: 'rent/m', stream: behaviour === midway, messages: [{ role: 'user', content: 'hi' }] }
    })
    t.notMatch(await answer.text(), secret)
  }
  t.equal((await gateway.stop()).code, 0)
  t.notMatch(gateway.output(), secret)
})

t.test('a first start that fails makes no admin key, and leaves no database running', async t => {
  const folder = await newFolder(t)
  const taken = createServer()
  await new Promise<void>(resolve => taken.listen(0, '127.0.0.1', resolve))
  const { port } = taken.address() as { port: number }
  const start = { databaseUrl: '', folder, ownKey: true, env: { PORT: String(port) } }
  await t.rejects(startGateway(t, start), /is taken/)
  t.notOk(existsSync(join(folder, '.data', 'postgres', 'postmaster.pid')), 'the database is stopped')
  await new Promise(resolve => taken.close(resolve))
  const gateway = await startGateway(t, start)
  t.match(gateway.ready.admin_key, /^sk-llm-/, 'it is shown by the first start that succeeds')
  t.equal((await gateway.stop()).code, 0)
})
