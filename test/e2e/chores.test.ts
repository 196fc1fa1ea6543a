// Two processes and one chore: whoever is at it is killed, and the other does it, once.

import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { newFolder, type RunningGateway, startGateway } from '../support/gateway.ts'
import { until } from '../support/wait.ts'

t.test('a chore of a process that is killed is done by another within five seconds, and by nobody twice', async t => {
  const { url: databaseUrl, pool } = await createDatabase(t)
  let isHeld = true
  let asked = 0
  const waiting: ServerResponse[] = []
  const list = JSON.stringify({
    data: [{ id: 'a/one', context_length: 8_192, pricing: { prompt: '0.000001', completion: '0.000001' }, supported_parameters: ['tools'] }]
  })
  // A provider that takes its time: whoever asks for its list stays at it.
  const provider = createServer((request, response) => {
    if (request.url?.includes('/embeddings/')) return void response.writeHead(404).end('{}')
    asked++
    response.setHeader('content-type', 'application/json')
    if (isHeld) waiting.push(response)
    else response.end(list)
  })
  await new Promise<void>(resolve => provider.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    provider.closeAllConnections()
    provider.close()
  })
  const env = {
    OPENROUTER_API_KEY: 'sk-or-0000000000000000',
    OPENROUTER_UPSTREAM_URL: `http://127.0.0.1:${(provider.address() as AddressInfo).port}/api/v1`
  }
  const gateways: RunningGateway[] = []
  for (let count = 0; count < 2; count++) gateways.push(await startGateway(t, { databaseUrl, env, folder: await newFolder(t) }))

  const choreOf = async () =>
    (
      await pool.query(
        `select chores.*, processes.pid from chores left join processes on processes.id = chores.process_id where name = 'models.sync'`
      )
    ).rows[0]
  const first = await until('somebody to be at it', async () => {
    const chore = await choreOf()
    return chore?.pid == null ? null : chore
  })
  t.equal(first.finished_at, null)
  const beganAt = performance.now()
  gateways.find(({ child }) => child.pid === first.pid)?.child.kill('SIGKILL')
  const second = await until('another to be at it', async () => {
    const chore = await choreOf()
    return chore.process_id !== null && chore.process_id !== first.process_id ? chore : null
  })
  const tookMs = performance.now() - beganAt
  t.comment(`after ${tookMs.toFixed(0)} ms`)
  t.ok(tookMs < 10_000, `${tookMs} ms (bound 5,000; a busy machine is slower)`)
  t.not(second.pid, first.pid)
  isHeld = false
  for (const response of waiting.splice(0)) response.end(list)
  const done = await until('it to be done', async () => {
    const chore = await choreOf()
    return chore.succeeded === true ? chore : null
  })
  t.match(done, { process_id: null, note: /openrouter: 1 of 1 models offered/ })
  t.ok(done.due_at.getTime() - Date.now() > 23 * 3_600_000, 'and is due again in a day')
  const living = gateways.find(({ child }) => child.pid !== first.pid) as RunningGateway
  await until('its model to be offered', async () => (await living.fetch('/v1/models/a/one')).status === 200)
  const before = asked
  // Each look of the living one is at all that is due: it had every occasion to do it again.
  for (let look = 0; look < 2; look++) t.match(await (await living.fetch('/v1/discovery/run', { method: 'POST' })).json(), { error: null })
  t.equal(asked, before, 'the provider was not asked again')
  t.match((await choreOf()).finished_at, done.finished_at)
  const { rows } = await pool.query('select count(*)::integer as lists from model_prices')
  t.same(rows, [{ lists: 1 }])
})
