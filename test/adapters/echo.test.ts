import t from 'tap'
import { createAdapter } from '../../adapters/echo.ts'
import { readChatRequest } from '../../gateway/dialects/openai-chat.ts'
import type { Attempt, AttemptEnd, AttemptHandle, AttemptObserver, Target, Usage } from '../../routing/types.ts'
import { until } from '../support/wait.ts'

type Json = Record<string, unknown>

const target: Target = {
  id: 'echo/echo',
  upstream: {
    id: 'echo',
    adapter: 'echo',
    own: true,
    baseUrl: '',
    apiKey: null,
    headers: {},
    device: null,
    timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null
  },
  model: 'echo',
  contextTokens: null,
  maxOutputTokens: null,
  features: null,
  operations: ['chat', 'complete'],
  loaded: true,
  price: { source: 'free', tokens: null },
  createdAt: 0
}

function attemptFor(body: Json): Attempt {
  const asked = { model: 'echo', messages: [{ role: 'user', content: 'hello' }], ...body }
  return { id: 'a', target, request: readChatRequest(Buffer.from(JSON.stringify(asked)), { requestId: 'r', localOnly: false }).request }
}

interface Heard {
  readonly calls: string[]
  readonly events: Json[]
  tokens: number
  body: Json | null
  usage: Usage | null
  usageEvent: Json | null
  end: AttemptEnd | null
  readonly ended: Promise<void>
  readonly handle: AttemptHandle
}

function begin(body: Json, told: (heard: Heard, what: keyof AttemptObserver) => boolean = () => true): Heard {
  const { promise, resolve } = Promise.withResolvers<void>()
  const parse = (event: Buffer) => JSON.parse(event.toString().slice(6)) as Json
  const heard: Heard = {
    calls: [],
    events: [],
    tokens: 0,
    body: null,
    usage: null,
    usageEvent: null,
    end: null,
    ended: promise,
    handle: createAdapter({ now: () => 1_790_000_000_999, randomId: () => '1' }).chat(attemptFor(body), {
      frames(event, tokens) {
        heard.calls.push('frames')
        heard.events.push(parse(event))
        heard.tokens += tokens
        return told(heard, 'frames')
      },
      body(json) {
        heard.calls.push('body')
        heard.body = JSON.parse(json.toString())
        told(heard, 'body')
      },
      usage(usage, event) {
        heard.calls.push('usage')
        heard.usage = usage
        heard.usageEvent = event === null ? null : parse(event)
        told(heard, 'usage')
      },
      end(end) {
        heard.calls.push('end')
        heard.end = end
        resolve()
      }
    })
  }
  return heard
}

const textOf = (events: readonly Json[]) =>
  events.map(({ choices }) => (choices as { delta: { content?: string } }[])[0]?.delta.content ?? '').join('')

function choiceOf({ body }: Heard): { message: { content: string }; finish_reason: string } {
  if (body === null) throw new Error('no answer')
  return (body.choices as [ReturnType<typeof choiceOf>])[0]
}

t.test('the demo says what it is, what to set, and what it was told last', async t => {
  const heard = begin({
    messages: [
      { role: 'system', content: 'SYSTEM' },
      { role: 'user', content: 'first' },
      { role: 'assistant', content: 'ANSWER' },
      { role: 'user', content: [{ type: 'text', text: 'the last' }, { type: 'file' }, { type: 'text', text: 'words' }] },
      { role: 'tool', content: 'TOOL' }
    ]
  })
  await heard.ended
  const choice = choiceOf(heard)
  t.match(choice.message.content, /demo model of llm-mcp.*OLLAMA_HOST.*OPENROUTER_API_KEY.*OPENAI_API_KEY.*You said: the last {1,2}words$/s)
  t.notMatch(choice.message.content, /SYSTEM|ANSWER|TOOL|first/)
  t.match(heard.body, { id: 'chatcmpl-1', object: 'chat.completion', created: 1_790_000_000, model: 'echo' })
  t.equal(choice.finish_reason, 'stop')
  t.same(heard.calls, ['usage', 'body', 'end'])
})

