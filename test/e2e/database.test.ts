// The embedded database is killed under a running gateway: nobody notices for long.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { startGateway } from '../support/gateway.ts'
import { startCompatible, startOllama } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

t.test('kill -9 of the embedded PostgreSQL: running keys work on, machines answer again, costs arrive', async t => {
  const openai = await startCompatible(t)
  const ollama = await startOllama(t)
  const gateway = await startGateway(t, {
    // Empty is the same as unset: the embedded database.
    databaseUrl: '',
    config: {
      machines: { box: { url: ollama.origin } },
      providers: { openai: { base_url: `${openai.origin}/v1`, api_key: 'sk-openai-0000000000', models: ['gpt-4o-mini'] } }
    }
  })
  const ask = (model: string): Promise<Response> =>
    gateway.fetch('/v1/chat/completions', { json: { model, messages: [{ role: 'user', content: 'hi' }] } })
  t.equal((await ask('openai/gpt-4o-mini')).status, 200)
  t.equal((await ask('llama3.2:3b')).status, 200)
  const place = String(gateway.ready.database).replace(/^embedded [\d.]+ in /, '')
  const pid = Number(readFileSync(join(place, 'postmaster.pid'), 'utf8').split('\n')[0])
  process.kill(pid, 'SIGKILL')
  // A rented model needs no database at all, a machine of ours waits for it.
  t.equal((await ask('openai/gpt-4o-mini')).status, 200)
  const own = await until('the machine to answer', async () => {
    const response = await ask('llama3.2:3b')
    return response.status === 200 ? response : null
  })
  t.equal(own.status, 200)
  // Connections of the dead one may have answered for a moment.
  await until(
    'another postmaster',
    () => existsSync(join(place, 'postmaster.pid')) && Number(readFileSync(join(place, 'postmaster.pid'), 'utf8').split('\n')[0]) !== pid
  )
  await until('the costs of all calls', async () => {
    const response = await gateway.fetch('/v1/costs/summary')
    if (response.status !== 200) return false
    const summary = (await response.json()) as { by_provider: { attempts: number }[] }
    const calls = [...openai.calls, ...ollama.calls].filter(call => call.headers['x-client-request-id'] !== undefined).length
    return summary.by_provider.reduce((sum, { attempts }) => sum + attempts, 0) === calls
  })
  t.equal((await gateway.stop()).code, 0)
})
