// A tailnet in which hardly anybody answers: the look ends in its time all the same, and says so.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { droppingMachines, machine, ollama, skipWithoutLoopbackNetwork } from '../support/machines.ts'
import { node, tailnet } from '../support/tailnet.ts'

t.test('of 600 silent peers and one that answers, the one is found within 30 s', { skip: skipWithoutLoopbackNetwork }, async t => {
  const { url: databaseUrl } = await createDatabase(t)
  const silent = Array.from({ length: 600 }, (_, index) => `127.60.${Math.floor(index / 200)}.${(index % 200) + 1}`)
  await droppingMachines(t, silent)
  const { port } = await machine(t, '127.60.9.1', ollama(['llama3.2:3b']))
  const nodes = silent.map((address, index) => node(`silent${index}`, address))
  const { command } = await tailnet(t, [...nodes, node('zz', '127.60.9.1')])
  const gateway = await startGateway(t, { databaseUrl, env: { TAILSCALE_BIN: command, OLLAMA_PORTS: String(port) } })
  const beganAt = performance.now()
  const answer = await gateway.fetch('/v1/discovery/run', { method: 'POST' })
  const body = (await answer.json()) as Record<string, unknown>
  t.comment(`answered after ${Math.round(performance.now() - beganAt)} ms, looked for ${String(body.took_ms)} ms`)
  t.equal(answer.status, 200, JSON.stringify(body).slice(0, 500))
  t.match(body, { error: null, added: ['zz'], not_asked: 0 })
  // And this machine's own port, where nobody listens.
  t.equal(body.unreachable_count, 601)
  t.equal((body.unreachable as unknown[]).length, 200)
})

t.test('a look that is asked for before there is a planner is done when one comes', async t => {
  const { url: databaseUrl } = await createDatabase(t)
  const { command } = await tailnet(t, [])
  const env = { TAILSCALE_BIN: command }
  const gateway = await startGateway(t, { databaseUrl, env: { ...env, LLM_MCP_ROLE: 'gateway' } })
  const answer = gateway.fetch('/v1/discovery/run', { method: 'POST' })
  await startGateway(t, { databaseUrl, env: { ...env, LLM_MCP_ROLE: 'planner' } })
  const { status } = await answer
  t.equal(status, 200)
})
