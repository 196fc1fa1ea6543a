// Audio, images and moderations through the real program and the real SDK.

import { randomBytes } from 'node:crypto'
import OpenAI, { toFile } from 'openai'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { newFolder, startGateway } from '../support/gateway.ts'
import { json, type ProviderBehaviour, startProvider } from '../support/passthrough.ts'
import { until } from '../support/wait.ts'

const upstreamKey = 'sk-proj-canary-upstream-0123456789'
const sound = randomBytes(200_000)
const listed = json(200, { object: 'list', data: [{ id: 'gpt-4o-mini', object: 'model', created: 1, owned_by: 'x' }] })

/** What OpenAI would answer to these four. */
const answers: ProviderBehaviour = (call, response) => {
  if (call.path.endsWith('/models')) return listed(call, response)
  if (call.path.endsWith('/audio/speech')) {
    response.writeHead(200, { 'content-type': 'audio/mpeg' }).end(sound)
    return
  }
  if (call.path.endsWith('/audio/transcriptions'))
    return json(200, { text: 'hello', usage: { type: 'duration', seconds: 3 } })(call, response)
  if (call.path.endsWith('/images/generations')) {
    const usage = { input_tokens: 10, output_tokens: 100, total_tokens: 110, input_tokens_details: { text_tokens: 10, image_tokens: 0 } }
    return json(200, { created: 1, data: [{ b64_json: 'A'.repeat(2_000_000) }], usage })(call, response)
  }
  if (call.path.endsWith('/moderations')) {
    return json(200, { id: 'modr-1', model: 'omni-moderation-latest', results: [{ flagged: false }] })(call, response)
  }
  json(404, { error: { message: 'Unknown', type: 'invalid_request_error', param: null, code: null } })(call, response)
}

const database = await createDatabase(t)
const provider = await startProvider(t, answers)
const folder = await newFolder(t)
const gateway = await startGateway(t, {
  databaseUrl: database.url,
  folder,
  config: { prices: { 'gpt-image-1': { input_usd_per_1m: 5, output_usd_per_1m: 40 } } },
  env: { OPENAI_API_KEY: upstreamKey, OPENAI_UPSTREAM_URL: provider.url, LOG_LEVEL: 'trace' }
})
const posts = () => provider.calls.filter(({ method }) => method === 'POST')

async function rows(count: number) {
  return until(`${count} rows`, async () => {
    const { rows: found } = await database.pool.query(
      'select model, provider, outcome, cost_nano_usd, price_source, attempt_id, request_id from llm_costs order by attempt_id'
    )
    return found.length >= count ? found : null
  })
}

t.test('the SDK speaks, listens, paints and moderates; each call has one row', async t => {
  const client = gateway.client()
  const spoken = await client.audio.speech.create({ model: 'tts-1', voice: 'alloy', input: 'Hello' })
  t.ok(Buffer.from(await spoken.arrayBuffer()).equals(sound))
  t.equal(spoken.headers.get('x-llm-mcp-provider'), 'openai')
  const heard = await client.audio.transcriptions.create({ file: await toFile(sound, 'a.mp3'), model: 'whisper-1' })
  t.equal(heard.text, 'hello')
  t.ok(posts().at(-1)?.body.includes(sound), 'the file arrived')
  const painted = await client.images.generate({ model: 'gpt-image-1', prompt: 'a cat' })
  t.equal(painted.data?.[0]?.b64_json?.length, 2_000_000)
  const moderated = await client.moderations.create({ input: 'hi' })
  t.equal(moderated.results[0]?.flagged, false)
  const booked = await rows(4)
  t.match(booked, [
    { model: 'tts-1', provider: 'openai', outcome: 'ok', cost_nano_usd: null, price_source: 'unknown' },
    { model: 'whisper-1', outcome: 'ok', cost_nano_usd: null, price_source: 'unknown' },
    { model: 'gpt-image-1', outcome: 'ok', cost_nano_usd: /^4050000$/, price_source: 'config' },
    { model: 'moderations', outcome: 'ok', cost_nano_usd: null, price_source: 'unknown' }
  ])
  t.same(
    posts().map(({ headers }) => headers['x-client-request-id']),
    booked.map(row => row.attempt_id)
  )
  for (const { headers } of posts()) t.equal(headers.authorization, `Bearer ${upstreamKey}`)
  await until('the lines of the log', () => gateway.lines().filter(line => line.msg === 'request' && line.outcome === 'ok').length >= 4)
  t.match(
    gateway.lines().find(line => line.model === 'tts-1'),
    { target: 'openai/tts-1', attempts: 1, status: 200, route: '/v1/audio/*' }
  )
  t.notMatch(gateway.output(), new RegExp(`${upstreamKey}|${gateway.key}`))
})

t.test('errors are the SDK’s own', async t => {
  const client = gateway.client()
  await t.rejects(client.post('/audio/unknown', { body: {} }), { status: 404, code: 'upstream_refused' })
  await t.rejects(client.get('/audio/speech'), { status: 405, code: 'method_not_allowed' })
  await t.rejects(client.audio.speech.create({ model: 'm', voice: 'alloy', input: 'x' }, { headers: { 'x-llm-mcp-local-only': 'true' } }), {
    status: 503,
    code: 'no_capacity'
  })
  provider.behaviour = json(401, { error: { message: `Incorrect API key provided: ${upstreamKey}`, code: 'invalid_api_key' } })
  t.teardown(() => {
    provider.behaviour = answers
  })
  const denied = await client.moderations.create({ input: 'x' }).catch((error: unknown) => error)
  t.match(denied, { status: 502, code: 'upstream_denied' })
  t.notMatch(String(denied), upstreamKey)
})

t.test('a key for certain models, with limits', async t => {
  const made = await gateway.fetch('/v1/keys', {
    json: { kind: 'source', source: 'limited', models: ['tts-*'], limits: { requests_per_minute: 2 } }
  })
  const { key } = (await made.json()) as { key: string }
  const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: key, maxRetries: 0 })
  const before = posts().length
  const spoken = await client.audio.speech.create({ model: 'tts-1', voice: 'alloy', input: 'Hello' })
  await spoken.arrayBuffer()
  t.equal(spoken.headers.get('x-ratelimit-limit-requests'), '2')
  t.equal(spoken.headers.get('x-ratelimit-remaining-requests'), '1')
  await t.rejects(client.audio.transcriptions.create({ file: await toFile(sound, 'a.mp3'), model: 'whisper-1' }), {
    status: 403,
    code: 'forbidden'
  })
  await t.rejects(client.moderations.create({ input: 'no model' }), { status: 403, code: 'forbidden' })
  await (await client.audio.speech.create({ model: 'tts-1', voice: 'alloy', input: 'Hello' })).arrayBuffer()
  await t.rejects(client.audio.speech.create({ model: 'tts-1', voice: 'alloy', input: 'x' }), { status: 429, code: 'rate_limit_exceeded' })
  t.equal(posts().length, before + 2)
})

t.test('an answer that is running when the gateway is told to stop is finished', async t => {
  let finish: (() => void) | null = null
  provider.behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'audio/mpeg' }).write('first')
    finish = () => response.end('second')
  }
  const spoken = await gateway.client().audio.speech.create({ model: 'tts-1', voice: 'alloy', input: 'Hello' })
  const stopped = gateway.stop()
  await until('it to be draining', async () => (await fetch(`${gateway.url}/ready`).catch(() => null))?.status !== 200)
  ;(finish as (() => void) | null)?.()
  t.equal(await spoken.text(), 'firstsecond')
  t.equal((await stopped).code, 0)
})
