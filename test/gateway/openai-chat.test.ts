import t from 'tap'
import { readChatRequest } from '../../gateway/dialects/openai-chat.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { ModelRequest } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'

type Json = Record<string, unknown>

const hello = { model: 'm', messages: [{ role: 'user', content: 'hello' }] }
const picture = { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } }

function read(body: unknown, localOnly = false): ModelRequest {
  return readChatRequest(Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)), { requestId: 'r1', localOnly }).request
}

function refusal(body: unknown): GatewayError {
  try {
    read(body)
  } catch (error) {
    if (error instanceof GatewayError) return error
    throw error
  }
  throw new Error(`taken: ${JSON.stringify(body)}`)
}

t.test('a plain request needs nothing special', async t => {
  const { body, ...request } = read(hello, true)
  t.same(request, {
    id: 'r1',
    operation: 'chat',
    model: 'm',
    stream: false,
    includeUsage: false,
    streamOptions: null,
    maxOutputTokens: null,
    needs: [],
    choices: 1,
    prompt: { low: 1, expected: 6 },
    longest: { low: 1, expected: 6 },
    input: null,
    embedding: null,
    localOnly: true
  })
  t.equal(body.bytes.toString(), JSON.stringify(hello))
})

t.test('what is wrong is named', async t => {
  const cases: readonly [body: unknown, param: string | null, code: string][] = [
    ['[]', null, 'invalid_request'],
    [{ messages: hello.messages }, 'model', 'missing_required_parameter'],
    [{ ...hello, model: null }, 'model', 'missing_required_parameter'],
    [{ ...hello, model: '' }, 'model', 'invalid_value'],
    [{ ...hello, model: 7 }, 'model', 'invalid_value'],
    [{ ...hello, model: 'm'.repeat(257) }, 'model', 'invalid_value'],
    [{ ...hello, model: 'gpt\u0000' }, 'model', 'invalid_value'],
    [{ ...hello, model: 'gpt\nx-key: 1' }, 'model', 'invalid_value'],
    [{ ...hello, model: 'gpt\u007f' }, 'model', 'invalid_value'],
    ['{"model":"gpt\\ud800","messages":[{"role":"user"}]}', 'model', 'invalid_value'],
    [{ model: 'm' }, 'messages', 'missing_required_parameter'],
    [{ ...hello, messages: [] }, 'messages', 'invalid_value'],
    [{ ...hello, messages: {} }, 'messages', 'invalid_value'],
    [{ ...hello, messages: 'hi' }, 'messages', 'invalid_value'],
    [{ ...hello, messages: ['hi'] }, 'messages[0]', 'invalid_value'],
    [{ ...hello, messages: [...hello.messages, { content: 'x' }] }, 'messages[1].role', 'invalid_value'],
    [{ ...hello, messages: [{ role: 'user', content: 5 }] }, 'messages[0].content', 'invalid_value'],
    [{ ...hello, messages: [{ role: 'user', content: ['x'] }] }, 'messages[0].content[0]', 'invalid_value'],
    [{ ...hello, messages: [{ role: 'user', content: [{ text: 'x' }] }] }, 'messages[0].content[0]', 'invalid_value'],
    [{ ...hello, messages: [{ role: 'assistant', tool_calls: {} }] }, 'messages[0].tool_calls', 'invalid_value'],
    [{ ...hello, messages: [{ role: 'user', content: [{ type: 'image_url' }] }] }, 'messages[0].content[0].image_url.url', 'invalid_value'],
    [
      { ...hello, messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'http://10.0.0.1/x' } }] }] },
      'messages[0].content[0].image_url',
      'invalid_request'
    ],
    [{ ...hello, stream: 'true' }, 'stream', 'invalid_value'],
    [{ ...hello, stream_options: true }, 'stream_options', 'invalid_value'],
    [{ ...hello, tools: {} }, 'tools', 'invalid_value'],
    [{ ...hello, max_tokens: 0 }, 'max_tokens', 'invalid_value'],
    [{ ...hello, max_tokens: 1.5 }, 'max_tokens', 'invalid_value'],
    [{ ...hello, max_completion_tokens: '5' }, 'max_completion_tokens', 'invalid_value'],
    [{ ...hello, n: 0 }, 'n', 'invalid_value'],
    [{ ...hello, n: 129 }, 'n', 'invalid_value'],
    [{ ...hello, n: 1.5 }, 'n', 'invalid_value'],
    [{ ...hello, logprobs: 1 }, 'logprobs', 'invalid_value'],
    [{ ...hello, response_format: 'json' }, 'response_format', 'invalid_value']
  ]
  for (const [body, param, code] of cases) {
    const error = refusal(body)
    t.same(
      [error.code, error.status, error.param, error.publicCode],
      ['invalid_request', 400, param, code],
      JSON.stringify(body).slice(0, 90)
    )
  }
})

