// The server itself: it does not start with an undeclared route, and it goes down without dropping anyone in silence.

import { once } from 'node:events'
import { connect } from 'node:net'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { createGateway, type Gateway } from '../../gateway/app.ts'
import { createKeyCache } from '../../gateway/keys.ts'
import { registerAuth } from '../../gateway/plugins/auth.ts'
import type { Dispatch } from '../../routing/dispatch.ts'
import { uuidv7 } from '../../routing/ids.ts'
import type { Reply } from '../../routing/ports.ts'
import { until } from '../support/wait.ts'

const keyCache = createKeyCache({ find: async () => null, isListening: () => true, now: () => performance.now() })

/** A gateway without authentication, whose requests are handed to `dispatch`. */
async function listening(t: Test, dispatch: Dispatch): Promise<{ gateway: Gateway; url: string }> {
  const never = async (): Promise<never> => {
    throw new Error('not asked for here')
  }
  const gateway = await createGateway({
    version: 'test',
    dispatch,
    limits: { admit: () => ({ headers: () => ({}), settle() {} }), headersOf: () => ({}), close: async () => {} },
    passthrough: {
      provider: null,
      paths: [],
      localOnly: false,
      ledger: null as never,
      outbound: null as never,
      target: () => null as never
    },
    state: { slots: () => [], breakers: () => [] },
    corsOrigins: [],
    unavailable: () => new Set(),
    catalog: () => {
      throw new Error('not asked for here')
    },
    keyCache,
    keys: { create: never, list: never, revoke: never },
    jobs: {
      jobs: {
        submit: never,
        earlier: never,
        find: never,
        result: never,
        list: never,
        cancel: never,
        retry: never,
        redeliver: never,
        watch: never
      },
      webhooks: null,
      weightOf: async () => null
    },
    costs: { summary: never },
    routes: { preview: never as never, find: never, submitted: never as never },
    snapshot: never,
    benchmarks: { submit: never, find: never, cancel: never, list: never },
    fleet: { list: never, find: never, patch: never, view: () => ({ used: null }), discover: never, lastDiscovery: never, check: never },
    pingDatabase: async () => {},
    auth: false,
    allowedHosts: [],
    newId: () => uuidv7(Date.now()),
    logRequest: () => {},
    logFault: (_message, error) => t.error(error)
  })
  await gateway.app.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(() => gateway.drain(0))
  const { port } = gateway.app.server.address() as { port: number }
  return { gateway, url: `http://127.0.0.1:${port}` }
}

function ask(url: string): Promise<Response> {
  return fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'x', stream: true, messages: [{ role: 'user', content: 'hi' }] })
  })
}

function dispatchBy(run: Dispatch['run']): Dispatch {
  return { run, plan: () => ({ action: 'enqueue', feasible: [], rejected: [] }), canCarry: () => true }
}

/** Runs that send one token and then wait until they are cancelled or told to finish. */
function waiting(): { dispatch: Dispatch; replies: Reply[] } {
  const replies: Reply[] = []
  return {
    replies,
    dispatch: dispatchBy((_request, _caller, reply) => {
      replies.push(reply)
      queueMicrotask(() => {
        const target = { id: 'a/b', model: 'b', upstream: { id: 'a', adapter: 'openai', device: null } }
        reply.start({ target: target as never, reason: 'only_target', nanoUsd: null, dropped: [] })
        reply.frames(Buffer.from('data: {"choices":[]}\n\n'))
      })
      return {
        resume() {},
        cancel(error) {
          if (error !== null) reply.fail(error)
          reply.over({
            outcome: 'aborted',
            error,
            target: null,
            attempts: 1,
            rejected: [],
            usage: null,
            nanoUsd: null,
            ttftMs: null,
            calls: []
          })
        }
      }
    })
  }
}

const idle = dispatchBy(() => ({ resume() {}, cancel() {} }))

t.test('a route that does not say which key it needs stops the start', async t => {
  const app = Fastify()
  registerAuth(app, { keys: keyCache, auth: true, allowedHosts: [], corsOrigins: [] })
  t.throws(() => app.get('/undeclared', () => ''), /\/undeclared does not declare the key it needs/)
  t.doesNotThrow(() => app.get('/declared', { config: { requires: ['admin'] } }, () => ''))
})

t.test('draining: not ready, nothing new, open streams finish', async t => {
  const { dispatch, replies } = waiting()
  const { gateway, url } = await listening(t, dispatch)
  const response = await ask(url)
  const drained = gateway.drain(20_000)
  const refused = await ask(url)
  t.equal(refused.status, 503)
  t.match(await refused.json(), { error: { code: 'server_draining' } })
  t.equal((await fetch(`${url}/ready`)).status, 503)
  t.equal((await fetch(`${url}/health`)).status, 200)
  replies[0]?.finish(null)
  t.match(await response.text(), /\[DONE\]/)
  await drained
  await t.rejects(ask(url))
})

t.test('draining: a stream that outlives the limit ends with an error frame', async t => {
  const { dispatch } = waiting()
  const { gateway, url } = await listening(t, dispatch)
  const response = await ask(url)
  await gateway.drain(50)
  const text = await response.text()
  const frame =
    '{"error":{"message":"The gateway is shutting down.","type":"service_unavailable_error","param":null,"code":"server_draining"}}'
  t.ok(text.endsWith(`data: ${frame}\n\n`), text)
  t.notMatch(text, /\[DONE\]/)
})

t.test('draining ends though a client holds an idle connection', async t => {
  const { gateway, url } = await listening(t, idle)
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  await once(socket, 'connect')
  socket.resume()
  await gateway.drain(1_000)
  await until('it to be closed', () => socket.closed || socket.readableEnded)
  socket.destroy()
})
