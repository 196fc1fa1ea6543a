// What a request says of its way: headers, OpenRouter's fields, and the beginnings of its conversation.

import t from 'tap'
import { readChatRequest } from '../../gateway/dialects/openai-chat.ts'
import { readCompletionRequest } from '../../gateway/dialects/openai-completions.ts'
import { readKnobs } from '../../gateway/knobs.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { ModelRequest } from '../../routing/types.ts'

type Json = Record<string, unknown>

const messages = [{ role: 'user', content: 'hello' }]

function read(more: Json, headers: Record<string, string> = {}): ModelRequest {
  return readChatRequest(Buffer.from(JSON.stringify({ model: 'm', messages, ...more })), readKnobs(headers, 'r')).request
}

function paramOf(act: () => unknown): string | null {
  try {
    act()
  } catch (error) {
    if (error instanceof GatewayError && error.status === 400) return error.param
    throw error
  }
  throw new Error('taken')
}

t.test('headers say what counts, what is too dear, and what a deadline means', async t => {
  t.same(readKnobs({}, 'r'), { requestId: 'r', localOnly: false })
  const deadline = { 'x-llm-mcp-deadline-ms': '5000' }
  const table: readonly (readonly [Record<string, string>, Json])[] = [
    [{ 'x-llm-mcp-route': ' Fast' }, { route: 'fast' }],
    [{ 'x-llm-mcp-max-cost-usd': '0.002' }, { maxUsd: 0.002 }],
    [{ 'x-llm-mcp-max-cost-usd': '2e-5' }, { maxUsd: 0.00002 }],
    [{ 'x-llm-mcp-max-cost-usd': '3' }, { maxUsd: 3 }],
    [{ 'x-llm-mcp-max-cost-usd': '1e+3' }, { maxUsd: 1_000 }],
    [{ 'x-llm-mcp-max-cost-usd': '1.5E1' }, { maxUsd: 15 }],
    [{ ...deadline, 'x-llm-mcp-deadline': 'HARD' }, { isDeadlineHard: true }],
    [{ ...deadline, 'x-llm-mcp-deadline': 'soft' }, {}],
    [{ 'x-llm-mcp-deadline': 'soft' }, {}],
    [{ 'x-llm-mcp-local-only': 'true' }, { localOnly: true }]
  ]
  for (const [headers, expected] of table) t.same(readKnobs(headers, 'r'), { requestId: 'r', localOnly: false, ...expected })
  const faults: readonly (readonly [string, string])[] = [
    ['x-llm-mcp-route', ''],
    ['x-llm-mcp-route', 'cost, fast'],
    ['x-llm-mcp-max-cost-usd', ''],
    ['x-llm-mcp-max-cost-usd', '0'],
    ['x-llm-mcp-max-cost-usd', '0.0'],
    ['x-llm-mcp-max-cost-usd', '-1'],
    ['x-llm-mcp-max-cost-usd', '$1'],
    ['x-llm-mcp-max-cost-usd', '1e400'],
    ['x-llm-mcp-max-cost-usd', 'Infinity'],
    ['x-llm-mcp-max-cost-usd', '0x10'],
    ['x-llm-mcp-max-cost-usd', '1e+-3'],
    ['x-llm-mcp-max-cost-usd', '+1'],
    ['x-llm-mcp-deadline', ''],
    ['x-llm-mcp-deadline', 'firm'],
    ['x-llm-mcp-deadline', 'hard']
  ]
  for (const [name, value] of faults)
    t.equal(
      paramOf(() => readKnobs({ [name]: value }, 'r')),
      name,
      `${name}: ${value}`
    )
})

t.test('a hard deadline needs one, from wherever it comes', async t => {
  t.match(readKnobs({ 'x-llm-mcp-deadline': 'hard' }, 'r', true), { isDeadlineHard: true })
  t.equal(
    paramOf(() => readKnobs({ 'x-llm-mcp-deadline': 'hard' }, 'r', false)),
    'x-llm-mcp-deadline'
  )
})

t.test('a parameter that is null is none that must be honoured', async t => {
  const provider = { require_parameters: true, order: null }
  t.same(read({ provider, user: null, seed: 1, stop: undefined }).preference?.parameters, ['model', 'messages', 'provider', 'seed'])
})

t.test('a header says more than the body, and that more than the name', async t => {
  t.equal(read({}).route, undefined)
  t.equal(read({ model: 'auto:cost' }).route, 'cost')
  t.equal(read({ model: 'auto:cost', provider: { sort: 'latency' } }).route, 'fast')
  t.equal(read({ model: 'auto:cost', provider: { sort: { by: 'price' } } }, { 'x-llm-mcp-route': 'balanced' }).route, 'balanced')
  t.equal((await readCompletionRequest(Buffer.from('{"model":"auto:fast","prompt":"x"}'), readKnobs({}, 'r'))).route, 'fast')
})

