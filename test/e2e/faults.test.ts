// The fault zoo: whatever an upstream does, the client gets an answer from the next target, an OpenAI-shaped error, or an error frame.

import type { ServerResponse } from 'node:http'
import { createServer } from 'node:net'
import OpenAI from 'openai'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { answerJson, type Behaviour, chunk, nativeLines, startCompatible, startOllama } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const database = await createDatabase(t)
const faulty = {
  openai: await startCompatible(t),
  openrouter: await startCompatible(t),
  ollama: await startOllama(t, { models: ['gpt-4o-mini'] })
}
const backup = await startCompatible(t)
const timeouts = { connect_ms: 1_000, first_token_ms: 600, idle_ms: 600, total_ms: 20_000 }
// A port that refuses: taken and given back.
const refusing = await new Promise<number>(resolve => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address() as { port: number }
    server.close(() => resolve(port))
  })
})
const kinds = ['openai', 'openrouter', 'ollama'] as const
type Kind = (typeof kinds)[number]

const gateway = await startGateway(t, {
  databaseUrl: database.url,
  config: {
    machines: {
      'bad-ollama': { url: faulty.ollama.origin, max_concurrency: 8, timeouts },
      'gone-ollama': { url: `http://127.0.0.1:${refusing}`, timeouts }
    },
    providers: {
      'bad-openai': { type: 'openai', base_url: `${faulty.openai.origin}/v1`, api_key: 'sk-bad-openai-00000000', timeouts },
      'bad-openrouter': { type: 'openrouter', base_url: `${faulty.openrouter.origin}/v1`, api_key: 'sk-or-bad-0000000000', timeouts },
      'gone-openai': {
        type: 'openai',
        base_url: `http://127.0.0.1:${refusing}/v1`,
        api_key: 'sk-gone-00000000',
        models: ['gpt-4o-mini'],
        timeouts
      },
      'gone-openrouter': {
        type: 'openrouter',
        base_url: `http://127.0.0.1:${refusing}/v1`,
        api_key: 'sk-or-gone-00000000',
        models: ['gpt-4o-mini'],
        timeouts
      },
      backup: { type: 'openai', base_url: `${backup.origin}/v1`, api_key: 'sk-backup-00000000' }
    },
    aliases: Object.fromEntries(
      kinds.flatMap(kind => [
        [`pair-${kind}`, [`bad-${kind}/gpt-4o-mini`, 'backup/gpt-4o-mini']],
        [`gone-pair-${kind}`, [`gone-${kind}/gpt-4o-mini`, 'backup/gpt-4o-mini']]
      ])
    )
  }
})
const client = gateway.client()
const messages = [{ role: 'user' as const, content: 'hi' }]

function head(kind: Kind, response: ServerResponse): void {
  response.writeHead(200, { 'content-type': kind === 'ollama' ? 'application/x-ndjson' : 'text/event-stream' })
}

/** The first pieces of an answer in the words of this kind. */
function begin(kind: Kind, response: ServerResponse, done: () => void): void {
  head(kind, response)
  if (kind === 'ollama') response.write(nativeLines('gpt-4o-mini', 'Hel', 'lo')[0] as string, done)
  else {
    response.write(chunk({ role: 'assistant', content: '' }))
    response.write(chunk({ content: 'Hel' }), done)
  }
}

interface Fault {
  readonly name: string
  readonly behaviour: (kind: Kind) => Behaviour
  /** Of the bare error; a set, where kinds differ. */
  readonly status: readonly number[]
  /** False: another target would get the same request and refuse it too. */
  readonly movesOn?: false
}

