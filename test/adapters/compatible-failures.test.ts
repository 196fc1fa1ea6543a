// Failures inside the stream of a compatible server.

import t from 'tap'
import { begin, codeOf, failureOf, passed, play, sse, up } from './compatible.ts'
import { chunk, counted, done, figures, processing, routed, router, spoken, usageChunk } from './compatible-events.ts'

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
