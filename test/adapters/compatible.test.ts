import fc from 'fast-check'
import t from 'tap'
import { createAdapter as createOpenAi } from '../../adapters/openai.ts'
import { createAdapter as createOpenRouter } from '../../adapters/openrouter.ts'
import { compatibleBody, originOf, usageFrom } from '../../adapters/shared/dialect.ts'
import { readChatRequest } from '../../gateway/dialects/openai-chat.ts'
import type { ExchangeObserver, Outbound, OutboundRequest } from '../../outbound/client.ts'
import type { GatewayError } from '../../routing/errors.ts'
import type { Attempt, AttemptEnd, AttemptHandle, Target, Timeouts, Upstream, Usage } from '../../routing/types.ts'

const long: Timeouts = { connectMs: 1_000, firstTokenMs: 60_000, idleMs: 60_000, totalMs: 60_000 }

interface Changes {
  readonly body?: Record<string, unknown>
  readonly stream?: boolean
  readonly upstream?: Partial<Upstream>
  readonly model?: string
}

function attemptFor({ body = {}, stream = true, upstream = {}, model = 'm' }: Changes = {}): Attempt {
  const asked = { model: 'm', messages: [{ role: 'user', content: 'hello' }], ...(stream ? { stream } : {}), ...body }
  const where: Upstream = {
    id: 'up',
    adapter: 'openai',
    own: false,
    baseUrl: 'http://up.example/v1',
    apiKey: 'k',
    headers: { 'x-extra': 'e' },
    device: null,
    timeouts: long,
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null,
    ...upstream
  }
  const target: Target = {
    id: `up/${model}`,
    upstream: where,
    model,
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete'],
    loaded: true,
    price: { source: 'unknown', tokens: null },
    createdAt: 0
  }
  return {
    id: 'attempt-1',
    request: readChatRequest(Buffer.from(JSON.stringify(asked)), { requestId: 'r', localOnly: false }).request,
    target
  }
}

/** One exchange without a network: the test is the upstream. */
interface Line {
  readonly outbound: Outbound
  request: OutboundRequest | null
  upstream: ExchangeObserver | null
  aborted: number
  resumed: number
  sent: boolean
}

function createLine(): Line {
  const line: Line = {
    request: null,
    upstream: null,
    aborted: 0,
    resumed: 0,
    sent: true,
    outbound: {
      send(request, observer) {
        line.request = request
        line.upstream = observer
        return {
          get sent() {
            return line.sent
          },
          resume: () => void line.resumed++,
          abort: () => void line.aborted++
        }
      },
      fetchText: () => Promise.reject(new Error('not here')),
      close: () => Promise.resolve()
    }
  }
  return line
}

interface Heard {
  readonly calls: string[]
  readonly frames: Buffer[]
  tokens: number
  body: string | null
  usage: Usage | null
  usageEvent: string | null
  end: AttemptEnd | null
  readonly ended: Promise<void>
  readonly handle: AttemptHandle
  readonly line: Line
}

function begin(changes: Changes = {}, dialect: 'openai' | 'openrouter' = 'openai', room: () => boolean = () => true): Heard {
  const line = createLine()
  const adapter = (dialect === 'openai' ? createOpenAi : createOpenRouter)({ outbound: line.outbound })
  const { promise, resolve } = Promise.withResolvers<void>()
  const heard = {
    calls: [] as string[],
    frames: [] as Buffer[],
    tokens: 0,
    body: null as string | null,
    usage: null as Usage | null,
    usageEvent: null as string | null,
    end: null as AttemptEnd | null,
    ended: promise,
    line
  }
  const handle = adapter.chat(attemptFor(changes), {
    frames(events, tokens) {
      heard.calls.push('frames')
      heard.frames.push(events)
      heard.tokens += tokens
      return room()
    },
    body(json) {
      heard.calls.push('body')
      heard.body = json.toString()
    },
    usage(usage, event) {
      heard.calls.push('usage')
      heard.usage = usage
      heard.usageEvent = event === null ? null : event.toString()
    },
    end(end) {
      heard.calls.push('end')
      heard.end = end
      resolve()
    }
  })
  return Object.assign(heard, { handle })
}

/** The upstream of a call that has begun. */
function up(heard: Heard): ExchangeObserver {
  if (heard.line.upstream === null) throw new Error('nothing was sent')
  return heard.line.upstream
}

const sse = { 'content-type': 'text/event-stream; charset=utf-8' }
const json = { 'content-type': 'application/json' }

/** A whole stream in these pieces; `close`: how the connection ends. */
function play(
  pieces: readonly Buffer[],
  { dialect = 'openai' as 'openai' | 'openrouter', changes = {} as Changes, close = 'end' as 'end' | 'reset' | 'none' } = {}
): Heard {
  const heard = begin(changes, dialect)
  const upstream = up(heard)
  upstream.head(200, sse)
  for (const piece of pieces) if (heard.end === null) upstream.data(piece)
  if (heard.end === null && close === 'end') upstream.end()
  if (heard.end === null && close === 'reset') upstream.error(Object.assign(new Error('reset'), { code: 'ECONNRESET' }), true)
  return heard
}

const passed = (heard: Heard) => Buffer.concat(heard.frames).toString()

function codeOf(end: AttemptEnd | null): string {
  return end === null ? 'running' : end.ok ? 'ok' : end.error.code
}

function failureOf(heard: Heard): GatewayError {
  const { end } = heard
  if (end === null || end.ok) throw new Error(`no failure but ${codeOf(end)}`)
  return end.error
}