t.test('models are a list of fallbacks, also without a first one', async t => {
  t.equal(read({}).fallbacks, undefined)
  t.same(read({ models: ['a', 'm', 'b', 'a'] }).fallbacks, ['a', 'b'])
  const first = read({ model: undefined, models: ['größe', 'b'] })
  t.same([first.model, first.fallbacks, first.body.json().model], ['größe', ['b'], 'größe'])
  t.equal(read({ models: ['a'], provider: { sort: { by: 'price', partition: 'none' } } }).anyFallback, true)
  t.equal(
    paramOf(() => read({ model: undefined })),
    'model'
  )
  t.equal(
    paramOf(() => read({ models: Array(17).fill('m') })),
    'models'
  )
  t.equal(
    paramOf(() => read({ models: ['a', 'b\u0001'] })),
    'models[1]'
  )
})

t.test('what is for OpenRouter alone is told apart from what is kept here', async t => {
  const provider = {
    order: ['Azure'],
    allow_fallbacks: false,
    max_price: { prompt: '1', completion: 2, image: 3 },
    zdr: true,
    require_parameters: true,
    quantizations: ['fp8'],
    enforce_distillable_text: true,
    preferred_max_latency: { p90: 2 },
    novelty: 1,
    data_collection: null
  }
  t.same(read({ provider, seed: 1 }).preference, {
    order: ['azure'],
    only: [],
    ignore: [],
    allowFallbacks: false,
    maxPrice: { prompt: 1, completion: 2 },
    keepsNothing: true,
    requireParameters: true,
    parameters: ['model', 'messages', 'provider', 'seed'],
    brokered: ['provider.quantizations', 'provider.enforce_distillable_text'],
    hints: ['provider.preferred_max_latency', 'provider.novelty', 'provider.max_price.image'],
    given: provider
  })
  t.equal(read({ provider: null }).preference, undefined)
})

const long = 'word '.repeat(300)
const turn = (role: string, content: unknown) => ({ role, content })

t.test('a conversation has a link for each message, and shares those of its beginning', async t => {
  t.equal(read({}).prefix, undefined, 'one message')
  t.equal(read({ messages: [turn('user', 'a'), turn('user', 'b')] }).prefix, undefined, 'too short to save anything')
  const two = read({ messages: [turn('system', long), turn('user', 'a')] })
  const four = read({ messages: [turn('system', long), turn('user', 'a'), turn('assistant', 'b'), turn('user', 'c')] })
  t.match(two.prefix, [{ hash: /^[0-9a-z]+\.\d+$/, tokens: 379 }, { tokens: two.prompt.expected }])
  t.same(four.prefix?.slice(0, 2), two.prefix, 'what was read before is found again')
  t.equal(four.prefix?.at(-1)?.tokens, four.prompt.expected)
  const other = read({ messages: [turn('system', long), turn('user', 'x'), turn('assistant', 'b'), turn('user', 'c')] })
  t.same(
    other.prefix?.map(({ hash }, at) => hash === four.prefix?.[at]?.hash),
    [true, false, false, false],
    'after the first difference nothing is the same'
  )
  const roles = read({ messages: [turn('user', long), turn('user', 'a')] })
  t.not(roles.prefix?.[0]?.hash, two.prefix?.[0]?.hash)
  const tools = read({ messages: [turn('system', long), turn('user', 'a')], tools: [{ type: 'function', function: { name: 'f' } }] })
  t.not(tools.prefix?.[0]?.hash, two.prefix?.[0]?.hash, 'tools stand before all messages')
})

t.test('of a long message both its ends and its length tell it from others', async t => {
  const middle = (text: string) => `${'a'.repeat(600)}${text}${'z'.repeat(600)}`
  const first = (content: string) => read({ messages: [turn('system', content), turn('user', 'a')] }).prefix?.[0]?.hash
  const known = first(middle('one'))
  t.equal(first(middle('one')), known)
  t.not(first(middle('three')), known, 'another length')
  t.not(first(`b${middle('one').slice(1)}`), known, 'another beginning')
  t.not(first(`${middle('one').slice(0, -1)}y`), known, 'another end')
  t.equal(first(middle('two')), known, 'what lies between them is not read')
})

t.test('of a long conversation the first and the last 31 links are kept; pictures and calls tell messages apart', async t => {
  const many = read({ messages: [turn('system', long), ...Array.from({ length: 99 }, (_, at) => turn('user', `${at}`))] })
  t.equal(many.prefix?.length, 32)
  t.equal(many.prefix?.[0]?.tokens, 379)
  t.equal(many.prefix?.at(-1)?.tokens, many.prompt.expected)
  const tokens = many.prefix?.map(link => link.tokens) ?? []
  t.same(
    tokens,
    tokens.toSorted((one, other) => one - other)
  )
  const picture = (data: string) =>
    read({
      messages: [
        turn('system', long),
        turn('user', [
          { type: 'text', text: 'see' },
          { type: 'image_url', image_url: { url: `data:image/png;base64,${data}` } }
        ])
      ]
    })
  t.not(picture('AAAA').prefix?.at(-1)?.hash, picture('BBBB').prefix?.at(-1)?.hash)
  const called = (name: string) =>
    read({
      messages: [
        turn('system', long),
        { role: 'assistant', content: null, tool_calls: [{ id: '1', type: 'function', function: { name } }] }
      ]
    })
  t.not(called('f').prefix?.at(-1)?.hash, called('g').prefix?.at(-1)?.hash)
})