t.test('a long text is not repeated whole, and none not at all', async t => {
  const long = begin({ messages: [{ role: 'user', content: 'x'.repeat(100_000) }] })
  await long.ended
  t.ok(JSON.stringify(long.body).length < 3_500)
  for (const content of ['', null, []]) {
    const heard = begin({ messages: [{ role: 'user', content }] })
    await heard.ended
    t.notMatch(JSON.stringify(heard.body), /You said/)
  }
})

t.test('a stream has a role, the words and a finish, and says the same as the whole answer', async t => {
  const whole = begin({})
  const stream = begin({ stream: true })
  await Promise.all([whole.ended, stream.ended])
  const choice = choiceOf(whole)
  t.equal(textOf(stream.events), choice.message.content)
  t.match(stream.events[0], {
    object: 'chat.completion.chunk',
    choices: [{ delta: { role: 'assistant', content: '' }, finish_reason: null }]
  })
  t.match(stream.events.at(-1), { choices: [{ delta: {}, finish_reason: 'stop' }] })
  t.equal(stream.tokens, stream.events.length - 1)
  t.same(stream.calls.slice(-2), ['usage', 'end'])
  t.match(stream.usageEvent, { choices: [], usage: { completion_tokens: stream.usage?.completionTokens } })
  t.same(stream.usage, whole.usage)
  t.match(stream.usage, { promptTokens: 6, providerNanoUsd: null, busyMs: null })
  t.notOk('usage' in (stream.events[0] ?? {}))
  const asked = begin({ stream: true, stream_options: { include_usage: true } })
  await asked.ended
  t.ok(asked.events.every(event => event.usage === null))
})

t.test('a reader that is full is waited for, after each word', async t => {
  const heard = begin({ stream: true }, () => false)
  const turns = () => new Promise(resolve => setTimeout(resolve, 2))
  // The role is no word; after the first word it waits.
  await until('the first word', () => heard.events.length === 2)
  await turns()
  await turns()
  t.equal(heard.events.length, 2)
  let resumed = 0
  while (heard.end === null && resumed++ < 1_000) {
    heard.handle.resume()
    heard.handle.resume()
    await turns()
  }
  t.strictSame(heard.end, { ok: true })
  const free = begin({ stream: true })
  await free.ended
  t.equal(textOf(heard.events), textOf(free.events))
})

t.test('a reader that has room at once while it is told hears every word once', async t => {
  const heard: Heard = begin({ stream: true }, told => {
    told.handle?.resume()
    return true
  })
  const free = begin({ stream: true })
  await Promise.all([heard.ended, free.ended])
  t.equal(textOf(heard.events), textOf(free.events))
  t.equal(heard.calls.filter(call => call === 'end').length, 1)
})

t.test('an abort ends at once and once, whenever it comes', async t => {
  const total = begin({ stream: true })
  await total.ended
  for (let at = 0; at <= total.events.length; at++) {
    const heard = begin({ stream: true }, (told, what) => {
      if (what === 'frames' && told.events.length === at) told.handle.abort()
      return true
    })
    if (at === 0) heard.handle.abort()
    await heard.ended
    heard.handle.abort()
    heard.handle.resume()
    await new Promise(resolve => setImmediate(resolve))
    t.match(heard.end, { ok: false, error: { code: 'client_gone' } })
    t.same(heard.calls, [...Array(at).fill('frames'), 'end'], `after ${at} events`)
  }
})

t.test('it lists no models, and cannot promise a schema', async t => {
  const adapter = createAdapter({ now: () => 0, randomId: () => '' })
  t.same(await adapter.listModels(target.upstream, new AbortController().signal), [])
  for (const feature of ['json_schema', 'json_object', 'n', 'logprobs', 'forced_tool_choice'] as const)
    t.notOk(adapter.features.has(feature), feature)
})