// ---- streams as providers write them

type Part = readonly [kind: 'pass' | 'usage' | 'done', event: string]

const base = {
  id: 'chatcmpl-1',
  object: 'chat.completion.chunk',
  created: 1,
  model: 'gpt-4o-mini-2024-07-18',
  service_tier: 'default',
  system_fingerprint: 'fp_1'
}
const chunk = (delta: object, finish: string | null = null, more: object = {}, index = 0) =>
  `data: ${JSON.stringify({ ...base, choices: [{ index, delta, logprobs: null, finish_reason: finish }], ...more })}\n\n`
const figures = {
  prompt_tokens: 19,
  completion_tokens: 10,
  total_tokens: 29,
  prompt_tokens_details: { cached_tokens: 4 },
  completion_tokens_details: { reasoning_tokens: 3 }
}
const usageChunk = `data: ${JSON.stringify({ ...base, choices: [], usage: figures })}\n\n`
const done = 'data: [DONE]\n\n'
const counted: Usage = { promptTokens: 19, completionTokens: 10, cachedTokens: 4, reasoningTokens: 3, providerNanoUsd: null, busyMs: null }

const openAiText: readonly Part[] = [
  ['pass', chunk({ role: 'assistant', content: '', refusal: null }, null, { usage: null })],
  ['pass', chunk({ content: 'Grüße, ' }, null, { usage: null })],
  ['pass', chunk({ content: '中文 😀' }, null, { usage: null, obfuscation: 'aB3' })],
  ['pass', chunk({}, 'stop', { usage: null })],
  ['usage', usageChunk],
  ['done', done]
]
const openAiTools: readonly Part[] = [
  [
    'pass',
    chunk({
      role: 'assistant',
      content: null,
      tool_calls: [{ index: 0, id: 'call_1', type: 'function', function: { name: 'weather', arguments: '' } }],
      refusal: null
    })
  ],
  ['pass', chunk({ tool_calls: [{ index: 0, function: { arguments: '{"error":{"usage":{' } }] })],
  ['pass', chunk({ tool_calls: [{ index: 0, function: { arguments: '"finish_reason":"stop"}}}' } }] })],
  ['pass', chunk({}, 'tool_calls')],
  ['usage', usageChunk],
  ['done', done]
]
const openAiRefusal: readonly Part[] = [
  ['pass', chunk({ role: 'assistant', content: null, refusal: '' })],
  ['pass', chunk({ refusal: "I'm sorry" })],
  ['pass', chunk({}, 'stop')],
  ['done', done]
]
const spoken = (text: string) => chunk({ content: text })
/** Texts that look like everything that is looked for. */
const looksLikeMarkers: readonly Part[] = [
  ['pass', chunk({ role: 'assistant', content: '' })],
  ['pass', spoken('"usage":{"prompt_tokens":1}')],
  ['pass', spoken('data: [DONE]\n\n')],
  ['pass', spoken('[DONE]')],
  ['pass', spoken('{"error":{"message":"no","code":500}}')],
  ['pass', spoken('"finish_reason":"stop"')],
  ['pass', spoken('\n\ndata: {"choices":[]}\r\n\r\n')],
  ['pass', chunk({ content: 'x', error: 'said by the model' })],
  ['pass', chunk({}, 'stop')],
  ['usage', usageChunk],
  ['done', done]
]
const router = { id: 'gen-1', provider: 'Minimax', model: 'minimax/m2', object: 'chat.completion.chunk', created: 1 }
const routed = (delta: object, finish: string | null = null, more: object = {}) =>
  `data: ${JSON.stringify({ ...router, choices: [{ index: 0, delta: { role: 'assistant', content: '', ...delta }, finish_reason: finish, native_finish_reason: finish, logprobs: null }], ...more })}\n\n`
const routerUsage = { ...figures, cost: 0.00001234, is_byok: false, cost_details: { upstream_inference_cost: null } }
const processing = ': OPENROUTER PROCESSING\n\n'
const openRouterText: readonly Part[] = [
  ['pass', processing],
  ['pass', processing],
  ['pass', routed({ reasoning: 'We need', reasoning_details: [{ type: 'reasoning.text', text: 'We need', index: 0 }] })],
  ['pass', processing],
  ['pass', routed({ content: 'Hello' })],
  ['pass', routed({}, 'stop')],
  ['usage', routed({}, 'stop', { usage: routerUsage })],
  ['done', done]
]
const vllmText: readonly Part[] = [
  [
    'pass',
    'data: {"id":"cmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n'
  ],
  [
    'pass',
    'data: {"id":"cmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}]}\n\n'
  ],
  [
    'pass',
    'data: {"id":"cmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop","stop_reason":null}]}\n\n'
  ],
  [
    'usage',
    `data: {"id":"cmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[],"usage": ${JSON.stringify(figures)}}\n\n`
  ],
  ['done', done]
]
/** Each piece brings the figures so far, as vLLM and llama.cpp can. */
const runningUsage: readonly Part[] = [
  ['pass', chunk({ role: 'assistant', content: '' }, null, { usage: { ...figures, completion_tokens: 0 } })],
  ['pass', chunk({ content: 'Hi' }, null, { usage: { ...figures, completion_tokens: 1 } })],
  ['pass', chunk({}, 'stop', { usage: figures })],
  ['done', done]
]
const withOtherFields: readonly Part[] = [
  ['pass', `event: message\nid: 1\n${chunk({ role: 'assistant', content: '' })}`],
  ['pass', `event: message\nid: 2\n${chunk({ content: 'Hi' })}`],
  ['pass', 'event: ping\n\n'],
  ['pass', `data: {"id":"1","choices":[{"index":0,"delta":{"content":"two lines"},\ndata: "finish_reason":null}]}\n\n`],
  ['pass', chunk({}, 'length')],
  ['usage', usageChunk],
  ['done', 'data:[DONE]\n\n'],
  ['done', ': bye\n\n']
]
const crlf = (parts: readonly Part[]): readonly Part[] => parts.map(([kind, event]) => [kind, event.replaceAll('\n', '\r\n')])