const beforeToken: Fault[] = [
  { name: 'hangs before an answer', behaviour: () => () => {}, status: [504] },
  {
    name: 'hangs after its headers',
    behaviour: kind => (_call, response) => {
      head(kind, response)
      response.flushHeaders()
    },
    status: [502, 504]
  },
  {
    name: 'resets before an answer',
    behaviour: () => (_call, _response, request) => {
      request.socket.resetAndDestroy()
    },
    status: [502]
  },
  {
    name: 'resets after its headers',
    behaviour: kind => (_call, response, request) => {
      head(kind, response)
      response.flushHeaders()
      setImmediate(() => request.socket.resetAndDestroy())
    },
    status: [502]
  },
  {
    name: '401',
    behaviour: kind =>
      answerJson(
        401,
        kind === 'openrouter' ? { error: { message: 'Missing Authentication header', code: 401 } } : { error: 'unauthorized' }
      ),
    status: [502]
  },
  { name: '500', behaviour: () => answerJson(500, { error: { message: 'boom' } }), status: [502] },
  {
    name: '500 with HTML',
    behaviour: () => (_call, response) => {
      response.writeHead(500, { 'content-type': 'text/html' })
      response.end('<html><body><h1>Bad Gateway</h1></body></html>')
    },
    status: [502]
  },
  { name: '200 with an error body', behaviour: () => answerJson(200, { error: { message: 'provider down', code: 502 } }), status: [502] },
  {
    name: '200 with HTML',
    behaviour: () => (_call, response) => {
      response.writeHead(200, { 'content-type': 'text/html' })
      response.end('<html>log in</html>')
    },
    status: [502]
  },
  {
    name: 'malformed events',
    behaviour: kind => (_call, response) => {
      head(kind, response)
      response.end(kind === 'ollama' ? '{oops\n' : 'data: {oops\n\n')
    },
    status: [502]
  },
  {
    name: 'an end without a token',
    behaviour: kind => (_call, response) => {
      head(kind, response)
      response.end()
    },
    status: [502]
  },
  {
    name: '404 for the model',
    behaviour: () => answerJson(404, { error: { message: 'model "gpt-4o-mini" not found', code: 'model_not_found' } }),
    status: [404]
  }
]

const afterToken: { name: string; behaviour: (kind: Kind) => Behaviour }[] = [
  { name: 'hangs', behaviour: kind => (_call, response) => begin(kind, response, () => {}) },
  {
    name: 'resets',
    behaviour: kind => (_call, response, request) => begin(kind, response, () => setTimeout(() => request.socket.resetAndDestroy(), 20))
  },
  { name: 'ends early', behaviour: kind => (_call, response) => begin(kind, response, () => response.end()) },
  {
    name: 'sends an error',
    behaviour: kind => (_call, response) =>
      begin(kind, response, () =>
        response.end(
          kind === 'ollama'
            ? '{"error":"llama runner process has terminated"}\n'
            : `data: ${JSON.stringify({ error: { code: 502, message: 'died' }, choices: [{ index: 0, delta: {}, finish_reason: 'error' }] })}\n\n`
        )
      )
  },
  {
    name: 'sends what is no JSON',
    behaviour: kind => (_call, response) =>
      begin(kind, response, () => response.end(kind === 'ollama' ? '{"model": oops}\n' : 'data: {oops}\n\ndata: [DONE]\n\n'))
  },
  {
    name: 'is cut within an event',
    behaviour: kind => (_call, response) =>
      begin(kind, response, () => response.end(kind === 'ollama' ? '{"model":"gpt' : 'data: {"id":"chat'))
  }
]

