// Streams of compatible servers as providers write them, wherever they are cut.

import t from 'tap'
import type { Usage } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'
import { begin, codeOf, failureOf, type Heard, passed, play, sse, up } from './compatible.ts'
import { chunk, counted, done, figures, processing, routed, router, routerUsage, spoken, usageChunk } from './compatible-events.ts'

type Part = readonly [kind: 'pass' | 'usage' | 'done', event: string]

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