const whole: Readonly<
  Record<
    string,
    { readonly parts: readonly Part[]; readonly dialect?: 'openrouter'; readonly usage: Usage | null; readonly usageEvent?: string }
  >
> = {
  'OpenAI, text': { parts: openAiText, usage: counted },
  'OpenAI, tools': { parts: openAiTools, usage: counted },
  'OpenAI, a refusal, without usage': { parts: openAiRefusal, usage: null },
  'texts that look like markers': { parts: looksLikeMarkers, usage: counted },
  OpenRouter: {
    parts: openRouterText,
    dialect: 'openrouter',
    usage: { ...counted, providerNanoUsd: 12_340 },
    usageEvent: `data: ${JSON.stringify({ ...router, choices: [], usage: routerUsage })}\n\n`
  },
  vLLM: { parts: vllmText, usage: counted },
  'running figures': { parts: runningUsage, usage: counted },
  'other fields and several lines': { parts: withOtherFields, usage: counted },
  CRLF: { parts: crlf(openAiText), usage: counted },
  'a byte order mark': { parts: [['pass', `\ufeff${openAiText[0]?.[1]}`], ...openAiText.slice(1)], usage: counted }
}

function expected(parts: readonly Part[], kind: Part[0]): string {
  return parts
    .filter(([other]) => other === kind)
    .map(([, event]) => event)
    .join('')
}

function faultsOf(heard: Heard, { parts, usage, usageEvent }: (typeof whole)[string]): string[] {
  const faults: string[] = []
  const same = (found: unknown, wanted: unknown, what: string): void => {
    if (JSON.stringify(found) !== JSON.stringify(wanted))
      faults.push(`${what}: ${JSON.stringify(found)} instead of ${JSON.stringify(wanted)}`)
  }
  same(codeOf(heard.end), 'ok', 'end')
  same(passed(heard), expected(parts, 'pass'), 'passed on')
  same(heard.end?.ok === true ? String(heard.end.done ?? '') : null, expected(parts, 'done'), 'done')
  same(heard.usage, usage, 'usage')
  same(heard.usageEvent ?? '', usage === null ? '' : (usageEvent ?? expected(parts, 'usage')), 'usage event')
  same(heard.calls.slice(usage === null ? -1 : -2), usage === null ? ['end'] : ['usage', 'end'], 'order')
  same(heard.calls.filter(call => call === 'end' || call === 'usage').length, usage === null ? 1 : 2, 'once')
  if (heard.tokens === 0) faults.push('no token seen')
  return faults
}

t.test('a whole stream passes through as it came, but for its usage event, wherever it is cut', async t => {
  for (const [name, fixture] of Object.entries(whole)) {
    const { parts, dialect = 'openai' } = fixture
    const bytes = Buffer.from(parts.map(([, event]) => event).join(''))
    t.same(faultsOf(play([bytes], { dialect }), fixture), [], `${name}, whole`)
    t.same(
      faultsOf(
        play(
          parts.map(([, event]) => Buffer.from(event)),
          { dialect }
        ),
        fixture
      ),
      [],
      `${name}, event by event`
    )
    t.same(
      faultsOf(
        play(
          Array.from(bytes, (_, at) => bytes.subarray(at, at + 1)),
          { dialect }
        ),
        fixture
      ),
      [],
      `${name}, byte by byte`
    )
    const faults: string[] = []
    // Every place there is, also inside of a character.
    for (let at = 1; at < bytes.length; at++) {
      faults.push(
        ...faultsOf(play([bytes.subarray(0, at), bytes.subarray(at)], { dialect }), fixture).map(fault => `cut at ${at}: ${fault}`)
      )
    }
    t.same(faults.slice(0, 3), [], `${name}, cut at each of ${bytes.length} places`)
  }
})

t.test('a whole stream, cut into any number of pieces', async t => {
  const fixtures = Object.values(whole)
  fc.assert(
    fc.property(fc.constantFrom(...fixtures), fc.array(fc.nat(10_000), { maxLength: 8 }), (fixture, places) => {
      const bytes = Buffer.from(fixture.parts.map(([, event]) => event).join(''))
      const ends = [...new Set(places.map(place => place % bytes.length))].sort((a, b) => a - b)
      const pieces = [...ends, bytes.length]
        .map((end, index) => bytes.subarray(index === 0 ? 0 : ends[index - 1], end))
        .filter(piece => piece.length > 0)
      const faults = faultsOf(play(pieces, { dialect: fixture.dialect ?? 'openai' }), fixture)
      if (faults.length > 0) throw new Error(faults.join('; '))
    }),
    { numRuns: 3_000 }
  )
  t.pass()
})

