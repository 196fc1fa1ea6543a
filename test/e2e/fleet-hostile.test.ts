// Machines that answer as no honest server does, through a running gateway: one that was found and approved, and one of the
// configuration. They are marked, they cost a bounded amount of memory, and nobody else notices.

import { readFileSync, writeFileSync } from 'node:fs'
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import t, { type Test } from 'tap'
import { startMachine } from '../fleet/fleet.ts'
import { createDatabase } from '../support/cluster.ts'
import { type RunningGateway, startGateway } from '../support/gateway.ts'
import { machine as listening, machineAddress, machinePort, ollama, skipWithoutLoopbackNetwork } from '../support/machines.ts'
import { node, tailnet } from '../support/tailnet.ts'
import { nativeLines } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

t.options.skip = skipWithoutLoopbackNetwork

const model = 'llama3.2:3b'
const mebibyte = 2 ** 20
// Measured 20 to 85, some of it what 5,000 honest answers leave; without a limit of elements the list of 4 MB alone takes 190.
const moreMebibytes = 128
// Of one answer: 4 MiB are read of a list, and as much again waits in the sockets' buffers. Measured 10.
const takenMebibytes = 32
type Json = Record<string, unknown>

const block = Buffer.alloc(64 * 1024, 0x78)
/** Again and again for as long as somebody reads, or so often. */
function flood(response: ServerResponse, bytes: Buffer = block, times = Number.POSITIVE_INFINITY): void {
  let left = times
  const pump = (): void => {
    while (left > 0 && !response.destroyed) {
      left--
      if (response.write(bytes)) continue
      response.once('drain', pump)
      return
    }
    if (left === 0) response.end()
  }
  pump()
}

const json = { 'content-type': 'application/json' }
const lines = { 'content-type': 'application/x-ndjson' }
const honest = ollama([model])
const answer: RequestListener = (request, response) => {
  if (request.url === '/api/chat') response.writeHead(200, lines).end(nativeLines(model, 'hi').join(''))
  else honest(request, response)
}

function isChat({ url }: IncomingMessage): boolean {
  return url === '/api/chat'
}

interface Hostility {
  readonly behaviour: (canary: string) => RequestListener
  /** What discovery says of it. */
  readonly detail: RegExp
  /** Of a machine of the configuration: its list cannot be read, a chat cannot be had. */
  readonly error: RegExp | null
  readonly chat: 200 | 502
}

const hostilities: Readonly<Record<string, Hostility>> = {
  'an endless body': {
    behaviour: () => (request, response) => flood(response.writeHead(200, isChat(request) ? lines : json)),
    detail: /larger than/,
    error: /larger than/,
    chat: 502
  },
  'a line of 1 GB without end': {
    behaviour: () => (request, response) => {
      response.writeHead(200, { ...(isChat(request) ? lines : json), 'content-length': String(2 ** 30) })
      flood(response, block, 2 ** 30 / block.length)
    },
    detail: /larger than/,
    error: /larger than/,
    chat: 502
  },
  'a list of 10^6 models': {
    behaviour: () => (request, response) => {
      if (request.url !== '/api/tags') return answer(request, response)
      response.writeHead(200, json).write('{"models":[')
      flood(response, Buffer.from('{"name":"m","model":"m","size":1},'.repeat(2_000)), 500)
    },
    detail: /larger than/,
    error: /larger than/,
    chat: 200
  },
  'as many elements as bytes in a list of 4 MB': {
    behaviour: () => (request, response) => {
      if (request.url !== '/api/tags') return answer(request, response)
      response.writeHead(200, json).end(`{"models":[${'{},'.repeat(1_390_000)}{}]}`)
    },
    detail: /larger than/,
    error: /more than 250000 elements/,
    chat: 200
  },
  'a web page instead of JSON': {
    behaviour: () => (_request, response) => response.writeHead(200, json).end('<!doctype html><title>It works!</title>'),
    detail: /web page/,
    error: /not a JSON object/,
    chat: 502
  },
  'a redirect': {
    behaviour:
      canary =>
      ({ url }, response) =>
        response.writeHead(307, { location: `${canary}${url}` }).end(),
    detail: /redirect/,
    error: /307/,
    chat: 502
  },
  'negative counters': {
    behaviour: () => (request, response) => {
      const entry = {
        name: model,
        model,
        size: -1,
        size_vram: -4e9,
        context_length: -1,
        details: { family: 'llama', context_length: -8_192 }
      }
      const counters = { load_duration: -1e9, prompt_eval_count: -9, prompt_eval_duration: -1e9, eval_count: -2, eval_duration: -1e9 }
      if (request.url === '/api/version') return answer(request, response)
      if (isChat(request)) {
        const last = { model, message: { role: 'assistant', content: 'hi' }, done: true, done_reason: 'stop', ...counters }
        return response.writeHead(200, lines).end(`${JSON.stringify(last)}\n`)
      }
      response.writeHead(200, json).end(JSON.stringify({ models: [entry] }))
    },
    detail: /numbers that cannot be/,
    error: null,
    chat: 200
  }
}

