import t from 'tap'
import { readCompletionRequest } from '../../gateway/dialects/openai-completions.ts'
import { readEmbeddingRequest } from '../../gateway/dialects/openai-embeddings.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { ModelRequest } from '../../routing/types.ts'

type Json = Record<string, unknown>

const knobs = { requestId: 'r1', localOnly: false }
const embed = (body: Json): Promise<ModelRequest> => readEmbeddingRequest(Buffer.from(JSON.stringify({ model: 'm', ...body })), knobs)
const complete = (body: Json): Promise<ModelRequest> => readCompletionRequest(Buffer.from(JSON.stringify({ model: 'm', ...body })), knobs)

async function refusal(request: Promise<ModelRequest>): Promise<GatewayError> {
  try {
    await request
  } catch (error) {
    if (error instanceof GatewayError) return error
    throw error
  }
  throw new Error('it was taken')
}

t.test('an input is a text, texts, tokens or lists of tokens', async t => {
  t.match(await embed({ input: 'hello' }), { operation: 'embed', input: { texts: ['hello'], asTokens: false }, choices: 1, needs: [] })
  t.same((await embed({ input: ['a', 'привет', '🙂'] })).input, { texts: ['a', 'привет', '🙂'], asTokens: false })
  // cl100k_base, by OpenAI's own tokenizer: "hello world" = 15339 1917.
  t.same((await embed({ input: [15339, 1917] })).input, { texts: ['hello world'], asTokens: true })
  t.same((await embed({ input: [[15339, 1917], [0]] })).input, { texts: ['hello world', '!'], asTokens: true })
  t.same((await embed({ input: [100257] })).input, { texts: ['<|endoftext|>'], asTokens: true }, 'special ones too')
})

t.test('encoding and dimensions are read, and float is OpenAI’s default', async t => {
  t.same((await embed({ input: 'x' })).embedding, { dimensions: null, encoding: 'float' })
  t.same((await embed({ input: 'x', encoding_format: 'base64', dimensions: 256 })).embedding, { dimensions: 256, encoding: 'base64' })
})

t.test('the whole is what it costs, the longest is what must fit', async t => {
  const { prompt, longest } = await embed({ input: ['a'.repeat(4_000), 'b'.repeat(400)] })
  t.same([prompt.expected, longest.expected], [1_100, 1_000])
  const tokens = await embed({ input: [Array.from({ length: 100 }, () => 0), [1]] })
  t.same([tokens.prompt.expected, tokens.longest.expected, tokens.longest.low], [101, 100, 50])
})

t.test('what is wrong with an embedding request is named', async t => {
  const cases: readonly [body: Json, param: string, code: string][] = [
    [{}, 'input', 'missing_required_parameter'],
    [{ input: null }, 'input', 'missing_required_parameter'],
    [{ input: '' }, 'input', 'invalid_value'],
    [{ input: [] }, 'input', 'invalid_value'],
    [{ input: {} }, 'input', 'invalid_value'],
    [{ input: 7 }, 'input', 'invalid_value'],
    [{ input: ['a', ''] }, 'input[1]', 'invalid_value'],
    [{ input: ['a', 5] }, 'input[1]', 'invalid_value'],
    [{ input: ['a', [1]] }, 'input[1]', 'invalid_value'],
    [{ input: [[1], 'a'] }, 'input[1]', 'invalid_value'],
    [{ input: [[1], []] }, 'input[1]', 'invalid_value'],
    [{ input: [[1.5]] }, 'input[0]', 'invalid_value'],
    [{ input: [[-1]] }, 'input[0]', 'invalid_value'],
    [{ input: [[100277]] }, 'input[0]', 'invalid_value'],
    [{ input: [[100256]] }, 'input[0]', 'invalid_value'],
    [{ input: [[100261]] }, 'input[0]', 'invalid_value'],
    [{ input: [1, 'a'] }, 'input[0]', 'invalid_value'],
    [{ input: Array.from({ length: 2_049 }, () => 'x') }, 'input', 'invalid_value'],
    [{ input: 'x', encoding_format: 'hex' }, 'encoding_format', 'invalid_value'],
    [{ input: 'x', dimensions: 0 }, 'dimensions', 'invalid_value'],
    [{ input: 'x', dimensions: '8' }, 'dimensions', 'invalid_value']
  ]
  for (const [body, param, publicCode] of cases) {
    t.match(await refusal(embed(body)), { code: 'invalid_request', param, publicCode }, JSON.stringify(body).slice(0, 60))
  }
  t.match((await embed({ input: Array.from({ length: 2_048 }, () => 'x') })).input?.texts.length, 2_048)
})

t.test('a completion needs what its fields ask for', async t => {
  t.match(await complete({ prompt: 'x' }), { operation: 'complete', needs: [], choices: 1, maxOutputTokens: 16, stream: false })
  t.match(await complete({ prompt: '' }), { input: { texts: [''] } })
  t.match(await complete({ prompt: ['a', 'b'], n: 2, stream: true, stream_options: { include_usage: true } }), {
    needs: ['n', 'prompts'],
    choices: 4,
    stream: true,
    includeUsage: true
  })
  t.same((await complete({ prompt: 'x', suffix: 'y', echo: true, logprobs: 2, best_of: 3, max_tokens: 5 })).needs, [
    'best_of',
    'echo_prompt',
    'logprobs',
    'suffix'
  ])
  t.same((await complete({ prompt: 'x', suffix: '', echo: false, logprobs: null, best_of: 1, n: 1 })).needs, [])
  t.same((await complete({ prompt: [15339, 1917] })).input, { texts: ['hello world'], asTokens: true })
})

t.test('what is wrong with a completion is named', async t => {
  const cases: readonly [body: Json, param: string][] = [
    [{}, 'prompt'],
    [{ prompt: [] }, 'prompt'],
    [{ prompt: 5 }, 'prompt'],
    [{ prompt: 'x', n: 0 }, 'n'],
    [{ prompt: ['a', 'b'], n: 65 }, 'n'],
    [{ prompt: 'x', n: 3, best_of: 2 }, 'best_of'],
    [{ prompt: 'x', logprobs: true }, 'logprobs'],
    [{ prompt: 'x', suffix: 5 }, 'suffix'],
    [{ prompt: 'x', stream: 'yes' }, 'stream'],
    [{ prompt: 'x', max_tokens: 0 }, 'max_tokens']
  ]
  for (const [body, param] of cases) t.match(await refusal(complete(body)), { code: 'invalid_request', param }, JSON.stringify(body))
})