t.test('lifecycle carries no token, and everything of the answer does', async t => {
  const cases: readonly [event: string, tokens: number][] = [
    [chunk({ role: 'assistant' }), 0],
    [chunk({ role: 'assistant', content: '', refusal: null }), 0],
    [chunk({ content: '' }), 0],
    [chunk({ content: null, tool_calls: [] }), 0],
    [chunk({}), 0],
    [processing, 0],
    ['event: ping\n\n', 0],
    ['data: {"id":"x","choices":[]}\n\n', 0],
    ['data: {"id":"x"}\n\n', 0],
    ['data: {}\n\n', 0],
    [chunk({ content: ' ' }), 1],
    [chunk({ role: 'assistant', content: 'x' }), 1],
    [chunk({ reasoning_content: 'x' }), 1],
    [chunk({ refusal: 'x' }), 1],
    [chunk({ tool_calls: [{ index: 0 }] }), 1],
    [chunk({ audio: { data: 'x' } }), 1],
    [chunk({}, 'stop'), 1]
  ]
  for (const [event, tokens] of cases) {
    const heard = begin()
    up(heard).head(200, sse)
    up(heard).data(Buffer.from(event))
    t.same([heard.tokens, passed(heard)], [tokens, event], event.slice(0, 200))
    heard.handle.abort()
  }
  const running = begin()
  up(running).head(200, sse)
  up(running).data(Buffer.from(spoken('a')))
  up(running).data(Buffer.from(spoken('b') + processing + spoken('c')))
  t.equal(running.tokens, 3, 'also in what passes unseen')
  running.handle.abort()
})

t.test('an answer is complete with its finish, or with a token and [DONE]', async t => {
  const role = chunk({ role: 'assistant', content: '' })
  const cases: readonly [name: string, stream: string, code: string, done: string][] = [
    ['finish and [DONE]', role + spoken('x') + chunk({}, 'stop') + done, 'ok', done],
    ['finish only', role + spoken('x') + chunk({}, 'stop'), 'ok', ''],
    ['[DONE] only', role + spoken('x') + done, 'ok', done],
    ['finish without any text', role + chunk({}, 'stop') + done, 'ok', done],
    ['[DONE] without its blank line', spoken('x') + chunk({}, 'stop') + done.trim(), 'ok', done.trim()],
    ['[DONE] with a space', `${spoken('x')}data: [DONE] \n\n`, 'ok', 'data: [DONE] \n\n'],
    ['finish without its blank line', spoken('x') + chunk({}, 'stop').trim(), 'ok', ''],
    ['something behind [DONE] without its end', `${spoken('x')}${chunk({}, 'stop')}${done}: bye`, 'ok', `${done}: bye`],
    ['figures and [DONE], but no finish', role + spoken('x') + usageChunk + done, 'ok', done],
    ['a tail that was cut off after the finish', `${spoken('x')}${chunk({}, 'stop')}data: {"choi`, 'ok', ''],
    ['neither', role + spoken('x'), 'upstream_broke', ''],
    ['a finish that was cut off', spoken('x') + chunk({}, 'stop').slice(0, -9), 'upstream_broke', ''],
    ['nothing but a role', role, 'upstream_unavailable', ''],
    ['[DONE] after nothing', done, 'upstream_unavailable', ''],
    ['[DONE] after a role', role + done, 'upstream_unavailable', ''],
    ['nothing but comments', processing, 'upstream_unavailable', ''],
    ['nothing', '', 'upstream_unavailable', '']
  ]
  for (const [name, stream, code, terminator] of cases) {
    const pieces = stream === '' ? [] : stream.split(/(?<=\n\n)/).map(piece => Buffer.from(piece))
    for (const given of [pieces, pieces.length === 0 ? [] : [Buffer.concat(pieces)]]) {
      const heard = play(given)
      t.equal(codeOf(heard.end), code, name)
      t.equal(heard.end?.ok === true ? String(heard.end.done ?? '') : '', terminator, name)
    }
  }
})

t.test('a last event without its blank line is passed on as a whole event', async t => {
  const heard = play([Buffer.from(spoken('x')), Buffer.from(chunk({}, 'stop').trimEnd())])
  t.equal(passed(heard), spoken('x') + chunk({}, 'stop'))
})

t.test('n answers are complete when all have finished', async t => {
  const two = { body: { n: 2 } }
  const of = (index: number, finish: string | null) => chunk({ content: 'x' }, finish, {}, index)
  t.equal(codeOf(play([Buffer.from(of(0, null) + of(1, 'stop'))], { changes: two }).end), 'upstream_broke')
  t.equal(codeOf(play([Buffer.from(of(0, 'stop') + of(0, 'stop'))], { changes: two }).end), 'upstream_broke', 'the same one twice')
  t.equal(codeOf(play([Buffer.from(of(0, 'stop') + of(1, 'length'))], { changes: two }).end), 'ok')
  t.equal(codeOf(play([Buffer.from(of(0, 'stop') + of(1, 'stop'))], { changes: two, close: 'reset' }).end), 'ok')
  t.equal(codeOf(play([Buffer.from(of(0, 'stop'))], { changes: two, close: 'reset' }).end), 'upstream_broke')
})

t.test('a connection that breaks after the end of an answer breaks nothing', async t => {
  const reset = { close: 'reset' as const }
  t.equal(codeOf(play([Buffer.from(spoken('x') + chunk({}, 'stop'))], reset).end), 'ok')
  const terminated = play([Buffer.from(spoken('x') + done)], reset)
  t.same([codeOf(terminated.end), terminated.end?.ok === true && String(terminated.end.done)], ['ok', done])
  const cut = play([Buffer.from(spoken('x'))], reset)
  t.match(failureOf(cut), { code: 'upstream_broke', cause: { code: 'ECONNRESET' } })
  const early = play([Buffer.from(chunk({ role: 'assistant' }))], reset)
  t.match(failureOf(early), { code: 'upstream_unavailable', cause: { code: 'ECONNRESET' } })
  t.equal(codeOf(play([Buffer.from(chunk({ role: 'assistant' }) + done)], reset).end), 'upstream_unavailable')
})