/**
 * One behaviour at two addresses; what is read of its answers, and which are open. The second, which the
 * configuration names, goes on saying its version while `isUp`: a machine that misses its probes is soon down,
 * and then what its lists and chats do is not asked any more.
 */
async function startHostile(t: Test) {
  const state = { behaviour: answer, isUp: true, open: 0, mostBytes: 0, prompts: [] as string[] }
  const addresses = [machineAddress(1), machineAddress(2)] as const
  for (const address of addresses) {
    await listening(t, address, (request, response) => {
      const { socket } = request
      const before = socket.bytesWritten
      state.open++
      if (isChat(request)) state.prompts.push(address)
      response.on('close', () => {
        state.open--
        state.mostBytes = Math.max(state.mostBytes, socket.bytesWritten - before)
      })
      // Read to its end first, as servers do.
      const isProbe = address === addresses[1] && request.url === '/api/version'
      request.resume().on('end', () => (isProbe && state.isUp ? answer : state.behaviour)(request, response))
    })
  }
  return { state, found: addresses[0], configured: addresses[1] }
}

/** Resident memory of a process, MiB: now, and the most since `forgetMost`. */
function memoryOf({ child }: RunningGateway) {
  const read = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]) / 1_024
  return {
    now: () => read('VmRSS'),
    most: () => read('VmHWM'),
    forgetMost: () => writeFileSync(`/proc/${child.pid}/clear_refs`, '5')
  }
}