for (const kind of kinds) {
  for (const fault of beforeToken) {
    t.test(`${kind}: ${fault.name}: the next target answers`, async t => {
      faulty[kind].behaviour = fault.behaviour(kind)
      const { data, response } = await client.chat.completions.create({ model: `pair-${kind}`, messages }).withResponse()
      t.equal(data.choices[0]?.message.content, 'Hello there')
      t.equal(response.headers.get('x-llm-mcp-provider'), 'backup')
      const streamed = await client.chat.completions.stream({ model: `pair-${kind}`, messages }).finalChatCompletion()
      t.equal(streamed.choices[0]?.message.content, 'Hello there')
    })
    t.test(`${kind}: ${fault.name}: alone, an error in OpenAI's form`, async t => {
      for (const stream of [false, true]) {
        faulty[kind].behaviour = fault.behaviour(kind)
        const answer = await gateway.fetch('/v1/chat/completions', { json: { model: `bad-${kind}/gpt-4o-mini`, messages, stream } })
        const body = (await answer.json()) as { error: Record<string, unknown> }
        t.ok(fault.status.includes(answer.status), `${answer.status}: ${JSON.stringify(body)}`)
        t.same(Object.keys(body.error).sort(), ['code', 'message', 'param', 'type'])
        t.notMatch(JSON.stringify(body), /<html|sk-bad|sk-or-bad/)
      }
    })
  }
  t.test(`${kind}: refuses connections: the next target answers, alone it is an error`, async t => {
    const { response } = await client.chat.completions.create({ model: `gone-pair-${kind}`, messages }).withResponse()
    t.equal(response.headers.get('x-llm-mcp-provider'), 'backup')
    const alone = await gateway.fetch('/v1/chat/completions', { json: { model: `gone-${kind}/gpt-4o-mini`, messages, stream: true } })
    // A machine is known to be away as soon as it was asked once.
    if (alone.status === 503) {
      t.equal(kind, 'ollama')
      return t.match(await alone.json(), { error: { code: 'no_capacity', message: /do not answer now/ } })
    }
    t.equal(alone.status, 502)
    t.equal(alone.headers.get('x-should-retry'), 'false')
    t.match(await alone.json(), { error: { code: 'upstream_unavailable', message: /ECONNREFUSED/ } })
  })
  for (const fault of afterToken) {
    t.test(`${kind}: ${fault.name} after its first token: an error frame, never a clean end`, async t => {
      faulty[kind].behaviour = fault.behaviour(kind)
      const answer = await gateway.fetch('/v1/chat/completions', { json: { model: `bad-${kind}/gpt-4o-mini`, messages, stream: true } })
      const text = await answer.text()
      t.equal(answer.status, 200)
      t.match(text, /"content":"Hel"/)
      t.match(text, /data: \{"error":\{"message":"[^\n]*","type":"server_error","param":null,"code":"upstream_broke"\}\}\n\n$/)
      t.notMatch(text, /\[DONE\]/)
      faulty[kind].behaviour = fault.behaviour(kind)
      const reading = client.chat.completions.stream({ model: `bad-${kind}/gpt-4o-mini`, messages }).finalChatCompletion()
      const error = await reading.then(
        () => null,
        (thrown: unknown) => thrown
      )
      t.ok(error instanceof OpenAI.APIError, String(error))
    })
  }
}

for (const kind of kinds) {
  t.test(`${kind}: 429 with retry-after: others answer, and it is left alone until then`, async t => {
    faulty[kind].behaviour = answerJson(
      429,
      { error: { message: 'slow', type: 'requests', code: 'rate_limit_exceeded' } },
      { 'retry-after': '2' }
    )
    const ask = () => gateway.fetch('/v1/chat/completions', { json: { model: `bad-${kind}/gpt-4o-mini`, messages } })
    const first = await until('the target to be asked again', async () => {
      const answer = await ask()
      return answer.status === 404 || answer.status === 503 ? null : answer
    })
    t.equal(first.status, 429)
    t.ok(Number(first.headers.get('retry-after')) >= 1)
    t.match(await first.json(), { error: { type: 'requests', code: 'rate_limit_exceeded', param: null } })
    const { calls } = faulty[kind]
    const before = calls.length
    const { response } = await client.chat.completions.create({ model: `pair-${kind}`, messages }).withResponse()
    t.equal(response.headers.get('x-llm-mcp-provider'), 'backup')
    const again = await ask()
    t.equal(again.status, 503)
    t.ok(Number(again.headers.get('retry-after')) >= 1)
    t.equal(calls.slice(before).filter(call => call.method === 'POST' && call.path.includes('chat')).length, 0)
  })
}