t.test('figures and a finish are seen however they are spaced, also alone in their piece', async t => {
  for (const spaces of ['', ' ', '\t', '  ']) {
    const spaced = (event: string) => event.replace(/"(usage|finish_reason)":(?=["{])/, `"$1"${spaces}:${spaces}`)
    const pieces = [spoken('x'), spoken('y'), spaced(chunk({}, 'stop')), spaced(usageChunk)].map(event => Buffer.from(event))
    const heard = play(pieces)
    t.equal(codeOf(heard.end), 'ok', 'without the end of the stream, the finish alone says so')
    t.equal(passed(heard), Buffer.concat(pieces.slice(0, 3)).toString())
    t.equal(heard.usageEvent, spaced(usageChunk))
    t.same(heard.usage, counted)
  }
})

// ---- failures inside a stream

const failed = (code: unknown, message = 'Provider returned error', more: object = {}) =>
  `data: ${JSON.stringify({ ...router, error: { code, message, ...more }, choices: [{ index: 0, delta: { content: '' }, finish_reason: 'error' }] })}\n\n`

t.test('an error before the first token is told as what it is, wherever it is cut', async t => {
  const cases: readonly [event: string, code: string, status: number][] = [
    [failed(429), 'upstream_rate_limited', 429],
    [failed('429'), 'upstream_rate_limited', 429],
    [failed(402), 'upstream_denied', 502],
    [failed(404), 'upstream_lacks_model', 404],
    [failed(503), 'upstream_unavailable', 503],
    [failed('server_error'), 'upstream_unavailable', 502],
    [failed(null), 'upstream_unavailable', 502],
    [failed(400, "This model's maximum context length is 8192 tokens"), 'context_length_exceeded', 400],
    [failed('context_length_exceeded'), 'context_length_exceeded', 400],
    ['data: {"error":"overloaded"}\n\n', 'upstream_unavailable', 502],
    ['event: error\ndata: {"error":{"message":"no"}}\n\n', 'upstream_unavailable', 502],
    [
      `data: ${JSON.stringify({ ...router, choices: [{ index: 0, delta: {}, finish_reason: null, error: { code: 503, message: 'x' } }] })}\n\n`,
      'upstream_unavailable',
      503
    ]
  ]
  for (const [event, code, status] of cases) {
    const bytes = Buffer.from(processing + routed({}) + event + done)
    const found = new Set<string>()
    for (let at = 0; at < bytes.length; at++) {
      const heard = play([bytes.subarray(0, at), bytes.subarray(at)].filter(piece => piece.length > 0))
      found.add(`${codeOf(heard.end)} ${failureOf(heard).status} ${heard.tokens}`)
      if (heard.line.aborted !== 1) found.add('the connection stays open')
    }
    t.same([...found], [`${code} ${status} 0`], event.slice(0, 150))
  }
})

t.test('an error after a token breaks the answer, and every token before it is passed on', async t => {
  const first = Buffer.from(routed({ content: 'one' }))
  const rest = Buffer.from(
    routed({ content: 'two' }) + processing + routed({ content: 'three' }) + failed(429, 'slow down') + routed({ content: 'never' }) + done
  )
  const faults: string[] = []
  for (let at = 0; at <= rest.length; at++) {
    const heard = play([first, rest.subarray(0, at), rest.subarray(at)].filter(piece => piece.length > 0))
    const told = passed(heard)
      .match(/"content":"(\w+)"/g)
      ?.join()
    if (told !== '"content":"one","content":"two","content":"three"') faults.push(`cut at ${at}: ${told}`)
    if (codeOf(heard.end) !== 'upstream_broke') faults.push(`cut at ${at}: ${codeOf(heard.end)}`)
    if (heard.tokens !== 3) faults.push(`cut at ${at}: ${heard.tokens} tokens`)
  }
  t.same(faults.slice(0, 3), [])
  const heard = play([first, rest])
  t.match(failureOf(heard).message, /slow down/)
  t.match(failureOf(heard).cause, { code: 'upstream_rate_limited' })
})

t.test('an error that says nothing else is seen in a running answer too', async t => {
  for (const event of [
    'data: {"error":{"message":"slow down","code":429}}\n\n',
    'data: {"error": "slow down"}\n\n',
    'data:{"id":"1","error":{}}\n\n'
  ]) {
    const heard = play([spoken('x'), spoken('y') + event, done].map(piece => Buffer.from(piece)))
    t.equal(codeOf(heard.end), 'upstream_broke', event)
    t.equal(passed(heard), spoken('x') + spoken('y'))
  }
})

t.test('figures never hold back text, and never go out unasked', async t => {
  const late = chunk({ content: 'late' }, null, { usage: figures })
  const heard = play([Buffer.from(spoken('x') + chunk({}, 'stop') + late + done)])
  t.equal(passed(heard), spoken('x') + chunk({}, 'stop') + late)
  t.same(heard.usage, counted)
  const unfinished = play([Buffer.from(spoken('x') + usageChunk + done)])
  t.equal(passed(unfinished), spoken('x'))
  t.equal(unfinished.usageEvent, usageChunk)
})

t.test('a token that came in one piece with the error was not seen by anybody: another target may answer', async t => {
  const heard = play([Buffer.from(routed({ content: 'one' }) + failed(503))])
  t.equal(codeOf(heard.end), 'upstream_unavailable')
  t.equal(passed(heard), '')
})

t.test('an error behind the finish changes nothing about the answer', async t => {
  const heard = play(
    [Buffer.from(routed({ content: 'one' })), Buffer.from(routed({}, 'length') + failed(400, 'Token limit reached') + done)],
    { dialect: 'openrouter' }
  )
  t.equal(codeOf(heard.end), 'ok')
  t.equal(passed(heard), routed({ content: 'one' }) + routed({}, 'length'))
})

t.test('what is no event of a chat is broken', async t => {
  const cases: readonly string[] = [
    'data: {"a":\n\n',
    'data: hello\n\n',
    'data: [1]\n\n',
    'data: {1}\n\n',
    'data: "x"\n\n',
    'data: null\n\n',
    'data: 5\n\n',
    'data:\n\n',
    'data: {"a":1}{"b":2\n\n',
    'data: <html>\n\n'
  ]
  for (const event of cases) {
    t.equal(codeOf(play([Buffer.from(event)]).end), 'upstream_unavailable', event)
    const late = play([Buffer.from(spoken('x')), Buffer.from(event)])
    t.equal(codeOf(late.end), 'upstream_broke', event)
    t.equal(passed(late), spoken('x'))
  }
})

t.test('an event without an end is not kept for ever', async t => {
  const heard = begin()
  up(heard).head(200, sse)
  const piece = Buffer.alloc(1024 * 1024, 'x')
  for (let index = 0; index < 20 && heard.end === null; index++) up(heard).data(piece)
  t.equal(codeOf(heard.end), 'upstream_unavailable')
  t.match(failureOf(heard).message, /larger than/)
  t.equal(heard.line.aborted, 1)
})

// ---- answers that are no streams

const completion = {
  id: 'chatcmpl-1',
  object: 'chat.completion',
  created: 1,
  model: 'm',
  choices: [{ index: 0, message: { role: 'assistant', content: 'Grüße 😀' }, finish_reason: 'stop' }],
  usage: figures
}

function answer(
  status: number,
  headers: Record<string, string>,
  body: string,
  changes: Changes = { stream: false },
  dialect: 'openai' | 'openrouter' = 'openai'
): Heard {
  const heard = begin(changes, dialect)
  up(heard).head(status, headers)
  const bytes = Buffer.from(body)
  for (let at = 0; at < bytes.length && heard.end === null; at += 7) up(heard).data(bytes.subarray(at, at + 7))
  if (heard.end === null) up(heard).end()
  return heard
}

t.test('a whole answer passes through as it came', async t => {
  const text = ` ${JSON.stringify(completion, null, 1)}\n`
  const heard = answer(200, json, text)
  t.same([heard.body, heard.usage, heard.usageEvent, heard.calls], [text, counted, null, ['usage', 'body', 'end']])
  t.strictSame(heard.end, { ok: true })
  const charged = answer(200, json, JSON.stringify({ ...completion, usage: routerUsage }), { stream: false }, 'openrouter')
  t.equal(charged.usage?.providerNanoUsd, 12_340)
  const uncounted = answer(200, { 'content-type': 'application/problem+json' }, JSON.stringify({ ...completion, usage: undefined }))
  t.same([uncounted.usage, uncounted.calls], [null, ['body', 'end']])
})

t.test('a success that is none is a failure', async t => {
  const cases: readonly [name: string, headers: Record<string, string>, body: string, code: string][] = [
    ['an error in a 200', json, '{"error":{"message":"no","code":429}}', 'upstream_rate_limited'],
    ['an error of one word', json, '{"error":"no"}', 'upstream_unavailable'],
    [
      'an error in a choice',
      json,
      JSON.stringify({ ...completion, choices: [{ error: { code: 502, message: 'x' } }] }),
      'upstream_unavailable'
    ],
    ['no choices', json, '{"object":"list"}', 'upstream_unavailable'],
    ['empty choices', json, '{"choices":[]}', 'upstream_unavailable'],
    ['no JSON', json, '{"choices":[', 'upstream_unavailable'],
    ['nothing', json, '', 'upstream_unavailable'],
    ['a list', json, '[]', 'upstream_unavailable'],
    ['HTML', { 'content-type': 'text/html' }, '<html>', 'upstream_unavailable'],
    ['a stream nobody asked for', sse, spoken('x') + chunk({}, 'stop') + done, 'upstream_unavailable'],
    ['no type', {}, JSON.stringify(completion), 'upstream_unavailable'],
    ['compressed', { ...json, 'content-encoding': 'gzip' }, JSON.stringify(completion), 'upstream_unavailable']
  ]
  for (const [name, headers, body, code] of cases) {
    const heard = answer(200, headers, body)
    t.equal(codeOf(heard.end), code, name)
    t.equal(heard.body, null, name)
    t.equal(passed(heard), '', name)
    t.equal(heard.end?.ok === false && heard.end.sent, true)
  }
  t.equal(codeOf(answer(200, { ...json, 'content-encoding': 'identity' }, JSON.stringify(completion)).end), 'ok')
})

t.test('one body for a stream is a failure, and may be told as one', async t => {
  t.match(failureOf(answer(200, json, JSON.stringify(completion), {})).message, /one JSON body/)
  t.equal(codeOf(answer(200, json, '{"error":{"code":402,"message":"pay"}}', {}).end), 'upstream_denied')
  t.equal(codeOf(answer(200, { 'content-type': 'text/html' }, '<html>', {}).end), 'upstream_unavailable')
  t.equal(codeOf(answer(200, { ...sse, 'content-encoding': 'br' }, spoken('x') + done, {}).end), 'upstream_unavailable')
})

t.test('an answer without an end is not kept for ever', async t => {
  const heard = begin({ stream: false })
  up(heard).head(200, json)
  const piece = Buffer.alloc(1024 * 1024, ' ')
  for (let index = 0; index < 70 && heard.end === null; index++) up(heard).data(piece)
  t.match(failureOf(heard), { code: 'upstream_unavailable' })
  t.equal(heard.line.aborted, 1)
  const refused = begin({ stream: false })
  up(refused).head(429, json)
  for (let index = 0; index < 70 && refused.end === null; index++) up(refused).data(piece)
  t.equal(codeOf(refused.end), 'upstream_rate_limited', 'an error is read as far as it matters')
  t.equal(refused.line.aborted, 1)
})

t.test('a status says more than the way its body ends', async t => {
  for (const stream of [true, false]) {
    const cut = begin({ stream })
    up(cut).head(429, { ...json, 'retry-after': '7' })
    up(cut).data(Buffer.from('{"error":{"mess'))
    up(cut).error(Object.assign(new Error('reset'), { code: 'ECONNRESET' }), true)
    t.match(failureOf(cut), { code: 'upstream_rate_limited', retryAfterMs: 7_000 })

    const silent = begin({ stream, upstream: { timeouts: { ...long, firstTokenMs: 5 } } })
    up(silent).head(401, json)
    await silent.ended
    t.equal(codeOf(silent.end), 'upstream_denied')
  }
})

// ---- the call itself

t.test('the call says what is asked, of whom, with which key', async t => {
  const heard = begin({ model: 'other', body: { future: 1.5 } })
  t.match(heard.line.request, {
    origin: 'http://up.example',
    path: '/v1/chat/completions',
    method: 'POST',
    headers: { authorization: 'Bearer k', 'content-type': 'application/json', 'x-client-request-id': 'attempt-1', 'x-extra': 'e' },
    connectMs: 1_000
  })
  t.same(JSON.parse(String(heard.line.request?.body)), {
    model: 'other',
    messages: [{ role: 'user', content: 'hello' }],
    stream: true,
    future: 1.5,
    stream_options: { include_usage: true }
  })
  heard.handle.abort()
  const keyless = begin({ upstream: { apiKey: null, baseUrl: 'https://h:8443' } })
  t.same([keyless.line.request?.origin, keyless.line.request?.path], ['https://h:8443', '/chat/completions'])
  t.notOk('authorization' in (keyless.line.request?.headers ?? {}))
  keyless.handle.abort()
})

t.test('usage is always asked for, unless the server refuses to be asked', async t => {
  const options = (changes: Changes) => JSON.parse(compatibleBody(attemptFor(changes), false).toString()).stream_options
  t.same(options({}), { include_usage: true })
  t.same(options({ body: { stream_options: { include_usage: false, include_obfuscation: false } } }), {
    include_usage: true,
    include_obfuscation: false
  })
  t.same(options({ body: { stream_options: null } }), { include_usage: true })
  t.equal(options({ stream: false }), undefined)
  t.equal(options({ upstream: { streamUsage: false } }), undefined)
  t.equal(
    options({ upstream: { streamUsage: false }, body: { stream_options: { include_usage: true } } }),
    undefined,
    'also when the client asks'
  )
  const asked = attemptFor({ body: { stream_options: { include_usage: true } } })
  t.equal(compatibleBody(asked, false), asked.request.body.bytes, 'to the byte')
})

t.test('a base URL is an origin and what comes before the path', async t => {
  t.same(originOf('http://h:1'), { origin: 'http://h:1', prefix: '' })
  t.same(originOf('https://h/api/v1'), { origin: 'https://h', prefix: '/api/v1' })
})

t.test('senseless figures are 0', async t => {
  t.same(usageFrom({}, 7), { promptTokens: 0, completionTokens: 0, cachedTokens: 0, reasoningTokens: 0, providerNanoUsd: 7, busyMs: null })
  t.same(
    usageFrom(
      { prompt_tokens: -5, completion_tokens: '9', prompt_tokens_details: [], completion_tokens_details: { reasoning_tokens: Number.NaN } },
      null
    ),
    { ...counted, promptTokens: 0, completionTokens: 0, cachedTokens: 0, reasoningTokens: 0 }
  )
  t.same([usageFrom({ prompt_tokens: 1e300 }, null).promptTokens, usageFrom({ prompt_tokens: 2.4 }, null).promptTokens], [1e9, 2])
})

t.test('a usage event is passed on in OpenAI’s form, whatever the upstream’s', async t => {
  const cases: readonly object[] = [{ usage: figures }, { choices: null, usage: figures }, { id: 'x', choices: [], usage: figures }]
  for (const one of cases) {
    const heard = play([Buffer.from(`${spoken('x')}${chunk({}, 'stop')}data: ${JSON.stringify(one)}\n\n${done}`)])
    t.same(JSON.parse(heard.usageEvent?.slice(6) ?? ''), { ...one, choices: [] })
    t.equal(passed(heard), spoken('x') + chunk({}, 'stop'))
  }
})

t.test('nothing could be sent: the failure says so', async t => {
  const refused = begin()
  up(refused).error(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }), false)
  t.match(refused.end, { ok: false, sent: false, error: { code: 'upstream_unavailable', cause: { code: 'ECONNREFUSED' } } })
  const heard = begin({ upstream: { baseUrl: 'no url' } })
  await heard.ended
  t.match(heard.end, { ok: false, sent: false, error: { code: 'internal_error' } })
})

t.test('an abort ends at once and once, and closes the connection', async t => {
  for (const sent of [true, false]) {
    const heard = begin()
    heard.line.sent = sent
    heard.handle.abort()
    heard.handle.abort()
    t.match(heard.end, { ok: false, sent, error: { code: 'client_gone' } })
    t.equal(heard.line.aborted, 1)
    up(heard).head(200, sse)
    up(heard).data(Buffer.from(spoken('x')))
    up(heard).end()
    up(heard).error(new Error('late'), true)
    t.same(heard.calls, ['end'])
  }
  const running = begin()
  up(running).head(200, sse)
  up(running).data(Buffer.from(chunk({ content: 'x' }, null, { usage: figures })))
  running.handle.abort()
  t.same(running.calls, ['frames', 'usage', 'end'], 'figures that are known are told')
})

t.test('an abort from within what is told ends once', async t => {
  for (const moment of ['frames', 'body', 'usage'] as const) {
    const line = createLine()
    const calls: string[] = []
    const stop = (what: string): true => {
      calls.push(what)
      if (what === moment) handle.abort()
      return true
    }
    const handle: AttemptHandle = createOpenAi({ outbound: line.outbound }).chat(attemptFor({ stream: moment === 'frames' }), {
      frames: () => stop('frames'),
      body: () => void stop('body'),
      usage: () => void stop('usage'),
      end: () => void stop('end')
    })
    line.upstream?.head(200, moment === 'frames' ? sse : json)
    line.upstream?.data(Buffer.from(moment === 'frames' ? spoken('x') + chunk({}, 'stop') + done : JSON.stringify(completion)))
    line.upstream?.end()
    t.equal(calls.filter(call => call === 'end').length, 1, moment)
    t.equal(calls.at(-1), 'end', moment)
  }
})

t.test('the reader’s pace reaches the connection, and its pause is no silence', async t => {
  let full = true
  const heard = begin({ upstream: { timeouts: { ...long, idleMs: 40 } } }, 'openai', () => !full)
  up(heard).head(200, sse)
  t.equal(up(heard).data(Buffer.from(spoken('x'))), false)
  await new Promise(resolve => setTimeout(resolve, 120))
  t.equal(heard.end, null)
  full = false
  heard.handle.resume()
  t.equal(heard.line.resumed, 1)
  t.equal(up(heard).data(Buffer.from(spoken('y'))), true)
  await heard.ended
  t.match(failureOf(heard), { code: 'upstream_broke', status: 504 })
})

t.test('silence has an end, and says which', async t => {
  const cases: readonly [name: string, timeouts: Partial<Timeouts>, stream: string, code: string, phase: RegExp][] = [
    ['no token', { firstTokenMs: 10 }, chunk({ role: 'assistant' }), 'upstream_unavailable', /first_token, 10 ms/],
    ['a pause', { idleMs: 10 }, spoken('x'), 'upstream_broke', /idle, 10 ms/],
    ['the whole, before a token', { totalMs: 10 }, '', 'upstream_unavailable', /total, 10 ms/],
    ['the whole, after a token', { totalMs: 10 }, spoken('x'), 'upstream_broke', /total, 10 ms/]
  ]
  for (const [name, timeouts, stream, code, phase] of cases) {
    const heard = begin({ upstream: { timeouts: { ...long, ...timeouts } } })
    up(heard).head(200, sse)
    if (stream !== '') up(heard).data(Buffer.from(stream))
    await heard.ended
    t.match(failureOf(heard), { code, status: 504, message: phase }, name)
    t.equal(heard.line.aborted, 1, name)
  }
  const finished = begin({ upstream: { timeouts: { ...long, idleMs: 10 } } })
  up(finished).head(200, sse)
  up(finished).data(Buffer.from(spoken('x') + chunk({}, 'stop')))
  await finished.ended
  t.equal(codeOf(finished.end), 'ok', 'after the finish it is no silence')
  const unsent = begin({ upstream: { timeouts: { ...long, firstTokenMs: 10 } } })
  unsent.line.sent = false
  await unsent.ended
  t.equal(unsent.end?.ok === false && unsent.end.sent, false, 'still connecting')
})

t.test('a whole answer that is on its way is not cut off by the time for its first token', async t => {
  const heard = begin({ stream: false, upstream: { timeouts: { ...long, firstTokenMs: 30 } } })
  up(heard).head(200, json)
  up(heard).data(Buffer.from('\n'))
  await new Promise(resolve => setTimeout(resolve, 90))
  t.equal(heard.end, null)
  up(heard).data(Buffer.from(JSON.stringify(completion)))
  up(heard).end()
  t.equal(codeOf(heard.end), 'ok')
})

t.test('a server that says [DONE] and does not close holds nobody up', async t => {
  const heard = play([Buffer.from(spoken('x') + chunk({}, 'stop') + usageChunk + done)], { close: 'none' })
  t.equal(heard.end, null, 'the end of the body may still bring something')
  await heard.ended
  t.same([codeOf(heard.end), heard.end?.ok === true && String(heard.end.done)], ['ok', done])
  t.same(heard.usage, counted)
  t.equal(heard.line.aborted, 1)
})