t.test('what is missing in the way of null is left out', async t => {
  const nulls = [
    'stream',
    'stream_options',
    'tools',
    'max_tokens',
    'max_completion_tokens',
    'n',
    'logprobs',
    'response_format',
    'tool_choice',
    'modalities'
  ]
  t.same(read({ ...hello, ...Object.fromEntries(nulls.map(name => [name, null])) }).needs, [])
  t.same(read({ ...hello, messages: [{ role: 'assistant', content: null, tool_calls: null }] }).prompt.low, 0)
})

t.test('the name of a model is what the client wrote, in any letters and however they are escaped', async t => {
  for (const name of ['gpt-4o', 'größe', '模型:7b', 'a"b\\c', '😀']) {
    t.equal(read({ ...hello, model: name }).model, name)
    const escaped = name
      .replace(/[^\x20-\x7e]/g, unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
      .replaceAll('"', '\\u0022')
    t.equal(read(`{"model":"${escaped.replace('\\c', '\\\\c')}","messages":[{"role":"user"}]}`).model, name, escaped)
  }
  t.equal(read(`{"model":"é\\u00e9","messages":[{"role":"user"}]}`).model, 'éé', 'both ways at once')
})

t.test('the usage chunk is wanted only of a stream that asked for it', async t => {
  const cases: readonly [changes: Json, stream: boolean, includeUsage: boolean][] = [
    [{}, false, false],
    [{ stream: true }, true, false],
    [{ stream: true, stream_options: { include_usage: true } }, true, true],
    [{ stream: true, stream_options: { include_usage: 'yes' } }, true, false],
    [{ stream: true, stream_options: {} }, true, false],
    [{ stream: false, stream_options: { include_usage: true } }, false, false]
  ]
  for (const [changes, stream, includeUsage] of cases) {
    const request = read({ ...hello, ...changes })
    t.same([request.stream, request.includeUsage, request.streamOptions], [stream, includeUsage, changes.stream_options ?? null])
  }
})

t.test('the limit of the answer is the newer field, where both are given', async t => {
  t.equal(read({ ...hello, max_tokens: 5 }).maxOutputTokens, 5)
  t.equal(read({ ...hello, max_completion_tokens: 6 }).maxOutputTokens, 6)
  t.equal(read({ ...hello, max_tokens: 5, max_completion_tokens: 6 }).maxOutputTokens, 6)
  t.equal(read('{"model":"m","messages":[{"role":"user"}],"max_tokens":1e2}').maxOutputTokens, 100)
})

t.test('what the answer’s contract depends on is needed, a hint is not', async t => {
  const tools = [{ type: 'function', function: { name: 'f', parameters: {} } }]
  const withParts = (...parts: unknown[]): Json => ({ messages: [{ role: 'user', content: parts }] })
  const cases: readonly [changes: Json, needs: readonly string[]][] = [
    [{ n: 1 }, []],
    [{ n: 2 }, ['n']],
    [{ logprobs: false, top_logprobs: 3 }, []],
    [{ logprobs: true }, ['logprobs']],
    [{ tools: [] }, []],
    [{ tools }, ['tools']],
    [{ tools, tool_choice: 'auto' }, ['tools']],
    [{ tools, tool_choice: 'none' }, []],
    [{ tools, tool_choice: 'required' }, ['tools', 'forced_tool_choice']],
    [{ tools, tool_choice: { type: 'function', function: { name: 'f' } } }, ['tools', 'forced_tool_choice']],
    [{ response_format: { type: 'text' } }, []],
    [{ response_format: { type: 'json_object' } }, ['json_object']],
    [{ response_format: { type: 'json_schema', json_schema: {} } }, ['json_schema']],
    [{ modalities: ['text'] }, []],
    [{ modalities: ['text', 'audio'] }, ['audio']],
    [withParts({ type: 'text', text: 'x' }), []],
    [withParts(picture, picture), ['vision']],
    [withParts({ type: 'image_url', image_url: 'DATA:image/png;base64,AA' }), ['vision']],
    [withParts({ type: 'input_audio', input_audio: {} }), ['audio']],
    [withParts({ type: 'file', file: {} }), ['file']],
    [
      {
        logit_bias: { 1: 1 },
        user: 'u',
        metadata: {},
        store: true,
        service_tier: 'auto',
        seed: 1,
        reasoning_effort: 'low',
        unknown: { deep: [] }
      },
      []
    ]
  ]
  for (const [changes, needs] of cases) t.same(read({ ...hello, ...changes }).needs, needs, JSON.stringify(changes))
})

t.test('the prompt is as long as its texts, calls and tools, and a picture is no text', async t => {
  const prompt = (changes: Json) => read({ ...hello, ...changes }).prompt
  t.same(prompt({ messages: [{ role: 'user', content: 'x'.repeat(1_200) }] }), { low: 100, expected: 304 })
  t.same(prompt({ messages: [{ role: 'user', content: 'é'.repeat(600) }] }), { low: 100, expected: 304 }, 'bytes')
  t.same(prompt({ messages: [{ role: 'user', content: [{ type: 'text', text: 'x'.repeat(1_200) }] }] }), { low: 100, expected: 304 })
  const huge = { type: 'image_url', image_url: { url: `data:image/png;base64,${'A'.repeat(1_000_000)}` } }
  t.same(prompt({ messages: [{ role: 'user', content: [huge, huge] }] }), { low: 128, expected: 2_404 })
  const call = { id: '1', type: 'function', function: { name: 'f', arguments: 'x'.repeat(1_200) } }
  t.ok(prompt({ messages: [{ role: 'assistant', content: null, tool_calls: [call] }] }).expected > 300)
  t.ok(prompt({ tools: [call] }).expected > prompt({}).expected + 300)
  t.same(prompt({ messages: Array.from({ length: 10 }, () => ({ role: 'user', content: '' })) }), { low: 0, expected: 40 })
})

t.test('what we do not know travels on untouched', async t => {
  const text = '{ "model":"m", "future":[1.0,{"x":"\\u00e9"}], "messages":[{"role":"user","content":"é","new":1e2}] }'
  t.equal(read(text).body.bytes.toString(), text)
  t.equal(read(text).body.with({ model: 'n' }).toString(), text.replace('"m"', '"n"'))
})

t.test('no error says what was in a message', async t => {
  const canary = 'xyzzyq'
  const spoil = fc.constantFrom<unknown>(
    canary,
    { [canary]: canary },
    [canary],
    [[canary]],
    [{ type: canary, text: canary }],
    [{ type: 'image_url', image_url: canary }]
  )
  fc.assert(
    fc.property(
      fc.constantFrom(
        'model',
        'messages',
        'content',
        'stream',
        'n',
        'tools',
        'response_format',
        'max_tokens',
        'stream_options',
        'logprobs'
      ),
      spoil,
      (field, value) => {
        const body = field === 'content' ? { ...hello, messages: [{ role: 'user', content: value }] } : { ...hello, [field]: value }
        try {
          read(body)
          return true
        } catch (error) {
          return error instanceof GatewayError && !JSON.stringify(error.body()).includes(canary)
        }
      }
    )
  )
  t.pass()
})