t.test('hostile machines are marked, cost bounded memory, and no one else notices', async t => {
  const { url: databaseUrl, pool } = await createDatabase(t)
  const { state, found, configured } = await startHostile(t)
  const canary = await listening(t, machineAddress(3), answer)
  const good = await startMachine(t, {
    models: [{ name: model, loadMs: 0, promptTokensPerS: 1e6, tokensPerS: 2_000, slowdown: 0 }],
    slots: 4,
    answerTokens: 5,
    isWarm: true
  })
  const { command } = await tailnet(t, [node('found', found)])
  const gateway = await startGateway(t, {
    databaseUrl,
    env: { TAILSCALE_BIN: command, OLLAMA_PORTS: String(machinePort) },
    config: {
      machines: { good: { url: good.url, max_concurrency: 4 }, set: { url: `http://${configured}:${machinePort}` } },
      discovery: { approve: { names: ['found'] } }
    }
  })
  const device = async (id: string) => (await (await gateway.fetch(`/v1/devices/${id}`)).json()) as Json
  const discover = async () => (await (await gateway.fetch('/v1/discovery/run', { method: 'POST' })).json()) as Json
  const chat = (id: string, stream = false) =>
    gateway.fetch('/v1/chat/completions', { json: { model: `${id}/${model}`, stream, messages: [{ role: 'user', content: 'hi' }] } })
  let watts = 100
  /** A limit that changes makes the gateway ask for the list again. */
  const askAgain = async (id: string) => gateway.fetch(`/v1/devices/${id}`, { method: 'PATCH', json: { limits: { watts: ++watts } } })

  async function allIsWell(): Promise<void> {
    state.behaviour = answer
    await discover()
    await askAgain('set')
    for (const id of ['found', 'set']) {
      await until(`${id} to be well`, async () => {
        const { marks, models, error, health } = (await device(id)) as { marks: string[]; models: Json[]; error: unknown; health: string }
        return marks.length === 0 && models.length === 1 && error === null && health === 'up'
      })
      await until(`${id} to be used`, async () => (await chat(id)).status === 200)
    }
  }

  await allIsWell()
  // Somebody who works with the good machine all the while.
  const served = { count: 0, failed: [] as number[], slowestMs: 0 }
  let isOver = false
  const others = (async () => {
    while (!isOver) {
      const beganAt = performance.now()
      const response = await chat('good')
      await response.text()
      if (response.status !== 200) served.failed.push(response.status)
      served.count++
      served.slowestMs = Math.max(served.slowestMs, performance.now() - beganAt)
    }
  })()
  const stopOthers = (): Promise<void> => {
    isOver = true
    return others
  }
  t.teardown(stopOthers)
  await until('a hundred answers of the good machine', () => served.count >= 100)
  const memory = memoryOf(gateway)
  const before = memory.now()
  memory.forgetMost()

  for (const [what, { behaviour, detail, error, chat: status }] of Object.entries(hostilities)) {
    await t.test(what, async t => {
      const already = served.count
      state.behaviour = behaviour(`http://${canary.address}:${canary.port}`)
      const run = await discover()
      t.match(run, { error: null, gone: [], found: [] })
      t.match(
        (run.unreachable as Json[]).find(({ name }) => name === 'found'),
        { reason: 'hostile', detail }
      )
      t.match(await device('found'), { marks: ['hostile'], state: 'approved' })
      await until('the marked machine to be out of use', async () => (await chat('found')).status === 404)
      const prompts = state.prompts.filter(address => address === found).length
      t.equal((await chat('found')).status, 404)
      t.equal(state.prompts.filter(address => address === found).length, prompts, 'it gets no prompt any more')

      await askAgain('set')
      if (error === null) await until('its list to be read', async () => (await device('set')).error === null)
      else await until('its list to be refused', async () => error.test(String((await device('set')).error)))
      for (const stream of [false, true]) {
        const response = await chat('set', stream)
        const text = await response.text()
        t.equal(response.status, status, `a chat, ${stream ? 'streamed' : 'whole'}: ${text}`)
        t.notMatch(text, /_tokens":-/, 'and no figure of it is below zero')
      }
      await until('a few answers of the good machine', () => served.count >= already + 3)
      await until('every answer to be cut off', () => state.open === 0)
      const more = memory.most() - before
      t.comment(`at most ${more.toFixed(0)} MiB more than the ${before.toFixed(0)} before`)
      t.ok(more < moreMebibytes, `${more} MiB`)
    })
    await allIsWell()
  }

  state.behaviour = (hostilities['an endless body'] as Hostility).behaviour('')
  state.isUp = false
  // A machine of the configuration whose version has no end: it is there, but it never gives an answer.
  await until('it to be declared down', async () => {
    await gateway.fetch('/v1/devices/offline', { json: { device_id: 'set' } })
    return (await device('set')).health === 'down'
  })
  t.match(await device('good'), { health: 'up', marks: [], error: null })
  await stopOthers()
  t.same(served.failed, [], `${served.count} answers of the good machine`)
  t.comment(`${served.count} answers of the good machine, the slowest after ${served.slowestMs.toFixed(0)} ms`)
  t.equal(canary.connections(), 0, 'no redirect was followed')
  const taken = state.mostBytes / mebibyte
  t.comment(`at most ${taken.toFixed(1)} MiB of an answer were taken`)
  t.ok(taken < takenMebibytes, `${taken} MiB`)
  const least = await until('the books to have what it was asked', async () => {
    const { rows } = await pool.query(
      `select min(prompt_tokens) as prompt, min(completion_tokens) as completion from llm_costs where device_id = 'set' and outcome = 'ok'`
    )
    return rows[0].prompt === null ? null : rows[0]
  })
  t.ok(Number(least.prompt) >= 0 && Number(least.completion) >= 0, `and none of ${JSON.stringify(least)} is so in the books`)
})
